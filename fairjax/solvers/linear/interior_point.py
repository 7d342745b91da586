"""The interior point method for the hinge: one configuration at a time.

Primal and dual variables move together, so that the certificate is exact at every step:
the dual variables `alpha` are the dual point, and `certificate.hinge_slack` its price.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .blocks import moment
from .certificate import certify, hinge_slack
from .newton import newton_step
from .problem import Settings, State, select
from .whitening import WhitenedData, ridge_diagonal, ridge_gradient


class Iterate(NamedTuple):
    """Iterate of the interior point method.

    Attributes:
        point: whitened coordinates.
        multipliers: of the constraint.
        alpha: dual variable in (0, 1) of each sample.
        rest: `1 - alpha`, kept apart for precision.
        surplus: margin above 1, positive.
        shortfall: margin below 1, positive.
    """

    point: Float[Array, " p"]
    multipliers: Float[Array, " k"]
    alpha: Float[Array, "blocks rows"]
    rest: Float[Array, "blocks rows"]
    surplus: Float[Array, "blocks rows"]
    shortfall: Float[Array, "blocks rows"]


def interior_point(
    data: WhitenedData,
    settings: Settings,
    start: State,
    *,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> State:
    """The best point of Mehrotra's predictor-corrector for one configuration.

    The hinge is `max_{0 <= alpha <= 1} alpha (1 - y f)`; margins split as `y f - 1 =
    surplus - shortfall`, and the barrier asks `alpha surplus = nu`, `(1 - alpha)
    shortfall = nu` while nu falls to 0. Eliminating all but the coefficients leaves one
    p x p system per step (Ferris and Munson, 2002). `alpha` is a dual point, so the gap
    is exact at every step. Weights of samples near the margin grow like 1 / nu and
    would drown the ridge in rounding; a proximal term on alpha bounds them by 1 / delta
    (Friedlander and Orban, 2012), which leaves the split to correct.
    """
    metric, rows = data.metric, data.rows
    rho = ridge_diagonal(metric, settings)
    dtype = rho.dtype
    eps = jnp.finfo(dtype).eps
    signs, mass = 2 * rows.labels - 1, rows.mass
    positive = mass > 0
    delta = 16 * jnp.sqrt(eps)

    def loss_gradient(alpha):
        return -jnp.einsum(
            "brp,br->p", rows.design, mass * signs * alpha, precision="highest"
        )

    def body(carry):
        count, x, best = carry
        margins = signs * (rows.design @ x.point)
        objective, gap = certify(
            metric,
            settings,
            x.point,
            x.multipliers,
            (mass * jnp.maximum(1 - margins, 0)).sum(),
            loss_gradient(x.alpha),
            loss_slack=(mass * hinge_slack(margins, x.alpha, x.rest)).sum(),
        )
        current = State(
            x.point, x.multipliers, objective, gap, count, gap <= precision * objective
        )
        best = select(gap < best.gap, current, best)

        ridge = ridge_gradient(metric, settings, x.point)
        weight = 1 / (x.surplus / x.alpha + x.shortfall / x.rest + delta)
        split = margins - 1 + x.shortfall - x.surplus
        hessian = moment(rows.design, mass * weight, devices=rows.devices)
        damping = eps * jnp.trace(hessian)

        def direction(right_surplus, right_shortfall):
            q = right_surplus / x.alpha - right_shortfall / x.rest - split
            gradient = ridge + loss_gradient(x.alpha + weight * q)
            move, multipliers = newton_step(
                data,
                settings,
                hessian,
                rho,
                gradient,
                x.point,
                x.multipliers,
                damping=damping,
            )
            moves = signs * (rows.design @ move)
            d_alpha = weight * (q - moves)
            d_surplus = (right_surplus - x.surplus * d_alpha) / x.alpha
            d_shortfall = (right_shortfall + x.shortfall * d_alpha) / x.rest
            return Iterate(
                move,
                multipliers - x.multipliers,
                d_alpha,
                -d_alpha,
                d_surplus,
                d_shortfall,
            )

        def max_step(d):
            def bound(value, change):
                ratio = jnp.where(
                    positive & (change < 0),
                    -value / jnp.where(change < 0, change, -1),
                    jnp.inf,
                )
                return ratio.min()

            bounds = jax.tree.map(bound, x[2:], d[2:])
            return jnp.minimum(jnp.stack(bounds).min(), 1)

        def complementarity(z):
            return (mass * (z.alpha * z.surplus + z.rest * z.shortfall)).sum() / 2

        nu = complementarity(x)
        affine = direction(-x.alpha * x.surplus, -x.rest * x.shortfall)
        length = max_step(affine)
        predicted = jax.tree.map(lambda a, b: a + length * b, x, affine)
        target = nu * jnp.clip(complementarity(predicted) / nu, 0, 1) ** 3
        # Below the floor, rounding in the weights outgrows the gain: only centre.
        floor = precision * objective / 10
        correct = jnp.where(target > floor, 1, 0)
        target = jnp.maximum(target, floor)
        d = direction(
            target - x.alpha * x.surplus - correct * affine.alpha * affine.surplus,
            target - x.rest * x.shortfall - correct * affine.rest * affine.shortfall,
        )
        length = jnp.minimum(max_step(d) * 0.995, 1)
        new = jax.tree.map(lambda a, b: a + length * b, x, d)
        tiny = jnp.finfo(dtype).tiny ** 0.5
        new = Iterate(
            *new[:2],
            *(jnp.where(positive, jnp.maximum(a, tiny), 1) for a in new[2:]),
        )
        finite = jnp.stack([jnp.isfinite(a).all() for a in new]).all()
        count = jnp.where(finite, count + 1, max_iterations)
        return count, new, best._replace(iterations=current.iterations)

    def unfinished(carry):
        count, _, best = carry
        return (count < max_iterations) & ~best.converged

    half = jnp.full_like(mass, 0.5)
    margins = signs * (rows.design @ start.point)
    surplus = jnp.maximum(margins - 1, 0) + 1
    shortfall = surplus - (margins - 1)
    x = Iterate(start.point, start.multipliers, half, half, surplus, shortfall)
    first = (jnp.int32(0), x, start._replace(gap=jnp.full_like(start.gap, jnp.inf)))
    return jax.lax.while_loop(unfinished, body, first)[-1]
