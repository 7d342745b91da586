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

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Real

from ..arrays import checks
from ..notions import Conditionals
from ..sweeps.selection import eligible
from . import cells
from .binomial import least_difference, rate_limits, shared_levels

Names = Sequence[Sequence[str]]

_SCAN = 32  # Numbers of samples that are tried at a time.
_MAX_SAMPLES = 10**6  # Of samples that somebody could be asked for.


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


class Guarantee(NamedTuple):
    """A largest true gap of at most `limit`, with probability `confidence`."""

    limit: float
    confidence: float


def select_guaranteed(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    decisions: Real[ArrayLike, "m n"] | Bool[ArrayLike, "m n"],
    cond: Conditionals,
    limit: float,
    confidence: float = 0.95,
    keep: float | Float[ArrayLike, ""] = 0.9,
    valid: Bool[ArrayLike, " m"] | None = None,
    names: Names | None = None,
) -> Selection:
    """The most accurate setting whose largest true gap is shown to be small, or none.

    1. Keep the settings with `accuracy >= keep * max(accuracy)`, as `sweeps.select`.
    2. Of those kept, a point passes when the upper confidence limit of its largest gap
       in the safety set is at most `limit`.
    3. Take the most accurate of those that pass, or none; of ties the least unfair.

    Then the probability, over safety sets, that the chosen point has a largest true gap
    above `limit` is at most `1 - confidence`. Gaps are differences of rates between all
    pairs of groups in all strata, and limits exact for every number of samples,
    one-sided and at the level `(1 - confidence) / k` for k tested points; pairs need no
    correction. So test few: `valid=sweeps.pareto_front(accuracy, unfairness)` is a good
    choice.

    Assumed: given stratum and group, the samples of the safety set are independent
    draws from the population on which the model will decide, such as those that
    `sweeps.safety_split` draws from all of them. They played no part in the models with
    their thresholds, in `accuracy`, `unfairness` or `valid`. One safety set serves one
    call: of several calls, each is promised its own confidence.

    Args:
        accuracy: cross-validated, in [0, 1]; average over folds first.
        unfairness: cross-validated, less is better.
        decisions: 0 or 1, of every point for every sample.
        cond: from a notion, on the safety set; or on all samples, with the mask of
            the safety set as its `weights`.
        limit: the largest gap that is acceptable, in (0, 1).
        confidence: in (0, 1).
        keep: the share of the best accuracy that is good enough, in (0, 1].
        valid: False for settings to leave out, for example those not converged.
        names: of the cells, `names[stratum][group]`, for the reason.

    Returns:
        A `Selection`. Cost O(m n) for the counts, 128 beta quantiles for each point
        and cell, and memory O(m n).

    Raises:
        ValueError: as `sweeps.select` does, inside `jit`, for numbers outside (0, 1),
            decisions other than 0 and 1, unequal weights in a cell, or fewer than two
            groups. That no point passes is no error.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(np.arange(4000) % 2, n_groups=2)
        >>> rows = np.arange(4000)
        >>> unfair, fair = rows % 2, rows % 4 < 2
        >>> found = select_guaranteed(np.array([0.9, 0.85]), np.array([0.2, 0.1]),
        ...     decisions=np.stack([unfair, fair]), cond=cond, limit=0.1)
        >>> found.chosen, found.passed.tolist(), found.high.round(3).tolist()
        (1, [False, True], [1.0, 0.035])
        >>> print(found.reason)
        Point 1 is promised a largest gap of at most 0.1 with 95 % confidence: in the
        safety set the gap is 0.000, its upper limit 0.035. Of 2 tested points 1
        passes; this one is the most accurate.

    References:
        Donini et al., NeurIPS 2018, section 5: the two-step validation procedure.
        Thomas et al., Science 2019; Angelopoulos et al., *Learn then test*, 2021;
        Laufer-Goldshtein et al., *Efficiently controlling multiple risks with Pareto
        testing*, ICLR 2023, for the front.
    """
    able = eligible(accuracy, unfairness, keep=keep, valid=valid)
    if not checks.concrete(able, decisions, cond):
        raise ValueError(
            "`select_guaranteed` works on the host only. Inside `jit`, call "
            "`sweeps.select`, and test the decisions afterwards."
        )
    guarantee = Guarantee(float(limit), float(confidence))
    for name, value in guarantee._asdict().items():
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must be in (0, 1), but is {value}.")
    counts, trials = _counts(decisions, cond, m=able.size)
    if names is not None and [len(row) for row in names] != [trials.shape[1]] * len(
        trials
    ):
        raise ValueError(
            f"`names` must hold a name for each of the {trials.shape[1]} groups in "
            f"each of the {len(trials)} strata."
        )
    return select_tested(
        np.asarray(accuracy),
        np.asarray(unfairness),
        np.asarray(able),
        guarantee=guarantee,
        counts=counts,
        trials=trials,
        names=names,
    )


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
        samples is one call; cost 128 beta quantiles per distinct cell, memory O(m s g).

    References:
        Berger, *Multiparameter hypothesis testing and acceptance sampling*,
        Technometrics 1982, Theorem 1: every part at the full level.
    """
    m, n_strata, n_groups = counts.shape
    safe = np.maximum(trials, 1)
    base = int(safe.max()) + 1
    distinct, row = np.unique(counts * base + safe, return_inverse=True)
    ones, of = (a.astype(float) for a in divmod(distinct, base))
    low, high = _limits(ones, of, failure)
    row = row.reshape(counts.shape)
    rates = counts / safe
    gaps, limits = np.zeros((2, m, n_strata, n_groups, n_groups))
    for g in range(n_groups):
        for h in range(n_groups):
            if g != h:
                below = least_difference(low[row[..., h]], high[row[..., g]])
                some = (trials[:, g] > 0) & (trials[:, h] > 0)
                limits[..., g, h] = np.where(some, -below, 1)
                gaps[..., g, h] = np.where(some, rates[..., g] - rates[..., h], 0)
    worst = limits.reshape(m, -1).argmax(axis=1)
    pair = np.stack(np.unravel_index(worst, limits.shape[1:]), axis=1)
    return GapLimits(
        gaps.max(axis=(1, 2, 3)), np.clip(limits.max(axis=(1, 2, 3)), 0, 1), pair
    )


def select_tested(
    accuracy: Float[np.ndarray, " m"],
    unfairness: Float[np.ndarray, " m"],
    able: Bool[np.ndarray, " m"],
    *,
    guarantee: Guarantee,
    counts: Int[np.ndarray, "m s g"],
    trials: Int[np.ndarray, "s g"],
    names: Names | None = None,
) -> Selection:
    """The most accurate of the points that pass; of ties the least unfair, then first.

    Args:
        accuracy: not of the safety set, as the next two.
        unfairness: likewise.
        able: the points to test, at least one.
        guarantee: what is asked for.
        counts: decisions of 1 in the cells of the safety set.
        trials: samples there.
        names: of the cells.
    """
    failure = (1 - guarantee.confidence) / int(able.sum())
    found = upper_limits(counts, trials, failure=failure)
    passed = able & (found.high <= guarantee.limit)
    index = most_accurate(accuracy, unfairness, passed)
    high = np.where(able, found.high, 1.0)
    selection = Selection(index, passed, able, high, found.gap, "")
    names = names or _plain_names(*trials.shape)
    reason = _reason(selection, found, guarantee, counts, trials, names, failure)
    return selection._replace(reason=reason)


def most_accurate(
    accuracy: Float[np.ndarray, " m"],
    unfairness: Float[np.ndarray, " m"],
    passed: Bool[np.ndarray, " m"],
) -> int | None:
    """The choice among those that passed, as `select_tested` has it."""
    if not passed.any():
        return None
    return int(np.lexsort((unfairness, -accuracy, ~passed))[0])


def _reason(
    selection: Selection,
    found: GapLimits,
    guarantee: Guarantee,
    counts: Int[np.ndarray, "m s g"],
    trials: Int[np.ndarray, "s g"],
    names: Names,
    failure: float,
) -> str:
    wanted = (
        f"a largest gap of at most {guarantee.limit:g} with "
        f"{100 * guarantee.confidence:g} % confidence"
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
    if found.gap[i] >= guarantee.limit:
        return (
            f"{reason} Its gap there is {found.gap[i]:.3f} already: more samples will "
            f"not do, it takes a fairer point."
        )
    needed = _samples_needed(rates, guarantee.limit, failure)
    return f"{reason} At such rates it takes about {_about(needed)} samples of each."


def _samples_needed(rates: Float[np.ndarray, "2"], limit: float, failure: float) -> int:
    """Samples of each of two cells for a difference of their rates within the limit.

    To about 2 %, in two scans.
    """
    sizes = np.geomspace(1, _MAX_SAMPLES, _SCAN)
    for finer in (True, False):
        low, high = _limits(np.outer(rates, sizes).ravel(), np.tile(sizes, 2), failure)
        above = -least_difference(low[_SCAN:], high[:_SCAN])
        at = int((above <= limit).argmax()) if (above <= limit).any() else _SCAN - 1
        if finer and at:
            sizes = np.geomspace(sizes[at - 1], sizes[at], _SCAN)
    return math.ceil(sizes[at])


def _limits(
    counts: Float[np.ndarray, " c"], trials: Float[np.ndarray, " c"], failure: float
) -> tuple[Float[np.ndarray, "c l"], Float[np.ndarray, "c l"]]:
    """Both ends of the rate of every cell, on all levels of a gap."""
    # Above 1/2 the limits of a single rate stop to move anyway.
    levels = shared_levels(np.asarray(math.log(min(failure, 0.5))))
    return rate_limits(counts, trials, levels)


def _plain_names(n_strata: int, n_groups: int) -> Names:
    strata = [f" in stratum {s}" if n_strata > 1 else "" for s in range(n_strata)]
    return [[f"group {g}{words}" for g in range(n_groups)] for words in strata]


def _points(n: int) -> str:
    return "point" if n == 1 else "points"


def _about(n: int) -> str:
    """To two digits; nobody knows more of them."""
    return f"{int(float(f'{n:.1e}')):,}" if n < _MAX_SAMPLES else "a million, or more,"


def _counts(
    decisions: ArrayLike, cond: Conditionals, *, m: int
) -> tuple[Int[np.ndarray, "m s g"], Int[np.ndarray, "s g"]]:
    """Decisions of 1 of each point in each cell, and the samples there."""
    numbers = np.asarray(decisions)
    n_strata, n_groups, n = cond.weights.shape
    if numbers.shape != (m, n):
        raise ValueError(
            f"`decisions` must have a row for each of the {m} points and a column for "
            f"each of the {n} samples of `cond`, but has shape {numbers.shape}."
        )
    if n_groups < 2:
        raise ValueError(
            f"`cond` must compare at least two groups, but has {n_groups}: there is "
            f"no gap to promise."
        )
    ones = numbers == 1
    bad = np.argwhere(~ones & (numbers != 0))
    if bad.size:
        i, j = bad[0]
        raise ValueError(
            f"`decisions` must be 0 or 1, but decisions[{i}, {j}] = {numbers[i, j]}. "
            f"Threshold scores first, for example with `scores > 0`."
        )
    cells.check_alike(cond)
    member = np.asarray(cond.weights) > 0
    counts = np.zeros((m, n_strata, n_groups), np.int64)
    # Cell by cell: the product over all cells would be (m, s, g, n).
    for s, g in np.ndindex(n_strata, n_groups):
        counts[:, s, g] = np.count_nonzero(ones[:, member[s, g]], axis=1)
    return counts, member.sum(axis=-1)
