"""Proximal points of a support vector machine's dual, each found by Newton's method.

    dual_{t+1} = argmax  dual objective - damping_t / 2 |dual - dual_t|^2.

In the primal problem the last term rounds the corners of the hinge and of the bounds on
gaps. What is minimised there over scores is smooth and convex, so that Newton's method
with a line search cannot diverge, whatever samples coincide. The distances get shorter,
and the damping with them.

References: Rockafellar, *Augmented Lagrangians and applications of the proximal point
algorithm in convex programming*, 1976.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .active_set import (
    ActiveSet,
    certify_hinge,
    make_feasible,
    multiplier_damping,
    solve_on_active_set,
)
from .problem import Dual, Problem, Solution, dual_point, inner_product

_POINTS = 50  # before it is given up
_MAX_STALLED = 5  # points without progress, after which it is given up
_STEPS = 100  # of Newton's method to a point
_HALVINGS = 30  # of a step that is too long
_MIN_DAMPING = 1e-7  # in units of the kernel: below it is rounding


class Iterate(NamedTuple):
    """The iterate of Newton's method.

    Attributes:
        dual: inside its bounds or not.
        intercept: of the scores.
    """

    dual: Dual
    intercept: Float[Array, ""]


def follow_proximal_points(
    problem: Problem,
    start: Dual,
    intercept: Float[Array, ""],
    best: Solution,
    *,
    precision: Float[Array, ""],
) -> Solution:
    """Follows proximal points from `start` to a relative gap, or returns `best`."""
    floor = _MIN_DAMPING * jnp.diagonal(problem.kernel).max()
    largest = jnp.where(problem.upper_bound.max() > 0, problem.upper_bound.max(), 1)
    State = tuple[Dual, Iterate, Array, Solution, Array, Array, Array]

    def next_point(state: State) -> State:
        centre, iterate, damping, best, lowest_error, stalled, count = state
        iterate, exact = _proximal_point(problem, centre, iterate, damping)
        alpha, mu, _ = _best_response(problem, centre, iterate, damping)
        # On the right active set the iterate's duals are these, without rounding.
        clipped = jnp.clip(iterate.dual.alpha, 0, problem.upper_bound)
        alpha = jnp.where(exact, clipped, alpha)
        mu = jnp.where(exact, iterate.dual.mu, mu)
        centre = dual_point(problem, alpha, mu)
        point = make_feasible(problem, centre)
        found = certify_hinge(problem, point, iterate.intercept, best.iterations)
        better = found.error < best.error
        best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        progress = (damping > floor) | (found.error < lowest_error)
        stalled = jnp.where(progress, 0, stalled + 1)
        lowest_error = jnp.minimum(found.error, lowest_error)
        damping = jnp.maximum(damping / 10, floor)
        return centre, iterate, damping, best, lowest_error, stalled, count + 1

    def unfinished(state: State) -> Array:
        _, _, _, best, _, stalled, count = state
        return (best.error > precision) & (stalled < _MAX_STALLED) & (count < _POINTS)

    damping = jnp.minimum(0.1 / largest, 1e4 * floor)
    zero = jnp.zeros((), int)
    infinite = jnp.asarray(jnp.inf, best.error.dtype)
    state = (start, Iterate(start, intercept), damping, best, infinite, zero, zero)
    return jax.lax.while_loop(unfinished, next_point, state)[3]


def _best_response(
    problem: Problem, centre: Dual, iterate: Iterate, damping: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " k"], ActiveSet]:
    """The best alphas and multipliers near `centre` for given scores; their set."""
    errors = problem.targets - iterate.dual.scores - iterate.intercept
    alpha = centre.alpha + problem.labels * errors / damping
    used = problem.upper_bound > 0
    mu_damping = multiplier_damping(problem, damping)
    mu = centre.mu + iterate.dual.gaps / mu_damping
    limit = problem.tolerance / mu_damping
    reached = (jnp.abs(mu) > limit) & (jnp.diagonal(problem.gram) > 0)
    active = ActiveSet(
        used & (alpha > 0) & (alpha < problem.upper_bound),
        used & (alpha >= problem.upper_bound),
        jnp.where(reached, jnp.sign(mu), 0),
    )
    shrunk = jnp.where(reached, mu - jnp.sign(mu) * limit, 0)
    return jnp.clip(alpha, 0, problem.upper_bound), shrunk, active


def _proximal_point(
    problem: Problem, centre: Dual, iterate: Iterate, damping: Float[Array, ""]
) -> tuple[Iterate, Bool[Array, ""]]:
    """The proximal point of `centre`, and whether its active set is confirmed."""
    mass = jnp.where(problem.upper_bound.sum() > 0, problem.upper_bound.sum(), 1)
    one, false = jnp.ones_like(damping), jnp.array(False)

    def newton_step(state: tuple) -> tuple:
        count, iterate, _, _ = state
        _, _, active = _best_response(problem, centre, iterate, damping)
        # Without a free sample the intercept goes downhill, a unit at most.
        full = jnp.where(active.full, problem.labels * problem.upper_bound, 0)
        fallback = iterate.intercept + full.sum() / mass
        end = Iterate(*solve_on_active_set(problem, active, fallback, centre, damping))
        step = jax.tree.map(jnp.subtract, end, iterate)

        def at(step_size: Array) -> Iterate:
            return jax.tree.map(lambda a, b: a + step_size * b, iterate, step)

        def increases(step_size: Array) -> Array:
            return _slope(problem, centre, at(step_size), step, damping) > 0

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            rising = increases(middle)
            return jnp.where(rising, ends[0], middle), jnp.where(
                rising, middle, ends[1]
            )

        def search() -> Array:
            return jax.lax.fori_loop(0, _HALVINGS, halve, (0 * one, one))[1]

        step_size = jax.lax.cond(increases(one), search, lambda: one)
        is_full = functools.partial(jnp.where, step_size == 1)
        new = jax.tree.map(is_full, end, at(step_size))
        _, _, after = _best_response(problem, centre, new, damping)
        same = [(a == b).all() for a, b in zip(active, after, strict=True)]
        finite = jnp.isfinite(new.dual.scores).all() & jnp.isfinite(new.intercept)
        new = jax.tree.map(functools.partial(jnp.where, finite), new, iterate)
        exact = finite & jnp.stack(same).all() & (step_size == 1)
        return count + 1, new, exact, exact | ~finite

    def unfinished(state: tuple) -> Array:
        return (state[0] < _STEPS) & ~state[-1]

    state = (jnp.zeros((), int), iterate, false, false)
    return jax.lax.while_loop(unfinished, newton_step, state)[1:3]


def _slope(
    problem: Problem,
    centre: Dual,
    iterate: Iterate,
    step: Iterate,
    damping: Float[Array, ""],
) -> Float[Array, ""]:
    """Slope of the smoothed primal objective at `iterate`, along `step`."""
    dot = functools.partial(jnp.vdot, precision="highest")
    alpha, mu, _ = _best_response(problem, centre, iterate, damping)
    norm_slope = inner_product(problem, step.dual, iterate.dual)
    loss_slope = dot(problem.labels * alpha, step.dual.scores + step.intercept)
    return norm_slope - loss_slope + dot(mu, step.dual.gaps)
