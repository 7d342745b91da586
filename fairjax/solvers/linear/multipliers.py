"""Multipliers of the bounds on gaps and of their penalty, exact in every step.

Every method minimises a quadratic plus `sum_k psi_k(<u_k, w>)`, psi the penalty within
its bounds. The minimiser is known once the few multipliers are: `coordinate_descent`
finds them for batched steps, `active_set` refines them for second-order steps, whose
curvatures are far apart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .problem import Settings


def coordinate_descent(
    curvature: Float[Array, "k k"],
    gaps: Float[Array, " k"],
    multipliers: Float[Array, " k"],
    settings: Settings,
) -> Float[Array, " k"]:
    """Multipliers of `argmin 1/2 |w - v|_H^2 + sum_k psi_k(<u_k, w>)`.

    Given the other multipliers, `<u_k, w>` is a clipped, shrunk number: closed form for
    one direction, coordinate descent for more. Changes, not values, are computed: near
    a solution they are tiny, and so is their rounding.

    Args:
        curvature: `U H^-1 U'`; a change of the multipliers moves the gaps by minus
            `curvature` times it.
        gaps: of the minimiser under `multipliers`.
        multipliers: the start.
        settings: bounds and penalty of one configuration.
    """
    lower, upper, lam = settings.lower, settings.upper, settings.lam
    diagonal = jnp.diag(curvature)
    nonzero = diagonal > 0

    def update(k, carry):
        mu, gaps = carry
        free = gaps[k] + diagonal[k] * mu[k]
        gap = jnp.clip(free / (1 + 2 * lam * diagonal[k]), lower[k], upper[k])
        divisor = jnp.where(nonzero[k], diagonal[k], 1)
        change = jnp.where(nonzero[k], (gaps[k] - gap) / divisor, 0)
        # Inside the bounds and without penalty the multiplier is 0, to the last bit.
        inactive = (lam == 0) & (lower[k] <= free) & (free <= upper[k])
        change = jnp.where(inactive & nonzero[k], -mu[k], change)
        return mu.at[k].add(change), gaps - curvature[k] * change

    n_directions = gaps.shape[0]
    if n_directions == 1:
        return update(0, (multipliers, gaps))[0]

    def sweep(carry):
        (mu, gaps), _, count = carry
        new = jax.lax.fori_loop(0, n_directions, update, (mu, gaps))
        return new, jnp.abs(diagonal * (new[0] - mu)).max(), count + 1

    def unconverged(carry):
        _, change, count = carry
        eps = jnp.finfo(gaps.dtype).eps
        return (change > eps * jnp.abs(gaps).max()) & (count < 200)

    start = ((multipliers, gaps), jnp.asarray(jnp.inf, gaps.dtype), jnp.int32(0))
    return jax.lax.while_loop(unconverged, sweep, start)[0][0]


def coordinate_descent_batch(
    curvature: Float[Array, "k k m"],
    gaps: Float[Array, "k m"],
    multipliers: Float[Array, "k m"],
    settings: Settings,
) -> Float[Array, "k m"]:
    """Multipliers of every configuration, which lie along the last axis."""
    return jax.vmap(coordinate_descent, in_axes=-1, out_axes=-1)(
        curvature, gaps, multipliers, settings
    )


def active_set(
    curvature: Float[Array, "k k"],
    gaps: Float[Array, " k"],
    multipliers: Float[Array, " k"],
    settings: Settings,
) -> Float[Array, " k"]:
    """Multipliers by coordinate descent, then by the equations of the active bounds.

    Coordinate descent alone is slow where directions depend on each other and
    curvatures are far apart, as they are under second-order models. Arguments are those
    of `coordinate_descent`; the best of eight Newton steps is kept.
    """
    start = coordinate_descent(curvature, gaps, multipliers, settings)
    if gaps.shape[0] < 2:
        return start
    lam = settings.lam
    diagonal = jnp.diag(curvature)

    def step(mu):
        moved = gaps - curvature @ (mu - multipliers)
        free = (moved + diagonal * mu) / (1 + 2 * lam * diagonal)
        bounded = (free <= settings.lower) | (free >= settings.upper)
        bound = jnp.clip(free, settings.lower, settings.upper)
        penalised = (lam > 0) & ~bounded
        compliance = jnp.where(penalised, 1 / jnp.where(lam > 0, 2 * lam, 1), 0)
        active = (bounded | penalised) & (diagonal > 0)
        wanted = jnp.where(penalised, compliance * mu, bound)
        residual = jnp.where(active, moved - wanted, 0)
        both = active[:, None] & active[None, :]
        system = jnp.where(both, curvature + jnp.diag(compliance), 0)
        values, vectors = jnp.linalg.eigh(system)
        eps = 10 * gaps.shape[0] * jnp.finfo(gaps.dtype).eps
        keep = values > eps * jnp.abs(values).max()
        change = (vectors.T @ residual) * jnp.where(
            keep, 1 / jnp.where(keep, values, 1), 0
        )
        return mu + vectors @ change, jnp.abs(residual).max()

    def keep_best(_, carry):
        mu, best, smallest = carry
        new, residual = step(mu)
        best = jnp.where(residual < smallest, mu, best)
        return new, best, jnp.fmin(residual, smallest)

    infinity = jnp.asarray(jnp.inf, gaps.dtype)
    return jax.lax.fori_loop(0, 8, keep_best, (start, start, infinity))[1]
