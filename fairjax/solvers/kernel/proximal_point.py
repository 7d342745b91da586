"""Proximal points of a support vector machine's dual, each found by Newton's method.

    dual_{t+1} = argmax  dual objective - sigma_t / 2 |dual - dual_t|^2.

In the primal problem the last term rounds the corners of the hinge and of the bounds on
gaps. What is minimised there over scores is smooth and convex, so that Newton's method
with a line search cannot get lost, whatever samples coincide. The ways get shorter, and
sigma with them. References: Rockafellar, *Augmented Lagrangians and applications of the
proximal point algorithm in convex programming*, 1976.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .active_set import Faces, feasible, judged, on_some, sigma_of_mus
from .dual import Dual, Problem, Solution, derived

_POINTS = 50  # before it is given up
_STALE = 5  # points without progress, after which it is given up
_STEPS = 100  # of Newton's method to a point
_HALVINGS = 30  # of a step that is too long
_LEAST = 1e-7  # sigma, in units of the kernel: below it is rounding


class Walk(NamedTuple):
    """Where Newton's method is.

    Attributes:
        dual: inside its bounds or not.
        intercept: of the scores.
    """

    dual: Dual
    intercept: Float[Array, ""]


def proximal(
    problem: Problem,
    start: Dual,
    intercept: Float[Array, ""],
    best: Solution,
    *,
    precision: Float[Array, ""],
) -> Solution:
    """Follows proximal points from `start` to a relative gap, or returns `best`."""
    floor = _LEAST * jnp.diagonal(problem.kernel).max()
    largest = jnp.where(problem.bound.max() > 0, problem.bound.max(), 1)
    State = tuple[Dual, Walk, Array, Solution, Array, Array, Array]

    def approach(state: State) -> State:
        centre, walk, sigma, best, least, stale, count = state
        walk, settled = _towards(problem, centre, walk, sigma)
        alpha, mu, _ = _implied(problem, centre, walk, sigma)
        # On settled faces the walk's own duals are the same, without rounding / sigma.
        own = jnp.clip(walk.dual.alpha, 0, problem.bound)
        alpha = jnp.where(settled, own, alpha)
        mu = jnp.where(settled, walk.dual.mu, mu)
        centre = derived(problem, alpha, mu)
        point = feasible(problem, centre)
        found = judged(problem, point, walk.intercept, best.iterations)
        better = found.error < best.error
        best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        stale = jnp.where((sigma > floor) | (found.error < least), 0, stale + 1)
        least = jnp.minimum(found.error, least)
        sigma = jnp.maximum(sigma / 10, floor)
        return centre, walk, sigma, best, least, stale, count + 1

    def unfinished(state: State) -> Array:
        _, _, _, best, _, stale, count = state
        return (best.error > precision) & (stale < _STALE) & (count < _POINTS)

    sigma = jnp.minimum(0.1 / largest, 1e4 * floor)
    zero = jnp.zeros((), int)
    infinite = jnp.asarray(jnp.inf, best.error.dtype)
    state = (start, Walk(start, intercept), sigma, best, infinite, zero, zero)
    return jax.lax.while_loop(unfinished, approach, state)[3]


def _implied(
    problem: Problem, centre: Dual, walk: Walk, sigma: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " k"], Faces]:
    """The best alphas and mus near `centre` for given scores, and their faces."""
    errors = problem.targets - walk.dual.scores - walk.intercept
    alpha = centre.alpha + problem.labels * errors / sigma
    used = problem.bound > 0
    own = sigma_of_mus(problem, sigma)
    mu, limit = centre.mu + walk.dual.gaps / own, problem.tolerance / own
    reached = (jnp.abs(mu) > limit) & (jnp.diagonal(problem.gram) > 0)
    faces = Faces(
        used & (alpha > 0) & (alpha < problem.bound),
        used & (alpha >= problem.bound),
        jnp.where(reached, jnp.sign(mu), 0),
    )
    shrunk = jnp.where(reached, mu - jnp.sign(mu) * limit, 0)
    return jnp.clip(alpha, 0, problem.bound), shrunk, faces


def _towards(
    problem: Problem, centre: Dual, walk: Walk, sigma: Float[Array, ""]
) -> tuple[Walk, Bool[Array, ""]]:
    """The proximal point of `centre`, and whether it is exact."""
    mass = jnp.where(problem.bound.sum() > 0, problem.bound.sum(), 1)
    one, false = jnp.ones_like(sigma), jnp.array(False)

    def again(state: tuple) -> tuple:
        count, walk, _, _ = state
        _, _, faces = _implied(problem, centre, walk, sigma)
        # Without a free sample the intercept goes downhill, a unit at most.
        full = jnp.where(faces.full, problem.labels * problem.bound, 0)
        lone = walk.intercept + full.sum() / mass
        end = Walk(*on_some(problem, faces, lone, centre, sigma))
        step = jax.tree.map(jnp.subtract, end, walk)

        def at(share: Array) -> Walk:
            return jax.tree.map(lambda a, b: a + share * b, walk, step)

        def uphill(share: Array) -> Array:
            return _slope(problem, centre, at(share), step, sigma) > 0

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            up = uphill(middle)
            return jnp.where(up, ends[0], middle), jnp.where(up, middle, ends[1])

        def search() -> Array:
            return jax.lax.fori_loop(0, _HALVINGS, halve, (0 * one, one))[1]

        share = jax.lax.cond(uphill(one), search, lambda: one)
        new = jax.tree.map(functools.partial(jnp.where, share == 1), end, at(share))
        _, _, after = _implied(problem, centre, new, sigma)
        same = [(a == b).all() for a, b in zip(faces, after, strict=True)]
        sound = jnp.isfinite(new.dual.scores).all() & jnp.isfinite(new.intercept)
        new = jax.tree.map(functools.partial(jnp.where, sound), new, walk)
        settled = sound & jnp.stack(same).all() & (share == 1)
        return count + 1, new, settled, settled | ~sound

    def unfinished(state: tuple) -> Array:
        return (state[0] < _STEPS) & ~state[-1]

    state = (jnp.zeros((), int), walk, false, false)
    return jax.lax.while_loop(unfinished, again, state)[1:3]


def _slope(
    problem: Problem, centre: Dual, walk: Walk, step: Walk, sigma: Float[Array, ""]
) -> Float[Array, ""]:
    """Of the rounded primal objective at `walk`, along `step`."""
    dot = functools.partial(jnp.vdot, precision="highest")
    alpha, mu, _ = _implied(problem, centre, walk, sigma)
    norm = dot(problem.labels * step.dual.alpha, walk.dual.scores)
    norm -= dot(step.dual.mu, walk.dual.gaps)
    lost = dot(problem.labels * alpha, step.dual.scores + step.intercept)
    return norm - lost + dot(mu, step.dual.gaps)
