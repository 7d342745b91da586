"""Resampling: how far a number of this sample may lie from that of the population.

A resample draws as many samples as there are, with replacement. It is a vector of
counts, and a statistic is a function of counts: no row is copied, and what counts do
not change, such as the order of scores, is worked out once for all draws. The same
function has a derivative by the counts, which is the influence of each sample.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, ArrayLike, Float, Int, Key, UInt32

from ..arrays import checks

Statistic = Callable[[Float[Array, " n"]], Any]
# Entries of counts drawn at a time: a processor wants them in its cache, a GPU busy.
_CPU_ENTRIES, _GPU_ENTRIES = 2**15, 2**23


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bootstrap:
    """Settings of resampling and of the interval made from the draws.

    The percentile interval is that of the draws. BCa corrects its levels for the bias
    and for a spread that changes with the value, and is second-order accurate for
    smooth statistics; it falls back to percentiles where all draws are alike or lie on
    one side of the value.

    Neither covers at the edge of what is possible: a largest gap, a KS or a Wasserstein
    distance is never below 0 and its draws lean upwards, so near parity an interval
    may lie above the true gap, the more so the more groups there are and the smaller
    they are; BCa may also end below a gap that is small beside its error. A KS distance
    leans upwards even far from parity: at 0.55, from 200 and from 800 samples, 95 %
    intervals covered in 82 % (percentile) and 91 % (BCa) of samples. Neither covers
    means of cells of a few samples: 87 % for four. `bounds` has guarantees for every
    sample size.

    Attributes:
        key: source of the draws; the same key gives the same interval.
        draws: static; number of resamples. A thousand leave the ends of a 95 % interval
            uncertain by about 4 % of its width.
        level: share of samples whose interval should cover, in (0, 1).
        method: static; "bca" needs the derivative of the statistic, "percentile" does
            not.
        clusters: codes (n,); whole clusters are drawn, as when a person has several
            rows. Coverage depends on their number and not that of rows: 93 % for 20 in
            each group.
        strata: codes (n,); the draws of each stratum keep their number, as when the
            sample was taken so. A cluster lies in one stratum.

    Example:
        >>> everyone = Bootstrap(jax.random.key(0), draws=2000, method="percentile")
        >>> everyone.level, everyone.clusters
        (0.95, None)

    References:
        Efron, *Better bootstrap confidence intervals*, JASA 1987; Efron, Tibshirani,
        *An introduction to the bootstrap*, 1993, chapters 13, 14 and 22.
    """

    # JAX also rebuilds it with what stands for arrays, so these take anything.
    key: Any
    draws: int = dataclasses.field(default=1000, metadata={"static": True})
    level: Any = 0.95
    method: Literal["bca", "percentile"] = dataclasses.field(
        default="bca", metadata={"static": True}
    )
    clusters: Any = None
    strata: Any = None


class Interval(NamedTuple):
    """Lower and upper end, each with the structure of the statistic."""

    low: Any
    high: Any


class Estimate(NamedTuple):
    """A number with its interval; all fields have the structure of the number.

    Attributes:
        value: what the metric says without an interval.
        low: lower end. Draws that lack a cell on which the number depends are left out;
            -inf if there is no other draw.
        high: upper end, inf if there is no such draw.
    """

    value: Any
    low: Any
    high: Any


def bootstrap(
    statistic: Statistic,
    *,
    n: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
    draws: int = 200,
    level: float | Float[Array, ""] = 0.9,
    method: Literal["bca", "percentile"] = "percentile",
    clusters: Int[ArrayLike, " n"] | None = None,
    strata: Int[ArrayLike, " n"] | None = None,
) -> Interval:
    """Intervals of any statistic of sample weights.

    Args:
        statistic: from weights (how often each sample was drawn) to arrays, such as
            `lambda w: audit(scores, labels, groups, n_groups=2, weights=w)`. Where it
            is NaN, that draw is left out.
        n: static; number of samples.
        key: source of the draws.
        draws: static; number of resamples.
        level: share of samples whose interval should cover, in (0, 1).
        method: static; see `Bootstrap`, and its limits.
        clusters: codes; whole clusters are drawn.
        strata: codes; the draws of each stratum keep their number.

    Returns:
        Both ends. A largest gap is >= 0 and its resamples lean upwards, so an interval
        above 0 is no proof of unfairness; a cell of a few samples may vanish from a
        draw, and then says less than its interval does. Cost: `draws` statistics, and
        for BCa a gradient of each number in it.

    Raises:
        ValueError: for a level outside (0, 1), no draws, another method, codes that are
            not one integer per sample, or a cluster in two strata.

    Example:
        >>> low, high = bootstrap(lambda w: w @ jnp.arange(9.0) / 9, n=9,
        ...     key=jax.random.key(0))
        >>> bool(low < 4.0) and bool(high > 4.0)
        True

    References:
        Efron, Tibshirani, *An introduction to the bootstrap*, 1993, chapter 13.
    """
    how = Bootstrap(key, draws, level, method, clusters, strata)
    check_bootstrap(how, n=n)
    codes = (None if a is None else jnp.asarray(a) for a in (clusters, strata))
    how = Bootstrap(key, draws, level, method, *codes)
    # One program, let go of with its function; operation by operation makes dozens.
    return jax.jit(lambda how: bootstrap_interval(lambda: statistic, (), how, n=n))(how)


def check_bootstrap(how: Bootstrap, *, n: int) -> None:
    """Raises `ValueError` for choices that `Bootstrap` does not have."""
    if how.draws < 1:
        raise ValueError(f"`draws` must be at least 1, but is {how.draws}.")
    if checks.concrete(how.level) and not 0 < how.level < 1:
        raise ValueError(f"`level` must lie in (0, 1), but is {how.level}.")
    if how.method not in ("bca", "percentile"):
        raise ValueError(
            f'`method` must be "bca" or "percentile", but is {how.method!r}.'
        )
    for name in ("clusters", "strata"):
        codes = getattr(how, name)
        if codes is None:
            continue
        shape = np.shape(codes)
        if shape != (n,):
            raise ValueError(
                f"`{name}` must have one code per sample, shape ({n},), but has shape "
                f"{shape}."
            )
        dtype = codes.dtype if hasattr(codes, "dtype") else np.asarray(codes).dtype
        if dtype.kind not in "iub":
            raise ValueError(
                f"`{name}` must be integer codes, but its dtype is {dtype}. "
                f"Encode with `np.unique(..., return_inverse=True)`."
            )
    if how.clusters is None or how.strata is None:
        return
    if checks.concrete(how.clusters, how.strata):
        clusters, strata = np.asarray(how.clusters), np.asarray(how.strata)
        _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
        astray = np.flatnonzero(strata != strata[first][inverse])
        if astray.size:
            at, other = astray[0], first[inverse[astray[0]]]
            raise ValueError(
                f"`clusters` must lie in one stratum each, but cluster {clusters[at]} "
                f"is in strata {strata[other]} and {strata[at]} (samples {other} and "
                f"{at}). Give its parts codes of their own, or leave `strata` out."
            )


class Units(NamedTuple):
    """Units of resampling, samples or clusters, in the order of their strata.

    Attributes:
        of: the unit of each sample, None when these are the samples as they stand.
        first: of the stratum of each unit, the first unit.
        stop: and one after the last.
    """

    of: Int[Array, " n"] | None
    first: Int[Array, "*n"]
    stop: Int[Array, "*n"]

    def per_sample(self, numbers: Float[Array, " n"]) -> Float[Array, " n"]:
        """The number of each sample's unit, from one number per unit."""
        return numbers if self.of is None else numbers[self.of]


def resampling_units(how: Bootstrap, n: int) -> Units:
    """Sorts clusters by stratum; there are at most n of them, and places behind.

    Places behind stand for no sample, and are drawn among themselves.
    """
    if how.clusters is None and how.strata is None:
        return Units(None, jnp.asarray(0), jnp.asarray(n))
    own = jnp.arange(n) if how.clusters is None else _ranked(how.clusters)
    strata = jnp.zeros(n, own.dtype) if how.strata is None else _ranked(how.strata)
    by_unit = jnp.full(n, n, strata.dtype).at[own].set(strata)
    order = jnp.argsort(by_unit)
    ordered = by_unit[order]
    first = jnp.searchsorted(ordered, ordered, side="left")
    stop = jnp.searchsorted(ordered, ordered, side="right")
    return Units(jnp.argsort(order)[own], first, stop)


def _ranked(codes: ArrayLike) -> Int[Array, " n"]:
    """Codes replaced by their ranks among those that occur."""
    codes = jnp.asarray(codes)
    return jnp.unique(codes, size=codes.shape[0], return_inverse=True)[1]


def bootstrap_interval(
    prepare: Callable[..., Statistic], data: tuple[Any, ...], how: Bootstrap, *, n: int
) -> Interval:
    """The interval of a statistic, after the checks.

    Args:
        prepare: from the data to the statistic, where work common to all draws goes.
        data: arrays.
        how: of the draws.
        n: static; number of samples.
    """
    units, statistic = resampling_units(how, n), prepare(*data)

    def numbers(multiples: Float[Array, " n"]) -> Float[Array, " k"]:
        leaves = jax.tree.leaves(statistic(units.per_sample(multiples)))
        return jnp.concatenate([jnp.ravel(leaf).astype(float) for leaf in leaves])

    def resample(key: Array) -> Float[Array, " k"]:
        picks = jax.random.randint(key, (n,), units.first, units.stop)
        return numbers(jnp.zeros(n).at[picks].add(1.0))

    keys = jax.random.split(how.key, how.draws)
    drawn = jax.lax.map(resample, keys, batch_size=batch_of(how.draws, n))
    level = jnp.asarray(how.level, float)
    tails = jnp.stack([1 - level, 1 + level])[:, None] / 2
    tails = jnp.broadcast_to(tails, (2, drawn.shape[1]))
    if how.method == "bca":
        value, pullback = jax.vjp(numbers, jnp.ones(n))
        accelerations = _accelerations(pullback, value, units, n)
        tails = bca_levels(tails, drawn, value, accelerations)
    ends = draw_quantiles(drawn, tails)
    shapes = jax.eval_shape(statistic, jax.ShapeDtypeStruct((n,), ends.dtype))
    return Interval(*(_shaped(end, shapes) for end in ends))


# Each `prepare` is compiled anew, so it must be a function of a module.
compiled_interval = jax.jit(bootstrap_interval, static_argnames=("prepare", "n"))


def batch_of(draws: int, n: int) -> int:
    """Number of draws at a time; a divisor where possible, so that one program does."""
    entries = _CPU_ENTRIES if jax.default_backend() == "cpu" else _GPU_ENTRIES
    most = min(max(entries // max(n, 1), 1), draws)
    even = max(size for size in range(1, most + 1) if draws % size == 0)
    return even if 4 * even > most else most


def _accelerations(
    pullback: Callable[[Array], tuple[Array]],
    value: Float[Array, " k"],
    units: Units,
    n: int,
) -> Float[Array, " k"]:
    """A sixth of the influences' skewness: how fast the spread changes with the value.

    The influence of a unit is the derivative by its count, beside the mean of its
    stratum, whose sum of counts is fixed.
    """
    first = jnp.broadcast_to(units.first, (n,))
    size = jnp.broadcast_to(units.stop - units.first, (n,)).astype(value.dtype)

    def one(number: Int[Array, ""]) -> Float[Array, ""]:
        (slopes,) = pullback(jax.nn.one_hot(number, value.size, dtype=value.dtype))
        sums = jnp.zeros(n, slopes.dtype).at[first].add(slopes)
        influence = slopes - sums[first] / size
        # A power of numbers that may be tiny: scale them first.
        peak = jnp.abs(influence).max(initial=0)
        influence = influence / jnp.where(peak > 0, peak, 1)
        spread = jnp.square(influence).sum()
        skew = (influence**3).sum() / (6 * jnp.where(spread > 0, spread, 1) ** 1.5)
        return jnp.where(jnp.isfinite(skew), skew, 0)

    if value.size == 1:  # A loop over one is another program to compile.
        return one(jnp.asarray(0))[None]
    return jax.lax.map(one, jnp.arange(value.size), batch_size=batch_of(value.size, n))


def bca_levels(
    tails: Float[Array, "2 k"],
    drawn: Float[Array, "b k"],
    value: Float[Array, " k"],
    accelerations: Float[Array, " k"],
) -> Float[Array, "2 k"]:
    """Levels of the BCa interval; Efron, Tibshirani 1993, equations 14.10 and 14.14."""
    here = ~jnp.isnan(drawn)
    top = jnp.where(here, drawn, -jnp.inf).max(axis=0)
    bottom = jnp.where(here, drawn, jnp.inf).min(axis=0)
    # Closer than this they differ by rounding.
    near = jnp.finfo(value.dtype).eps ** 0.5 * (top - bottom)
    below = (drawn < (value - near)[None]).sum(axis=0)
    above = (drawn > (value + near)[None]).sum(axis=0)
    # Ties, which discrete statistics have, count half.
    total = jnp.maximum(here.sum(axis=0), 1).astype(value.dtype)
    bias = ndtri((1 + (below - above).astype(value.dtype) / total) / 2)
    shifted = bias[None] + ndtri(tails)
    stretch = 1 - accelerations[None] * shifted
    good = (jnp.isfinite(bias) & (stretch > 0).all(axis=0))[None]
    moved = ndtr(bias[None] + shifted / jnp.where(good, stretch, 1))
    return jnp.where(good, moved, tails)


def draw_quantiles(
    drawn: Float[Array, "b k"], levels: Float[Array, "2 k"]
) -> Float[Array, "2 k"]:
    """Linear between order statistics, of the draws that are not NaN."""
    ordered = jnp.sort(drawn, axis=0)  # NaN last.
    count = (~jnp.isnan(drawn)).sum(axis=0)
    at = levels * jnp.maximum(count - 1, 0)[None].astype(levels.dtype)
    floor = jnp.floor(at)
    left = floor.astype(count.dtype)
    right = jnp.minimum(left + 1, jnp.maximum(count - 1, 0)[None])
    low, high = (jnp.take_along_axis(ordered, i, axis=0) for i in (left, right))
    share = at - floor
    # Not `low + share * (high - low)`: the difference may overflow.
    ends = jnp.where(low == high, low, (1 - share) * low + share * high)
    none = jnp.array([-jnp.inf, jnp.inf], ends.dtype)[:, None]
    return jnp.where(count[None] > 0, ends, none)


def _shaped(flat: Float[Array, " k"], shapes: Any) -> Any:
    """The numbers in the structure of the statistic."""
    leaves, structure = jax.tree.flatten(shapes)
    stops = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        flat[stop - leaf.size : stop].reshape(leaf.shape)
        for leaf, stop in zip(leaves, stops, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
