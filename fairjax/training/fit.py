"""Training of one model, or of one per point of a sweep, by minibatch descent.

The loop is yours to write as well: `examples/training_loop.py` has it in twenty lines.
"""

import functools
import os
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Real

from .. import sweeps
from ..arrays import checks
from ..erm import Apply, Batch, Objective
from ..erm.losses import check_loss_labels
from ..sweeps import checkpoints, devices
from ..sweeps.batches import chunk_size, split_points
from .batches import Plan, stratified
from .program import Fit, Init, Training


def fit(
    apply: Apply,
    init: Init,
    train: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    epochs: int,
    lam: Real[Array | np.ndarray, "*m"] | float = 0.0,
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
    chunk: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> Fit:
    """Models that minimise `risk + lam * unfairness`, or the risk under a bound.

    `lam`, `tolerance` and `seed` are numbers, or arrays of one length m: then m models
    are trained, and every array of the result has a leading axis. `sweeps.grid` makes
    such arrays: `fit(..., **sweeps.grid(lam=[0.0, 1.0], seed=[0, 1]))`.

    Args:
        apply: `apply(params, features)` to scores (n,) or (n, 1), or to `erm.Outputs`;
            called with `tasks` as a third argument where the data have them. For Flax
            see `modules.functional`.
        init: from a key to parameters.
        train: training samples. Their weights are for full batches only.
        objective: from `erm.objective`.
        optimizer: any of optax; it is never changed during training.
        epochs: static; passes over the data.
        lam: at least 0, weight of the unfairness; in constraint mode, where its
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
        chunk: static; with `executor`, models per batch: a 32nd of all when absent.
        mesh: devices that share the models, as for `sweeps.run`, in one process or in
            several that `jax.distributed` has joined.
        executor: whose workers train batches of models, each on its default device;
            see `sweeps.map_batches`. The closures of optax need cloudpickle.
        progress: called as `progress(done, epochs)`; `sweeps.progress_bar`. With
            `executor` it counts batches of models.
        checkpoint: a directory. Training goes on from the last state saved there, or
            with `executor` from the batches that are finished, and ends as if never
            interrupted, to the last bit on the same device. One of other data, other
            options or another program, in which model, objective and optimizer are
            written out, is refused.
        tag: whatever else the result depends on, such as what host callbacks do; a
            checkpoint under another tag is refused.

    Returns:
        The trained parameters and their history. A point whose numbers are no longer
        finite stops with its last finite parameters. One trace and one compilation,
        whatever the number of points. Memory: that of one point under `mapped`.

    Raises:
        ValueError: for data of different lengths or not finite, codes out of range,
            a cell without members where groups are compared within tasks, a batch too
            small for its cells, weights or tolerances that are negative, arrays of
            different lengths, fewer models than devices, `mesh` and `executor` at
            once, scores that are not one per sample, a checkpoint of another training
            or that cannot be written, or one with a mesh that spans processes.

    Example:
        >>> from fairjax import datasets, erm, notions, penalties
        >>> data = erm.Batch(*map(jnp.asarray, datasets.toy().train))
        >>> objective = erm.objective(
        ...     loss=erm.logistic, notion=notions.equal_opportunity, n_groups=2,
        ...     on_scores=penalties.mean_gap_info)
        >>> found = fit(
        ...     lambda params, x: x @ params, lambda key: jnp.zeros(2), data,
        ...     objective=objective, optimizer=optax.adam(0.1), epochs=50,
        ...     lam=jnp.array([0.0, 1.0]))
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
    points, single = _points(lam, tolerance, seed)
    plan = None
    if batch_size is not None:
        plan = _plan(train, batch_size=batch_size, by_label=by_label)
    every = max(1, -(-epochs // 20)) if every is None else min(every, epochs)
    if strategy is None:
        strategy = sweeps.default_strategy()
    m = points["seed"].size
    size = m if executor is None else chunk_size(m, chunk, executor)
    if mesh is not None:
        mesh = devices.check_mesh(
            mesh, m, name="lam", checkpoint=checkpoint, executor=executor
        )
        size = -(-m // mesh.size) * mesh.size
    training = Training(
        apply=apply,
        init=init,
        objective=objective,
        optimizer=optimizer,
        epochs=epochs,
        patience=patience,
        constrained=tolerance is not None,
        validated=validation is not None,
        plan=plan,
        every=every,
        strategy=strategy,
        mesh=mesh,
    )
    data = (train, validation, jnp.asarray(dual_rate, jnp.float32))
    batches = split_points(points, m, size)
    with devices.without_context(mesh):
        manifest = {}
        if checkpoint is not None:
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
            options |= {} if executor is None else {"chunk": size}
            manifest = {name: str(value) for name, value in options.items()}
            manifest |= checkpoints.describe("points", points)
            manifest |= checkpoints.describe("data", data)
            manifest |= training.digests(data, points)
        if executor is None:
            whole = training.run(
                data,
                batches[0],
                checkpoint=checkpoint,
                manifest=manifest,
                progress=progress,
            )
            results = [whole]
        else:
            shapes = training.shapes(batches[0])
            store = checkpoints.Checkpoint(checkpoint, manifest, shapes, name="models")
            results = store.map_batches(
                functools.partial(training.run, data),
                batches,
                executor=executor,
                progress=progress,
            )
    return jax.tree.map(
        lambda *parts: jnp.asarray(
            parts[0][0] if single else np.concatenate(parts)[:m]
        ),
        *results,
    )


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


def _points(lam: Any, tolerance: Any, seed: Any) -> tuple[dict[str, Array], bool]:
    """Arrays of one length, and whether all of them were numbers."""
    given = {"lam": lam, "seed": seed}
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
    for name in ("lam", "tolerance"):
        if name in given:
            checks.check_nonnegative(given[name], name=name)
            checks.check_finite(given[name], name=name)
    m = longest or (1,)
    kinds = {"lam": jnp.float32, "tolerance": jnp.float32, "seed": jnp.int32}
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
