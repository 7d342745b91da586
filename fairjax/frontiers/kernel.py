"""The frontier of kernel machines, exact at every point."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Real

from .. import kernels, solvers, sweeps
from ..datasets import Dataset, Samples
from ..notions import Notion
from ..orthogonality import pairwise
from ..solvers import KernelFit
from ..solvers.kernel.inputs import contrast_weights
from .driver import Compare, Part, describe_function, scalars, trace
from .frontier import Frontier
from .validation import check_axis, check_dataset

Machine = Callable[..., KernelFit]

_STRENGTHS = tuple(np.linspace(0, 1, 11))


def kernel(
    dataset: Dataset,
    *,
    notion: Notion,
    kernel: Callable[..., Float[Array, "n m"]] = kernels.gaussian,
    machine: Machine = solvers.fit_svm,
    strengths: Sequence[float | int] | Real[np.ndarray, " s"] = _STRENGTHS,
    ridges: Sequence[float | int] | Real[np.ndarray, " r"] = (1e-3,),
    bandwidths: Sequence[float | int] | Real[np.ndarray, " b"] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    keep: float = 0.9,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> Frontier:
    """Fits, measures and selects kernel machines over strengths of the constraint.

    As `linear` with the method `constraint`, in the feature space of a kernel: a
    strength s in [0, 1] bounds each gap of mean scores by `(1 - s) |g0_k|`, the
    share that is left of the gap of the machine without a bound; 1 is the paper's
    constraint.

    Args:
        dataset: from `datasets`, with labels 0 and 1.
        notion: a function of `notions`; binds the strata.
        kernel: a function of `kernels`, or your own.
        machine: `solvers.fit_svm` or `solvers.fit_logistic`.
        strengths: in [0, 1]; sorted, and 0 is added.
        ridges: weights of the ridge term, above 0, as for linear models: the price of
            the loss is `c = 1 / (n ridge)` for n samples.
        bandwidths: of the kernel, above 0; the median distance of two training
            samples when None. None also for a kernel whose bandwidth is bound, or that
            has none.
        n_folds: folds of the cross-validation, stratified on label and group. 0 means
            none: then the selection reads the training numbers, which flatters.
        seed: of the folds, and of the pairs whose median distance is taken.
        keep: settings with this share of the best accuracy are good enough, in (0, 1].
        chunk: points per batch, as for `linear`.
        mesh: devices of this process that share the points of each batch.
        executor: runs the batches, as for `linear`; kernel and machine must then be
            picklable too.
        progress: called as `progress(done, n_folds + 1)` after each batch.
        checkpoint: a directory that keeps each batch, as for `linear`; the kernel
            counts by its jaxpr.
        tag: as for `linear`.

    Returns:
        All points, bandwidths slowest, then ridges. `fit` is for `solvers.predict` with
        the training samples; `decide` does that. Cost: tables of n x n for n training
        samples, three at a time, and for each point what `machine` says. Beyond some
        10,000 samples take `kernels.features_for` and `linear`.

    Raises:
        ValueError: as `linear` does.

    Example:
        >>> from fairjax import datasets, notions
        >>> found = kernel(datasets.toy(n=120), notion=notions.equal_opportunity,
        ...     strengths=[1.0], n_folds=0)
        >>> found.strength.tolist(), bool(found.fit.violation.max() < 1e-6)
        ([0.0, 1.0], True)

    References:
        Donini et al., NeurIPS 2018, sections 4 and 5.
    """
    if bandwidths is None and needs_bandwidth(kernel):
        check_dataset(dataset, notion=notion, n_folds=n_folds)
        bandwidths = [median_bandwidth(dataset, seed)]
    found = trace(
        dataset,
        KernelModels(kernel, machine, n_folds),
        _grid(strengths, ridges, bandwidths),
        notion=notion,
        n_folds=n_folds,
        seed=seed,
        keep=keep,
        chunk=chunk,
        mesh=mesh,
        executor=executor,
        progress=progress,
        checkpoint=checkpoint,
        tag=tag,
    )
    # The machine's objective is the risk summed over the price of the loss.
    return found._replace(objective=found.objective * found.points["ridge"])


def needs_bandwidth(kernel: Callable[..., Array]) -> bool:
    """True for a kernel with a bandwidth that is not bound yet."""
    known = inspect.signature(kernel).parameters.get("bandwidth")
    return known is not None and known.default is inspect.Parameter.empty


def median_bandwidth(dataset: Dataset, seed: int) -> float:
    """The median distance of two training samples, to three digits."""
    features = dataset.train.features
    found = kernels.median_heuristic(features, features, key=jax.random.key(seed))
    if not found > 0:
        raise ValueError(
            f"`bandwidths` must be given for {dataset.name!r}: most of its training "
            f"samples coincide, so that their median distance is 0."
        )
    return float(f"{float(found):.3g}")


@jax.tree_util.register_static
@dataclass(frozen=True)
class KernelModels:
    """Kernel machines with a kernel, under shares of the gaps of the free machine."""

    kernel: Callable[..., Array]
    machine: Machine
    n_folds: int

    def fit(
        self,
        train: Part,
        used: Bool[np.ndarray, " n"],
        points: dict[str, np.ndarray],
        compare: Compare,
    ) -> KernelFit:
        """Machines of some points: without bounds, then under shares of those gaps.

        Of each fold, samples are filled up to the length of the longest with some that
        have no weight, so that folds share one program. Coefficients of samples that
        were not used are 0.
        """
        rows = np.flatnonzero(used)
        n, n_train = len(rows), len(used)
        length = n if n == n_train else n_train - n_train // self.n_folds
        weights = np.arange(length) < n
        rows = np.resize(rows, length)
        part = Part(*(column[rows] for column in train))
        cond = compare(part, jnp.asarray(weights))
        features = np.asarray(part.features)
        run = functools.partial(
            self.machine,
            features,
            np.asarray(part.labels),
            kernel=self.kernel,
            cond=cond,
            weights=weights,
        )
        settings = {"c": 1 / (n * points["ridge"])}
        settings |= {k: points[k] for k in ("bandwidth",) if k in points}
        _, firsts, owner = np.unique(
            np.stack([*settings.values()]),
            axis=1,
            return_index=True,
            return_inverse=True,
        )
        free = run(**{k: own[firsts] for k, own in settings.items()}, tolerance=np.inf)
        scores = solvers.predict(free, features, features, kernel=self.kernel)
        gap_weights = contrast_weights(cond, pairwise, n=length)
        gaps = (scores @ gap_weights.T)[owner.ravel()]
        strength = points["strength"][:, None]
        # At strength 0 a bound holds with equality: rounding must not make it bind.
        bounds = np.where(strength == 0, np.inf, (1 - strength) * np.abs(gaps))
        fit = run(**settings, tolerance=bounds)
        return fit._replace(
            coefficients=_scatter(fit.coefficients[:, :n], rows[:n], n_train),
            dual=_scatter(fit.dual[:, :n], rows[:n], n_train),
        )

    def fit_dtypes(self) -> Any:
        """Dtypes of what `fit` returns."""
        return scalars(KernelFit, np.float64, np.int64)

    def describe(self, train: Samples) -> dict[str, str]:
        """Lines of a manifest."""
        kernel, rows = self.kernel, train.features[:1]
        if needs_bandwidth(kernel):
            kernel = functools.partial(kernel, bandwidth=1.0)
        program = jax.make_jaxpr(kernel)(rows, rows)
        lines = describe_function("kernel", self.kernel, program)
        return lines | describe_function("machine", self.machine)

    def decide(
        self,
        fit: KernelFit,
        train: Float[Any, "n d"],
        features: Float[Any, "r d"],
    ) -> Bool[np.ndarray, "m r"]:
        """Decisions of every machine."""
        train, features = np.asarray(train), np.asarray(features)
        return solvers.predict(fit, train, features, kernel=self.kernel) > 0


def _scatter(
    values: Float[np.ndarray, "m r"], rows: Int[np.ndarray, " r"], n: int
) -> Float[np.ndarray, "m n"]:
    """Columns of some samples among those of all n; 0 elsewhere."""
    whole = np.zeros((len(values), n))
    whole[:, rows] = values
    return whole


def _grid(strengths: Any, ridges: Any, bandwidths: Any) -> dict[str, np.ndarray]:
    strength = np.union1d([0.0], check_axis(strengths, name="strengths"))
    if strength.max() > 1:
        raise ValueError(
            f"`strengths` of kernel machines must be in [0, 1], the share of a gap "
            f"that is removed, but hold {strength.max():g}."
        )
    ridge = np.unique(check_axis(ridges, name="ridges", positive=True).astype(float))
    axes = {"ridge": ridge, "strength": strength}
    if bandwidths is not None:
        width = check_axis(bandwidths, name="bandwidths", positive=True).astype(float)
        axes = {"bandwidth": np.unique(width)} | axes
    product = np.meshgrid(*axes.values(), indexing="ij")
    points = {name: axis.ravel() for name, axis in zip(axes, product, strict=True)}
    return {n: points[n] for n in ("strength", "ridge", "bandwidth") if n in points}
