"""The formulas of `metrics` as functions of counts, for `_resampling`.

Each function here takes the sample, sorts and multiplies what no draw changes, and
returns the statistic. A draw in which a cell has lost its last sample is NaN in the
numbers that read it: the rate of an empty cell is unknown and not 0, and a gap without
it is another one. Left out, it leaves the interval given that no cell is empty, as none
is in the sample.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Int

from ..arrays import ranks
from ..notions import Conditionals
from ..notions import cells as _distributions
from . import measures
from .bootstrapping import Statistic
from .measures import Audit

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
def of_means(measure: Measure, needed: Needed) -> Callable[..., Statistic]:
    """A measure of cell means; two products of the counts with (s, g, n) per draw."""

    def prepare(values: Float[Array, " n"], cond: Conditionals) -> Statistic:
        rows = cond.weights.astype(values.dtype)
        scaled, unit = ranks.rescaled(values, (rows > 0).any(axis=(0, 1)))
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


class Ordered(NamedTuple):
    """Samples in the order of their scores: what all draws share.

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


def in_order(scores: Float[Array, " n"], cond: Conditionals) -> Ordered:
    """Sorts samples by their scores."""
    used = (cond.weights > 0).any(axis=(0, 1))
    scaled, unit = ranks.rescaled(scores, used)
    order = jnp.argsort(scores)
    held = jax.lax.cummax(jnp.where(used, scaled, -1)[order])
    rows = cond.weights[..., order].astype(scores.dtype)
    peak = rows.max(axis=-1, keepdims=True, initial=0)
    rows = rows / jnp.where(peak > 0, peak, 1)
    return Ordered(order, held, unit, measures.last_of_ties(scores[order]), rows)


def cells(samples: Ordered, counts: Float[Array, " n"]) -> Conditionals:
    """The cells of a draw."""
    drawn = counts[samples.order].astype(samples.rows.dtype)
    mass = samples.rows * drawn[None, None]
    total = mass.sum(axis=-1, keepdims=True)
    some = total > 0
    return Conditionals(mass / jnp.where(some, total, 1), some[..., 0])


def levels(
    samples: Ordered, counts: Float[Array, " n"]
) -> tuple[Float[Array, "s g n"], Bool[Array, "s g"]]:
    """Distribution functions of a draw, and which cells are occupied."""
    drawn = counts[samples.order].astype(samples.rows.dtype)
    mass = samples.rows * drawn[None, None]
    sums = jnp.cumsum(mass, axis=-1)
    total = sums[..., -1:]
    some = total > 0
    return sums / jnp.where(some, total, 1), some[..., 0]


def between(
    samples: Ordered, levels: Float[Array, "s g n"], occupied: Bool[Array, "s g"]
) -> Float[Array, ""]:
    """The largest area between two distribution functions, which needs no sort."""
    pairs = tuple(jnp.asarray(codes) for codes in np.triu_indices(levels.shape[1], 1))
    if not pairs[0].size:
        return jnp.zeros((), levels.dtype)
    widths = jnp.diff(samples.scores, append=samples.scores[-1:])

    def of(pair: tuple[Int[Array, ""], Int[Array, ""]]) -> Float[Array, ""]:
        one, other = pair
        apart = jnp.abs(levels[:, one] - levels[:, other])
        areas = jnp.matmul(apart, widths, precision=Precision.HIGHEST)
        both = occupied[:, one] & occupied[:, other]
        return jnp.where(both, areas, 0).max(initial=0)

    # One pair at a time, so that memory stays that of the levels.
    return jax.lax.map(of, pairs).max() * samples.unit


def ks(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.ks_distance`; a cumulative sum of (s, g, n) per draw."""
    samples = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        heights, some = levels(samples, counts)
        found = measures.highest(heights, some, samples.last)
        return _known(found, compared(cond.occupied) & ~some)

    return statistic


def area(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.wasserstein` with p = 1; a cumulative sum of (s, g, n) per draw."""
    samples = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        heights, some = levels(samples, counts)
        found = between(samples, heights, some)
        return _known(found, compared(cond.occupied) & ~some)

    return statistic


def root(scores: Float[Array, " n"], cond: Conditionals) -> Statistic:
    """Of `metrics.wasserstein` with p = 2; a sort of the levels per draw."""
    samples = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        drawn = cells(samples, counts)
        values, widths = _distributions.steps(samples.scores, drawn)
        found = measures.farthest(values, widths, drawn.occupied, 2) * samples.unit
        return _known(found, compared(cond.occupied) & ~drawn.occupied)

    return statistic


def price(
    scores: Float[Array, " n"], cond: Conditionals, mass: Float[Array, "g n"]
) -> Statistic:
    """Of `metrics.price_of_fairness`; a sort of the levels per draw."""
    samples = in_order(scores, cond)

    def statistic(counts: Float[Array, " n"]) -> Array:
        drawn = cells(samples, counts)
        values, widths = _distributions.steps(samples.scores, drawn)
        amounts = jnp.matmul(
            mass, counts.astype(mass.dtype), precision=Precision.HIGHEST
        )
        total = amounts.sum()
        shares = amounts / jnp.where(total > 0, total, 1)
        found = measures.price(values, widths, shares) * samples.unit * samples.unit
        return _known(found, cond.occupied & ~drawn.occupied)

    return statistic


def audit(
    scores: Float[Array, " n"], parity: Conditionals, table: Float[Array, "2 g 2 n"]
) -> Statistic:
    """Of `metrics.audit`: the classes of samples by a product, scores by their order.

    Counts are those of draws.
    """
    samples = in_order(scores, parity)
    present = (table > 0).any(axis=2).astype(table.dtype)
    occupied = present.any(axis=-1)

    def statistic(counts: Float[Array, " n"]) -> Audit:
        heights, some = levels(samples, counts)
        weights = counts.astype(table.dtype)
        product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
        sizes = product(present, weights)
        found = measures.gathered(
            product(table, weights),
            ks=measures.highest(heights, some, samples.last),
            wasserstein=between(samples, heights, some),
            counts=sizes,
        )
        return jax.tree.map(_known, found, _lost(occupied, sizes > 0))

    return statistic


def _lost(before: Bool[Array, "2 g"], now: Bool[Array, "2 g"]) -> Audit:
    """Which cells each number of an audit misses."""
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
