"""Empirical risk, whole and per cell, for any pointwise loss.

A loss takes scores and labels and returns one value per sample. Binary labels are 0 and
1 everywhere in fairjax; the margin losses below map them to -1 and 1 themselves, so a
decision is `scores > 0` under each of them.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Real

from . import _samples, checks
from ._objective import Batch as Batch
from ._objective import Objective as Objective
from ._objective import Outputs as Outputs
from ._objective import Parts as Parts
from ._objective import Penalty as Penalty
from ._objective import objective as objective
from .notions import Conditionals

Loss = Callable[[Array, Array], Array]


def logistic(
    scores: Float[Array, "*n"], labels: Real[Array, "*n"]
) -> Float[Array, "*n"]:
    """Logistic loss `log(1 + exp(-y f))`, y in {-1, 1} [nats].

    Example:
        >>> print(logistic(jnp.array([0.0]), jnp.array([1])))
        [0.6931472]

    References:
        Donini et al., NeurIPS 2018, section 2 (a convex surrogate of the 0-1 loss).
    """
    return optax.sigmoid_binary_cross_entropy(scores, labels.astype(scores.dtype))


def hinge(scores: Float[Array, "*n"], labels: Real[Array, "*n"]) -> Float[Array, "*n"]:
    """Hinge loss `max(0, 1 - y f)`, y in {-1, 1}.

    Example:
        >>> hinge(jnp.array([0.25, 2.0]), jnp.array([0, 1])).tolist()
        [1.25, 0.0]

    References:
        Donini et al., NeurIPS 2018, section 2.
    """
    return optax.hinge_loss(scores, _signs(scores, labels))


def squared_hinge(
    scores: Float[Array, "*n"], labels: Real[Array, "*n"]
) -> Float[Array, "*n"]:
    """Squared hinge loss `max(0, 1 - y f)^2`, y in {-1, 1}.

    Example:
        >>> squared_hinge(jnp.array([0.5, 2.0]), jnp.array([0, 1])).tolist()
        [2.25, 0.0]

    References:
        Chang, Hsieh, Lin, *Coordinate descent method for large-scale L2-loss linear
        support vector machines*, JMLR 2008.
    """
    return jnp.square(hinge(scores, labels))


def squared(
    scores: Float[Array, "*n"], labels: Real[Array, "*n"]
) -> Float[Array, "*n"]:
    """Squared loss `(f - y)^2` on labels as they are, so it also serves regression.

    With labels in {0, 1} a decision is `scores > 0.5`; pass `2 * labels - 1` to keep
    the threshold at 0.

    Example:
        >>> squared(jnp.array([0.5]), jnp.array([2.0])).tolist()
        [2.25]
    """
    return optax.squared_error(scores, labels.astype(scores.dtype))


def linear(scores: Float[Array, "*n"], labels: Real[Array, "*n"]) -> Float[Array, "*n"]:
    """Linear loss `(1 - y f) / 2`, y in {-1, 1}: P1's surrogate inside the constraint.

    It is affine in the score, so a constraint on its conditional risks is affine in a
    linear model: `|<w, u>| <= tolerance`.

    Example:
        >>> linear(jnp.array([0.5]), jnp.array([1])).tolist()
        [0.25]

    References:
        Donini et al., NeurIPS 2018, section 2.2, Eq. 8.
    """
    return (1 - _signs(scores, labels) * scores) / 2


def zero_one(
    scores: Float[Array, "*n"], labels: Real[Array, "*n"]
) -> Float[Array, "*n"]:
    """Whether the decision `f > 0` is wrong: 0 or 1, with no gradient.

    Example:
        >>> zero_one(jnp.array([0.5, 0.5]), jnp.array([1, 0])).tolist()
        [0.0, 1.0]
    """
    return ((scores > 0) != (labels == 1)).astype(scores.dtype)


def empirical_risk(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    *,
    loss: Loss,
    weights: Real[Array, " n"] | Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean loss, or weighted mean loss [units of the loss]; cost O(n).

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        loss: pointwise, `loss(scores, labels) -> (n,)`: those here or from optax.
        weights: non-negative sample weights, or a mask.

    Returns:
        The risk; 0 when all weights are 0.

    Raises:
        ValueError: for scores that are not finite, lengths that differ, and for bad
            weights.

    Example:
        >>> empirical_risk(jnp.array([1.0, -3.0]), jnp.array([1, 1]), loss=hinge).item()
        2.0

    References:
        Donini et al., NeurIPS 2018, section 2: the empirical risk of f.
    """
    checks.check_length(labels, n=len(scores), name="labels", to="scores")
    checks.check_finite(scores, name="scores")
    values = loss(scores, labels)
    if weights is None:
        return jnp.mean(values)
    checks.check_weights(weights, n=len(scores))
    dtype = _samples.wide(values, weights)
    mass = _samples.shares(_samples.as_weights(weights, len(scores), dtype))
    return jnp.vdot(mass.astype(values.dtype), values)


def conditional_risks(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: Loss,
) -> Float[Array, "s g"]:
    """Mean loss in every cell: what the fairness constraint compares.

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        cond: from a notion; it already carries sample weights and masks.
        loss: pointwise, `loss(scores, labels) -> (n,)`.

    Returns:
        The conditional risk of each cell, 0 where the cell is empty (see
        `cond.occupied`); cost O(s g n).

    Raises:
        ValueError: for scores that are not finite, and for scores or labels that are
            not one per sample of `cond`.

    Example:
        >>> from fairjax.notions import equal_opportunity
        >>> labels, groups = jnp.array([1, 1, 0]), jnp.array([0, 1, 1])
        >>> cond = equal_opportunity(groups, labels, n_groups=2)
        >>> conditional_risks(
        ...     jnp.array([1.0, -1.0, 9.0]), labels, cond, loss=hinge).tolist()
        [[0.0, 2.0]]

    References:
        Donini et al., NeurIPS 2018, Definition 1: the risks `L^{+,a}` and `L^{+,b}`.
    """
    n = cond.weights.shape[-1]
    checks.check_length(scores, n=n, name="scores", to="groups")
    checks.check_length(labels, n=n, name="labels", to="groups")
    checks.check_finite(scores, name="scores")
    values = loss(scores, labels)
    return jnp.einsum("sgn,n->sg", cond.weights.astype(values.dtype), values)


def risk_gap(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: Loss,
) -> Float[Array, ""]:
    """Largest difference of conditional risks between two groups of a stratum.

    P1 constrains it: `minimise empirical_risk subject to risk_gap <= tolerance`. With
    the 0-1 loss and equal opportunity it is the difference of equal opportunity.

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        cond: from a notion.
        loss: pointwise, `loss(scores, labels) -> (n,)`.

    Returns:
        A number >= 0 [units of the loss], over occupied cells only; 0 when no stratum
        has two of them. Cost O(s g n).

    Raises:
        ValueError: as in `conditional_risks`.

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 1]), n_groups=2)
        >>> risk_gap(jnp.array([1.0, -1.0]), jnp.array([1, 1]), cond, loss=hinge).item()
        2.0

    References:
        Donini et al., NeurIPS 2018, Definition 1 and Problem 3.
    """
    risks = conditional_risks(scores, labels, cond, loss=loss)
    top = jnp.where(cond.occupied, risks, -jnp.inf).max(axis=-1)
    bottom = jnp.where(cond.occupied, risks, jnp.inf).min(axis=-1)
    comparable = cond.occupied.sum(axis=-1) >= 2
    return jnp.where(comparable, top - bottom, 0).max(initial=0)


def _signs(scores: Array, labels: Array) -> Array:
    return 2 * labels.astype(scores.dtype) - 1
