"""The dual of a support vector machine whose gaps of mean scores are bounded.

    maximise  sum_i alpha_i - |w|^2 / 2 - sum_k tolerance_k |mu_k|
    with      w = sum_i y_i alpha_i phi_i - sum_k mu_k u_k,
              0 <= alpha_i <= bound_i,  sum_i y_i alpha_i = 0.

Two methods that need each other. Sequential minimal optimisation moves the best pair of
alphas, with a step on one mu after it: cheap, it finds out which alphas are at a bound,
and then crawls. Newton's method on the optimality conditions is exact as soon as that
guess is nearly right, and lost before. So the first runs until Newton's answer proves
itself by its duality gap.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from ._dual import Dual, Problem, Solution, certified, derived, half_norm

_ROUNDS = 10  # of Newton's method before it is given up
_LENGTH = 20  # pairs per sample before its first attempt, at most
_EASE = 0.03  # violation of the margins, below which it comes earlier


class Faces(NamedTuple):
    """A guess of which dual variables are at a bound.

    Attributes:
        free: alphas inside.
        full: alphas at their upper bound.
        signs: of the mus, 0 where the bound on the gap is not reached.
    """

    free: Bool[Array, " n"]
    full: Bool[Array, " n"]
    signs: Float[Array, " k"]


def solve(
    problem: Problem,
    start: Dual,
    *,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> Solution:
    """Solves to a relative duality gap; `start` must be feasible."""
    State = tuple[Dual, Solution, Array, Array]

    def attempt(state: State) -> State:
        dual, best, ease, length = state
        left = jnp.minimum(max_iterations - best.iterations, length)
        dual, moved = _pairs(problem, dual, ease, left)
        reached = moved < length
        dual = derived(problem, dual.alpha, dual.mu)  # without the sum of roundings
        moved = best.iterations + moved
        for own in (
            (dual, _intercept(problem, dual)),
            _newton(problem, dual, _intercept(problem, dual)),
        ):
            found = judged(problem, *own, moved)
            better = found.error < best.error
            best = jax.tree.map(functools.partial(jnp.where, better), found, best)
        # Where pairs crawl, Newton's method has its try all the same, ever later.
        ease = jnp.where(reached, ease / 10, ease)
        length = jnp.where(reached, length, 2 * length)
        return dual, best._replace(iterations=moved), ease, length

    def unfinished(state: State) -> Array:
        _, best, ease, _ = state
        open_ = (best.error > precision) & (ease > 1e-12)
        return open_ & (best.iterations < max_iterations)

    dtype = problem.kernel.dtype
    first = judged(problem, start, _intercept(problem, start), jnp.zeros((), int))
    length = jnp.asarray(_LENGTH * problem.labels.shape[0])
    state = (start, first, jnp.asarray(_EASE, dtype), length)
    return jax.lax.while_loop(unfinished, attempt, state)[1]


def _pairs(
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
        up, down = _movable(problem, dual.alpha)
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


def _newton(
    problem: Problem, dual: Dual, intercept: Float[Array, ""]
) -> tuple[Dual, Array]:
    """Solves the optimality conditions on guessed faces, until these are confirmed."""
    n = problem.labels.shape[0]
    sizes = [n]
    while sizes[0] > 256:
        sizes.insert(0, sizes[0] // 2)

    def again(state: tuple) -> tuple:
        count, dual, intercept, faces, before, _ = state
        rank = jnp.searchsorted(jnp.array(sizes), faces.free.sum())
        branches = [functools.partial(on_faces, problem, size) for size in sizes]
        dual, intercept = jax.lax.switch(rank, branches, faces, intercept)
        new = _faces(problem, dual, intercept)
        changes = sum((a != b).sum() for a, b in zip(faces, new, strict=True))
        # Close to the solution the changes get fewer; else it runs about for ever.
        lost = ~jnp.isfinite(intercept) | (changes >= before)
        return count + 1, dual, intercept, new, changes, (changes == 0) | lost

    def unfinished(state: tuple) -> Array:
        return (state[0] < _ROUNDS) & ~state[-1]

    faces = _faces(problem, dual, intercept)
    zero = jnp.zeros((), int)
    state = (zero, dual, intercept, faces, zero + n, jnp.array(False))
    _, dual, intercept, _, _, _ = jax.lax.while_loop(unfinished, again, state)
    return _feasible(problem, dual), intercept


def _faces(problem: Problem, dual: Dual, intercept: Float[Array, ""]) -> Faces:
    """Where one projected gradient step ends, in units of each bound."""
    scale = jnp.where(problem.bound > 0, problem.bound, 1)
    missing = problem.labels * (problem.targets - dual.scores - intercept)
    moved = dual.alpha / scale + missing
    used, largest = problem.bound > 0, problem.bound.max()
    towards = dual.mu + largest * dual.gaps
    reached = jnp.abs(towards) > largest * problem.tolerance
    reached &= jnp.diagonal(problem.gram) > 0
    return Faces(
        used & (moved > 0) & (moved < 1),
        used & (moved >= 1),
        jnp.where(reached, jnp.sign(towards), 0),
    )


def on_faces(
    problem: Problem, size: int, faces: Faces, intercept: Float[Array, ""]
) -> tuple[Dual, Array]:
    """Margins of free samples are 1 and gaps that bind are at their bounds."""
    n, n_gaps = problem.labels.shape[0], problem.gram.shape[0]
    product = functools.partial(jnp.matmul, precision="highest")
    rows = jnp.nonzero(faces.free, size=size, fill_value=n)[0]
    kept = jnp.concatenate([rows < n, faces.signs != 0])
    rows = jnp.minimum(rows, n - 1)
    fixed = jnp.where(faces.full, problem.labels * problem.bound, 0)
    corner = problem.across[:, rows]
    system = jnp.concatenate(
        [
            jnp.concatenate([problem.kernel[rows][:, rows], corner.T], axis=1),
            jnp.concatenate([corner, problem.gram], axis=1),
        ]
    )
    system = jnp.where(kept[:, None] & kept[None, :], system, 0)
    # Samples that coincide make it singular, and roundings a little indefinite.
    ease = 1e-12 * jnp.diagonal(problem.kernel).max()
    system += jnp.diag(jnp.where(kept, ease, 1))
    bounds = jnp.where(jnp.isinf(problem.tolerance), 0, problem.tolerance)
    right = jnp.concatenate(
        [
            problem.targets[rows] - product(problem.kernel, fixed)[rows],
            faces.signs * bounds - product(problem.across, fixed),
        ]
    )
    ones = jnp.concatenate([jnp.ones_like(right[:size]), jnp.zeros(n_gaps)])
    both = jnp.where(kept[:, None], jnp.stack([ones, right], axis=1), 0)
    found = cho_solve((jnp.linalg.cholesky(system), True), both)
    mass = found[:size, 0].sum()
    some = kept[:size].any()
    total = found[:size, 1].sum() + fixed.sum()
    intercept = jnp.where(some, total / jnp.where(some, mass, 1), intercept)
    values = jnp.where(kept, found[:, 1] - intercept * found[:, 0], 0)
    alpha = problem.labels * fixed.at[rows].add(values[:size])
    return derived(problem, alpha, -values[size:]), intercept


def _feasible(problem: Problem, dual: Dual) -> Dual:
    """Into the bounds, then the heavier class is scaled down to balance."""
    alpha = jnp.clip(dual.alpha, 0, problem.bound)
    positive = problem.labels > 0
    masses = [jnp.where(side, alpha, 0).sum() for side in (positive, ~positive)]
    least = jnp.minimum(*masses)
    ratios = [jnp.where(m > 0, least / jnp.where(m > 0, m, 1), 0) for m in masses]
    return derived(problem, alpha * jnp.where(positive, *ratios), dual.mu)


def judged(
    problem: Problem, dual: Dual, intercept: Float[Array, ""], moved: Int[Array, ""]
) -> Solution:
    """A feasible dual point with its certificate."""
    dot = functools.partial(jnp.vdot, precision="highest")
    errors = problem.targets - dual.scores
    signed = problem.labels * dual.alpha
    lost = jnp.maximum(problem.labels * (errors - intercept), 0)
    return certified(
        problem,
        dual,
        intercept,
        risk=dot(problem.bound, lost),
        worth=dot(signed, problem.targets) - half_norm(problem, dual),
        iterations=moved,
    )


def _intercept(problem: Problem, dual: Dual) -> Float[Array, ""]:
    """Mean over free vectors; without any, the middle of the optimal interval."""
    errors = problem.targets - dual.scores
    inside = (dual.alpha > 1e-9 * problem.bound) & (
        dual.alpha < (1 - 1e-9) * problem.bound
    )
    count = inside.sum().astype(errors.dtype)
    mean = jnp.where(inside, errors, 0).sum() / jnp.maximum(count, 1)
    up, down = _movable(problem, dual.alpha)
    low = jnp.where(up, errors, -jnp.inf).max()
    high = jnp.where(down, errors, jnp.inf).min()
    low = jnp.where(jnp.isfinite(low), low, high)
    high = jnp.where(jnp.isfinite(high), high, low)
    middle = jnp.where(jnp.isfinite(low), (low + high) / 2, 0)
    return jnp.where(count > 0, mean, middle)


def _movable(problem: Problem, alpha: Float[Array, " n"]) -> tuple[Array, Array]:
    """Whose `y alpha` may grow, and whose may fall."""
    below, above = alpha < problem.bound, (alpha > 0) & (problem.bound > 0)
    positive = problem.labels > 0
    return jnp.where(positive, below, above), jnp.where(positive, above, below)


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
