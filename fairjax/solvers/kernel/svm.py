"""The dual of a support vector machine whose gaps of mean scores are bounded.

    maximise  sum_i alpha_i - |w|^2 / 2 - sum_k tolerance_k |mu_k|
    with      w = sum_i y_i alpha_i phi_i - sum_k mu_k u_k,
              0 <= alpha_i <= bound_i,  sum_i y_i alpha_i = 0.

Three methods that need each other. Sequential minimal optimisation moves the best pair
of alphas, with a step on one mu after it: cheap, it finds out which alphas are at a
bound, and then crawls. Newton's method on the optimality conditions is exact as soon as
that guess is nearly right, and lost before. So the first runs until Newton's answer
proves itself by its duality gap. Where several guesses were wrong, proximal points lead
to the solution from anywhere, at dozens of factorisations.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .active_set import Faces, feasible, free_intercept, judged, on_some
from .dual import Dual, Problem, Solution, derived
from .proximal_point import proximal
from .smo import pairs

_ROUNDS = 10  # of Newton's method before it is given up
_LENGTH = 20  # pairs per sample before its first attempt, at most
_EASE = 0.03  # violation of the margins, below which it comes earlier
_GUESSES = 3  # wrong ones before proximal points


def solve(
    problem: Problem,
    start: Dual,
    *,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> Solution:
    """Solves to a relative duality gap; `start` must be feasible."""
    State = tuple[Dual, Solution, Array, Array, Array]

    def attempt(state: State) -> State:
        dual, best, ease, length, tries = state
        left = jnp.minimum(max_iterations - best.iterations, length)
        dual, moved = pairs(problem, dual, ease, left)
        reached = moved < length
        dual = derived(problem, dual.alpha, dual.mu)  # without the sum of roundings
        moved = best.iterations + moved
        intercept = free_intercept(problem, dual)
        for own in ((dual, intercept), _newton(problem, dual, intercept)):
            found = judged(problem, *own, moved)
            better = found.error < best.error
            best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        best = jax.lax.cond(
            (tries >= _GUESSES) & (best.error > precision),
            lambda: proximal(problem, dual, intercept, best, precision=precision),
            lambda: best,
        )
        # Where pairs crawl, Newton's method has its try all the same, ever later.
        ease = jnp.where(reached, ease / 10, ease)
        length = jnp.where(reached, length, 2 * length)
        return dual, best._replace(iterations=moved), ease, length, tries + 1

    def unfinished(state: State) -> Array:
        _, best, ease, _, _ = state
        open_ = (best.error > precision) & (ease > 1e-12)
        return open_ & (best.iterations < max_iterations)

    dtype = problem.kernel.dtype
    first = judged(problem, start, free_intercept(problem, start), jnp.zeros((), int))
    length = jnp.asarray(_LENGTH * problem.labels.shape[0])
    zero = jnp.zeros((), int)
    state = (start, first, jnp.asarray(_EASE, dtype), length, zero)
    return jax.lax.while_loop(unfinished, attempt, state)[1]


def _newton(
    problem: Problem, dual: Dual, intercept: Float[Array, ""]
) -> tuple[Dual, Array]:
    """Solves the optimality conditions on guessed faces, until these are confirmed."""
    # Near 0, samples that coincide share their alphas, well inside the bounds.
    centre = jax.tree.map(jnp.zeros_like, dual)
    sigma = 1e-12 * jnp.diagonal(problem.kernel).max()

    def again(state: tuple) -> tuple:
        count, dual, intercept, faces, before, _ = state
        dual, intercept = on_some(problem, faces, intercept, centre, sigma)
        new = _faces(problem, dual, intercept)
        changes = sum((a != b).sum() for a, b in zip(faces, new, strict=True))
        # Close to the solution the changes get fewer; else it runs about for ever.
        lost = ~jnp.isfinite(intercept) | (changes >= before)
        return count + 1, dual, intercept, new, changes, (changes == 0) | lost

    def unfinished(state: tuple) -> Array:
        return (state[0] < _ROUNDS) & ~state[-1]

    faces = _faces(problem, dual, intercept)
    zero = jnp.zeros((), int)
    most = zero + problem.labels.shape[0]
    state = (zero, dual, intercept, faces, most, jnp.array(False))
    _, dual, intercept, _, _, _ = jax.lax.while_loop(unfinished, again, state)
    return feasible(problem, dual), intercept


def _faces(problem: Problem, dual: Dual, intercept: Float[Array, ""]) -> Faces:
    """Where one projected gradient step ends, in units of each bound."""
    scale = jnp.where(problem.bound > 0, problem.bound, 1)
    missing = problem.labels * (problem.targets - dual.scores - intercept)
    moved = dual.alpha / scale + missing
    used, largest = problem.bound > 0, problem.bound.max()
    towards = dual.mu + largest * dual.gaps
    reached = jnp.abs(towards) > largest * problem.tolerance
    reached &= jnp.diagonal(problem.gram) > 0
    return Faces(
        used & (moved > 0) & (moved < 1),
        used & (moved >= 1),
        jnp.where(reached, jnp.sign(towards), 0),
    )
