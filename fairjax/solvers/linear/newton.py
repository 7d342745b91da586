"""Second-order steps: one configuration at a time, for what batched steps leave open.

Newton's method finishes hard configurations of a smooth loss. The hinge goes to a
primal-dual interior point method, and what that leaves open to Newton's on a sequence
of smoother losses. Both build one p x p system per step and solve its constraint
exactly.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .blocks import Data, matmul, moment
from .multipliers import penalty, resolve_exactly, slack_of_residual
from .problem import (
    Model,
    Problem,
    Settings,
    Smooth,
    State,
    choose,
    ridge_slope,
    to_model,
    to_point,
    whiten,
)


def newton_step(
    problem: Problem,
    settings: Settings,
    hessian: Float[Array, "p p"],
    rho: Float[Array, " p"],
    gradient: Float[Array, " p"],
    point: Float[Array, " p"],
    multipliers: Float[Array, " k"],
    *,
    damping: Float[Array, ""],
) -> tuple[Float[Array, " p"], Float[Array, " k"]]:
    """Solves the second-order model, its constraint and penalty exactly."""
    hessian = hessian + jnp.diag(rho + damping)
    factor = jax.scipy.linalg.cho_factor(hessian)

    def solve(right):
        found = jax.scipy.linalg.cho_solve(factor, right)
        # Refined once: the spread of the weights makes the factor inexact.
        return found + jax.scipy.linalg.cho_solve(
            factor, right - matmul(hessian, found)
        )

    directions = problem.metric.directions
    move = solve(-gradient - directions.T @ multipliers)
    if directions.shape[0]:
        reach = solve(directions.T)
        curvature = matmul(directions, reach)
        gaps = directions @ (point + move)
        new = resolve_exactly(
            (curvature + curvature.T) / 2, gaps, multipliers, settings
        )
        move = move - reach @ (new - multipliers)
        multipliers = new
    return move, multipliers


def certify(
    problem: Problem,
    settings: Settings,
    rho: Float[Array, " p"],
    point: Float[Array, " p"],
    multipliers: Float[Array, " k"],
    risk: Float[Array, ""],
    pull: Float[Array, " p"],
    *,
    slack: Array | float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Objective and duality gap; `-pull` is `X'` times the dual point."""
    fairness, complementarity = penalty(problem.metric, settings, point, multipliers)
    ridge = ridge_slope(problem.metric, settings, point)
    residual = pull + ridge + problem.metric.directions.T @ multipliers
    objective = risk + ridge @ point / 2 + fairness
    return objective, slack + complementarity + slack_of_residual(residual, rho, point)


class Pointwise(NamedTuple):
    """A loss at given scores, per sample, with what Newton's method needs of it.

    Attributes:
        risk: the loss itself.
        value: what is minimised: the loss, or its smooth lower bound.
        slope: derivative of `value`, minus the dual point.
        curvature: its second derivative.
        slack: what the dual point costs the certificate, 0 for a smooth loss.
    """

    risk: Float[Array, "blocks rows"]
    value: Float[Array, "blocks rows"]
    slope: Float[Array, "blocks rows"]
    curvature: Float[Array, "blocks rows"]
    slack: Float[Array, "blocks rows"]


def smooth(loss: Smooth, scores: Array, labels: Array) -> Pointwise:
    """A loss that is its own smooth version."""
    value = loss.value(scores, labels)
    return Pointwise(
        value,
        value,
        loss.slope(scores, labels),
        loss.curvature(scores, labels),
        jnp.zeros_like(value),
    )


def smoothed_hinge(width: Array, scores: Array, labels: Array) -> Pointwise:
    """The hinge with its kink rounded over `width` (Nesterov, 2005).

    `max_{0 <= a <= 1} a m - width a^2 / 2` with the shortfall `m = 1 - y f`; the
    maximiser `a` is a dual point of the hinge itself.
    """
    signs = 2 * labels - 1
    short = 1 - signs * scores
    share = jnp.clip(short / width, 0, 1)
    inside = (short > 0) & (short < width)
    risk = jnp.maximum(short, 0)
    return Pointwise(
        risk,
        share * short - width * jnp.square(share) / 2,
        -signs * share,
        jnp.where(inside, 1 / width, 0),
        risk - share * short,
    )


def newton(
    problem: Problem,
    settings: Settings,
    start: State,
    *,
    loss: Smooth | None,
    precision: float,
    max_iterations: int,
) -> State:
    """Damped Newton for one configuration; `loss` None means the hinge.

    The second-order model is solved with its constraint, so iterates stay feasible; the
    step is the best of 1, 1/2, ..., 2^-20, if one decreases the objective. The point
    with the smallest gap is kept.

    Without such a step the model is damped more (Levenberg and Marquardt).

    The hinge is smoothed, less and less: whenever the gap is mostly the smoothing's,
    its width shrinks threefold. The price of a width falls faster than the width,
    because fewer and fewer samples are inside it.
    """
    rho = settings.ridge * problem.metric.ridge_spectrum
    dtype = rho.dtype
    eps = jnp.finfo(dtype).eps
    halvings = 0.5 ** jnp.arange(21, dtype=dtype)
    mass, labels = problem.rows.mass, problem.rows.labels
    across = problem.rows.across

    def pointwise(scores, width):
        if loss is None:
            return smoothed_hinge(width, scores, labels)
        return smooth(loss, scores, labels)

    def objective_along(scores, moves, point, move, width, multipliers):
        def total(step):
            at = point + step * move
            risk = (mass * pointwise(scores + step * moves, width).value).sum()
            fairness, _ = penalty(
                problem.metric, settings, at, jnp.zeros_like(multipliers)
            )
            gaps = problem.metric.directions @ at
            # A start outside the bounds by rounding must be free to come back.
            excess = jnp.abs(gaps - jnp.clip(gaps, settings.lower, settings.upper))
            fairness = fairness + 2 * jnp.abs(multipliers) @ excess
            return risk + ridge_slope(problem.metric, settings, at) @ at / 2 + fairness

        return jax.lax.map(total, jnp.concatenate([jnp.zeros(1, dtype), halvings]))

    def body(carry):
        count, point, multipliers, width, damping, best = carry
        scores = problem.rows.design @ point
        at = pointwise(scores, width)
        pull = jnp.einsum(
            "brp,br->p", problem.rows.design, mass * at.slope, precision="highest"
        )
        slack = (mass * at.slack).sum()
        objective, gap = certify(
            problem,
            settings,
            rho,
            point,
            multipliers,
            (mass * at.risk).sum(),
            pull,
            slack=slack,
        )
        here = State(
            point,
            multipliers,
            objective,
            gap,
            start.iterations + count,
            gap <= precision * objective,
        )
        best = choose(gap < best.gap, here, best)
        gradient = pull + ridge_slope(problem.metric, settings, point)
        hessian = moment(problem.rows.design, mass * at.curvature, across=across)
        move, multipliers = newton_step(
            problem,
            settings,
            hessian,
            rho,
            gradient,
            point,
            multipliers,
            damping=damping * (jnp.trace(hessian) + problem.metric.spectrum.sum()),
        )
        values = objective_along(
            scores, problem.rows.design @ move, point, move, width, multipliers
        )
        noise = 4 * eps * jnp.abs(values[0])
        enough = values[1:].min() <= values[0] + noise
        step = jnp.where(enough, halvings[jnp.argmin(values[1:])], 0)
        new = point + step * move
        good = jnp.isfinite(new).all()
        new = jnp.where(good, new, point)
        stuck = (step == 0) | ~good
        damping = jnp.where(stuck, 100 * damping, jnp.maximum(damping / 100, 10 * eps))
        width = jnp.where(gap <= 2 * slack, width / 3, width)
        best = best._replace(iterations=here.iterations)
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


class Interior(NamedTuple):
    """Iterate of the interior point method.

    Attributes:
        point: whitened coordinates.
        multipliers: of the constraint.
        alpha: share in (0, 1) of the hinge's slope, per sample.
        rest: `1 - alpha`, kept apart for precision.
        over: how far the margin exceeds 1, above 0.
        under: how far it falls short, above 0.
    """

    point: Float[Array, " p"]
    multipliers: Float[Array, " k"]
    alpha: Float[Array, "blocks rows"]
    rest: Float[Array, "blocks rows"]
    over: Float[Array, "blocks rows"]
    under: Float[Array, "blocks rows"]


def interior_point(
    problem: Problem,
    settings: Settings,
    start: State,
    *,
    precision: float,
    max_iterations: int,
) -> State:
    """Mehrotra's predictor-corrector for one configuration of the hinge loss.

    The hinge is `max_{0 <= a <= 1} a (1 - y f)`; margins split as
    `y f - 1 = over - under`, and the barrier asks `alpha over = nu`,
    `(1 - alpha) under = nu` while nu falls to 0. Eliminating all but the coefficients
    leaves one p x p system per step (Ferris and Munson, 2002). `alpha` is a dual point,
    so the gap is exact at every step. Weights of samples near the margin grow like
    1 / nu and would drown the ridge in rounding; a proximal term on alpha bounds them
    by 1 / delta (Friedlander and Orban, 2012), which leaves a split to correct.
    """
    rho = settings.ridge * problem.metric.ridge_spectrum
    dtype = rho.dtype
    eps = jnp.finfo(dtype).eps
    signs = 2 * problem.rows.labels - 1
    mass, across = problem.rows.mass, problem.rows.across
    live = mass > 0
    delta = 16 * jnp.sqrt(eps)

    def pull_of(alpha):
        return -jnp.einsum(
            "brp,br->p", problem.rows.design, mass * signs * alpha, precision="highest"
        )

    def body(carry):
        count, x, best = carry
        margins = signs * (problem.rows.design @ x.point)
        pull = pull_of(x.alpha)
        hinges = jnp.maximum(1 - margins, 0)
        risk = (mass * hinges).sum()
        # Fenchel-Young slack of every sample, in a form without cancellation.
        slack = (mass * (x.rest * hinges + x.alpha * jnp.maximum(margins - 1, 0))).sum()
        objective, gap = certify(
            problem, settings, rho, x.point, x.multipliers, risk, pull, slack=slack
        )
        here = State(
            x.point, x.multipliers, objective, gap, count, gap <= precision * objective
        )
        best = choose(gap < best.gap, here, best)

        ridge = ridge_slope(problem.metric, settings, x.point)
        weight = 1 / (x.over / x.alpha + x.under / x.rest + delta)
        split = margins - 1 + x.under - x.over
        hessian = moment(problem.rows.design, mass * weight, across=across)
        damping = eps * jnp.trace(hessian)

        def direction(right_over, right_under):
            q = right_over / x.alpha - right_under / x.rest - split
            gradient = ridge + pull_of(x.alpha + weight * q)
            move, multipliers = newton_step(
                problem,
                settings,
                hessian,
                rho,
                gradient,
                x.point,
                x.multipliers,
                damping=damping,
            )
            moves = signs * (problem.rows.design @ move)
            d_alpha = weight * (q - moves)
            d_over = (right_over - x.over * d_alpha) / x.alpha
            d_under = (right_under + x.under * d_alpha) / x.rest
            return Interior(
                move, multipliers - x.multipliers, d_alpha, -d_alpha, d_over, d_under
            )

        def longest(d):
            def bound(value, change):
                ratio = jnp.where(
                    live & (change < 0),
                    -value / jnp.where(change < 0, change, -1),
                    jnp.inf,
                )
                return ratio.min()

            bounds = jax.tree.map(bound, x[2:], d[2:])
            return jnp.minimum(jnp.stack(bounds).min(), 1)

        def complementarity(z):
            return (mass * (z.alpha * z.over + z.rest * z.under)).sum() / 2

        nu = complementarity(x)
        affine = direction(-x.alpha * x.over, -x.rest * x.under)
        length = longest(affine)
        ahead = jax.tree.map(lambda a, b: a + length * b, x, affine)
        target = nu * jnp.clip(complementarity(ahead) / nu, 0, 1) ** 3
        # Further down, rounding in the weights outgrows what is gained: only centre.
        floor = precision * objective / 10
        second = jnp.where(target > floor, 1, 0)
        target = jnp.maximum(target, floor)
        d = direction(
            target - x.alpha * x.over - second * affine.alpha * affine.over,
            target - x.rest * x.under - second * affine.rest * affine.under,
        )
        length = jnp.minimum(longest(d) * 0.995, 1)
        new = jax.tree.map(lambda a, b: a + length * b, x, d)
        tiny = jnp.finfo(dtype).tiny ** 0.5
        new = Interior(
            *new[:2],
            *(jnp.where(live, jnp.maximum(a, tiny), 1) for a in new[2:]),
        )
        good = jnp.stack([jnp.isfinite(a).all() for a in new]).all()
        count = jnp.where(good, count + 1, jnp.int32(max_iterations))
        return count, new, best._replace(iterations=here.iterations)

    def unfinished(carry):
        count, _, best = carry
        return (count < max_iterations) & ~best.converged

    half = jnp.full_like(mass, 0.5)
    margins = signs * (problem.rows.design @ start.point)
    over = jnp.maximum(margins - 1, 0) + 1
    under = over - (margins - 1)
    x = Interior(start.point, start.multipliers, half, half, over, under)
    first = (jnp.int32(0), x, start._replace(gap=jnp.full_like(start.gap, jnp.inf)))
    return jax.lax.while_loop(unfinished, body, first)[-1]


def second_order(
    data: Data,
    settings: Settings,
    model: Model,
    state: State,
    *,
    loss: Smooth | None,
    intercept: bool,
    precision: float,
    max_iterations: int,
) -> tuple[Model, State]:
    """Configurations that are still open, one by one; `loss` None means the hinge."""
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    bound = 1.0 if loss is None else loss.bound
    problem = whiten(data, data.mass * bound, centre, intercept=intercept)
    state = state._replace(point=to_point(problem.metric, model, intercept=intercept))

    limits = {"precision": precision, "max_iterations": max_iterations}

    def refine(setting, state):
        finish = functools.partial(newton, problem, setting, loss=loss, **limits)
        if loss is not None:
            return finish(state)
        # Whichever is stopped short by a data set, the other one seldom is.
        found = interior_point(problem, setting, state, **limits)
        return jax.lax.cond(found.converged, lambda found: found, finish, found)

    def one(chosen):
        setting = jax.tree.map(lambda a: a[..., chosen], settings)
        here = jax.tree.map(lambda a: a[..., chosen], state)
        return jax.lax.cond(here.converged, lambda _, here: here, refine, setting, here)

    found = jax.lax.map(one, jnp.arange(settings.ridge.shape[0]))
    found = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), found)
    return to_model(problem.metric, found.point, intercept=intercept), found
