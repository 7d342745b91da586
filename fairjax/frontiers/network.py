"""The frontier of networks: the penalty acts on what the hidden layer knows."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree, Real

from .. import erm, metrics, notions, sweeps, training
from ..datasets import Dataset
from ..datasets.splits import stratified_split
from .driver import measure
from .frontier import Frontier, select_points
from .validation import check_axis, check_dataset, check_selection

_HELD_OUT = 0.2  # of the training samples, to select by


def network(
    dataset: Dataset,
    *,
    notion: notions.Notion,
    strengths: Sequence[float | int] | Real[np.ndarray, " s"],
    on_representation: erm.Penalty | None = None,
    on_scores: erm.Penalty | None = None,
    widths: Sequence[int] = (64,),
    epochs: int = 20,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    seed: int = 0,
    keep: float = 0.9,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Frontier:
    """Trains, measures and selects networks over strengths of a penalty.

    The hidden layers have tanh units. With `dataset.tasks` they are shared by all
    tasks, with a head for each. Real labels are learned with the squared loss, classes
    with the logistic one, by Adam on stratified mini-batches.

    Args:
        dataset: from `datasets`, with classes or real labels.
        notion: a function of `notions`; `demographic_parity` for real labels.
        strengths: weights of the penalty, at least 0; sorted, and 0 is added.
        on_representation: a penalty of the last hidden layer, such as
            `functools.partial(penalties.divergence_gap_info, divergence=...)`.
        on_scores: a penalty of the scores. At least one of the two is needed.
        widths: of the hidden layers.
        epochs: passes over the data.
        batch_size: samples in a batch. By default an eighth of them, but from 64 to 512
            (or all, where there are fewer): so small data have their steps, too.
        learning_rate: of Adam.
        seed: of the start, the batches and the held-out samples.
        keep: settings with this share of the best accuracy are good enough, in (0, 1].
        mesh: devices that share the networks, as for `sweeps.run`.
        executor: as for `training.fit`, whose workers train some networks each.
        progress: called as `progress(done, epochs)`.
        checkpoint: a directory from whose last epochs the training goes on; see
            `training.fit`.

    Returns:
        One point per strength. A fifth of the training samples, spread over groups and
        labels, is held out for the selection; networks learn from the others. Cost: one
        program for all strengths; see `training.fit`. A penalty on layers that tasks
        share does not bind what their heads add: where tasks differ in who belongs to
        them, scores differ between groups even if the representation does not. Where
        tasks are targets of the same samples, one held out for a task may be learned
        from for another, which makes the held-out numbers a little too good.

    Raises:
        ValueError: as `linear` does for the data, and as `training.fit` does.

    Example:
        >>> from fairjax import datasets, penalties
        >>> found = network(datasets.toy(n=200), notion=notions.demographic_parity,
        ...     on_scores=penalties.mean_gap_info, strengths=[1.0], epochs=1)
        >>> found.strength.tolist(), found.iterations.tolist()
        ([0.0, 1.0], [1, 1])

    References:
        Oneto et al., NeurIPS 2020; the selection is that of Donini et al., NeurIPS
        2018, section 5, by a held-out part.
    """
    if on_representation is None and on_scores is None:
        raise ValueError(
            "give `on_representation`, `on_scores` or both: a network without a "
            "penalty has no frontier."
        )
    check_selection(keep=keep)
    values = check_axis(strengths, name="strengths").astype(np.float32)
    strength = np.union1d(np.float32(0), values)
    counts = check_dataset(dataset, notion=notion, n_folds=0, regression=True)
    regression, tasks = dataset.is_regression, dataset.tasks
    learn, hold = _held_out(dataset, seed)
    shift, spread = 0.0, 1.0
    if regression:
        labels = dataset.labels[learn].astype(np.float64)
        shift, spread = labels.mean(), labels.std()
    parts = [
        _batch(dataset, rows, shift, spread)
        for rows in (learn, hold, ~dataset.is_train)
    ]
    width = dataset.features.shape[1]
    n_tasks = None if tasks is None else len(dataset.task_names)

    models = Networks(tuple(widths), n_tasks, regression)
    apply, init = models.functions(width)
    fit = training.fit(
        apply,
        init,
        parts[0],
        objective=erm.objective(
            loss=erm.squared if regression else erm.logistic,
            notion=notion,
            n_groups=dataset.n_groups,
            on_scores=on_scores,
            on_representation=on_representation,
            n_tasks=n_tasks,
        ),
        optimizer=optax.adam(learning_rate),
        epochs=epochs,
        lam=strength,
        seed=seed,
        batch_size=_batch_size(batch_size, int(learn.sum())),
        by_label=not regression,
        mesh=mesh,
        executor=executor,
        progress=progress,
        checkpoint=checkpoint,
    )
    learned, held_out, in_test = (
        np.asarray(_measure_all(apply, fit.params, part, notion, dataset))
        for part in parts
    )
    fit = jax.tree.map(np.asarray, fit)
    m = strength.size
    sound = fit.finite & (np.nanmin(fit.history.converged, axis=1) == 1)
    # On real labels nothing is decided: there are no rates.
    cells = (0, dataset.n_groups) if regression else counts.shape[1:]
    return select_points(
        Frontier(
            {"strength": strength},
            *learned[:, :2].T,
            *held_out[:, :2].T,
            *in_test[:, :2].T,
            objective=fit.history.value[np.arange(m), fit.epochs - 1],
            iterations=fit.epochs,
            converged=sound,
            cv_converged=sound,
            on_front=np.zeros(m, bool),
            selected=-1,
            unconstrained=-1,
            counts=counts,
            test_rates=in_test[:, 2:].reshape(m, *cells),
            fit=fit,
            models=models,
        ),
        keep=keep,
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class Networks:
    """Networks of tanh units, with one head or one per task."""

    widths: tuple[int, ...]
    n_tasks: int | None
    regression: bool

    def functions(self, n_features: int) -> tuple[Callable[..., Any], training.Init]:
        """The function that applies parameters, and the one that draws them."""
        from .. import modules

        def make(rngs: Any) -> Any:
            options = {"activation": jnp.tanh, "rngs": rngs}
            if self.n_tasks is None:
                return modules.MLP(n_features, self.widths, **options)
            return modules.SharedRepresentation(
                n_features, self.widths, n_tasks=self.n_tasks, **options
            )

        apply, init, _ = modules.functional(make)
        return apply, init

    def decide(
        self,
        fit: training.Fit,
        train: Float[Any, "n d"],
        features: Float[Any, "r d"],
    ) -> Bool[Array, "m r"]:
        """Decisions of every network; `train` is not needed."""
        del train
        if self.regression or self.n_tasks is not None:
            raise ValueError(
                "`frontier` must be of labels 0 and 1 and of one task, but its "
                "networks have real labels or a head for each task. Apply `fit.params`."
            )
        apply, _ = self.functions(features.shape[1])
        nothing = jnp.zeros(len(features), int)
        batch = erm.Batch(jnp.asarray(features), nothing, nothing)

        @jax.jit
        def decide_all(params: PyTree, batch: erm.Batch) -> Bool[Array, "m r"]:
            return jax.lax.map(
                lambda own: erm.evaluate(apply, own, batch).scores > 0, params
            )

        return decide_all(fit.params, batch)


def _batch_size(wanted: int | None, n: int) -> int | None:
    """None for full batches."""
    size = min(512, max(64, n // 8)) if wanted is None else wanted
    return size if size < n else None


def _held_out(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the samples to learn from, and of those to select by."""
    rows = np.flatnonzero(dataset.is_train)
    strata, labels = dataset.groups[rows], dataset.labels[rows]
    if dataset.tasks is not None:
        strata = strata + dataset.n_groups * dataset.tasks[rows]
    along = labels if dataset.is_regression else None
    if along is None:
        strata = 2 * strata + labels
    learned = stratified_split(strata, test_size=_HELD_OUT, seed=seed, along=along)
    learn, hold = np.zeros((2, dataset.is_train.size), bool)
    learn[rows[learned]], hold[rows[~learned]] = True, True
    return learn, hold


def _batch(
    dataset: Dataset, rows: np.ndarray, shift: float, spread: float
) -> erm.Batch:
    labels = dataset.labels[rows]
    if dataset.is_regression:
        labels = ((labels - shift) / spread).astype(np.float32)
    tasks = None if dataset.tasks is None else jnp.asarray(dataset.tasks[rows])
    return erm.Batch(
        jnp.asarray(dataset.features[rows]),
        jnp.asarray(labels),
        jnp.asarray(dataset.groups[rows]),
        tasks=tasks,
    )


def _measure_all(
    apply: Callable[..., Any],
    params: PyTree,
    part: erm.Batch,
    notion: notions.Notion,
    dataset: Dataset,
) -> Float[Array, "m c"]:
    """Accuracy and gap of every model, then the rates of decisions, if any."""
    cond = notion(part.groups, part.labels, n_groups=dataset.n_groups)

    def point(own: PyTree, batch: erm.Batch) -> Float[Array, " c"]:
        scores = erm.evaluate(apply, own, batch).scores
        if dataset.is_regression:
            error = jnp.mean(jnp.square(scores - batch.labels))
            explained = 1 - error / jnp.var(batch.labels)
            return jnp.stack([explained, metrics.ks_distance(scores, cond)])
        return measure(scores > 0, batch.labels, cond, None)

    @jax.jit
    def points(params: PyTree, batch: erm.Batch) -> Float[Array, "m c"]:
        return jax.lax.map(functools.partial(point, batch=batch), params)

    return points(params, part)
