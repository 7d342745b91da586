"""Two weighted clouds of points, checked and normalised: what a divergence compares."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from . import checks


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
    x_weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None,
    y_weights: Real[ArrayLike, " m"] | Bool[ArrayLike, " m"] | None,
) -> Clouds:
    """Checks the arguments that all divergences share, and brings them into one form.

    Raises:
        ValueError: for empty clouds, different widths, points that are not finite, and
            negative or all-zero weights.
    """
    same = x is y
    for name, points, weights in (("x", x, x_weights), ("y", y, y_weights)):
        shape = jnp.shape(points)
        if len(shape) != 2 or not shape[0]:
            raise ValueError(
                f"`{name}` must hold at least one point, shape (n, d), but has shape "
                f"{shape}. Reshape scalars with `{name}[:, None]`."
            )
        checks.check_finite(points, name=name)
        if weights is not None:
            checks.check_length(weights, n=shape[0], name=f"{name}_weights", to=name)
            checks.check_weights(weights, n=shape[0], name=f"{name}_weights")
    if jnp.shape(x)[1] != jnp.shape(y)[1]:
        raise ValueError(
            f"`x` and `y` must have the same width, but have {jnp.shape(x)[1]} and "
            f"{jnp.shape(y)[1]} columns."
        )
    x, y = _floats(x), _floats(y)
    dtype = max(x.dtype, y.dtype, key=lambda kind: jnp.finfo(kind).bits)
    return _normalised(
        x.astype(dtype),
        None if same else y.astype(dtype),
        None if x_weights is None else _floats(x_weights).astype(dtype),
        None if y_weights is None else _floats(y_weights).astype(dtype),
    )


@jax.jit
def _normalised(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"] | None,
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
) -> Clouds:
    """Centres the points and normalises the weights; without `y`, it is `x` again."""
    other = x if y is None else y
    x_mass, x_some = _mass(x_weights, x)
    y_mass, y_some = _mass(y_weights, other)
    # A common shift changes no distance, so it has no gradient.
    middle = jax.lax.stop_gradient(x_mass @ x + y_mass @ other) / 2
    moved = x - middle[None]
    other = moved if y is None else y - middle[None]
    return Clouds(moved, other, x_mass, y_mass, x_some & y_some)


def _floats(values: ArrayLike) -> Float[Array, "..."]:
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values.astype(jax.dtypes.canonicalize_dtype(float))
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values


def _mass(
    weights: Float[Array, " n"] | None, points: Float[Array, "n d"]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    n = points.shape[0]
    if weights is None:
        return jnp.full(n, 1 / n, points.dtype), jnp.array(True)
    # Two divisions: the sum of weights of any scale must neither overflow nor vanish.
    peak = weights.max()
    some = peak > 0
    mass = weights / jnp.where(some, peak, 1)
    total = mass.sum()
    return jnp.where(some, mass / jnp.where(some, total, 1), 1 / n), some
