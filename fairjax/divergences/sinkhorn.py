"""The Sinkhorn divergence: entropic optimal transport without its bias.

With `OT(a, b) = min_P <P, C> + epsilon KL(P | a x b)` and squared Euclidean costs, the
divergence is `OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2`. The transport problems are
solved by ott-jax, by way of `ott_solver`; its iterations are not differentiated: the
gradient is that of the converged value.

The difference of the clouds' means is split off first: with squared costs it adds its
square to the divergence and nothing else, so clouds may lie far apart.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from ..arrays import checks
from ..arrays.samples import as_clouds
from .ott_solver import device_varying, solve_transport


class Potentials(NamedTuple):
    """Dual potentials of the three transport problems [squared length].

    They belong to the points, not to their weights: a sample may change its weight,
    also to or from 0, and keep its entry.

    Attributes:
        x: of `x` in the transport from `x` to `y`.
        y: of `y` in that transport.
        x_self: of the transport from `x` to itself.
        y_self: of the transport from `y` to itself.
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    x_self: Float[Array, " n"]
    y_self: Float[Array, " m"]


class SinkhornInfo(NamedTuple):
    """A divergence and how it was reached.

    Attributes:
        value: the divergence [squared length]; differentiable, unlike the rest.
        estimated: False if all weights of a cloud are 0, and the value is a mere 0.
        converged: whether all marginal errors are at most the threshold.
        iterations: of the transports x to y, x to x, and y to y.
        marginal_error: total mass that these plans leave in wrong places.
        potentials: to start the next call from.
    """

    value: Float[Array, ""]
    estimated: Bool[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, "3"]
    marginal_error: Float[Array, "3"]
    potentials: Potentials


def sinkhorn(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
    y_weights: Real[ArrayLike, " m"] | Bool[ArrayLike, " m"] | None = None,
    epsilon: float | Real[ArrayLike, ""],
    potentials: Potentials | None = None,
    threshold: float | Real[ArrayLike, ""] | None = None,
    max_iterations: int = 2000,
    iterations: int | None = None,
) -> Float[Array, ""]:
    """Debiased entropic transport cost between two weighted clouds [squared length].

    It is 0 for equal distributions, positive otherwise, and differentiable: between
    an unregularised transport cost (`epsilon` to 0) and half a squared difference of
    means (`epsilon` to infinity). A value that did not converge looks like any other;
    `sinkhorn_info` tells.

    Args:
        x: points.
        y: points of the same width.
        x_weights: non-negative weights, or a mask; normalised here, 0 leaves a point
            out. All alike by default.
        y_weights: the same for `y`.
        epsilon: strength of the entropy [squared length], above 0, traced. A few per
            cent of the mean squared distance is usual; the number of iterations grows
            as it shrinks.
        potentials: of an earlier call with nearby points (see `sinkhorn_info`), which
            then needs few iterations or none.
        threshold: total mass that each plan may leave in wrong places, traced; the
            value's relative error is about its square. By default the square root of
            the precision: 3.5e-4 in float32, 1.5e-8 in float64.
        max_iterations: static; where a transport stops without convergence.
        iterations: static; run this many and look at no threshold. Under `vmap`, where
            all members advance until the last one has converged, this spares the
            bookkeeping.

    Returns:
        The divergence; 0 if all weights of a cloud are 0. Rounding may make a value
        near 0 slightly negative.

        Gradients with respect to points, weights (those of weight 0 too) and
        `epsilon` are those of the converged value, with an error of the order of the
        threshold. Second derivatives and forward mode raise.

        Cost O(n m (d + iterations)) time; memory O(n m + n^2 + m^2), a few matrices of
        that size.

    Raises:
        ValueError: for empty clouds, different widths, points that are not finite,
            negative or all-zero weights, and `epsilon` or `threshold` not above 0.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> round(sinkhorn(x, x + 2.0, epsilon=0.1).item(), 3)
        4.0

    References:
        Feydy et al., *Interpolating between optimal transport and MMD using Sinkhorn
        divergences*, AISTATS 2019, Eq. 3 and 25; Oneto et al., NeurIPS 2020, section 3;
        Schmitzer, *Stabilized sparse scaling algorithms for entropy regularized
        transport problems*, 2019, for the absorption of potentials; Thibault et al.,
        *Overrelaxed Sinkhorn-Knopp algorithm*, 2021.
    """
    return sinkhorn_info(
        x,
        y,
        x_weights=x_weights,
        y_weights=y_weights,
        epsilon=epsilon,
        potentials=potentials,
        threshold=threshold,
        max_iterations=max_iterations,
        iterations=iterations,
    ).value


def sinkhorn_info(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
    y_weights: Real[ArrayLike, " m"] | Bool[ArrayLike, " m"] | None = None,
    epsilon: float | Real[ArrayLike, ""],
    potentials: Potentials | None = None,
    threshold: float | Real[ArrayLike, ""] | None = None,
    max_iterations: int = 2000,
    iterations: int | None = None,
) -> SinkhornInfo:
    """The divergence of `sinkhorn` with its convergence, and potentials for later.

    In a training loop, take it with `jax.value_and_grad(..., has_aux=True)`: log
    `converged`, and hand `potentials` to the next step.

    Args:
        x: points.
        y: points of the same width.
        x_weights: as in `sinkhorn`, like all that follow.
        y_weights: the same for `y`.
        epsilon: strength of the entropy.
        potentials: where to start.
        threshold: when to stop.
        max_iterations: static; where to give up.
        iterations: static; how many to run instead.

    Returns:
        See `SinkhornInfo`. Only `value` has a gradient; asking for one of the other
        fields raises. Cost as in `sinkhorn`.

    Raises:
        ValueError: as in `sinkhorn`.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> first = sinkhorn_info(x, x + 2.0, epsilon=0.1)
        >>> again = sinkhorn_info(
        ...     x, x + 2.0, epsilon=0.1, potentials=first.potentials)
        >>> bool(first.converged), again.iterations.tolist()
        (True, [0, 0, 0])
    """
    clouds = as_clouds(x, y, x_weights, y_weights)
    dtype = clouds.x.dtype
    if threshold is None:
        threshold = float(jnp.finfo(dtype).eps) ** 0.5
    for name, count in (("max_iterations", max_iterations), ("iterations", iterations)):
        if count is not None and count < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {count}.")
    if potentials is not None:
        n, m = clouds.x.shape[0], clouds.y.shape[0]
        found = [jnp.shape(leaf) for leaf in potentials]
        if found != [(n,), (m,), (n,), (m,)]:
            raise ValueError(
                f"`potentials` must come from a call with {n} and {m} points, but have "
                f"shapes {found}."
            )
    # A common shift changes no plan: the means' squared distance is all that it adds.
    x, y, shift, x_part, y_part = _split_means(clouds)
    if potentials is not None:
        f, g, *own = (jnp.asarray(leaf).astype(dtype) for leaf in potentials)
        potentials = Potentials(f - x_part, g - y_part, *own)
    numbers = (x, y, *clouds[2:4], _positive(epsilon, "epsilon", dtype))
    # Where one of them varies over the devices of `shard_map`, all their slopes do.
    mark = sum(jax.lax.stop_gradient(array).ravel()[0] for array in numbers)
    found = _solve(
        *(device_varying(array, like=mark) for array in numbers),
        potentials,
        jax.lax.stop_gradient(_positive(threshold, "threshold", dtype)),
        max_iterations if iterations is None else iterations,
        iterations is not None,
    )
    value, counts, error, ends = found
    counts, error, ends = jax.tree.map(_refuse_gradient, (counts, error, ends))
    some = clouds.occupied
    return SinkhornInfo(
        value=jnp.where(some, value + jnp.vdot(shift, shift), 0),
        estimated=some,
        converged=some & (error <= threshold).all(),
        iterations=counts,
        marginal_error=error,
        potentials=ends._replace(x=ends.x + x_part, y=ends.y + y_part),
    )


def _split_means(clouds):
    """Clouds around their own means, the shift, and what it adds to the potentials."""
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
    x_mean = product(clouds.x_mass, clouds.x)
    y_mean = product(clouds.y_mass, clouds.y)
    x, y, shift = clouds.x - x_mean[None], clouds.y - y_mean[None], x_mean - y_mean
    fixed_x, fixed_y, fixed = jax.lax.stop_gradient((x, y, shift))
    half = jnp.vdot(fixed, fixed) / 2
    x_part = half + 2 * product(fixed_x, fixed)
    return x, y, shift, x_part, half - 2 * product(fixed_y, fixed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _solve(x, y, a, b, epsilon, potentials, threshold, limit, fixed):
    arrays = x, y, a, b, epsilon, potentials, threshold
    return _run(*arrays, limit=limit, fixed=fixed, slopes=False)[0]


def _solve_forward(x, y, a, b, epsilon, potentials, threshold, limit, fixed):
    # For a second derivative, JAX would differentiate the solver's loops.
    arrays = jax.tree.map(_refuse_tangent, (x, y, a, b, epsilon, potentials, threshold))
    found, slopes = _run(*arrays, limit=limit, fixed=fixed, slopes=True)
    return found, (slopes, potentials, threshold)


def _solve_backward(limit, fixed, saved, slopes):
    del limit, fixed
    own, *others = saved
    scaled = jax.tree.map(lambda slope: slopes[0] * slope, own)
    # Where the plans have converged, neither start nor threshold matters.
    return *scaled, *jax.tree.map(jnp.zeros_like, others)


_solve.defvjp(_solve_forward, _solve_backward)


@functools.partial(jax.jit, static_argnames=("limit", "fixed", "slopes"))
def _run(x, y, a, b, epsilon, potentials, threshold, *, limit, fixed, slopes):
    """The divergence with its diagnostics, and its slopes if asked for."""
    x, y = x * jnp.sqrt(2 / epsilon), y * jnp.sqrt(2 / epsilon)
    start, x_start, y_start = None, None, None
    if potentials is not None:
        scaled = [leaf.astype(x.dtype) / epsilon for leaf in potentials]
        start, x_start, y_start = scaled[:2], scaled[2:3], scaled[3:]
    solve = functools.partial(
        solve_transport, threshold=threshold, limit=limit, fixed=fixed, slopes=slopes
    )
    # ott's arithmetic mixes dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        own_x = solve(x, x, a, a, x_start)
        # One after the other, so that they share their memory.
        y, own_x = jax.lax.optimization_barrier((y, own_x))
        own_y = solve(y, y, b, b, y_start)
        y, own_y = jax.lax.optimization_barrier((y, own_y))
        # Of two like clouds the transports are alike, too.
        cross = solve(x, y, a, b, (own_x.f, own_y.f) if start is None else start)
    transports = cross, own_x, own_y
    found = (
        epsilon * (cross.cost - (own_x.cost + own_y.cost) / 2),
        jnp.stack([transport.iterations for transport in transports]),
        jnp.stack([transport.error for transport in transports]),
        Potentials(*(epsilon * p for p in (cross.f, cross.g, own_x.f, own_y.f))),
    )
    if not slopes:
        return found, None
    unit = jnp.sqrt(2 * epsilon)
    return found, (
        unit * (cross.to_x - own_x.to_x),
        unit * (cross.to_y - own_y.to_x),
        epsilon * (cross.f - own_x.f),
        epsilon * (cross.g - own_y.f),
        cross.entropy - (own_x.entropy + own_y.entropy) / 2,
    )


def _positive(value, name, dtype):
    """One positive number; raises `ValueError` for any other."""
    if jnp.shape(value):
        raise ValueError(
            f"`{name}` must be one number, but has shape {jnp.shape(value)}. "
            f"Use `jax.vmap` for several."
        )
    checks.check_nonnegative(value, name=name, positive=True)
    checks.check_finite(value, name=name)
    return jnp.asarray(value).astype(dtype)


@jax.custom_vjp
def _refuse_gradient(value):
    return value


@jax.custom_jvp
def _refuse_tangent(value):
    return value


def _raise(*_):
    raise TypeError(
        "only the value of a Sinkhorn divergence has a gradient, and only a first one. "
        "Pass what needs none through `jax.lax.stop_gradient`."
    )


def _pass_zero(primals, tangents):
    if not isinstance(tangents[0], SymbolicZero):
        _raise()
    return primals[0], tangents[0]


_refuse_gradient.defvjp(lambda value: (value, None), _raise)
_refuse_tangent.defjvp(_pass_zero, symbolic_zeros=True)
