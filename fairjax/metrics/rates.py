"""Rates: accuracies of decisions, means per cell, their gaps and ratios."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .. import notions
from ..arrays import checks
from ..notions import Conditionals, cells

Numbers = Real[ArrayLike, " n"] | Bool[ArrayLike, " n"]
Scalar = Float[Array, ""]
Table = Float[Array, "s g"]


def accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
) -> Scalar:
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
    return _mean_of_means(*accuracy_values(decisions, labels, weights=weights))


def balanced_accuracy(
    decisions: Numbers,
    labels: Numbers,
    *,
    weights: Numbers | None = None,
) -> Scalar:
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
    return _mean_of_means(*balanced_values(decisions, labels, weights=weights))


def group_means(values: Numbers, cond: Conditionals) -> Table:
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
    values = cells.check_values(values, cond, "values")
    return cells.cell_means(values, cond)


def max_gap(values: Numbers, cond: Conditionals) -> Scalar:
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
    values = cells.check_values(values, cond, "values")
    return mean_gap(cells.cell_means(values, cond), cond.occupied)


def min_ratio(values: Numbers, cond: Conditionals) -> Scalar:
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
    values = cells.check_values(values, cond, "values")
    return mean_ratio(cells.cell_means(values, cond), cond.occupied)


def mean_of_means(
    means: Float[Array, "s g"], occupied: Bool[Array, "s g"]
) -> Float[Array, ""]:
    """Mean of the means of occupied cells."""
    total = jnp.where(occupied, means, 0).sum()
    return total / jnp.maximum(occupied.sum(), 1).astype(means.dtype)


def mean_gap(
    means: Float[Array, "s g"], occupied: Bool[Array, "s g"]
) -> Float[Array, ""]:
    """Largest difference of means between two groups of a stratum."""
    top, bottom = cells.cell_extremes(means, occupied)
    return (top - bottom).max(initial=0)


def mean_ratio(
    means: Float[Array, "s g"], occupied: Bool[Array, "s g"]
) -> Float[Array, ""]:
    """Smallest ratio of means between two groups of a stratum; 0/0 is 1."""
    top, bottom = cells.cell_extremes(means, occupied)
    some = top >= jnp.finfo(top.dtype).tiny
    return jnp.where(some, bottom / jnp.where(some, top, 1), 1).min(initial=1)


def accuracy_values(
    decisions: Numbers, labels: Numbers, *, weights: Numbers | None = None
) -> tuple[Float[Array, " n"], Conditionals]:
    """1 for right decisions, all samples in one cell."""
    right, _ = _right(decisions, labels)
    cond = everyone(right.shape[0], weights)
    return right.astype(cond.weights.dtype), cond


def balanced_values(
    decisions: Numbers, labels: Numbers, *, weights: Numbers | None = None
) -> tuple[Float[Array, " n"], Conditionals]:
    """1 for right decisions, and a cell for each label."""
    right, positive = _right(decisions, labels)
    cond = notions.conditional_parity(
        jnp.zeros(positive.shape[0], jnp.int32),
        positive.astype(jnp.int32),
        n_groups=1,
        n_strata=2,
        weights=weights,
    )
    return right.astype(cond.weights.dtype), cond


def everyone(n: int, weights: ArrayLike | None) -> Conditionals:
    """All samples as one group: its row is the weights, normalised."""
    zeros = jnp.zeros(n, jnp.int32)
    return notions.demographic_parity(zeros, n_groups=1, weights=weights)


def binary(values: ArrayLike, name: str) -> Bool[Array, " n"]:
    """Checks that values are 0 or 1, one per sample, and returns which are 1."""
    checks.check_length(values, n=np.size(values), name=name)
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


def _mean_of_means(values: Float[Array, " n"], cond: Conditionals) -> Scalar:
    return mean_of_means(cells.cell_means(values, cond), cond.occupied)


def _right(
    decisions: Numbers, labels: Numbers
) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """Samples whose decision equals the label, and those with label 1."""
    checks.check_length(decisions, n=np.size(labels), name="decisions", to="labels")
    positive = binary(labels, "labels")
    return binary(decisions, "decisions") == positive, positive
