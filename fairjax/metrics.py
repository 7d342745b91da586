"""Audits: how accurate and how unequal decisions and scores are.

Decisions are 0 or 1, scores are real; an audit of either compares the cells of a
notion, so sample weights and masks are already inside `cond`. Every number is exact for
the sample: no grid, no smoothing. It says little about the population where cells are
small (see `bootstrap`), and a group without members cannot show a gap: look at
`cond.occupied` before reading 0 as fair.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Real, Shaped, UInt32

from . import _distributions, checks, notions, sketches
from ._leakage import Leakage as Leakage
from ._leakage import Probe as Probe
from ._leakage import leakage as leakage
from .notions import Conditionals


class Audit(NamedTuple):
    """The numbers of one classifier on one sample; `g` is the number of groups.

    Attributes:
        accuracy: share of right decisions, in [0, 1].
        balanced_accuracy: mean of the two labels' accuracies, in [0, 1].
        demographic_parity: largest difference of selection rates, in [0, 1].
        demographic_parity_ratio: smallest ratio of selection rates, in [0, 1]; the
            "four-fifths rule" asks for 0.8.
        equal_opportunity: largest difference of true positive rates, in [0, 1].
        equalized_odds: the larger one of the differences of true and of false positive
            rates, in [0, 1].
        ks: Kolmogorov-Smirnov distance of the groups' scores, in [0, 1].
        wasserstein: first Wasserstein distance of the groups' scores [score].
        selection_rates: per group, 0 for a group without members.
        rates: per label and group: false positive rates, then true positive rates.
        counts: samples with positive weight, per label and group.
    """

    accuracy: Float[Array, ""]
    balanced_accuracy: Float[Array, ""]
    demographic_parity: Float[Array, ""]
    demographic_parity_ratio: Float[Array, ""]
    equal_opportunity: Float[Array, ""]
    equalized_odds: Float[Array, ""]
    ks: Float[Array, ""]
    wasserstein: Float[Array, ""]
    selection_rates: Float[Array, " g"]
    rates: Float[Array, "2 g"]
    counts: Int[Array, "2 g"]


class Interval(NamedTuple):
    """Lower and upper end, each with the structure of the statistic."""

    low: Any
    high: Any


def accuracy(
    decisions: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    labels: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    *,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Float[Array, ""]:
    """Share of decisions that equal the label, in [0, 1]; cost O(n).

    Args:
        decisions: 0 or 1; threshold scores first, `scores > 0`.
        labels: 0 or 1.
        weights: non-negative sample weights, or a mask.

    Returns:
        The weighted share; 0 when all weights are 0.

    Raises:
        ValueError: for decisions or labels other than 0 and 1, and for bad weights.

    Example:
        >>> accuracy(jnp.array([1, 0, 0]), jnp.array([1, 1, 0])).round(4).item()
        0.6667...
    """
    checks.check_length(decisions, n=np.size(labels), name="decisions", to="labels")
    right = _binary(decisions, "decisions") == _binary(labels, "labels")
    return group_means(right, _everyone(right.shape[0], weights))[0, 0]


def balanced_accuracy(
    decisions: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    labels: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    *,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean of the accuracies among negatives and among positives, in [0, 1]; cost O(n).

    Args:
        decisions: 0 or 1.
        labels: 0 or 1; a label that does not occur is left out of the mean.
        weights: non-negative sample weights, or a mask.

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
    positive = _binary(labels, "labels")
    right = _binary(decisions, "decisions") == positive
    cond = notions.conditional_parity(
        jnp.zeros(positive.shape[0], jnp.int32),
        positive.astype(jnp.int32),
        n_groups=1,
        n_strata=2,
        weights=weights,
    )
    means = group_means(right, cond)
    return means.sum() / jnp.maximum(cond.occupied.sum(), 1).astype(means.dtype)


def group_means(
    values: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Float[Array, "s g"]:
    """Mean of the values in every cell [values].

    With decisions these are selection rates under `demographic_parity`, true positive
    rates under `equal_opportunity`, and false then true positive rates under
    `equalized_odds`; with losses they are conditional risks.

    Args:
        values: one number per sample.
        cond: from a notion.

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
    values = _distributions.floats(values, cond, "values")
    rows = cond.weights.astype(values.dtype)
    # Accelerators otherwise multiply in TF32, which is off by 5e-4.
    means = jnp.einsum("sgn,n->sg", rows, values, precision=Precision.HIGHEST)
    # A mean of the largest numbers may round to infinity, and a gap of two to NaN.
    largest = jnp.finfo(values.dtype).max
    return jnp.clip(means, -largest, largest)


def max_gap(
    values: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Float[Array, ""]:
    """Largest difference of means between two groups of a stratum [values].

    With decisions: the demographic parity difference, the difference of equal
    opportunity (DEO) or the equalized odds difference, whichever notion made `cond`.

    Args:
        values: one number per sample.
        cond: from a notion; empty cells are left out, whereas some libraries count the
            true positive rate of a group without positives as 0.

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
    top, bottom = _range(group_means(values, cond), cond.occupied)
    return (top - bottom).max(initial=0)


def min_ratio(
    values: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Float[Array, ""]:
    """Smallest ratio of means between two groups of a stratum, in [0, 1].

    Args:
        values: non-negative, one per sample, such as decisions.
        cond: from a notion; empty cells are left out.

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
    top, bottom = _range(group_means(values, cond), cond.occupied)
    some = top >= jnp.finfo(top.dtype).tiny
    return jnp.where(some, bottom / jnp.where(some, top, 1), 1).min(initial=1)


def ks_distance(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Float[Array, ""]:
    """Largest distance of two groups' distribution functions, in [0, 1].

    It is the largest demographic parity difference that any threshold can produce, and
    depends on the order of the scores only, so its gradient is 0.

    Args:
        scores: real outputs of a model; ties are treated as such.
        cond: from a notion; empty cells are left out.

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
    order = jnp.argsort(scores)
    ordered = scores[order]
    # Between tied scores the distribution functions have no value of their own.
    last = jnp.append(ordered[1:] != ordered[:-1], True)[: ordered.size]
    levels = _distributions.levels(cond.weights[..., order], cond.occupied).swapaxes(
        1, 2
    )
    top, bottom = _range(levels, cond.occupied[:, None])
    return jnp.where(last, top - bottom, 0).max(initial=0)


def wasserstein(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    cond: Conditionals,
    *,
    p: Literal[1, 2] = 1,
) -> Float[Array, ""]:
    """Largest p-Wasserstein distance of two groups' scores [score].

    Args:
        scores: real outputs of a model.
        cond: from a notion; empty cells are left out.
        p: static; 1 is the area between the quantile functions, 2 the root of their
            mean squared difference.

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
    table = _distributions.quantiles(scores, cond)

    def costs_from(group: Int[Array, ""]) -> Float[Array, "s g"]:
        gaps = jnp.abs(table.values - table.values[:, group, None])
        return (gaps**p * table.widths[:, None]).sum(axis=-1)

    # One group at a time, so that memory stays O(s g n).
    costs = jax.lax.map(costs_from, jnp.arange(cond.occupied.shape[1]))
    pair = cond.occupied[None] & cond.occupied.T[:, :, None] & (costs > 0)
    distances = jnp.where(pair, costs, 1) ** (1 / p)
    return jnp.where(pair, distances, 0).max(initial=0) * table.unit


def price_of_fairness(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Float[Array, ""]:
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
    everyone = _everyone(cond.weights.shape[-1], weights).weights[0]
    shares = jnp.where(cond.weights[0] > 0, everyone, 0).sum(axis=-1)
    shares = shares.astype(table.values.dtype)[:, None]
    barycenter = (shares * table.values[0]).sum(axis=0)
    costs = (jnp.square(table.values[0] - barycenter[None]) * table.widths).sum(axis=-1)
    return (shares[:, 0] * costs).sum() * table.unit * table.unit


def audit(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    labels: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"],
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    threshold: float | Float[Array, ""] = 0.0,
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
) -> Audit:
    """All numbers for a classifier whose decisions are `scores > threshold`.

    Args:
        scores: real outputs of a model; for bare decisions pass `threshold=0.5`.
        labels: 0 or 1; 1 is the favourable outcome.
        groups: codes in `[0, n_groups)`.
        n_groups: static.
        threshold: what a score must exceed.
        weights: non-negative sample weights, or a mask.

    Returns:
        The audit; cost O(n log n + g^2 n).

    Raises:
        ValueError: for scores that are not finite, labels other than 0 and 1, codes out
            of range, bad weights, or lengths that differ.

    Example:
        >>> numbers = audit(jnp.array([1.0, -1.0, 2.0]), jnp.array([1, 1, 1]),
        ...     jnp.array([0, 0, 1]), n_groups=2)
        >>> numbers.equal_opportunity.item(), numbers.counts.tolist()
        (0.5, [[0, 0], [2, 1]])
    """
    labels = _binary(labels, "labels").astype(jnp.int32)
    parity = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    checks.check_length(labels, n=parity.weights.shape[-1], name="labels", to="groups")
    odds = notions.equalized_odds(groups, labels, n_groups=n_groups, weights=weights)
    scores = _distributions.floats(scores, parity, "scores")
    decisions = scores > jnp.asarray(threshold).astype(scores.dtype)
    positives = Conditionals(odds.weights[1:], odds.occupied[1:])
    return Audit(
        accuracy=accuracy(decisions, labels, weights=weights),
        balanced_accuracy=balanced_accuracy(decisions, labels, weights=weights),
        demographic_parity=max_gap(decisions, parity),
        demographic_parity_ratio=min_ratio(decisions, parity),
        equal_opportunity=max_gap(decisions, positives),
        equalized_odds=max_gap(decisions, odds),
        ks=ks_distance(scores, parity),
        wasserstein=wasserstein(scores, parity),
        selection_rates=group_means(decisions, parity)[0],
        rates=group_means(decisions, odds),
        counts=(odds.weights > 0).sum(axis=-1),
    )


def audit_stream(
    chunks: Iterable[tuple[ArrayLike, ...]],
    *,
    n_groups: int,
    threshold: float = 0.0,
    edges: Real[ArrayLike, " b"] | None = None,
    rank_error: float = 0.01,
) -> Audit:
    """`audit` of rows that do not fit into memory, in one pass.

    Counts are exact, and so is every number that comes from them: all but the
    distances of scores. Those come from a histogram per group (see `sketches`). `ks` is
    exact at its edges, and so too small by no more than `rank_error`. `wasserstein`
    moves the scores of a bin to their mean.

    Args:
        chunks: read once; each is `(scores, labels, groups)` or `(scores, labels,
            groups, weights)`, of any lengths, such as `streams.scored` makes.
        n_groups: how many groups there are.
        threshold: what a score must exceed.
        edges: increasing inner edges of the histogram [score]; quantiles of the first
            chunk when None, 4,096 to 8,192 of them.
        rank_error: how much smaller than the truth `ks` may be, in [0, 1].

    Returns:
        The audit; memory O(g b) and a chunk.

    Raises:
        ValueError: for chunks that `audit` refuses, no chunk, weights that are all
            zero, and where the histogram is coarser than `rank_error`: a first chunk
            that is not like the others needs `edges`.

    Example:
        >>> rows = [([1.0, -1.0], [1, 1], [0, 0]), ([2.0], [1], [1])]
        >>> chunks = [tuple(map(np.array, chunk)) for chunk in rows]
        >>> numbers = audit_stream(chunks, n_groups=2, edges=np.array([0.0, 1.5]))
        >>> numbers.equal_opportunity.item(), numbers.counts.tolist()
        (0.5, [[0, 0], [2, 1]])
    """
    empty, number = None, -1
    mass = np.zeros((2, n_groups, 2))
    counts = np.zeros((2, n_groups), np.int64)
    bins, offsets = 0.0, 0.0
    for number, chunk in enumerate(chunks):
        if len(chunk) not in (3, 4):
            raise ValueError(
                f"`chunks` must yield (scores, labels, groups) or these and weights, "
                f"but chunk {number} has {len(chunk)} parts."
            )
        scores, labels, groups = (np.asarray(a) for a in chunk[:3])
        place = f"chunk {number}: "
        checks.check_finite(scores, name=f"{place}scores")
        positive = np.asarray(_binary(labels, f"{place}labels")).astype(int)
        checks.check_groups(groups, n_groups=n_groups, name=f"{place}groups")
        weights = np.asarray(chunk[3] if len(chunk) > 3 else np.ones(len(groups)))
        named = {"scores": scores, "labels": positive, "weights": weights}
        for name, values in named.items():
            checks.check_length(
                values, n=len(groups), name=f"{place}{name}", to="groups"
            )
        checks.check_finite(weights, name=f"{place}weights")
        checks.check_nonnegative(weights, name=f"{place}weights")
        if not (weights > 0).any():
            continue
        scores = scores.astype(np.float32)
        decided = (scores > np.float32(threshold)).astype(int)
        np.add.at(counts, (positive, groups), weights > 0)
        np.add.at(mass, (positive, groups, decided), weights)
        if empty is None:
            if edges is None:
                edges = _edges(scores[weights > 0])
            empty = sketches.init(edges, n_groups=n_groups)
        sketch = sketches.update(empty, scores, groups, weights=weights)
        bins = bins + np.asarray(sketch.counts, np.float64)
        offsets = offsets + np.asarray(sketch.offsets, np.float64)
    if empty is None:
        raise ValueError(
            "`chunks` must hold rows of positive weight, but "
            + ("is empty." if number < 0 else "all weights are zero.")
        )
    bins, offsets = np.asarray(bins), np.asarray(offsets)
    _check_bins(bins, offsets, rank_error)
    whole = empty._replace(
        counts=jnp.asarray(bins, empty.counts.dtype),
        offsets=jnp.asarray(offsets, empty.counts.dtype),
    )
    places = np.tile(np.arange(bins.shape[1]), n_groups)
    numbers = _condensed(jnp.asarray(mass, empty.counts.dtype), whole, places)
    return numbers._replace(counts=jnp.asarray(counts))


def bootstrap(
    statistic: Callable[[Float[Array, " n"]], Any],
    *,
    n: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
    draws: int = 200,
    level: float | Float[Array, ""] = 0.9,
) -> Interval:
    """Percentile intervals of any statistic of sample weights.

    Args:
        statistic: from weights (how often each sample was drawn) to arrays, such as
            `lambda w: audit(scores, labels, groups, n_groups=2, weights=w)`.
        n: static; number of samples.
        key: source of the draws.
        draws: static; number of resamples.
        level: share of the resamples inside, in (0, 1).

    Returns:
        Both ends. A largest gap is >= 0 and its resamples lean upwards, so an interval
        above 0 is no proof of unfairness; a cell of a few samples may vanish from a
        draw, and then says less than its interval does. Cost: `draws` statistics.

    Raises:
        ValueError: for a level outside (0, 1) or for no draws.

    Example:
        >>> low, high = bootstrap(lambda w: w @ jnp.arange(9.0) / 9, n=9,
        ...     key=jax.random.key(0))
        >>> bool(low < 4.0) and bool(high > 4.0)
        True

    References:
        Efron, Tibshirani, *An introduction to the bootstrap*, 1993, chapter 13.
    """
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, but is {draws}.")
    if checks.concrete(level) and not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), but is {level}.")

    def resample(key: Array) -> Any:
        picks = jax.random.randint(key, (n,), 0, n)
        return statistic(jnp.zeros(n).at[picks].add(1.0))

    values = jax.lax.map(resample, jax.random.split(key, draws))
    tail = (1 - jnp.asarray(level, float)) / 2

    def end(at: Array) -> Any:
        return jax.tree.map(lambda v: jnp.quantile(v.astype(float), at, axis=0), values)

    return Interval(end(tail), end(1 - tail))


def _range(
    means: Float[Array, "*#s g"], occupied: Bool[Array, "*#s g"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Largest and smallest mean of each stratum; both 0 without two to compare."""
    top = jnp.where(occupied, means, -jnp.inf).max(axis=-1)
    bottom = jnp.where(occupied, means, jnp.inf).min(axis=-1)
    comparable = occupied.sum(axis=-1) >= 2
    return jnp.where(comparable, top, 0), jnp.where(comparable, bottom, 0)


@jax.jit
def _condensed(
    mass: Float[Array, "2 g 2"], sketch: sketches.Sketch, places: Int[Array, " _"]
) -> Audit:
    """The audit of few samples with weights: one for each label, group and decision.

    Those for the distances stand for a bin each: at its place for `ks`, so that groups
    are tied inside it, and at its mean for `wasserstein`.
    """
    n_groups = sketch.counts.shape[0]
    label, group, decision = (a.ravel() for a in np.indices(mass.shape))
    numbers = audit(
        decision, label, group, n_groups=n_groups, threshold=0.5, weights=mass.ravel()
    )
    means, owners = sketches.bin_means(sketch)
    parity = notions.demographic_parity(
        owners, n_groups=n_groups, weights=sketch.counts.ravel()
    )
    return numbers._replace(
        ks=ks_distance(places, parity),
        wasserstein=wasserstein(means.ravel(), parity),
    )


def _edges(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
    """Quantiles of a chunk: scores themselves, so that each of a few values is an edge.

    And points between them, where there are fewer scores than edges.
    """
    levels = np.linspace(0, 1, 4096)
    between = np.quantile(scores, levels).astype(scores.dtype)
    among = np.quantile(scores, levels, method="inverted_cdf")
    return np.unique(np.concatenate([between, among]))


def _check_bins(
    bins: Float[np.ndarray, "g b"], offsets: Float[np.ndarray, "g b"], most: float
) -> None:
    """Raises `ValueError` where two groups may part unseen inside a bin.

    There `|F_a - F_b|` exceeds its values at the edges by no more than the smaller one
    of the shares of a and b; not at all if each has its scores at the edge.
    """
    total = bins.sum(axis=1, keepdims=True)
    shares = bins / np.where(total > 0, total, 1)
    second = np.sort(shares, axis=0)[-2:].min(axis=0) * (len(bins) > 1)
    second = np.where((offsets == 0).all(axis=0), 0, second)
    if second.max() > most:
        raise ValueError(
            f"the histogram of scores is too coarse: bin {second.argmax()} of "
            f"{bins.shape[1]} holds {second.max():.3g} of each of two groups, more "
            f"than `rank_error` = {most:g}. Pass `edges`, such as quantiles of scores "
            f"from all over the data, or a larger `rank_error`."
        )


def _everyone(n: int, weights: ArrayLike | None) -> Conditionals:
    """All samples as one group: its row is the weights, normalised."""
    zeros = jnp.zeros(n, jnp.int32)
    return notions.demographic_parity(zeros, n_groups=1, weights=weights)


def _binary(values: ArrayLike, name: str) -> Bool[Array, " n"]:
    """Checks that values are 0 or 1, and returns which are 1."""
    checks.check_finite(values, name=name)
    if checks.concrete(values):
        numbers = np.asarray(values)
        bad = np.flatnonzero((numbers != 0) & (numbers != 1))
        if bad.size:
            raise ValueError(
                f"`{name}` must be 0 or 1, but {name}[{bad[0]}] = {numbers[bad[0]]}. "
                f"Threshold scores first, for example with `scores > 0`."
            )
    values = jnp.asarray(values)
    return values if values.dtype == bool else values == 1
