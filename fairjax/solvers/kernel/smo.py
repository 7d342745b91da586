"""Sequential minimal optimisation: the best pair of alphas, then one mu."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .active_set import up_and_down_sets
from .problem import Dual, Problem


def move_pairs(
    problem: Problem,
    dual: Dual,
    margin_tolerance: Float[Array, ""],
    limit: Int[Array, ""],
) -> tuple[Dual, Array]:
    """Moves pairs of alphas until no margin is violated by more than a tolerance.

    Returns:
        The dual point and the number of moves, at most `limit`.
    """
    y, upper_bound = problem.labels, problem.upper_bound
    product = functools.partial(jnp.matmul, precision="highest")
    n_gaps = problem.gram.shape[0]
    diagonal = jnp.diagonal(problem.kernel)
    tiny = 1e-12 * diagonal.max()
    # Gaps with tolerance 0 stay 0 while pairs move: the kernel is projected.
    equality = problem.tolerance == 0
    inverse = jnp.where(equality[:, None] & equality[None, :], problem.gram, 0)
    if n_gaps:
        inverse = jnp.linalg.pinv(inverse, rtol=1e-10, hermitian=True)
    responses = product(inverse, problem.cross)
    diagonal = diagonal - (problem.cross * responses).sum(axis=0)

    def row(i: Int[Array, ""]) -> Float[Array, " n"]:
        return problem.kernel[i] - product(responses[:, i], problem.cross)

    def move(state: tuple) -> tuple:
        count, dual, _, mu_steps = state
        errors = problem.targets - dual.scores
        up, down = up_and_down_sets(problem, dual.alpha)
        highest, i = _argmax(jnp.where(up, errors, -jnp.inf))
        violation = highest - errors
        first = row(i)
        curvature = jnp.maximum(diagonal[i] + diagonal - 2 * first, tiny)
        gain = jnp.square(violation) / curvature
        _, j = _argmax(jnp.where(down & (violation > 0), gain, -jnp.inf))
        worst = jnp.where(down, violation, -jnp.inf).max()
        violated = jnp.isfinite(highest) & (worst > 0)
        distances = [
            jnp.where(y[i] > 0, upper_bound[i] - dual.alpha[i], dual.alpha[i]),
            jnp.where(y[j] > 0, dual.alpha[j], upper_bound[j] - dual.alpha[j]),
        ]
        step = jnp.minimum(violation[j] / curvature[j], jnp.minimum(*distances))
        step = jnp.where(violated, step, 0)
        alpha = dual.alpha
        for at, sign, distance in ((i, 1, distances[0]), (j, -1, distances[1])):
            # Exactly at the bound, not nearly.
            at_bound = jnp.where(y[at] * sign > 0, upper_bound[at], 0)
            new = jnp.where(step >= distance, at_bound, alpha[at] + sign * y[at] * step)
            alpha = alpha.at[at].set(jnp.where(violated, new, alpha[at]))
        scores = dual.scores + step * (first - row(j))
        response = step * (responses[:, i] - responses[:, j])
        gaps = dual.gaps + step * (problem.cross[:, i] - problem.cross[:, j])
        gaps -= product(problem.gram, response)
        residual = jnp.where(violated, worst, 0)
        mu = dual.mu + response
        if n_gaps:
            k = count % n_gaps
            new_mu = _soft_threshold(mu[k] + gaps[k], problem.tolerance[k])
            change = jnp.where(problem.gram[k, k] > 0, new_mu - mu[k], 0)
            mu = mu.at[k].add(change)
            scores -= change * problem.cross[k]
            gaps -= change * problem.gram[k]
            mu_steps = mu_steps.at[k].set(jnp.abs(change))
            residual = jnp.maximum(residual, mu_steps.max())
        return count + 1, Dual(alpha, mu, scores, gaps), residual, mu_steps

    def unfinished(state: tuple) -> Array:
        return (state[0] < limit) & (state[2] > margin_tolerance)

    infinite = jnp.asarray(jnp.inf, y.dtype)
    state = (jnp.zeros((), int), dual, infinite, jnp.full(n_gaps, jnp.inf, y.dtype))
    count, dual, _, _ = jax.lax.while_loop(unfinished, move, state)
    return dual, count


def _argmax(values: Float[Array, " n"]) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Maximum and its first index; on CPUs `argmax` takes three times as long."""
    n, lanes = values.shape[0], 64
    padded = jnp.pad(values, (0, -n % lanes), constant_values=-jnp.inf)
    padded = padded.reshape(-1, lanes)
    indices = jnp.arange(padded.size).reshape(-1, lanes)
    top = padded.max(axis=0).max()
    return top, jnp.where(padded == top, indices, n - 1).min(axis=0).min()


def _soft_threshold(
    value: Float[Array, ""], threshold: Float[Array, ""]
) -> Float[Array, ""]:
    return jnp.sign(value) * jnp.maximum(jnp.abs(value) - threshold, 0)
