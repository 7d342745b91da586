"""Means of a pointwise loss: over all samples, in each cell, and their largest gap."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from ..arrays import checks, samples
from ..notions import Conditionals
from . import losses
from .losses import Loss


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
        ValueError: for scores or labels that are not finite, labels outside [0, 1] with
            a loss of this module that takes 0 and 1, a loss that is not pointwise,
            shapes other than (n,), and for bad weights.

    Example:
        >>> scores, labels = jnp.array([1.0, -3.0]), jnp.array([1, 1])
        >>> empirical_risk(scores, labels, loss=losses.hinge).item()
        2.0

    References:
        Donini et al., NeurIPS 2018, section 2: the empirical risk of f.
    """
    n = np.shape(scores)[0]
    if not n:
        raise ValueError("`scores` must hold at least one sample, but are empty.")
    checks.check_length(scores, n=n, name="scores")
    checks.check_length(labels, n=n, name="labels", to="scores")
    checks.check_finite(scores, name="scores")
    checks.check_finite(labels, name="labels")
    if weights is not None:
        checks.check_weights(weights, n=n)
    losses.check_loss_labels(loss, labels, weights=weights, name="labels")
    values = _pointwise(loss, scores, labels)
    if weights is None:
        return jnp.mean(values)
    dtype = samples.wide(values, weights)
    return _weighted_mean(values, samples.as_weights(weights, n, dtype))


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
        ValueError: for scores or labels that are not finite or not one per sample of
            `cond`, labels outside [0, 1] in its cells with a loss of this module that
            takes 0 and 1, and a loss that is not pointwise.

    Example:
        >>> from fairjax.notions import equal_opportunity
        >>> labels, groups = jnp.array([1, 1, 0]), jnp.array([0, 1, 1])
        >>> cond = equal_opportunity(groups, labels, n_groups=2)
        >>> conditional_risks(
        ...     jnp.array([1.0, -1.0, 9.0]), labels, cond, loss=losses.hinge).tolist()
        [[0.0, 2.0]]

    References:
        Donini et al., NeurIPS 2018, Definition 1: the risks `L^{+,a}` and `L^{+,b}`.
    """
    n = cond.weights.shape[-1]
    checks.check_length(scores, n=n, name="scores", to="groups")
    checks.check_length(labels, n=n, name="labels", to="groups")
    checks.check_finite(scores, name="scores")
    checks.check_finite(labels, name="labels")
    losses.check_loss_labels(loss, labels, weights=cond.weights, name="labels")
    values = _pointwise(loss, scores, labels)
    return jnp.einsum("sgn,n->sg", cond.weights.astype(values.dtype), values)


def max_risk_gap(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: Loss,
) -> Float[Array, ""]:
    """Largest difference of conditional risks between two groups of a stratum.

    P1 minimises `empirical_risk` subject to `max_risk_gap <= tolerance`. With the 0-1
    loss and equal opportunity it is the difference of equal opportunity.

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
        >>> scores, labels = jnp.array([1.0, -1.0]), jnp.array([1, 1])
        >>> max_risk_gap(scores, labels, cond, loss=losses.hinge).item()
        2.0

    References:
        Donini et al., NeurIPS 2018, Definition 1 and Problem 3.
    """
    return _max_gap(conditional_risks(scores, labels, cond, loss=loss), cond)


@jax.jit
def _max_gap(risks: Float[Array, "s g"], cond: Conditionals) -> Float[Array, ""]:
    top = jnp.where(cond.occupied, risks, -jnp.inf).max(axis=-1)
    bottom = jnp.where(cond.occupied, risks, jnp.inf).min(axis=-1)
    comparable = cond.occupied.sum(axis=-1) >= 2
    return jnp.where(comparable, top - bottom, 0).max(initial=0)


@jax.jit
def _weighted_mean(
    values: Float[Array, " n"], weights: Float[Array, " n"]
) -> Float[Array, ""]:
    return jnp.vdot(samples.shares(weights).astype(values.dtype), values)


def _pointwise(loss: Loss, scores: Array, labels: Array) -> Array:
    """The loss of each sample."""
    values = loss(scores, labels)
    if np.shape(values) != np.shape(scores):
        raise ValueError(
            f"`loss` must be pointwise, one value per sample, but returns shape "
            f"{np.shape(values)} for scores of shape {np.shape(scores)}. Leave the "
            f"mean to this function."
        )
    return values
