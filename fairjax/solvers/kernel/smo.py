"""Sequential minimal optimisation: the best pair of alphas, then one mu."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .active_set import movable
from .dual import Dual, Problem


def pairs(
    problem: Problem, dual: Dual, ease: Float[Array, ""], limit: Int[Array, ""]
) -> tuple[Dual, Array]:
    """Moves pairs of alphas until no margin is wrong by more than `ease`."""
    y, bound = problem.labels, problem.bound
    product = functools.partial(jnp.matmul, precision="highest")
    n_gaps = problem.gram.shape[0]
    diagonal = jnp.diagonal(problem.kernel)
    tiny = 1e-12 * diagonal.max()
    # Gaps with tolerance 0 stay 0 while pairs move: the kernel without these u_k.
    binds = problem.tolerance == 0
    inverse = jnp.where(binds[:, None] & binds[None, :], problem.gram, 0)
    if n_gaps:
        inverse = jnp.linalg.pinv(inverse, rtol=1e-10, hermitian=True)
    answers = product(inverse, problem.across)
    diagonal = diagonal - (problem.across * answers).sum(axis=0)

    def row(i: Int[Array, ""]) -> Float[Array, " n"]:
        return problem.kernel[i] - product(answers[:, i], problem.across)

    def move(state: tuple) -> tuple:
        count, dual, _, steps = state
        errors = problem.targets - dual.scores
        up, down = movable(problem, dual.alpha)
        highest, i = _largest(jnp.where(up, errors, -jnp.inf))
        slack = highest - errors
        first = row(i)
        curvature = jnp.maximum(diagonal[i] + diagonal - 2 * first, tiny)
        gain = jnp.where(down & (slack > 0), jnp.square(slack) / curvature, -jnp.inf)
        _, j = _largest(gain)
        worst = jnp.where(down, slack, -jnp.inf).max()
        wrong = jnp.isfinite(highest) & (worst > 0)
        rooms = [
            jnp.where(y[i] > 0, bound[i] - dual.alpha[i], dual.alpha[i]),
            jnp.where(y[j] > 0, dual.alpha[j], bound[j] - dual.alpha[j]),
        ]
        step = jnp.minimum(slack[j] / curvature[j], jnp.minimum(*rooms))
        step = jnp.where(wrong, step, 0)
        alpha = dual.alpha
        for at, way, room in ((i, 1, rooms[0]), (j, -1, rooms[1])):
            # Exactly at the bound, not nearly.
            end = jnp.where(y[at] * way > 0, bound[at], 0)
            new = jnp.where(step >= room, end, alpha[at] + way * y[at] * step)
            alpha = alpha.at[at].set(jnp.where(wrong, new, alpha[at]))
        scores = dual.scores + step * (first - row(j))
        answer = step * (answers[:, i] - answers[:, j])
        gaps = dual.gaps + step * (problem.across[:, i] - problem.across[:, j])
        gaps -= product(problem.gram, answer)
        viol = jnp.where(wrong, worst, 0)
        mu = dual.mu + answer
        if n_gaps:
            k = count % n_gaps
            shrunk = _soft(mu[k] + gaps[k], problem.tolerance[k])
            change = jnp.where(problem.gram[k, k] > 0, shrunk - mu[k], 0)
            mu = mu.at[k].add(change)
            scores -= change * problem.across[k]
            gaps -= change * problem.gram[k]
            steps = steps.at[k].set(jnp.abs(change))
            viol = jnp.maximum(viol, steps.max())
        return count + 1, Dual(alpha, mu, scores, gaps), viol, steps

    def unfinished(state: tuple) -> Array:
        return (state[0] < limit) & (state[2] > ease)

    infinite = jnp.asarray(jnp.inf, y.dtype)
    state = (jnp.zeros((), int), dual, infinite, jnp.full(n_gaps, jnp.inf, y.dtype))
    count, dual, _, _ = jax.lax.while_loop(unfinished, move, state)
    return dual, count


def _largest(values: Float[Array, " n"]) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Maximum and its first place; on CPUs `argmax` takes three times as long."""
    n, lanes = values.shape[0], 64
    padded = jnp.pad(values, (0, -n % lanes), constant_values=-jnp.inf)
    padded = padded.reshape(-1, lanes)
    places = jnp.arange(padded.size).reshape(-1, lanes)
    top = padded.max(axis=0).max()
    return top, jnp.where(padded == top, places, n - 1).min(axis=0).min()


def _soft(value: Float[Array, ""], threshold: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.sign(value) * jnp.maximum(jnp.abs(value) - threshold, 0)
