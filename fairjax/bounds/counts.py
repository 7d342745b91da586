"""Limits of the largest gap of many models, from counts or distances that were kept.

The same as `binomial` and `dkw`, for a model whose decisions are gone: the
number of decisions 1 in each cell, or the distance of its scores, is all they need.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from . import cells, formulas
from .binomial import limits

_BATCH = 24  # Models in a batch, so that one program serves for any number of them.


class GapRange(NamedTuple):
    """Limits of the true largest gap of each model by itself.

    Attributes:
        low: both limits hold with the confidence asked for.
        high: at least `low`.
    """

    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]


def binomial_gaps(
    ones: Real[np.ndarray, "m s g"],
    trials: Real[np.ndarray, "s g"],
    *,
    confidence: float = 0.95,
) -> GapRange:
    """Exact limits of the largest difference of rates, as `binomial` has them.

    Args:
        ones: decisions 1 of each model in each cell.
        trials: samples of each cell, above 0.
        confidence: of each model by itself, in (0, 1).

    Returns:
        The range of each model, over all strata and pairs of groups, in [0, 1].

    Example:
        >>> found = binomial_gaps(np.array([[[30, 10]]]), np.array([[40, 40]]))
        >>> f"{found.low[0]:.3f} to {found.high[0]:.3f}"
        '0.239 to 0.707'
    """
    m = len(ones)
    size = -(-m // _BATCH) * _BATCH
    batch = ones[np.resize(np.arange(m), size)].astype(np.float32)
    found = _largest_gaps(batch, trials.astype(np.float32), confidence)
    low, high = np.asarray(found)[:, :m]
    return GapRange(low, high)


def ks_gaps(
    distances: Float[np.ndarray, " m"],
    trials: Real[np.ndarray, "s g"],
    *,
    confidence: float = 0.95,
) -> GapRange:
    """Limits of the largest Kolmogorov-Smirnov distance, as `dkw` has them.

    Args:
        distances: the largest of each model, in [0, 1].
        trials: samples of each cell, above 0.
        confidence: of each model by itself, in (0, 1).

    Returns:
        The range of each model, in [0, 1].

    Example:
        >>> found = ks_gaps(np.array([0.1]), np.array([[500, 400]]))
        >>> bool(found.low[0] == 0) and bool(found.high[0] < 0.3)
        True
    """
    n = jnp.asarray(trials, jnp.float32)
    log = formulas.log_events(2 * n.size, confidence, 1, n.dtype)
    bands = formulas.hoeffding(1 / n, log, jnp.ones((), n.dtype))
    # No pair is further off than the two smallest cells of a stratum.
    half = float(jnp.sort(bands, axis=1)[:, -2:].sum(axis=1).max())
    seen = distances.astype(float)
    return GapRange(np.maximum(seen - half, 0), np.minimum(seen + half, 1))


@functools.partial(jax.jit, static_argnames="confidence")
def _largest_gaps(
    ones: Float[Array, "m s g"], trials: Float[Array, "s g"], confidence: float
) -> Float[Array, "2 m"]:
    _, pairs, _ = cells.numbers_of(trials > 0)
    log = formulas.log_events(2 * pairs, confidence, 1, ones.dtype)
    trials = jnp.broadcast_to(trials[None], ones.shape)
    *_, below = limits(ones, trials, -log, -log)

    def largest(rates: Float[Array, "s g"], below: Float[Array, "s g g"]):
        occupied = jnp.ones(rates.shape, bool)
        gaps = cells.antisymmetric(rates, occupied, below, -below.swapaxes(1, 2))
        found = cells.largest_of(gaps)
        return jnp.stack([found.low.max(), found.high.max()])

    return jnp.clip(jax.vmap(largest, out_axes=1)(ones / trials, below), 0, 1)
