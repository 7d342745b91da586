"""Pointwise losses, the derivatives that solvers need, and the check of labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Real

from ..arrays import checks

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
    """Zero-one loss: 1 where the decision `f > 0` is wrong, with no gradient.

    Example:
        >>> zero_one(jnp.array([0.5, 0.5]), jnp.array([1, 0])).tolist()
        [0.0, 1.0]
    """
    return ((scores > 0) != (labels == 1)).astype(scores.dtype)


class SmoothLoss(NamedTuple):
    """A loss with its first two derivatives in the score, for labels in {0, 1}.

    Attributes:
        value: the pointwise loss.
        derivative: written out, at half the work of differentiating.
        curvature: the second derivative, generalised where it jumps.
        max_curvature: the largest value of `curvature`.
    """

    value: Loss
    derivative: Loss
    curvature: Loss
    max_curvature: float


def _column_hinge(scores: Array, labels: Array) -> Array:
    return jnp.maximum(1 - (2 * labels - 1) * scores, 0)


# Labels of the scores' dtype, which may broadcast: one column for many models.
SMOOTH = {
    logistic: SmoothLoss(
        lambda scores, labels: jax.nn.softplus((1 - 2 * labels) * scores),
        lambda scores, labels: jax.nn.sigmoid(scores) - labels,
        lambda scores, labels: jax.nn.sigmoid(scores) * jax.nn.sigmoid(-scores),
        0.25,
    ),
    squared_hinge: SmoothLoss(
        lambda scores, labels: jnp.square(_column_hinge(scores, labels)),
        lambda scores, labels: -2 * (2 * labels - 1) * _column_hinge(scores, labels),
        lambda scores, labels: (
            2 * (_column_hinge(scores, labels) > 0).astype(scores.dtype)
        ),
        2.0,
    ),
    squared: SmoothLoss(
        lambda scores, labels: jnp.square(scores - labels),
        lambda scores, labels: 2 * (scores - labels),
        lambda scores, labels: jnp.full_like(scores, 2),
        2.0,
    ),
}

_BINARY = (logistic, hinge, squared_hinge, linear, zero_one)


def check_loss_labels(loss: Loss, labels: Any, *, weights: Any, name: str) -> None:
    """Raises `ValueError` for labels outside [0, 1] under a loss that takes 0 and 1.

    Args:
        loss: any; only those of this module restrict their labels.
        labels: one per sample.
        weights: (..., n), or None; samples of weight 0 may have any label.
        name: of the labels in the message.
    """
    if loss not in _BINARY or not checks.concrete(labels, weights):
        return
    if weights is not None:
        weights = np.asarray(weights)
        weights = weights.max(axis=tuple(range(weights.ndim - 1)))
    checks.check_label_range(labels, weights=weights, name=name)


def _signs(scores: Array, labels: Array) -> Array:
    return 2 * labels.astype(scores.dtype) - 1
