"""Bounds on means of bounded values, and on risks of a whole class of models."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Real

from ..arrays import checks
from ..notions import Conditionals
from ..notions.cells import check_values
from . import cells, formulas
from .cells import MeanBounds, Values
from .formulas import Number


def hoeffding(
    values: Values,
    cond: Conditionals,
    *,
    value_range: tuple[Number, Number],
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> MeanBounds:
    """Bounds on means and gaps of bounded values: the range and the counts alone.

    With `S` the sum of a cell's squared weights (`1 / n` for equal ones), `c` cells,
    `p` pairs and `k` configurations, half-widths are

        means: (high - low) sqrt(S log(2 c k / (1 - confidence)) / 2)
        gaps:  (high - low) sqrt((S + S') log(2 p k / (1 - confidence)) / 2)

    The gap of two cells is itself a sum of independent terms, which is narrower than
    the difference of two intervals.

    Args:
        values: one per sample, such as losses.
        cond: from a notion; each sample in one group per stratum.
        value_range: smallest and largest possible value, known without the sample.
        confidence: in (0, 1), traced.
        n_configurations: models among which one is chosen, traced; `vmap` over the
            values of each.

    Returns:
        The bounds [values]; cost O(s g n + s g^2). Inside `jit`, a cell with a value
        outside the range has the interval (-inf, inf).

    Raises:
        ValueError: for values that are not finite, outside the range or not one per
            sample; a range without length; a confidence outside (0, 1); fewer than one
            configuration.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(2000) % 2, n_groups=2)
        >>> found = hoeffding(jnp.arange(2000) % 2, cond, value_range=(0, 1))
        >>> print(found.means.high[0].round(3), found.largest.low.round(3))
        [0.047 1. ] [0.939...]

    References:
        Hoeffding, *Probability inequalities for sums of bounded random variables*,
        JASA 1963, Theorem 2.
    """
    formulas.check_level(confidence, n_configurations)
    cells.check_sample(values, cond, value_range)
    settings = value_range, 1 - confidence, n_configurations
    return _hoeffding(jnp.asarray(values), cond, *settings)


@jax.jit
def _hoeffding(
    values: Values,
    cond: Conditionals,
    value_range: tuple[Number, Number],
    failure: Number,
    n_configurations: Number,
) -> MeanBounds:
    """`hoeffding` after its checks; one program."""
    cond = cells.widened(cond)
    sample, span = cells.summarise(values, cond, value_range)
    n_cells, n_pairs, _ = cells.numbers_of(cond.occupied)
    settings = failure, n_configurations, span.dtype
    half = formulas.hoeffding(
        sample.squares, formulas.log_shares(2 * n_cells, *settings), span
    )
    of_pairs = formulas.hoeffding(
        cells.pairs(sample.squares),
        formulas.log_shares(2 * n_pairs, *settings),
        span,
    )
    return cells.mean_bounds(sample, half, of_pairs, value_range)


def empirical_bernstein(
    values: Values,
    cond: Conditionals,
    *,
    value_range: tuple[Number, Number],
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> MeanBounds:
    """Bounds on means and gaps that shrink with the variance seen in the sample.

    Narrower than `hoeffding` where values spread much less than their range: losses
    near 0, rare events. With `s` a cell's sample standard deviation, `n` its count, `S`
    its sum of squared weights, `m` its largest weight and `r` the range, half-widths
    are

        sigma = min(s + r sqrt(2 log(1/d) / (n - 1)), r / 2)
        means: sqrt(2 S sigma^2 log(1/d)) + r m log(1/d) / 3
        gaps:  sqrt(2 (S sigma^2 + S' sigma'^2) log(1/d)) + r max(m, m') log(1/d) / 3

    For equal weights and `s` small next to `r` that is Theorem 4 of Maurer and Pontil,
    `sqrt(2 s^2 log(1/d) / n) + 7 r log(1/d) / (3 (n - 1))`, before its constants are
    rounded. `1 - confidence` is shared between the events: for means, both signs and
    the deviation of each of `c` cells, `d = (1 - confidence) / (3 c k)`; for gaps, both
    signs of each of `p` pairs and the deviations, `d = (1 - confidence) / ((2 p + c)
    k)`. (Theorem 4 has log(2/d) for one sign alone.)

    Args:
        values: one per sample, such as losses.
        cond: from a notion; each sample in one group per stratum. Weights may differ
            inside a cell; deviations count its members alike.
        value_range: smallest and largest possible value, known without the sample.
        confidence: in (0, 1), traced.
        n_configurations: models among which one is chosen, traced.

    Returns:
        The bounds [values]; cost O(s g n + s g^2). Inside `jit`, a cell with a value
        outside the range has the interval (-inf, inf).

    Raises:
        ValueError: as `hoeffding`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(2000) % 2, n_groups=2)
        >>> found = empirical_bernstein(jnp.full(2000, 0.3), cond, value_range=(0, 1))
        >>> print(found.gaps.high[0, 0].round(3))
        [0. 0.014]

    References:
        Maurer, Pontil, *Empirical Bernstein bounds and sample variance penalization*,
        COLT 2009, Theorems 3, 4 and 10.
    """
    formulas.check_level(confidence, n_configurations)
    cells.check_sample(values, cond, value_range)
    settings = value_range, 1 - confidence, n_configurations
    return _empirical_bernstein(jnp.asarray(values), cond, *settings)


@jax.jit
def _empirical_bernstein(
    values: Values,
    cond: Conditionals,
    value_range: tuple[Number, Number],
    failure: Number,
    n_configurations: Number,
) -> MeanBounds:
    """`empirical_bernstein` after its checks; one program."""
    cond = cells.widened(cond)
    sample, span = cells.summarise(values, cond, value_range)
    n_cells, n_pairs, n_compared = cells.numbers_of(cond.occupied)
    settings = failure, n_configurations, span.dtype

    log = formulas.log_shares(3 * n_cells, *settings)
    sigma = formulas.largest_deviation(sample.deviation, sample.members, log, span)
    variance = sample.squares * jnp.square(sigma)
    half = formulas.bernstein(variance, sample.peak, log, span)

    log = formulas.log_shares(2 * n_pairs + n_compared, *settings)
    sigma = formulas.largest_deviation(sample.deviation, sample.members, log, span)
    variance = sample.squares * jnp.square(sigma)
    peak = jnp.maximum(sample.peak[:, :, None], sample.peak[:, None, :])
    of_pairs = formulas.bernstein(cells.pairs(variance), peak, log, span)
    return cells.mean_bounds(sample, half, of_pairs, value_range)


def rademacher(
    losses: Values,
    cond: Conditionals,
    *,
    value_range: tuple[Number, Number],
    norm: Number,
    lipschitz: Number,
    radius: Number | None = None,
    square_norms: Real[ArrayLike, " n"] | None = None,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> MeanBounds:
    """Bounds for all linear or kernel models at once, so for one fitted on the sample.

    The class is `f(x) = <w, x>` with `|w| <= norm`, in the feature space of the kernel
    where there is one. Its Rademacher complexity on a cell with weights `a_i` is at
    most `norm sqrt(sum a_i^2 |x_i|^2)` (`norm radius / sqrt(n)`, and for a kernel
    `norm sqrt(trace K) / n`), that of the losses at most `lipschitz` times it
    (contraction), and with probability `confidence` all models of the class are within

        2 lipschitz norm radius sqrt(S) + r sqrt(S log(1/d) / 2)                  or
        2 lipschitz norm sqrt(sum a_i^2 |x_i|^2) + 3 r sqrt(S log(1/d) / 2)

    of the true conditional risk, where `S = sum a_i^2` and `r` is the range. The first
    needs a `radius` known beforehand, with two events per cell (both signs), the
    second reads the sample, with a third event: `d = (1 - confidence) / (2 c k)` or
    `/ (3 c k)` for `c` cells. For gaps, sums run over both cells, and `p` pairs stand
    in place of `c`.

    P1's Theorem 1 takes a bound `B(d, n, F)` on `sup |risk - empirical risk|` and
    leaves it open; the half-width of a cell's mean is such a `B`. Then fair ERM with
    tolerance `e + sum_g B(d, n_g, F)` in the sample has a true gap of at most
    `e + 2 sum_g B(d, n_g, F)`. `gaps` says it for the model at hand, without the
    detour.

    Args:
        losses: one per sample, of a model of the class: the one fitted on these
            samples, or any other.
        cond: from a notion; each sample in one group per stratum.
        value_range: smallest and largest loss that the class can have: (0, 1 + norm
            radius) for the hinge.
        norm: bound on the norm of the weights, chosen without the sample; not the norm
            of the fit. Minimising `loss + ridge / 2 |w|^2` gives one, `sqrt(2 l /
            ridge)`, with `l` the loss of the zero model (1 for the hinge, log 2 for the
            logistic). An intercept is the weight of a constant feature, and counts in
            both norms.
        lipschitz: of the loss in the score: 1 for hinge and logistic, 1/2 for the
            linear loss of P1.
        radius: bound on the norm of the features of the population, such as 1 for a
            Gaussian kernel. Give exactly one of this and the next.
        square_norms: of the samples' features: `(features**2).sum(1)`, or the diagonal
            of the kernel matrix.
        confidence: in (0, 1), traced.
        n_configurations: classes among which one is chosen, traced: a grid of ridges.

    Returns:
        The bounds [losses]; cost O(s g n + s g^2). Inside `jit`, a cell with a value
        outside the range has the interval (-inf, inf).

    Raises:
        ValueError: as `hoeffding`; unless exactly one of `radius` and `square_norms` is
            given; for negative norms.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(20_000) % 2, n_groups=2)
        >>> found = rademacher(jnp.full(20_000, 0.5), cond, value_range=(0, 2),
        ...     norm=1.0, radius=1.0, lipschitz=1.0)
        >>> print(found.largest.high.round(3))
        [0.067]

    References:
        Donini et al. (P1), NeurIPS 2018, Theorem 1; Bartlett, Mendelson, *Rademacher
        and Gaussian complexities*, JMLR 2002; Mohri, Rostamizadeh, Talwalkar,
        *Foundations of machine learning*, 2018, Theorems 3.3 and 5.10, Lemma 5.7.
    """
    formulas.check_level(confidence, n_configurations)
    if (radius is None) == (square_norms is None):
        raise ValueError("give exactly one of `radius` and `square_norms`.")
    for name, value in {"norm": norm, "lipschitz": lipschitz}.items():
        checks.check_nonnegative(value, name=name)
    cells.check_sample(losses, cond, value_range, name="losses")
    if square_norms is None:
        checks.check_nonnegative(radius, name="radius")
    else:
        checks.check_nonnegative(square_norms, name="square_norms")
        cells.check_finite(square_norms, cond, "square_norms")
        square_norms = jnp.asarray(square_norms)
    ball = norm, lipschitz, radius, square_norms
    settings = value_range, 1 - confidence, n_configurations
    return _rademacher(jnp.asarray(losses), cond, ball, *settings)


@jax.jit
def _rademacher(
    losses: Values,
    cond: Conditionals,
    ball: tuple[Number, Number, Number | None, Real[ArrayLike, " n"] | None],
    value_range: tuple[Number, Number],
    failure: Number,
    n_configurations: Number,
) -> MeanBounds:
    """`rademacher` after its checks; one program."""
    cond = cells.widened(cond)
    norm, lipschitz, radius, square_norms = ball
    sample, span = cells.summarise(losses, cond, value_range, name="losses")
    n_cells, n_pairs, _ = cells.numbers_of(cond.occupied)
    settings = failure, n_configurations, span.dtype
    if square_norms is None:
        lengths = sample.squares * jnp.square(cells.cast(radius, span.dtype))
        events, times = 2, 1
    else:
        own = check_values(square_norms, cond, "square_norms")
        own = jnp.where(own >= 0, own, jnp.inf).astype(span.dtype)[None, None]
        weights = cond.weights.astype(span.dtype)
        lengths = jnp.where(weights > 0, jnp.square(weights) * own, 0).sum(axis=-1)
        events, times = 3, 3
    slope, norm = (cells.cast(a, span.dtype) for a in (lipschitz, norm))

    def half(squares: Array, lengths: Array, n: Array) -> Array:
        log = formulas.log_shares(events * n, *settings)
        complexity = slope * norm * formulas.sqrt(lengths)
        return 2 * complexity + times * formulas.hoeffding(squares, log, span)

    return cells.mean_bounds(
        sample,
        half(sample.squares, lengths, n_cells),
        half(cells.pairs(sample.squares), cells.pairs(lengths), n_pairs),
        value_range,
    )
