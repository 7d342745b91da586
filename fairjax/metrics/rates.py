"""Audits: how accurate and how unequal decisions and scores are.

Decisions are 0 or 1, scores are real; an audit of either compares the cells of a
notion, so sample weights and masks are already inside `cond`. Every number is exact for
the sample: no grid, no smoothing. It says little about the population where cells are
small: `interval=Bootstrap(key)` resamples the sample and returns an `Estimate`, and
`bounds` holds for every sample size. A group without members cannot show a gap: look at
`cond.occupied` before reading 0 as fair.
"""

from collections.abc import Callable
from typing import Any, Literal, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real, Shaped

from .. import notions
from ..arrays import checks
from ..notions import Conditionals
from ..notions import cells as _distributions
from . import bootstrap_statistics, bootstrapping, measures
from .bootstrapping import Bootstrap as Bootstrap
from .bootstrapping import Estimate as Estimate
from .bootstrapping import Interval as Interval
from .bootstrapping import bootstrap as bootstrap
from .measures import Audit as Audit
from .streaming import audit_stream as audit_stream

Numbers = Real[ArrayLike, " n"] | Bool[ArrayLike, " n"]
Scalar = Float[Array, ""]
Table = Float[Array, "s g"]


@overload
def accuracy(
    decisions: Numbers, labels: Numbers, *, weights: Numbers | None = None
) -> Scalar: ...
@overload
def accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
    interval: Bootstrap,
) -> Estimate: ...
def accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
    interval: Bootstrap | None = None,
) -> Scalar | Estimate:
    """Share of decisions that equal the label, in [0, 1]; cost O(n).

    Args:
        decisions: 0 or 1; threshold scores first, `scores > 0`.
        labels: 0 or 1.
        weights: non-negative sample weights, or a mask.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        The weighted share; 0 when all weights are 0.

    Raises:
        ValueError: for decisions or labels other than 0 and 1, and for bad weights.

    Example:
        >>> accuracy(jnp.array([1, 0, 0]), jnp.array([1, 1, 0])).round(4).item()
        0.6667...
    """
    checks.check_length(decisions, n=np.size(labels), name="decisions", to="labels")
    positive = measures.binary(labels, "labels")
    right = measures.binary(decisions, "decisions") == positive
    cond = measures.everyone(right.shape[0], weights)
    return _of_means(measures.middle, right, cond, interval)


@overload
def balanced_accuracy(
    decisions: Numbers, labels: Numbers, *, weights: Numbers | None = None
) -> Scalar: ...
@overload
def balanced_accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
    interval: Bootstrap,
) -> Estimate: ...
def balanced_accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
    interval: Bootstrap | None = None,
) -> Scalar | Estimate:
    """Mean of the accuracies among negatives and among positives, in [0, 1]; cost O(n).

    Args:
        decisions: 0 or 1.
        labels: 0 or 1; a label that does not occur is left out of the mean.
        weights: non-negative sample weights, or a mask.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        The mean; 0 when all weights are 0.

    Raises:
        ValueError: for decisions or labels other than 0 and 1, and for bad weights.

    Example:
        >>> balanced_accuracy(jnp.array([1, 0, 0]), jnp.array([1, 1, 0])).item()
        0.75

    References:
        Brodersen et al., *The balanced accuracy and its posterior distribution*, ICPR
        2010.
    """
    checks.check_length(decisions, n=np.size(labels), name="decisions", to="labels")
    positive = measures.binary(labels, "labels")
    right = measures.binary(decisions, "decisions") == positive
    cond = notions.conditional_parity(
        jnp.zeros(positive.shape[0], jnp.int32),
        positive.astype(jnp.int32),
        n_groups=1,
        n_strata=2,
        weights=weights,
    )
    return _of_means(measures.middle, right, cond, interval)


@overload
def group_means(values: Numbers, cond: Conditionals) -> Table: ...
@overload
def group_means(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap
) -> Estimate: ...
def group_means(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap | None = None
) -> Table | Estimate:
    """Mean of the values in every cell [values].

    With decisions these are selection rates under `demographic_parity`, true positive
    rates under `equal_opportunity`, and false then true positive rates under
    `equalized_odds`; with losses they are conditional risks.

    Args:
        values: one number per sample.
        cond: from a notion.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        The means, 0 where a cell is empty (see `cond.occupied`); cost O(s g n).

    Raises:
        ValueError: for values that are not finite, or not one per sample of `cond`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=3)
        >>> group_means(jnp.array([1, 0, 1]), cond).tolist()
        [[0.5, 1.0, 0.0]]
    """
    return _of_means(measures.each, values, cond, interval)


@overload
def max_gap(values: Numbers, cond: Conditionals) -> Scalar: ...
@overload
def max_gap(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap
) -> Estimate: ...
def max_gap(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap | None = None
) -> Scalar | Estimate:
    """Largest difference of means between two groups of a stratum [values].

    With decisions: the demographic parity difference, the difference of equal
    opportunity (DEO) or the equalized odds difference, whichever notion made `cond`.

    Args:
        values: one number per sample.
        cond: from a notion; empty cells are left out, whereas some libraries count the
            true positive rate of a group without positives as 0.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        A number >= 0; 0 when no stratum has two occupied cells. Cost O(s g n).

    Raises:
        ValueError: for values that are not finite, or not one per sample of `cond`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=3)
        >>> max_gap(jnp.array([1, 0, 1]), cond).item()
        0.5

    References:
        Donini et al., NeurIPS 2018, Definition 1 and the DEO of its experiments.
    """
    return _of_means(measures.gap, values, cond, interval)


@overload
def min_ratio(values: Numbers, cond: Conditionals) -> Scalar: ...
@overload
def min_ratio(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap
) -> Estimate: ...
def min_ratio(
    values: Numbers, cond: Conditionals, *, interval: Bootstrap | None = None
) -> Scalar | Estimate:
    """Smallest ratio of means between two groups of a stratum, in [0, 1].

    Args:
        values: non-negative, one per sample, such as decisions.
        cond: from a notion; empty cells are left out.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        1 is parity. A stratum whose means are all 0 treats its groups alike, so its
        ratio 0/0 counts as 1, as does a stratum without two occupied cells. Cost
        O(s g n).

    Raises:
        ValueError: for values that are negative or not finite, or not one per sample.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=3)
        >>> min_ratio(jnp.array([1, 0, 1]), cond).item()
        0.5

    References:
        Feldman et al., *Certifying and removing disparate impact*, KDD 2015, on the
        ratio and the four-fifths rule.
    """
    checks.check_nonnegative(values, name="values")
    return _of_means(measures.ratio, values, cond, interval)


@overload
def ks_distance(scores: Numbers, cond: Conditionals) -> Scalar: ...
@overload
def ks_distance(
    scores: Numbers, cond: Conditionals, *, interval: Bootstrap
) -> Estimate: ...
def ks_distance(
    scores: Numbers, cond: Conditionals, *, interval: Bootstrap | None = None
) -> Scalar | Estimate:
    """Largest distance of two groups' distribution functions, in [0, 1].

    It is the largest demographic parity difference that any threshold can produce, and
    depends on the order of the scores only, so its gradient is 0.

    Args:
        scores: real outputs of a model; ties are treated as such.
        cond: from a notion; empty cells are left out.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        The two-sample Kolmogorov-Smirnov statistic, largest over pairs and strata; 0
        when no stratum has two occupied cells. Cost O(n log n + s g n), memory
        O(s g n).

    Raises:
        ValueError: for scores that are not finite, or not one per sample of `cond`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1, 1]), n_groups=2)
        >>> ks_distance(jnp.array([1.0, 2.0, 2.0, 3.0]), cond).item()
        0.5

    References:
        Chzhen et al., *Fair regression with Wasserstein barycenters*, NeurIPS 2020,
        whose experiments measure unfairness so.
    """
    scores = _distributions.floats(scores, cond, "scores")
    found = measures.ks(scores, cond)
    return _with(interval, found, bootstrap_statistics.ks, (scores, cond))


@overload
def wasserstein(
    scores: Numbers, cond: Conditionals, *, p: Literal[1, 2] = 1
) -> Scalar: ...
@overload
def wasserstein(
    scores: Numbers, cond: Conditionals, *, p: Literal[1, 2] = 1, interval: Bootstrap
) -> Estimate: ...
def wasserstein(
    scores: Numbers,
    cond: Conditionals,
    *,
    p: Literal[1, 2] = 1,
    interval: Bootstrap | None = None,
) -> Scalar | Estimate:
    """Largest p-Wasserstein distance of two groups' scores [score].

    Args:
        scores: real outputs of a model.
        cond: from a notion; empty cells are left out.
        p: static; 1 is the area between the quantile functions, 2 the root of their
            mean squared difference.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        A number >= 0, exact for unequal weights and sizes; 0 when no stratum has two
        occupied cells. Differentiable almost everywhere, with 0 as the gradient at 0.
        Rounding of the weights moves it by up to `eps ** (1 / p)` of the scores' range
        (3e-4 for p = 2 in float32); equally weighted samples are spared that.
        Cost O(n log n + s g^2 n), memory O(s g n).

    Raises:
        ValueError: for scores that are not finite, or not one per sample of `cond`;
            for another `p`; for a sample in two groups of one stratum.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1, 1]), n_groups=2)
        >>> wasserstein(jnp.array([1.0, 2.0, 5.0, 3.0]), cond).item()
        2.5

    References:
        Peyre, Cuturi, *Computational optimal transport*, 2019, chapter 2, on measures
        on the line.
    """
    if p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, but is {p!r}.")
    scores = _distributions.floats(scores, cond, "scores")
    found = measures.transport(scores, cond, p)
    resampled = bootstrap_statistics.area if p == 1 else bootstrap_statistics.root
    return _with(interval, found, resampled, (scores, cond))


@overload
def price_of_fairness(
    scores: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Numbers | None = None,
) -> Scalar: ...
@overload
def price_of_fairness(
    scores: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Numbers | None = None,
    interval: Bootstrap,
) -> Estimate: ...
def price_of_fairness(
    scores: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Numbers | None = None,
    interval: Bootstrap | None = None,
) -> Scalar | Estimate:
    """Least mean squared change of the scores that gives demographic parity [score^2].

    It is `sum_g p_g W2^2(nu_g, barycenter)`, with the groups' shares `p_g` as weights
    of the barycenter too. When the scores are the regression function E[Y | X, S], it
    is the excess risk of the best fair predictor; for any other scores it measures the
    change only. Atoms (tied scores) may have to be split at random to attain it.
    `barycenters.price` finds the same number from a fitted map, in O(n) memory; this
    one audits scores, and has a gradient in the weights.

    Args:
        scores: real outputs of a model.
        groups: codes in `[0, n_groups)`.
        n_groups: static.
        weights: non-negative sample weights, or a mask.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        A number >= 0, at most the variance of the scores; cost O(n log n + g n).

    Raises:
        ValueError: for scores that are not finite or not one per group code, for codes
            out of range and for bad weights.

    Example:
        >>> scores, groups = jnp.array([0.0, 2.0, 4.0, 6.0]), jnp.array([0, 0, 1, 1])
        >>> price_of_fairness(scores, groups, n_groups=2).item()
        4.0

    References:
        Chzhen et al., *Fair regression with Wasserstein barycenters*, NeurIPS 2020,
        Theorem 2.3.
    """
    cond = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    table = _distributions.quantiles(scores, cond)
    everyone = measures.everyone(cond.weights.shape[-1], weights).weights[0]
    mass = jnp.where(cond.weights[0] > 0, everyone, 0)
    shares = mass.sum(axis=-1)
    found = measures.price(table.values, table.widths, shares)
    found = found * table.unit * table.unit
    scores = _distributions.floats(scores, cond, "scores")
    return _with(interval, found, bootstrap_statistics.price, (scores, cond, mass))


@overload
def audit(
    scores: Numbers,
    labels: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Numbers | None = None,
) -> Audit: ...
@overload
def audit(
    scores: Numbers,
    labels: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Numbers | None = None,
    interval: Bootstrap,
) -> Estimate: ...
def audit(
    scores: Numbers,
    labels: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Numbers | None = None,
    interval: Bootstrap | None = None,
) -> Audit | Estimate:
    """All numbers for a classifier whose decisions are `scores > threshold`.

    Args:
        scores: real outputs of a model; for bare decisions pass `threshold=0.5`.
        labels: 0 or 1; 1 is the favourable outcome.
        groups: codes in `[0, n_groups)`.
        n_groups: static.
        threshold: what a score must exceed.
        weights: non-negative sample weights, or a mask.
        interval: how to resample; with it, the result is an `Estimate`.

    Returns:
        The audit; cost O(n log n + g^2 n).

    Raises:
        ValueError: for scores or a threshold that are not finite, labels other than 0
            and 1, codes out of range, bad weights, or lengths that differ.

    Example:
        >>> numbers = audit(jnp.array([1.0, -1.0, 2.0]), jnp.array([1, 1, 1]),
        ...     jnp.array([0, 0, 1]), n_groups=2)
        >>> numbers.equal_opportunity.item(), numbers.counts.tolist()
        (0.5, [[0, 0], [2, 1]])
    """
    checks.check_finite(threshold, name="threshold")
    positive = measures.binary(labels, "labels")
    parity = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    n = parity.weights.shape[-1]
    checks.check_length(positive, n=n, name="labels", to="groups")
    scores = _distributions.floats(scores, parity, "scores")
    decisions = scores > jnp.asarray(threshold).astype(scores.dtype)
    mass = measures.everyone(n, weights).weights[0, 0]
    cells = measures.tabulated(decisions, positive, parity.weights[0] > 0)
    table = jnp.where(cells, mass[None, None, None], 0)
    found = measures.gathered(
        table.sum(axis=-1),
        ks=measures.ks(scores, parity),
        wasserstein=measures.transport(scores, parity, 1),
        counts=cells.sum(axis=(2, 3)),
    )
    return _with(interval, found, bootstrap_statistics.audit, (scores, parity, table))


def _of_means(
    measure: bootstrap_statistics.Measure,
    values: ArrayLike,
    cond: Conditionals,
    interval: Bootstrap | None,
) -> Any:
    """A measure of cell means, and its interval."""
    values = _distributions.floats(values, cond, "values")
    found = measure(measures.means(values, cond), cond.occupied)
    gaps = measure in (measures.gap, measures.ratio)
    needed = bootstrap_statistics.compared if gaps else bootstrap_statistics.all_cells
    resampled = bootstrap_statistics.of_means(measure, needed)
    return _with(interval, found, resampled, (values, cond))


def _with(
    interval: Bootstrap | None,
    found: Any,
    resampled: Callable[..., bootstrapping.Statistic],
    data: tuple[Any, ...],
) -> Any:
    """The number itself, or with an interval when one is asked for."""
    if interval is None:
        return found
    return bootstrapping.estimate(found, resampled, data, interval, n=len(data[0]))
