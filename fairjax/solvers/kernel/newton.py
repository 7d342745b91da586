"""Kernel machines with a smooth loss: Newton's method, exact under bounds on gaps.

Each step minimises the quadratic model of the losses under the exact constraint. What
the model is in all samples is solved by one Cholesky factor; what is left is a problem
in the few mu, with their absolute values. The squared loss is its own model: one step
is the solution, and one factor serves all tolerances.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from .dual import Dual, Problem, Solution, certified, derived, half_norm

_SWEEPS = 1000  # over the mu, before the guess of which of them are 0 is good
_HALVINGS = 40  # of a step that does not descend


class Loss(NamedTuple):
    """A loss of scores and targets, and what duality needs of it.

    Attributes:
        value: one per sample.
        slope: its derivative in the score.
        curvature: the second one, above 0.
        admitted: the nearest alphas whose conjugate is finite, in units of bounds.
        worth: minus the conjugate at `-label * alpha`.
    """

    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array, Array], Array]
    admitted: Callable[[Array], Array]
    worth: Callable[[Array, Array], Array]


def _entropy(alpha: Array, targets: Array) -> Array:
    return jax.scipy.special.entr(alpha) + jax.scipy.special.entr(1 - alpha)


squared = Loss(
    lambda scores, targets: jnp.square(scores - targets),
    lambda scores, targets: 2 * (scores - targets),
    lambda scores, targets: jnp.full_like(scores, 2),
    lambda alpha: alpha,
    lambda alpha, targets: alpha * targets - jnp.square(alpha) / 4,
)
logistic = Loss(
    lambda scores, targets: jax.nn.softplus(-targets * scores),
    lambda scores, targets: -targets * jax.nn.sigmoid(-targets * scores),
    lambda scores, targets: jnp.maximum(
        jax.nn.sigmoid(scores) * jax.nn.sigmoid(-scores), 1e-30
    ),
    lambda alpha: jnp.clip(alpha, 0, 1),
    _entropy,
)


class Model(NamedTuple):
    """Quadratic model of the losses, `curvature / 2 s^2 - pull s` for a score s.

    Attributes:
        roots: of the curvatures.
        factor: Cholesky factor of `1 + roots K roots`.
        pull: see above.
    """

    roots: Float[Array, " n"]
    factor: Float[Array, "n n"]
    pull: Float[Array, " n"]


class _Reduced(NamedTuple):
    """The model in mu alone: its gaps are `free - stiffness mu`.

    Attributes:
        free: gaps without mu.
        stiffness: how mu lowers them.
        signed: coefficients of the samples, for mu of 0.
        along: what one mu adds to them.
        intercept: for mu of 0.
        shift: what one mu adds to it.
    """

    free: Float[Array, " k"]
    stiffness: Float[Array, "k k"]
    signed: Float[Array, " n"]
    along: Float[Array, "n k"]
    intercept: Float[Array, ""]
    shift: Float[Array, " k"]


def model(problem: Problem, loss: Loss, scores: Float[Array, " n"]) -> Model:
    """The model at scores, the intercept in them; cost O(n^3)."""
    curvature = problem.bound * loss.curvature(scores, problem.targets)
    slope = problem.bound * loss.slope(scores, problem.targets)
    roots = jnp.sqrt(curvature)
    table = roots[:, None] * problem.kernel * roots[None, :]
    # Rounding makes a table a little indefinite, and a high price magnifies it.
    ease = 1 + 1e-14 * jnp.diagonal(table).max()
    table += ease * jnp.eye(len(roots), dtype=table.dtype)
    return Model(roots, jnp.linalg.cholesky(table), curvature * scores - slope)


def step(
    problem: Problem, model: Model, signs: Float[Array, " k"] | None = None
) -> tuple[Dual, Float[Array, ""]]:
    """Minimises the model under the bounds on gaps.

    Args:
        problem: what is solved.
        model: of its losses.
        signs: of the mu, 0 where a bound is not reached; found when None.

    Returns:
        The minimum and its intercept. Cost O(n^2 k).
    """
    reduced = _reduced(problem, model)
    if signs is None:
        mu = _multipliers(reduced, problem.tolerance)
    else:
        mu = _on_bounds(reduced, problem.tolerance, signs)
    product = functools.partial(jnp.matmul, precision="highest")
    signed = reduced.signed + product(reduced.along, mu)
    intercept = reduced.intercept + product(reduced.shift, mu)
    return derived(problem, problem.labels * signed, mu), intercept


def within(problem: Problem, dual: Dual) -> Dual:
    """Shrinks w until it is within the bounds on gaps."""
    sizes = jnp.abs(dual.gaps)
    shares = problem.tolerance / jnp.where(sizes > 0, sizes, 1)
    # What rounding leaves of a gap that is 0 is no violation.
    beyond = sizes > problem.tolerance + 1e-9
    share = jnp.where(beyond, shares, 1).min(initial=1)
    return jax.tree.map(lambda a: share * a, dual)


def solve(
    problem: Problem,
    start: Dual,
    intercept: Float[Array, ""],
    *,
    loss: Loss,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> Solution:
    """Newton's method from a start within the bounds on gaps."""

    def forward(state: tuple) -> tuple:
        count, dual, intercept, value, best, _ = state
        scores = dual.scores + intercept
        ahead, other = step(problem, model(problem, loss, scores))
        # All of this is linear in the step; what is between is within the bounds too.
        here, there = (dual, intercept), (ahead, other)
        slope = jnp.vdot(
            problem.bound * loss.slope(scores, problem.targets),
            ahead.scores + other - scores,
            precision="highest",
        )
        slope += _cross(problem, dual, ahead) - 2 * half_norm(problem, dual)

        def at(length: Array) -> tuple[tuple, Array]:
            moved = jax.tree.map(lambda a, b: a + length * (b - a), here, there)
            return moved, _objective(problem, loss, *moved)

        def shorter(state: tuple) -> tuple:
            length, _, _, tried = state
            return length / 2, *at(length / 2), tried + 1

        def climbs(state: tuple) -> Array:
            length, _, new, tried = state
            falls = new <= value + 1e-4 * length * slope + 1e-12 * jnp.abs(value)
            return ~falls & (tried < _HALVINGS)

        one = jnp.ones_like(value)
        first = (one, *at(one), jnp.zeros((), int))
        _, (dual, intercept), new, tried = jax.lax.while_loop(climbs, shorter, first)
        found = judged(problem, loss, dual, intercept, count + 1)
        better = found.error < best.error
        best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        stuck = (tried >= _HALVINGS) | ~jnp.isfinite(new) | ~better & (new >= value)
        return count + 1, dual, intercept, new, best, stuck

    def unfinished(state: tuple) -> Array:
        count, _, _, _, best, stuck = state
        return (best.error > precision) & (count < max_iterations) & ~stuck

    zero = jnp.zeros((), int)
    first = judged(problem, loss, start, intercept, zero)
    state = (zero, start, intercept, first.objective, first, jnp.array(False))
    count, _, _, _, best, _ = jax.lax.while_loop(unfinished, forward, state)
    return best._replace(iterations=count)


def judged(
    problem: Problem,
    loss: Loss,
    dual: Dual,
    intercept: Float[Array, ""],
    iterations: Int[Array, ""],
) -> Solution:
    """A point with its certificate, by its own alphas, made feasible."""
    used = problem.bound > 0
    unit = jnp.where(used, problem.bound, 1)
    alpha = loss.admitted(jnp.where(used, dual.alpha / unit, 0)) * problem.bound
    alpha = _balanced(problem, alpha)
    other = derived(problem, alpha, dual.mu)
    gains = jnp.where(used, loss.worth(alpha / unit, problem.targets), 0)
    scores = dual.scores + intercept
    return certified(
        problem,
        dual,
        intercept,
        risk=(problem.bound * loss.value(scores, problem.targets)).sum(),
        worth=(problem.bound * gains).sum() - half_norm(problem, other),
        iterations=iterations,
    )


def _objective(
    problem: Problem, loss: Loss, dual: Dual, intercept: Float[Array, ""]
) -> Float[Array, ""]:
    losses = loss.value(dual.scores + intercept, problem.targets)
    return half_norm(problem, dual) + (problem.bound * losses).sum()


def _cross(problem: Problem, dual: Dual, other: Dual) -> Float[Array, ""]:
    """`<w, w'>`."""
    dot = functools.partial(jnp.vdot, precision="highest")
    return dot(problem.labels * dual.alpha, other.scores) - dot(dual.mu, other.gaps)


def _balanced(problem: Problem, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
    """Coefficients that sum to 0: the heavier class is scaled down.

    Labels that are real have no class: there the mean goes, in units of the bounds.
    """
    positive = problem.labels > 0
    masses = [jnp.where(side, alpha, 0).sum() for side in (positive, ~positive)]
    least = jnp.minimum(*masses)
    ratios = [jnp.where(m > 0, least / jnp.where(m > 0, m, 1), 0) for m in masses]
    scaled = alpha * jnp.where(positive, *ratios)
    shifted = alpha - problem.bound * (alpha.sum() / problem.bound.sum())
    return jnp.where(positive.all(), shifted, scaled)


def _reduced(problem: Problem, model: Model) -> _Reduced:
    product = functools.partial(jnp.matmul, precision="highest")
    lower = functools.partial(solve_triangular, model.factor, lower=True)

    def inverse(right: Float[Array, "n r"]) -> Float[Array, "n r"]:
        """`(K + 1 / curvature)^-1`."""
        inner = lower(model.roots[:, None] * right)
        return model.roots[:, None] * lower(inner, trans=1)

    across = problem.across
    columns = [product(problem.kernel, model.pull), jnp.ones_like(model.pull)]
    found = inverse(jnp.stack([*columns, *across], axis=1))
    signed, even, along = model.pull - found[:, 0], found[:, 1], found[:, 2:]
    mass = even.sum()
    intercept, shift = signed.sum() / mass, along.sum(axis=0) / mass
    signed = signed - intercept * even
    along = along - even[:, None] * shift[None, :]
    stiffness = problem.gram - product(across, along)
    return _Reduced(
        product(across, signed),
        (stiffness + stiffness.T) / 2,
        signed,
        along,
        intercept,
        shift,
    )


def _multipliers(
    reduced: _Reduced, tolerance: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Minimises `mu' S mu / 2 - free' mu + tolerance |mu|`, coordinate by coordinate.

    Then once more, exactly, on the signs that were found.
    """
    n_gaps = len(tolerance)
    if not n_gaps:
        return tolerance
    stiffness = reduced.stiffness
    own = jnp.diagonal(stiffness)
    live = own > 1e-12 * own.max()

    def coordinate(k: Array, mu: Array) -> Array:
        gap = reduced.free[k] - jnp.vdot(stiffness[k], mu, precision="highest")
        pull = gap + own[k] * mu[k]
        kept = jnp.maximum(jnp.abs(pull) - tolerance[k], 0)
        new = jnp.sign(pull) * kept / jnp.where(live[k], own[k], 1)
        return mu.at[k].set(jnp.where(live[k], new, 0))

    def sweep(state: tuple) -> tuple:
        count, mu, _ = state
        new = jax.lax.fori_loop(0, n_gaps, coordinate, mu)
        done = jnp.abs(new - mu).max() <= 1e-12 * jnp.abs(new).max()
        return count + 1, new, done

    def unfinished(state: tuple) -> Array:
        return (state[0] < _SWEEPS) & ~state[2]

    start = (jnp.zeros((), int), jnp.zeros_like(reduced.free), jnp.array(False))
    _, mu, _ = jax.lax.while_loop(unfinished, sweep, start)
    exact = _on_bounds(reduced, tolerance, jnp.sign(mu))
    better = _wrong(reduced, tolerance, exact) < _wrong(reduced, tolerance, mu)
    return jnp.where(better, exact, mu)


def _on_bounds(
    reduced: _Reduced, tolerance: Float[Array, " k"], signs: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The mu whose gaps are at their bounds where signs are not 0."""
    kept = signs != 0
    bounds = jnp.where(kept, signs * jnp.where(kept, tolerance, 0), 0)
    right = jnp.where(kept, reduced.free - bounds, 0)
    system = jnp.where(kept[:, None] & kept[None, :], reduced.stiffness, 0)
    inverse = jnp.linalg.pinv(system, rtol=1e-10, hermitian=True)
    return jnp.matmul(inverse, right, precision="highest")


def _wrong(
    reduced: _Reduced, tolerance: Float[Array, " k"], mu: Float[Array, " k"]
) -> Float[Array, ""]:
    """By how much the conditions of the minimum in mu are missed."""
    gaps = reduced.free - jnp.matmul(reduced.stiffness, mu, precision="highest")
    bounds = jnp.where(mu == 0, 0, jnp.sign(mu) * tolerance)
    excess = jnp.maximum(jnp.abs(gaps) - tolerance, 0)
    return jnp.where(mu == 0, excess, jnp.abs(gaps - bounds)).max()
