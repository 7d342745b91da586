"""The certificate of every solver: the objective, and a bound on how far it can fall.

A gradient of the risk is `X'` times a dual point, and the multipliers of the
constraint are the rest of it. The duality gap is the sum of the Fenchel-Young slacks
of the three terms, each at least 0 and 0 at the optimum:

- *loss*: 0 for a smooth loss, whose slopes are the dual point; the hinge's dual
  variables are the solver's own, and `hinge_slack` is their price;
- *ridge*: `dual_slack` of the residual `gradient + ridge w + U'mu`;
- *bounds and penalty*: `fairness_value_and_slack`, with `feasibility_cost` for a
  point that exceeds a bound.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .blocks import matmul
from .problem import Settings
from .whitening import Metric, ridge_diagonal, ridge_gradient


def certify(
    metric: Metric,
    settings: Settings,
    point: Float[Array, "p *m"],
    multipliers: Float[Array, "k *m"],
    risk: Float[Array, "*m"],
    gradient: Float[Array, "p *m"],
    *,
    loss_slack: Array | float = 0.0,
) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
    """The objective at a point and its duality gap, for one configuration or a batch.

    Args:
        metric: the whitened coordinates of `point`.
        settings: of each configuration.
        point: models in whitened coordinates.
        multipliers: of the bounds and the penalty.
        risk: at `point`.
        gradient: minus `X'` times the dual point; of the risk for a smooth loss.
        loss_slack: Fenchel-Young slack of the loss at the dual point.
    """
    fairness, slack = fairness_value_and_slack(metric, settings, point, multipliers)
    ridge = ridge_gradient(metric, settings, point)
    residual = gradient + ridge + matmul(metric.directions.T, multipliers)
    objective = risk + (ridge * point).sum(axis=0) / 2 + fairness
    gap = dual_slack(residual, ridge_diagonal(metric, settings), point)
    return objective, loss_slack + slack + gap


def hinge_slack(
    margins: Array, alpha: Float[Array, "*n"], rest: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Fenchel-Young slack of the hinge at the dual variables, without cancellation.

    The hinge is `max_{0 <= alpha <= 1} alpha (1 - margin)`.

    Args:
        margins: `y f` of each sample.
        alpha: dual variables.
        rest: `1 - alpha`, kept apart for precision.
    """
    return rest * jnp.maximum(1 - margins, 0) + alpha * jnp.maximum(margins - 1, 0)


def fairness_value_and_slack(
    metric: Metric,
    settings: Settings,
    point: Float[Array, "p *m"],
    multipliers: Float[Array, "k *m"],
) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
    """Value of `sum_k psi_k(<u_k, w>)` and its Fenchel-Young slack at the multipliers.

    `psi(t) = lam t^2` between the bounds. The slack `psi(t) + psi*(mu) - mu t >= 0` is
    the price of a wrong multiplier in the certificate. An exceeded bound is charged at
    the multiplier's price, and with the further cost of becoming feasible.
    """
    gaps = matmul(metric.directions, point)
    lam, lower, upper = settings.lam[None], settings.lower, settings.upper
    clipped = jnp.clip(gaps, lower, upper)
    free = multipliers / jnp.where(lam > 0, 2 * lam, 1)
    bound = jnp.where(multipliers > 0, upper, lower)
    maximiser = jnp.where(lam > 0, jnp.clip(free, lower, upper), bound)
    # Neither bound nor penalty: no price, and psi* is finite at 0 only.
    maximiser = jnp.where(jnp.isfinite(maximiser), maximiser, 0)
    conjugate = multipliers * maximiser - lam * jnp.square(maximiser)
    value = lam * jnp.square(gaps)
    slack = lam * jnp.square(clipped) + conjugate - multipliers * clipped
    slack = jnp.maximum(slack, 0).sum(axis=0)
    excess = gaps - clipped
    charge = jnp.abs((multipliers * excess).sum(axis=0))
    cost = feasibility_cost(metric, settings, excess)
    return value.sum(axis=0), slack + charge + cost


def feasibility_cost(
    metric: Metric, settings: Settings, excess: Float[Array, "k *m"]
) -> Float[Array, "*m"]:
    """Growth of a majoriser of the objective on the shortest way to each bound.

    With `H` its Hessian and no slope, `e_k^2 / (2 <u_k, H^-1 u_k>)` for the excess `e`.
    An infeasible point, such as the optimum of another problem that a batch starts
    from, has a low objective and perhaps no multiplier: it must not pass for an
    optimum. One direction at a time, because directions that depend on each other agree
    to rounding only. The metric is at least 10 % of the largest curvature: hence 10.
    """
    rho = metric.ridge_spectrum[:, None] * settings.ridge.reshape(1, -1)
    tiny = jnp.finfo(excess.dtype).tiny
    inverse = 1 / jnp.maximum(10 * metric.spectrum[:, None] + rho, tiny)
    compliance = matmul(jnp.square(metric.directions), inverse).reshape(excess.shape)
    return (jnp.square(excess) / (2 * jnp.maximum(compliance, tiny))).sum(axis=0)


def dual_slack(
    residual: Float[Array, "p *m"], rho: Float[Array, "p *m"], point: Array
) -> Float[Array, "*m"]:
    """Price of a gradient residual in the certificate.

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
