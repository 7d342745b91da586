"""Distances of the groups' score distributions, and what removing them costs."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from .. import notions
from ..notions import Conditionals, cells
from .rates import Numbers, Scalar, everyone


def ks_distance(scores: Numbers, cond: Conditionals) -> Scalar:
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
    scores = cells.check_values(scores, cond, "scores")
    return cells.max_ks_distance(scores, cond)


def wasserstein(
    scores: Numbers,
    cond: Conditionals,
    *,
    p: Literal[1, 2] = 1,
) -> Scalar:
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
    scores = cells.check_values(scores, cond, "scores")
    return cells.max_wasserstein(scores, cond, p)


def price_of_fairness(
    scores: Numbers,
    groups: Shaped[ArrayLike, " n"],
    *,
    n_groups: int,
    weights: Numbers | None = None,
) -> Scalar:
    """Least mean squared change of the scores that gives demographic parity [score^2].

    It is `sum_g p_g W2^2(nu_g, barycenter)`, with the groups' shares `p_g` as weights
    of the barycenter too. When the scores are the regression function E[Y | X, S], it
    is the excess risk of the best fair predictor; for any other scores it measures the
    change only. Atoms (tied scores) may have to be split at random to attain it.
    `barycenters.excess_risk` finds the same number from a fitted map, in O(n) memory;
    this one audits scores, and has a gradient in the weights.

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
    scores, cond, mass = price_values(scores, groups, n_groups, weights)
    steps = cells.cell_quantiles(scores, cond)
    variance = quantile_variance(steps.values, steps.widths, mass.sum(axis=-1))
    return variance * steps.unit * steps.unit


def price_values(
    scores: Numbers,
    groups: Shaped[ArrayLike, " n"],
    n_groups: int,
    weights: Numbers | None,
) -> tuple[Float[Array, " n"], Conditionals, Float[Array, "g n"]]:
    """Scores, the cells of demographic parity, and each sample's share in its group."""
    cond = notions.demographic_parity(groups, n_groups=n_groups, weights=weights)
    scores = cells.check_values(scores, cond, "scores")
    share = everyone(cond.weights.shape[-1], weights).weights[0]
    return scores, cond, jnp.where(cond.weights[0] > 0, share, 0)


def quantile_variance(
    values: Float[Array, "1 g n"],
    widths: Float[Array, "1 n"],
    shares: Float[Array, " g"],
) -> Float[Array, ""]:
    """Weighted variance of quantile functions around their barycenter."""
    shares = shares.astype(values.dtype)
    barycenter = (shares[:, None] * values[0]).sum(axis=0)
    costs = (jnp.square(values[0] - barycenter[None]) * widths).sum(axis=-1)
    return (shares * costs).sum()
