"""Kernel machines, point by point: what each one's solver is given, and its result."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from . import active_set, newton, svm
from . import dual as _dual
from . import problem as _kernel_setup
from .problem import Given, Kernel

_ROUNDS = 30  # of multipliers for the published dual

# A solution, and what it leaves to the next point: None where that starts afresh.
Method = Callable[[_dual.Problem, Any], tuple[_dual.Solution, Any]]


class KernelFit(NamedTuple):
    """Kernel machines with their certificates, as float64 arrays of the host.

    `*m` is the batch, or nothing.

    Attributes:
        coefficients: a score is `sum_i coefficients_i k(x, x_i) + intercept`.
        intercept: never penalised.
        dual: the alphas: `c * weight` times minus the slope of the loss in the margin,
            or in the score where labels are real.
        multipliers: price of each bound on a gap, `-d optimum / d tolerance` up to
            sign.
        objective: of the primal problem.
        gap: relative duality gap: the optimum is at least `objective * (1 - gap)`.
        violation: by how much the worst bound is exceeded [score].
        iterations: pairs of alphas moved, or steps of Newton's method.
        converged: whether gap and violation meet the precision asked for. A point that
            is not converged is still the best one found.
        bandwidth: of each point's kernel; NaN where the kernel was bound.
    """

    coefficients: Float[np.ndarray, "*m n"]
    intercept: Float[np.ndarray, "*m"]
    dual: Float[np.ndarray, "*m n"]
    multipliers: Float[np.ndarray, "*m k"]
    objective: Float[np.ndarray, "*m"]
    gap: Float[np.ndarray, "*m"]
    violation: Float[np.ndarray, "*m"]
    iterations: Int[np.ndarray, "*m"]
    converged: Bool[np.ndarray, "*m"]
    bandwidth: Float[np.ndarray, "*m"]


def fit(
    given: Given,
    kernel: Kernel,
    method: Method,
    *,
    precision: float,
    order: str = "tolerance",
) -> KernelFit:
    """All points, bandwidth by bandwidth.

    Args:
        given: samples and configurations.
        kernel: of their tables.
        method: solves a point.
        precision: largest relative gap.
        order: see `_kernel_setup.groups`.
    """
    m, n, k = len(given.c), len(given.targets), len(given.rows)
    found = KernelFit(
        coefficients=np.empty((m, n)),
        intercept=np.empty(m),
        dual=np.empty((m, n)),
        multipliers=np.empty((m, k)),
        objective=np.empty(m),
        gap=np.empty(m),
        violation=np.empty(m),
        iterations=np.empty(m, np.int64),
        converged=np.empty(m, bool),
        bandwidth=given.bandwidth,
    )
    with jax.enable_x64(True):
        for group in _kernel_setup.groups(given, kernel, order=order):
            live = group.lengths > 0
            units = np.where(live, 1 / np.where(live, group.lengths, 1), 0)
            last, left = np.nan, None
            for i in group.chosen.tolist():
                price = given.c[i]
                # As c grows, the last solution stays feasible; a factor is for one c.
                useful = price == last if order == "c" else price >= last
                end, left = method(group.at(given, i), left if useful else None)
                last, end = price, jax.device_get(end)
                found.dual[i] = end.dual.alpha
                found.multipliers[i] = end.dual.mu * units
                excess = np.abs(end.dual.gaps) * group.lengths - given.tolerance[i]
                found.violation[i] = np.maximum(excess, 0).max(initial=0)
                for name in ("intercept", "objective", "gap", "iterations"):
                    getattr(found, name)[i] = getattr(end, name)
                found.converged[i] = end.error <= precision
                found.coefficients[i] = given.labels * found.dual[i]
                found.coefficients[i] -= found.multipliers[i] @ given.rows
    return jax.tree.map(lambda a: a[0] if given.single else a, found)


def by_pairs(
    problem: _dual.Problem, left: Any, *, precision: float, max_iterations: int
) -> tuple[_dual.Solution, Any]:
    """The solution, and the state from which to go on."""
    start = left or (
        jnp.zeros_like(problem.targets),
        jnp.zeros_like(problem.tolerance),
    )
    found = _solve_svm(problem, *start, precision, max_iterations)
    return found, (found.dual.alpha, found.dual.mu)


def by_newton(
    problem: _dual.Problem, left: Any, *, precision: float, max_iterations: int
) -> tuple[_dual.Solution, Any]:
    """The solution, and the state from which to go on."""
    start = left or (
        jnp.zeros_like(problem.targets),
        jnp.zeros_like(problem.tolerance),
        jnp.zeros((), problem.targets.dtype),
    )
    found = _solve_logistic(problem, *start, precision, max_iterations)
    return found, (found.dual.alpha, found.dual.mu, found.intercept)


def by_factor(problem: _dual.Problem, left: Any) -> tuple[_dual.Solution, Any]:
    """The solution of a ridge regression, and its factorisation."""
    model = left or _model_ridge(problem)
    return _solve_ridge(problem, model), model


def published(
    problem: _dual.Problem, left: Any, *, precision: float, max_iterations: int
) -> tuple[_dual.Solution, Any]:
    """The solution, and the state from which to go on."""
    """The standard dual with `sum_i y_i alpha_i <u_k, phi_i> = 0` added.

    By multipliers: each round solves a support vector machine on a kernel that resists
    what is left of the sums.
    """
    across = problem.across
    start, prices = left or (
        jnp.zeros_like(problem.targets),
        jnp.zeros_like(problem.tolerance),
    )
    k, error = len(prices), jnp.inf
    plain = problem._replace(
        across=across[:0], gram=problem.gram[:0, :0], tolerance=prices[:0]
    )
    for rounds in range(_ROUNDS):
        stiff = jnp.asarray(10.0 ** min(rounds, 3))
        eased = plain._replace(
            kernel=_stiffened(problem.kernel, across, stiff),
            targets=problem.targets - jnp.matmul(prices, across, precision="highest"),
        )
        found = _solve_svm(eased, start, prices[:0], precision, max_iterations)
        start = found.dual.alpha
        sums = jnp.matmul(across, problem.labels * start, precision="highest")
        prices = prices + stiff * sums
        size = jnp.sqrt(jnp.maximum(2 * found.objective, 1))
        error = jnp.maximum(found.error, 100 * jnp.abs(sums).max(initial=0) / size)
        if k == 0 or error <= precision:
            break
    found = _judge_published(problem, start)
    return found._replace(error=jnp.asarray(error)), (start, prices)


@jax.jit
def _stiffened(
    kernel: Float[Array, "n n"], across: Float[Array, "k n"], stiff: Float[Array, ""]
) -> Float[Array, "n n"]:
    return kernel + stiff * jnp.matmul(across.T, across, precision="highest")


@jax.jit
def _judge_published(
    problem: _dual.Problem, alpha: Float[Array, " n"]
) -> _dual.Solution:
    dual = _dual.derived(problem, alpha, jnp.zeros_like(problem.tolerance))
    vectors = alpha > 1e-7
    errors = jnp.where(vectors, problem.targets - dual.scores, 0)
    intercept = errors.sum() / jnp.maximum(vectors.sum(dtype=errors.dtype), 1)
    return active_set.judged(problem, dual, intercept, jnp.zeros((), int))


@jax.jit
def _solve_svm(
    problem: _dual.Problem,
    alpha: Float[Array, " n"],
    mu: Float[Array, " k"],
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> _dual.Solution:
    start = _dual.derived(problem, alpha, mu)
    return svm.solve(problem, start, precision=precision, max_iterations=max_iterations)


@jax.jit
def _solve_logistic(
    problem: _dual.Problem,
    alpha: Float[Array, " n"],
    mu: Float[Array, " k"],
    intercept: Float[Array, ""],
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> _dual.Solution:
    return newton.solve(
        problem,
        newton.within(problem, _dual.derived(problem, alpha, mu)),
        intercept,
        loss=newton.logistic,
        precision=precision,
        max_iterations=max_iterations,
    )


@jax.jit
def _model_ridge(problem: _dual.Problem) -> newton.Model:
    zeros = jnp.zeros_like(problem.targets)
    return newton.model(problem, newton.squared, zeros)


@jax.jit
def _solve_ridge(problem: _dual.Problem, model: newton.Model) -> _dual.Solution:
    one, loss = jnp.ones((), int), newton.squared
    found = newton.judged(problem, loss, *newton.step(problem, model), one)
    # A kernel that is not positive semidefinite has no factor: w = 0 is what is left.
    zeros = [jnp.zeros_like(a) for a in (problem.targets, problem.tolerance)]
    mean = jnp.vdot(problem.bound, problem.targets) / problem.bound.sum()
    none = newton.judged(problem, loss, _dual.derived(problem, *zeros), mean, one)
    sound = jnp.isfinite(found.error)
    return jax.tree.map(lambda a, b: jnp.where(sound, a, b), found, none)
