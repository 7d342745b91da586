"""Numerics behind `solvers.fit_linear`: one metric, two methods, one certificate.

The problem, for every configuration of a batch, over coefficients w and intercept b:

    minimise  sum_i c_i loss(<w, x_i> + b, y_i) + ridge/2 |w|^2 + lam sum_k <w, u_k>^2
    subject to  lower_k <= <w, u_k> <= upper_k.

*Metric.* Linear coordinates in which both the second moment of the features and the
ridge are diagonal, for every ridge at once; badly scaled and collinear columns become
harmless there, and a batch shares one eigendecomposition.

*Methods.* For a smooth loss, accelerated proximal steps on a quadratic majoriser, two
matrix products per step for the whole batch. Configurations they leave uncertified go
one by one to a Newton method; the hinge goes to a primal-dual interior point method.

*Constraint and penalty.* Every method needs `argmin` of a quadratic plus
`sum_k psi_k(<u_k, w>)`, psi the penalty with its bound; `resolve` solves it in the few
multipliers mu, and the multipliers give the certificate its dual point.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import erm

Loss = Callable[[Array, Array], Array]

# Rows per block: scores of one block and batch are all that is ever held per row.
BLOCK = 65_536
CHECK_EVERY = 8
ROUNDS = 5


class Smooth(NamedTuple):
    """A loss with its first two derivatives in the score.

    Attributes:
        value: the pointwise loss.
        slope: its derivative, written out: half the work of differentiating.
        curvature: its second derivative (generalised where it jumps).
        bound: the largest value of `curvature`.
    """

    value: Loss
    slope: Loss
    curvature: Loss
    bound: float


def _hinge(scores: Array, labels: Array) -> Array:
    return jnp.maximum(1 - (2 * labels - 1) * scores, 0)


SMOOTH = {
    erm.logistic: Smooth(
        lambda scores, labels: jax.nn.softplus((1 - 2 * labels) * scores),
        lambda scores, labels: jax.nn.sigmoid(scores) - labels,
        lambda scores, labels: jax.nn.sigmoid(scores) * jax.nn.sigmoid(-scores),
        0.25,
    ),
    erm.squared_hinge: Smooth(
        lambda scores, labels: jnp.square(_hinge(scores, labels)),
        lambda scores, labels: -2 * (2 * labels - 1) * _hinge(scores, labels),
        lambda scores, labels: 2 * (_hinge(scores, labels) > 0).astype(scores.dtype),
        2.0,
    ),
    erm.squared: Smooth(
        lambda scores, labels: jnp.square(scores - labels),
        lambda scores, labels: 2 * (scores - labels),
        lambda scores, labels: jnp.full_like(scores, 2),
        2.0,
    ),
}


class Data(NamedTuple):
    """A data set as given, in blocks of rows; padding rows have mass 0.

    Attributes:
        features: samples.
        labels: as the loss wants them.
        mass: sample weights that sum to 1.
        directions: the `u_k`.
        scale: what each column was divided by, so that no square overflows.
    """

    features: Float[Array, "blocks rows d"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    directions: Float[Array, "k d"]
    scale: Float[Array, " d"]


class Problem(NamedTuple):
    """A data set in whitened coordinates, where an intercept is the last of them.

    Attributes:
        design: features.
        labels: as given.
        mass: sample weights that sum to 1.
        spectrum: diagonal of the metric, `sum_i q_i x_i x_i'`.
        ridge_spectrum: diagonal of what `|w|^2` became.
        directions: what `<w, u_k>` became.
        to_coefficients: maps whitened coordinates to coefficients.
        to_whitened: and back.
        centre: what was subtracted from the features; zero without an intercept.
    """

    design: Float[Array, "blocks rows p"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    spectrum: Float[Array, " p"]
    ridge_spectrum: Float[Array, " p"]
    directions: Float[Array, "k p"]
    to_coefficients: Float[Array, "d p"]
    to_whitened: Float[Array, "p d"]
    centre: Float[Array, " d"]


class Model(NamedTuple):
    """Linear models, one per column."""

    coefficients: Float[Array, "d *m"]
    intercept: Float[Array, "*m"]


class Settings(NamedTuple):
    """The configuration, or a batch of them along the last axis."""

    ridge: Float[Array, "*m"]
    lower: Float[Array, "k *m"]
    upper: Float[Array, "k *m"]
    lam: Float[Array, "*m"]


class State(NamedTuple):
    """Solutions in whitened coordinates, with their certificates."""

    point: Float[Array, "p *m"]
    multipliers: Float[Array, "k *m"]
    objective: Float[Array, "*m"]
    gap: Float[Array, "*m"]
    iterations: Int[Array, "*m"]
    converged: Bool[Array, "*m"]


def matmul(a: Array, b: Array) -> Array:
    """Full precision on accelerators too, where the default rounds to 8 or 10 bits."""
    return jnp.matmul(a, b, precision="highest")


def in_blocks(
    features: Float[Array, "n d"],
    labels: Float[Array, " n"],
    mass: Float[Array, " n"],
    directions: Float[Array, "k d"],
) -> Data:
    """Splits rows into equal blocks of at most `BLOCK`; scales columns to 1."""
    n = features.shape[0]
    scale = jnp.maximum(jnp.abs(features).max(axis=0), 1e-15)
    features = features / scale
    blocks = -(-n // BLOCK)
    rows = -(-n // blocks)
    extra = blocks * rows - n
    return Data(
        jnp.pad(features, ((0, extra), (0, 0))).reshape(blocks, rows, -1),
        jnp.pad(labels, (0, extra)).reshape(blocks, rows),
        jnp.pad(mass, (0, extra)).reshape(blocks, rows),
        directions,
        scale,
    )


def moment(
    design: Float[Array, "blocks rows p"], weights: Float[Array, "blocks rows"]
) -> Float[Array, "p p"]:
    """`sum_i weights_i x_i x_i'`; cost 2 n p^2 operations, memory of one block."""

    def block(total, rows):
        x, weight = rows
        return total + matmul((x * weight[:, None]).T, x), None

    if design.shape[0] == 1:
        return matmul((design[0] * weights[0][:, None]).T, design[0])
    zeros = jnp.zeros((design.shape[2],) * 2, design.dtype)
    return jax.lax.scan(block, zeros, (design, weights))[0]


def whiten(
    data: Data,
    curvature: Float[Array, "blocks rows"],
    ridge: Float[Array, ""],
    *,
    intercept: bool,
) -> Problem:
    """Coordinates in which `A = sum_i q_i x_i x_i'`, q the curvature, is diagonal.

    The ridge is diagonal there too. With `sigma^2 = diag(A) + ridge` and
    `M = sigma^-1 (A + ridge) sigma^-1`, whose diagonal is 1, the map is
    `T = sigma^-1 M^-1/2 V`, V the eigenvectors of what A becomes under the first two
    factors: `T'AT = diag(spectrum)` and `T'T = (1 - spectrum) / ridge`. Any other ridge
    keeps both diagonal; `ridge` is where the floating-point metric is most accurate.
    Cost O(n d^2 + d^3), memory one copy of the features.
    """
    n_features = data.features.shape[2]
    dtype = data.features.dtype
    eps = jnp.finfo(dtype).eps
    total = curvature.sum()
    centre = jnp.zeros(n_features, dtype)
    if intercept:
        centre = jnp.einsum("br,brd->d", curvature / total, data.features)
    centred = data.features - centre
    variance = jnp.einsum("br,brd->d", curvature, jnp.square(centred))
    penalty = ridge / jnp.square(data.scale)
    scale = jnp.sqrt(variance + penalty)
    scaled = centred / scale
    second = moment(scaled, curvature)
    values, vectors = jnp.linalg.eigh(second + jnp.diag(penalty / jnp.square(scale)))
    scale = scale * data.scale
    root = jnp.sqrt(jnp.maximum(values, eps * n_features * values[-1]))
    forward = vectors / root
    spectrum, rotation = jnp.linalg.eigh(matmul(forward.T, matmul(second, forward)))
    forward = matmul(forward, rotation)
    to_whitened = matmul(rotation.T, (vectors * root).T) * scale
    to_coefficients = forward / scale[:, None]
    design = matmul(scaled, forward)
    spectrum = jnp.maximum(spectrum, 0)
    ridge_spectrum = jnp.square(to_coefficients).sum(axis=0)
    directions = matmul(data.directions, to_coefficients)
    if intercept:
        design = jnp.pad(design, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        spectrum = jnp.append(spectrum, total)
        ridge_spectrum = jnp.pad(ridge_spectrum, (0, 1))
        directions = jnp.pad(directions, ((0, 0), (0, 1)))
        to_coefficients = jnp.pad(to_coefficients, ((0, 0), (0, 1)))
        to_whitened = jnp.pad(to_whitened, ((0, 1), (0, 0)))
    return Problem(
        design,
        data.labels,
        data.mass,
        spectrum,
        ridge_spectrum,
        directions,
        to_coefficients,
        to_whitened,
        centre * data.scale,
    )


def to_point(problem: Problem, model: Model, *, intercept: bool) -> Array:
    """Whitened coordinates of models."""
    point = matmul(problem.to_whitened, model.coefficients)
    if intercept:
        constant = model.intercept + problem.centre @ model.coefficients
        point = point.at[-1].set(constant)
    return point


def to_model(problem: Problem, point: Array, *, intercept: bool) -> Model:
    """Models from their whitened coordinates."""
    coefficients = matmul(problem.to_coefficients, point)
    constant = point[-1] - problem.centre @ coefficients if intercept else 0 * point[0]
    return Model(coefficients, constant)


def over_blocks(problem: Problem, fn: Callable[..., object]) -> object:
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
        return matmul(design.T, mass[:, None] * loss.slope(scores, labels[:, None]))

    return over_blocks(problem, block)


def risk_and_slope(
    problem: Problem, loss: Smooth, point: Float[Array, "p m"]
) -> tuple[Float[Array, " m"], Float[Array, "p m"]]:
    """The risk and its gradient."""

    def block(design, labels, mass):
        scores, labels = matmul(design, point), labels[:, None]
        slopes = mass[:, None] * loss.slope(scores, labels)
        return mass @ loss.value(scores, labels), matmul(design.T, slopes)

    return over_blocks(problem, block)


def penalty(
    gaps: Float[Array, "k *m"], multipliers: Float[Array, "k *m"], settings: Settings
) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
    """Value of `sum_k psi_k(gaps_k)` and its Fenchel-Young slack at the multipliers.

    `psi(t) = lam t^2` between the bounds. The slack `psi(t) + psi*(mu) - mu t >= 0` is
    what a wrong multiplier costs the certificate; a violated bound is charged at the
    multiplier's price.
    """
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
    charge = (multipliers * (gaps - inside)).sum(axis=0)
    return value.sum(axis=0), jnp.maximum(slack, 0).sum(axis=0) + jnp.abs(charge)


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


resolve_batch = jax.vmap(resolve, in_axes=(2, 1, 1, Settings(0, 1, 1, 0)), out_axes=1)


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
        metric = jnp.maximum(smoothness * spectrum + rho, tiny)
        pull = gradient + rho * base + matmul(directions.T, multipliers)
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
        fairness, slack = penalty(
            matmul(directions, state.point), state.multipliers, settings
        )
        residual = gradient + rho * state.point
        residual = residual + matmul(directions.T, state.multipliers)
        ridge = (rho * jnp.square(state.point)).sum(axis=0) / 2
        objective = risk + ridge + fairness
        gap = slack + slack_of_residual(residual, rho, state.point)
        converged = gap <= precision * objective
        state = state._replace(objective=objective, gap=gap, converged=converged)
        better = gap < best.gap
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state, best)
        return state, best, state.point, gradient

    def ahead_of_point(state, best, previous, momentum):
        ahead = (momentum - 1) / (momentum + 2)
        base = state.point + ahead * (state.point - previous)
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
        kept = jnp.where(lost, best.point, state.point)
        new = state._replace(
            point=jnp.where(lost, best.point, point),
            multipliers=jnp.where(lost, best.multipliers, multipliers),
            objective=jnp.where(lost, best.objective, state.objective),
            gap=jnp.where(lost, best.gap, state.gap),
        )
        new = jax.tree.map(lambda a, b: jnp.where(best.converged, a, b), best, new)
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

    directions = problem.directions
    move = solve(-gradient - directions.T @ multipliers)
    if directions.shape[0]:
        reach = solve(directions.T)
        curvature = matmul(directions, reach)
        gaps = directions @ (point + move)
        new = resolve((curvature + curvature.T) / 2, gaps, multipliers, settings)
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
    fairness, complementarity = penalty(
        problem.directions @ point, multipliers, settings
    )
    residual = pull + rho * point + problem.directions.T @ multipliers
    objective = risk + (rho * jnp.square(point)).sum() / 2 + fairness
    return objective, slack + complementarity + slack_of_residual(residual, rho, point)


def newton(
    problem: Problem,
    settings: Settings,
    start: State,
    *,
    loss: Smooth,
    precision: float,
    max_iterations: int,
) -> State:
    """Damped Newton for one configuration of a smooth loss.

    The second-order model is solved with its constraint, so iterates stay feasible; the
    step is the first of 1, 1/2, ..., 2^-20 that decreases the objective enough. The
    point with the smallest gap is kept. A batch runs it one by one (`lax.map`), which
    holds one Hessian at a time.
    """
    rho = settings.ridge * problem.ridge_spectrum
    eps = jnp.finfo(rho.dtype).eps
    halvings = 0.5 ** jnp.arange(21, dtype=rho.dtype)

    def objective_along(scores, moves, point, move):
        def total(step):
            at = point + step * move
            risk = (
                problem.mass * loss.value(scores + step * moves, problem.labels)
            ).sum()
            fairness, _ = penalty(
                problem.directions @ at, jnp.zeros_like(start.multipliers), settings
            )
            return risk + (rho * jnp.square(at)).sum() / 2 + fairness

        return jax.lax.map(total, jnp.concatenate([jnp.zeros(1, rho.dtype), halvings]))

    def body(carry):
        count, point, multipliers, best = carry
        scores = problem.design @ point
        slopes = problem.mass * loss.slope(scores, problem.labels)
        pull = jnp.einsum("brp,br->p", problem.design, slopes, precision="highest")
        risk = (problem.mass * loss.value(scores, problem.labels)).sum()
        objective, gap = certify(problem, settings, rho, point, multipliers, risk, pull)
        here = State(
            point,
            multipliers,
            objective,
            gap,
            start.iterations + count,
            gap <= precision * objective,
        )
        best = jax.tree.map(lambda a, b: jnp.where(gap < best.gap, a, b), here, best)
        hessian = moment(
            problem.design, problem.mass * loss.curvature(scores, problem.labels)
        )
        move, multipliers = newton_step(
            problem,
            settings,
            hessian,
            rho,
            pull + rho * point,
            point,
            multipliers,
            damping=10 * eps * (jnp.trace(hessian) + problem.spectrum.sum()),
        )
        values = objective_along(scores, problem.design @ move, point, move)
        decrease = (pull + rho * point) @ move
        noise = 4 * eps * jnp.abs(values[0])
        enough = values[1:] <= values[0] + 1e-4 * halvings * decrease + noise
        step = jnp.where(enough.any(), halvings[jnp.argmax(enough)], 0)
        new = point + step * move
        good = jnp.isfinite(new).all()
        new = jnp.where(good, new, point)
        stuck = (step == 0) | ~good
        count = jnp.where(stuck, jnp.int32(max_iterations), count + 1)
        return count, new, multipliers, best._replace(iterations=here.iterations)

    def unfinished(carry):
        count, _, _, best = carry
        return (count < max_iterations) & ~best.converged

    first = (
        jnp.int32(0),
        start.point,
        start.multipliers,
        start._replace(gap=jnp.inf * start.gap),
    )
    return jax.lax.while_loop(unfinished, body, first)[-1]


class Interior(NamedTuple):
    """Iterate of the interior point method: shares `alpha` of the hinge's slope in
    (0, 1) with `1 - alpha` kept apart for precision, and the slacks on both sides.
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
    1 / nu and would drown the ridge in rounding; a proximal term on alpha bounds them by
    1 / delta (Friedlander and Orban, 2012), which leaves a split to correct.
    """
    rho = settings.ridge * problem.ridge_spectrum
    dtype = rho.dtype
    eps = jnp.finfo(dtype).eps
    signs = 2 * problem.labels - 1
    mass = problem.mass
    live = mass > 0
    delta = 16 * jnp.sqrt(eps)

    def pull_of(alpha):
        return -jnp.einsum(
            "brp,br->p", problem.design, mass * signs * alpha, precision="highest"
        )

    def body(carry):
        count, x, best = carry
        margins = signs * (problem.design @ x.point)
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
        best = jax.tree.map(lambda a, b: jnp.where(gap < best.gap, a, b), here, best)

        weight = 1 / (x.over / x.alpha + x.under / x.rest + delta)
        split = margins - 1 + x.under - x.over
        hessian = moment(problem.design, mass * weight)
        damping = eps * jnp.trace(hessian)

        def direction(right_over, right_under):
            q = right_over / x.alpha - right_under / x.rest - split
            gradient = rho * x.point + pull_of(x.alpha + weight * q)
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
            moves = signs * (problem.design @ move)
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
        # Further down, rounding in the weights outgrows what is gained: stay, and centre.
        floor = precision * objective / 10
        ahead = jnp.where(target > floor, 1, 0)
        target = jnp.maximum(target, floor)
        d = direction(
            target - x.alpha * x.over - ahead * affine.alpha * affine.over,
            target - x.rest * x.under - ahead * affine.rest * affine.under,
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
    margins = signs * (problem.design @ start.point)
    over = jnp.maximum(margins - 1, 0) + 1
    under = over - (margins - 1)
    x = Interior(start.point, start.multipliers, half, half, over, under)
    first = (jnp.int32(0), x, start._replace(gap=jnp.full_like(start.gap, jnp.inf)))
    return jax.lax.while_loop(unfinished, body, first)[-1]


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

    The step limit doubles every round, from 16.
    """
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
            max_iterations=16 * 2**count,
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
    data: Data, settings: Settings, *, size: int, loss: Smooth, **static: bool | float
) -> tuple[Model, State]:
    """All configurations by batches of `size`, each starting where the last one ended.

    Slot j of batch c holds configuration `j * batches + c`, so that its start, slot j
    of the batch before, is its neighbour in the grid.
    """
    m = settings.ridge.shape[0]
    size = min(size, m)
    batches = -(-m // size)
    order = jnp.minimum(jnp.arange(size * batches), m - 1).reshape(size, batches).T
    model, state = opening(data, size)

    def body(carry, chosen):
        model, multipliers, curvature = carry
        model, found, curvature = solve_batch(
            data,
            jax.tree.map(lambda a: a[..., chosen], settings),
            model,
            state._replace(multipliers=multipliers),
            curvature,
            loss=loss,
            **static,
        )
        return (model, found.multipliers, curvature), (model, found)

    start = (model, state.multipliers, data.mass * loss.bound)
    if batches == 1:
        model, found = body(start, order[0])[1]
        return model, found
    _, stacked = jax.lax.scan(body, start, order)
    # (batches, ..., size) -> (..., size * batches) in the order of the grid.
    return jax.tree.map(
        lambda a: jnp.moveaxis(a, 0, -1).reshape(*a.shape[1:-1], -1)[..., :m], stacked
    )


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
    state = state._replace(point=to_point(problem, model, intercept=intercept))
    limits = {"precision": precision, "max_iterations": max_iterations}

    def refine(setting, state):
        if loss is None:
            return interior_point(problem, setting, state, **limits)
        return newton(problem, setting, state, loss=loss, **limits)

    def one(chosen):
        setting = jax.tree.map(lambda a: a[..., chosen], settings)
        here = jax.tree.map(lambda a: a[..., chosen], state)
        return jax.lax.cond(here.converged, lambda _, here: here, refine, setting, here)

    found = jax.lax.map(one, jnp.arange(settings.ridge.shape[0]))
    found = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), found)
    return to_model(problem, found.point, intercept=intercept), found
