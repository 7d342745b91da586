"""Kernel machines as pairs of a primal and a dual problem, with the duality gap.

minimise  |w|^2 / 2 + sum_i upper_bound_i loss(<w, phi_i> + b, target_i)
subject to  |<w, u_k>| <= tolerance_k,
with  w = sum_i label_i alpha_i phi_i - sum_k mu_k u_k.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Squared length of a direction, relative to the largest value of the kernel: a
# difference of means below it is rounding, and no direction.
_MIN_SQUARED_LENGTH = 1e-14


class Problem(NamedTuple):
    """One configuration; `u_k` have length 1, or 0 and then constrain nothing.

    Attributes:
        kernel: `<phi_i, phi_j>`.
        cross: `<u_k, phi_j>`.
        gram: `<u_k, u_l>`.
        labels: -1 or 1; all 1 where labels are real numbers.
        targets: what the scores are to reach: the labels, or the real ones.
        upper_bound: price of each sample's loss, c times its weight: of the hinge's
            alphas the upper bound. 0 leaves the sample out.
        tolerance: bounds on `|<w, u_k>|`.
    """

    kernel: Float[Array, "n n"]
    cross: Float[Array, "k n"]
    gram: Float[Array, "k k"]
    labels: Float[Array, " n"]
    targets: Float[Array, " n"]
    upper_bound: Float[Array, " n"]
    tolerance: Float[Array, " k"]


class Dual(NamedTuple):
    """Dual variables, and the scores and gaps that they make.

    Attributes:
        alpha: of the samples; their coefficients are `labels * alpha`.
        mu: multipliers of the bounds on gaps.
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
        dual: alphas and multipliers, with their scores.
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


def unit_directions(
    kernel: Float[Array, "n n"], rows: Float[Array, "k n"]
) -> tuple[Float[Array, "k n"], Float[Array, "k k"], Float[Array, " k"]]:
    """`cross` and `gram` of directions of length 1, and their lengths before.

    A direction that is rounding has length 0, and its products are 0. Lengths are
    units only: no derivative goes through them.
    """
    product = functools.partial(jnp.matmul, precision="highest")
    cross = product(rows, kernel)
    gram = product(cross, rows.T)
    squares = jax.lax.stop_gradient(jnp.diagonal(gram))
    largest = jax.lax.stop_gradient(jnp.diagonal(kernel)).max()
    nonzero = squares > _MIN_SQUARED_LENGTH * largest
    lengths = jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squares, 1)), 0)
    units = inverse_lengths(lengths)
    return units[:, None] * cross, units[:, None] * gram * units[None, :], lengths


def inverse_lengths(lengths: Float[Array, " k"]) -> Float[Array, " k"]:
    """`1 / lengths`, and 0 where there is no direction."""
    return jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)


def dual_point(
    problem: Problem, alpha: Float[Array, " n"], mu: Float[Array, " k"]
) -> Dual:
    """Dual variables with the scores and gaps that belong to them."""
    product = functools.partial(jnp.matmul, precision="highest")
    signed = problem.labels * alpha
    return Dual(
        alpha,
        mu,
        product(problem.kernel, signed) - product(mu, problem.cross),
        product(problem.cross, signed) - product(problem.gram, mu),
    )


def inner_product(problem: Problem, dual: Dual, other: Dual) -> Float[Array, ""]:
    """`<w, w'>` of two dual points."""
    dot = functools.partial(jnp.vdot, precision="highest")
    return dot(problem.labels * dual.alpha, other.scores) - dot(dual.mu, other.gaps)


def half_norm(problem: Problem, dual: Dual) -> Float[Array, ""]:
    """`|w|^2 / 2`."""
    return inner_product(problem, dual, dual) / 2


def balance_classes(problem: Problem, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
    """Alphas with `sum_i label_i alpha_i = 0`: the heavier class is scaled down."""
    positive = problem.labels > 0
    masses = [jnp.where(side, alpha, 0).sum() for side in (positive, ~positive)]
    least = jnp.minimum(*masses)
    ratios = [jnp.where(m > 0, least / jnp.where(m > 0, m, 1), 0) for m in masses]
    return alpha * jnp.where(positive, *ratios)


def certify(
    problem: Problem,
    dual: Dual,
    intercept: Float[Array, ""],
    *,
    risk: Float[Array, ""],
    dual_value: Float[Array, ""],
    iterations: Int[Array, ""],
) -> Solution:
    """A point with its duality gap and its violation.

    Args:
        problem: the configuration.
        dual: makes the scores.
        intercept: goes with it.
        risk: the losses at these scores, each times its upper bound.
        dual_value: dual objective of feasible alphas and this mu, without
            `tolerance |mu|`.
        iterations: steps so far.
    """
    half = half_norm(problem, dual)
    primal = half + risk
    slack = jnp.where(dual.mu == 0, 0, problem.tolerance * jnp.abs(dual.mu)).sum()
    # Where the optimum is 0, as for labels that are all equal, the objective is
    # rounding of the targets.
    floor = 1e-14 * (problem.upper_bound * jnp.square(problem.targets)).sum()
    gap = jnp.abs(primal - dual_value + slack)
    gap = gap / jnp.where(primal > floor, primal, jnp.where(floor > 0, floor, 1))
    excess = jnp.maximum(jnp.abs(dual.gaps) - problem.tolerance, 0).max(initial=0)
    error = jnp.maximum(gap, 100 * excess / jnp.sqrt(jnp.maximum(2 * half, 1)))
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    return Solution(dual, intercept, primal, gap, error, iterations)
