"""Kernel machines with a smooth loss: Newton's method, exact under bounds on gaps.

Each step minimises the quadratic model of the losses under the exact constraint. One
Cholesky factor eliminates the samples; there remains a problem in the few multipliers
mu, with their absolute values. The squared loss is its own model: one step is the
solution, and one factor serves all tolerances.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from .problem import (
    Dual,
    Problem,
    Solution,
    balance_classes,
    certify,
    dual_point,
    half_norm,
    inner_product,
)

_SWEEPS = 1000  # over the multipliers, at most
_HALVINGS = 40  # of a step that does not descend


class Loss(NamedTuple):
    """A loss of scores and targets, and what duality needs of it.

    Attributes:
        value: one per sample.
        slope: its derivative in the score.
        curvature: the second one, above 0.
        clip_dual: the nearest alphas whose conjugate is finite, in units of bounds.
        dual_value: minus the conjugate at `-label * alpha`.
    """

    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array, Array], Array]
    clip_dual: Callable[[Array], Array]
    dual_value: Callable[[Array, Array], Array]


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


class QuadraticModel(NamedTuple):
    """Quadratic model of the losses, `curvature / 2 s^2 - linear s` for a score s.

    Attributes:
        roots: square roots of the curvatures.
        factor: Cholesky factor of `1 + roots K roots`.
        linear: see above.
    """

    roots: Float[Array, " n"]
    factor: Float[Array, "n n"]
    linear: Float[Array, " n"]


class _MultiplierProblem(NamedTuple):
    """The model in the multipliers alone: its gaps are `gaps - hessian mu`.

    Attributes:
        gaps: at multipliers of 0, as the following.
        hessian: by which a multiplier lowers the gaps.
        coefficients: of the samples.
        coefficient_slopes: their derivatives in the multipliers.
        intercept: of the scores.
        intercept_slopes: its derivatives.
    """

    gaps: Float[Array, " k"]
    hessian: Float[Array, "k k"]
    coefficients: Float[Array, " n"]
    coefficient_slopes: Float[Array, "n k"]
    intercept: Float[Array, ""]
    intercept_slopes: Float[Array, " k"]


def quadratic_model(
    problem: Problem, loss: Loss, scores: Float[Array, " n"]
) -> QuadraticModel:
    """The model at scores, which include the intercept; cost O(n^3)."""
    curvature = problem.upper_bound * loss.curvature(scores, problem.targets)
    slope = problem.upper_bound * loss.slope(scores, problem.targets)
    roots = jnp.sqrt(curvature)
    table = roots[:, None] * problem.kernel * roots[None, :]
    # Rounding makes a table a little indefinite, and a high price magnifies it.
    jitter = 1 + 1e-14 * jnp.diagonal(table).max()
    table += jitter * jnp.eye(len(roots), dtype=table.dtype)
    return QuadraticModel(roots, jnp.linalg.cholesky(table), curvature * scores - slope)


def step(
    problem: Problem, model: QuadraticModel, signs: Float[Array, " k"] | None = None
) -> tuple[Dual, Float[Array, ""]]:
    """Minimises the model under the bounds on gaps.

    Args:
        problem: what is solved.
        model: of its losses.
        signs: of the multipliers, 0 where a bound is not reached; found when None.

    Returns:
        The minimum and its intercept. Cost O(n^2 k).
    """
    reduced = _eliminate_samples(problem, model)
    if signs is None:
        mu = _multipliers(reduced, problem.tolerance)
    else:
        mu = _multipliers_at_bounds(reduced, problem.tolerance, signs)
    product = functools.partial(jnp.matmul, precision="highest")
    signed = reduced.coefficients + product(reduced.coefficient_slopes, mu)
    intercept = reduced.intercept + product(reduced.intercept_slopes, mu)
    return dual_point(problem, problem.labels * signed, mu), intercept


def shrink_to_bounds(problem: Problem, dual: Dual) -> Dual:
    """The dual point, shrunk until its gaps are within their bounds."""
    sizes = jnp.abs(dual.gaps)
    shares = problem.tolerance / jnp.where(sizes > 0, sizes, 1)
    # A gap that is rounding is no violation.
    exceeds = sizes > problem.tolerance + 1e-9
    share = jnp.where(exceeds, shares, 1).min(initial=1)
    return jax.tree.map(lambda a: share * a, dual)


def solve_ridge_from(problem: Problem, carry: Any) -> tuple[Solution, Any]:
    """The ridge regression, and its factor, which serves all tolerances of one c."""
    model = carry or _ridge_model(problem)
    return _solve_ridge(problem, model), model


def solve_logistic_from(
    problem: Problem, carry: Any, *, precision: float, max_iterations: int
) -> tuple[Solution, Any]:
    """The logistic regression, and its variables as the start of the next one."""
    alpha, mu = jnp.zeros_like(problem.targets), jnp.zeros_like(problem.tolerance)
    start = carry or (alpha, mu, jnp.zeros((), problem.targets.dtype))
    found = _solve_logistic(problem, *start, precision, max_iterations)
    return found, (found.dual.alpha, found.dual.mu, found.intercept)


@jax.jit
def _ridge_model(problem: Problem) -> QuadraticModel:
    return quadratic_model(problem, squared, jnp.zeros_like(problem.targets))


@jax.jit
def _solve_ridge(problem: Problem, model: QuadraticModel) -> Solution:
    one = jnp.ones((), int)
    found = certify_smooth(problem, squared, *step(problem, model), one)
    # A kernel that is not positive semidefinite has no factor: then w = 0.
    zeros = [jnp.zeros_like(a) for a in (problem.targets, problem.tolerance)]
    mean = jnp.vdot(problem.upper_bound, problem.targets) / problem.upper_bound.sum()
    constant = certify_smooth(problem, squared, dual_point(problem, *zeros), mean, one)
    finite = jnp.isfinite(found.error)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), found, constant)


@jax.jit
def _solve_logistic(
    problem: Problem,
    alpha: Float[Array, " n"],
    mu: Float[Array, " k"],
    intercept: Float[Array, ""],
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> Solution:
    start = shrink_to_bounds(problem, dual_point(problem, alpha, mu))
    return solve(
        problem,
        start,
        intercept,
        loss=logistic,
        precision=precision,
        max_iterations=max_iterations,
    )


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

    def iterate(state: tuple) -> tuple:
        count, dual, intercept, value, best, _ = state
        scores = dual.scores + intercept
        end, end_intercept = step(problem, quadratic_model(problem, loss, scores))
        # All of this is linear in the step, so that points between meet the bounds too.
        here, there = (dual, intercept), (end, end_intercept)
        slope = jnp.vdot(
            problem.upper_bound * loss.slope(scores, problem.targets),
            end.scores + end_intercept - scores,
            precision="highest",
        )
        slope += inner_product(problem, dual, end) - 2 * half_norm(problem, dual)

        def at(length: Array) -> tuple[tuple, Array]:
            moved = jax.tree.map(lambda a, b: a + length * (b - a), here, there)
            return moved, _objective(problem, loss, *moved)

        def shorter(state: tuple) -> tuple:
            length, _, _, tried = state
            return length / 2, *at(length / 2), tried + 1

        def too_long(state: tuple) -> Array:
            length, _, new, tried = state
            decreases = new <= value + 1e-4 * length * slope + 1e-12 * jnp.abs(value)
            return ~decreases & (tried < _HALVINGS)

        one = jnp.ones_like(value)
        first = (one, *at(one), jnp.zeros((), int))
        _, (dual, intercept), new, tried = jax.lax.while_loop(too_long, shorter, first)
        found = certify_smooth(problem, loss, dual, intercept, count + 1)
        better = found.error < best.error
        best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        stuck = (tried >= _HALVINGS) | ~jnp.isfinite(new) | ~better & (new >= value)
        return count + 1, dual, intercept, new, best, stuck

    def unfinished(state: tuple) -> Array:
        count, _, _, _, best, stuck = state
        return (best.error > precision) & (count < max_iterations) & ~stuck

    zero = jnp.zeros((), int)
    first = certify_smooth(problem, loss, start, intercept, zero)
    state = (zero, start, intercept, first.objective, first, jnp.array(False))
    count, _, _, _, best, _ = jax.lax.while_loop(unfinished, iterate, state)
    return best._replace(iterations=count)


def certify_smooth(
    problem: Problem,
    loss: Loss,
    dual: Dual,
    intercept: Float[Array, ""],
    iterations: Int[Array, ""],
) -> Solution:
    """A point with its certificate, from its alphas made feasible."""
    used = problem.upper_bound > 0
    unit = jnp.where(used, problem.upper_bound, 1)
    alpha = loss.clip_dual(jnp.where(used, dual.alpha / unit, 0)) * problem.upper_bound
    alpha = _balance(problem, alpha)
    other = dual_point(problem, alpha, dual.mu)
    gains = jnp.where(used, loss.dual_value(alpha / unit, problem.targets), 0)
    scores = dual.scores + intercept
    return certify(
        problem,
        dual,
        intercept,
        risk=(problem.upper_bound * loss.value(scores, problem.targets)).sum(),
        dual_value=(problem.upper_bound * gains).sum() - half_norm(problem, other),
        iterations=iterations,
    )


def _objective(
    problem: Problem, loss: Loss, dual: Dual, intercept: Float[Array, ""]
) -> Float[Array, ""]:
    losses = loss.value(dual.scores + intercept, problem.targets)
    return half_norm(problem, dual) + (problem.upper_bound * losses).sum()


def _balance(problem: Problem, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
    """Alphas whose coefficients sum to 0.

    Real labels have no class: their mean is subtracted, in units of the bounds.
    """
    mean = alpha.sum() / problem.upper_bound.sum()
    shifted = alpha - problem.upper_bound * mean
    real = (problem.labels > 0).all()
    return jnp.where(real, shifted, balance_classes(problem, alpha))


def _eliminate_samples(problem: Problem, model: QuadraticModel) -> _MultiplierProblem:
    """The problem in the multipliers; cost O(n^2 k)."""
    product = functools.partial(jnp.matmul, precision="highest")
    lower = functools.partial(solve_triangular, model.factor, lower=True)

    def inverse(right: Float[Array, "n r"]) -> Float[Array, "n r"]:
        """`(K + 1 / curvature)^-1`."""
        inner = lower(model.roots[:, None] * right)
        return model.roots[:, None] * lower(inner, trans=1)

    cross = problem.cross
    columns = [product(problem.kernel, model.linear), jnp.ones_like(model.linear)]
    found = inverse(jnp.stack([*columns, *cross], axis=1))
    signed, of_one, slopes = model.linear - found[:, 0], found[:, 1], found[:, 2:]
    mass = of_one.sum()
    intercept, intercept_slopes = signed.sum() / mass, slopes.sum(axis=0) / mass
    signed = signed - intercept * of_one
    slopes = slopes - of_one[:, None] * intercept_slopes[None, :]
    hessian = problem.gram - product(cross, slopes)
    return _MultiplierProblem(
        product(cross, signed),
        (hessian + hessian.T) / 2,
        signed,
        slopes,
        intercept,
        intercept_slopes,
    )


def _multipliers(
    reduced: _MultiplierProblem, tolerance: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Minimises `mu' H mu / 2 - gaps' mu + tolerance |mu|` by coordinate descent.

    Then once more, exactly, on the signs that were found.
    """
    n_gaps = len(tolerance)
    if not n_gaps:
        return tolerance
    hessian = reduced.hessian
    diagonal = jnp.diagonal(hessian)
    nonzero = diagonal > 1e-12 * diagonal.max()

    def coordinate(k: Array, mu: Array) -> Array:
        gap = reduced.gaps[k] - jnp.vdot(hessian[k], mu, precision="highest")
        target = gap + diagonal[k] * mu[k]
        excess = jnp.maximum(jnp.abs(target) - tolerance[k], 0)
        new = jnp.sign(target) * excess / jnp.where(nonzero[k], diagonal[k], 1)
        return mu.at[k].set(jnp.where(nonzero[k], new, 0))

    def sweep(state: tuple) -> tuple:
        count, mu, _ = state
        new = jax.lax.fori_loop(0, n_gaps, coordinate, mu)
        done = jnp.abs(new - mu).max() <= 1e-12 * jnp.abs(new).max()
        return count + 1, new, done

    def unfinished(state: tuple) -> Array:
        return (state[0] < _SWEEPS) & ~state[2]

    start = (jnp.zeros((), int), jnp.zeros_like(reduced.gaps), jnp.array(False))
    _, mu, _ = jax.lax.while_loop(unfinished, sweep, start)
    exact = _multipliers_at_bounds(reduced, tolerance, jnp.sign(mu))
    better = _residual(reduced, tolerance, exact) < _residual(reduced, tolerance, mu)
    return jnp.where(better, exact, mu)


def _multipliers_at_bounds(
    reduced: _MultiplierProblem,
    tolerance: Float[Array, " k"],
    signs: Float[Array, " k"],
) -> Float[Array, " k"]:
    """The multipliers whose gaps are at their bounds where signs are not 0."""
    active = signs != 0
    bounds = jnp.where(active, signs * jnp.where(active, tolerance, 0), 0)
    right = jnp.where(active, reduced.gaps - bounds, 0)
    system = jnp.where(active[:, None] & active[None, :], reduced.hessian, 0)
    inverse = jnp.linalg.pinv(system, rtol=1e-10, hermitian=True)
    return jnp.matmul(inverse, right, precision="highest")


def _residual(
    reduced: _MultiplierProblem, tolerance: Float[Array, " k"], mu: Float[Array, " k"]
) -> Float[Array, ""]:
    """Largest violation of the optimality conditions of the multipliers."""
    gaps = reduced.gaps - jnp.matmul(reduced.hessian, mu, precision="highest")
    bounds = jnp.where(mu == 0, 0, jnp.sign(mu) * tolerance)
    excess = jnp.maximum(jnp.abs(gaps) - tolerance, 0)
    return jnp.where(mu == 0, excess, jnp.abs(gaps - bounds)).max()
