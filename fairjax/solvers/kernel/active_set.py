"""Active sets of a support vector machine's dual, and the linear systems they imply.

Once it is known which alphas and multipliers are at a bound, the others follow from one
linear system; here are that system and the certificate of what it gives.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from .problem import (
    Dual,
    Problem,
    Solution,
    balance_classes,
    certify,
    dual_point,
    half_norm,
)

_product = functools.partial(jnp.matmul, precision="highest")
_SMALLEST_SYSTEM = 256  # rows, below which no smaller program is compiled


class ActiveSet(NamedTuple):
    """A guess of which dual variables are at a bound.

    Attributes:
        free: alphas inside their bounds.
        full: alphas at their upper bound.
        signs: of the multipliers, 0 where the bound on the gap is not reached.
    """

    free: Bool[Array, " n"]
    full: Bool[Array, " n"]
    signs: Float[Array, " k"]


def solve_on_active_set(
    problem: Problem,
    active: ActiveSet,
    intercept: Float[Array, ""],
    centre: Dual,
    damping: Float[Array, ""],
) -> tuple[Dual, Array]:
    """`solve_system` with a system not much larger than the free samples are many."""
    sizes = [problem.labels.shape[0]]
    while sizes[0] > _SMALLEST_SYSTEM:
        sizes.insert(0, 2 * sizes[0] // 3)
    rank = jnp.searchsorted(jnp.array(sizes), active.free.sum())
    branches = [functools.partial(solve_system, problem, size) for size in sizes]
    return jax.lax.switch(rank, branches, active, intercept, centre, damping)


def solve_system(
    problem: Problem,
    size: int,
    active: ActiveSet,
    intercept: Float[Array, ""],
    centre: Dual,
    damping: Float[Array, ""],
) -> tuple[Dual, Array]:
    """Dual and intercept: free samples have margins of 1, active gaps are at bounds.

    But for `damping` times the distance of their duals from `centre`: samples that
    coincide make the system singular, and roundings a little indefinite.

    Args:
        problem: the configuration.
        size: static; rows of the system, at least as many as samples are free.
        active: the guess.
        intercept: returned where no sample is free.
        centre: the dual point that damping draws to.
        damping: added to the diagonal.
    """
    n, n_gaps = problem.labels.shape[0], problem.gram.shape[0]
    rows = jnp.nonzero(active.free, size=size, fill_value=n)[0]
    in_system = jnp.concatenate([rows < n, active.signs != 0])
    rows = jnp.minimum(rows, n - 1)
    fixed = jnp.where(active.full, problem.labels * problem.upper_bound, 0)
    corner = problem.cross[:, rows]
    system = jnp.concatenate(
        [
            jnp.concatenate([problem.kernel[rows][:, rows], corner.T], axis=1),
            jnp.concatenate([corner, problem.gram], axis=1),
        ]
    )
    system = jnp.where(in_system[:, None] & in_system[None, :], system, 0)
    mu_damping = multiplier_damping(problem, damping)
    diagonal = jnp.where(jnp.arange(len(in_system)) < size, damping, mu_damping)
    system += jnp.diag(jnp.where(in_system, diagonal, 1))
    bounds = jnp.where(jnp.isinf(problem.tolerance), 0, problem.tolerance)
    wanted = problem.targets + damping * problem.labels * centre.alpha
    right = jnp.concatenate(
        [
            (wanted - _product(problem.kernel, fixed))[rows],
            active.signs * bounds
            - mu_damping * centre.mu
            - _product(problem.cross, fixed),
        ]
    )
    ones = jnp.concatenate([jnp.ones_like(right[:size]), jnp.zeros(n_gaps)])
    both = jnp.where(in_system[:, None], jnp.stack([ones, right], axis=1), 0)
    found = cho_solve((jnp.linalg.cholesky(system), True), both)
    mass = found[:size, 0].sum()
    any_free = in_system[:size].any()
    total = found[:size, 1].sum() + fixed.sum()
    intercept = jnp.where(any_free, total / jnp.where(any_free, mass, 1), intercept)
    values = jnp.where(in_system, found[:, 1] - intercept * found[:, 0], 0)
    signed = fixed.at[rows].add(values[:size])
    return dual_point(problem, problem.labels * signed, -values[size:]), intercept


def multiplier_damping(problem: Problem, damping: Float[Array, ""]) -> Float[Array, ""]:
    """Damping of the multipliers: one may be as large as all alphas together."""
    mass = problem.upper_bound.sum()
    return damping * problem.upper_bound.max() / jnp.where(mass > 0, mass, 1)


def make_feasible(problem: Problem, dual: Dual) -> Dual:
    """Alphas clipped into their bounds, then balanced between the classes."""
    alpha = jnp.clip(dual.alpha, 0, problem.upper_bound)
    return dual_point(problem, balance_classes(problem, alpha), dual.mu)


def certify_hinge(
    problem: Problem,
    dual: Dual,
    intercept: Float[Array, ""],
    iterations: Int[Array, ""],
) -> Solution:
    """A feasible dual point with its certificate."""
    dot = functools.partial(jnp.vdot, precision="highest")
    errors = problem.targets - dual.scores
    signed = problem.labels * dual.alpha
    losses = jnp.maximum(problem.labels * (errors - intercept), 0)
    return certify(
        problem,
        dual,
        intercept,
        risk=dot(problem.upper_bound, losses),
        dual_value=dot(signed, problem.targets) - half_norm(problem, dual),
        iterations=iterations,
    )


def free_intercept(problem: Problem, dual: Dual) -> Float[Array, ""]:
    """Mean over free vectors; without any, the middle of the optimal interval."""
    errors = problem.targets - dual.scores
    free = (dual.alpha > 1e-9 * problem.upper_bound) & (
        dual.alpha < (1 - 1e-9) * problem.upper_bound
    )
    count = free.sum().astype(errors.dtype)
    mean = jnp.where(free, errors, 0).sum() / jnp.maximum(count, 1)
    up, down = up_and_down_sets(problem, dual.alpha)
    low = jnp.where(up, errors, -jnp.inf).max()
    high = jnp.where(down, errors, jnp.inf).min()
    low = jnp.where(jnp.isfinite(low), low, high)
    high = jnp.where(jnp.isfinite(high), high, low)
    middle = jnp.where(jnp.isfinite(low), (low + high) / 2, 0)
    return jnp.where(count > 0, mean, middle)


def up_and_down_sets(
    problem: Problem, alpha: Float[Array, " n"]
) -> tuple[Array, Array]:
    """Masks of the samples whose `y alpha` may grow, and of those where it may fall."""
    below, above = alpha < problem.upper_bound, (alpha > 0) & (problem.upper_bound > 0)
    positive = problem.labels > 0
    return jnp.where(positive, below, above), jnp.where(positive, above, below)
