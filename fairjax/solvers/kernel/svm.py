"""The dual of a support vector machine whose gaps of mean scores are bounded.

    maximise  sum_i alpha_i - |w|^2 / 2 - sum_k tolerance_k |mu_k|
    with      w = sum_i y_i alpha_i phi_i - sum_k mu_k u_k,
              0 <= alpha_i <= upper_bound_i,  sum_i y_i alpha_i = 0.

Three methods that need each other. Sequential minimal optimisation moves the best pair
of alphas, with a step on one mu after it: cheap, it finds out which alphas are at a
bound, and then crawls. Newton's method on the optimality conditions is exact as soon as
that guess is nearly right, and diverges before. So the first runs until Newton's answer
proves itself by its duality gap. Where several guesses were wrong, proximal points lead
to the solution from anywhere, at dozens of factorisations.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .active_set import (
    ActiveSet,
    certify_hinge,
    free_intercept,
    make_feasible,
    solve_on_active_set,
)
from .problem import Dual, Problem, Solution, dual_point
from .proximal_point import follow_proximal_points
from .smo import move_pairs

_NEWTON_STEPS = 10  # before it is given up
_PAIRS_PER_SAMPLE = 20  # at most, before Newton's first attempt
_MARGIN_TOLERANCE = 0.03  # violation of the margins, below which it comes earlier
_ATTEMPTS = 3  # of Newton's method before proximal points


def solve_from(
    problem: Problem, carry: Any, *, precision: float, max_iterations: int
) -> tuple[Solution, Any]:
    """The solution, and its alphas and multipliers as the start of the next one."""
    found = solve(problem, *(carry or zeros(problem)), precision, max_iterations)
    return found, (found.dual.alpha, found.dual.mu)


def zeros(problem: Problem) -> tuple[Float[Array, " n"], Float[Array, " k"]]:
    """Alphas and multipliers of 0, where a cold start begins."""
    return jnp.zeros_like(problem.targets), jnp.zeros_like(problem.tolerance)


@jax.jit
def solve(
    problem: Problem,
    alpha: Float[Array, " n"],
    mu: Float[Array, " k"],
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> Solution:
    """Solves to a relative duality gap; the start must be feasible."""
    State = tuple[Dual, Solution, Array, Array, Array]

    def attempt(state: State) -> State:
        dual, best, margin_tolerance, budget, attempts = state
        left = jnp.minimum(max_iterations - best.iterations, budget)
        dual, moved = move_pairs(problem, dual, margin_tolerance, left)
        reached = moved < budget
        # Scores anew, without the sum of roundings.
        dual = dual_point(problem, dual.alpha, dual.mu)
        moved = best.iterations + moved
        intercept = free_intercept(problem, dual)
        for point in ((dual, intercept), _newton(problem, dual, intercept)):
            found = certify_hinge(problem, *point, moved)
            better = found.error < best.error
            best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        best = jax.lax.cond(
            (attempts >= _ATTEMPTS) & (best.error > precision),
            lambda: follow_proximal_points(
                problem, dual, intercept, best, precision=precision
            ),
            lambda: best,
        )
        # Where pairs crawl, Newton's method has its try all the same, ever later.
        margin_tolerance = jnp.where(reached, margin_tolerance / 10, margin_tolerance)
        budget = jnp.where(reached, budget, 2 * budget)
        best = best._replace(iterations=moved)
        return dual, best, margin_tolerance, budget, attempts + 1

    def unfinished(state: State) -> Array:
        _, best, margin_tolerance, _, _ = state
        unsolved = (best.error > precision) & (margin_tolerance > 1e-12)
        return unsolved & (best.iterations < max_iterations)

    start, zero = dual_point(problem, alpha, mu), jnp.zeros((), int)
    first = certify_hinge(problem, start, free_intercept(problem, start), zero)
    margin_tolerance = jnp.asarray(_MARGIN_TOLERANCE, problem.kernel.dtype)
    budget = jnp.asarray(_PAIRS_PER_SAMPLE * problem.labels.shape[0])
    state = (start, first, margin_tolerance, budget, zero)
    return jax.lax.while_loop(unfinished, attempt, state)[1]


def _newton(
    problem: Problem, dual: Dual, intercept: Float[Array, ""]
) -> tuple[Dual, Array]:
    """Solves the optimality conditions on active sets, until the guess is confirmed."""
    # Near 0, samples that coincide share their alphas, well inside the bounds.
    centre = jax.tree.map(jnp.zeros_like, dual)
    damping = 1e-12 * jnp.diagonal(problem.kernel).max()

    def step(state: tuple) -> tuple:
        count, dual, intercept, active, last_changes, _ = state
        dual, intercept = solve_on_active_set(
            problem, active, intercept, centre, damping
        )
        new = _guess_active_set(problem, dual, intercept)
        changes = sum((a != b).sum() for a, b in zip(active, new, strict=True))
        # Close to the solution the changes get fewer; else it may run for ever.
        diverged = ~jnp.isfinite(intercept) | (changes >= last_changes)
        return count + 1, dual, intercept, new, changes, (changes == 0) | diverged

    def unfinished(state: tuple) -> Array:
        return (state[0] < _NEWTON_STEPS) & ~state[-1]

    active = _guess_active_set(problem, dual, intercept)
    zero = jnp.zeros((), int)
    most = zero + problem.labels.shape[0]
    state = (zero, dual, intercept, active, most, jnp.array(False))
    _, dual, intercept, _, _, _ = jax.lax.while_loop(unfinished, step, state)
    return make_feasible(problem, dual), intercept


def _guess_active_set(
    problem: Problem, dual: Dual, intercept: Float[Array, ""]
) -> ActiveSet:
    """The bounds that one projected gradient step reaches, in units of each bound."""
    scale = jnp.where(problem.upper_bound > 0, problem.upper_bound, 1)
    slope = problem.labels * (problem.targets - dual.scores - intercept)
    alpha = dual.alpha / scale + slope
    used, largest = problem.upper_bound > 0, problem.upper_bound.max()
    mu = dual.mu + largest * dual.gaps
    reached = jnp.abs(mu) > largest * problem.tolerance
    reached &= jnp.diagonal(problem.gram) > 0
    return ActiveSet(
        used & (alpha > 0) & (alpha < 1),
        used & (alpha >= 1),
        jnp.where(reached, jnp.sign(mu), 0),
    )
