"""Bounds: what a sample shows about the true unfairness of a model.

`metrics` is exact for the sample; the intervals here hold the true means, gaps and
distances with a wanted probability, for every number of samples and every distribution.
No interval rests on a normal approximation.

Assumed throughout: given strata and groups, the samples of a cell are independent draws
from that cell's population, and sample weights say nothing about their values (a mask,
a random subsample; weights that correct for how the sample was drawn are not covered).
The model is fixed before the sample is seen, or is any of `n_configurations` models
that are: a choice made on this sample, such as that of a sweep on a validation set, is
then covered (Bonferroni). Only `rademacher` holds for a model that was fitted on the
very samples.

A result makes two statements. With probability `confidence` all means hold at once, and
with probability `confidence` all gaps, and so the largest, hold at once, over all
strata. Both together hold with `2 confidence - 1`. A cell without samples says nothing:
its interval is the whole range. Methods are functions; each is a guarantee, but taking
the narrowest of several is not, unless they share `1 - confidence` between them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ..arrays import checks
from ..notions import Conditionals
from ..notions import cells as _distributions
from . import binomial_limits, sample_size
from . import cells as _bounds_cells
from .cells import Bound as Bound
from .cells import MeanBounds as MeanBounds
from .cells import Values
from .sample_size import Number
from .sample_size import binomial_width as binomial_width
from .sample_size import empirical_bernstein_width as empirical_bernstein_width
from .sample_size import hoeffding_width as hoeffding_width
from .sample_size import ks_width as ks_width
from .sample_size import rademacher_width as rademacher_width
from .sample_size import samples_for as samples_for


class KSBounds(NamedTuple):
    """Bounds on distribution functions and their Kolmogorov-Smirnov distances.

    Attributes:
        bands: per cell, how far the sample's distribution function is from the true
            one at most, in [0, 1]: a simultaneous band for all scores.
        distances: per stratum and pair `(s, g, g)`.
        largest: per stratum `(s,)`.
    """

    bands: Float[Array, "s g"]
    distances: Bound
    largest: Bound


class RepairedKS(NamedTuple):
    """Bounds on the distance of groups after the randomised barycenter map.

    Attributes:
        mean: on the expectation over calibration samples, per pair of groups.
        high: on the distance itself with probability `confidence`, all pairs at once.
    """

    mean: Float[Array, "g g"]
    high: Float[Array, "g g"]


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
    _bounds_cells.check_level(confidence, n_configurations)
    cond = _bounds_cells.widened(cond)
    cells, span = _bounds_cells.summarise(values, cond, value_range)
    n_cells, n_pairs, _ = _bounds_cells.numbers_of(cond.occupied)
    settings = confidence, n_configurations, span.dtype
    half = sample_size.hoeffding(
        cells.squares, sample_size.log_events(2 * n_cells, *settings), span
    )
    of_pairs = sample_size.hoeffding(
        _bounds_cells.pairs(cells.squares),
        sample_size.log_events(2 * n_pairs, *settings),
        span,
    )
    return _bounds_cells.mean_bounds(cells, half, of_pairs, value_range)


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
    _bounds_cells.check_level(confidence, n_configurations)
    cond = _bounds_cells.widened(cond)
    cells, span = _bounds_cells.summarise(values, cond, value_range)
    n_cells, n_pairs, n_compared = _bounds_cells.numbers_of(cond.occupied)
    settings = confidence, n_configurations, span.dtype

    log = sample_size.log_events(3 * n_cells, *settings)
    sigma = sample_size.largest_deviation(cells.deviation, cells.members, log, span)
    variance = cells.squares * jnp.square(sigma)
    half = sample_size.bernstein(variance, cells.peak, log, span)

    log = sample_size.log_events(2 * n_pairs + n_compared, *settings)
    sigma = sample_size.largest_deviation(cells.deviation, cells.members, log, span)
    variance = cells.squares * jnp.square(sigma)
    peak = jnp.maximum(cells.peak[:, :, None], cells.peak[:, None, :])
    of_pairs = sample_size.bernstein(_bounds_cells.pairs(variance), peak, log, span)
    return _bounds_cells.mean_bounds(cells, half, of_pairs, value_range)


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
        The bounds, in [0, 1] for rates and [-1, 1] for gaps. In float32 limits are
        right to 5e-6 of their value up to 1e7 samples per cell. No gradient. Cost
        O(s g n + s g^2), and some 10^7 operations per cell. Inside `jit`, a cell with
        unequal weights or other values has the whole range.

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
    _bounds_cells.check_level(confidence, n_configurations)
    cond = _bounds_cells.widened(cond)
    numbers = _distributions.floats(decisions, cond, "decisions")
    _bounds_cells.check_binary(decisions)
    member, alike = _bounds_cells.equal_members(cond)
    good = jnp.where(member, ((numbers == 0) | (numbers == 1))[None, None], True)
    sound = alike & good.all(axis=-1)

    trials = member.sum(axis=-1).astype(numbers.dtype)
    ones = (member & (numbers == 1)[None, None]).sum(axis=-1).astype(numbers.dtype)
    n_cells, n_pairs, _ = _bounds_cells.numbers_of(cond.occupied)
    settings = confidence, n_configurations, numbers.dtype
    low, high, below = binomial_limits.limits(
        ones,
        trials,
        -sample_size.log_events(2 * n_cells, *settings),
        -sample_size.log_events(2 * n_pairs, *settings),
    )
    known = sound & cond.occupied
    rates = ones / jnp.maximum(trials, 1)
    means = Bound(rates, jnp.where(known, low, 0), jnp.where(known, high, 1))
    below = jnp.where(_bounds_cells.both(known), below, -1)
    gaps = _bounds_cells.antisymmetric(
        rates, cond.occupied, below, -below.swapaxes(1, 2)
    )
    return MeanBounds(means, gaps, _bounds_cells.largest_of(gaps))


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
    _bounds_cells.check_level(confidence, n_configurations)
    cond = _bounds_cells.widened(cond)
    if (radius is None) == (square_norms is None):
        raise ValueError("give exactly one of `radius` and `square_norms`.")
    for name, value in {"norm": norm, "lipschitz": lipschitz}.items():
        checks.check_nonnegative(value, name=name)
    cells, span = _bounds_cells.summarise(losses, cond, value_range, name="losses")
    n_cells, n_pairs, _ = _bounds_cells.numbers_of(cond.occupied)
    settings = confidence, n_configurations, span.dtype
    if square_norms is None:
        checks.check_nonnegative(radius, name="radius")
        lengths = cells.squares * jnp.square(_bounds_cells.cast(radius, span.dtype))
        events, times = 2, 1
    else:
        checks.check_nonnegative(square_norms, name="square_norms")
        own = _distributions.floats(square_norms, cond, "square_norms")
        own = jnp.where(own >= 0, own, jnp.inf).astype(span.dtype)[None, None]
        weights = cond.weights.astype(span.dtype)
        lengths = jnp.where(weights > 0, jnp.square(weights) * own, 0).sum(axis=-1)
        events, times = 3, 3
    slope, norm = (_bounds_cells.cast(a, span.dtype) for a in (lipschitz, norm))

    def half(squares: Array, lengths: Array, n: Array) -> Array:
        log = sample_size.log_events(events * n, *settings)
        complexity = slope * norm * sample_size.root(lengths)
        return 2 * complexity + times * sample_size.hoeffding(squares, log, span)

    return _bounds_cells.mean_bounds(
        cells,
        half(cells.squares, lengths, n_cells),
        half(_bounds_cells.pairs(cells.squares), _bounds_cells.pairs(lengths), n_pairs),
        value_range,
    )


def ks_distance(
    scores: Values,
    cond: Conditionals,
    *,
    confidence: Number = 0.95,
    n_configurations: Number = 1,
) -> KSBounds:
    """Bounds on the distance of groups' score distributions, and on every threshold.

    The distribution function of each cell is within `e = sqrt(log(2 c k / (1 -
    confidence)) / 2 n)` of the sample's, everywhere and in all `c` cells at once, so
    the distance of two is within `e + e'` of that of the samples. The distance is the
    largest gap of selection rates over all thresholds: a threshold chosen on this
    sample is covered without further ado.

    Args:
        scores: real outputs of a model, ties included.
        cond: from a notion; all members of a cell have the same weight, so masks are
            welcome. (The constant of DKW holds for no others.)
        confidence: in (0, 1), traced.
        n_configurations: models among which one is chosen, traced.

    Returns:
        The bounds, in [0, 1]; both statements are one here, since distances follow
        from bands. Cost O(n log n + s g^2 n), memory O(s g n). Inside `jit`, a cell
        with unequal weights or a NaN has the whole range.

    Raises:
        ValueError: for scores that are not finite or not one per sample, unequal
            weights inside a cell, a confidence outside (0, 1), fewer than one
            configuration.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.arange(2000) // 1000, n_groups=2)
        >>> found = ks_distance(jnp.arange(2000), cond)
        >>> print(found.bands.round(3), found.largest.low.round(3))
        [[0.047 0.047]] [0.906]

    References:
        Massart, *The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality*,
        Annals of Probability 1990: `P(sup |F_n - F| > e) <= 2 exp(-2 n e^2)`.
    """
    _bounds_cells.check_level(confidence, n_configurations)
    cond = _bounds_cells.widened(cond)
    scores = _distributions.floats(scores, cond, "scores")
    member, alike = _bounds_cells.equal_members(cond)
    bad = (member & jnp.isnan(scores)[None, None]).any(axis=-1)
    known = cond.occupied & alike & ~bad

    n_cells, _, _ = _bounds_cells.numbers_of(cond.occupied)
    log = sample_size.log_events(
        2 * n_cells, confidence, n_configurations, scores.dtype
    )
    n = jnp.where(known, member.sum(axis=-1), 1).astype(scores.dtype)
    bands = sample_size.hoeffding(1 / n, log, jnp.ones((), n.dtype))
    bands = jnp.where(known, jnp.minimum(bands, 1), 1)

    order = jnp.argsort(scores)
    ordered = scores[order]
    last = jnp.append(ordered[1:] != ordered[:-1], True)[: ordered.size]
    levels = _distributions.levels(cond.weights[..., order], cond.occupied)
    levels = levels.astype(scores.dtype)

    distances = _distances(levels, last)
    distances = jnp.where(_bounds_cells.both(cond.occupied), distances, 0)
    sure, off = _bounds_cells.both(known), ~jnp.eye(n.shape[1], dtype=bool)[None]
    spare = jnp.where(off, _bounds_cells.pairs(bands), 0)
    low = jnp.where(sure, jnp.maximum(distances - spare, 0), 0)
    high = jnp.where(sure, jnp.minimum(distances + spare, 1), jnp.where(off, 1.0, 0.0))
    bound = Bound(distances, low, high)
    return KSBounds(bands, bound, _bounds_cells.largest_of(bound))


def repaired_ks(
    counts: Real[ArrayLike, " g"], *, confidence: Number = 0.95
) -> RepairedKS:
    """P2's guarantee: how far apart the randomised barycenter map can leave groups.

    With `m` and `m'` calibration rows for `F` in two groups, over the calibration data
    `E[KS] <= sqrt(pi / 2) (m^-1/2 + m'^-1/2)`, and `KS <= e + e'` for all pairs of `g`
    groups with probability `confidence`, where `e = sqrt(log(2 g / (1 - confidence)) /
    2 m)`. No labels, no assumption on the scores, atoms included. P2 proves the rate;
    `barycenters.fit_map` derives these constants. The distance is the true one of a map
    fitted with a `key`; to bound that of any other map, give `ks_distance` fresh rows.

    Args:
        counts: calibration rows that serve `F`, of equal weight:
            `jnp.diff(fitted.cdf)[:, 0]`.
        confidence: in (0, 1), traced.

    Returns:
        Both bounds, in [0, 1] and 0 on the diagonal; 1 for a group without rows.

    Raises:
        ValueError: for negative counts and a confidence outside (0, 1).

    Example:
        >>> found = repaired_ks(jnp.array([10_000, 10_000]))
        >>> print(f"{found.mean[0, 1]:.3f}, {found.high[0, 1]:.3f}")
        0.025, 0.030

    References:
        Chzhen et al. (P2), *Fair regression with Wasserstein barycenters*, NeurIPS
        2020.
    """
    _bounds_cells.check_level(confidence, 1)
    checks.check_nonnegative(counts, name="counts")
    m = _bounds_cells.cast(counts, jax.dtypes.canonicalize_dtype(float))
    log = sample_size.log_events(2 * m.size, confidence, 1, m.dtype)
    inverse = jnp.where(m > 0, 1 / jnp.where(m > 0, m, 1), jnp.inf)
    off = ~jnp.eye(m.size, dtype=bool)

    def of_pairs(each: Array) -> Array:
        return jnp.where(off, jnp.minimum(each[:, None] + each[None], 1), 0)

    mean = of_pairs(jnp.sqrt(np.pi / 2 * inverse))
    return RepairedKS(mean, of_pairs(jnp.sqrt(inverse * (log / 2))))


@jax.jit
def _distances(
    levels: Float[Array, "s g n"], last: Bool[Array, " n"]
) -> Float[Array, "s g g"]:
    """Largest differences of distribution functions, read after each jump."""

    def distances_from(group: Array) -> Array:
        gaps = jnp.abs(levels - levels[:, group, None])
        return jnp.where(last[None, None], gaps, 0).max(axis=-1, initial=0)

    # One group at a time, so that memory stays O(s g n).
    return jax.lax.map(distances_from, jnp.arange(levels.shape[1])).swapaxes(0, 1)
