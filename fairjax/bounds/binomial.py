"""Exact limits of binomial rates, and of differences of two.

Limits of rates are quantiles of the beta distribution, by SciPy on the host in double
precision; inside `jit` and `vmap` the program calls back to it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..notions import Conditionals
from ..notions.cells import check_values
from . import cells, formulas
from .cells import Bound, MeanBounds, Values
from .formulas import Number

_SHARES = 64  # of the scan over how two cells share the error; any number is safe


def lower_limit(
    counts: Float[np.ndarray, "*#a"],
    trials: Float[np.ndarray, "*#a"],
    level: Float[np.ndarray, "*#a"],
) -> Float[np.ndarray, "..."]:
    """Largest rate under which that many or more have probability `exp(level)`.

    The lower end of Clopper and Pearson; the upper one is `1 - lower_limit` of the
    other outcome.

    Args:
        counts: in [0, trials]; between whole numbers the incomplete beta function.
        trials: above 0.
        level: log of the probability; those above log(1 / 2) count as that.

    Returns:
        A rate in [0, 1]; the arguments are broadcast.
    """
    # SciPy takes long to load, and few need it.
    from scipy.special import betaincinv

    some = counts > 0
    k = np.where(some, counts, 1)
    tail = np.minimum(np.exp(level), 0.5)
    return np.where(some, betaincinv(k, np.maximum(trials - k, 0) + 1, tail), 0)


def shared_levels(of_gap: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b l"]:
    """Logs of `t^s` for all shares `s` of the scan, with `t` as in `limits`."""
    from scipy.special import lambertw

    # t (1 - log t) = d is u exp(u) = -d / e for u = log t - 1.
    size = -1 - lambertw(-np.exp(of_gap - 1), k=-1).real
    return -size[..., None] * (np.arange(_SHARES) + 1) / _SHARES


def rate_limits(
    counts: Float[np.ndarray, "*a"],
    trials: Float[np.ndarray, "*a"],
    levels: Float[np.ndarray, "*#a l"],
) -> tuple[Float[np.ndarray, "*a l"], Float[np.ndarray, "*a l"]]:
    """Lower and upper ends of every rate at every level."""
    counts, trials = counts[..., None], trials[..., None]
    high = 1 - lower_limit(trials - counts, trials, levels)
    return lower_limit(counts, trials, levels), high


def least_difference(
    low: Float[np.ndarray, "*#a l"], high: Float[np.ndarray, "*#a l"]
) -> Float[np.ndarray, "..."]:
    """Lower end of a difference, from lower ends of one rate and upper ends of other.

    Args:
        low: of the first rate at all `shared_levels`, on the last axis; the other
            axes are broadcast.
        high: likewise, of the second one.
    """
    # Between s = i / _SHARES and the next: the first at the later end, the second at
    # the earlier.
    return (low - high[..., ::-1]).min(axis=-1)


def limits(
    counts: Float[Array, "*a g"],
    trials: Float[Array, "*a g"],
    of_rate: Float[Array, ""],
    of_gap: Float[Array, ""],
) -> tuple[Float[Array, "*a g"], Float[Array, "*a g"], Float[Array, "*a g g"]]:
    """Both ends of every rate, and the lower end of `rate[g] - rate[h]`.

    Let `u` be the probability of as many or more in `g`, and `v` that of as few or
    fewer in `h`. At the true rates both are at least uniform and independent, so
    (Fisher) `P(u v <= t) <= t (1 - log t)`. The limit is the least difference on
    `u v = t`, over all ways `(t^s, t^(1-s))` to share `t`, each interval of `s`
    represented by its worse ends.

    Args:
        counts: in [0, trials].
        trials: above 0.
        of_rate: log of the probability of an error, per end of a rate.
        of_gap: the same per end of a difference.

    Returns:
        Lower ends, upper ends, and lower ends of differences.
    """
    ends = jax.ShapeDtypeStruct(counts.shape, counts.dtype)
    gaps = jax.ShapeDtypeStruct((*counts.shape, counts.shape[-1]), counts.dtype)
    return jax.pure_callback(
        _host_limits,
        (ends, ends, gaps),
        *map(jax.lax.stop_gradient, (counts, trials, of_rate, of_gap)),
        vmap_method="broadcast_all",
    )


def _host_limits(
    counts: ArrayLike, trials: ArrayLike, of_rate: ArrayLike, of_gap: ArrayLike
) -> tuple[np.ndarray, ...]:
    """`limits` by NumPy and SciPy; under `vmap`, all arguments have the same batch."""
    dtype = np.asarray(counts).dtype
    counts, trials, of_rate, of_gap = (
        np.asarray(a, float) for a in (counts, trials, of_rate, of_gap)
    )
    levels = np.append(shared_levels(of_gap), of_rate[..., None], axis=-1)
    # One row of levels for all cells of a batch entry.
    inner = (1,) * (counts.ndim - of_gap.ndim)
    levels = levels.reshape(*of_gap.shape, *inner, -1)
    low, high = rate_limits(counts, trials, levels)
    below = least_difference(low[..., :, None, :-1], high[..., None, :, :-1])
    return tuple(a.astype(dtype) for a in (low[..., -1], high[..., -1], below))


def binomial(
    decisions: Values,
    cond: Conditionals,
    *,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> MeanBounds:
    """Exact bounds on rates and their gaps, for decisions or any loss of 0 and 1.

    Rates have the interval of Clopper and Pearson at `(1 - confidence) / (2 c k)` per
    end, for `c` cells and `k` configurations. Gaps combine the exact p-values of both
    cells: for the true rates `P(u v <= t) <= t (1 - log t)` (Fisher), so with
    `t (1 - log t) = (1 - confidence) / (2 p k)` the lower end is the least difference
    of rates that have `u v >= t`. (Derived here from those two facts; found by a scan
    that errs to the wide side.) For two large cells of one rate, at 0.95, that is 3.2
    standard deviations of a rate, where the difference of two intervals of Clopper and
    Pearson has 4.5 and the normal approximation, which guarantees nothing, 2.8.

    Args:
        decisions: 0 or 1.
        cond: from a notion; all members of a cell have the same weight, so masks are
            welcome. For other weights take `hoeffding`.
        confidence: in (0, 1), traced.
        n_configurations: models among which one is chosen, traced.

    Returns:
        The bounds, in [0, 1] for rates and [-1, 1] for gaps. Limits are
        those of double precision, rounded once. No gradient. Cost O(s g n + s g^2), and
        130 beta quantiles per cell on the host, to which a compiled program calls back;
        `vmap` calls once for each entry. Inside `jit`, a cell with unequal weights or
        other values has the whole range.

    Raises:
        ValueError: for values other than 0 and 1, unequal weights inside a cell, a
            confidence outside (0, 1), fewer than one configuration.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(20) % 2, n_groups=2)
        >>> found = binomial(jnp.arange(20) % 2, cond)
        >>> print(found.means.high[0].round(3), found.largest.low.round(3))
        [0.355... 1. ] [0.506...]

    References:
        Clopper, Pearson, *The use of confidence or fiducial limits illustrated in the
        case of the binomial*, Biometrika 1934; Fisher, *Statistical methods for
        research workers*, 1932, on products of p-values.
    """
    formulas.check_level(confidence, n_configurations)
    cells.check_finite(decisions, cond, "decisions")
    cells.check_binary(decisions)
    cells.check_alike(cond)
    return _binomial(jnp.asarray(decisions), cond, 1 - confidence, n_configurations)


@jax.jit
def _binomial(
    decisions: Values, cond: Conditionals, failure: Number, n_configurations: Number
) -> MeanBounds:
    """`binomial` after its checks; one program."""
    cond = cells.widened(cond)
    numbers = check_values(decisions, cond, "decisions")
    member, alike = cells.equal_members(cond)
    good = jnp.where(member, ((numbers == 0) | (numbers == 1))[None, None], True)
    sound = alike & good.all(axis=-1)

    trials = member.sum(axis=-1).astype(numbers.dtype)
    ones = (member & (numbers == 1)[None, None]).sum(axis=-1).astype(numbers.dtype)
    n_cells, n_pairs, _ = cells.numbers_of(cond.occupied)
    settings = failure, n_configurations, numbers.dtype
    low, high, below = limits(
        ones,
        trials,
        -formulas.log_shares(2 * n_cells, *settings),
        -formulas.log_shares(2 * n_pairs, *settings),
    )
    known = sound & cond.occupied
    rates = ones / jnp.maximum(trials, 1)
    means = Bound(rates, jnp.where(known, low, 0), jnp.where(known, high, 1))
    below = jnp.where(cells.both(known), below, -1)
    gaps = cells.antisymmetric(rates, cond.occupied, below, -below.swapaxes(1, 2))
    return MeanBounds(means, gaps, cells.largest_of(gaps))
