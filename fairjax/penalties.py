"""Penalties: scores and conditionals in, one non-negative scalar out.

`loss = erm.empirical_risk(...) + lam * penalty(...)` is the whole recipe: a penalty is
added by the caller, in whatever training loop is theirs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from . import erm
from .notions import Conditionals


def mean_gap(scores: Float[Array, " n"], cond: Conditionals) -> Float[Array, ""]:
    """Squared gaps of mean scores, summed over strata and group pairs [score^2].

    Args:
        scores: real outputs of a model.
        cond: from a notion; pairs with an empty cell are left out.

    Returns:
        A number >= 0; cost O(s g n + s g^2).

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 0, 1]), n_groups=2)
        >>> mean_gap(jnp.array([1.0, 3.0, 5.0]), cond).item()
        9.0

    References:
        Donini et al., NeurIPS 2018, section 2.2: the linear-loss surrogate, squared.
    """
    means = jnp.einsum("sgn,n->sg", cond.weights.astype(scores.dtype), scores)
    return _squared_gaps(means, cond)


def risk_gap(
    scores: Float[Array, " n"],
    labels: Real[Array, " n"],
    cond: Conditionals,
    *,
    loss: erm.Loss,
) -> Float[Array, ""]:
    """Squared gaps of conditional risks, summed over strata and pairs [loss^2].

    Args:
        scores: real outputs of a model.
        labels: 0 or 1, or real for a regression loss.
        cond: from a notion; pairs with an empty cell are left out.
        loss: pointwise, `loss(scores, labels) -> (n,)`.

    Returns:
        A number >= 0; cost O(s g n + s g^2).

    Example:
        >>> from fairjax.notions import demographic_parity
        >>> cond = demographic_parity(jnp.array([0, 1]), n_groups=2)
        >>> scores, labels = jnp.array([1.0, -1.0]), jnp.array([1, 1])
        >>> risk_gap(scores, labels, cond, loss=erm.hinge).item()
        4.0

    References:
        Donini et al., NeurIPS 2018, Problem 3, its constraint as a smooth penalty.
    """
    risks = erm.conditional_risks(scores, labels, cond, loss=loss)
    return _squared_gaps(risks, cond)


def _squared_gaps(means: Float[Array, "s g"], cond: Conditionals) -> Float[Array, ""]:
    gaps = jnp.square(means[:, :, None] - means[:, None, :])
    comparable = cond.occupied[:, :, None] & cond.occupied[:, None, :]
    return jnp.sum(jnp.where(comparable, gaps, 0)) / 2
