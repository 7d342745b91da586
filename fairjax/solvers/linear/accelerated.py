"""Smooth losses: accelerated steps for a whole batch of configurations at once.

Two matrix products per step serve every configuration. Rows are whitened once. A round
fixes a metric, the curvature of the loss averaged over the batch; the point that it
reaches gives the metric of the next round, and the rows stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...erm import SmoothLoss
from .blocks import Data, Rows, matmul, sum_over_blocks, transposed_matmul
from .certificate import certify
from .multipliers import coordinate_descent_batch
from .problem import Model, Settings, State, Tree, initial_state, select
from .whitening import (
    Metric,
    RotatedMetric,
    WhitenedData,
    rewhiten,
    ridge_diagonal,
    ridge_gradient,
    unwhiten,
    whiten,
)

# Steps between certificates, and rounds before a batch is left to second-order steps.
CHECK_EVERY = 8
ROUNDS = 5
# Fewest and most steps of the first round; more where the metric costs more.
MIN_STEPS, MAX_STEPS = 16, 32


def risk_gradient(
    rows: Rows, loss: SmoothLoss, point: Float[Array, "p m"]
) -> Float[Array, "p m"]:
    """Gradient of the risk; cost two matrix products, 4 n p m operations."""

    def block(design, labels, mass):
        scores = matmul(design, point)
        return transposed_matmul(
            design, mass[:, None] * loss.derivative(scores, labels[:, None])
        )

    return _sum_over_rows(block, rows)


def risk_and_gradient(
    rows: Rows, loss: SmoothLoss, point: Float[Array, "p m"]
) -> tuple[Float[Array, " m"], Float[Array, "p m"]]:
    """The risk and its gradient."""

    def block(design, labels, mass):
        scores, labels = matmul(design, point), labels[:, None]
        slopes = mass[:, None] * loss.derivative(scores, labels)
        return mass @ loss.value(scores, labels), transposed_matmul(design, slopes)

    return _sum_over_rows(block, rows)


def _sum_over_rows(fn: Callable[..., Tree], rows: Rows) -> Tree:
    return sum_over_blocks(
        fn, rows.design, rows.labels, rows.mass, devices=rows.devices
    )


class Steps(NamedTuple):
    """The iterate of accelerated steps.

    Attributes:
        number: steps taken.
        state: the current point.
        best: the point with the smallest gap so far.
        previous: the point before that of `state`.
        momentum: steps since each configuration's last restart.
        lipschitz: curvature along the steps, relative to the metric.
        lipschitz_floor: lower bound of `lipschitz`.
        last: the last point whose gradient was taken, and that gradient.
    """

    number: Int[Array, ""]
    state: State
    best: State
    previous: Float[Array, "p m"]
    momentum: Float[Array, " m"]
    lipschitz: Float[Array, " m"]
    lipschitz_floor: Float[Array, " m"]
    last: tuple[Float[Array, "p m"], Float[Array, "p m"]]


def init(start: State, best: State) -> Steps:
    """The iterate before the first step from `start`."""
    ones = jnp.ones_like(start.objective)
    empty = (jnp.zeros_like(start.point), jnp.zeros_like(start.point))
    return Steps(jnp.int32(0), start, best, start.point, ones, ones, 0.25 * ones, empty)


def certify_steps(
    metric: Metric,
    settings: Settings,
    steps: Steps,
    risk: Float[Array, " m"],
    gradient: Float[Array, "p m"],
    *,
    precision: Float[Array, ""],
) -> Steps:
    """The steps with their point certified; `risk` and `gradient` are taken there."""
    state = steps.state
    objective, gap = certify(
        metric, settings, state.point, state.multipliers, risk, gradient
    )
    converged = gap <= precision * objective
    state = state._replace(objective=objective, gap=gap, converged=converged)
    best = select(gap < steps.best.gap, state, steps.best)
    return steps._replace(state=state, best=best, previous=state.point)


def extrapolate(steps: Steps) -> Float[Array, "p m"]:
    """The point that momentum leads to, where the next gradient is taken."""
    point, momentum = steps.state.point, steps.momentum
    factor = (momentum - 1) / (momentum + 2)
    return point + factor[None] * (point - steps.previous)


def step(
    metric: Metric,
    settings: Settings,
    steps: Steps,
    base: Float[Array, "p m"],
    gradient: Float[Array, "p m"],
) -> Steps:
    """The steps after a proximal step from `base`, with the gradient there."""
    _, state, best, previous, momentum, lipschitz, lipschitz_floor, last = steps
    directions = metric.directions
    tiny = jnp.finfo(metric.spectrum.dtype).tiny
    spectrum = metric.spectrum[:, None]
    rho = ridge_diagonal(metric, settings)
    # Worse than the best point by all its gap: the curvature was underestimated, so
    # back to that point, with a larger one.
    diverged = ~(state.objective <= best.objective + best.gap)
    move, change = base - last[0], gradient - last[1]
    local_lipschitz = (move * change).sum(axis=0)
    length = jnp.maximum((spectrum * jnp.square(move)).sum(axis=0), tiny)
    local_lipschitz = local_lipschitz / length
    local_lipschitz = jnp.where(
        jnp.isfinite(local_lipschitz), local_lipschitz, lipschitz
    )
    lipschitz = jnp.where(
        steps.number > 0,
        jnp.maximum(0.95 * lipschitz, 1.05 * local_lipschitz),
        lipschitz,
    )
    lipschitz_floor = jnp.where(diverged, 4 * lipschitz_floor, lipschitz_floor)
    lipschitz = jnp.maximum(lipschitz, lipschitz_floor)
    scale = jnp.maximum(lipschitz[None] * spectrum + rho, tiny)
    multipliers = state.multipliers
    slope = gradient + matmul(directions.T, multipliers)
    slope = slope + ridge_gradient(metric, settings, base)
    point = base - slope / scale
    if directions.shape[0]:
        curvature = jnp.einsum("kp,lp,pm->klm", directions, directions, 1 / scale)
        gaps = matmul(directions, point)
        new = coordinate_descent_batch(curvature, gaps, multipliers, settings)
        point = point - matmul(directions.T, new - multipliers) / scale
        multipliers = new
    uphill = (scale * (base - point) * (point - state.point)).sum(axis=0)
    restart_momentum = (uphill > 0) | diverged
    previous = select(diverged, best.point, state.point)
    new = state._replace(point=point, multipliers=multipliers)
    new = select(diverged | best.converged, best, new)
    taken = jnp.where(best.converged, 0, 1).astype(new.iterations.dtype)
    new = new._replace(iterations=state.iterations + taken)
    momentum = jnp.where(restart_momentum, 1, momentum + 1)
    return Steps(
        steps.number + 1,
        new,
        best,
        previous,
        momentum,
        lipschitz,
        lipschitz_floor,
        (base, gradient),
    )


def run_steps(
    rows: Rows,
    rotated: RotatedMetric,
    settings: Settings,
    start: State,
    *,
    loss: SmoothLoss,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> State:
    """The best points of accelerated proximal steps in one metric, for a whole batch.

    The majoriser is quadratic, with Hessian `lipschitz * spectrum + ridge` for each
    configuration, where `lipschitz` follows the curvature along its own steps. Each
    configuration restarts its momentum when it points uphill (O'Donoghue and Candes,
    2015) and stops at its own certificate; the batch stops with the last one. Two
    matrix products per step, 4 n p m operations.
    """
    metric, to_rows = rotated.metric, rotated.to_rows

    def certified_point(steps):
        point = steps.state.point
        risk, gradient = risk_and_gradient(rows, loss, matmul(to_rows, point))
        gradient = transposed_matmul(to_rows, gradient)
        steps = certify_steps(
            metric, settings, steps, risk, gradient, precision=precision
        )
        return steps, point, gradient

    def extrapolated_point(steps):
        base = extrapolate(steps)
        gradient = risk_gradient(rows, loss, matmul(to_rows, base))
        return steps, base, transposed_matmul(to_rows, gradient)

    def body(steps):
        due = steps.number % CHECK_EVERY == 0
        following = jax.lax.cond(due, certified_point, extrapolated_point, steps)
        return step(metric, settings, *following)

    def unfinished(steps):
        # One step more than allowed, for the certificate before it.
        return (steps.number <= max_iterations) & ~steps.best.converged.all()

    start = start._replace(gap=jnp.full_like(start.gap, jnp.inf))
    steps = jax.lax.while_loop(unfinished, body, init(start, start))
    return steps.best._replace(iterations=steps.state.iterations)


def mean_curvature(
    rows: Rows, loss: SmoothLoss, point: Float[Array, "p m"]
) -> Float[Array, "blocks rows"]:
    """Curvature of the loss averaged over a batch, for the metric of its next round.

    At least 10 % of the largest curvature: a later point may need directions that this
    one does not.
    """

    def block(rows):
        design, labels = rows
        return loss.curvature(matmul(design, point), labels[:, None]).mean(axis=1)

    mean = jax.lax.map(block, (rows.design, rows.labels))
    return rows.mass * jnp.maximum(mean, 0.1 * loss.max_curvature)


def solve_batch(
    data: WhitenedData,
    settings: Settings,
    state: State,
    curvature: Float[Array, "blocks rows"],
    *,
    use_own_metric: Bool[Array, ""],
    loss: SmoothLoss,
    intercept: bool,
    precision: Float[Array, ""],
) -> tuple[State, Float[Array, "blocks rows"]]:
    """Solutions of one batch and the curvature there, by rounds of steps in a metric.

    The step limit doubles every round. It begins with as many steps as the metric
    costs, within bounds: where columns are few, metrics are cheap and soon renewed.
    Points are in the coordinates of `data`, whose own metric serves the first round
    where `use_own_metric`.
    """
    blocks, rows, p = data.rows.design.shape
    steps = p / (2 * settings.ridge.shape[0]) * (1 + 5 * p / (blocks * rows))
    steps = min(max(MIN_STEPS, CHECK_EVERY * round(steps / CHECK_EVERY)), MAX_STEPS)
    centre = jnp.exp(jnp.log(settings.ridge).mean())

    def new_metric(curvature):
        return rewhiten(data, curvature, centre, intercept=intercept)

    def own_metric(_):
        identity = jnp.eye(p, dtype=data.rows.design.dtype)
        return RotatedMetric(data.metric, identity, identity)

    def body(carry):
        count, state, curvature = carry
        own = use_own_metric & (count == 0)
        rotated = jax.lax.cond(own, own_metric, new_metric, curvature)
        state = run_steps(
            data.rows,
            rotated,
            settings,
            state._replace(point=matmul(rotated.from_rows, state.point)),
            loss=loss,
            precision=precision,
            max_iterations=steps * 2**count,
        )
        point = matmul(rotated.to_rows, state.point)
        curvature = mean_curvature(data.rows, loss, point)
        return count + 1, state._replace(point=point), curvature

    def unfinished(carry):
        return (carry[0] < ROUNDS) & ~carry[1].converged.all()

    state = state._replace(converged=jnp.zeros_like(state.converged))
    first = (jnp.int32(0), state, curvature)
    _, state, curvature = jax.lax.while_loop(unfinished, body, first)
    return state, curvature


def solve_in_batches(
    data: Data,
    settings: Settings,
    *,
    size: int,
    loss: SmoothLoss,
    intercept: bool,
    precision: Float[Array, ""],
) -> tuple[Model, State]:
    """Models and certificates of all configurations, by batches of `size`.

    Each batch starts from an extrapolation of the two before. Slot j of batch c holds
    configuration `j * batches + c`, so that slot j of the two batches before holds its
    neighbours in the grid.
    """
    m = settings.ridge.shape[0]
    size = min(size, m)
    batches = -(-m // size)
    order = jnp.minimum(jnp.arange(size * batches), m - 1).reshape(size, batches).T
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    curvature = data.mass * loss.max_curvature
    whitened = whiten(data, curvature, centre, intercept=intercept)
    _, state = initial_state(whitened.metric.directions, size)

    def body(carry, now):
        last, before, curvature = carry
        number, chosen = now
        # Solutions change smoothly along a grid: the next one lies nearly on a line.
        extrapolate = jnp.where(number > 1, 1, 0).astype(curvature.dtype)
        point, multipliers = jax.tree.map(
            lambda a, b: a + extrapolate * (a - b), last, before
        )
        found, curvature = solve_batch(
            whitened,
            jax.tree.map(lambda a: a[..., chosen], settings),
            state._replace(point=point, multipliers=multipliers),
            curvature,
            use_own_metric=number == 0,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
        return ((found.point, found.multipliers), last, curvature), found

    initial = (state.point, state.multipliers)
    start = (initial, initial, curvature)
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
    return unwhiten(whitened.metric, found.point, intercept=intercept), found
