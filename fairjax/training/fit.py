"""Training: one `lax.scan` program for any model, objective and optimiser.

`fit` takes functions and pytrees. Strengths, tolerances and seeds are arrays, so one
compiled program trains every point of a sweep; what goes wrong at one point is a field
of the result and leaves its neighbours alone. `stratified_batches` gives mini-batches
in which a fairness penalty can see every group.

The loop is yours to write as well: `fit` uses nothing that is not public.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from .. import sweeps
from ..arrays import checks
from ..erm import Batch, Objective, Outputs, Parts, check_loss_labels
from ..sweeps import checkpoints, devices, fingerprints, processes
from .batches import Batches as Batches
from .batches import Plan, stratified
from .batches import stratified_batches as stratified_batches

Apply = Callable[..., Any]
Init = Callable[[Array], PyTree]


class History(NamedTuple):
    """One number per epoch, from its batches; NaN after the end of a point's training.

    Attributes:
        value: of the objective.
        risk: mean loss.
        penalty: unfairness, without its weight.
        missing: share of the pairs of groups that batches could not compare.
        converged: share of the batches in which an iterative divergence converged.
        validation: objective on the validation samples at the end of the epoch; NaN
            without any.
        multiplier: weight of the unfairness in that epoch.
    """

    value: Float[Array, "*m e"]
    risk: Float[Array, "*m e"]
    penalty: Float[Array, "*m e"]
    missing: Float[Array, "*m e"]
    converged: Float[Array, "*m e"]
    validation: Float[Array, "*m e"]
    multiplier: Float[Array, "*m e"]


class Fit(NamedTuple):
    """A trained model, or one per point of a sweep.

    Attributes:
        params: those of the best validation objective, or without validation those at
            the end; where training diverged, the last finite ones before.
        multiplier: last weight of the unfairness: the strength, or in constraint mode
            the dual variable, a warm start for a neighbouring tolerance.
        finite: False where a value, slope or parameter became NaN or infinite.
        epochs: how many were trained, fewer than asked for after an early stop.
        history: what happened meanwhile.
    """

    params: PyTree
    multiplier: Float[Array, "*m"]
    finite: Bool[Array, "*m"]
    epochs: Int[Array, "*m"]
    history: History


class _State(NamedTuple):
    """Everything that an exact resume needs."""

    params: PyTree
    optimizer: PyTree
    multiplier: Array  # of the unfairness
    peak: Array  # largest unfairness so far
    best: PyTree
    best_value: Array
    waited: Array  # epochs since the best
    running: Array
    finite: Array
    epochs: Array


class _Setting(NamedTuple):
    """What does not change between the points of a sweep, static for `jit`."""

    apply: Apply
    objective: Objective
    optimizer: optax.GradientTransformation
    epochs: int
    patience: int | None
    constrained: bool
    validated: bool


def fit(
    apply: Apply,
    init: Init,
    train: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    epochs: int,
    strength: Real[Array | np.ndarray, "*m"] | float = 0.0,
    tolerance: Real[Array | np.ndarray, "*m"] | float | None = None,
    dual_rate: float = 0.1,
    seed: Int[Array | np.ndarray, "*m"] | int = 0,
    batch_size: int | None = None,
    by_label: bool = True,
    clip: float | None = None,
    validation: Batch | None = None,
    patience: int | None = None,
    strategy: sweeps.Strategy | None = None,
    every: int | None = None,
    mesh: Mesh | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> Fit:
    """Minimises `risk + strength * unfairness`, or the risk under a bound.

    Strength, tolerance and seed are numbers, or arrays of one length m: then m models
    are trained, and every array of the result has a leading axis. `sweeps.grid` makes
    such arrays: `fit(..., **sweeps.grid(strength=[0.0, 1.0], seed=[0, 1]))`.

    Args:
        apply: `apply(params, features)` to scores (n,) or (n, 1), or to `erm.Outputs`;
            called with `tasks` as a third argument where the data have them. For Flax
            see `modules.functional`.
        init: from a key to parameters.
        train: training samples. Their weights are for full batches only.
        objective: from `erm.objective`.
        optimizer: any of optax; it is never changed during training.
        epochs: static; passes over the data.
        strength: at least 0, weight of the unfairness; in constraint mode, where its
            weight begins (a warm start).
        tolerance: asks for unfairness at most this much, in the penalty's units, by
            dual ascent: after each epoch the weight grows by `dual_rate` times the
            excess as a share of the largest unfairness so far, in units of risk per
            unfairness, and never falls below 0. A bound that binds is met after enough
            epochs only: look at `history.penalty`.
        dual_rate: step of the dual ascent, above 0. A large one swings about the bound,
            a small one is slow.
        seed: of the initial parameters and of the batches.
        batch_size: static; of stratified mini-batches. Absent: full batches.
        by_label: static; whether each class, and not only each group, has its places in
            a batch: right for classes, and to be switched off for real labels.
        clip: largest norm of the gradient.
        validation: samples whose objective picks the best epoch.
        patience: static; stop after so many epochs without a better one.
        strategy: `sweeps.mapped`, `sweeps.vmapped`, or your own; when absent mapped on
            CPUs, else vmapped.
        every: static; epochs per call of the program, between which progress is
            reported and saved. A twentieth of all when absent.
        mesh: devices that share the models, as for `sweeps.run`, in one process or in
            several that `jax.distributed` has joined.
        progress: called as `progress(done, epochs)`; `sweeps.progress_bar`.
        checkpoint: a directory. Training goes on from the last state saved there, and
            ends as if never interrupted, to the last bit on the same device. One of
            other data, other options or another program, in which model, objective and
            optimizer are written out, is refused.
        tag: whatever else the result depends on, such as what host callbacks do; a
            checkpoint under another tag is refused.

    Returns:
        The trained parameters and their history. A point whose numbers are no longer
        finite stops with its last finite parameters. One trace and one compilation,
        whatever the number of points. Memory: that of one point under `mapped`.

    Raises:
        ValueError: for data of different lengths or not finite, codes out of range,
            a cell without members where groups are compared within tasks, a batch too
            small for its cells, strengths or tolerances that are negative, arrays of
            different lengths, fewer models than devices, scores that are not one per
            sample, a checkpoint of another training or that cannot be written, or
            processes that differ.

    Example:
        >>> from fairjax import datasets, erm, notions, penalties
        >>> data = erm.Batch(*map(jnp.asarray, datasets.toy().train))
        >>> objective = erm.objective(
        ...     loss=erm.logistic, notion=notions.equal_opportunity, n_groups=2,
        ...     on_scores=penalties.mean_gap_info)
        >>> found = fit(
        ...     lambda params, x: x @ params, lambda key: jnp.zeros(2), data,
        ...     objective=objective, optimizer=optax.adam(0.1), epochs=50,
        ...     strength=jnp.array([0.0, 1.0]))
        >>> found.params.shape, bool(found.finite.all())
        ((2, 2), True)
        >>> bool(found.history.penalty[1, -1] < 0.1 * found.history.penalty[0, -1])
        True

    References:
        Oneto et al., NeurIPS 2020, section 4, for the penalised empirical risk; Cotter
        et al., *Two-player games for efficient non-convex constrained optimization*,
        ALT 2019, for the dual ascent.
    """
    _check_samples(train, objective, name="train")
    if validation is not None:
        _check_samples(validation, objective, name="validation")
    if patience is not None and validation is None:
        raise ValueError("`patience` needs `validation`, but that is None.")
    for name, count in (
        ("epochs", epochs),
        ("patience", patience),
        ("every", every),
        ("batch_size", batch_size),
    ):
        if count is not None and count < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {count}.")
    checks.check_nonnegative(dual_rate, name="dual_rate", positive=True)
    if clip is not None:
        checks.check_nonnegative(clip, name="clip", positive=True)
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    points, single = _points(strength, tolerance, seed)
    plan = None
    if batch_size is not None:
        plan = _plan(train, batch_size=batch_size, by_label=by_label)
    every = max(1, -(-epochs // 20)) if every is None else min(every, epochs)
    if strategy is None:
        on_cpu = jax.default_backend() == "cpu"
        strategy = sweeps.mapped if on_cpu else sweeps.vmapped
    setting = _Setting(
        apply,
        objective,
        optimizer,
        epochs,
        patience,
        tolerance is not None,
        validation is not None,
    )
    data = (train, validation, jnp.asarray(dual_rate, jnp.float32))
    m = points["seed"].size
    if mesh is not None:
        mesh = devices.check(mesh, m, name="strength")
        rows = np.minimum(np.arange(-(-m // mesh.size) * mesh.size), m - 1)
        points = {name: np.asarray(column)[rows] for name, column in points.items()}
    begin = functools.partial(_begin, setting, init)
    advance = functools.partial(_advance, setting, plan, every)
    with devices.apart(mesh):
        several = devices.several(mesh)
        manifest = {}
        if several or checkpoint is not None:
            options = {
                "batch_size": batch_size,
                "by_label": plan is not None and by_label,
                "clip": clip,
                "epochs": epochs,
                "every": every,
                "patience": patience,
                "strategy": getattr(strategy, "__name__", type(strategy).__name__),
                "tag": tag,
            }
            manifest = {name: str(value) for name, value in options.items()}
            manifest |= checkpoints.describe("points", points)
            manifest |= checkpoints.describe("data", data)
            manifest |= _programs(begin, advance, data, points)
        if several:
            saved = {"saved": str(checkpoint is not None)}
            digest = checkpoints.digest(manifest | saved)
            what = "points, data, options and programs of a training"
            processes.check_same(digest, what=what)
        if mesh is not None:
            data = jax.device_put(data, devices.everywhere(mesh))
        start = devices.program(lambda _, points: strategy(begin)(points), mesh)
        state = start((), points)
        state = state if mesh is None else jax.device_get(state)
        traced = devices.program(
            lambda data, state: strategy(functools.partial(advance, data))(state), mesh
        ).trace(data, (points, state))
        if manifest:
            manifest |= checkpoints.describe_form("state", traced.out_info)
        stored = checkpoints.Store(
            checkpoint, manifest, traced.out_info, part="epochs", several=several
        )
        histories, program = [], None
        for number, done in enumerate(range(0, epochs, every)):
            found = stored.load(number)
            if found is None:
                program = program or traced.lower().compile()
                found = jax.device_get(program(data, (points, state)))
                stored.save(number, found)
            state, history = found
            histories.append(history)
            if progress:
                progress(min(done + every, epochs), epochs)
    history = jax.tree.map(
        lambda *parts: np.concatenate(parts, axis=1)[:, :epochs], *histories
    )
    result = Fit(
        state.best if setting.validated else state.params,
        state.multiplier,
        state.finite,
        state.epochs,
        history,
    )
    return jax.tree.map(lambda a: jnp.asarray(a[0] if single else a[:m]), result)


def evaluate(apply: Apply, params: PyTree, batch: Batch) -> Outputs:
    """What a model says of samples, as objectives read it.

    Args:
        apply: as for `fit`.
        params: of one model.
        batch: samples; their tasks are passed on where there are any.

    Returns:
        Scores and representation.

    Raises:
        ValueError: for scores that are not one per sample.

    Example:
        >>> batch = Batch(jnp.eye(2), jnp.array([0, 1]), jnp.array([0, 1]))
        >>> evaluate(lambda w, x: x @ w, jnp.array([1.0, 2.0]), batch).scores.tolist()
        [1.0, 2.0]
    """
    extra = () if batch.tasks is None else (batch.tasks,)
    found = apply(params, batch.features, *extra)
    scores, hidden = found if isinstance(found, tuple) else (found, None)
    n = batch.features.shape[0]
    if scores.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"`apply` must return scores of shape ({n},) or ({n}, 1), but they have "
            f"shape {scores.shape}."
        )
    scores = scores.reshape(n)
    return Outputs(scores, scores[:, None] if hidden is None else hidden)


def _programs(
    begin: Callable[..., _State],
    advance: Callable[..., Any],
    data: tuple[Batch, Batch | None, Array],
    points: Mapping[str, Any],
) -> dict[str, str]:
    """What is done at one point, however many there are on however many devices."""
    point = {
        name: jax.ShapeDtypeStruct((), column.dtype) for name, column in points.items()
    }
    started, state = jax.make_jaxpr(begin, return_shape=True)(point)
    stepped = jax.make_jaxpr(advance)(data, (point, state))
    return {
        "program of the start": fingerprints.of_program(started),
        "program of an epoch": fingerprints.of_program(stepped),
    }


def _begin(setting: _Setting, init: Init, point: dict[str, Array]) -> _State:
    params = init(jax.random.fold_in(jax.random.key(point["seed"]), 0))
    params = jax.tree.map(jnp.asarray, params)
    return _State(
        params,
        setting.optimizer.init(params),
        point["strength"],
        jnp.float32(0),
        params,
        jnp.float32(jnp.inf),
        jnp.int32(0),
        jnp.array(True),
        jnp.array(True),
        jnp.int32(0),
    )


def _advance(
    setting: _Setting,
    plan: Plan | None,
    every: int,
    data: tuple[Batch, Batch | None, Array],
    start: tuple[dict[str, Array], _State],
) -> tuple[_State, History]:
    """Some epochs of one point."""
    train, validation, dual_rate = data
    point, state = start
    nothing = History(*[jnp.float32(jnp.nan)] * len(History._fields))

    def epoch(state: _State, _: None) -> tuple[_State, History]:
        weight = state.multiplier
        key = jax.random.fold_in(jax.random.key(point["seed"]), 1)
        key = jax.random.fold_in(key, state.epochs)
        if plan is None:
            state, logs = _step(setting, train, weight, state)
            logs = jax.tree.map(lambda a: a[None], logs)
        else:
            batches = plan.draw(key)

            def step(state, rows):
                return _step(setting, _take(train, *rows), weight, state)

            state, logs = jax.lax.scan(step, state, batches)
        value, parts = jax.tree.map(lambda a: a.astype(jnp.float32).mean(), logs)
        if setting.constrained:
            peak = jnp.maximum(state.peak, parts.penalty)
            excess = (parts.penalty - point["tolerance"]) / jnp.where(peak > 0, peak, 1)
            # A multiplier is loss per unfairness: so the rate is a plain number.
            unit = parts.risk / jnp.where(peak > 0, peak, 1)
            grown = jnp.maximum(weight + dual_rate * unit * excess, 0)
            usable = jnp.isfinite(grown) & state.finite
            state = state._replace(
                multiplier=jnp.where(usable, grown, weight),
                peak=jnp.where(usable, peak, state.peak),
            )
        checked = jnp.float32(jnp.nan)
        if validation is not None:
            outputs = evaluate(setting.apply, state.params, validation)
            checked = setting.objective(outputs, validation, weight)[0]
            checked = checked.astype(jnp.float32)
            better = checked < state.best_value
            state = state._replace(
                best=_where(better, state.params, state.best),
                best_value=jnp.where(better, checked, state.best_value),
                waited=jnp.where(better, 0, state.waited + 1),
            )
        state = state._replace(epochs=state.epochs + 1)
        running = state.finite & (state.epochs < setting.epochs)
        if setting.patience is not None:
            running &= state.waited < setting.patience
        state = state._replace(running=running)
        history = History(
            value=value,
            risk=parts.risk,
            penalty=parts.penalty,
            missing=parts.missing,
            converged=parts.converged,
            validation=checked,
            multiplier=weight,
        )
        return state, history

    def guarded(state: _State, _: None) -> tuple[_State, History]:
        return jax.lax.cond(
            state.running, lambda s: epoch(s, None), lambda s: (s, nothing), state
        )

    return jax.lax.scan(guarded, state, length=every)


def _step(
    setting: _Setting, batch: Batch, weight: Array, state: _State
) -> tuple[_State, tuple[Array, Parts]]:
    """One update, or none where it would not be finite."""

    def value(params: PyTree) -> tuple[Array, Parts]:
        return setting.objective(evaluate(setting.apply, params, batch), batch, weight)

    logs, slopes = jax.value_and_grad(value, has_aux=True)(state.params)
    # optax's arithmetic mixes dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, optimizer = setting.optimizer.update(
            slopes, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
    sound = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    finite = state.finite & jnp.isfinite(logs[0]) & jnp.stack(sound).all()
    state = state._replace(
        params=_where(finite, params, state.params),
        optimizer=_where(finite, optimizer, state.optimizer),
        finite=finite,
    )
    return state, logs


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _take(train: Batch, rows: Array, weights: Array) -> Batch:
    taken = jax.tree.map(lambda a: a[rows], train._replace(weights=None))
    return taken._replace(weights=weights)


def _plan(train: Batch, *, batch_size: int, by_label: bool) -> Plan:
    if train.weights is not None:
        raise ValueError(
            "`train.weights` must be None for mini-batches, whose weights say how many "
            "samples each place stands for. Leave out rows of weight 0, or train on "
            "full batches."
        )
    groups = np.asarray(train.groups)
    if train.tasks is not None:
        groups = groups + np.asarray(train.tasks) * (groups.max() + 1)
    labels = None
    if by_label:
        labels = np.asarray(train.labels)
        if labels.dtype.kind == "f":
            raise ValueError(
                "`by_label` needs classes, but the labels are real numbers. Pass "
                "`by_label=False` to give places to groups alone."
            )
    return stratified(groups, labels, batch_size=batch_size)


def _points(strength: Any, tolerance: Any, seed: Any) -> tuple[dict[str, Array], bool]:
    """Arrays of one length, and whether all of them were numbers."""
    given = {"strength": strength, "seed": seed}
    if tolerance is not None:
        given["tolerance"] = tolerance
    lengths = {name: np.shape(value) for name, value in given.items()}
    longest = max(lengths.values(), key=len)
    known = set(lengths.values()) <= {(), longest}
    if len(longest) > 1 or longest == (0,) or not known:
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in given)} must be numbers or arrays of "
            f"one length, but their shapes are {list(lengths.values())}. Make them "
            f"with `sweeps.grid`."
        )
    for name in ("strength", "tolerance"):
        if name in given:
            checks.check_nonnegative(given[name], name=name)
            checks.check_finite(given[name], name=name)
    m = longest or (1,)
    kinds = {"strength": jnp.float32, "tolerance": jnp.float32, "seed": jnp.int32}
    return {
        name: jnp.broadcast_to(jnp.asarray(value).astype(kinds[name]), m)
        for name, value in given.items()
    }, longest == ()


def _check_samples(batch: Batch, objective: Objective, *, name: str) -> None:
    n = np.shape(batch.features)[0]
    if not checks.concrete(batch):
        raise ValueError(
            f"`{name}` must be concrete: `fit` works from the host, epoch by epoch. "
            f"Inside `jit` write the loop yourself; it takes twenty lines."
        )
    checks.check_finite(batch.features, name=f"{name}.features")
    checks.check_finite(batch.labels, name=f"{name}.labels")
    for field in ("labels", "groups", "weights", "tasks"):
        values = getattr(batch, field)
        if values is not None:
            checks.check_length(
                values, n=n, name=f"{name}.{field}", to=f"{name}.features"
            )
    checks.check_groups(
        batch.groups, n_groups=objective.n_groups, name=f"{name}.groups"
    )
    check_loss_labels(
        objective.loss, batch.labels, weights=batch.weights, name=f"{name}.labels"
    )
    if objective.n_tasks is None or batch.tasks is None:
        return
    checks.check_groups(batch.tasks, n_groups=objective.n_tasks, name=f"{name}.tasks")
    if not objective.per_task:
        return
    occupied = np.asarray(objective.conditionals(batch).occupied)
    for row, group in np.argwhere(~occupied)[:1]:
        task, stratum = divmod(int(row), len(occupied) // objective.n_tasks)
        raise ValueError(
            f"`per_task` compares groups inside each task, but in `{name}` task {task} "
            f"has no member of group {group} in stratum {stratum}. Leave such tasks "
            f"out, or compare groups over all tasks together."
        )
