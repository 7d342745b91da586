"""Which duals of a support vector machine are at a bound, and what follows from it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from .dual import Dual, Problem, Solution, certified, derived, half_norm


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


def on_some(
    problem: Problem,
    faces: Faces,
    intercept: Float[Array, ""],
    centre: Dual,
    sigma: Float[Array, ""],
) -> tuple[Dual, Array]:
    """`on_faces` with a system not much larger than the free samples are many."""
    sizes = [problem.labels.shape[0]]
    while sizes[0] > 256:
        sizes.insert(0, 2 * sizes[0] // 3)
    rank = jnp.searchsorted(jnp.array(sizes), faces.free.sum())
    branches = [functools.partial(on_faces, problem, size) for size in sizes]
    return jax.lax.switch(rank, branches, faces, intercept, centre, sigma)


def on_faces(
    problem: Problem,
    size: int,
    faces: Faces,
    intercept: Float[Array, ""],
    centre: Dual,
    sigma: Float[Array, ""],
) -> tuple[Dual, Array]:
    """Margins of free samples are 1 and gaps that bind are at their bounds.

    But for `sigma` times what their duals move away from `centre`: samples that
    coincide make the system singular, and roundings a little indefinite.
    """
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
    easy = sigma_of_mus(problem, sigma)
    eases = jnp.where(jnp.arange(len(kept)) < size, sigma, easy)
    system += jnp.diag(jnp.where(kept, eases, 1))
    bounds = jnp.where(jnp.isinf(problem.tolerance), 0, problem.tolerance)
    aims = problem.targets + sigma * problem.labels * centre.alpha
    right = jnp.concatenate(
        [
            (aims - product(problem.kernel, fixed))[rows],
            faces.signs * bounds - easy * centre.mu - product(problem.across, fixed),
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
    signed = fixed.at[rows].add(values[:size])
    return derived(problem, problem.labels * signed, -values[size:]), intercept


def sigma_of_mus(problem: Problem, sigma: Float[Array, ""]) -> Float[Array, ""]:
    """A mu may be as large as all alphas together."""
    mass = problem.bound.sum()
    return sigma * problem.bound.max() / jnp.where(mass > 0, mass, 1)


def feasible(problem: Problem, dual: Dual) -> Dual:
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


def free_intercept(problem: Problem, dual: Dual) -> Float[Array, ""]:
    """Mean over free vectors; without any, the middle of the optimal interval."""
    errors = problem.targets - dual.scores
    inside = (dual.alpha > 1e-9 * problem.bound) & (
        dual.alpha < (1 - 1e-9) * problem.bound
    )
    count = inside.sum().astype(errors.dtype)
    mean = jnp.where(inside, errors, 0).sum() / jnp.maximum(count, 1)
    up, down = movable(problem, dual.alpha)
    low = jnp.where(up, errors, -jnp.inf).max()
    high = jnp.where(down, errors, jnp.inf).min()
    low = jnp.where(jnp.isfinite(low), low, high)
    high = jnp.where(jnp.isfinite(high), high, low)
    middle = jnp.where(jnp.isfinite(low), (low + high) / 2, 0)
    return jnp.where(count > 0, mean, middle)


def movable(problem: Problem, alpha: Float[Array, " n"]) -> tuple[Array, Array]:
    """Whose `y alpha` may grow, and whose may fall."""
    below, above = alpha < problem.bound, (alpha > 0) & (problem.bound > 0)
    positive = problem.labels > 0
    return jnp.where(positive, below, above), jnp.where(positive, above, below)
