"""Formulas of the bounds: how far a sum may be from its mean, by its weights."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ..arrays import checks

Number = float | Real[ArrayLike, ""]


def check_level(confidence: Number, n_configurations: Number) -> None:
    """Raises `ValueError` for a confidence or a number of models out of range."""
    if checks.concrete(confidence) and not 0 < float(np.asarray(confidence)) < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), but is {confidence}.")
    few = checks.concrete(n_configurations) and not np.asarray(n_configurations) >= 1
    if few:
        raise ValueError(
            f"`n_configurations` must be at least 1, but is {n_configurations}."
        )


def check_ends(value_range: tuple[Number, Number]) -> None:
    """Raises `ValueError` for a range that is infinite, empty or turned around."""
    if not checks.concrete(value_range):
        return
    low, high = (float(np.asarray(end)) for end in value_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(
            f"`value_range` must be (low, high), finite and low < high, but is "
            f"({low}, {high})."
        )


def log_events(
    n_events: int | Real[Array, ""],
    confidence: Number,
    n_configurations: Number,
    dtype: jnp.dtype,
) -> Float[Array, ""]:
    """`log(1 / d)` where each of the events may have probability `d` (Bonferroni)."""
    check_level(confidence, n_configurations)
    # A number of Python is subtracted from 1 before it is rounded to `dtype`.
    return log_shares(n_events, 1 - confidence, n_configurations, dtype)


def log_shares(
    n_events: int | Real[Array, ""],
    failure: Number,
    n_configurations: Number,
    dtype: jnp.dtype,
) -> Float[Array, ""]:
    """`log_events`, from the probability that any of the events may have."""
    failure = jnp.asarray(failure).astype(dtype)
    events = jnp.maximum(jnp.asarray(n_events, dtype), 1)
    models = jnp.asarray(n_configurations, dtype)
    return jnp.log(events) + jnp.log(models) - jnp.log(failure)


def hoeffding(
    squares: Float[Array, "*a"], log: Float[Array, ""], span: Float[Array, ""]
) -> Float[Array, "*a"]:
    """Deviation of a weighted sum with these sums of squared weights."""
    return span * sqrt(squares * (log / 2))


def largest_deviation(
    deviation: Float[Array, "*a"],
    n: Float[Array, "*a"],
    log: Float[Array, ""],
    span: Float[Array, ""],
) -> Float[Array, "*a"]:
    """Upper bound on the true standard deviation, at most half the range.

    References:
        Maurer, Pontil 2009, Theorem 10: `sigma <= s + range sqrt(2 log(1/d) / (n-1))`.
    """
    spare = span * jnp.sqrt(2 * log / jnp.where(n > 1, n - 1, 1))
    return jnp.where(n > 1, jnp.minimum(deviation + spare, span / 2), span / 2)


def bernstein(
    variance: Float[Array, "*a"],
    peak: Float[Array, "*a"],
    log: Float[Array, ""],
    span: Float[Array, ""],
) -> Float[Array, "*a"]:
    """Deviation of a weighted sum of this variance and largest weight (Bennett)."""
    return sqrt(2 * log * variance) + span * peak * log / 3


def sqrt(x: Float[Array, "*a"]) -> Float[Array, "*a"]:
    """Square root, with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
