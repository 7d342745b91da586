"""Kernel machines as pairs of a primal and a dual problem: what their solvers share.

minimise  |w|^2 / 2 + sum_i bound_i loss(<w, phi_i> + b, target_i)
subject to  |<w, u_k>| <= tolerance_k,
with  w = sum_i label_i alpha_i phi_i - sum_k mu_k u_k.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Problem(NamedTuple):
    """One configuration; `u_k` have length 1, or 0 and then constrain nothing.

    Attributes:
        kernel: `<phi_i, phi_j>`.
        across: `<u_k, phi_j>`.
        gram: `<u_k, u_l>`.
        labels: -1 or 1; all 1 where labels are real numbers.
        targets: what the scores are to reach: the labels, or the real ones.
        bound: price of each sample's loss: c times its weight. 0 leaves it out.
        tolerance: bounds on `|<w, u_k>|`.
    """

    kernel: Float[Array, "n n"]
    across: Float[Array, "k n"]
    gram: Float[Array, "k k"]
    labels: Float[Array, " n"]
    targets: Float[Array, " n"]
    bound: Float[Array, " n"]
    tolerance: Float[Array, " k"]


class Dual(NamedTuple):
    """Dual variables, and what the scores are that they make.

    Attributes:
        alpha: of the samples; their coefficients are `labels * alpha`.
        mu: of the bounds on gaps.
        scores: `<w, phi_i>`, without the intercept.
        gaps: `<w, u_k>`.
    """

    alpha: Float[Array, " n"]
    mu: Float[Array, " k"]
    scores: Float[Array, " n"]
    gaps: Float[Array, " k"]


class Solution(NamedTuple):
    """The best point found.

    Attributes:
        dual: what the scores are made of.
        intercept: never penalised.
        objective: of the primal problem.
        gap: relative duality gap.
        error: the larger of the gap and a hundred times the worst violation of a bound
            on a gap of scores, in units of |w|.
        iterations: steps taken.
    """

    dual: Dual
    intercept: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    error: Float[Array, ""]
    iterations: Int[Array, ""]


def derived(
    problem: Problem, alpha: Float[Array, " n"], mu: Float[Array, " k"]
) -> Dual:
    """Dual variables with the scores and gaps that belong to them."""
    product = functools.partial(jnp.matmul, precision="highest")
    signed = problem.labels * alpha
    return Dual(
        alpha,
        mu,
        product(problem.kernel, signed) - product(mu, problem.across),
        product(problem.across, signed) - product(problem.gram, mu),
    )


def half_norm(problem: Problem, dual: Dual) -> Float[Array, ""]:
    """`|w|^2 / 2`."""
    dot = functools.partial(jnp.vdot, precision="highest")
    signed = problem.labels * dual.alpha
    return (dot(signed, dual.scores) - dot(dual.mu, dual.gaps)) / 2


def certified(
    problem: Problem,
    dual: Dual,
    intercept: Float[Array, ""],
    *,
    risk: Float[Array, ""],
    worth: Float[Array, ""],
    iterations: Int[Array, ""],
) -> Solution:
    """A point with its certificate.

    Args:
        problem: what is solved.
        dual: makes the scores.
        intercept: goes with it.
        risk: the losses at these scores, each times its bound.
        worth: dual objective of feasible alphas and this mu, without `tolerance |mu|`.
        iterations: steps so far.
    """
    half = half_norm(problem, dual)
    primal = half + risk
    prices = jnp.where(dual.mu == 0, 0, problem.tolerance * jnp.abs(dual.mu))
    # Where the optimum is 0, such as for labels that are all equal, what is left of it
    # is rounding of the targets.
    floor = 1e-14 * (problem.bound * jnp.square(problem.targets)).sum()
    gap = jnp.abs(primal - worth + prices.sum())
    gap = gap / jnp.where(primal > floor, primal, jnp.where(floor > 0, floor, 1))
    excess = jnp.maximum(jnp.abs(dual.gaps) - problem.tolerance, 0).max(initial=0)
    error = jnp.maximum(gap, 100 * excess / jnp.sqrt(jnp.maximum(2 * half, 1)))
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    return Solution(dual, intercept, primal, gap, error, iterations)
