"""How well the test part knows the gaps of a sweep: exact limits, without a model.

For decisions they are those of `bounds.binomial`, for real labels those of
`bounds.dkw`, from the rates and counts that a frontier keeps. Limits of rates
take a search each, so only the points that are shown get one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import frontiers
from ..bounds import cells, formulas
from ..bounds.binomial import limits

CONFIDENCE = 0.95
_ROWS = 24  # A batch has this length or a multiple, so that one program serves.


class Interval(NamedTuple):
    """Limits of the true largest gap, each point by itself; NaN for others.

    Attributes:
        low: at most this in `1 - CONFIDENCE` of samples, together with `high`.
        high: at least this.
    """

    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]


def intervals(found: frontiers.Frontier, rows: list[int]) -> Interval:
    """Limits for some points of a frontier."""
    m = found.strength.size
    low, high = np.full((2, m), np.nan)
    trials = found.counts[1].astype(np.float32)
    if np.isnan(found.test_rates).all():
        half = float(_widest(trials))
        seen = found.test_unfairness[rows].astype(float)
        low[rows], high[rows] = np.maximum(seen - half, 0), np.minimum(seen + half, 1)
        return Interval(low, high)
    size = -(-len(rows) // _ROWS) * _ROWS
    rates = found.test_rates[np.resize(rows, size)].astype(np.float32)
    ends = np.asarray(_exact(np.rint(rates * trials), trials))
    low[rows], high[rows] = ends[:, : len(rows)]
    return Interval(low, high)


@jax.jit
def _exact(
    ones: Float[Array, "r s g"], trials: Float[Array, "s g"]
) -> Float[Array, "2 r"]:
    """As `bounds.binomial` does, for many points; the largest over strata and pairs."""
    _, pairs, _ = cells.numbers_of(trials > 0)
    log = formulas.log_events(2 * pairs, CONFIDENCE, 1, ones.dtype)
    trials = jnp.broadcast_to(trials[None], ones.shape)
    *_, below = limits(ones, trials, -log, -log)

    def largest(rates: Float[Array, "s g"], below: Float[Array, "s g g"]):
        occupied = jnp.ones(rates.shape, bool)
        gaps = cells.antisymmetric(rates, occupied, below, -below.swapaxes(1, 2))
        found = cells.largest_of(gaps)
        return jnp.stack([found.low.max(), found.high.max()])

    return jnp.clip(jax.vmap(largest, out_axes=1)(ones / trials, below), 0, 1)


def _widest(trials: Float[np.ndarray, "s g"]) -> Float[Array, ""]:
    """How far a Kolmogorov-Smirnov distance may be off, at most over all pairs."""
    n = jnp.asarray(trials)
    log = formulas.log_events(2 * n.size, CONFIDENCE, 1, n.dtype)
    bands = formulas.hoeffding(1 / n, log, jnp.ones((), n.dtype))
    return jnp.sort(bands, axis=1)[:, -2:].sum(axis=1).max()
