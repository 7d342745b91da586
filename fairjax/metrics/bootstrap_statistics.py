"""Intervals of metrics: their formulas as functions of resampled counts.

A `prepare` function here takes the sample, sorts and multiplies what no draw changes,
and returns the statistic. A draw in which a cell has lost its last sample is NaN in the
numbers that read it: the rate of an empty cell is unknown and not 0, and a gap without
it is another one. Left out, it leaves the interval given that no cell is empty, as none
is in the sample.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Int

from ..arrays import samples
from ..notions import Conditionals, cells
from . import distributions, rates
from .audit import Audit, audit, audit_of_mass, audit_values
from .bootstrap import (
    Bootstrap,
    Estimate,
    Statistic,
    check_bootstrap,
    compiled_interval,
)

Needed = Callable[[Bool[Array, "s g"]], Bool[Array, "s g"]]
Measure = Callable[[Array, Bool[Array, "s g"]], Array]


def all_cells(occupied: Bool[Array, "s g"]) -> Bool[Array, "s g"]:
    """For a number that reads every cell."""
    return occupied


def compared(occupied: Bool[Array, "s g"]) -> Bool[Array, "s g"]:
    """For a number that reads the cells of strata with two or more."""
    return occupied & (occupied.sum(axis=-1, keepdims=True) >= 2)


def _known(number: Array, lost: Bool[Array, "..."]) -> Array:
    """NaN where a cell is lost: that one for numbers per cell, else any of them."""
    return jnp.where(lost if number.ndim == lost.ndim else lost.any(), jnp.nan, number)


@functools.cache
def means_statistic(measure: Measure, needed: Needed) -> Callable[..., Statistic]:
    """A measure of cell means; two products of the counts with (s, g, n) per draw."""

    def prepare(values: Float[Array, " n"], cond: Conditionals) -> Statistic:
        rows = cond.weights.astype(values.dtype)
        scaled, unit = samples.rescaled(values, (rows > 0).any(axis=(0, 1)))
        pair = jnp.stack([rows, rows * scaled[None, None]])

        def statistic(counts: Float[Array, " n"]) -> Array:
            counts = counts.astype(values.dtype)
            mass, sums = jnp.matmul(pair, counts, precision=Precision.HIGHEST)
            some = mass > 0
            means = jnp.where(some, sums / jnp.where(some, mass, 1), 0)
            # The unit comes in before the measure, which need not scale.
            found = measure(jnp.clip(means, -1, 1) * unit, some)
            return _known(found, needed(cond.occupied) & ~some)

        return statistic

    return prepare


class OrderedSamples(NamedTuple):
    """Samples in the order of their scores, shared by all draws.

    Attributes:
        order: of the samples.
        scores: in units of the largest; a sample without weight keeps the score of the
            one before it, and takes no room.
        unit: of the scores.
        last: False where the next sample has the same score.
        rows: weights of the cells, in units of the largest: equal ones become ones,
            and sums of counts whole numbers.
    """

    order: Int[Array, " n"]
    scores: Float[Array, " n"]
    unit: Float[Array, ""]
    last: Bool[Array, " n"]
    rows: Float[Array, "s g n"]


def in_order(scores: Float[Array, " n"], cond: Conditionals) -> OrderedSamples:
    """Sorts samples by their scores."""
    used = (cond.weights > 0).any(axis=(0, 1))
    scaled, unit = samples.rescaled(scores, used)
    order = jnp.argsort(scores)
    filled = jax.lax.cummax(jnp.where(used, scaled, -1)[order])
    rows = cond.weights[..., order].astype(scores.dtype)
    peak = rows.max(axis=-1, keepdims=True, initial=0)
    rows = rows / jnp.where(peak > 0, peak, 1)
    return OrderedSamples(order, filled, unit, cells.last_of_ties(scores[order]), rows)


def drawn_cells(ordered: OrderedSamples, counts: Float[Array, " n"]) -> Conditionals:
    """The cells of a draw."""
    drawn = counts[ordered.order].astype(ordered.rows.dtype)
    mass = ordered.rows * drawn[None, None]
    total = mass.sum(axis=-1, keepdims=True)
    some = total > 0
    return Conditionals(mass / jnp.where(some, total, 1), some[..., 0])


def cdfs(
    ordered: OrderedSamples, counts: Float[Array, " n"]
) -> tuple[Float[Array, "s g n"], Bool[Array, "s g"]]:
    """Distribution functions of a draw, and which cells are occupied."""
    drawn = counts[ordered.order].astype(ordered.rows.dtype)
    mass = ordered.rows * drawn[None, None]
    sums = jnp.cumsum(mass, axis=-1)
    total = sums[..., -1:]
    some = total > 0
    return sums / jnp.where(some, total, 1), some[..., 0]


def max_area(
    ordered: OrderedSamples, cdfs: Float[Array, "s g n"], occupied: Bool[Array, "s g"]
) -> Float[Array, ""]:
    """The largest area between two distribution functions, which needs no sort."""
    pairs = tuple(jnp.asarray(codes) for codes in np.triu_indices(cdfs.shape[1], 1))
    if not pairs[0].size:
        return jnp.zeros((), cdfs.dtype)
    widths = jnp.diff(ordered.scores, append=ordered.scores[-1:])

    def area(pair: tuple[Int[Array, ""], Int[Array, ""]]) -> Float[Array, ""]:
        one, other = pair
        gaps = jnp.abs(cdfs[:, one] - cdfs[:, other])
        areas = jnp.matmul(gaps, widths, precision=Precision.HIGHEST)
        both = occupied[:, one] & occupied[:, other]
        return jnp.where(both, areas, 0).max(initial=0)

    # One pair at a time, so that memory stays that of the levels.
    return jax.lax.map(area, pairs).max() * ordered.unit


def ks_statistic(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.ks_distance`; a cumulative sum of (s, g, n) per draw."""
    ordered = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        levels, some = cdfs(ordered, counts)
        found = cells.max_cdf_gap(levels, some, ordered.last)
        return _known(found, compared(cond.occupied) & ~some)

    return statistic


def area_statistic(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.wasserstein` with p = 1; a cumulative sum of (s, g, n) per draw."""
    ordered = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        levels, some = cdfs(ordered, counts)
        found = max_area(ordered, levels, some)
        return _known(found, compared(cond.occupied) & ~some)

    return statistic


def quantile_statistic(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.wasserstein` with p = 2; a sort of the levels per draw."""
    ordered = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        drawn = drawn_cells(ordered, counts)
        values, widths = cells.quantile_steps(ordered.scores, drawn.weights)
        found = cells.max_quantile_distance(values, widths, drawn.occupied, 2)
        found = found * ordered.unit
        return _known(found, compared(cond.occupied) & ~drawn.occupied)

    return statistic


def price_statistic(
    scores: Float[Array, " n"], cond: Conditionals, mass: Float[Array, "g n"]
) -> Statistic:
    """Of `metrics.price_of_fairness`; a sort of the levels per draw."""
    ordered = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        drawn = drawn_cells(ordered, counts)
        values, widths = cells.quantile_steps(ordered.scores, drawn.weights)
        sizes = jnp.matmul(mass, counts.astype(mass.dtype), precision=Precision.HIGHEST)
        total = sizes.sum()
        shares = sizes / jnp.where(total > 0, total, 1)
        found = distributions.quantile_variance(values, widths, shares)
        found = found * ordered.unit * ordered.unit
        return _known(found, cond.occupied & ~drawn.occupied)

    return statistic


def audit_statistic(
    scores: Float[Array, " n"], parity: Conditionals, table: Float[Array, "2 g 2 n"]
) -> Statistic:
    """Of `metrics.audit`: the classes of samples by a product, scores by their order.

    Counts are those of draws.
    """
    ordered = in_order(scores, parity)
    present = (table > 0).any(axis=2).astype(table.dtype)
    occupied = present.any(axis=-1)

    def statistic(counts: Float[Array, " n"]) -> Audit:
        levels, some = cdfs(ordered, counts)
        weights = counts.astype(table.dtype)
        product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
        sizes = product(present, weights)
        found = audit_of_mass(
            product(table, weights),
            ks=cells.max_cdf_gap(levels, some, ordered.last),
            wasserstein=max_area(ordered, levels, some),
            counts=sizes,
        )
        return jax.tree.map(_known, found, _lost(occupied, sizes > 0))

    return statistic


def _lost(before: Bool[Array, "2 g"], now: Bool[Array, "2 g"]) -> Audit:
    """Cells that each number of an audit misses, in a draw that has lost some."""
    groups = before.any(axis=0, keepdims=True), now.any(axis=0, keepdims=True)
    labels = before.any(axis=1), now.any(axis=1)
    parity = compared(groups[0]) & ~groups[1]
    none = jnp.zeros((), bool)
    odds = compared(before) & ~now
    return Audit(
        accuracy=none,
        balanced_accuracy=labels[0] & ~labels[1],
        demographic_parity=parity,
        demographic_parity_ratio=parity,
        equal_opportunity=odds[1],
        equalized_odds=odds,
        ks=parity,
        wasserstein=parity,
        selection_rates=(groups[0] & ~groups[1])[0],
        rates=before & ~now,
        counts=jnp.zeros_like(before),
    )


def interval(
    fn: Callable[..., Any], *args: Any, bootstrap: Bootstrap, **options: Any
) -> Estimate:
    """A metric of a sample with its bootstrap interval.

    Args:
        fn: a metric of this package: `accuracy`, `balanced_accuracy`, `group_means`,
            `max_gap`, `min_ratio`, `ks_distance`, `wasserstein`, `price_of_fairness` or
            `audit`. For other statistics see `metrics.bootstrap`.
        *args: its arguments.
        bootstrap: how to resample.
        **options: its options.

    Returns:
        What `fn(*args, **options)` returns, and both ends, of the same structure. The
        counts in the ends of an audit are those of draws. Cost: that of `fn` without
        the sort for each draw; a sort more for `price_of_fairness` and
        `wasserstein(p=2)`.

    Raises:
        ValueError: as `fn` and `metrics.bootstrap`, and for another function.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(80) % 2, n_groups=2)
        >>> draws = Bootstrap(jax.random.key(0), draws=200)
        >>> gap = interval(rates.max_gap, jnp.arange(80) % 2, cond, bootstrap=draws)
        >>> print(gap.value.round(3), gap.low.round(3), gap.high.round(3))
        1.0 1.0 1.0
    """
    if fn not in _RESAMPLED:
        known = ", ".join(f"`{metric.__name__}`" for metric in _RESAMPLED)
        raise ValueError(
            f"`fn` must be one of {known}, but is {fn!r}. Give any other statistic of "
            f"sample weights to `metrics.bootstrap`."
        )
    value = fn(*args, **options)
    prepare, data = _RESAMPLED[fn](*args, **options)
    n = len(data[0])
    check_bootstrap(bootstrap, n=n)
    low, high = compiled_interval(prepare, data, bootstrap, n=n)
    return Estimate(value, low, high)


Prepared = tuple[Callable[..., Statistic], tuple[Any, ...]]


def _means(values: Any, cond: Conditionals) -> tuple[Array, Conditionals]:
    return cells.check_values(values, cond, "values"), cond


def _ks(scores: Any, cond: Conditionals) -> Prepared:
    return ks_statistic, (cells.check_values(scores, cond, "scores"), cond)


def _wasserstein(scores: Any, cond: Conditionals, *, p: int = 1) -> Prepared:
    scores = cells.check_values(scores, cond, "scores")
    return area_statistic if p == 1 else quantile_statistic, (scores, cond)


def _price(scores: Any, groups: Any, *, n_groups: int, weights: Any = None) -> Prepared:
    data = distributions.price_values(scores, groups, n_groups, weights)
    return price_statistic, data


def _audit(*args: Any, **options: Any) -> Prepared:
    scores, parity, cells, mass = audit_values(*args, **options)
    table = jnp.where(cells, mass[None, None, None], 0)
    return audit_statistic, (scores, parity, table)


def _resampled_means(
    measure: Measure, needed: Needed, data: Callable[..., tuple[Any, ...]]
) -> Callable[..., Prepared]:
    prepare = means_statistic(measure, needed)
    return lambda *args, **options: (prepare, data(*args, **options))


def _group_means(means: Array, occupied: Bool[Array, "s g"]) -> Array:
    del occupied
    return means


_RESAMPLED: dict[Callable[..., Any], Callable[..., Prepared]] = {
    rates.accuracy: _resampled_means(
        rates.mean_of_means, all_cells, rates.accuracy_values
    ),
    rates.balanced_accuracy: _resampled_means(
        rates.mean_of_means, all_cells, rates.balanced_values
    ),
    rates.group_means: _resampled_means(_group_means, all_cells, _means),
    rates.max_gap: _resampled_means(rates.mean_gap, compared, _means),
    rates.min_ratio: _resampled_means(rates.mean_ratio, compared, _means),
    distributions.ks_distance: _ks,
    distributions.wasserstein: _wasserstein,
    distributions.price_of_fairness: _price,
    audit: _audit,
}
