"""The optimal fair predictor: every group's scores moved to one common distribution.

Under demographic parity the least-squares optimal change of a predictor `f` is
`g(x, s) = sum_r p_r Q_r(F_s(f(x, s)))`: the score's rank `F_s` in its own group, then
the quantiles `Q_r` of all groups at that rank, averaged with the group shares `p_r`.
That is the transport to the Wasserstein-2 barycenter of the groups' distributions, and
it needs scores and groups alone: no labels, no features, no access to the model.

A map is a table of sorted calibration scores in which each group owns one slice for
`F` and one for `Q`. A prediction reads its own row and the table, nothing else.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, Real, Shaped, UInt32

from . import checks

_TIE_BITS = 16  # with 32 for the score and 15 for the cell, one sortable 64-bit word
_MAX_ROWS = 2**25  # above it `_proportion` could leave 32 bits
_MASS_BITS = 24


class BarycenterMap(NamedTuple):
    """A fitted map; a pytree of arrays whose shapes do not depend on values.

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

    With a `key`, this is the paper's estimator: a random half of each group for `F`,
    the other half for `Q`, and uniform jitter on both. Without, it is deterministic
    and every row serves both. A group with one member uses it for both in any case.

    Args:
        scores: of any real predictor; probabilities too. The mapped scores are
            averages of these, so they stay in the same range.
        groups: codes in `[0, n_groups)`; `notions.intersect` joins attributes.
        n_groups: static.
        weights: non-negative sample weights, or a mask. They count as repetitions.
        key: randomness for the split and the jitter.
        rows: 32-bit identifiers that own the jitter, by default the positions.
        sigma: half-width of the jitter [score], kept inside the range of the scores.
            0 is its limit from above: jitter then orders equal scores and moves none,
            at any scale of the scores. Only read with a `key`.
        split: static. False keeps the jitter but uses each row for `F` and `Q`: twice
            the data, without the independence on which the paper's proof rests.

    Returns:
        The map. Inside `jit`: all predictions are NaN if a calibration score is not
        finite or a weight is negative, those of a group without members are NaN, and
        a row of unknown group belongs to no group.

    Raises:
        ValueError: for bad values, a group without members, or more than 2^25 rows
            (see `sketch_init`). Cost O(n log n) time, O(n) memory; one 64-bit integer
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
    n = jnp.shape(scores)[0]
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    checks.check_nonnegative(jnp.asarray(sigma), name="sigma")
    if weights is not None:
        checks.check_weights(weights, n=n)
    if not 0 < n <= _MAX_ROWS:
        raise ValueError(
            f"`scores` must hold 1 to {_MAX_ROWS} rows, but holds {n}. "
            f"Feed larger data in chunks to `sketch_update`."
        )
    if checks.concrete(groups, weights):
        counted = None if weights is None else np.asarray(weights, float)
        missing = np.bincount(np.asarray(groups, int), counted, n_groups) == 0
        if missing.any():
            raise ValueError(
                f"group {np.flatnonzero(missing)[0]} has no calibration row of weight "
                f"above 0. Re-encode with `np.unique(..., return_inverse=True)`, merge "
                f"small groups, or gather more data."
            )
    groups, scores = _codes(groups, n_groups), _floating(scores)
    if weights is not None:
        weights = _constant(_floating(weights).astype(scores.dtype))
    words = halves = None
    if key is not None:
        rows = jnp.arange(n) if rows is None else jnp.asarray(rows)
        words = _words(key, rows)
        halves = _words(jax.random.fold_in(key, 1), rows) if split else None
    sigma = jnp.asarray(sigma, scores.dtype)
    return _fit(scores, groups, weights, words, halves, sigma, n_groups=n_groups)


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
    With `U = price(map)`: the excess risk over the unfair optimum is `t^2 U`, the
    unfairness (share-weighted W2 variance of the groups) is `(1 - t)^2 U`, and every
    W1 and W2 distance between groups shrinks by `1 - t`. KS starts at its own value
    and ends at 0 but has no closed form between: groups that differ by a shift `d`
    have the KS of a shift `(1 - t) d`, which is large until the shift is small next
    to the spread. `t = 1 - sqrt(alpha)` is the optimum under "unfairness at most
    `alpha` times the unfair one" of Chzhen and Schreuder.

    Inside a group the order of scores is kept (exactly by `step`, to rounding by
    `interp`), and beyond the calibration range the map is constant. The mean over the
    population is kept: exactly for the true distributions, on the calibration rows to
    within (range of scores) / (smallest group).

    A row's result depends on its score, group, identifier and key. Identifiers matter
    only to a score equal to a calibration score (or `sigma > 0`): no function of score
    and group alone can divide an atom between two values, so equal rows are told
    apart by `rows`. Give record numbers if a record must get the same answer in
    another batch. The key and rows of the fit reproduce the jitter of the fit, so new
    rows should come with another key or other identifiers.

    Args:
        map: from `fit_map` or `fit_sketch`.
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
            memory.

    References:
        Chzhen et al., NeurIPS 2020, Algorithm 1; Chzhen, Schreuder, *A minimax
        framework for quantifying risk-fairness trade-off in regression*, Annals of
        Statistics 2022.
    """
    n, n_groups = jnp.shape(scores)[0], map.shares.shape[0]
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    _check_repair(repair)
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
    ties = jnp.full(n, 2**_TIE_BITS - 1, jnp.uint32)
    inputs = outputs = _floating(scores).astype(map.scores.dtype)
    if key is not None:
        words = _words(key, jnp.arange(n) if rows is None else jnp.asarray(rows))
        inputs, ties = inputs + map.sigma * _uniform(words, inputs), _tie(words)
    variant = variant or (interp if key is None else step)
    repair = jnp.asarray(repair, map.scores.dtype)
    codes = _codes(groups, n_groups)
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
    start, stop = map.cdf[groups, 0], map.cdf[groups, 1]
    rank = _mass_before(map, _position(map, scores, ties, start, stop), start)
    total = _mass_before(map, stop, start)

    def value(begin, end):
        size = _mass_before(map, end, begin)
        whole, rest = _proportion(rank, size, total)
        target = jnp.maximum(jnp.where(rest > 0, whole + 1, whole), 1)
        at = _locate(map, target - 1, begin, end)
        return _take(map.scores, at)

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
    start, stop = map.cdf[groups, 0], map.cdf[groups, 1]
    every = jnp.full(scores.shape, 2**_TIE_BITS - 1, jnp.uint32)
    position = _position(map, scores, every, start, stop)
    below = jnp.clip(position - 1, start, stop - 1)
    above = jnp.clip(position, start, stop - 1)
    # The block of equal scores below ends at `position`, where the one above begins.
    left, right = _take(map.scores, below), _take(map.scores, above)
    begin, end = _take(map.first, below), _take(map.last, above)
    rank = _mass_before(map, begin, start)
    rank += _mass_before(map, jnp.where(position > start, position, end), start)
    jump = _mass_before(map, end, start)
    jump += _mass_before(map, jnp.where(position < stop, position, begin), start) - rank
    gap = right - left
    fraction = jnp.where(gap > 0, (scores - left) / jnp.where(gap > 0, gap, 1), 0)
    ahead = fraction * jump.astype(scores.dtype)
    total = _mass_before(map, stop, start)
    mass = jnp.maximum(total, 1).astype(scores.dtype)

    def value(begin, end):
        size = _mass_before(map, end, begin)
        # Twice the rank in this group is whole + excess, `whole` without rounding.
        whole, rest = _proportion(rank, size, total)
        excess = (rest.astype(mass.dtype) + ahead * size.astype(mass.dtype)) / mass
        carry = lax.stop_gradient(jnp.floor(excess))
        level = whole + carry.astype(jnp.int32)
        at = _locate(map, level // 2, begin, end)
        first, last = _take(map.first, at), _take(map.last, at)
        lower, upper = _mass_before(map, first, begin), _mass_before(map, last, begin)
        after = level >= lower + upper
        other = jnp.where(
            after, jnp.minimum(last, end - 1), jnp.maximum(first - 1, begin)
        )
        outer = jnp.where(after, _take(map.last, other), _take(map.first, other))
        span = jnp.abs(_mass_before(map, outer, begin) - jnp.where(after, lower, upper))
        past = (level - lower - upper).astype(mass.dtype) + (excess - carry)
        part = jnp.where(after, past, -past) / jnp.maximum(span, 1).astype(mass.dtype)
        part = jnp.where(part > 1, 1, part)
        return _blend(_take(map.scores, at), _take(map.scores, other), part)

    return _average(map, value, scores)


def price(map: BarycenterMap) -> Float[Array, ""]:
    """The price of fairness: the excess risk of full repair [score^2].

    The share-weighted W2 variance of the groups around their barycenter, on the
    calibration scores. Along `repair = t`, excess risk is `t^2` times and unfairness
    `(1 - t)^2` times this. Cost as `apply_map` on the calibration rows.

    Example:
        >>> fitted = fit_map(jnp.array([0.0, 2.0]), jnp.array([0, 1]), n_groups=2)
        >>> float(price(fitted))
        1.0

    References:
        Chzhen et al., NeurIPS 2020: the minimum of the barycenter problem.
    """
    return _price(map)


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
            groups [score^2]: `1 - sqrt(unfairness / price)`.
        excess_risk: largest repair with at most this mean squared change [score^2]:
            `sqrt(excess_risk / price)`. Give exactly one of the two.

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
    whole = price(map)
    target = jnp.asarray(target, whole.dtype)
    checks.check_nonnegative(
        target, name="excess_risk" if unfairness is None else "unfairness"
    )
    share = jnp.where(target < whole, target / jnp.where(whole > 0, whole, 1), 1)
    root = jnp.sqrt(jnp.where(jnp.isnan(whole) | (target < 0), jnp.nan, share))
    return root if unfairness is None else 1 - root


def fit_sequence(
    scores: Real[ArrayLike, " n"],
    attributes: Sequence[Shaped[ArrayLike, " n"]],
    *,
    sizes: Sequence[int],
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " n"] | None = None,
    fit: Callable[..., BarycenterMap] = fit_map,
) -> tuple[BarycenterMap, ...]:
    """Maps for several attributes, each fitted on what the ones before it return.

    The result is fair to each attribute, not to their intersections (for those, join
    the attributes with `notions.intersect`), and needs members per code only.

    Args:
        scores: as in `fit_map`.
        attributes: one array of codes each, of attribute `a` in `[0, sizes[a])`.
        sizes: static; how many codes each attribute has.
        key: as in `fit_map`; attribute `a` uses `fold_in(key, a)`.
        rows: as in `fit_map`.
        fit: `fit_map` with more arguments bound: `partial(fit_map, weights=w)`.

    Returns:
        One map per attribute, for `apply_sequence`. In the limit, the order of the
        attributes does not matter where they shift the scores independently. In
        general orders differ, and only the last attribute is treated exactly.

    References:
        Hu, Ratz, Charpentier, *A sequentially fair mechanism for multiple sensitive
        attributes*, AAAI 2024.
    """
    maps = []
    for a, (groups, size) in enumerate(zip(attributes, sizes, strict=True)):
        own = None if key is None else jax.random.fold_in(key, a)
        maps.append(fit(scores, groups, n_groups=size, key=own, rows=rows))
        scores = apply_map(maps[-1], scores, groups, key=own, rows=rows)
    return tuple(maps)


def apply_sequence(
    maps: Sequence[BarycenterMap],
    scores: Real[ArrayLike, " k"],
    attributes: Sequence[Shaped[ArrayLike, " k"]],
    *,
    repair: float | Float[ArrayLike, ""] = 1.0,
    key: PRNGKeyArray | None = None,
    rows: Int[ArrayLike, " k"] | None = None,
    variant: Variant | None = None,
) -> Float[Array, " k"]:
    """Applies the maps of `fit_sequence` in turn; `repair` blends first and last.

    Arguments, result and errors are those of `apply_map`.
    """
    _check_repair(repair)
    start = fair = _floating(scores)
    for a, (fitted, groups) in enumerate(zip(maps, attributes, strict=True)):
        own = None if key is None else jax.random.fold_in(key, a)
        fair = apply_map(fitted, fair, groups, key=own, rows=rows, variant=variant)
    return _blend(start.astype(fair.dtype), fair, jnp.asarray(repair, fair.dtype))


class Sketch(NamedTuple):
    """A mergeable summary of calibration scores: a histogram with means.

    Attributes:
        edges: increasing inner bin edges, the same in all sketches to be merged.
        counts: weight per group and bin.
        offsets: weighted sum of (score - edge on the left; in the first bin, on the
            right).
    """

    edges: Float[Array, " b"]
    counts: Float[Array, "g b+1"]
    offsets: Float[Array, "g b+1"]


def sketch_init(edges: Real[ArrayLike, " b"], *, n_groups: int) -> Sketch:
    """An empty sketch with `len(edges) + 1` bins per group, the outer two open.

    `F` stays exact at every edge, so with `step` any rank is off by at most the share
    of its group's largest bin, with `interp` by 1.5 times that (`sketch_error`), and
    with `step` any quantile between the edges by at most its bin's width. Chunks and
    merges add nothing to these errors. Even edges suit probabilities; quantiles of a
    first chunk, `jnp.quantile(chunk, jnp.linspace(0, 1, 4097)[1:-1])`, other scores.

    Raises:
        ValueError: unless the edges are finite and increase strictly.

    Example:
        >>> sketch = sketch_init(jnp.linspace(0, 1, 129), n_groups=2)
        >>> sketch = sketch_update(sketch, jnp.array([0.25, 0.75]), jnp.array([0, 1]))
        >>> apply_map(fit_sketch(sketch), jnp.array([0.25]), jnp.array([0]))
        Array([0.5], dtype=float32)
    """
    checks.check_finite(edges, name="edges")
    values = _floating(edges)
    if checks.concrete(values) and not (np.diff(np.asarray(values)) > 0).all():
        raise ValueError(
            "`edges` must increase strictly. Drop repeated ones with `jnp.unique`."
        )
    empty = jnp.zeros((n_groups, values.shape[0] + 1), values.dtype)
    return Sketch(values, empty, empty)


def sketch_update(
    sketch: Sketch,
    scores: Real[ArrayLike, " n"],
    groups: Shaped[ArrayLike, " n"],
    *,
    weights: Shaped[ArrayLike, " n"] | None = None,
) -> Sketch:
    """Adds a chunk of rows in O(n log b) time and O(n + g b) memory.

    Raises:
        ValueError: as `fit_map`, but a group may be missing from a chunk. Inside
            `jit`, a score that is not finite makes the predictions NaN.
    """
    n, n_groups = jnp.shape(scores)[0], sketch.counts.shape[0]
    checks.check_length(groups, n=n, name="groups", to="scores")
    checks.check_groups(groups, n_groups=n_groups)
    checks.check_finite(scores, name="scores")
    if weights is not None:
        checks.check_weights(weights, n=n)
    scores, codes = _floating(scores), _codes(groups, n_groups)
    scores = scores.astype(sketch.edges.dtype)
    mass = jnp.ones(n) if weights is None else _floating(weights)
    return _update(sketch, scores, codes, mass.astype(scores.dtype))


def sketch_merge(left: Sketch, right: Sketch) -> Sketch:
    """The sketch of both data sets; on a device mesh, `psum` counts and offsets.

    Addition: commutative, and associative exactly for counts below 2^24 per bin
    (above, and for `offsets`, to rounding).

    Raises:
        ValueError: for sketches with other edges.
    """
    same = left.counts.shape == right.counts.shape
    if same and checks.concrete(left.edges, right.edges):
        same = np.array_equal(np.asarray(left.edges), np.asarray(right.edges))
    if not same:
        raise ValueError(
            "sketches to be merged must have equal `edges` and groups: start each "
            "from a copy of one `sketch_init`."
        )
    alike = jnp.all(left.edges == right.edges)
    counts = jnp.where(alike, left.counts + right.counts, jnp.nan)
    return Sketch(left.edges, counts, left.offsets + right.offsets)


def sketch_error(sketch: Sketch) -> Float[Array, " g"]:
    """Bound on the error of any rank, per group: 1.5 times the largest bin's share."""
    total = jnp.sum(sketch.counts, axis=1)
    return 1.5 * jnp.max(sketch.counts, axis=1) / jnp.where(total > 0, total, 1)


def fit_sketch(sketch: Sketch) -> BarycenterMap:
    """The deterministic map of the sketched data, in O(g b log b).

    Each bin stands for its mean score with its weight. Errors as in `fit_map`.
    """
    n_groups, n_bins = sketch.counts.shape
    anchor = sketch.edges[jnp.maximum(jnp.arange(n_bins) - 1, 0)]
    filled = jnp.where(sketch.counts > 0, sketch.counts, 1)
    means = anchor[None, :] + sketch.offsets / filled
    groups = jnp.repeat(jnp.arange(n_groups, dtype=jnp.int32), n_bins)
    return fit_map(
        means.ravel(), groups, n_groups=n_groups, weights=sketch.counts.ravel()
    )


@jax.jit
def _update(sketch, scores, codes, mass):
    known = codes < sketch.counts.shape[0]
    mass = jnp.where(known, mass, 0)
    mass = jnp.where(known & ((mass < 0) | ~jnp.isfinite(scores)), jnp.nan, mass)
    bins = jnp.searchsorted(sketch.edges, scores, side="right", method="scan")
    offset = scores - sketch.edges[jnp.maximum(bins - 1, 0)]
    offset = jnp.where(mass > 0, mass * offset, 0)
    counts = sketch.counts.at[codes, bins].add(mass, mode="drop")
    offsets = sketch.offsets.at[codes, bins].add(offset, mode="drop")
    return Sketch(sketch.edges, counts, offsets)


@partial(jax.jit, static_argnames="n_groups")
def _fit(scores, groups, weights, words, halves, sigma, *, n_groups):
    n = scores.shape[0]
    known = groups < n_groups
    kept = known if weights is None else known & (weights > 0)
    bad = known & ~jnp.isfinite(scores)
    if weights is not None:
        bad = (bad & (weights != 0)) | (
            known & ~((weights >= 0) & jnp.isfinite(weights))
        )
    cells = jnp.where(kept, groups, 2 * n_groups)
    ties = jnp.zeros(n, jnp.uint32)
    if words is not None:
        fixed = lax.stop_gradient(scores)
        low = jnp.min(fixed, where=kept, initial=jnp.inf)
        high = jnp.max(fixed, where=kept, initial=-jnp.inf)
        moved = scores + sigma * _uniform(words, scores)
        scores = jnp.where(moved < low, low, jnp.where(moved > high, high, moved))
        ties = _tie(words)
    if halves is not None:
        cells = jnp.where(
            kept & ~_first_half(cells, halves, n_groups), cells + n_groups, cells
        )
    sizes = jnp.zeros(2 * n_groups + 1, jnp.int32).at[cells].add(1)[:-1]
    stops = jnp.cumsum(sizes)
    slices = jnp.stack([stops - sizes, stops], axis=1)
    cdf, other = slices[:n_groups], slices[n_groups:]
    quantile = jnp.where((other[:, 1] > other[:, 0])[:, None], other, cdf)
    if weights is None:
        scores, ties = _sort(scores, cells, ties, n_groups)
        mass, amount = jnp.zeros(0, jnp.int32), sizes.astype(scores.dtype)
    else:
        order = _argsort(lax.stop_gradient(scores), cells, ties, n_groups)
        scores, ties = scores[order], ties[order]
        mass, amount = _cumulative(weights[order], cells[order], slices)
    index = jnp.arange(n, dtype=jnp.int32)
    opens = jnp.zeros(n + 1, bool).at[stops].set(True)[:n].at[0].set(True)
    fresh = opens | jnp.concatenate([jnp.ones(1, bool), scores[1:] != scores[:-1]])
    first = lax.cummax(jnp.where(fresh, index, 0))
    ending = jnp.concatenate([fresh[1:], jnp.ones(1, bool)])
    last = lax.cummin(jnp.where(ending, index + 1, n), reverse=True)
    amount = amount[:n_groups] + amount[n_groups:]
    shares = amount / jnp.maximum(jnp.sum(amount), jnp.finfo(amount.dtype).tiny)
    shares = jnp.where(jnp.any(bad), jnp.nan, shares)
    ties = ties if words is not None else ties[:0]
    return BarycenterMap(scores, ties, first, last, mass, cdf, quantile, shares, sigma)


@partial(jax.jit, static_argnames="variant")
def _apply(map, inputs, outputs, codes, ties, repair, *, variant):
    n_groups = map.shares.shape[0]
    groups = jnp.minimum(codes, n_groups - 1)
    filled = map.cdf[:, 1] > map.cdf[:, 0]
    good = (codes < n_groups) & jnp.isfinite(outputs) & filled[groups]
    good &= (repair >= 0) & (repair <= 1)
    lowest = _take(map.scores, jnp.where(filled, map.quantile[:, 0], 0))
    highest = _take(map.scores, jnp.where(filled, map.quantile[:, 1] - 1, 0))
    low = jnp.min(lowest, where=filled, initial=jnp.inf)
    high = jnp.max(highest, where=filled, initial=-jnp.inf)
    fair = variant(map, jnp.where(good, inputs, 0), groups, ties)
    # Averages round; the correction is exact, and leaves the gradient as it is.
    fair = fair + lax.stop_gradient(jnp.clip(fair, low, high) - fair)
    return jnp.where(good, _blend(outputs, fair, repair), jnp.nan)


@jax.jit
def _price(map):
    index = jnp.arange(map.scores.shape[0], dtype=jnp.int32)
    after = jnp.searchsorted(map.cdf[:, 0], index, side="right").astype(jnp.int32)
    start, stop = map.cdf[after - 1, 0], map.cdf[after - 1, 1]
    inside = index < stop
    ties = jnp.zeros(index.shape, jnp.uint32)
    moved = jnp.where(inside, map.scores - interp(map, map.scores, after - 1, ties), 0)
    own = _mass_before(map, index + 1, start) - _mass_before(map, index, start)
    total = jnp.maximum(_mass_before(map, stop, start), 1)
    share = map.shares[after - 1] * (
        own.astype(moved.dtype) / total.astype(moved.dtype)
    )
    return jnp.sum(jnp.where(inside, share, 0) * jnp.square(moved))


def _average(map, value, scores):
    # Checkpoints keep the gradient at O(k) memory per group instead of O(k) per step.
    @jax.checkpoint
    def add(total, group):
        (begin, end), share = group
        return total + jnp.where(end > begin, share * value(begin, end), 0), None

    groups = (map.quantile, map.shares)
    return lax.scan(add, jnp.zeros_like(scores), groups)[0]


def _position(map, scores, ties, start, stop):
    """Index after the last entry of the slice at or below (score, tie)."""
    table, x = lax.stop_gradient((map.scores, scores))

    def before(index):
        entry = _take(table, index)
        if not map.ties.shape[0]:
            return entry <= x
        return (entry < x) | ((entry == x) & (_take(map.ties, index) <= ties))

    return _bisect(before, start, stop, table.shape[0])


def _locate(map, mass, begin, end):
    """Index of the entry that covers this much mass, the nearest one if none does."""
    if not map.mass.shape[0]:
        return begin + jnp.clip(mass, 0, jnp.maximum(end - begin - 1, 0))
    n = map.mass.shape[0]
    start, stop = jnp.full(mass.shape, begin), jnp.full(mass.shape, end)
    index = _bisect(lambda i: _take(map.mass, i) <= mass, start, stop, n)
    return jnp.clip(index, 0, jnp.maximum(end - 1, begin))


def _mass_before(map, index, start):
    """Integer mass of the entries from `start` to before `index`."""
    if not map.mass.shape[0]:
        return index - start
    return jnp.where(index > start, _take(map.mass, jnp.maximum(index - 1, 0)), 0)


def _bisect(before, start, stop, n):
    """First index of each slice `[start, stop)` where `before` is False."""
    steps = n.bit_length()

    def halve(i, at):
        ahead = at + lax.shift_left(jnp.int32(1), jnp.int32(steps - 1) - i)
        good = (ahead <= stop) & before(jnp.clip(ahead, 1, n) - 1)
        return jnp.where(good, ahead, at)

    return lax.fori_loop(jnp.int32(0), jnp.int32(steps), halve, start)


def _proportion(amount, size, total):
    """Quotient and rest of `amount * size / total`, exact without 64-bit integers.

    With amounts and totals below 2^26, the float quotient is off by less than 18, so
    the remainder fits in 32 bits, and wrapped products give it exactly.
    """
    total = jnp.maximum(total, 1)
    divisor = total.astype(jnp.float32)
    guess = jnp.floor(amount.astype(jnp.float32) * (size.astype(jnp.float32) / divisor))
    whole = guess.astype(jnp.int32)
    rest = amount * size - whole * total
    miss = jnp.floor(rest.astype(jnp.float32) / divisor).astype(jnp.int32)
    whole, rest = whole + miss, rest - miss * total
    miss = jnp.where(rest < 0, -1, jnp.where(rest >= total, 1, 0))
    return whole + miss, rest - miss * total


def _cumulative(weights, cells, slices):
    """Cumulative integer mass inside each cell, and each cell's weight.

    Scaling by powers of two keeps integer weights exact, so they count as repetitions;
    the fractions are carried, so any rank is within 2^-23 of its cell's weight.
    """
    kept = cells < slices.shape[0]
    weights = jnp.where(kept & jnp.isfinite(weights), weights, 0)
    peak = jnp.frexp(jnp.max(weights))[1]
    weights = jnp.ldexp(weights, -peak)
    sums = jnp.zeros(slices.shape[0] + 1, weights.dtype).at[cells].add(weights)
    exponent = _MASS_BITS - jnp.frexp(sums)[1]
    weights = jnp.ldexp(weights, exponent[cells])
    whole = jnp.floor(weights)
    carried = lax.cummax(jnp.cumsum(weights - whole))
    units = jnp.cumsum(whole.astype(jnp.int32), dtype=jnp.int32)
    units = units + jnp.floor(carried + 0.5).astype(jnp.int32)
    begin = jnp.concatenate([slices[:, 0], slices[-1:, 1]])
    base = jnp.where(begin > 0, units[jnp.maximum(begin - 1, 0)], 0)
    mass = units - base[cells]
    full = jnp.where(slices[:, 1] > slices[:, 0], mass[slices[:, 1] - 1], 0)
    return mass, jnp.ldexp(full.astype(weights.dtype), -exponent[:-1])


@jax.custom_jvp
def _constant(weights):
    return weights


@partial(_constant.defjvp, symbolic_zeros=True)
def _constant_jvp(primals, tangents):
    if not isinstance(tangents[0], SymbolicZero):
        raise TypeError(
            "`weights` count as repetitions, in integers, so there is no gradient with "
            "respect to them. Pass them through `jax.lax.stop_gradient`."
        )
    return primals[0], jnp.zeros_like(primals[0])


def _first_half(cells, words, n_groups):
    """Whether a row is in the random first half of its cell, the larger one if odd."""
    with jax.enable_x64(True):
        high = lax.shift_left(_wide(cells), jnp.int64(32))
        ranked = lax.sort(high | _wide(words)).astype(jnp.uint32)
    sizes = jnp.zeros(2 * n_groups + 1, jnp.int32).at[cells].add(1)
    middle = jnp.cumsum(sizes, dtype=jnp.int32) - sizes + (sizes + 1) // 2 - 1
    return words <= ranked[jnp.maximum(middle, 0)][cells]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sort(scores, cells, ties, n_groups):
    """Sorts by cell, then score, then tie; without the permutation, which is slow."""
    if not _packs(scores, n_groups):
        return lax.sort((cells, scores, ties), num_keys=3)[1:]
    with jax.enable_x64(True):
        packed = lax.sort(_pack(scores, cells, ties))
        bits = lax.shift_right_logical(packed, jnp.int64(_TIE_BITS)).astype(jnp.uint32)
        ties = (packed & jnp.int64(2**_TIE_BITS - 1)).astype(jnp.uint32)
    sign = jnp.uint32(1 << 31)
    bits = jnp.where(bits >= sign, bits ^ sign, ~bits)
    return lax.bitcast_convert_type(bits, jnp.float32), ties


@_sort.defjvp
def _sort_jvp(n_groups, primals, tangents):
    scores, cells, ties = primals
    order = _argsort(scores, cells, ties, n_groups)
    none = np.zeros(ties.shape, jax.dtypes.float0)
    return (scores[order], ties[order]), (tangents[0][order], none)


def _argsort(scores, cells, ties, n_groups):
    index = jnp.arange(scores.shape[0], dtype=jnp.int32)
    if not _packs(scores, n_groups):
        return lax.sort((cells, scores, ties, index), num_keys=3)[-1]
    with jax.enable_x64(True):
        return lax.sort((_pack(scores, cells, ties), index), num_keys=1)[1]


def _packs(scores, n_groups):
    return scores.dtype == jnp.float32 and 2 * n_groups < 2 ** (31 - _TIE_BITS)


def _pack(scores, cells, ties):
    """One integer whose order is that of (cell, score, tie); needs 64 bits.

    XLA sorts one integer operand on CPU several times faster than floats or pairs.
    """
    bits = lax.bitcast_convert_type(scores, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    bits = jnp.where(scores == 0, jnp.uint32(0), bits)  # -0.0 and 0.0 are equal
    bits = jnp.where(bits >= sign, ~bits, bits | sign)
    high = lax.shift_left(_wide(cells), jnp.int64(32 + _TIE_BITS))
    return high | lax.shift_left(_wide(bits), jnp.int64(_TIE_BITS)) | _wide(ties)


def _wide(array):
    return lax.convert_element_type(array, jnp.int64)


def _words(key, rows):
    """A random word per row, a function of key and identifier alone."""
    # Only threefry keys promise that a vmapped draw is that of a loop.
    data = jax.random.bits(key, (2,), jnp.uint32)
    seed = jax.random.wrap_key_data(data, impl="threefry2x32")
    draw = jax.vmap(
        lambda r: jax.random.bits(jax.random.fold_in(seed, r), dtype=jnp.uint32)
    )
    return draw(rows.astype(jnp.uint32))


def _uniform(words, like):
    """The word as a number in [-1, 1)."""
    return (words >> 8).astype(like.dtype) * 2.0**-23 - 1


def _tie(words):
    return words >> (32 - _TIE_BITS)


def _blend(start, end, t):
    """`(1 - t) start + t end`, exact at both ends and never beyond them."""
    way = end - start
    return jnp.where(t < 0.5, start + t * way, end - (1 - t) * way)


def _take(table, index):
    return table.at[index].get(mode="promise_in_bounds")


def _codes(groups, n_groups):
    """The codes as int32, with `n_groups` for an unknown one."""
    groups = jnp.asarray(groups)
    if groups.dtype.itemsize < 4:
        groups = groups.astype(jnp.int32)
    known = (groups >= 0) & (groups < n_groups)
    return jnp.where(known, groups, n_groups).astype(jnp.int32)


def _floating(values):
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values.astype(jax.dtypes.canonicalize_dtype(float))
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values


def _check_repair(repair):
    if checks.concrete(repair) and not 0 <= float(np.asarray(repair)) <= 1:
        raise ValueError(
            f"`repair` must lie in [0, 1], but is {repair}: 0 keeps the scores, 1 "
            f"makes them fair."
        )
