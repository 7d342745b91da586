"""Smooth losses: accelerated steps for a whole batch of configurations at once.

Two matrix products per step serve every configuration. Rows are whitened once. A round
fixes a metric, the curvature of the loss averaged over the batch; where the steps led
gives the next one, and the rows stay as they are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .blocks import Data, Rows, matmul, over_blocks, pull_back
from .multipliers import penalty, resolve, slack_of_residual
from .problem import (
    Metric,
    Model,
    Problem,
    Settings,
    Smooth,
    State,
    Turned,
    choose,
    renew,
    ridge_slope,
    to_model,
    whiten,
)

# Steps between certificates, and rounds before a batch is left to second-order steps.
CHECK_EVERY = 8
ROUNDS = 5
# Steps of the first round; more where the metric costs more than these.
FEWEST, MOST = 16, 32


def risk_slope(
    rows: Rows, loss: Smooth, point: Float[Array, "p m"]
) -> Float[Array, "p m"]:
    """Gradient of the risk; cost two matrix products, 4 n p m operations."""

    def block(design, labels, mass):
        scores = matmul(design, point)
        return pull_back(design, mass[:, None] * loss.slope(scores, labels[:, None]))

    return over_blocks(block, rows.design, rows.labels, rows.mass, across=rows.across)


def risk_and_slope(
    rows: Rows, loss: Smooth, point: Float[Array, "p m"]
) -> tuple[Float[Array, " m"], Float[Array, "p m"]]:
    """The risk and its gradient."""

    def block(design, labels, mass):
        scores, labels = matmul(design, point), labels[:, None]
        slopes = mass[:, None] * loss.slope(scores, labels)
        return mass @ loss.value(scores, labels), pull_back(design, slopes)

    return over_blocks(block, rows.design, rows.labels, rows.mass, across=rows.across)


def resolve_batch(
    curvature: Float[Array, "k k m"],
    gaps: Float[Array, "k m"],
    multipliers: Float[Array, "k m"],
    settings: Settings,
) -> Float[Array, "k m"]:
    """`resolve` for every configuration, which lie along the last axis."""
    return jax.vmap(resolve, in_axes=-1, out_axes=-1)(
        curvature, gaps, multipliers, settings
    )


class Steps(NamedTuple):
    """What accelerated steps carry from one to the next.

    Attributes:
        number: steps taken.
        state: where they are.
        best: the point with the smallest gap that was seen.
        previous: the point before that of `state`.
        momentum: steps since each configuration's last restart.
        smoothness: curvature along the steps, relative to the metric.
        least: what `smoothness` must not fall below.
        last: where the last gradient was taken, and that gradient.
    """

    number: Int[Array, ""]
    state: State
    best: State
    previous: Float[Array, "p m"]
    momentum: Float[Array, " m"]
    smoothness: Float[Array, " m"]
    least: Float[Array, " m"]
    last: tuple[Float[Array, "p m"], Float[Array, "p m"]]


def opened(start: State, best: State) -> Steps:
    """Before the first step from `start`."""
    ones = jnp.ones_like(start.objective)
    empty = (jnp.zeros_like(start.point), jnp.zeros_like(start.point))
    return Steps(jnp.int32(0), start, best, start.point, ones, ones, 0.25 * ones, empty)


def certified(
    metric: Metric,
    settings: Settings,
    steps: Steps,
    risk: Float[Array, " m"],
    gradient: Float[Array, "p m"],
    *,
    precision: float | Float[Array, ""],
) -> Steps:
    """Certifies the point where the steps are; `risk` and `gradient` are of it."""
    state = steps.state
    rho = settings.ridge[None] * metric.ridge_spectrum[:, None]
    fairness, slack = penalty(metric, settings, state.point, state.multipliers)
    ridge = ridge_slope(metric, settings, state.point)
    residual = gradient + ridge
    residual = residual + matmul(metric.directions.T, state.multipliers)
    objective = risk + (ridge * state.point).sum(axis=0) / 2 + fairness
    gap = slack + slack_of_residual(residual, rho, state.point)
    converged = gap <= precision * objective
    state = state._replace(objective=objective, gap=gap, converged=converged)
    best = choose(gap < steps.best.gap, state, steps.best)
    return steps._replace(state=state, best=best, previous=state.point)


def ahead(steps: Steps) -> Float[Array, "p m"]:
    """Where momentum leads, and the next gradient is taken."""
    point, momentum = steps.state.point, steps.momentum
    share = (momentum - 1) / (momentum + 2)
    return point + share[None] * (point - steps.previous)


def stepped(
    metric: Metric,
    settings: Settings,
    steps: Steps,
    base: Float[Array, "p m"],
    gradient: Float[Array, "p m"],
) -> Steps:
    """One proximal step from `base`, with the gradient there."""
    _, state, best, previous, momentum, smoothness, least, last = steps
    directions = metric.directions
    tiny = jnp.finfo(metric.spectrum.dtype).tiny
    spectrum = metric.spectrum[:, None]
    rho = settings.ridge[None] * metric.ridge_spectrum[:, None]
    # Worse than the best point by all its gap, so the steps outran the curvature:
    # back to it, more carefully.
    lost = ~(state.objective <= best.objective + best.gap)
    move, change = base - last[0], gradient - last[1]
    seen = (move * change).sum(axis=0)
    seen = seen / jnp.maximum((spectrum * jnp.square(move)).sum(axis=0), tiny)
    seen = jnp.where(jnp.isfinite(seen), seen, smoothness)
    smoothness = jnp.where(
        steps.number > 0, jnp.maximum(0.95 * smoothness, 1.05 * seen), smoothness
    )
    least = jnp.where(lost, 4 * least, least)
    smoothness = jnp.maximum(smoothness, least)
    scale = jnp.maximum(smoothness[None] * spectrum + rho, tiny)
    multipliers = state.multipliers
    pull = gradient + matmul(directions.T, multipliers)
    pull = pull + ridge_slope(metric, settings, base)
    point = base - pull / scale
    if directions.shape[0]:
        curvature = jnp.einsum("kp,lp,pm->klm", directions, directions, 1 / scale)
        gaps = matmul(directions, point)
        new = resolve_batch(curvature, gaps, multipliers, settings)
        point = point - matmul(directions.T, new - multipliers) / scale
        multipliers = new
    uphill = (scale * (base - point) * (point - state.point)).sum(axis=0) > 0
    kept = choose(lost, best.point, state.point)
    new = state._replace(point=point, multipliers=multipliers)
    new = choose(lost | best.converged, best, new)
    taken = jnp.where(best.converged, 0, 1).astype(new.iterations.dtype)
    new = new._replace(iterations=state.iterations + taken)
    momentum = jnp.where(uphill | lost, 1, momentum + 1)
    last = (base, gradient)
    return Steps(steps.number + 1, new, best, kept, momentum, smoothness, least, last)


def majorise(
    rows: Rows,
    turned: Turned,
    settings: Settings,
    start: State,
    *,
    loss: Smooth,
    precision: float,
    max_iterations: Int[Array, ""],
) -> State:
    """Accelerated proximal steps in the metric of `turned`, for the whole batch.

    `H = smoothness * spectrum + ridge` stands for every configuration's Hessian, where
    `smoothness` follows the curvature seen along its own steps. Each configuration
    restarts its own momentum when it points uphill (O'Donoghue and Candes, 2015) and
    stops at its own certificate; the batch stops with the last one. Two matrix products
    per step, 4 n p m operations.
    """
    metric, to_rows = turned.metric, turned.to_rows

    def at_point(steps):
        point = steps.state.point
        risk, slope = risk_and_slope(rows, loss, matmul(to_rows, point))
        gradient = pull_back(to_rows, slope)
        steps = certified(metric, settings, steps, risk, gradient, precision=precision)
        return steps, point, gradient

    def ahead_of_point(steps):
        base = ahead(steps)
        slope = risk_slope(rows, loss, matmul(to_rows, base))
        return steps, base, pull_back(to_rows, slope)

    def body(steps):
        certify = steps.number % CHECK_EVERY == 0
        return stepped(
            metric,
            settings,
            *jax.lax.cond(certify, at_point, ahead_of_point, steps),
        )

    def unfinished(steps):
        # The last step is there for the certificate before it.
        return (steps.number <= max_iterations) & ~steps.best.converged.all()

    start = start._replace(gap=jnp.full_like(start.gap, jnp.inf))
    steps = jax.lax.while_loop(unfinished, body, opened(start, start))
    return steps.best._replace(iterations=steps.state.iterations)


def mean_curvature(
    rows: Rows, loss: Smooth, point: Float[Array, "p m"]
) -> Float[Array, "blocks rows"]:
    """Curvature of the loss averaged over a batch, the metric for its next round.

    Kept above 10 % of the bound: the metric must not lose what a later point needs.
    """

    def block(some):
        design, labels = some
        return loss.curvature(matmul(design, point), labels[:, None]).mean(axis=1)

    mean = jax.lax.map(block, (rows.design, rows.labels))
    return rows.mass * jnp.maximum(mean, 0.1 * loss.bound)


def opening(directions: Float[Array, "k d"], m: int) -> tuple[Model, State]:
    """Zero models of a batch of m, uncertified."""
    k, d = directions.shape
    dtype = directions.dtype
    zeros = jnp.zeros(m, dtype)
    state = State(
        jnp.zeros((d, m), dtype),
        jnp.zeros((k, m), dtype),
        zeros,
        jnp.full(m, jnp.inf, dtype),
        jnp.zeros(m, jnp.int32),
        jnp.zeros(m, bool),
    )
    return Model(jnp.zeros((d, m), dtype), zeros), state


def solve_batch(
    problem: Problem,
    settings: Settings,
    state: State,
    curvature: Float[Array, "blocks rows"],
    *,
    known: Bool[Array, ""],
    loss: Smooth,
    intercept: bool,
    precision: float,
) -> tuple[State, Float[Array, "blocks rows"]]:
    """One batch in rounds: a metric, steps in it, a better metric from where they led.

    The step limit doubles every round. It begins with as many steps as the metric
    costs, within bounds: where columns are few, metrics are cheap and soon renewed.
    Points are in the coordinates of `problem`, whose own metric serves the first round
    where `known`.
    """
    blocks, rows, p = problem.rows.design.shape
    steps = p / (2 * settings.ridge.shape[0]) * (1 + 5 * p / (blocks * rows))
    steps = min(max(FEWEST, CHECK_EVERY * round(steps / CHECK_EVERY)), MOST)
    centre = jnp.exp(jnp.log(settings.ridge).mean())

    def renewed(curvature):
        return renew(problem, curvature, centre, intercept=intercept)

    def own(_):
        same = jnp.eye(p, dtype=problem.rows.design.dtype)
        return Turned(problem.metric, same, same)

    def body(carry):
        count, state, curvature = carry
        first = known & (count == 0)
        turned = jax.lax.cond(first, own, renewed, curvature)
        state = majorise(
            problem.rows,
            turned,
            settings,
            state._replace(point=matmul(turned.from_rows, state.point)),
            loss=loss,
            precision=precision,
            max_iterations=steps * 2**count,
        )
        point = matmul(turned.to_rows, state.point)
        curvature = mean_curvature(problem.rows, loss, point)
        return count + 1, state._replace(point=point), curvature

    def unfinished(carry):
        return (carry[0] < ROUNDS) & ~carry[1].converged.all()

    state = state._replace(converged=jnp.zeros_like(state.converged))
    first = (jnp.int32(0), state, curvature)
    _, state, curvature = jax.lax.while_loop(unfinished, body, first)
    return state, curvature


def first_order(
    data: Data,
    settings: Settings,
    *,
    size: int,
    loss: Smooth,
    intercept: bool,
    precision: float,
) -> tuple[Model, State]:
    """All configurations by batches of `size`, each starting where the last two point.

    Slot j of batch c holds configuration `j * batches + c`, so that slot j of the two
    batches before holds its neighbours in the grid.
    """
    m = settings.ridge.shape[0]
    size = min(size, m)
    batches = -(-m // size)
    order = jnp.minimum(jnp.arange(size * batches), m - 1).reshape(size, batches).T
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    curvature = data.mass * loss.bound
    problem = whiten(data, curvature, centre, intercept=intercept)
    _, state = opening(problem.metric.directions, size)

    def body(carry, now):
        last, before, curvature = carry
        number, chosen = now
        # Solutions change smoothly along a grid: the next lies nearly on their line.
        slope = jnp.where(number > 1, 1, 0).astype(curvature.dtype)
        point, multipliers = jax.tree.map(
            lambda a, b: a + slope * (a - b), last, before
        )
        found, curvature = solve_batch(
            problem,
            jax.tree.map(lambda a: a[..., chosen], settings),
            state._replace(point=point, multipliers=multipliers),
            curvature,
            known=number == 0,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
        return ((found.point, found.multipliers), last, curvature), found

    opened = (state.point, state.multipliers)
    start = (opened, opened, curvature)
    if batches == 1:
        found = body(start, (jnp.int32(0), order[0]))[1]
    else:
        numbers = jnp.arange(batches, dtype=jnp.int32)
        _, stacked = jax.lax.scan(body, start, (numbers, order))
        # (batches, ..., size) -> (..., size * batches) in the order of the grid.
        found = jax.tree.map(
            lambda a: jnp.moveaxis(a, 0, -1).reshape(*a.shape[1:-1], -1)[..., :m],
            stacked,
        )
    return to_model(problem.metric, found.point, intercept=intercept), found
