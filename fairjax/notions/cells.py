"""The score distributions of all cells at once, as steps on one axis.

Samples stand in the order of their scores, cells are rows of weights, and distribution
and quantile functions are exact for unequal weights, sizes and ties.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ..arrays import checks
from ..arrays import ranks as _ranks
from .notions import Conditionals


class Quantiles(NamedTuple):
    """Quantile functions as steps: `values * unit`, on intervals of these `widths`."""

    values: Float[Array, "s g n"]
    widths: Float[Array, "s n"]
    unit: Float[Array, ""]


def quantiles(
    scores: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"], cond: Conditionals
) -> Quantiles:
    """Splits [0, 1] at the levels of all cells at once: at most one step per sample."""
    checks.check_apart(cond.weights)
    scores = floats(scores, cond, "scores")
    # Inside `jit`, too, one that is in two groups must not pass for a number.
    shared = ((cond.weights > 0).sum(axis=1) > 1).any()
    scores = jnp.where(shared, jnp.nan, scores)
    scaled, unit = _ranks.rescaled(scores, (cond.weights > 0).any(axis=(0, 1)))
    order = jnp.argsort(scores)
    ordered = Conditionals(cond.weights[..., order], cond.occupied)
    return Quantiles(*steps(scaled[order], ordered), unit)


def steps(
    ordered: Float[Array, " n"], cond: Conditionals
) -> tuple[Float[Array, "s g n"], Float[Array, "s n"]]:
    """Values and widths of the quantile functions, for samples in score order."""
    weights = cond.weights
    ends = jnp.where(weights > 0, levels(weights, cond.occupied), 0).sum(axis=1)
    turns = jnp.argsort(ends, axis=-1)
    ends = jnp.take_along_axis(ends, turns, axis=-1).astype(ordered.dtype)
    widths = jnp.diff(ends, axis=-1, prepend=0)
    # On each step, a cell's quantile is its next member at or after that level.
    member = jnp.take_along_axis(weights > 0, turns[:, None], axis=-1)
    ranks = jnp.where(member, turns[:, None], ordered.shape[0] - 1)
    ranks = jax.lax.cummin(ranks, axis=2, reverse=True)
    return ordered[ranks], widths


def levels(
    weights: Float[Array, "s g n"], occupied: Bool[Array, "s g"]
) -> Float[Array, "s g n"]:
    """Distribution function of each cell at every sample, samples in score order."""
    # Equal weights become ones, so that their sums are whole numbers and their levels
    # tie exactly across groups; XLA's w * (1 / w) need not be 1, hence the correction.
    peak = jax.lax.stop_gradient(weights.max(axis=-1, keepdims=True, initial=0))
    mass = weights / jnp.where(occupied[..., None], peak, 1)
    mass += jax.lax.stop_gradient(jnp.where(weights == peak, 1 - mass, 0))
    # Between members the level stays at the last one's, whatever the sums' rounding.
    member = jnp.where(weights > 0, jnp.arange(weights.shape[-1])[None, None], 0)
    latest = jax.lax.cummax(member, axis=2)
    sums = jnp.take_along_axis(jnp.cumsum(mass, axis=-1), latest, axis=-1)
    # Equal to the last sum everywhere, but not a broadcast: again no reciprocal.
    total = jnp.maximum(sums, sums[..., -1:])
    return sums / jnp.where(occupied[..., None], total, 1)


def floats(values: ArrayLike, cond: Conditionals, name: str) -> Float[Array, " n"]:
    """The values, one finite number per sample, in the wider of both precisions."""
    checks.check_length(values, n=cond.weights.shape[-1], name=name, to="groups")
    checks.check_finite(values, name=name)
    values = jnp.asarray(values)
    # Strict promotion would refuse to choose.
    wider = jnp.issubdtype(values.dtype, jnp.floating) and (
        jnp.finfo(values.dtype).bits > jnp.finfo(cond.weights.dtype).bits
    )
    return values if wider else values.astype(cond.weights.dtype)
