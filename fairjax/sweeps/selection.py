"""Selection of one point of a sweep: the Pareto front and P1's procedure."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ..arrays import checks


def pareto_front(
    quality: Float[ArrayLike, " m"], unfairness: Float[ArrayLike, " m"]
) -> Bool[Array, " m"]:
    """Mask of the points that no other point beats: as good in both, better in one.

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
    quality, unfairness = checks.as_columns(quality=quality, unfairness=unfairness)
    finite = jnp.isfinite(quality) & jnp.isfinite(unfairness)
    quality = jnp.where(finite, quality, -jnp.inf)
    unfairness = jnp.where(finite, unfairness, jnp.inf)
    order = jnp.lexsort((-quality, unfairness))
    # Everything earlier in this order is at least as fair: only a new record counts.
    record = jax.lax.cummax(quality[order])
    before = jnp.concatenate([jnp.full(1, -jnp.inf, quality.dtype), record[:-1]])
    return jnp.zeros(quality.shape, bool).at[order].set(quality[order] > before)


def select(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    keep: float | Float[ArrayLike, ""] = 0.9,
    valid: Bool[ArrayLike, " m"] | None = None,
) -> Int[Array, ""]:
    """Index of the setting that P1's validation procedure chooses.

    1. Keep the settings with `accuracy >= keep * max(accuracy)`.
    2. Take the least unfair of them; of ties the most accurate, then the first.

    `bounds.select_guaranteed` chooses by a test on samples set aside instead.

    Args:
        accuracy: cross-validated, in [0, 1]; average over folds first.
        unfairness: cross-validated, less is better.
        keep: the share of the best accuracy that is good enough, in (0, 1].
        valid: False for settings to leave out, for example those not converged.

    Returns:
        Its index. Points with a NaN or an infinity are never chosen. Inside `jit`,
        which cannot raise, -1 means that no point can be chosen. Cost O(m).

    Raises:
        ValueError: for no points, shapes that differ, `keep` outside (0, 1], or
            when no point can be chosen, none having an accuracy >= 0.

    Example:
        >>> select(jnp.array([0.9, 0.85, 0.5]), jnp.array([0.2, 0.1, 0.0])).item()
        1

    References:
        Donini et al., NeurIPS 2018, section 5: the two-step validation procedure.
    """
    accuracy, unfairness = checks.as_columns(accuracy=accuracy, unfairness=unfairness)
    able = eligible(accuracy, unfairness, keep=keep, valid=valid)
    least = jnp.min(jnp.where(able, unfairness, jnp.inf))
    ranks = jnp.where(able & (unfairness == least), accuracy, -jnp.inf)
    return jnp.where(able.any(), jnp.argmax(ranks), -1)


def eligible(
    accuracy: Float[ArrayLike, " m"],
    unfairness: Float[ArrayLike, " m"],
    *,
    keep: float | Float[ArrayLike, ""],
    valid: Bool[ArrayLike, " m"] | None,
) -> Bool[Array, " m"]:
    """Mask of the settings that step 1 of `select` keeps; raises as it does."""
    accuracy, unfairness = checks.as_columns(accuracy=accuracy, unfairness=unfairness)
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
    return able & (best >= 0) & (accuracy >= jnp.asarray(keep, best.dtype) * best)
