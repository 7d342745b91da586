"""Weighted samples, checked where they enter: the input of two-sample statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from . import checks

# One per sample.
Weights = Real[ArrayLike, " _"] | Bool[ArrayLike, " _"] | None


class TwoSamples(NamedTuple):
    """Points and weights of one floating dtype, float32 at least.

    Attributes:
        x: points.
        y: points, or None for those of `x`: the arguments were the same array object,
            which inside `jit` could not be told any more.
        x_weights: not negative, of any sum.
        y_weights: likewise.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"] | None
    x_weights: Float[Array, " n"]
    y_weights: Float[Array, " m"]


def two_samples(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    x_weights: Weights,
    y_weights: Weights,
) -> TwoSamples:
    """Checks the arguments that two-sample statistics share; all ones without weights.

    Raises:
        ValueError: for samples that are empty, not finite or of different width, and
            for bad weights.

    Example:
        >>> two_samples(np.ones((1, 2)), np.ones((2, 2)), None, None).y_weights.tolist()
        [1.0, 1.0]
    """
    check_sample(x, x_weights, name="x", word="x_weights")
    check_sample(y, y_weights, name="y", word="y_weights")
    if np.shape(x)[1] != np.shape(y)[1]:
        raise ValueError(
            f"`x` and `y` must have the same width, but have {np.shape(x)[1]} and "
            f"{np.shape(y)[1]} columns."
        )
    dtype = wide(x, y)
    return TwoSamples(
        jnp.asarray(x).astype(dtype),
        None if x is y else jnp.asarray(y).astype(dtype),
        as_weights(x_weights, np.shape(x)[0], dtype),
        as_weights(y_weights, np.shape(y)[0], dtype),
    )


def check_sample(
    points: Real[ArrayLike, "n d"], weights: Weights, *, name: str, word: str
) -> None:
    """Raises `ValueError` for a sample that is empty or not finite, or bad weights.

    Example:
        >>> check_sample(np.ones((0, 2)), None, name="x", word="x_weights")
        Traceback (most recent call last):
        ValueError: `x` must hold at least one point, shape (n, d), but has shape ...
    """
    shape = np.shape(points)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"`{name}` must hold at least one point, shape (n, d), but has shape "
            f"{shape}. Reshape scores with `{name}[:, None]`."
        )
    checks.check_finite(points, name=name)
    if weights is not None:
        checks.check_length(weights, n=shape[0], name=word, to=name)
        checks.check_weights(weights, n=shape[0], name=word)


def as_weights(weights: Weights, n: int, dtype: Any) -> Float[Array, " n"]:
    """Weights of a dtype, all ones when absent; NaN for a negative one inside `jit`."""
    if weights is None:
        return jnp.ones(n, dtype)
    mass = jnp.asarray(weights).astype(dtype)
    return jnp.where(mass >= 0, mass, jnp.nan)


def wide(*arrays: ArrayLike) -> Any:
    """The widest floating dtype of the arrays, float32 at least.

    Example:
        >>> wide(np.ones(1, np.float16), np.arange(2)).name
        'float32'
    """
    whole = jax.dtypes.canonicalize_dtype(float)
    found = (jnp.asarray(a).dtype for a in arrays)
    floats = [d if jnp.issubdtype(d, jnp.floating) else whole for d in found]
    return max([jnp.dtype("float32"), *floats], key=lambda d: jnp.finfo(d).bits)


def shares(weights: Float[Array, "*s n"]) -> Float[Array, "*s n"]:
    """Weights divided by their sum over the last axis, or zeros when all are 0.

    Example:
        >>> shares(jnp.array([1.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    return normalised(weights)[0]


def normalised(
    weights: Float[Array, "*s n"],
) -> tuple[Float[Array, "*s n"], Bool[Array, "*s"]]:
    """`shares`, and whether any weight is positive."""
    # Two divisions: the sum of weights of any scale must neither overflow nor vanish.
    mass, some = to_largest(weights)
    total = jnp.where(some, mass.sum(axis=-1), 1)
    return mass / total[..., None], some


def to_largest(
    weights: Float[Array, "*s n"],
) -> tuple[Float[Array, "*s n"], Bool[Array, "*s"]]:
    """Weights divided by the largest one, and whether any is positive."""
    peak = jax.lax.stop_gradient(weights.max(axis=-1, keepdims=True, initial=0))
    some = peak > 0
    # XLA may divide by way of 1 / peak, which is 0 for the largest numbers.
    far = 2.0 ** (jnp.finfo(weights.dtype).maxexp // 2)
    shrink = jnp.where(peak > far, 1 / far, 1).astype(weights.dtype)
    return weights * shrink / jnp.where(some, peak * shrink, 1), some[..., 0]


def rescaled(
    scores: Float[Array, " n"], used: Bool[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The scores in units of the largest one, 0 where not used, and that unit.

    Distances scale with the scores; squares of huge or tiny ones would not.
    """
    peak = jnp.where(used, jnp.abs(scores), 0).max(initial=0)
    peak = jnp.where(peak >= jnp.finfo(peak.dtype).tiny, peak, 1)
    unit = jax.lax.stop_gradient(peak)
    # XLA may divide by way of 1 / unit, which is 0 above 2 ** 126.
    shrink = jnp.where(unit > 1, 0.25, 1)
    return jnp.where(used, scores, 0) * shrink / (unit * shrink), unit


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
    """Two clouds of points, centred together, with masses that sum to 1.

    Raises:
        ValueError: for empty clouds, different widths, points that are not finite, and
            negative or all-zero weights.
    """
    return _centre(two_samples(x, y, x_weights, y_weights))


@jax.jit
def _centre(samples: TwoSamples) -> Clouds:
    """Centres the points and normalises the weights; without `y`, it is `x` again."""
    other = samples.x if samples.y is None else samples.y
    x_mass, x_some = _mass(samples.x_weights)
    y_mass, y_some = _mass(samples.y_weights)
    # A common shift changes no distance, so it has no gradient. By the masses, because
    # padding may lie anywhere.
    mean = jax.lax.stop_gradient(x_mass @ samples.x + y_mass @ other) / 2
    x = samples.x - mean[None]
    y = x if samples.y is None else other - mean[None]
    return Clouds(x, y, x_mass, y_mass, x_some & y_some)


def _mass(weights: Float[Array, " n"]) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """Shares, equal ones where all weights are 0, and whether any is positive."""
    some = (weights > 0).any()
    return jnp.where(some, shares(weights), 1 / weights.shape[0]), some
