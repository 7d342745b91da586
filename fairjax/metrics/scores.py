"""Gaps and distances of scores between groups, for tables on the host.

Resampling changes weights and never the order of the scores, so rows are sorted once
and a draw of the bootstrap costs no sort. The values are those of `max_gap`,
`ks_distance`, `wasserstein` and `price_of_fairness`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .. import notions
from ..notions import Conditionals
from .bootstrap import (
    Bootstrap,
    Estimate,
    batch_of,
    check_bootstrap,
    draw_quantiles,
)
from .distributions import price_of_fairness, wasserstein
from .rates import max_gap, min_ratio

Gaps = dict[str, Float[Array, ""]]


class ScoreDistances(NamedTuple):
    """The largest distances between the scores of two groups.

    Attributes:
        ks: Kolmogorov-Smirnov distance, in [0, 1].
        wasserstein: first Wasserstein distance [score].
    """

    ks: Float[Array, ""]
    wasserstein: Float[Array, ""]


def score_distances(
    scores: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    *,
    n_groups: int,
) -> ScoreDistances:
    """`ks_distance` and `wasserstein` between groups, both from one sort.

    Args:
        scores: in any order; NumPy sorts them ten times faster than XLA.
        groups: codes in [0, n_groups).
        weights: sample weights.
        n_groups: number of groups; one without weight has no distance.

    Returns:
        The largest of each. Cost: O(n log n + n_groups^2 n).

    Example:
        >>> score_distances(np.array([0.0, 1.0, 3.0]), np.array([0, 0, 1]), np.ones(3),
        ...     n_groups=2).ks.item()
        1.0
    """
    order = np.argsort(scores, kind="stable")
    parity = _parity(groups[order], weights[order], np.ones(n_groups))
    return _distances(scores[order], parity)


def score_gaps(
    scores: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    *,
    n_groups: int,
    decisions: Bool[np.ndarray, " n"] | None = None,
    labels: Bool[np.ndarray, " n"] | Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
    draws: int = 200,
    level: float = 0.9,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Estimate]:
    """All gaps between groups that the data allow, with bootstrap intervals.

    Args:
        scores: finite numbers.
        groups: codes in [0, n_groups).
        weights: sample weights.
        n_groups: number of groups.
        decisions: of each sample, for gaps of rates.
        labels: True and False, for gaps of errors where there are decisions; or real
            numbers, for gaps of the errors of the scores.
        seed: of the draws.
        draws: number of resamples.
        level: of the percentile intervals, in (0, 1).
        progress: called with the draws done and their number.

    Returns:
        By name, always "mean", "ks", "wasserstein", "wasserstein_2" and
        "price_of_fairness", of which the last two need a sort per draw and have the
        ends NaN; with decisions "selection_rate" and "selection_ratio"; with binary
        labels too "true_positive_rate", "false_positive_rate", "equalized_odds" and
        "accuracy"; with real labels "error" and "squared_error".
    """
    order = np.argsort(scores, kind="stable")
    rows = _Rows(
        jnp.asarray(scores[order]),
        jnp.asarray(groups[order]),
        jnp.asarray(weights[order]),
        None if decisions is None else jnp.asarray(decisions[order], float),
        None if labels is None else jnp.asarray(labels[order]),
        jnp.ones(n_groups),
    )
    how = Bootstrap(jax.random.key(seed), draws, level, "percentile")
    check_bootstrap(how, n=scores.size)
    # The rows as they are, then a part of the draws at a time, to be seen in progress.
    size, parts = batch_of(draws + 1, scores.size), []
    for first in range(-1, draws, size):
        numbers = np.arange(first, first + size)  # All parts are of one length.
        parts.append(jax.device_get(_resampled(how, numbers, rows)))
        if progress:
            progress(min(first + size, draws), draws)
    names = list(parts[0])
    table = np.concatenate([np.stack([*part.values()], axis=1) for part in parts])
    value, drawn = table[0], table[1 : draws + 1]
    tails = np.array([1 - level, 1 + level], table.dtype)[:, None] / 2
    low, high = _ends(drawn, np.broadcast_to(tails, (2, len(names))))
    found = {
        name: Estimate(*map(float, numbers))
        for name, *numbers in zip(names, value, low, high, strict=True)
    }
    for name, number in _transport(*rows[:3], rows.names).items():
        found[name] = Estimate(float(number), np.nan, np.nan)
    return found


def ks_by_chance(smaller: int, larger: int, *, level: float = 0.9) -> float:
    """The KS distance below which two samples of one distribution stay.

    Args:
        smaller: size of one sample.
        larger: size of the other.
        level: share of pairs of samples that stay below, in (0, 1).

    Returns:
        At most 1; by the limit law of the distance, so for samples that are not tiny.

    References:
        Smirnov, *Table for estimating the goodness of fit of empirical distributions*,
        Annals of Mathematical Statistics 1948.

    Example:
        >>> round(ks_by_chance(100, 100), 3)
        0.173
    """
    quantile = np.sqrt(-np.log((1 - level) / 2) / 2)
    return min(float(quantile * np.sqrt(1 / smaller + 1 / larger)), 1.0)


@jax.jit
def _parity(groups, weights, names) -> Conditionals:
    return notions.demographic_parity(groups, n_groups=names.size, weights=weights)


@jax.jit
def _distances(scores: Float[Array, " n"], cond: Conditionals) -> ScoreDistances:
    """The distances of increasing scores; the second is an area between two CDFs."""
    cdf = jnp.cumsum(cond.weights[0], axis=-1)
    occupied = cond.occupied[0]
    width = jnp.diff(scores, append=scores[-1:])

    def distances_from(group: Int[Array, ""]) -> tuple[Float[Array, " g"], ...]:
        distances = jnp.abs(cdf - cdf[group][None])
        # Between tied scores the distribution functions have no value of their own.
        highest = jnp.where(width > 0, distances, 0).max(axis=-1)
        both = occupied & occupied[group]
        return jnp.where(both, highest, 0), jnp.where(both, distances @ width, 0)

    ks, area = jax.lax.map(distances_from, jnp.arange(occupied.shape[0]))
    return ScoreDistances(ks.max(), area.max())


class _Rows(NamedTuple):
    """Rows of `score_gaps` in the order of their scores, and a one for each group."""

    scores: Float[Array, " n"]
    groups: Int[Array, " n"]
    weights: Float[Array, " n"]
    decisions: Float[Array, " n"] | None
    labels: Bool[Array, " n"] | Float[Array, " n"] | None
    names: Float[Array, " g"]


def _gaps(rows: _Rows) -> Gaps:
    """The gaps that a draw costs no sort."""
    scores, groups, weights, decisions, labels, names = rows
    parity = _parity(groups, weights, names)
    distances = _distances(scores, parity)
    found = {
        "mean": max_gap(scores, parity),
        "ks": distances.ks,
        "wasserstein": distances.wasserstein,
    }
    if decisions is not None:
        found["selection_rate"] = max_gap(decisions, parity)
        found["selection_ratio"] = min_ratio(decisions, parity)
    if labels is not None and labels.dtype != bool:
        found["error"] = max_gap(scores - labels, parity)
        found["squared_error"] = max_gap(jnp.square(scores - labels), parity)
    elif labels is not None and decisions is not None:
        odds = notions.equalized_odds(
            groups, labels.astype(jnp.int32), n_groups=names.size, weights=weights
        )
        found |= _rate_gaps(decisions, odds)
        right = ((decisions > 0) == labels).astype(weights.dtype)
        found["accuracy"] = max_gap(right, parity)
    return found


@jax.jit
def _resampled(
    how: Bootstrap, numbers: Int[Array, " b"], rows: _Rows
) -> dict[str, Float[Array, " b"]]:
    """The gaps of some draws, by their numbers; -1 is the sample itself."""
    n = rows.scores.size
    keys = jax.random.split(how.key, how.draws)

    def gaps(number: Int[Array, ""]) -> Gaps:
        picks = jax.random.randint(keys[number], (n,), 0, n)
        counts = jnp.where(number < 0, 1.0, jnp.zeros(n).at[picks].add(1.0))
        return _gaps(rows._replace(weights=rows.weights * counts))

    return jax.vmap(gaps)(numbers)


_ends = jax.jit(draw_quantiles)


@jax.jit
def _transport(scores, groups, weights, names) -> Gaps:
    cond = _parity(groups, weights, names)
    price = price_of_fairness(scores, groups, n_groups=names.size, weights=weights)
    return {
        "wasserstein_2": wasserstein(scores, cond, p=2),
        "price_of_fairness": price,
    }


def _rate_gaps(decisions: Float[Array, " n"], odds: Conditionals) -> Gaps:
    """Gaps of both rates of decisions; stratum 0 has label 0, stratum 1 label 1."""

    def gap(strata: slice) -> Float[Array, ""]:
        cond = Conditionals(odds.weights[strata], odds.occupied[strata])
        return max_gap(decisions, cond)

    return {
        "true_positive_rate": gap(slice(1, 2)),
        "false_positive_rate": gap(slice(0, 1)),
        "equalized_odds": gap(slice(0, 2)),
    }
