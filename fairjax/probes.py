"""Probes of a representation: how well somebody who looks can tell the groups apart."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Int, Key, Real, UInt32

from . import kernels, metrics, notions, solvers, sweeps
from .arrays import checks

_FEATURES = 256  # random features of the kernel probe
_RIDGE = 1e-3
_PRECISION = 1e-4  # relative gap of a probe: far below what resampling moves


class Probe(NamedTuple):
    """Success of one probe; in noise it is that of chance.

    Attributes:
        balanced_accuracy: mean over groups of the share that is recognised.
        balanced_accuracy_low: lower end of its interval.
        balanced_accuracy_high: upper end.
        auc: area under the curve, each group against the rest, mean over groups; 0.5
            is chance.
        auc_low: lower end of its interval.
        auc_high: upper end.
    """

    balanced_accuracy: Float[Array, ""]
    balanced_accuracy_low: Float[Array, ""]
    balanced_accuracy_high: Float[Array, ""]
    auc: Float[Array, ""]
    auc_low: Float[Array, ""]
    auc_high: Float[Array, ""]


class Leakage(NamedTuple):
    """Success of two probes that predict the sensitive attribute.

    Attributes:
        linear: a logistic probe of the representation.
        kernel: the same on random features of a Gaussian kernel.
        chance: balanced accuracy of guessing, 1 / n_groups.
    """

    linear: Probe
    kernel: Probe
    chance: float


def leakage(
    representation: Real[Array | np.ndarray, "n k"],
    groups: Int[Array | np.ndarray, " n"],
    *,
    n_groups: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
    n_folds: int = 5,
    draws: int = 200,
    level: float = 0.9,
) -> Leakage:
    """Success of predicting the sensitive attribute from a representation.

    Two probes learn to tell the groups apart on all folds but one, and are asked about
    that one: logistic regression on the representation, and on 256 random features of a
    Gaussian kernel with the median heuristic's bandwidth. Groups count alike, whatever
    their sizes.

    A probe that finds nothing proves nothing: another one may. Small samples blur
    leakage that is there, and never invent it beyond the interval.

    Args:
        representation: one row per sample; `scores[:, None]` for scores.
        groups: codes; every group needs `n_folds` members.
        n_groups: at least 2.
        key: of the folds, the random features and the resamples.
        n_folds: of the cross-validation, from 2.
        draws: bootstrap resamples of the answers behind the intervals.
        level: of the intervals, in (0, 1).

    Returns:
        Balanced accuracy and AUC of both probes, out of fold, with percentile
        intervals over resampled samples (the probes are not fitted again, so what
        varies with the training folds is not in them). Cost: `2 n_folds n_groups`
        logistic regressions, and `draws` sorts.

    Raises:
        ValueError: for input that is not finite, codes out of range, fewer than two
            groups, or a group with fewer than `n_folds` members.

    Example:
        >>> groups = jnp.arange(200) % 2
        >>> z = jax.random.normal(jax.random.key(0), (200, 2))
        >>> z = jnp.where(groups[:, None] == 1, z + 3, z)
        >>> found = leakage(z, groups, n_groups=2, key=jax.random.key(1), draws=20)
        >>> found.chance, bool(found.linear.auc > 0.99)
        (0.5, True)

    References:
        Rahimi, Recht, *Random features for large-scale kernel machines*, NeurIPS 2007;
        Madras et al., *Learning adversarially fair and transferable representations*,
        ICML 2018, for probes of representations.
    """
    z = jnp.asarray(representation)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(
            f"`representation` must have shape (n, k), but has shape {z.shape}. "
            f"Reshape scores with `scores[:, None]`."
        )
    n = z.shape[0]
    checks.check_finite(z, name="representation")
    checks.check_length(groups, n=n, name="groups", to="representation")
    checks.check_groups(groups, n_groups=n_groups)
    counts = np.bincount(np.asarray(groups), minlength=n_groups)
    if n_groups < 2 or counts.min() < n_folds:
        raise ValueError(
            f"`groups` must hold at least two groups with {n_folds} members each, one "
            f"per fold, but the groups have {counts.tolist()}. Merge small groups, or "
            f"choose fewer folds."
        )
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, but is {draws}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), but is {level}.")
    z = _standardised(z)
    codes = jnp.asarray(groups).astype(jnp.int32)
    fold_key, pair_key, feature_key, draw_key = jax.random.split(key, 4)
    folds = sweeps.folds(codes, codes, n_folds=n_folds, key=fold_key)
    width = kernels.median_heuristic(z, z, key=pair_key)
    width = jnp.where(width > 0, width, 1)
    kernel = functools.partial(kernels.gaussian, bandwidth=width)
    phi = kernels.features_for(kernel, z, n_features=_FEATURES, key=feature_key)
    scores = [
        _out_of_fold(features, codes, folds, n_groups, n_folds)
        for features in (z, phi(z))
    ]
    found = _success(
        jnp.stack(scores),
        codes,
        draw_key,
        n_groups=n_groups,
        draws=draws,
        level=jnp.asarray(level, float),
    )
    return Leakage(*found, chance=1 / n_groups)


def _out_of_fold(
    features: Float[Array, "n f"],
    codes: Int[Array, " n"],
    folds: Int[Array, " n"],
    n_groups: int,
    n_folds: int,
) -> Float[Array, "g n"]:
    """Scores of every group against the rest, by probes that have not seen the row."""
    rows = []
    # With two groups, the second one's score is minus the first one's.
    for group in range(n_groups if n_groups > 2 else 1):
        labels = codes == group
        scores = jnp.zeros(codes.shape, features.dtype)
        for fold in range(n_folds):
            train = folds != fold
            fit = solvers.fit_linear(
                features,
                labels,
                ridge=_RIDGE,
                precision=_PRECISION,
                weights=_balanced_weights(labels, train).astype(features.dtype),
            )
            scores = _fill_in(scores, train, features, fit)
        rows.append(scores)
    return jnp.stack(rows) if n_groups > 2 else jnp.stack([rows[0], -rows[0]])


@jax.jit
def _standardised(z: Real[Array, "n k"]) -> Float[Array, "n k"]:
    """Columns of mean 0 and deviation 1; a unit that never changes tells nothing."""
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    spread = z.std(axis=0)
    return (z - z.mean(axis=0)[None]) / jnp.where(spread > 0, spread, 1)[None]


@jax.jit
def _fill_in(
    scores: Float[Array, " n"],
    train: Bool[Array, " n"],
    features: Float[Array, "n f"],
    fit: solvers.LinearFit,
) -> Float[Array, " n"]:
    """The scores, with those of a probe for the rows that it has not seen."""
    own = jnp.matmul(features, fit.coefficients, precision=Precision.HIGHEST)
    return jnp.where(train, scores, own + fit.intercept)


@jax.jit
def _balanced_weights(labels: Bool[Array, " n"], train: Bool[Array, " n"]) -> Array:
    """Weights of the training rows that sum to one half for each label."""
    own, others = ((train & side).sum().astype(float) for side in (labels, ~labels))
    return jnp.where(train, jnp.where(labels, 0.5 / own, 0.5 / others), 0)


@functools.partial(jax.jit, static_argnames=("n_groups", "draws"))
def _success(
    scores: Float[Array, "2 g n"],
    codes: Int[Array, " n"],
    key: Array,
    *,
    n_groups: int,
    draws: int,
    level: Float[Array, ""],
) -> list[Probe]:
    """The measures of both probes, with intervals over the same resamples."""
    members = codes[None] == jnp.arange(n_groups)[:, None]
    # Resamples change weights only: scores are sorted once.
    order = jnp.argsort(scores, axis=-1)
    ranked = jnp.take_along_axis(scores, order, axis=-1)
    search = jax.vmap(jax.vmap(jnp.searchsorted))
    ties = search(ranked, ranked), search(ranked, jnp.nextafter(ranked, jnp.inf))
    areas = jax.vmap(jax.vmap(_area, (0, 0, 0, None)), (0, 0, None, None))

    def statistic(weights: Float[Array, " n"]) -> list[Array]:
        cond = notions.demographic_parity(codes, n_groups=n_groups, weights=weights)
        right = scores.argmax(axis=1) == codes[None]
        recalls = jax.vmap(metrics.group_means, in_axes=(0, None))(right, cond)
        balanced = recalls.sum(axis=(1, 2)) / cond.occupied.sum().astype(recalls.dtype)
        return [balanced, areas(order, ties, members, weights).mean(axis=1)]

    values = statistic(jnp.ones(codes.shape))
    low, high = metrics.bootstrap(
        statistic, n=len(codes), key=key, draws=draws, level=level
    )
    balanced, auc = (jnp.stack(own) for own in zip(values, low, high, strict=True))
    return [Probe(*balanced[:, probe], *auc[:, probe]) for probe in range(2)]


def _area(
    order: Int[Array, " n"],
    ties: tuple[Int[Array, " n"], Int[Array, " n"]],
    positive: Bool[Array, " n"],
    weights: Float[Array, " n"],
) -> Float[Array, ""]:
    """Share of pairs in which the positive scores higher; ties count one half."""
    mass = weights[order]
    positives = jnp.where(positive[order], mass, 0)
    # Negatives below each rank; ties of a sample lie from its first rank to its last.
    negatives = jnp.concatenate([jnp.zeros(1), jnp.cumsum(mass - positives)])
    first, last = ties
    pairs = positives.sum() * negatives[-1]
    area = (positives * (negatives[first] + negatives[last]) / 2).sum()
    return jnp.where(pairs > 0, area / jnp.where(pairs > 0, pairs, 1), 0.5)
