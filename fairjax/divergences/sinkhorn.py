"""The Sinkhorn divergence: entropic optimal transport without its bias.

With `OT(a, b) = min_P <P, C> + epsilon KL(P | a x b)` and squared Euclidean costs, the
divergence is `OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2`. The transport problems are
ott-jax's: its `Sinkhorn` solver works on a kernel that already contains the last
potentials, so that an iteration is two products of a matrix with a vector; between
rounds the potentials are absorbed again, which keeps all numbers near 1. Where a round
does not bring the marginals closer, one exact step in the log domain replaces it.

The difference of the clouds' means is split off first: with squared costs it adds its
square to the divergence and nothing else, so clouds may lie far apart. Lengths are
scaled by `sqrt(2 / epsilon)` and potentials by `1 / epsilon`, so the kernel is
`exp(f + g + <x, y>)`, with `-|x|^2 / 2` inside `f`.
"""

import functools
import math
import warnings
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.lax import Precision
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from ..arrays import checks
from ..arrays.samples import as_clouds

_ROUND = 48  # iterations between two absorptions of the potentials
_CHECK = 4  # iterations between two looks at the marginals
_RELAXATION = 1.4
_LARGEST = 80.0  # exponent of a kernel entry; any larger one breaks the sums


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
        converged: whether all marginal errors are at most the tolerance.
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
    tolerance: float | Real[ArrayLike, ""] | None = None,
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
        tolerance: total mass that each plan may leave in wrong places, traced; the
            value's relative error is about its square. By default the square root of
            the precision: 3.5e-4 in float32, 1.5e-8 in float64.
        max_iterations: static; where a transport stops without convergence.
        iterations: static; run this many and look at no tolerance. Under `vmap`, where
            all members advance until the last one has converged, this spares the
            bookkeeping.

    Returns:
        The divergence; 0 if all weights of a cloud are 0. Rounding may make a value
        near 0 slightly negative.

        Gradients with respect to points, weights (those of weight 0 too) and
        `epsilon` are those of the converged value, with an error of the order of the
        tolerance. Second derivatives and forward mode raise.

        Cost O(n m (d + iterations)) time; memory O(n m + n^2 + m^2), a few matrices of
        that size.

    Raises:
        ValueError: for empty clouds, different widths, points that are not finite,
            negative or all-zero weights, and `epsilon` or `tolerance` not above 0.

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
        tolerance=tolerance,
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
    tolerance: float | Real[ArrayLike, ""] | None = None,
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
        tolerance: when to stop.
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
    if tolerance is None:
        tolerance = float(jnp.finfo(dtype).eps) ** 0.5
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
    x, y, shift, x_slope, y_slope = _split(clouds)
    if potentials is not None:
        f, g, *own = (jnp.asarray(leaf).astype(dtype) for leaf in potentials)
        potentials = Potentials(f - x_slope, g - y_slope, *own)
    numbers = (x, y, *clouds[2:4], _positive(epsilon, "epsilon", dtype))
    # Where one of them varies over the devices of `shard_map`, all their slopes do.
    mark = sum(jax.lax.stop_gradient(array).ravel()[0] for array in numbers)
    found = _solve(
        *(_varying(array, like=mark) for array in numbers),
        potentials,
        jax.lax.stop_gradient(_positive(tolerance, "tolerance", dtype)),
        max_iterations if iterations is None else iterations,
        iterations is not None,
    )
    value, counts, error, ends = found
    counts, error, ends = jax.tree.map(_without_gradient, (counts, error, ends))
    some = clouds.occupied
    return SinkhornInfo(
        value=jnp.where(some, value + jnp.vdot(shift, shift), 0),
        estimated=some,
        converged=some & (error <= tolerance).all(),
        iterations=counts,
        marginal_error=error,
        potentials=ends._replace(x=ends.x + x_slope, y=ends.y + y_slope),
    )


def _split(clouds):
    """Clouds around their own means, the shift, and what it adds to the potentials."""
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
    x_mean = product(clouds.x_mass, clouds.x)
    y_mean = product(clouds.y_mass, clouds.y)
    x, y, shift = clouds.x - x_mean[None], clouds.y - y_mean[None], x_mean - y_mean
    fixed_x, fixed_y, fixed = jax.lax.stop_gradient((x, y, shift))
    half = jnp.vdot(fixed, fixed) / 2
    x_slope = half + 2 * product(fixed_x, fixed)
    return x, y, shift, x_slope, half - 2 * product(fixed_y, fixed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _solve(x, y, a, b, epsilon, potentials, tolerance, limit, fixed):
    arrays = x, y, a, b, epsilon, potentials, tolerance
    return _run(*arrays, limit=limit, fixed=fixed, slopes=False)[0]


def _solve_forward(x, y, a, b, epsilon, potentials, tolerance, limit, fixed):
    # For a second derivative, JAX would differentiate the solver's loops.
    arrays = jax.tree.map(
        _without_tangent, (x, y, a, b, epsilon, potentials, tolerance)
    )
    found, slopes = _run(*arrays, limit=limit, fixed=fixed, slopes=True)
    return found, (slopes, potentials, tolerance)


def _solve_backward(limit, fixed, saved, slopes):
    del limit, fixed
    own, *others = saved
    scaled = jax.tree.map(lambda slope: slopes[0] * slope, own)
    # Where the plans have converged, neither start nor tolerance matters.
    return *scaled, *jax.tree.map(jnp.zeros_like, others)


_solve.defvjp(_solve_forward, _solve_backward)


class _Plan(NamedTuple):
    """The plan `u[:, None] * kernel * v`, whose rows sum to the first masses."""

    f: Float[Array, " n"]  # potentials; `u` and `v` hold what `kernel` lacks of them
    g: Float[Array, " m"]
    kernel: Float[Array, "n m"]
    u: Float[Array, " n"]
    v: Float[Array, " m"]
    error: Float[Array, ""]
    iterations: Int[Array, ""]


class _Transport(NamedTuple):
    """A solved transport problem, in scaled units; the slopes may be None."""

    cost: Float[Array, ""]
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Float[Array, ""]
    iterations: Int[Array, ""]
    to_x: Float[Array, "n d"] | None
    to_y: Float[Array, "m d"] | None
    entropy: Float[Array, ""] | None


@functools.partial(jax.jit, static_argnames=("limit", "fixed", "slopes"))
def _run(x, y, a, b, epsilon, potentials, tolerance, *, limit, fixed, slopes):
    """The divergence with its diagnostics, and its slopes if asked for."""
    x, y = x * jnp.sqrt(2 / epsilon), y * jnp.sqrt(2 / epsilon)
    start, x_start, y_start = None, None, None
    if potentials is not None:
        scaled = [leaf.astype(x.dtype) / epsilon for leaf in potentials]
        start, x_start, y_start = scaled[:2], scaled[2:3], scaled[3:]
    solve = functools.partial(
        _transport, tolerance=tolerance, limit=limit, fixed=fixed, slopes=slopes
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


def _transport(x, y, a, b, start, *, tolerance, limit, fixed, slopes):
    """Solves one transport problem; a cloud with itself has one potential.

    Inside, potentials lack half the squared norms, and costs are minus products.
    """
    symmetric = x is y
    affinity = jnp.matmul(x, y.T, precision=Precision.HIGHEST)
    x_norms, y_norms = (jnp.square(points).sum(axis=1) / 2 for points in (x, y))
    measure = functools.partial(_measure, affinity, a, b, symmetric)
    log_step = functools.partial(_log_step, affinity, a, b, symmetric)
    rounds = max(1, math.ceil(limit / _ROUND))
    steps = math.ceil(limit / rounds) if fixed else min(_ROUND, limit)
    solver = _solver(symmetric, tolerance, steps, fixed)

    def advance(plan):
        f, g, count = _kernel_steps(solver, plan, a, b, symmetric)
        done = plan.iterations + count
        tried = measure(f, g, done)
        return jax.lax.cond(
            tried.error < plan.error,
            lambda: tried,
            # Where their number is fixed, it stands for one of those in vain.
            lambda: measure(*log_step(plan.f, plan.g), done + (not fixed)),
        )

    def unfinished(plan):
        return (plan.error > tolerance) & (plan.iterations < limit)

    if start is None:
        start = log_step(-x_norms, -y_norms)
    else:
        start = start[0] - x_norms, start[-1] - y_norms
    plan = measure(*start, _varying(jnp.int32(0), like=a))
    if fixed:
        plan = jax.lax.fori_loop(0, rounds, lambda _, plan: advance(plan), plan)
    else:
        plan = jax.lax.while_loop(unfinished, advance, plan)
    f, g = plan.f + x_norms, plan.g + y_norms
    rows = plan.u * (plan.kernel @ plan.v)
    # The dual objective: at most the least cost, and off by the error squared.
    cost = a @ f + b @ g - (rows.sum() - 1)
    result = _Transport(cost, f, g, plan.error, plan.iterations, None, None, None)
    if not slopes:
        return result
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
    pulled = plan.u[:, None] * product(plan.kernel, plan.v[:, None] * y)
    to_x = to_y = rows[:, None] * x - pulled
    columns = rows
    if not symmetric:
        columns = plan.v * (plan.u @ plan.kernel)
        pushed = product((plan.u[:, None] * x).T, plan.kernel).T
        to_y = columns[:, None] * y - plan.v[:, None] * pushed
    entropy = rows @ plan.f + columns @ plan.g + (x * pulled).sum() - (rows.sum() - 1)
    return result._replace(to_x=to_x, to_y=to_y, entropy=entropy)


def _measure(affinity, a, b, symmetric, f, g, iterations):
    """The plan of two potentials, after one exact step for its rows."""
    # Between two points without weight, the potentials have no bound.
    kernel = jnp.exp(jnp.minimum(f[:, None] + g[None] + affinity, _LARGEST))
    rows, rows_safe = _trusted(kernel @ b)
    if symmetric:
        u = v = a / jnp.sqrt(rows)
        sums, sums_safe = _trusted(kernel @ u)
        error = (a * jnp.abs(sums / jnp.sqrt(rows) - 1)).sum()
        f = g = f - jnp.where(a > 0, jnp.log(rows) / 2, jnp.log(sums))
    else:
        u, v = a / rows, b
        sums, sums_safe = _trusted(u @ kernel)
        error = (b * jnp.abs(sums - 1)).sum()
        f = f - jnp.log(rows)
    # All the mass may be in the wrong place.
    error = jnp.where(rows_safe & sums_safe, error, 2)
    error = jnp.where(jnp.isfinite(f).all(), error, jnp.nan)
    return _Plan(f, g, kernel, u, v, error, iterations)


def _trusted(sums):
    """Sums of the kernel, or ones if any has lost digits to its range."""
    least = 1e6 * jnp.finfo(sums.dtype).tiny
    safe = jnp.all((sums > least) & (sums < 1e8))
    return jnp.where(safe, sums, 1), safe


def _kernel_steps(solver, plan, a, b, symmetric):
    """Potentials after a round of ott's iterations on the plan's own kernel."""
    ott = _ott()
    geometry = ott.Kernel(kernel_matrix=plan.kernel, epsilon=1.0)
    out = solver(ott.LinearProblem(geometry, a, b), init=(plan.u, plan.v))
    u = jnp.exp(out.f)
    f = plan.f + jnp.where(a > 0, out.f - jnp.log(plan.u), 0)
    g = f if symmetric else plan.g - jnp.log(u @ plan.kernel)
    return f, g, jnp.asarray(out.n_iters, jnp.int32)


def _log_step(affinity, a, b, symmetric, f, g):
    """One iteration that cannot overflow, at three times the price."""
    geometry = _ott().Geometry(cost_matrix=-affinity, epsilon=1.0)

    def best(f, g, mass, axis):
        return -geometry.apply_lse_kernel(f, g, 1.0, vec=mass, axis=axis)[0]

    if symmetric:
        new = best(f, f, a, 1)
        f = jnp.where(a > 0, (f + new) / 2, new)
        return f, f
    g = best(f, g, a, 0)
    return best(f, g, b, 1), g


def _solver(symmetric, tolerance, steps, fixed):
    ott = _ott()
    kind, weight = (ott.Symmetric, 0.5) if symmetric else (ott.Scaling, _RELAXATION)
    return kind(
        lse_mode=False,
        threshold=tolerance,
        inner_iterations=steps if fixed else min(_CHECK, steps),
        min_iterations=steps if fixed else 0,
        max_iterations=steps,
        momentum=ott.Momentum(value=weight),
    )


def _varying(number, *, like):
    """The same, but inside `shard_map` it varies over devices as `like` does."""
    return jnp.where(like.ravel()[0] > 0, number, number)


class _Ott(NamedTuple):
    """What is used of ott, as it is and adapted."""

    Geometry: Any
    Kernel: Any
    LinearProblem: Any
    Momentum: Any
    Scaling: Any
    Symmetric: Any


@functools.cache
def _ott() -> _Ott:
    """Imports ott on first use, which takes seconds."""
    with warnings.catch_warnings():
        # ott imports jaxopt, which announces that it is no longer maintained.
        warnings.filterwarnings("ignore", "JAXopt", DeprecationWarning)
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.acceleration import Momentum
        from ott.solvers.linear.sinkhorn import Sinkhorn

    @jax.tree_util.register_pytree_node_class
    class Kernel(Geometry):
        """A kernel as it is; the base class raises it to a power in every product."""

        def apply_kernel(self, vec, eps=None, axis=0):
            del eps
            kernel = cast(Array, self._kernel_matrix)
            return kernel @ vec if axis == 1 else vec @ kernel

    @jax.tree_util.register_pytree_node_class
    class Scaling(Sinkhorn):
        """Scaling with loops that `shard_map` accepts: their state varies as data."""

        def init_state(self, ot_prob, init):
            state = super().init_state(ot_prob, init)
            return state.set(errors=_varying(state.errors, like=init[0]))

        def one_iteration(self, ot_prob, state, iteration, compute_error):
            def measured():
                error = state.solution_error(
                    ot_prob,
                    self.norm_error,
                    lse_mode=False,
                    parallel_dual_updates=False,
                    recenter=False,
                )
                row = iteration // self.inner_iterations
                errors = cast(Array, state.errors).at[row].set(error[0])
                return state.set(errors=errors)

            state = self.kernel_step(ot_prob, state, iteration)
            wanted = compute_error & (iteration >= self.min_iterations)
            wanted |= iteration == self.max_iterations - 1
            return jax.lax.cond(wanted, measured, lambda: state)

    @jax.tree_util.register_pytree_node_class
    class Symmetric(Scaling):
        """One averaged scaling for both sides (Feydy et al., Eq. 25)."""

        def kernel_step(self, ot_prob, state, iteration):
            new = ot_prob.geom.update_scaling(state.fu, ot_prob.a, iteration, axis=1)
            new = self.momentum(self.momentum.value, state.fu, new, lse_mode=False)
            return state.set(potentials=(new, new))

    return _Ott(Geometry, Kernel, LinearProblem, Momentum, Scaling, Symmetric)


def _positive(value, name, dtype):
    if jnp.shape(value):
        raise ValueError(
            f"`{name}` must be one number, but has shape {jnp.shape(value)}. "
            f"Use `jax.vmap` for several."
        )
    checks.check_nonnegative(value, name=name, positive=True)
    checks.check_finite(value, name=name)
    return jnp.asarray(value).astype(dtype)


@jax.custom_vjp
def _without_gradient(value):
    return value


@jax.custom_jvp
def _without_tangent(value):
    return value


def _refuse(*_):
    raise TypeError(
        "only the value of a Sinkhorn divergence has a gradient, and only a first one. "
        "Pass what needs none through `jax.lax.stop_gradient`."
    )


def _pass_zero(primals, tangents):
    if not isinstance(tangents[0], SymbolicZero):
        _refuse()
    return primals[0], tangents[0]


_without_gradient.defvjp(lambda value: (value, None), _refuse)
_without_tangent.defjvp(_pass_zero, symbolic_zeros=True)
