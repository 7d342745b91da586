"""Plans of a study: the half-widths of the bounds, and the samples that they take.

The formulas are those of the bounds, for a study that is only planned: `n_groups`
groups in each of `n_strata` strata, and `n` samples of equal weight in every cell.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ..arrays import checks
from . import formulas
from .binomial import limits
from .formulas import Number

Width = Callable[[Float[Array, ""]], Float[Array, ""]]
_MAX_SAMPLES = 2**31 - 1


def samples_for(
    half_width: float | Float[ArrayLike, "*a"], *, width: Width
) -> Int[Array, "*a"]:
    """Smallest number of samples per cell for a wanted precision of the gaps.

    Args:
        half_width: wanted half-width of every gap's interval [values], above 0.
        width: from samples per cell to that half-width, not increasing: one of the
            `*_width` functions, its settings bound by `functools.partial`.

    Returns:
        The number; `2^31 - 1` also stands for more than that. Cost: 31 widths.

    Raises:
        ValueError: for a half-width that is not above 0.

    Example:
        >>> from functools import partial
        >>> int(samples_for(0.05, width=partial(hoeffding_width, value_range=(0, 1))))
        1476
        >>> int(samples_for(0.05, width=partial(binomial_width, rate=0.1)))
        401
    """
    checks.check_nonnegative(half_width, name="half_width", positive=True)
    wanted = jnp.asarray(half_width)
    wanted = wanted.astype(jax.dtypes.canonicalize_dtype(float))

    def search(wanted: Float[Array, ""]) -> Int[Array, ""]:
        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            few, enough = ends
            centre = enough - (enough - few) // 2
            good = width(centre.astype(wanted.dtype)) <= wanted
            return jnp.where(good, few, centre), jnp.where(good, centre, enough)

        return jax.lax.fori_loop(0, 31, halve, (jnp.int32(0), jnp.int32(_MAX_SAMPLES)))[
            1
        ]

    return jax.vmap(search)(wanted.reshape(-1)).reshape(wanted.shape)


def hoeffding_width(
    n: Number,
    *,
    value_range: tuple[Number, Number],
    n_groups: int = 2,
    n_strata: int = 1,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> Float[Array, ""]:
    """Half-width of the gaps of `bounds.hoeffding` [values].

    `(high - low) sqrt(log(2 p k / (1 - confidence)) / n)` for `p` pairs of groups, all
    strata together, and `k` configurations.

    Args:
        n: samples per cell, above 0.
        value_range: smallest and largest possible value.
        n_groups: at least 2.
        n_strata: how many strata are compared.
        confidence: in (0, 1).
        n_configurations: models among which one is chosen.

    Returns:
        The half-width.

    Raises:
        ValueError: for a number of samples that is not above 0, a value range that is
            not low < high, fewer than two groups or one stratum, a confidence outside
            (0, 1), fewer than one configuration.

    Example:
        >>> print(f"{hoeffding_width(1476, value_range=(0, 1)):.4f}")
        0.0500
    """
    checks.check_nonnegative(n, name="n", positive=True)
    formulas.check_ends(value_range)
    n, low, high = _floats(n, *value_range)
    pairs, _ = _comparisons(n_groups, n_strata)
    log = formulas.log_events(2 * pairs, confidence, n_configurations, n.dtype)
    return formulas.hoeffding(2 / n, log, high - low)


def empirical_bernstein_width(
    n: Number,
    *,
    value_range: tuple[Number, Number],
    deviation: Number,
    n_groups: int = 2,
    n_strata: int = 1,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> Float[Array, ""]:
    """Half-width of the gaps of `bounds.empirical_bernstein` [values].

    Args:
        n: samples per cell, above 0.
        value_range: smallest and largest possible value.
        deviation: the standard deviation expected in every cell.
        n_groups: at least 2.
        n_strata: how many strata are compared.
        confidence: in (0, 1).
        n_configurations: models among which one is chosen.

    Returns:
        The half-width.

    Raises:
        ValueError: for a number of samples that is not above 0, a negative deviation, a
            value range that is not low < high, fewer than two groups or one stratum, a
            confidence outside (0, 1), fewer than one configuration.

    Example:
        >>> settings = {"value_range": (0, 1), "deviation": 0.1}
        >>> print(f"{empirical_bernstein_width(1000, **settings):.4f}")
        0.0271
    """
    checks.check_nonnegative(n, name="n", positive=True)
    checks.check_nonnegative(deviation, name="deviation")
    formulas.check_ends(value_range)
    n, low, high, deviation = _floats(n, *value_range, deviation)
    pairs, cells = _comparisons(n_groups, n_strata)
    log = formulas.log_events(2 * pairs + cells, confidence, n_configurations, n.dtype)
    upper = formulas.largest_deviation(deviation, n, log, high - low)
    return formulas.bernstein(2 / n * jnp.square(upper), 1 / n, log, high - low)


def binomial_width(
    n: Number,
    *,
    rate: Number = 0.5,
    n_groups: int = 2,
    n_strata: int = 1,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> Float[Array, ""]:
    """Half the length of the gaps of `bounds.binomial`, in [0, 1].

    Args:
        n: samples per cell, above 0.
        rate: the rate expected in every cell; 1/2 is the worst.
        n_groups: at least 2.
        n_strata: how many strata are compared.
        confidence: in (0, 1).
        n_configurations: models among which one is chosen.

    Returns:
        The half-width, with `rate * n` decisions of 1 even if that is no whole number.

    Raises:
        ValueError: for a number of samples that is not above 0, a rate outside [0, 1],
            fewer than two groups or one stratum, a confidence outside (0, 1), fewer
            than one configuration.

    Example:
        >>> print(f"{binomial_width(500):.3f}, {binomial_width(500, rate=0.05):.3f}")
        0.072, 0.033
    """
    checks.check_nonnegative(n, name="n", positive=True)
    checks.check_fraction(rate, name="rate")
    n, rate = _floats(n, rate)
    pairs, _ = _comparisons(n_groups, n_strata)
    log = formulas.log_events(2 * pairs, confidence, n_configurations, n.dtype)
    sizes = jnp.stack([n, n])
    _, _, below = limits(rate * sizes, sizes, -log, -log)
    return jnp.maximum(-below[0, 1], 0)


def rademacher_width(
    n: Number,
    *,
    value_range: tuple[Number, Number],
    norm: Number,
    radius: Number,
    lipschitz: Number,
    n_groups: int = 2,
    n_strata: int = 1,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> Float[Array, ""]:
    """Half-width of the gaps of `bounds.rademacher` with a known `radius` [values].

    Args:
        n: samples per cell, above 0.
        value_range: smallest and largest possible loss.
        norm: bound on the norm of the weights.
        radius: bound on the norm of the features.
        lipschitz: of the loss in the score.
        n_groups: at least 2.
        n_strata: how many strata are compared.
        confidence: in (0, 1).
        n_configurations: classes among which one is chosen.

    Returns:
        The half-width.

    Raises:
        ValueError: for a number of samples that is not above 0, a negative norm, radius
            or constant, a value range that is not low < high, fewer than two groups or
            one stratum, a confidence outside (0, 1), fewer than one configuration.

    Example:
        >>> print(rademacher_width(10_000, value_range=(0, 2), norm=1.0, radius=1.0,
        ...     lipschitz=1.0).round(4))
        0.0667
    """
    checks.check_nonnegative(n, name="n", positive=True)
    given = {"norm": norm, "radius": radius, "lipschitz": lipschitz}
    for name, value in given.items():
        checks.check_nonnegative(value, name=name)
    formulas.check_ends(value_range)
    n, low, high, norm, radius, lipschitz = _floats(
        n, *value_range, norm, radius, lipschitz
    )
    pairs, _ = _comparisons(n_groups, n_strata)
    log = formulas.log_events(2 * pairs, confidence, n_configurations, n.dtype)
    complexity = lipschitz * norm * radius * jnp.sqrt(2 / n)
    return 2 * complexity + formulas.hoeffding(2 / n, log, high - low)


def ks_width(
    n: Number,
    *,
    n_groups: int = 2,
    n_strata: int = 1,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> Float[Array, ""]:
    """Half-width of the distances of `bounds.dkw`, in [0, 1].

    `2 sqrt(log(2 c k / (1 - confidence)) / 2 n)` for `c` cells and `k` configurations.

    Args:
        n: samples per cell, above 0.
        n_groups: at least 2.
        n_strata: how many strata are compared.
        confidence: in (0, 1).
        n_configurations: models among which one is chosen.

    Returns:
        The half-width.

    Raises:
        ValueError: for a number of samples that is not above 0, fewer than two groups
            or one stratum, a confidence outside (0, 1), fewer than one configuration.

    Example:
        >>> from functools import partial
        >>> int(samples_for(0.1, width=ks_width))
        877
    """
    checks.check_nonnegative(n, name="n", positive=True)
    (n,) = _floats(n)
    _, cells = _comparisons(n_groups, n_strata)
    log = formulas.log_events(2 * cells, confidence, n_configurations, n.dtype)
    return 2 * formulas.hoeffding(1 / n, log, jnp.ones((), n.dtype))


def _comparisons(n_groups: int, n_strata: int) -> tuple[int, int]:
    """Numbers of pairs and of cells."""
    if n_groups < 2 or n_strata < 1:
        raise ValueError(
            f"`n_groups` must be at least 2 and `n_strata` at least 1, but they are "
            f"{n_groups} and {n_strata}."
        )
    return n_strata * (n_groups * (n_groups - 1) // 2), n_strata * n_groups


def _floats(*numbers: Number) -> list[Float[Array, ""]]:
    dtype = jax.dtypes.canonicalize_dtype(float)
    return [jnp.asarray(number, dtype) for number in numbers]
