"""The dual of P1's published code, for comparison with the exact machine.

The standard dual of a support vector machine with the equations
`sum_i y_i alpha_i <u_k, phi_i> = 0` added: no multiplier's part in w, so that it does
not solve the constrained primal problem. Solved by an augmented Lagrangian: each round
is a support vector machine whose kernel penalises what these sums still are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import svm
from .active_set import certify_hinge
from .problem import Problem, Solution, dual_point

_ROUNDS = 30  # of multipliers
_product = functools.partial(jnp.matmul, precision="highest")


def solve(
    problem: Problem, carry: Any, *, precision: float, max_iterations: int
) -> tuple[Solution, Any]:
    """The published dual's solution, and the alphas and multipliers to go on from."""
    cross = problem.cross
    alpha, multipliers = carry or svm.zeros(problem)
    error = jnp.inf
    unconstrained = problem._replace(
        cross=cross[:0], gram=problem.gram[:0, :0], tolerance=multipliers[:0]
    )
    for rounds in range(_ROUNDS):
        penalty = jnp.asarray(10.0 ** min(rounds, 3))
        penalised = unconstrained._replace(
            kernel=_penalised_kernel(problem.kernel, cross, penalty),
            targets=problem.targets - _product(multipliers, cross),
        )
        found = svm.solve(penalised, alpha, multipliers[:0], precision, max_iterations)
        alpha = found.dual.alpha
        sums = _product(cross, problem.labels * alpha)
        multipliers = multipliers + penalty * sums
        size = jnp.sqrt(jnp.maximum(2 * found.objective, 1))
        error = jnp.maximum(found.error, 100 * jnp.abs(sums).max(initial=0) / size)
        if len(multipliers) == 0 or error <= precision:
            break
    found = _certify(problem, alpha)
    return found._replace(error=jnp.asarray(error)), (alpha, multipliers)


@jax.jit
def _penalised_kernel(
    kernel: Float[Array, "n n"], cross: Float[Array, "k n"], penalty: Float[Array, ""]
) -> Float[Array, "n n"]:
    return kernel + penalty * _product(cross.T, cross)


@jax.jit
def _certify(problem: Problem, alpha: Float[Array, " n"]) -> Solution:
    """Its place in the primal problem; the intercept is a mean over all vectors."""
    dual = dual_point(problem, alpha, jnp.zeros_like(problem.tolerance))
    vectors = alpha > 1e-7
    errors = jnp.where(vectors, problem.targets - dual.scores, 0)
    intercept = errors.sum() / jnp.maximum(vectors.sum(dtype=errors.dtype), 1)
    return certify_hinge(problem, dual, intercept, jnp.zeros((), int))
