"""Bounds on distribution functions, and on the distances of two."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ..arrays import checks
from ..notions import Conditionals
from ..notions.cells import check_values, ordered_cdfs, pairwise_ks_distances
from . import cells, formulas
from .cells import Bound, Values
from .formulas import Number


class KSBounds(NamedTuple):
    """Bounds on distribution functions and their Kolmogorov-Smirnov distances.

    Attributes:
        bands: per cell, how far the sample's distribution function is from the true
            one at most, in [0, 1]: a simultaneous band for all scores.
        distances: per stratum and pair `(s, g, g)`.
        largest: per stratum `(s,)`.
    """

    bands: Float[Array, "s g"]
    distances: Bound
    largest: Bound


class RepairedKS(NamedTuple):
    """Bounds on the distance of groups after the randomised barycenter map.

    Attributes:
        mean: on the expectation over calibration samples, per pair of groups.
        high: on the distance itself with probability `confidence`, all pairs at once.
    """

    mean: Float[Array, "g g"]
    high: Float[Array, "g g"]


def dkw(
    scores: Values,
    cond: Conditionals,
    *,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> KSBounds:
    """Bounds on the distance of groups' score distributions, and on every threshold.

    The distribution function of each cell is within `e = sqrt(log(2 c k / (1 -
    confidence)) / 2 n)` of the sample's, everywhere and in all `c` cells at once, so
    the distance of two is within `e + e'` of that of the samples. The distance is the
    largest gap of selection rates over all thresholds: a threshold chosen on this
    sample is covered without further ado.

    Args:
        scores: real outputs of a model, ties included.
        cond: from a notion; all members of a cell have the same weight, so masks are
            welcome. (The constant of DKW holds for no others.)
        confidence: in (0, 1), traced.
        n_configurations: models among which one is chosen, traced.

    Returns:
        The bounds, in [0, 1]; both statements are one here, since distances follow
        from bands. Cost O(n log n + s g^2 n), memory O(s g n). Inside `jit`, a cell
        with unequal weights or a NaN has the whole range.

    Raises:
        ValueError: for scores that are not finite or not one per sample, unequal
            weights inside a cell, a confidence outside (0, 1), fewer than one
            configuration.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(2000) // 1000, n_groups=2)
        >>> found = dkw(jnp.arange(2000), cond)
        >>> print(found.bands.round(3), found.largest.low.round(3))
        [[0.047 0.047]] [0.906]

    References:
        Massart, *The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality*,
        Annals of Probability 1990: `P(sup |F_n - F| > e) <= 2 exp(-2 n e^2)`.
    """
    formulas.check_level(confidence, n_configurations)
    cells.check_finite(scores, cond, "scores")
    cells.check_alike(cond)
    return _dkw(jnp.asarray(scores), cond, 1 - confidence, n_configurations)


@jax.jit
def _dkw(
    scores: Values, cond: Conditionals, failure: Number, n_configurations: Number
) -> KSBounds:
    """`dkw` after its checks; one program."""
    cond = cells.widened(cond)
    scores = check_values(scores, cond, "scores")
    member, alike = cells.equal_members(cond)
    bad = (member & jnp.isnan(scores)[None, None]).any(axis=-1)
    known = cond.occupied & alike & ~bad

    n_cells, _, _ = cells.numbers_of(cond.occupied)
    log = formulas.log_shares(2 * n_cells, failure, n_configurations, scores.dtype)
    n = jnp.where(known, member.sum(axis=-1), 1).astype(scores.dtype)
    bands = formulas.hoeffding(1 / n, log, jnp.ones((), n.dtype))
    bands = jnp.where(known, jnp.minimum(bands, 1), 1)

    cdfs, last = ordered_cdfs(scores, cond)
    distances = pairwise_ks_distances(cdfs.astype(scores.dtype), last)
    distances = jnp.where(cells.both(cond.occupied), distances, 0)
    sure, off = cells.both(known), ~jnp.eye(n.shape[1], dtype=bool)[None]
    spare = jnp.where(off, cells.pairs(bands), 0)
    low = jnp.where(sure, jnp.maximum(distances - spare, 0), 0)
    high = jnp.where(sure, jnp.minimum(distances + spare, 1), jnp.where(off, 1.0, 0.0))
    bound = Bound(distances, low, high)
    return KSBounds(bands, bound, cells.largest_of(bound))


def repaired_ks(
    counts: Real[ArrayLike, " g"], *, confidence: Number = 0.95
) -> RepairedKS:
    """P2's guarantee: how far apart the randomised barycenter map can leave groups.

    With `m` and `m'` calibration rows for `F` in two groups, over the calibration data
    `E[KS] <= sqrt(pi / 2) (m^-1/2 + m'^-1/2)`, and `KS <= e + e'` for all pairs of `g`
    groups with probability `confidence`, where `e = sqrt(log(2 g / (1 - confidence)) /
    2 m)`. No labels, no assumption on the scores, atoms included. P2 proves the rate;
    `barycenters.fit_map` derives these constants. The distance is the true one of a map
    fitted with a `key`; to bound that of any other map, give `dkw` fresh rows.

    Args:
        counts: calibration rows that serve `F`, of equal weight:
            `jnp.diff(fitted.cdf)[:, 0]`.
        confidence: in (0, 1), traced.

    Returns:
        Both bounds, in [0, 1] and 0 on the diagonal; 1 for a group without rows.

    Raises:
        ValueError: for negative counts and a confidence outside (0, 1).

    Example:
        >>> found = repaired_ks(jnp.array([10_000, 10_000]))
        >>> print(f"{found.mean[0, 1]:.3f}, {found.high[0, 1]:.3f}")
        0.025, 0.030

    References:
        Chzhen et al. (P2), *Fair regression with Wasserstein barycenters*, NeurIPS
        2020.
    """
    formulas.check_level(confidence, 1)
    checks.check_nonnegative(counts, name="counts")
    m = cells.cast(counts, jax.dtypes.canonicalize_dtype(float))
    log = formulas.log_events(2 * m.size, confidence, 1, m.dtype)
    inverse = jnp.where(m > 0, 1 / jnp.where(m > 0, m, 1), jnp.inf)
    off = ~jnp.eye(m.size, dtype=bool)

    def of_pairs(each: Array) -> Array:
        return jnp.where(off, jnp.minimum(each[:, None] + each[None], 1), 0)

    mean = of_pairs(jnp.sqrt(np.pi / 2 * inverse))
    return RepairedKS(mean, of_pairs(jnp.sqrt(inverse * (log / 2))))
