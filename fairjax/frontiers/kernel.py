"""The frontier of kernel machines, exact at every point."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Real

from .. import kernels, solvers, sweeps
from ..datasets import Dataset
from ..notions import Conditionals, Notion
from ..orthogonality import pairwise
from ..solvers import KernelFit, contrast_weights
from .driver import Fits, form_of, frontier_of, kept, sharing
from .frontier import (
    Frontier,
    Part,
    check_axis,
    check_selection,
    choose,
    compare,
    cross_validate,
    on_device,
    shares_of,
)
from .frontier import check as check_dataset

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
    mesh: Mesh | None = None,
    progress: sweeps.Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
        mesh: devices that share the points of each batch, as for `linear`.
        progress: called as `progress(done, n_folds + 1)` after each batch of fits.
        checkpoint: a directory that keeps each batch, as for `linear`.

    Returns:
        All points, bandwidths slowest, then ridges. `coefficients` belong to the
        training samples: give them to `solvers.predict`, in a `KernelFit`, or use
        `kernels` directly. Cost: tables of n x n for n training samples, three at a
        time, and for each point what `machine` says. Beyond some 10,000 samples take
        `kernels.features_for` and `linear`.

    Raises:
        ValueError: as `linear` does.

    Example:
        >>> from fairjax import datasets, notions
        >>> found = kernel(datasets.toy(n=120), notion=notions.equal_opportunity,
        ...     strengths=[1.0], n_folds=0)
        >>> found.strength.tolist(), bool(found.violation.max() < 1e-6)
        ([0.0, 1.0], True)

    References:
        Donini et al., NeurIPS 2018, sections 4 and 5.
    """
    check_selection(keep=keep, n_folds=n_folds)
    counts = check_dataset(dataset, notion=notion, n_folds=n_folds)
    if bandwidths is None and is_open(kernel):
        bandwidths = [median_bandwidth(dataset, seed)]
    points = _grid(strengths, ridges, bandwidths)
    train, test = on_device(dataset.train), on_device(dataset.test)
    compared = functools.partial(compare, notion=notion, n_groups=dataset.n_groups)
    shared = sharing(
        dataset,
        points,
        mesh=mesh,
        checkpoint=checkpoint,
        notion=notion,
        kernel=kernel,
        machine=machine,
        n_folds=n_folds,
        seed=seed,
    )
    done = progress or (lambda done, total: None)
    n = len(train.labels)
    form = functools.partial(
        form_of,
        len(points["strength"]),
        counts=counts,
        measured=train.features.dtype,
        fitted=np.float64,
        counted=np.int64,
    )

    def measured(
        rows: Int[np.ndarray, " r"],
        inside: Bool[np.ndarray, " n"],
        length: int,
        *parts: tuple[Part, Bool[np.ndarray, " _"]],
    ) -> Fits:
        own = {name: axis[rows] for name, axis in points.items()}
        machines = _Machines(kernel, machine, own, train, compared)
        fitted = machines.fit(inside, length)
        shares = []
        for part, chosen in parts:
            shares.append(machines.measure(fitted, part, chosen))
        return kept(shares, fitted.fit)

    everyone = np.ones(n, bool)
    both = ((train, everyone), (test, np.ones(len(test.labels), bool)))
    whole = shared.fit(
        lambda rows: measured(rows, everyone, n, *both),
        form(parts=2, width=n),
        part="whole",
    )
    done(1, n_folds + 1)
    cv_shares, cv_converged = whole.shares.T[:2], whole.converged
    if n_folds:
        length = n - n // n_folds

        def fold(inside: Bool[np.ndarray, " n"], number: int):
            part = shared.fit(
                lambda rows: measured(rows, inside, length, (train, ~inside)),
                form(parts=1, width=length),
                part="fold",
                number=number,
            )
            return part.shares.T[:2], part.converged

        cv_shares, cv_converged = cross_validate(
            train, fold, n_folds=n_folds, seed=seed, progress=done
        )
    return choose(
        frontier_of(
            whole,
            objective=whole.objective * points["ridge"],
            **points,
            cv_shares=cv_shares,
            cv_converged=cv_converged,
            counts=counts,
        ),
        keep=keep,
    )


def is_open(kernel: Callable[..., Array]) -> bool:
    """Whether a kernel needs a bandwidth that it has not."""
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


class _Fitted(NamedTuple):
    """Machines, and the samples that they were fitted on."""

    fit: KernelFit
    rows: Int[np.ndarray, " r"]


class _Machines(NamedTuple):
    """All points of a sweep, fitted on some samples of the training part."""

    kernel: Callable[..., Array]
    machine: Machine
    points: dict[str, np.ndarray]
    train: Part
    compare: Callable[[Part, Array], Conditionals]

    def fit(self, inside: Bool[np.ndarray, " n"], length: int) -> _Fitted:
        """Fits in two rounds: without bounds, then under shares of those gaps.

        Samples are filled up to a length with some that have no weight, so that folds
        share one program.
        """
        rows = np.flatnonzero(inside)
        n = len(rows)
        used = np.arange(length) < n
        rows = np.resize(rows, length)
        part = Part(*(column[rows] for column in self.train))
        cond = self.compare(part, jnp.asarray(used))
        run = functools.partial(
            self.machine,
            np.asarray(part.features),
            np.asarray(part.labels),
            kernel=self.kernel,
            cond=cond,
            weights=used,
        )
        strength = self.points["strength"]
        # Without a bandwidth that is NaN, which no other NaN equals.
        width = np.nan_to_num(self.points["bandwidth"])
        _, firsts, owner = np.unique(
            np.stack([width, self.points["ridge"]]),
            axis=1,
            return_index=True,
            return_inverse=True,
        )
        free = run(**self._settings(firsts, n), tolerance=np.inf)
        scores = self._scores(_Fitted(free, rows), part)
        gaps = scores @ contrast_weights(cond, pairwise, n=length).T
        gaps = gaps[owner.ravel()]
        bounds = np.maximum(1 - strength, 0)[:, None] * np.abs(gaps)
        # At strength 0 a bound holds with equality: rounding must not make it bind.
        bounds = np.where(strength[:, None] == 0, np.inf, bounds)
        every = np.arange(len(strength))
        fit = run(**self._settings(every, n), tolerance=bounds)
        return _Fitted(fit, rows)

    def measure(
        self, fitted: _Fitted, part: Part, weights: Bool[np.ndarray, " r"]
    ) -> Float[Array, "m c"]:
        """Shares of the decisions of every point, on samples with a weight."""
        mask = jnp.asarray(weights)
        decisions = jnp.asarray(self._scores(fitted, part) > 0)
        return _shares(decisions, part.labels, self.compare(part, mask), mask)

    def _scores(self, fitted: _Fitted, part: Part) -> Float[np.ndarray, "m r"]:
        train = np.asarray(self.train.features)[fitted.rows]
        features = np.asarray(part.features)
        return solvers.predict(fitted.fit, train, features, kernel=self.kernel)

    def _settings(self, which: Int[np.ndarray, " p"], n: int) -> dict[str, np.ndarray]:
        settings = {"c": 1 / (n * self.points["ridge"][which])}
        width = self.points["bandwidth"][which]
        return settings if np.isnan(width).any() else settings | {"bandwidth": width}


@jax.jit
def _shares(
    decisions: Bool[Array, "m r"],
    labels: Real[Array, " r"],
    cond: Conditionals,
    weights: Bool[Array, " r"],
) -> Float[Array, "m c"]:
    return jax.lax.map(lambda own: shares_of(own, labels, cond, weights), decisions)


def _grid(strengths: Any, ridges: Any, bandwidths: Any) -> dict[str, np.ndarray]:
    strength = np.union1d([0.0], check_axis(strengths, name="strengths"))
    if strength.max() > 1:
        raise ValueError(
            f"`strengths` of kernel machines must be in [0, 1], the share of a gap "
            f"that is removed, but hold {strength.max():g}."
        )
    ridge = np.unique(check_axis(ridges, name="ridges", positive=True).astype(float))
    width = np.array([np.nan])
    if bandwidths is not None:
        width = check_axis(bandwidths, name="bandwidths", positive=True).astype(float)
    axes = np.meshgrid(np.unique(width), ridge, strength, indexing="ij")
    names = ("bandwidth", "ridge", "strength")
    return {name: axis.ravel() for name, axis in zip(names, axes, strict=True)}
