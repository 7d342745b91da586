"""Guarantees: which points have a small gap in truth, as a safety set shows it.

A point passes when an upper confidence limit of its largest gap is small enough. The
limit of one point is the largest of those of its pairs of cells, each at the full
level: the pair with the largest true gap is one of them, and its own limit fails with
no more than that probability (an intersection-union test, so no correction for pairs).
Several points share the probability of a failure between them (Bonferroni).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from . import _bounds_binomial

Names = Sequence[Sequence[str]]

_CELLS = 64  # A batch of cells has this length or twice, four times, ... as many.
_MOST = 10**6  # Of samples that somebody could be asked for.


class Selection(NamedTuple):
    """The point that is promised, or none; what the safety set says of all of them.

    Attributes:
        chosen: index of the point; None when none passed.
        passed: whose largest gap is promised to be within the limit.
        tested: which points were tested; the others never had a chance.
        high: upper confidence limit of the largest true gap, in [0, 1]; all of them
            hold at once. 1 for points that were not tested.
        gap: largest gap in the safety set, in [0, 1].
        reason: for a person, why this point, or why none and what it would take.
    """

    chosen: int | None
    passed: Bool[np.ndarray, " m"]
    tested: Bool[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    gap: Float[np.ndarray, " m"]
    reason: str


class GapLimits(NamedTuple):
    """Upper limits of the largest gap of every point, each at the same level.

    Attributes:
        gap: the largest one seen, in [0, 1].
        high: upper limit of the true one, in [0, 1].
        pair: the cells that set it: stratum, group of the higher rate, other group.
    """

    gap: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    pair: Int[np.ndarray, "m 3"]


class Wish(NamedTuple):
    """What is to be promised: a largest gap of at most `limit`."""

    limit: float
    confidence: float


def upper_limits(
    counts: Int[np.ndarray, "m s g"], trials: Int[np.ndarray, "s g"], *, failure: float
) -> GapLimits:
    """Largest gaps of rates, as `bounds.binomial` does, one-sided, in float64.

    Args:
        counts: decisions of 1 of each point in each cell.
        trials: samples of each cell; the rate of an empty one may be anything.
        failure: probability with which the limit of a point may fall below its largest
            true gap.

    Returns:
        The limits. Cells of equal counts are computed once, so a simulation of many
        samples is one call; cost about 10^7 operations per cell, memory O(m s g).

    References:
        Berger, *Multiparameter hypothesis testing and acceptance sampling*,
        Technometrics 1982, Theorem 1: every part at the full level.
    """
    m, n_strata, n_groups = counts.shape
    safe = np.maximum(trials, 1)
    base = int(safe.max()) + 1
    cells, row = np.unique(counts * base + safe, return_inverse=True)
    # A power of two, so that there are few shapes to compile for.
    size = max(_CELLS, 1 << (cells.size - 1).bit_length())
    ones, of = (np.resize(a, size).astype(float) for a in divmod(cells, base))
    low, high = _ends(ones, of, failure)
    row = row.reshape(counts.shape)
    rates = counts / safe
    gaps, limits = np.zeros((2, m, n_strata, n_groups, n_groups))
    for g in range(n_groups):
        for h in range(n_groups):
            if g != h:
                below = _bounds_binomial.least_difference(
                    low[row[..., h]], high[row[..., g]]
                )
                some = (trials[:, g] > 0) & (trials[:, h] > 0)
                limits[..., g, h] = np.where(some, -below, 1)
                gaps[..., g, h] = np.where(some, rates[..., g] - rates[..., h], 0)
    worst = limits.reshape(m, -1).argmax(axis=1)
    pair = np.stack(np.unravel_index(worst, limits.shape[1:]), axis=1)
    return GapLimits(
        gaps.max(axis=(1, 2, 3)), np.clip(limits.max(axis=(1, 2, 3)), 0, 1), pair
    )


def choose(
    accuracy: Float[np.ndarray, " m"],
    unfairness: Float[np.ndarray, " m"],
    able: Bool[np.ndarray, " m"],
    *,
    wish: Wish,
    counts: Int[np.ndarray, "m s g"],
    trials: Int[np.ndarray, "s g"],
    names: Names | None = None,
) -> Selection:
    """The most accurate of the points that pass; of ties the least unfair, then first.

    Args:
        accuracy: not of the safety set, as the next two.
        unfairness: likewise.
        able: the points to test, at least one.
        wish: what is to be promised.
        counts: decisions of 1 in the cells of the safety set.
        trials: samples there.
        names: of the cells.
    """
    failure = (1 - wish.confidence) / int(able.sum())
    found = upper_limits(counts, trials, failure=failure)
    passed = able & (found.high <= wish.limit)
    index = most_accurate(accuracy, unfairness, passed)
    high = np.where(able, found.high, 1.0)
    selection = Selection(index, passed, able, high, found.gap, "")
    names = names or _plain_names(*trials.shape)
    words = _why(selection, found, wish, counts, trials, names, failure)
    return selection._replace(reason=words)


def most_accurate(
    accuracy: Float[np.ndarray, " m"],
    unfairness: Float[np.ndarray, " m"],
    passed: Bool[np.ndarray, " m"],
) -> int | None:
    """The choice among those that passed, as `choose` has it."""
    if not passed.any():
        return None
    return int(np.lexsort((unfairness, -accuracy, ~passed))[0])


def _why(
    selection: Selection,
    found: GapLimits,
    wish: Wish,
    counts: Int[np.ndarray, "m s g"],
    trials: Int[np.ndarray, "s g"],
    names: Names,
    failure: float,
) -> str:
    wanted = (
        f"a largest gap of at most {wish.limit:g} with {100 * wish.confidence:g} % "
        f"confidence"
    )
    n_tested = int(selection.tested.sum())
    i = selection.chosen
    if i is not None:
        n_passed = int(selection.passed.sum())
        return (
            f"Point {i} is promised {wanted}: in the safety set the gap is "
            f"{found.gap[i]:.3f}, its upper limit {selection.high[i]:.3f}. Of "
            f"{n_tested} tested {_points(n_tested)} {n_passed} "
            f"{'passes' if n_passed == 1 else 'pass'}; this one is the most accurate."
        )
    nothing = f"No point can be promised {wanted}"
    empty = np.argwhere(trials == 0)
    if empty.size:
        stratum, group = empty[0]
        return (
            f"{nothing}: the safety set has no samples of {names[stratum][group]}, "
            f"whose decisions may be anything."
        )
    i = int(np.where(selection.tested, selection.high, np.inf).argmin())
    s, g, h = found.pair[i]
    rates = (counts[i] / trials)[s, [g, h]]
    reason = (
        f"{nothing}: of {n_tested} tested {_points(n_tested)}, point {i} has the least "
        f"upper limit, {selection.high[i]:.3f}. It is set by {names[s][g]} and "
        f"{names[s][h]}, with {trials[s, g]:,} and {trials[s, h]:,} samples in the "
        f"safety set and rates of {rates[0]:.3f} and {rates[1]:.3f}."
    )
    if found.gap[i] >= wish.limit:
        return (
            f"{reason} Its gap there is {found.gap[i]:.3f} already: more samples will "
            f"not do, it takes a fairer point."
        )
    needed = _samples_needed(rates, wish.limit, failure)
    return f"{reason} At such rates it takes about {_about(needed)} samples of each."


def _samples_needed(rates: Float[np.ndarray, "2"], limit: float, failure: float) -> int:
    """Samples of each of two cells for a difference of their rates within the limit.

    To about 2 %, in two scans of as many numbers as are computed at once.
    """
    half = _CELLS // 2
    sizes = np.geomspace(1, _MOST, half)
    for finer in (True, False):
        low, high = _ends(np.outer(rates, sizes).ravel(), np.tile(sizes, 2), failure)
        above = -_bounds_binomial.least_difference(low[half:], high[:half])
        at = int((above <= limit).argmax()) if (above <= limit).any() else half - 1
        if finer and at:
            sizes = np.geomspace(sizes[at - 1], sizes[at], half)
    return math.ceil(sizes[at])


def _ends(
    counts: Float[np.ndarray, " c"], trials: Float[np.ndarray, " c"], failure: float
) -> tuple[Float[np.ndarray, "c l"], Float[np.ndarray, "c l"]]:
    """Both ends of the chance of every cell, on all levels of a gap."""
    with jax.enable_x64(True):
        # Above 1/2 the limits of a single chance stop to move anyway.
        log = jnp.asarray(math.log(min(failure, 0.5)))
        low, high = _bounds_binomial.both_ends(
            jnp.asarray(counts),
            jnp.asarray(trials),
            _bounds_binomial.shared_levels(log),
        )
        return np.asarray(low), np.asarray(high)


def _plain_names(n_strata: int, n_groups: int) -> Names:
    strata = [f" in stratum {s}" if n_strata > 1 else "" for s in range(n_strata)]
    return [[f"group {g}{words}" for g in range(n_groups)] for words in strata]


def _points(n: int) -> str:
    return "point" if n == 1 else "points"


def _about(n: int) -> str:
    """To two digits; nobody knows more of them."""
    return f"{int(float(f'{n:.1e}')):,}" if n < _MOST else "a million, or more,"
