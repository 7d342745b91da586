"""Distances and gaps of scores between groups, for rows in the order of their scores.

Resampling changes weights and never the order, so rows are sorted once and a draw of
the bootstrap costs no sort. The values are those of `metrics`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .. import metrics, notions, sweeps
from ..notions import Conditionals

LEVEL = 0.9  # Of the intervals.
MEAN = "difference of mean scores [score]"
KS = "KS distance [0-1]"
AREA = "Wasserstein-1 distance [score]"
ROOT = "Wasserstein-2 distance [score]"
PRICE = "price of fairness [score^2]"
PARITY = "difference of selection rates, demographic parity [0-1]"
RATIO = "ratio of selection rates [0-1]"
OPPORTUNITY = "difference of true positive rates, equal opportunity [0-1]"
FALSE_RATE = "difference of false positive rates [0-1]"
ODDS = "the larger of these two, equalized odds [0-1]"
ACCURACY = "difference of accuracies [0-1]"
BIAS = "difference of mean errors [score]"
SQUARES = "difference of mean squared errors [score^2]"
_ORDER = (MEAN, KS, AREA, ROOT, PRICE, PARITY, RATIO, OPPORTUNITY, FALSE_RATE, ODDS,
          ACCURACY, BIAS, SQUARES)  # fmt: skip


class Distances(NamedTuple):
    """The largest distances between the scores of two groups.

    Attributes:
        ks: Kolmogorov-Smirnov distance, in [0, 1].
        wasserstein: first Wasserstein distance [score].
    """

    ks: Float[Array, ""]
    wasserstein: Float[Array, ""]


class Gap(NamedTuple):
    """One number that is 0 (a ratio: 1) when groups are treated alike.

    Attributes:
        name: what it is, with its unit.
        value: on all rows.
        low: lower end of the interval, NaN for none.
        high: upper end.
    """

    name: str
    value: float
    low: float
    high: float


class Sorted(NamedTuple):
    """Rows in the order of their scores.

    Attributes:
        scores: increasing.
        groups: codes.
        weights: sample weights.
        decisions: 0 or 1, or None when there are none.
        labels: 0 and 1, or real numbers, or None.
        binary: whether the labels are 0 and 1.
    """

    scores: Float[Array, " n"]
    groups: Int[Array, " n"]
    weights: Float[Array, " n"]
    decisions: Float[Array, " n"] | None
    labels: Float[Array, " n"] | None
    binary: bool


def distances(scores: Float[Array, " n"], cond: Conditionals) -> Distances:
    """`metrics.ks_distance` and `metrics.wasserstein` of increasing scores.

    The second is the area between two distribution functions; cost O(g^2 n).
    """
    levels = jnp.cumsum(cond.weights[0], axis=-1)
    occupied = cond.occupied[0]
    width = jnp.diff(scores, append=scores[-1:])

    def costs_from(group: Int[Array, ""]) -> tuple[Float[Array, " g"], ...]:
        apart = jnp.abs(levels - levels[group][None])
        # Between tied scores the distribution functions have no value of their own.
        highest = jnp.where(width > 0, apart, 0).max(axis=-1)
        both = occupied & occupied[group]
        return jnp.where(both, highest, 0), jnp.where(both, apart @ width, 0)

    ks, area = jax.lax.map(costs_from, jnp.arange(occupied.shape[0]))
    return Distances(ks.max(), area.max())


@jax.jit
def _distances_of(scores, groups, weights, names):
    cond = notions.demographic_parity(groups, n_groups=names.shape[0], weights=weights)
    return distances(scores, cond)


def distances_between(
    scores: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    *,
    n_groups: int,
) -> Distances:
    """The distances of rows in any order; NumPy sorts ten times faster than XLA."""
    order = np.argsort(scores, kind="stable")
    return _distances_of(
        scores[order], groups[order], weights[order], np.ones(n_groups)
    )


def gaps(
    rows: Sorted,
    *,
    n_groups: int,
    draws: int,
    progress: sweeps.Progress,
) -> list[Gap]:
    """All gaps that the rows allow, with percentile intervals of a seeded bootstrap.

    The second Wasserstein distance and the price of fairness, which need a sort per
    draw, have no interval.
    """
    statistic = _statistic(rows, n_groups)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, draws)

    def drawn(weights: Float[Array, " n"]) -> dict[str, Float[Array, ""]]:
        jax.debug.callback(tick)
        return statistic(rows.weights * weights)

    values = jax.jit(statistic)(rows.weights)
    values |= _transport(rows.scores, rows.groups, rows.weights, np.ones(n_groups))
    low, high = metrics.bootstrap(
        drawn, n=rows.scores.shape[0], key=jax.random.key(0), draws=draws, level=LEVEL
    )
    none = float("nan")
    return [
        Gap(name, *(float(found.get(name, none)) for found in (values, low, high)))
        for name in _ORDER
        if name in values
    ]


@jax.jit
def _transport(scores, groups, weights, names):
    n_groups = names.shape[0]
    cond = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    price = metrics.price_of_fairness(
        scores, groups, n_groups=n_groups, weights=weights
    )
    return {ROOT: metrics.wasserstein(scores, cond, p=2), PRICE: price}


def _statistic(
    rows: Sorted, n_groups: int
) -> Callable[[Float[Array, " n"]], dict[str, Float[Array, ""]]]:
    """From weights to every gap by its name."""

    def statistic(weights: Float[Array, " n"]) -> dict[str, Float[Array, ""]]:
        parity = notions.demographic_parity(
            rows.groups, n_groups=n_groups, weights=weights
        )
        apart = distances(rows.scores, parity)
        found = {
            MEAN: metrics.max_gap(rows.scores, parity),
            KS: apart.ks,
            AREA: apart.wasserstein,
        }
        if rows.decisions is not None:
            found[PARITY] = metrics.max_gap(rows.decisions, parity)
            found[RATIO] = metrics.min_ratio(rows.decisions, parity)
        if rows.labels is not None and not rows.binary:
            error = rows.scores - rows.labels
            found[BIAS] = metrics.max_gap(error, parity)
            found[SQUARES] = metrics.max_gap(jnp.square(error), parity)
        if rows.labels is not None and rows.binary and rows.decisions is not None:
            found |= _errors(
                rows.decisions, rows.labels, rows.groups, weights, n_groups
            )
            right = (rows.decisions == rows.labels).astype(weights.dtype)
            found[ACCURACY] = metrics.max_gap(right, parity)
        return found

    return statistic


def _errors(
    decisions: Float[Array, " n"],
    labels: Float[Array, " n"],
    groups: Int[Array, " n"],
    weights: Float[Array, " n"],
    n_groups: int,
) -> dict[str, Float[Array, ""]]:
    odds = notions.equalized_odds(
        groups, labels.astype(jnp.int32), n_groups=n_groups, weights=weights
    )

    def gap(part: slice) -> Float[Array, ""]:
        cond = Conditionals(odds.weights[part], odds.occupied[part])
        return metrics.max_gap(decisions, cond)

    return {
        OPPORTUNITY: gap(slice(1, 2)),
        FALSE_RATE: gap(slice(0, 1)),
        ODDS: gap(slice(0, 2)),
    }


def in_order(
    scores: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    *,
    decisions: Bool[np.ndarray, " n"] | None,
    labels: Float[np.ndarray, " n"] | None,
    binary: bool,
) -> Sorted:
    """Sorts rows by their scores."""
    order = np.argsort(scores, kind="stable")
    return Sorted(
        jnp.asarray(scores[order]),
        jnp.asarray(groups[order]),
        jnp.asarray(weights[order]),
        None if decisions is None else jnp.asarray(decisions[order], float),
        None if labels is None else jnp.asarray(labels[order]),
        binary,
    )


def chance(
    groups: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> list[str]:
    """What KS distance the sizes of the groups would explain, in a sentence.

    Rows of weight 0 are no evidence; for those of different weights there is no such
    law, and no sentence.

    References:
        Smirnov, *Table for estimating the goodness of fit of empirical distributions*,
        Annals of Mathematical Statistics 1948: the limit law of the distance.
    """
    used = weights > 0
    sizes = np.sort(np.bincount(groups[used]))
    sizes = sizes[sizes > 0]
    if sizes.size < 2:
        return ["All rows are of one group, so there is no distance to see."]
    if np.ptp(weights[used]):
        return []
    small, large = sizes[:2]
    tail = np.sqrt(-np.log((1 - LEVEL) / 2) / 2)
    bound = min(tail * np.sqrt(1 / small + 1 / large), 1.0)
    return [
        f"By chance alone, two groups of {small:,} and {large:,} rows with one "
        f"distribution stay below a KS distance of {bound:.2g} in {LEVEL:.0%} of "
        f"samples."
    ]
