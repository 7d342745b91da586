"""Entropic transport problems solved by ott-jax: the one module that knows its inside.

ott's `Sinkhorn` solver works on a kernel that already contains the last potentials, so
that an iteration is two products of a matrix with a vector; between rounds the
potentials are absorbed again, which keeps all numbers near 1. Where a round does not
bring the marginals closer, one exact step in the log domain replaces it.

Lengths are scaled by `sqrt(2 / epsilon)` and potentials by `1 / epsilon`, so the kernel
is `exp(f + g + <x, y>)`, with `-|x|^2 / 2` inside `f`.
"""

import functools
import math
import warnings
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float, Int

_ROUND = 48  # iterations between two absorptions of the potentials
_CHECK = 4  # iterations between two measurements of the marginals
_RELAXATION = 1.4
_MAX_EXPONENT = 80.0  # of a kernel entry; any larger one breaks the sums


class _Plan(NamedTuple):
    """The plan `u[:, None] * kernel * v`, whose rows sum to the first masses."""

    f: Float[Array, " n"]  # potentials; `u` and `v` hold what `kernel` lacks of them
    g: Float[Array, " m"]
    kernel: Float[Array, "n m"]
    u: Float[Array, " n"]
    v: Float[Array, " m"]
    error: Float[Array, ""]
    iterations: Int[Array, ""]


class Transport(NamedTuple):
    """A solved transport problem in scaled units.

    `to_x`, `to_y` and `entropy` are slopes, None where not asked for.
    """

    cost: Float[Array, ""]
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    error: Float[Array, ""]
    iterations: Int[Array, ""]
    to_x: Float[Array, "n d"] | None
    to_y: Float[Array, "m d"] | None
    entropy: Float[Array, ""] | None


def solve_transport(x, y, a, b, start, *, threshold, limit, fixed, slopes):
    """One solved transport problem; a cloud with itself has one potential.

    Inside, potentials lack half the squared norms, and costs are minus products.
    """
    symmetric = x is y
    affinity = jnp.matmul(x, y.T, precision=Precision.HIGHEST)
    x_norms, y_norms = (jnp.square(points).sum(axis=1) / 2 for points in (x, y))
    measure = functools.partial(_measure, affinity, a, b, symmetric)
    log_step = functools.partial(_log_step, affinity, a, b, symmetric)
    rounds = max(1, math.ceil(limit / _ROUND))
    steps = math.ceil(limit / rounds) if fixed else min(_ROUND, limit)
    solver = _solver(symmetric, threshold, steps, fixed)

    def advance(plan):
        f, g, count = _scaling_round(solver, plan, a, b, symmetric)
        done = plan.iterations + count
        candidate = measure(f, g, done)
        return jax.lax.cond(
            candidate.error < plan.error,
            lambda: candidate,
            # Where their number is fixed, it takes the place of one of them.
            lambda: measure(*log_step(plan.f, plan.g), done + (not fixed)),
        )

    def unfinished(plan):
        return (plan.error > threshold) & (plan.iterations < limit)

    if start is None:
        start = log_step(-x_norms, -y_norms)
    else:
        start = start[0] - x_norms, start[-1] - y_norms
    plan = measure(*start, device_varying(jnp.int32(0), like=a))
    if fixed:
        plan = jax.lax.fori_loop(0, rounds, lambda _, plan: advance(plan), plan)
    else:
        plan = jax.lax.while_loop(unfinished, advance, plan)
    f, g = plan.f + x_norms, plan.g + y_norms
    rows = plan.u * (plan.kernel @ plan.v)
    # The dual objective: at most the smallest cost, and off by the error squared.
    cost = a @ f + b @ g - (rows.sum() - 1)
    result = Transport(cost, f, g, plan.error, plan.iterations, None, None, None)
    if not slopes:
        return result
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)
    barycentric = plan.u[:, None] * product(plan.kernel, plan.v[:, None] * y)
    to_x = to_y = rows[:, None] * x - barycentric
    columns = rows
    if not symmetric:
        columns = plan.v * (plan.u @ plan.kernel)
        transposed = product((plan.u[:, None] * x).T, plan.kernel).T
        to_y = columns[:, None] * y - plan.v[:, None] * transposed
    entropy = (
        rows @ plan.f + columns @ plan.g + (x * barycentric).sum() - (rows.sum() - 1)
    )
    return result._replace(to_x=to_x, to_y=to_y, entropy=entropy)


def _measure(affinity, a, b, symmetric, f, g, iterations):
    """The plan of two potentials after one exact step for its rows, with its error."""
    # Between two points without weight, the potentials have no bound.
    kernel = jnp.exp(jnp.minimum(f[:, None] + g[None] + affinity, _MAX_EXPONENT))
    rows, rows_safe = _in_range(kernel @ b)
    if symmetric:
        u = v = a / jnp.sqrt(rows)
        sums, sums_safe = _in_range(kernel @ u)
        error = (a * jnp.abs(sums / jnp.sqrt(rows) - 1)).sum()
        f = g = f - jnp.where(a > 0, jnp.log(rows) / 2, jnp.log(sums))
    else:
        u, v = a / rows, b
        sums, sums_safe = _in_range(u @ kernel)
        error = (b * jnp.abs(sums - 1)).sum()
        f = f - jnp.log(rows)
    # Sums out of range: all the mass may be in the wrong place.
    error = jnp.where(rows_safe & sums_safe, error, 2)
    error = jnp.where(jnp.isfinite(f).all(), error, jnp.nan)
    return _Plan(f, g, kernel, u, v, error, iterations)


def _in_range(sums):
    """Sums of the kernel, or ones if any has lost digits to its range."""
    smallest = 1e6 * jnp.finfo(sums.dtype).tiny
    safe = jnp.all((sums > smallest) & (sums < 1e8))
    return jnp.where(safe, sums, 1), safe


def _scaling_round(solver, plan, a, b, symmetric):
    """Potentials after a round of ott's iterations on the plan's own kernel."""
    ott = _ott()
    geometry = ott.Kernel(kernel_matrix=plan.kernel, epsilon=1.0)
    out = solver(ott.LinearProblem(geometry, a, b), init=(plan.u, plan.v))
    u = jnp.exp(out.f)
    f = plan.f + jnp.where(a > 0, out.f - jnp.log(plan.u), 0)
    g = f if symmetric else plan.g - jnp.log(u @ plan.kernel)
    return f, g, jnp.asarray(out.n_iters, jnp.int32)


def _log_step(affinity, a, b, symmetric, f, g):
    """Potentials after one iteration that cannot overflow, at three times the cost."""
    geometry = _ott().Geometry(cost_matrix=-affinity, epsilon=1.0)

    def best(f, g, mass, axis):
        return -geometry.apply_lse_kernel(f, g, 1.0, vec=mass, axis=axis)[0]

    if symmetric:
        new = best(f, f, a, 1)
        f = jnp.where(a > 0, (f + new) / 2, new)
        return f, f
    g = best(f, g, a, 0)
    return best(f, g, b, 1), g


def _solver(symmetric, threshold, steps, fixed):
    """The ott solver of one round."""
    ott = _ott()
    kind, weight = (ott.Symmetric, 0.5) if symmetric else (ott.Scaling, _RELAXATION)
    return kind(
        lse_mode=False,
        threshold=threshold,
        inner_iterations=steps if fixed else min(_CHECK, steps),
        min_iterations=steps if fixed else 0,
        max_iterations=steps,
        momentum=ott.Momentum(value=weight),
    )


def device_varying(number, *, like):
    """The number; inside `shard_map` it varies over devices as `like` does."""
    return jnp.where(like.ravel()[0] > 0, number, number)


class _Ott(NamedTuple):
    """Classes of ott, as they are and adapted."""

    Geometry: Any
    Kernel: Any
    LinearProblem: Any
    Momentum: Any
    Scaling: Any
    Symmetric: Any


@functools.cache
def _ott() -> _Ott:
    """The classes of ott, imported on first use, which takes seconds."""
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
            return state.set(errors=device_varying(state.errors, like=init[0]))

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
