"""Maps of scores to the barycenter of the groups, and how far to follow them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Real, Shaped, UInt32

from ..arrays import checks, ranks

_CACHED_ROWS = 2**20  # searches in larger tables are faster in sorted order


class BarycenterMap(NamedTuple):
    """A fitted map; a pytree of arrays whose shapes do not depend on values.

    `numpy.savez(path, **fitted._asdict())` saves it, and
    `BarycenterMap(**numpy.load(path))` reads it back.

    Attributes:
        scores: calibration scores, sorted inside each cell.
        ties: the jitter that orders equal scores; shape (0,) for a map without key.
        first: index of the first entry of the same cell and score.
        last: one after the last such index.
        mass: cumulative weight inside the cell, in integer units; shape (0,) when
            all weights are equal, and ranks are counts.
        cdf: bounds of each group's slice for `F`.
        quantile: bounds of each group's slice for `Q`; those of `cdf` without split.
        shares: group shares `p`; 0 for a group without members.
        sigma: half-width of the jitter [score].
        range: smallest and largest calibration score, between which results stay.
    """

    scores: Float[Array, " n"]
    ties: UInt32[Array, " t"]
    first: Int[Array, " n"]
    last: Int[Array, " n"]
    mass: Int[Array, " m"]
    cdf: Int[Array, "g 2"]
    quantile: Int[Array, "g 2"]
    shares: Float[Array, " g"]
    sigma: Float[Array, ""]
    range: Float[Array, "2"]


Variant = Callable[[BarycenterMap, Array, Array, Array], Array]


def fit_map(
    scores: Real[ArrayLike, " n"],
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Shaped[ArrayLike, " n"] | None = None,
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " n"] | None = None,
    sigma: float | Float[ArrayLike, ""] = 0.0,
    split: bool = True,
) -> BarycenterMap:
    """Learns the distributions of each group's scores from unlabelled calibration data.

    With a `key`, this is the paper's estimator: a random half of each group for `F`
    (the larger one), the other half for `Q`, and uniform jitter on both. Without, it is
    deterministic and every row serves both. A group with one member uses it for both
    in any case.

    The randomised map is fair whatever the law of the scores, atoms included. With
    `m` and `m'` rows for `F` in two groups, and expectations over the calibration data,
    `E[KS] <= sqrt(pi / 2) (m^-1/2 + m'^-1/2)`: given the data, the mapped scores of a
    group lie below any level with the chance of a uniform order statistic, whose
    distance from that level is at most the group's Kolmogorov distance, and that has
    the mean of the bound of Dvoretzky, Kiefer, Wolfowitz and Massart. About half of it
    is typical. (Derived here; the paper proves a bound of the same rate.) What is
    given up is precision on one sample: for a random forest on Communities and Crime
    (199 test rows), 200 keys have a median mean squared error of 0.0325 (quartiles
    0.0315 and 0.0335) and a median KS of 0.101 (0.092 and 0.118), the deterministic
    variants 0.0323 and 0.090, the unrepaired scores 0.0141 and 0.602.

    Args:
        scores: of any real predictor; probabilities too. The mapped scores are
            averages of these, so they stay in the same range. Numbers below the
            smallest normal one count as 0.
        groups: codes in `[0, n_groups)`; `notions.intersect` joins attributes.
        n_groups: static.
        weights: non-negative sample weights, or a mask. They count as repetitions.
        key: randomness for the split and the jitter.
        rows: 32-bit identifiers that own the jitter, by default the positions.
        sigma: half-width of the jitter [score], of which 12 binary digits are read. 0
            is its limit from above: jitter then orders equal scores and moves none, at
            any scale of the scores. Only read with a `key`.
        split: static. False keeps the jitter but uses each row for `F` and `Q`: twice
            the data, without the independence on which the paper's proof rests.

    Returns:
        The map. Inside `jit`: all predictions are NaN if a calibration score is not
        finite or a weight is negative, those of a group without members are NaN, and
        a row of unknown group belongs to no group.

    Raises:
        ValueError: for bad values, a group without members, or more than 2^25 rows
            (see `Sketch`). Cost O(n log n) time, O(n) memory; one 64-bit integer
            sort for float32 scores. Gradients and weights take a slower sort.

    Example:
        >>> fitted = fit_map(jnp.array([0.1, 0.3, 0.6, 0.8]), jnp.array([0, 0, 1, 1]),
        ...                  n_groups=2)
        >>> apply_map(fitted, jnp.array([0.1, 0.8]), jnp.array([0, 1])).round(2)
        Array([0.35, 0.55], dtype=float32)

    References:
        Chzhen, Denis, Hebiri, Oneto, Pontil, *Fair regression with Wasserstein
        barycenters*, NeurIPS 2020: the closed form of the fair optimum and its
        estimator, Algorithm 1.
    """
    n = np.shape(scores)[0]
    checks.check_length(scores, n=n, name="scores")
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    checks.check_finite(sigma, name="sigma")
    checks.check_nonnegative(sigma, name="sigma")
    if not 0 < n <= ranks.MAX_ROWS:
        raise ValueError(
            f"`scores` must hold 1 to {ranks.MAX_ROWS} rows, but holds {n}. "
            f"Feed larger data in chunks to `barycenters.update_sketch`."
        )
    scores = ranks.floating(scores)
    if weights is not None:
        checks.check_weights(weights, n=n)
        weights = ranks.constant(ranks.floating(weights).astype(scores.dtype))
    if checks.concrete(groups, weights):
        counted = None if weights is None else np.asarray(weights, float)
        missing = np.bincount(np.asarray(groups, int), counted, n_groups) == 0
        if missing.any():
            raise ValueError(
                f"`groups`: group {np.flatnonzero(missing)[0]} has no calibration row "
                f"of weight above 0. Re-encode with `np.unique(..., "
                f"return_inverse=True)`, merge small groups, or gather more data."
            )
    bits = halves = None
    if key is not None:
        rows = jnp.arange(n) if rows is None else jnp.asarray(rows)
        bits = ranks.random_bits(key, rows)
        halves = ranks.random_bits(jax.random.fold_in(key, 1), rows) if split else None
    sigma, groups = jnp.asarray(sigma, scores.dtype), ranks.codes(groups, n_groups)
    return _fit(scores, groups, weights, bits, halves, sigma, n_groups=n_groups)


def apply_map(
    map: BarycenterMap,
    scores: Real[ArrayLike, " k"],
    groups: Shaped[ArrayLike, " k"],
    *,
    repair: float | Float[ArrayLike, ""] = 1.0,
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " k"] | None = None,
    variant: Variant | None = None,
) -> Float[Array, " k"]:
    """Moves scores towards the barycenter, each row by itself.

    `repair` walks the Wasserstein-2 geodesic at constant speed: `(1 - t) f + t g`.
    With `U = excess_risk(map)`: the excess risk over the unfair optimum is `t^2 U`, the
    unfairness (share-weighted W2 variance of the groups) is `(1 - t)^2 U`, and every
    W1 and W2 distance between groups shrinks by `1 - t`. KS starts at its own value
    and ends at 0 but has no closed form between: groups that differ by a shift `d`
    have the KS of a shift `(1 - t) d`, which is large until the shift is small next
    to the spread. `t = 1 - sqrt(alpha)` is the optimum under "unfairness at most
    `alpha` times the unfair one" of Chzhen and Schreuder.

    Inside a group the order of scores is kept (exactly by `step`, to rounding by
    `interp`), and beyond the calibration range the map is constant. The mean over the
    population is kept: exactly for the true distributions, by the deterministic
    variants on the calibration rows to within (range of scores) x (largest share of
    one score in its group), which is small unless scores are tied.

    A row's result depends on its score, group, identifier and key. Identifiers matter
    only to a score equal to a calibration score (or `sigma > 0`): no function of score
    and group alone can divide an atom between two values, so equal rows are told
    apart by `rows`. Give record numbers if a record must get the same answer in
    another batch. The key and rows of the fit reproduce the jitter of the fit, so new
    rows should come with another key or other identifiers.

    Args:
        map: from `fit_map` or `fit_map_from_sketch`.
        scores: new scores of the same predictor.
        groups: their codes.
        repair: in `[0, 1]`, traced; 0 returns the scores, 1 the fair ones.
        key: the paper's jitter at prediction; the map must have a key as well.
        rows: 32-bit identifiers, by default the positions in this call.
        variant: `step` or `interp`; by default `step` with key, `interp` without.

    Returns:
        The scores after repair. Inside `jit`, NaN for exactly the rows with an unknown
        group, a group without calibration rows, or a score that is not finite.

    Raises:
        ValueError: outside `jit` for those rows, for `repair` outside `[0, 1]`, and
            for a key with a map that has none. Cost O(k (log n + g)) time, O(k)
            memory; next to a table of more than 2^20 rows also one integer sort of the
            rows, in whose order the searches stay in the cache.

    References:
        Chzhen et al., NeurIPS 2020, Algorithm 1; Chzhen, Schreuder, *A minimax
        framework for quantifying risk-fairness trade-off in regression*, Annals of
        Statistics 2022.
    """
    map = BarycenterMap(*(jnp.asarray(field) for field in map))  # a loaded one too
    n, n_groups = np.shape(scores)[0], map.shares.shape[0]
    checks.check_length(scores, n=n, name="scores")
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    checks.check_fraction(repair, name="repair")
    if checks.concrete(map.cdf, groups):
        empty = np.diff(np.asarray(map.cdf))[:, 0] == 0
        bad = np.flatnonzero(empty[np.asarray(groups, int)])
        if bad.size:
            raise ValueError(
                f"groups[{bad[0]}] = {np.asarray(groups)[bad[0]]} is a group without "
                f"calibration rows. Fit the map on data that hold this group."
            )
    if key is not None and not map.ties.shape[0]:
        raise ValueError(
            "`key` asks for jitter, but the map was fitted without. Pass `key` to "
            "`fit_map` too, or to neither."
        )
    ties = jnp.full(n, ranks.LAST_TIE, jnp.uint32)
    inputs = outputs = ranks.floating(scores).astype(map.scores.dtype)
    if key is not None:
        bits = ranks.random_bits(
            key, jnp.arange(n) if rows is None else jnp.asarray(rows)
        )
        inputs, ties = ranks.jitter(inputs, map.sigma, bits)
    variant = variant or (interp if key is None else step)
    repair = jnp.asarray(repair, map.scores.dtype)
    codes = ranks.codes(groups, n_groups)
    return _apply(map, inputs, outputs, codes, ties, repair, variant=variant)


def step(
    map: BarycenterMap,
    scores: Float[Array, " k"],
    groups: Int[Array, " k"],
    ties: UInt32[Array, " k"],
) -> Float[Array, " k"]:
    """`Q_r(F_s(x))` with the empirical `F` and its generalised inverse, averaged.

    `F_s(x)` is the share of group `s` at or below `x`, `Q_r(u)` the smallest score of
    group `r` with `F_r >= u`. Ranks are integers, so no quantile is off by one.
    A variant for `apply_map`, which checks the values; constant in `scores` between
    calibration scores, so its gradient reaches calibration scores alone.
    """
    table = _table(map)
    start, stop = map.cdf[groups, 0], map.cdf[groups, 1]
    at = ranks.position(table, scores, ties, start, stop)
    rank = ranks.mass_before(table, at, start)
    total = ranks.mass_before(table, stop, start)

    def value(begin, end):
        size = ranks.mass_before(table, end, begin)
        whole, rest = ranks.proportion(rank, size, total)
        target = jnp.maximum(jnp.where(rest > 0, whole + 1, whole), 1)
        return ranks.gather(map.scores, ranks.locate(table, target - 1, begin, end))

    return _average(map, value, scores)


def interp(
    map: BarycenterMap,
    scores: Float[Array, " k"],
    groups: Int[Array, " k"],
    ties: UInt32[Array, " k"],
) -> Float[Array, " k"]:
    """`Q_r(F_s(x))` with both piecewise linear through the mid-ranks, averaged.

    `F_s` passes through (score, mean of its left and right limit) for each distinct
    calibration score, `Q_r` is the inverse of `F_r`, both constant outside. The result
    is continuous in `scores` and almost everywhere differentiable in them and in the
    calibration scores. Ties are not read. A variant for `apply_map`.
    """
    del ties
    table = _table(map)
    start, stop = map.cdf[groups, 0], map.cdf[groups, 1]
    every = jnp.full(scores.shape, ranks.LAST_TIE, jnp.uint32)
    position = ranks.position(table, scores, every, start, stop)
    below = jnp.clip(position - 1, start, stop - 1)
    above = jnp.clip(position, start, stop - 1)
    # The block of equal scores below ends at `position`, where the one above begins.
    begin, end = ranks.gather(map.first, below), ranks.gather(map.last, above)
    rank = ranks.mass_before(table, begin, start)
    rank += ranks.mass_before(table, jnp.where(position > start, position, end), start)
    jump = ranks.mass_before(table, end, start)
    inner = jnp.where(position < stop, position, begin)
    jump += ranks.mass_before(table, inner, start) - rank
    left, right = ranks.gather(map.scores, below), ranks.gather(map.scores, above)
    ahead = ranks.fraction(scores, left, right) * jump.astype(scores.dtype)
    total = ranks.mass_before(table, stop, start)
    mass = jnp.maximum(total, 1).astype(scores.dtype)

    def value(begin, end):
        size = ranks.mass_before(table, end, begin)
        # Twice the rank in this group is whole + excess, `whole` without rounding.
        whole, rest = ranks.proportion(rank, size, total)
        excess = (rest.astype(mass.dtype) + ahead * size.astype(mass.dtype)) / mass
        carry = lax.stop_gradient(jnp.floor(excess))
        level = whole + carry.astype(jnp.int32)
        at = ranks.locate(table, level // 2, begin, end)
        first, last = ranks.gather(map.first, at), ranks.gather(map.last, at)
        lower = ranks.mass_before(table, first, begin)
        upper = ranks.mass_before(table, last, begin)
        after = level >= lower + upper
        other = jnp.where(
            after, jnp.minimum(last, end - 1), jnp.maximum(first - 1, begin)
        )
        outer = jnp.where(
            after, ranks.gather(map.last, other), ranks.gather(map.first, other)
        )
        span = jnp.abs(
            ranks.mass_before(table, outer, begin) - jnp.where(after, lower, upper)
        )
        past = (level - lower - upper).astype(mass.dtype) + (excess - carry)
        part = jnp.where(after, past, -past) / jnp.maximum(span, 1).astype(mass.dtype)
        part = jnp.where(part > 1, 1, part)
        here, there = ranks.gather(map.scores, at), ranks.gather(map.scores, other)
        return ranks.blend(here, there, part)

    return _average(map, value, scores)


def excess_risk(map: BarycenterMap) -> Float[Array, ""]:
    """Excess risk of full repair, the price of fairness [score^2].

    The share-weighted W2 variance of the groups around their barycenter, exact for the
    calibration scores that serve `F`: what `metrics.price_of_fairness` finds on the
    same scores, here in O(n) memory and from a map alone. Along `repair = t`, excess
    risk is `t^2` times and unfairness `(1 - t)^2` times this. Tied scores attain it
    only if they are told apart, by a map with `key`; for O(n log n + g n) time.

    Example:
        >>> fitted = fit_map(jnp.array([0.0, 2.0]), jnp.array([0, 1]), n_groups=2)
        >>> float(excess_risk(fitted))
        1.0

    References:
        Chzhen et al., NeurIPS 2020: the minimum of the barycenter problem.
    """
    value, unit = _variance(map)
    return value * unit * unit


def repair_for(
    map: BarycenterMap,
    *,
    unfairness: float | Float[ArrayLike, "..."] | None = None,
    excess_risk: float | Float[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    """The repair that meets a wanted unfairness or a wanted excess risk.

    Args:
        map: the fitted map; all quantities refer to its calibration scores.
        unfairness: least repair with at most this share-weighted W2 variance between
            groups [score^2]: `1 - sqrt(unfairness / excess_risk(map))`.
        excess_risk: largest repair with at most this mean squared change [score^2]:
            `sqrt(excess_risk / excess_risk(map))`. Give exactly one of the two.

    Returns:
        A repair in `[0, 1]`, traced, of the target's shape.

    Raises:
        ValueError: unless exactly one target is given, and for a negative one.

    Example:
        >>> fitted = fit_map(jnp.array([0.0, 2.0]), jnp.array([0, 1]), n_groups=2)
        >>> float(repair_for(fitted, unfairness=0.25))
        0.5
    """
    if (unfairness is None) == (excess_risk is None):
        raise ValueError("give exactly one of `unfairness` and `excess_risk`.")
    target = excess_risk if unfairness is None else unfairness
    name = "excess_risk" if unfairness is None else "unfairness"
    checks.check_nonnegative(target, name=name)
    value, unit = _variance(map)
    target = jnp.asarray(target, value.dtype)
    # Roots first: the excess risk of tiny scores is 0 in its own units.
    part = jnp.sqrt(jnp.where(target > 0, target, 1)) / unit
    whole = jnp.sqrt(jnp.where(value > 0, value, 1))
    share = jnp.where(part < whole, part / whole, 1)
    share = jnp.where(value > 0, jnp.where(target > 0, share, 0), 1)
    share = jnp.where(jnp.isnan(value) | ~(target >= 0), jnp.nan, share)
    return share if unfairness is None else 1 - share


@partial(jax.jit, static_argnames="n_groups")
def _fit(scores, groups, weights, bits, halves, sigma, *, n_groups):
    known = groups < n_groups
    bad = known & ~jnp.isfinite(scores)
    kept = known
    if weights is not None:
        kept = known & (weights > 0)
        bad = (bad & (weights != 0)) | (
            known & ~((weights >= 0) & jnp.isfinite(weights))
        )
    fixed = lax.stop_gradient(scores)
    low = jnp.min(fixed, where=kept, initial=jnp.inf)
    high = jnp.max(fixed, where=kept, initial=-jnp.inf)
    cells, ties = jnp.where(kept, groups, 2 * n_groups), None
    if bits is not None:
        scores, ties = ranks.jitter(scores, sigma, bits)
    if halves is not None:
        first = ranks.first_half(cells, halves, n_cells=2 * n_groups)
        cells = jnp.where(kept & ~first, cells + n_groups, cells)
    table, slices, mass = ranks.build(
        scores, cells, ties, weights, n_cells=2 * n_groups
    )
    cdf, other = slices[:n_groups], slices[n_groups:]
    quantile = jnp.where((other[:, 1] > other[:, 0])[:, None], other, cdf)
    mass = mass[:n_groups] + mass[n_groups:]
    shares = mass / jnp.maximum(jnp.sum(mass), jnp.finfo(mass.dtype).tiny)
    shares = jnp.where(jnp.any(bad) | ~(sigma >= 0), jnp.nan, shares)
    return BarycenterMap(*table, cdf, quantile, shares, sigma, jnp.stack([low, high]))


@partial(jax.jit, static_argnames="variant")
def _apply(map, inputs, outputs, codes, ties, repair, *, variant):
    if map.scores.shape[0] <= _CACHED_ROWS:
        return _apply_in_order(map, inputs, outputs, codes, ties, repair, variant)
    order = ranks.cell_order(inputs, codes, n_cells=map.shares.shape[0] + 1)
    inputs, outputs, codes, ties = (
        ranks.gather(values, order) for values in (inputs, outputs, codes, ties)
    )
    fair = _apply_in_order(map, inputs, outputs, codes, ties, repair, variant)
    return jnp.zeros_like(fair).at[order].set(fair, unique_indices=True)


def _apply_in_order(map, inputs, outputs, codes, ties, repair, variant):
    n_groups = map.shares.shape[0]
    groups = jnp.minimum(codes, n_groups - 1)
    filled = map.cdf[:, 1] > map.cdf[:, 0]
    good = (codes < n_groups) & jnp.isfinite(outputs) & filled[groups]
    good &= (repair >= 0) & (repair <= 1)
    fair = variant(map, jnp.where(good, inputs, 0), groups, ties)
    # An average may round to infinity at the largest numbers, and beyond the range;
    # that second correction is exact, and leaves the gradient as it is.
    largest = jnp.finfo(fair.dtype).max
    fair = jnp.clip(fair, -largest, largest)
    fair = fair + lax.stop_gradient(jnp.clip(fair, *map.range) - fair)
    return jnp.where(good, ranks.blend(outputs, fair, repair), jnp.nan)


@jax.jit
def _variance(map):
    return ranks.variance(_table(map), map.cdf, map.shares)


def _average(map, value, scores):
    # Checkpoints keep the gradient at O(k) memory per group instead of O(k) per step.
    @jax.checkpoint
    def add(total, group):
        (begin, end), share = group
        return total + jnp.where(end > begin, share * value(begin, end), 0), None

    groups = (map.quantile, map.shares)
    return lax.scan(add, jnp.zeros_like(scores), groups)[0]


def _table(map):
    return ranks.Table(map.scores, map.ties, map.first, map.last, map.mass)
