"""The driver of all frontiers that are fitted in batches of points.

Such a frontier is a data set, a notion, a grid of points, and a family of models that
fits points and decides. A batch is some of the points, fitted without one fold of the
training part and measured on it, or fitted on all of it and measured on the test part.
Batches are independent of each other: an executor may run them anywhere, devices of
this process may share the points of each, and a directory keeps the finished ones. The
numbers are the same, up to rounding.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Real

from .. import metrics, sweeps
from ..datasets import Dataset, Samples
from ..notions import Conditionals, Notion
from ..sweeps import checkpoints, devices
from ..sweeps.batches import chunk_size, split_points
from .frontier import Frontier, Models, select_points
from .validation import check_dataset, check_selection


class Part(NamedTuple):
    """`datasets.Samples` on the device, in JAX's present precision."""

    features: Float[Array, "n d"]
    labels: Real[Array, " n"]
    groups: Int[Array, " n"]


Compare = Callable[[Part, Bool[Any, " n"]], Conditionals]


@runtime_checkable
class BatchModels(Models, Protocol):
    """A family of models whose solver fits a batch of points; it can be pickled."""

    def fit(
        self,
        train: Part,
        used: Bool[np.ndarray, " n"],
        points: dict[str, np.ndarray],
        compare: Compare,
    ) -> Any:
        """Models of some points, whose arrays have one entry per point.

        Args:
            train: the whole training part.
            used: the samples to fit on.
            points: settings.
            compare: the conditional distributions of samples with a weight.
        """
        ...

    def fit_dtypes(self) -> Any:
        """Dtypes of what `fit` returns, as scalars of `jax.ShapeDtypeStruct`."""
        ...

    def describe(self, train: Samples) -> dict[str, str]:
        """Lines of a manifest: what else the fits depend on."""
        ...


class Problem(NamedTuple):
    """The part that all batches of a frontier have in common; it can be pickled.

    Attributes:
        models: the family.
        points: settings of all points.
        train: training part.
        test: test part.
        notion: of the comparisons.
        n_groups: of the data set.
        folds: of each training sample.
        mesh: devices that share the points of a batch.
    """

    models: BatchModels
    points: dict[str, np.ndarray]
    train: Samples
    test: Samples
    notion: Notion
    n_groups: int
    folds: Int[np.ndarray, " n"]
    mesh: Mesh | None


class Batch(NamedTuple):
    """Some points on some training samples.

    Attributes:
        fold: held out; -1 for none.
        indices: of the points.
    """

    fold: int
    indices: Int[np.ndarray, " r"]


class BatchResult(NamedTuple):
    """Models and their measures.

    Attributes:
        measures: accuracy, gap and the rate of each cell, on the samples that the
            models were fitted on, and on others: those of the fold, or the test part.
        fit: the models.
    """

    measures: Float[np.ndarray, "r 2 c"]
    fit: Any


def trace(
    dataset: Dataset,
    models: BatchModels,
    points: dict[str, np.ndarray],
    *,
    notion: Notion,
    n_folds: int,
    seed: int,
    keep: float,
    chunk: int | None,
    mesh: Mesh | None,
    executor: Executor | None,
    progress: sweeps.Progress | None,
    checkpoint: str | os.PathLike[str] | None,
    tag: str,
) -> Frontier:
    """Fits, measures and selects the points of a grid; arguments as for `linear`."""
    check_selection(keep=keep, n_folds=n_folds)
    counts = check_dataset(dataset, notion=notion, n_folds=n_folds)
    m, train = len(points["strength"]), dataset.train
    size = chunk_size(m, chunk, executor)
    if mesh is not None:
        mesh = devices.check_mesh(mesh, m, executor=executor, checkpoint=checkpoint)
    folds = np.zeros(len(train.labels), int)
    if n_folds:
        key = jax.random.key(seed)
        folds = np.asarray(
            sweeps.folds(train.labels, train.groups, n_folds=n_folds, key=key)
        )
    problem = Problem(
        models, points, train, dataset.test, notion, dataset.n_groups, folds, mesh
    )
    batches = [
        Batch(fold, indices)
        for fold in range(-1, n_folds)
        for indices in split_points(np.arange(m), m, size)
    ]
    manifest = {}
    if checkpoint is not None:
        options = {"chunk": size, "n_folds": n_folds, "seed": seed, "tag": tag}
        manifest = _describe(problem) | {name: str(v) for name, v in options.items()}
        check_manifest(manifest, tag=tag)

    def report(done: int, n_batches: int) -> None:
        if progress:
            progress(done * (n_folds + 1) // n_batches, n_folds + 1)

    real = jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(float))
    shapes: list[Any] = [real, models.fit_dtypes()]
    results = checkpoints.Checkpoint(
        checkpoint, manifest, BatchResult(*shapes), name="batch"
    ).map_batches(
        functools.partial(fit_batch, problem),
        batches,
        executor=executor,
        progress=report,
    )
    per_fold = len(batches) // (n_folds + 1)
    whole, *without_fold = [
        jax.tree.map(
            lambda *parts: np.concatenate(parts)[:m], *results[at : at + per_fold]
        )
        for at in range(0, len(batches), per_fold)
    ]
    in_train, in_test = whole.measures.swapaxes(0, 1)
    cv, cv_converged = in_train, whole.fit.converged
    if n_folds:
        cv = np.mean([result.measures[:, 1] for result in without_fold], axis=0)
        cv_converged = np.all([result.fit.converged for result in without_fold], axis=0)
    return select_points(
        Frontier(
            points,
            *in_train[:, :2].T,
            *cv[:, :2].T,
            *in_test[:, :2].T,
            objective=whole.fit.objective,
            iterations=whole.fit.iterations,
            converged=whole.fit.converged,
            cv_converged=cv_converged,
            on_front=np.zeros(m, bool),
            selected=-1,
            unconstrained=-1,
            counts=counts,
            test_rates=in_test[:, 2:].reshape(m, *counts.shape[1:]),
            fit=whole.fit,
            models=models,
        ),
        keep=keep,
    )


def fit_batch(problem: Problem, batch: Batch) -> BatchResult:
    """Models of a batch, fitted and measured; on the devices of the mesh, if any."""

    def work(rows: Int[np.ndarray, " r"]) -> BatchResult:
        return _fit_points(problem, batch._replace(indices=batch.indices[rows]))

    with devices.without_context(problem.mesh):
        return devices.map_rows(work, len(batch.indices), problem.mesh)


def measure(
    decisions: Bool[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    weights: Bool[Array, " n"] | None,
) -> Float[Array, " c"]:
    """Accuracy and gap of a point on one part, and the rate of each cell."""
    accuracy = metrics.accuracy(decisions, labels, weights=weights)
    rates = metrics.group_means(decisions, cond)
    gap = metrics.max_gap(decisions, cond)
    return jnp.concatenate([jnp.stack([accuracy, gap]), rates.ravel()])


def _fit_points(problem: Problem, batch: Batch) -> BatchResult:
    train, test = (
        Part(jnp.asarray(part.features, float), *map(jnp.asarray, part[1:]))
        for part in (problem.train, problem.test)
    )
    compare = functools.partial(
        _compare, notion=problem.notion, n_groups=problem.n_groups
    )
    points = {name: axis[batch.indices] for name, axis in problem.points.items()}
    used = problem.folds != batch.fold
    fit = problem.models.fit(train, used, points, compare)
    other = (train, ~used)
    if batch.fold < 0:
        other = (test, np.ones(test.labels.shape, bool))
    measures = []
    for part, chosen in ((train, used), other):
        decisions = problem.models.decide(fit, train.features, part.features)
        weights = jnp.asarray(chosen)
        cond = compare(part, weights)
        measures.append(_measure_all(decisions, part.labels, cond, weights))
    return BatchResult(np.stack(measures, axis=1), fit)


@jax.jit
def _measure_all(
    decisions: Bool[Any, "m n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    weights: Bool[Array, " n"],
) -> Float[Array, "m c"]:
    return jax.lax.map(lambda own: measure(own, labels, cond, weights), decisions)


@functools.partial(jax.jit, static_argnames=("notion", "n_groups"))
def _compare(
    part: Part, weights: Bool[Any, " n"], *, notion: Notion, n_groups: int
) -> Conditionals:
    """The conditional distributions of a part that the notion compares."""
    return notion(part.groups, part.labels, n_groups=n_groups, weights=weights)


def _describe(problem: Problem) -> dict[str, str]:
    """Lines of a manifest: data, points, notion and family of a frontier."""
    train = problem.train
    notion = functools.partial(problem.notion, n_groups=problem.n_groups)
    program = jax.make_jaxpr(notion)(train.groups, train.labels)
    return {
        **describe_function("notion", problem.notion, program),
        "precision": str(jax.dtypes.canonicalize_dtype(float)),
        **problem.models.describe(train),
        **checkpoints.describe("points", problem.points),
        **checkpoints.describe("data", (train, problem.test)),
    }


def describe_function(
    name: str, function: Callable[..., Any], program: Any = None
) -> dict[str, str]:
    """Lines of a manifest: a function's own name, a digest, and what is bound to it."""
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        own = {f"[{i}]": value for i, value in enumerate(function.args)}
        bound = own | function.keywords | bound
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    line = f"{named.__module__}.{named.__qualname__}"
    lines = {name: f"{line} {checkpoints.program_digest(program)}" if program else line}
    for key, value in bound.items():
        if callable(value):
            lines |= describe_function(f"{name}.{key}", value)
        elif isinstance(value, str) or value is None:
            lines[f"{name}.{key}"] = repr(value)
        else:
            arrays = jax.tree.map(np.asarray, value)
            lines |= checkpoints.describe(f"{name}.{key}", arrays)
    return lines


def check_manifest(manifest: dict[str, str], *, tag: str) -> None:
    """Raises `ValueError` where names do not tell functions apart, and no tag does."""
    for name, line in manifest.items():
        if not tag and ("<lambda>" in line or "<locals>" in line) and " " not in line:
            raise ValueError(
                f"`checkpoint` needs a `tag`: the {name} is {line}, a name that other "
                f"functions may share. Define it at the top of a module, or give a tag "
                f"that changes when it does."
            )


def scalars(fit: Any, real: Any, count: Any) -> Any:
    """Dtypes of the fields of a solver's result, as `jax.ShapeDtypeStruct`."""
    dtypes = dict.fromkeys(fit._fields, real) | {"iterations": count, "converged": bool}
    return fit(*(jax.ShapeDtypeStruct((), dtype) for dtype in dtypes.values()))
