"""Two weighted clouds of points, centred and normalised: what transport compares."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from .samples import TwoSamples, Weights, shares, two_samples


class Clouds(NamedTuple):
    """Points of one floating dtype, of at least 32 bits, and their masses.

    Attributes:
        x: points, moved so that both clouds together are centred; distances between
            points far from 0 would otherwise drown in rounding.
        y: points, moved alike.
        x_mass: sums to 1; equal masses stand in for weights that are all 0.
        y_mass: the same for `y`.
        occupied: whether both clouds have any weight.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    x_mass: Float[Array, " n"]
    y_mass: Float[Array, " m"]
    occupied: Bool[Array, ""]


def as_clouds(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    x_weights: Weights,
    y_weights: Weights,
) -> Clouds:
    """Checks the arguments that all divergences share, and brings them into one form.

    Raises:
        ValueError: for empty clouds, different widths, points that are not finite, and
            negative or all-zero weights.
    """
    return _normalised(two_samples(x, y, x_weights, y_weights))


@jax.jit
def _normalised(samples: TwoSamples) -> Clouds:
    """Centres the points and normalises the weights; without `y`, it is `x` again."""
    other = samples.x if samples.y is None else samples.y
    x_mass, x_some = _mass(samples.x_weights)
    y_mass, y_some = _mass(samples.y_weights)
    # A common shift changes no distance, so it has no gradient. By the masses, because
    # padding may lie anywhere.
    middle = jax.lax.stop_gradient(x_mass @ samples.x + y_mass @ other) / 2
    moved = samples.x - middle[None]
    other = moved if samples.y is None else other - middle[None]
    return Clouds(moved, other, x_mass, y_mass, x_some & y_some)


def _mass(weights: Float[Array, " n"]) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    some = (weights > 0).any()
    return jnp.where(some, shares(weights), 1 / weights.shape[0]), some
