"""Weighted samples, checked where they enter: what two-sample statistics compare."""

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
