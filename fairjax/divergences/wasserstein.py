"""Wasserstein distances that sorting gives exactly: on the line, and on its slices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Real, UInt32

from ..arrays import checks
from ..arrays.samples import Clouds, as_clouds


def wasserstein_1d(
    x: Real[ArrayLike, " n"] | Real[ArrayLike, "n 1"],
    y: Real[ArrayLike, " m"] | Real[ArrayLike, "m 1"],
    *,
    x_weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
    y_weights: Real[ArrayLike, " m"] | Bool[ArrayLike, " m"] | None = None,
    p: float = 1.0,
) -> Float[Array, ""]:
    """The p-Wasserstein distance between two weighted samples of scalars [x].

    Args:
        x: scalars.
        y: scalars.
        x_weights: non-negative weights, or a mask; normalised here, 0 leaves a sample
            out. All alike by default.
        y_weights: the same for `y`.
        p: static, at least 1: the root of the mean p-th power of the differences of the
            quantile functions.

    Returns:
        A number >= 0, exact for unequal weights and sizes; 0 if all weights of a sample
        are 0. Differentiable almost everywhere in samples and weights: where a weighted
        sum of `x` meets one of `y`, as for equal weights, the weights have one-sided
        slopes, of which one is returned; at 0 the gradient is 0. Rounding of unequal
        weights moves it by up to `eps ** (1 / p)` of the range of the samples.
        Cost O((n + m) log(n + m)) time, O(n + m) memory.

    Raises:
        ValueError: for `p` below 1 or infinite, more than one column, and bad points
            or weights.

    Example:
        >>> wasserstein_1d(jnp.array([0.0, 1.0]), jnp.array([2.0, 5.0])).item()
        3.0

    References:
        Peyre, Cuturi, *Computational optimal transport*, 2019, section 2.6.
    """
    same = x is y
    x, y = _column(x, "x"), _column(y, "y")
    clouds = as_clouds(x, x if same else y, x_weights, y_weights)
    power = _check_power(p)
    return _distance(clouds, jnp.ones((1, 1), clouds.x.dtype), p=power)


def sliced_wasserstein(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
    y_weights: Real[ArrayLike, " m"] | Bool[ArrayLike, " m"] | None = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    directions: Real[ArrayLike, "k d"] | None = None,
    n_directions: int = 64,
    p: float = 2.0,
) -> Float[Array, ""]:
    """The root of the mean p-th power of the distances of projections [x].

    Args:
        x: points.
        y: points of the same width.
        x_weights: non-negative weights, or a mask; normalised here.
        y_weights: the same for `y`.
        key: draws `n_directions` uniform directions. Its mean p-th power is unbiased
            for that over all directions; a new key per training step averages out.
        directions: these instead of drawn ones; only their directions count.
        n_directions: static; read with a `key` only.
        p: static, at least 1.

    Returns:
        A number >= 0, at most the p-Wasserstein distance; 0 if all weights of a cloud
        are 0. Gradients as for `wasserstein_1d`. With k directions: cost
        O(k (n + m) (d + log(n + m))) time, O(k (n + m)) memory.

    Raises:
        ValueError: for both or neither of `key` and `directions`, for directions that
            are 0 or of another width, and as `wasserstein_1d` does.

    Example:
        >>> x = jnp.array([[0.0, 0.0], [0.0, 1.0]])
        >>> sliced_wasserstein(x, x + 2.0, directions=jnp.eye(2)).item()
        2.0

    References:
        Bonneel et al., *Sliced and Radon Wasserstein barycenters of measures*, 2015.
    """
    clouds, power = as_clouds(x, y, x_weights, y_weights), _check_power(p)
    width = clouds.x.shape[1]
    if (key is None) == (directions is None):
        raise ValueError(
            "pass either `key`, to draw directions, or `directions`, and not both."
        )
    if key is not None:
        if n_directions < 1:
            raise ValueError(
                f"`n_directions` must be at least 1, but is {n_directions}."
            )
        directions = jax.random.normal(key, (n_directions, width), clouds.x.dtype)
    directions = jnp.asarray(directions)
    if directions.ndim != 2 or directions.shape[1] != width:
        raise ValueError(
            f"`directions` must have shape (k, {width}), one row per direction, but "
            f"have shape {directions.shape}."
        )
    checks.check_finite(directions, name="directions")
    directions = directions.astype(clouds.x.dtype)
    lengths = jnp.sqrt(jnp.square(directions).sum(axis=1, keepdims=True))
    checks.check_nonnegative(lengths[:, 0], name="length of directions", positive=True)
    return _distance(clouds, directions / lengths, p=power)


@functools.partial(jax.jit, static_argnames="p")
def _distance(
    clouds: Clouds, directions: Float[Array, "k d"], *, p: float
) -> Float[Array, ""]:
    """Root of the mean cost over unit directions."""
    project = functools.partial(jnp.matmul, directions, precision=Precision.HIGHEST)
    x, y = project(clouds.x.T), project(clouds.y.T)
    # A bound of all gaps: their powers must neither overflow nor vanish.
    spread = jnp.maximum(x.max(), y.max()) - jnp.minimum(x.min(), y.min())
    unit = jax.lax.stop_gradient(jnp.where(spread <= 0, 1, spread))
    costs = jax.vmap(functools.partial(_cost, p=p), in_axes=(0, 0, None, None))(
        x / unit, y / unit, clouds.x_mass, clouds.y_mass
    )
    cost = costs.mean()
    # Not `cost > 0`, which would make a NaN look like no distance at all.
    some = clouds.occupied & ~(cost <= 0)
    return unit * jnp.where(some, jnp.where(some, cost, 1) ** (1 / p), 0)


def _cost(
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    x_mass: Float[Array, " n"],
    y_mass: Float[Array, " m"],
    *,
    p: float,
) -> Float[Array, ""]:
    """Mean p-th power of the quantile functions' difference."""
    x_order, y_order = jnp.argsort(x), jnp.argsort(y)
    levels = jnp.concatenate([_levels(x_mass[x_order]), _levels(y_mass[y_order])])
    order = jnp.argsort(levels)
    widths = jnp.diff(levels[order], prepend=0)
    # On the step that ends at a level, quantiles are those of the next own level.
    of_x = (order < x.shape[0]).astype(order.dtype)
    before = jnp.cumsum(of_x) - of_x
    x_rank = jnp.minimum(before, x.shape[0] - 1)
    y_rank = jnp.minimum(jnp.arange(order.shape[0]) - before, y.shape[0] - 1)
    gaps = jnp.abs(x[x_order][x_rank] - y[y_order][y_rank])
    # On a step without width, a sample without weight may be as far as it likes.
    gaps = jnp.where((widths > 0) | jnp.isnan(gaps), gaps, 0)
    return (widths * gaps**p).sum()


def _levels(mass: Float[Array, " n"]) -> Float[Array, " n"]:
    """Cumulative shares of sorted samples."""
    # Equal masses become ones, so that their sums are whole numbers and their levels
    # tie exactly; XLA's w * (1 / w) need not be 1, hence the correction.
    peak = jax.lax.stop_gradient(mass.max())
    ones = mass / peak
    ones += jax.lax.stop_gradient(jnp.where(mass == peak, 1 - ones, 0))
    sums = jnp.cumsum(ones)
    # A sample without weight keeps the level, whatever the sums' rounding.
    latest = jax.lax.cummax(jnp.where(mass > 0, jnp.arange(mass.shape[0]), 0))
    sums = jnp.where(latest >= jnp.argmax(mass > 0), sums[latest], 0)
    return sums / sums[-1]


def _check_power(p: float) -> float:
    if not 1 <= p < float("inf"):
        raise ValueError(f"`p` must be at least 1 and finite, but is {p}.")
    return float(p)


def _column(values: ArrayLike, name: str) -> ArrayLike:
    shape = np.shape(values)
    checks.check_finite(values, name=name)
    if len(shape) == 1:
        return jnp.asarray(values)[:, None]
    if len(shape) != 2 or shape[1] != 1:
        raise ValueError(
            f"`{name}` must be scalars, shape (n,) or (n, 1), but has shape {shape}. "
            f"For wider points see `sliced_wasserstein`."
        )
    return values
