"""Smooth losses: accelerated steps for a whole batch of configurations at once.

Two matrix products per step serve every configuration. A round fixes a metric, the
curvature of the loss averaged over the batch; where the steps led gives the next one.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._linear import (
    Data,
    Model,
    Problem,
    Settings,
    Smooth,
    State,
    choose,
    matmul,
    penalty,
    pull_back,
    resolve,
    ridge_slope,
    slack_of_residual,
    to_model,
    to_point,
    whiten,
)

Totals = TypeVar("Totals")

# Steps between certificates, and rounds before a batch is left to second-order steps.
CHECK_EVERY = 8
ROUNDS = 5
# Steps of the first round; more where the metric costs more than these.
FEWEST, MOST = 16, 48


def over_blocks(problem: Problem, fn: Callable[..., Totals]) -> Totals:
    """Sums `fn(design, labels, mass)` over the blocks of rows."""
    rows = (problem.design, problem.labels, problem.mass)
    if problem.design.shape[0] == 1:
        return fn(*(a[0] for a in rows))
    shapes = jax.eval_shape(fn, *(a[0] for a in rows))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(
        lambda total, r: (jax.tree.map(jnp.add, total, fn(*r)), None), zeros, rows
    )[0]


def risk_slope(
    problem: Problem, loss: Smooth, point: Float[Array, "p m"]
) -> Float[Array, "p m"]:
    """Gradient of the risk; cost two matrix products, 4 n p m operations."""

    def block(design, labels, mass):
        scores = matmul(design, point)
        return pull_back(design, mass[:, None] * loss.slope(scores, labels[:, None]))

    return over_blocks(problem, block)


def risk_and_slope(
    problem: Problem, loss: Smooth, point: Float[Array, "p m"]
) -> tuple[Float[Array, " m"], Float[Array, "p m"]]:
    """The risk and its gradient."""

    def block(design, labels, mass):
        scores, labels = matmul(design, point), labels[:, None]
        slopes = mass[:, None] * loss.slope(scores, labels)
        return mass @ loss.value(scores, labels), pull_back(design, slopes)

    return over_blocks(problem, block)


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


def majorise(
    problem: Problem,
    settings: Settings,
    start: State,
    *,
    loss: Smooth,
    precision: float,
    max_iterations: Int[Array, ""],
) -> State:
    """Accelerated proximal steps in the metric of `problem`, for the whole batch.

    `H = smoothness * spectrum + ridge` stands for every configuration's Hessian, where
    `smoothness` follows the curvature seen along its own steps. Each configuration
    restarts its own momentum when it points uphill (O'Donoghue and Candes, 2015) and
    stops at its own certificate; the batch stops with the last one. Two matrix products
    per step, 4 n p m operations.
    """
    directions = problem.directions
    tiny = jnp.finfo(problem.spectrum.dtype).tiny
    spectrum = problem.spectrum[:, None]
    rho = settings.ridge[None] * problem.ridge_spectrum[:, None]

    def step(base, gradient, multipliers, smoothness):
        metric = jnp.maximum(smoothness[None] * spectrum + rho, tiny)
        pull = gradient + matmul(directions.T, multipliers)
        pull = pull + ridge_slope(problem, settings, base)
        point = base - pull / metric
        if directions.shape[0]:
            curvature = jnp.einsum("kp,lp,pm->klm", directions, directions, 1 / metric)
            gaps = matmul(directions, point)
            new = resolve_batch(curvature, gaps, multipliers, settings)
            point = point - matmul(directions.T, new - multipliers) / metric
            multipliers = new
        return point, multipliers, metric

    def at_point(state, best, previous, momentum):
        risk, gradient = risk_and_slope(problem, loss, state.point)
        fairness, slack = penalty(problem, settings, state.point, state.multipliers)
        ridge = ridge_slope(problem, settings, state.point)
        residual = gradient + ridge
        residual = residual + matmul(directions.T, state.multipliers)
        objective = risk + (ridge * state.point).sum(axis=0) / 2 + fairness
        gap = slack + slack_of_residual(residual, rho, state.point)
        converged = gap <= precision * objective
        state = state._replace(objective=objective, gap=gap, converged=converged)
        better = gap < best.gap
        return state, choose(better, state, best), state.point, gradient

    def ahead_of_point(state, best, previous, momentum):
        ahead = (momentum - 1) / (momentum + 2)
        base = state.point + ahead[None] * (state.point - previous)
        return state, best, base, risk_slope(problem, loss, base)

    def body(carry):
        count, state, best, previous, momentum, smoothness, least, last = carry
        state, best, base, gradient = jax.lax.cond(
            count % CHECK_EVERY == 0,
            at_point,
            ahead_of_point,
            *(state, best, previous, momentum),
        )
        # Worse than the best point by all its gap, so the steps outran the curvature:
        # back to it, more carefully.
        lost = ~(state.objective <= best.objective + best.gap)
        move, change = base - last[0], gradient - last[1]
        seen = (move * change).sum(axis=0)
        seen = seen / jnp.maximum((spectrum * jnp.square(move)).sum(axis=0), tiny)
        seen = jnp.where(jnp.isfinite(seen), seen, smoothness)
        smoothness = jnp.where(
            count > 0, jnp.maximum(0.95 * smoothness, 1.05 * seen), smoothness
        )
        least = jnp.where(lost, 4 * least, least)
        smoothness = jnp.maximum(smoothness, least)
        point, multipliers, metric = step(base, gradient, state.multipliers, smoothness)
        uphill = (metric * (base - point) * (point - state.point)).sum(axis=0) > 0
        kept = choose(lost, best.point, state.point)
        new = state._replace(point=point, multipliers=multipliers)
        new = choose(lost | best.converged, best, new)
        taken = jnp.where(best.converged, 0, 1).astype(new.iterations.dtype)
        new = new._replace(iterations=state.iterations + taken)
        momentum = jnp.where(uphill | lost, 1, momentum + 1)
        last = (base, gradient)
        return count + 1, new, best, kept, momentum, smoothness, least, last

    def unfinished(carry):
        return (carry[0] < max_iterations) & ~carry[2].converged.all()

    ones = jnp.ones_like(settings.ridge)
    start = start._replace(gap=jnp.full_like(start.gap, jnp.inf))
    empty = (jnp.zeros_like(start.point), jnp.zeros_like(start.point))
    first = (jnp.int32(0), start, start, start.point, ones, ones, 0.25 * ones, empty)
    _, state, best, *_ = jax.lax.while_loop(unfinished, body, first)
    return best._replace(iterations=state.iterations)


def mean_curvature(
    problem: Problem, loss: Smooth, point: Float[Array, "p m"]
) -> Float[Array, "blocks rows"]:
    """Curvature of the loss averaged over a batch, the metric for its next round.

    Kept above 10 % of the bound: the metric must not lose what a later point needs.
    """

    def block(rows):
        design, labels = rows
        return loss.curvature(matmul(design, point), labels[:, None]).mean(axis=1)

    mean = jax.lax.map(block, (problem.design, problem.labels))
    return problem.mass * jnp.maximum(mean, 0.1 * loss.bound)


def opening(data: Data, m: int) -> tuple[Model, State]:
    """Zero models of a batch of m, uncertified."""
    d, k = data.features.shape[2], data.directions.shape[0]
    dtype = data.features.dtype
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
    data: Data,
    settings: Settings,
    model: Model,
    state: State,
    curvature: Float[Array, "blocks rows"],
    *,
    loss: Smooth,
    intercept: bool,
    precision: float,
) -> tuple[Model, State, Float[Array, "blocks rows"]]:
    """One batch in rounds: a metric, steps in it, a better metric from where they led.

    The step limit doubles every round. It begins with as many steps as the metric
    costs, within bounds: where columns are few, metrics are cheap and soon renewed.
    """
    _, rows, d = data.features.shape
    n = data.features.shape[0] * rows
    steps = d / settings.ridge.shape[0] * (1 + 5 * d / n)
    steps = min(max(FEWEST, CHECK_EVERY * round(steps / CHECK_EVERY)), MOST)
    centre = jnp.exp(jnp.log(settings.ridge).mean())

    def body(carry):
        count, model, state, curvature = carry
        problem = whiten(data, curvature, centre, intercept=intercept)
        state = state._replace(point=to_point(problem, model, intercept=intercept))
        state = majorise(
            problem,
            settings,
            state,
            loss=loss,
            precision=precision,
            max_iterations=steps * 2**count,
        )
        model = to_model(problem, state.point, intercept=intercept)
        curvature = mean_curvature(problem, loss, state.point)
        return count + 1, model, state._replace(point=model.coefficients), curvature

    def unfinished(carry):
        return (carry[0] < ROUNDS) & ~carry[2].converged.all()

    state = state._replace(converged=jnp.zeros_like(state.converged))
    first = (jnp.int32(0), model, state, curvature)
    _, model, state, curvature = jax.lax.while_loop(unfinished, body, first)
    return model, state, curvature


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
    model, state = opening(data, size)

    def body(carry, now):
        last, before, curvature = carry
        number, chosen = now
        # Solutions change smoothly along a grid: the next lies nearly on their line.
        slope = jnp.where(number > 1, 1, 0).astype(curvature.dtype)
        model, multipliers = jax.tree.map(
            lambda a, b: a + slope * (a - b), last, before
        )
        model, found, curvature = solve_batch(
            data,
            jax.tree.map(lambda a: a[..., chosen], settings),
            model,
            state._replace(multipliers=multipliers),
            curvature,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
        return ((model, found.multipliers), last, curvature), (model, found)

    opened = (model, state.multipliers)
    start = (opened, opened, data.mass * loss.bound)
    if batches == 1:
        return body(start, (jnp.int32(0), order[0]))[1]
    numbers = jnp.arange(batches, dtype=jnp.int32)
    _, stacked = jax.lax.scan(body, start, (numbers, order))
    # (batches, ..., size) -> (..., size * batches) in the order of the grid.
    return jax.tree.map(
        lambda a: jnp.moveaxis(a, 0, -1).reshape(*a.shape[1:-1], -1)[..., :m], stacked
    )
