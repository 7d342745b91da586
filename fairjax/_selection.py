"""Selection of one point of a sweep: the front, P1's procedure, and a promise."""

from collections.abc import Sequence
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from . import _bounds_cells, _guarantees, checks
from ._guarantees import Selection as Selection
from ._splits import as_columns
from .notions import Conditionals


def pareto_front(
    quality: Float[ArrayLike, " m"], unfairness: Float[ArrayLike, " m"]
) -> Bool[Array, " m"]:
    """Which points no other point beats: at least as good in both, better in one.

    Args:
        quality: more is better, such as accuracy.
        unfairness: less is better, such as a gap.

    Returns:
        The mask of the front. Of identical points only the first is on it; a point
        with a NaN or an infinity never is. One sort, O(m log m).

    Raises:
        ValueError: for no points, or shapes that differ.

    Example:
        >>> pareto_front(
        ...     jnp.array([0.9, 0.8, 0.7]), jnp.array([0.2, 0.1, 0.1])).tolist()
        [True, True, False]
    """
    quality, unfairness = as_columns(quality=quality, unfairness=unfairness)
    finite = jnp.isfinite(quality) & jnp.isfinite(unfairness)
    quality = jnp.where(finite, quality, -jnp.inf)
    unfairness = jnp.where(finite, unfairness, jnp.inf)
    order = jnp.lexsort((-quality, unfairness))
    # Everything earlier in this order is at least as fair: only a new record counts.
    record = jax.lax.cummax(quality[order])
    before = jnp.concatenate([jnp.full(1, -jnp.inf, quality.dtype), record[:-1]])
    return jnp.zeros(quality.shape, bool).at[order].set(quality[order] > before)


@overload
def select(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    keep: float | Float[ArrayLike, ""] = 0.9,
    valid: Bool[ArrayLike, " m"] | None = None,
    guarantee: None = None,
) -> Int[Array, ""]: ...
@overload
def select(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    keep: float | Float[ArrayLike, ""] = 0.9,
    valid: Bool[ArrayLike, " m"] | None = None,
    guarantee: tuple[float, float],
    decisions: Real[ArrayLike, "m n"] | Bool[ArrayLike, "m n"],
    cond: Conditionals,
    names: Sequence[Sequence[str]] | None = None,
) -> Selection: ...
def select(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    keep: float | Float[ArrayLike, ""] = 0.9,
    valid: Bool[ArrayLike, " m"] | None = None,
    guarantee: tuple[float, float] | None = None,
    decisions: Real[ArrayLike, "m n"] | Bool[ArrayLike, "m n"] | None = None,
    cond: Conditionals | None = None,
    names: Sequence[Sequence[str]] | None = None,
) -> Int[Array, ""] | Selection:
    """P1's validation procedure; with a guarantee, a test on samples set aside.

    1. Keep the settings with `accuracy >= keep * max(accuracy)`.
    2. Take the least unfair of them; of ties the most accurate, then the first.

    With `guarantee=(limit, confidence)` step 2 becomes a promise:

    2. Of those kept, a point passes when the upper confidence limit of its largest gap
       in the safety set is at most `limit`.
    3. Take the most accurate of those that pass, or none; of ties the least unfair.

    Then the probability, over safety sets, that the chosen point has a largest true gap
    above `limit` is at most `1 - confidence`. Gaps are differences of rates between all
    pairs of groups in all strata, and limits exact for every number of samples, one-
    sided and at the level `(1 - confidence) / k` for k tested points; pairs need no
    correction (see `_guarantees`). So test few: `valid=pareto_front(accuracy,
    unfairness)` is a good choice.

    Assumed: given stratum and group, the samples of the safety set are independent
    draws from the population on which the model will decide, such as those that
    `safety_split` draws from all of them. They played no part in the models with their
    thresholds, in `accuracy`, `unfairness` or `valid`. One safety set serves
    one call: of several calls, each is promised its own confidence.

    Args:
        accuracy: cross-validated, in [0, 1]; average over folds first.
        unfairness: cross-validated, less is better.
        keep: the share of the best accuracy that is good enough, in (0, 1].
        valid: False for settings to leave out, for example those not converged.
        guarantee: the limit and the confidence, each in (0, 1).
        decisions: 0 or 1, of every point for every sample; for a guarantee only, as
            all that follows.
        cond: from a notion, on the safety set; or on all samples, with the mask of
            the safety set as its `weights`.
        names: of the cells, `names[stratum][group]`, for the reason.

    Returns:
        Its index, without a guarantee. Points with a NaN or an infinity are never
        chosen. Inside `jit`, which cannot raise, -1 means that no point can be chosen.
        Cost O(m). With a guarantee a `Selection`, from the host only, at a cost of
        O(m n) for the counts, some 10^7 operations for each point and cell, and memory
        O(m n).

    Raises:
        ValueError: for no points, shapes that differ, `keep` outside (0, 1], or
            when no point can be chosen, none having an accuracy >= 0. With a guarantee
            also inside `jit`, for numbers outside (0, 1), decisions other than 0 and 1,
            unequal weights in a cell, or fewer than two groups. That no point passes is
            no error.

    Example:
        >>> select(jnp.array([0.9, 0.85, 0.5]), jnp.array([0.2, 0.1, 0.0])).item()
        1
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(np.arange(4000) % 2, n_groups=2)
        >>> rows = np.arange(4000)
        >>> unfair, fair = rows % 2, rows % 4 < 2
        >>> found = select(np.array([0.9, 0.85]), np.array([0.2, 0.1]),
        ...     guarantee=(0.1, 0.95), decisions=np.stack([unfair, fair]), cond=cond)
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
    accuracy, unfairness = as_columns(accuracy=accuracy, unfairness=unfairness)
    able = jnp.isfinite(accuracy) & jnp.isfinite(unfairness)
    if valid is not None:
        checks.check_length(valid, n=accuracy.shape[0], name="valid", to="accuracy")
        able = able & jnp.asarray(valid)
    if checks.concrete(keep) and not 0 < float(np.asarray(keep)) <= 1:
        raise ValueError(f"`keep` must be in (0, 1], but is {keep}. The paper has 0.9.")
    best = jnp.max(jnp.where(able, accuracy, -jnp.inf))
    if checks.concrete(best) and not best >= 0:
        raise ValueError(
            f"none of the {able.size} points can be chosen: each has a NaN, an "
            f"infinity or a negative accuracy, or is not `valid`. Widen the grid or "
            f"loosen `valid`; accuracy is a share, such as 1 - normalised error."
        )
    able = able & (best >= 0) & (accuracy >= jnp.asarray(keep, best.dtype) * best)
    if guarantee is None:
        extra = {"decisions": decisions, "cond": cond, "names": names}
        for name, value in extra.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` has no use without `guarantee`. Give (limit, confidence)"
                    f", or leave it out."
                )
        least = jnp.min(jnp.where(able, unfairness, jnp.inf))
        ranks = jnp.where(able & (unfairness == least), accuracy, -jnp.inf)
        return jnp.where(able.any(), jnp.argmax(ranks), -1)
    if decisions is None or cond is None:
        raise ValueError(
            "`guarantee` needs `decisions`, of every point for every sample, and "
            "`cond`, from a notion on the safety set."
        )
    if not checks.concrete(able, decisions, cond):
        raise ValueError(
            "`select` makes promises on the host only. Inside `jit`, leave `guarantee` "
            "out, and test the decisions afterwards."
        )
    wish = _guarantees.Wish(*map(float, guarantee))
    for name, value in zip(("limit", "confidence"), wish, strict=True):
        if not 0 < value < 1:
            raise ValueError(
                f"`guarantee` is (limit, confidence), each in (0, 1), but its {name} "
                f"is {value}."
            )
    counts, trials = _counts(decisions, cond, m=able.size)
    if names is not None and [len(row) for row in names] != [trials.shape[1]] * len(
        trials
    ):
        raise ValueError(
            f"`names` must hold a name for each of the {trials.shape[1]} groups in "
            f"each of the {len(trials)} strata."
        )
    return _guarantees.choose(
        np.asarray(accuracy),
        np.asarray(unfairness),
        np.asarray(able),
        wish=wish,
        counts=counts,
        trials=trials,
        names=names,
    )


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
    member = np.asarray(_bounds_cells.equal_members(cond)[0])
    counts = np.zeros((m, n_strata, n_groups), np.int64)
    # Cell by cell: the product over all cells would be (m, s, g, n).
    for s, g in np.ndindex(n_strata, n_groups):
        counts[:, s, g] = np.count_nonzero(ones[:, member[s, g]], axis=1)
    return counts, member.sum(axis=-1)
