"""The bounds on gaps, their penalty and their price: what `_linear` solves exactly.

Every method needs `argmin` of a quadratic plus `sum_k psi_k(<u_k, w>)`, psi the penalty
with its bound; `resolve` finds it by the few multipliers, and `penalty` charges the
certificate for what they miss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .blocks import matmul
from .problem import Metric, Settings


def penalty(
    metric: Metric,
    settings: Settings,
    point: Float[Array, "p *m"],
    multipliers: Float[Array, "k *m"],
) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
    """Value of `sum_k psi_k(<u_k, w>)` and its Fenchel-Young slack at the multipliers.

    `psi(t) = lam t^2` between the bounds. The slack `psi(t) + psi*(mu) - mu t >= 0` is
    what a wrong multiplier costs the certificate. A violated bound is charged at the
    multiplier's price, and with what the way back to it costs beyond that.
    """
    gaps = matmul(metric.directions, point)
    lam, lower, upper = settings.lam[None], settings.lower, settings.upper
    inside = jnp.clip(gaps, lower, upper)
    free = multipliers / jnp.where(lam > 0, 2 * lam, 1)
    bound = jnp.where(multipliers > 0, upper, lower)
    at = jnp.where(lam > 0, jnp.clip(free, lower, upper), bound)
    # Neither bound nor penalty: no price, and psi* is finite at 0 only.
    at = jnp.where(jnp.isfinite(at), at, 0)
    conjugate = multipliers * at - lam * jnp.square(at)
    value = lam * jnp.square(gaps)
    slack = lam * jnp.square(inside) + conjugate - multipliers * inside
    slack = jnp.maximum(slack, 0).sum(axis=0)
    excess = gaps - inside
    charge = jnp.abs((multipliers * excess).sum(axis=0))
    return value.sum(axis=0), slack + charge + way_back(metric, settings, excess)


def way_back(
    metric: Metric, settings: Settings, excess: Float[Array, "k *m"]
) -> Float[Array, "*m"]:
    """What a majoriser of the objective gains on the shortest way to each bound.

    With `H` its Hessian and no slope, `e_k^2 / (2 <u_k, H^-1 u_k>)` for the excess `e`.
    An infeasible point, such as the optimum of another problem that a batch starts
    from, has a low objective and perhaps no multiplier: it must not pass for an
    optimum. One direction at a time, because directions that depend on each other agree
    to rounding only. The metric is at least 10 % of the largest curvature: hence 10.
    """
    rho = metric.ridge_spectrum[:, None] * settings.ridge.reshape(1, -1)
    tiny = jnp.finfo(excess.dtype).tiny
    inverse = 1 / jnp.maximum(10 * metric.spectrum[:, None] + rho, tiny)
    reach = matmul(jnp.square(metric.directions), inverse).reshape(excess.shape)
    return (jnp.square(excess) / (2 * jnp.maximum(reach, tiny))).sum(axis=0)


def slack_of_residual(
    residual: Float[Array, "p *m"], rho: Float[Array, "p *m"], point: Array
) -> Float[Array, "*m"]:
    """What a gradient residual costs the certificate.

    The conjugate of the ridge gives `r^2 / (2 rho)` per coordinate. A coordinate that
    ridge hardly sees (the intercept, a column of scale 1e6) would turn rounding into an
    infinite price, so the bound is over models within `radius` of this one in every
    whitened coordinate: `radius` times the residual. At an exact solution both are 0.
    """
    radius = 2 * jnp.abs(point).max(axis=0, keepdims=True) + 1
    size = jnp.abs(residual)
    quadratic = jnp.square(size) / jnp.where(rho > 0, 2 * rho, 1)
    linear = radius * size - rho * jnp.square(radius) / 2
    return jnp.where(size <= rho * radius, quadratic, linear).sum(axis=0)


def resolve(
    curvature: Float[Array, "k k"],
    gaps: Float[Array, " k"],
    multipliers: Float[Array, " k"],
    settings: Settings,
) -> Float[Array, " k"]:
    """Multipliers of `argmin 1/2 |w - v|_H^2 + sum_k psi_k(<u_k, w>)`.

    `gaps` are those of the minimiser under the multipliers given; others move them by
    `-curvature` times the change, `curvature = U H^-1 U'`. Given the other multipliers,
    `<u_k, w>` is a clipped, shrunk number: closed form for one direction, coordinate
    descent for more. Changes, not values, are computed: near a solution they are tiny,
    and so is their rounding.
    """
    lower, upper, lam = settings.lower, settings.upper, settings.lam
    own = jnp.diag(curvature)
    live = own > 0

    def update(k, carry):
        mu, gaps = carry
        free = gaps[k] + own[k] * mu[k]
        gap = jnp.clip(free / (1 + 2 * lam * own[k]), lower[k], upper[k])
        change = jnp.where(live[k], (gaps[k] - gap) / jnp.where(live[k], own[k], 1), 0)
        # Inside the bounds and without penalty there is no price, to the last bit.
        inert = (lam == 0) & (lower[k] <= free) & (free <= upper[k])
        change = jnp.where(inert & live[k], -mu[k], change)
        return mu.at[k].add(change), gaps - curvature[k] * change

    n_directions = gaps.shape[0]
    if n_directions == 1:
        return update(0, (multipliers, gaps))[0]

    def sweep(carry):
        (mu, gaps), _, count = carry
        new = jax.lax.fori_loop(0, n_directions, update, (mu, gaps))
        return new, jnp.abs(own * (new[0] - mu)).max(), count + 1

    def unsettled(carry):
        _, change, count = carry
        eps = jnp.finfo(gaps.dtype).eps
        return (change > eps * jnp.abs(gaps).max()) & (count < 200)

    start = ((multipliers, gaps), jnp.asarray(jnp.inf, gaps.dtype), jnp.int32(0))
    return jax.lax.while_loop(unsettled, sweep, start)[0][0]


def resolve_exactly(
    curvature: Float[Array, "k k"],
    gaps: Float[Array, " k"],
    multipliers: Float[Array, " k"],
    settings: Settings,
) -> Float[Array, " k"]:
    """`resolve`, then the linear system of the bounds and penalties it found active.

    Coordinate descent is slow where directions depend on each other and curvatures are
    far apart, as they are under second-order models; their few equations are not.
    """
    found = resolve(curvature, gaps, multipliers, settings)
    if gaps.shape[0] < 2:
        return found
    lam = settings.lam
    own = jnp.diag(curvature)

    def step(mu):
        at = gaps - curvature @ (mu - multipliers)
        free = (at + own * mu) / (1 + 2 * lam * own)
        bounded = (free <= settings.lower) | (free >= settings.upper)
        bound = jnp.clip(free, settings.lower, settings.upper)
        priced = (lam > 0) & ~bounded
        compliance = jnp.where(priced, 1 / jnp.where(lam > 0, 2 * lam, 1), 0)
        active = (bounded | priced) & (own > 0)
        miss = jnp.where(active, at - jnp.where(priced, compliance * mu, bound), 0)
        both = active[:, None] & active[None, :]
        system = jnp.where(both, curvature + jnp.diag(compliance), 0)
        values, vectors = jnp.linalg.eigh(system)
        eps = 10 * gaps.shape[0] * jnp.finfo(gaps.dtype).eps
        keep = values > eps * jnp.abs(values).max()
        change = (vectors.T @ miss) * jnp.where(keep, 1 / jnp.where(keep, values, 1), 0)
        return mu + vectors @ change, jnp.abs(miss).max()

    def better(_, carry):
        mu, best, least = carry
        new, miss = step(mu)
        best = jnp.where(miss < least, mu, best)
        return new, best, jnp.fmin(miss, least)

    most = jnp.asarray(jnp.inf, gaps.dtype)
    return jax.lax.fori_loop(0, 8, better, (found, found, most))[1]
