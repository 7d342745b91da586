"""Newton's method, one configuration at a time, where batched steps do not converge.

Each step builds one p x p system and solves its constraint exactly. The hinge, where
the interior point method does not converge either, is a sequence of smoother losses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...erm import SmoothLoss
from .blocks import matmul, moment
from .certificate import certify, fairness_value_and_slack
from .multipliers import active_set
from .problem import Settings, State, select
from .whitening import WhitenedData, ridge_diagonal, ridge_gradient


def newton_step(
    data: WhitenedData,
    settings: Settings,
    hessian: Float[Array, "p p"],
    rho: Float[Array, " p"],
    gradient: Float[Array, " p"],
    point: Float[Array, " p"],
    multipliers: Float[Array, " k"],
    *,
    damping: Float[Array, ""],
) -> tuple[Float[Array, " p"], Float[Array, " k"]]:
    """Step and multipliers of the second-order model's minimum under the constraint."""
    hessian = hessian + jnp.diag(rho + damping)
    factor = jax.scipy.linalg.cho_factor(hessian)

    def solve(right):
        found = jax.scipy.linalg.cho_solve(factor, right)
        # Refined once: the spread of the weights makes the factor inexact.
        residual = right - matmul(hessian, found)
        return found + jax.scipy.linalg.cho_solve(factor, residual)

    directions = data.metric.directions
    move = solve(-gradient - directions.T @ multipliers)
    if directions.shape[0]:
        response = solve(directions.T)
        curvature = matmul(directions, response)
        gaps = directions @ (point + move)
        new = active_set((curvature + curvature.T) / 2, gaps, multipliers, settings)
        move = move - response @ (new - multipliers)
        multipliers = new
    return move, multipliers


class Pointwise(NamedTuple):
    """A loss at given scores, per sample, with its derivatives and dual slack.

    Attributes:
        risk: the loss itself.
        value: the loss to minimise: `risk`, or its smooth lower bound.
        derivative: of `value`; minus the dual point.
        curvature: second derivative of `value`.
        slack: Fenchel-Young slack of the dual point, 0 for a smooth loss.
    """

    risk: Float[Array, "blocks rows"]
    value: Float[Array, "blocks rows"]
    derivative: Float[Array, "blocks rows"]
    curvature: Float[Array, "blocks rows"]
    slack: Float[Array, "blocks rows"]


def evaluate(loss: SmoothLoss, scores: Array, labels: Array) -> Pointwise:
    """A smooth loss at given scores, which needs no smoothing."""
    value = loss.value(scores, labels)
    return Pointwise(
        value,
        value,
        loss.derivative(scores, labels),
        loss.curvature(scores, labels),
        jnp.zeros_like(value),
    )


def smoothed_hinge(width: Array, scores: Array, labels: Array) -> Pointwise:
    """The hinge with its kink smoothed over `width` (Nesterov, 2005).

    `max_{0 <= alpha <= 1} alpha m - width alpha^2 / 2` with the shortfall
    `m = 1 - y f`; the maximiser `alpha` is a dual point of the hinge itself.
    """
    signs = 2 * labels - 1
    shortfall = 1 - signs * scores
    alpha = jnp.clip(shortfall / width, 0, 1)
    inside = (shortfall > 0) & (shortfall < width)
    risk = jnp.maximum(shortfall, 0)
    return Pointwise(
        risk,
        alpha * shortfall - width * jnp.square(alpha) / 2,
        -signs * alpha,
        jnp.where(inside, 1 / width, 0),
        risk - alpha * shortfall,
    )


def newton(
    data: WhitenedData,
    settings: Settings,
    start: State,
    *,
    loss: SmoothLoss | None,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> State:
    """The best point of damped Newton for one configuration; `loss` None is the hinge.

    The second-order model is solved with its constraint, so iterates stay feasible; the
    step is the best of 1, 1/2, ..., 2^-20, if one decreases the objective. The point
    with the smallest gap is kept.

    Without such a step the model is damped more (Levenberg and Marquardt).

    The hinge is smoothed over a width that shrinks threefold whenever the gap is mostly
    the smoothing's. The slack of a width falls faster than the width, because fewer and
    fewer samples are inside it.
    """
    rho = ridge_diagonal(data.metric, settings)
    dtype = rho.dtype
    eps = jnp.finfo(dtype).eps
    halvings = 0.5 ** jnp.arange(21, dtype=dtype)
    metric, rows = data.metric, data.rows
    mass, labels = rows.mass, rows.labels

    def pointwise(scores, width):
        if loss is None:
            return smoothed_hinge(width, scores, labels)
        return evaluate(loss, scores, labels)

    def objective_along(scores, moves, point, move, width, multipliers):
        def total(step):
            new = point + step * move
            risk = (mass * pointwise(scores + step * moves, width).value).sum()
            zero = jnp.zeros_like(multipliers)
            fairness, _ = fairness_value_and_slack(metric, settings, new, zero)
            gaps = metric.directions @ new
            # A start outside the bounds by rounding must be free to come back.
            excess = jnp.abs(gaps - jnp.clip(gaps, settings.lower, settings.upper))
            fairness = fairness + 2 * jnp.abs(multipliers) @ excess
            return risk + ridge_gradient(metric, settings, new) @ new / 2 + fairness

        return jax.lax.map(total, jnp.concatenate([jnp.zeros(1, dtype), halvings]))

    def body(carry):
        count, point, multipliers, width, damping, best = carry
        scores = rows.design @ point
        losses = pointwise(scores, width)
        gradient = jnp.einsum(
            "brp,br->p", rows.design, mass * losses.derivative, precision="highest"
        )
        slack = (mass * losses.slack).sum()
        objective, gap = certify(
            metric,
            settings,
            point,
            multipliers,
            (mass * losses.risk).sum(),
            gradient,
            loss_slack=slack,
        )
        current = State(
            point,
            multipliers,
            objective,
            gap,
            start.iterations + count,
            gap <= precision * objective,
        )
        best = select(gap < best.gap, current, best)
        gradient = gradient + ridge_gradient(metric, settings, point)
        hessian = moment(rows.design, mass * losses.curvature, devices=rows.devices)
        move, multipliers = newton_step(
            data,
            settings,
            hessian,
            rho,
            gradient,
            point,
            multipliers,
            damping=damping * (jnp.trace(hessian) + metric.spectrum.sum()),
        )
        values = objective_along(
            scores, rows.design @ move, point, move, width, multipliers
        )
        noise = 4 * eps * jnp.abs(values[0])
        decreases = values[1:].min() <= values[0] + noise
        step = jnp.where(decreases, halvings[jnp.argmin(values[1:])], 0)
        new = point + step * move
        finite = jnp.isfinite(new).all()
        new = jnp.where(finite, new, point)
        stuck = (step == 0) | ~finite
        damping = jnp.where(stuck, 100 * damping, jnp.maximum(damping / 100, 10 * eps))
        width = jnp.where(gap <= 2 * slack, width / 3, width)
        best = best._replace(iterations=current.iterations)
        return count + 1, new, multipliers, width, damping, best

    def unfinished(carry):
        count, *_, damping, best = carry
        return (count < max_iterations) & (damping < 1) & ~best.converged

    first = (
        jnp.int32(0),
        start.point,
        start.multipliers,
        jnp.asarray(2, dtype),
        jnp.asarray(10 * eps, dtype),
        start._replace(gap=jnp.full_like(start.gap, jnp.inf)),
    )
    return jax.lax.while_loop(unfinished, body, first)[-1]
