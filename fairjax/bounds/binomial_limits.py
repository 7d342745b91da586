"""Exact limits of binomial chances, and of differences of two, in the dtype at hand.

`jax.scipy.special.betainc` is wrong in float32 for large counts (four times too large a
tail at 1e7 trials, without a warning), so tails are computed here in two factors that
lose no digits: the probability of one count as a deviance, and the ratio of the tail to
it as a continued fraction. Their log is within 2e-5 of the exact one up to 1e7 trials.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Ends = TypeVar("Ends", jax.Array, np.ndarray)

_HALF = math.log(0.5)
_STEPS = 64  # of the scan over how two cells share the error; it is safe for any number
_MOST_TERMS = 1000  # 330 are needed for 1e7 trials in float64, 95 in float32


@jax.jit
def lower_limit(
    counts: Float[Array, "*a"], trials: Float[Array, "*a"], level: Float[Array, "*a"]
) -> Float[Array, "*a"]:
    """Largest chance under which that many or more have probability `exp(level)`.

    The lower end of Clopper and Pearson; the upper one is `1 - lower_limit` of the
    other outcome. The search halves the integers behind positive floats, so it ends
    at two neighbours, of which the lower one is returned. It has no gradient.

    Args:
        counts: in [0, trials]; between whole numbers the incomplete beta function.
        trials: above 0.
        level: log of the probability; those above log(1 / 2) count as that.

    Returns:
        A chance in [0, 1].
    """
    level = jnp.minimum(level, _HALF)
    some = (counts > 0) & (counts < trials)
    k, n = jnp.where(some, counts, 1), jnp.where(some, trials, 2)
    whole = jnp.int32 if k.dtype.itemsize == 4 else jnp.int64

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        at = lax.bitcast_convert_type(middle, k.dtype)
        under = log_tail(k, n, at) <= level
        return jnp.where(under, middle, low), jnp.where(under, high, middle)

    top = lax.bitcast_convert_type(k / n, whole)
    bits = jnp.iinfo(whole).bits
    low, _ = lax.fori_loop(0, bits, halve, (jnp.zeros_like(top), top))
    inner = lax.bitcast_convert_type(low, k.dtype)
    every = jnp.exp(level / jnp.maximum(trials, 1))  # all trials: chance ** trials
    return jnp.where(some, inner, jnp.where(counts > 0, every, 0))


def log_tail(
    k: Float[Array, "*a"], n: Float[Array, "*a"], x: Float[Array, "*a"]
) -> Float[Array, "*a"]:
    """Log probability of `k` or more of `n` at chance `x <= k / n`, for `0 < k < n`.

    References:
        Loader, *Fast and accurate computation of binomial probabilities*, 2000, for
        the probability of `k`; DiDonato, Morris, *Algorithm 708*, ACM TOMS 1992,
        `bfrac`, for the continued fraction.
    """
    y, rest = 1 - x, n - k
    # From whichever of both sides has more digits.
    excess = jnp.where(x < 0.5, n * x - k, rest - n * y)
    deviance = k * _deviance(excess / k, n * x / k)
    deviance += rest * _deviance(-excess / rest, n * y / rest)
    spread = jnp.log(2 * math.pi * k * (rest / n)) / 2
    one = _stirling(n) - _stirling(k) - _stirling(rest) - spread - deviance
    return one + jnp.log(k) + jnp.log1p(-x) + jnp.log(_fraction(k, rest + 1, x))


@jax.jit
def limits(
    counts: Float[Array, "*a g"],
    trials: Float[Array, "*a g"],
    of_rate: Float[Array, ""],
    of_gap: Float[Array, ""],
) -> tuple[Float[Array, "*a g"], Float[Array, "*a g"], Float[Array, "*a g g"]]:
    """Both ends of every chance, and the lower end of `chance[g] - chance[h]`.

    Let `u` be the probability of as many or more in `g`, and `v` that of as few or
    fewer in `h`. At the true chances both are at least uniform and independent, so
    (Fisher) `P(u v <= t) <= t (1 - log t)`. The limit is the least difference on
    `u v = t`, over all ways `(t^s, t^(1-s))` to share `t`, each interval of `s`
    represented by its worse ends.

    Args:
        counts: in [0, trials].
        trials: above 0.
        of_rate: log of the probability of an error, per end of a chance.
        of_gap: the same per end of a difference.

    Returns:
        Lower ends, upper ends, and lower ends of differences. All in one search, which
        is compiled once.
    """
    levels = jnp.append(shared_levels(of_gap), of_rate)
    low, high = both_ends(counts, trials, levels)
    below = least_difference(low[..., :, None, :-1], high[..., None, :, :-1])
    return low[..., -1], high[..., -1], below


def shared_levels(of_gap: Float[Array, ""]) -> Float[Array, " l"]:
    """Logs of `t^s` for all shares `s` of the scan, with `t` as in `limits`."""
    # Solves t (1 - log t) = exp(of_gap) for -log t, from below by a contraction.
    size = lax.fori_loop(0, 60, lambda _, t: jnp.log1p(t) - of_gap, -of_gap)
    return -size * ((jnp.arange(_STEPS) + 1).astype(size.dtype) / _STEPS)


@jax.jit
def both_ends(
    counts: Float[Array, "*a"], trials: Float[Array, "*a"], levels: Float[Array, " l"]
) -> tuple[Float[Array, "*a l"], Float[Array, "*a l"]]:
    """Lower and upper ends of every chance at every level."""
    sides = jnp.stack([counts, trials - counts])[..., None]
    shape = (*sides.shape[:-1], levels.size)
    found = lower_limit(
        jnp.broadcast_to(sides, shape),
        jnp.broadcast_to(trials[None, ..., None], shape),
        jnp.broadcast_to(levels.reshape((1,) * (sides.ndim - 1) + (-1,)), shape),
    )
    return found[0], 1 - found[1]


def least_difference(low: Ends, high: Ends) -> Ends:
    """Lower end of a difference, from lower ends of one chance and upper ends of other.

    Args:
        low: of the first chance at all `shared_levels`, on the last axis; the other
            axes are broadcast.
        high: likewise, of the second one.
    """
    # Between s = i / _STEPS and the next: the first at the later end, the second at
    # the earlier.
    return (low - high[..., ::-1]).min(axis=-1)


def _deviance(u: Float[Array, "*a"], ratio: Float[Array, "*a"]) -> Float[Array, "*a"]:
    """`u - log(ratio)` with `ratio = 1 + u`, to full precision around 0."""
    r = u / (2 + u)
    series = jnp.zeros_like(u)
    # Terms fall at least ninefold.
    most = 19 if u.dtype.itemsize == 4 else 37
    for power in range(most, 1, -2):
        series = series * r * r + 1 / power
    near = r * (u - 2 * r * r * series)
    return jnp.where(jnp.abs(u) < 0.5, near, u - jnp.log(ratio))


def _stirling(n: Float[Array, "*a"]) -> Float[Array, "*a"]:
    """Log of `n!` over Stirling's formula for it."""
    square = 1 / (n * n)
    series = 1 / 1260 - square * (1 / 1680 - square / 1188)
    series = (1 / 12 - square * (1 / 360 - square * series)) / n
    log = jnp.log(n)
    small = lax.lgamma(n + 1) - (n + 0.5) * log + n - math.log(2 * math.pi) / 2
    return jnp.where(n < 10, small, series)


def _fraction(
    a: Float[Array, "*a"], b: Float[Array, "*a"], x: Float[Array, "*a"]
) -> Float[Array, "*a"]:
    """Incomplete beta function, divided by `x^a (1 - x)^b / B(a, b)`."""
    y = 1 - x
    c = 1 + jnp.where(x < 0.5, a - (a + b) * x, (a + b) * y - b)
    more = 1 + 1 / a
    precision = 2 * jnp.finfo(x.dtype).eps

    def going(state: tuple[Array, ...]) -> Array:
        m, _, _, _, done = state
        return (m < _MOST_TERMS) & ~done.all()

    def term(state: tuple[Array, ...]) -> tuple[Array, ...]:
        m, above, below, value, _ = state
        t = m / a
        w = m * (b - m) * x
        p = 1 + (m - 1) / a
        e = a / (a + 2 * m - 1)
        alpha = p * (p + b / a) * e * e * (w * x)
        beta = m + w / (a + 2 * m - 1) + (1 + t) / (more + 2 * t) * (c + m * (y + 1))
        # Scaled so that the last denominator is 1.
        scale = alpha * below + beta
        new = (alpha * above + beta * value) / scale
        done = jnp.abs(new - value) <= precision * new
        return m + 1, value / scale, 1 / scale, new, done

    first = more / c
    start = (jnp.ones((), x.dtype), jnp.zeros_like(x), first, first, x < 0)
    return lax.while_loop(going, term, start)[3]
