"""Numerics behind `solvers.fit_linear`: one metric, two methods, one certificate.

The problem, for every configuration of a batch, over coefficients w and intercept b:

    minimise  sum_i c_i loss(<w, x_i> + b, y_i) + ridge/2 |w|^2 + lam sum_k <w, u_k>^2
    subject to  lower_k <= <w, u_k> <= upper_k.

*Metric.* Linear coordinates in which both the second moment of the features and the
ridge are diagonal, for every ridge at once; badly scaled and collinear columns become
harmless there, and a batch shares one eigendecomposition.

*Methods.* For a smooth loss, accelerated proximal steps on a quadratic majoriser, two
matrix products per step for the whole batch. Configurations they leave uncertified, and
all of the hinge's, go one by one to a Newton method.

*Constraint and penalty.* Every method needs `argmin` of a quadratic plus
`sum_k psi_k(<u_k, w>)`, psi the penalty with its bound; `resolve` solves it in the few
multipliers mu, and the multipliers give the certificate its dual point.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from . import _rows, erm

Loss = Callable[[Array, Array], Array]
Tree = TypeVar("Tree")

# Rows per block: scores of one block and batch are all that is ever held per row. On a
# CPU a block that its caches hold is read from memory once per step, not twice.
BLOCK, BLOCK_OF_ACCELERATOR = 16_384, 65_536


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Across:
    """The devices that each hold a part of every block; part of a tree's structure."""

    mesh: Mesh | None = None


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
        across: the devices.
    """

    features: Float[Array, "blocks rows d"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    directions: Float[Array, "k d"]
    scale: Float[Array, " d"]
    across: Across


class Rows(NamedTuple):
    """Samples in any coordinates, in blocks.

    Attributes:
        design: features.
        labels: as given.
        mass: sample weights.
        across: the devices.
    """

    design: Float[Array, "blocks rows p"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    across: Across = Across()


class Metric(NamedTuple):
    """Whitened coordinates, where an intercept is the last of them.

    Attributes:
        spectrum: diagonal of the metric, `sum_i q_i x_i x_i'`.
        ridge_spectrum: diagonal of what `|w|^2` became.
        directions: what `<w, u_k>` became.
        to_coefficients: maps whitened coordinates to coefficients.
        to_whitened: and back.
        centre: what was subtracted from the features; zero without an intercept.
    """

    spectrum: Float[Array, " p"]
    ridge_spectrum: Float[Array, " p"]
    directions: Float[Array, "k p"]
    to_coefficients: Float[Array, "d p"]
    to_whitened: Float[Array, "p d"]
    centre: Float[Array, " d"]


class Problem(NamedTuple):
    """A data set in the coordinates of a metric; its mass sums to 1."""

    rows: Rows
    metric: Metric


class Turned(NamedTuple):
    """A metric whose coordinates are not those of the rows.

    Attributes:
        metric: its `to_whitened` and `centre` are from the rows' coordinates.
        to_rows: from its coordinates to those of the rows.
        from_rows: back.
    """

    metric: Metric
    to_rows: Float[Array, "p p"]
    from_rows: Float[Array, "p p"]


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


def pull_back(design: Float[Array, "n p"], slopes: Float[Array, "n *m"]) -> Array:
    """`design' slopes`.

    Written and kept as `(slopes' design)'`: on CPU, XLA takes up to eight times as long
    where the larger factor is the transposed one.
    """
    product = jax.lax.dot_general(
        slopes, design, (((0,), (0,)), ((), ())), precision="highest"
    )
    return jax.lax.optimization_barrier(product).T


def in_blocks(
    features: Float[Array, "n d"],
    labels: Float[Array, " n"],
    mass: Float[Array, " n"],
    directions: Float[Array, "k d"],
    *,
    mesh: Mesh | None = None,
) -> Data:
    """Splits rows into equal blocks; scales columns to 1.

    On a mesh each device cuts its own rows, and a block has a part on every device: no
    row moves.
    """
    largest = jnp.maximum(jnp.abs(features).max(axis=0), 1e-15)
    # A power of 2, so that nothing is rounded.
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    rows = (features / scale[None, :], labels, mass)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    on_cpu = device.platform == "cpu"
    cut = _rows.on_each(
        functools.partial(_cut, most=BLOCK if on_cpu else BLOCK_OF_ACCELERATOR),
        mesh,
        out_specs=None if mesh is None else _rows.spec(mesh, axis=1),
    )
    features, labels, mass = cut(*(_rows.padded(a, mesh) for a in rows))
    return Data(features, labels, mass, directions, scale, Across(mesh))


def _cut(*arrays: Array, most: int) -> tuple[Array, ...]:
    n = arrays[0].shape[0]
    blocks = -(-n // most)
    rows = -(-n // blocks)
    extra = [(0, blocks * rows - n)]
    return tuple(
        jnp.pad(a, extra + [(0, 0)] * (a.ndim - 1)).reshape(blocks, rows, *a.shape[1:])
        for a in arrays
    )


def over_blocks(
    fn: Callable[..., Tree], *blocks: Shaped[Array, "blocks rows ..."], across: Across
) -> Tree:
    """Sums what a function makes of each block of rows.

    Each device adds up its own parts of all blocks first: one all-reduce, however many
    blocks there are.
    """

    def add(total: Tree, block: tuple[Array, ...]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, fn(*block)), None

    def summed(*blocks: Array) -> Tree:
        shapes = jax.eval_shape(fn, *(a[0] for a in blocks))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total = jax.lax.scan(add, zeros, blocks)[0]
        return jax.lax.psum(total, mesh.axis_names) if mesh else total

    if blocks[0].shape[0] == 1:
        return fn(*(a[0] for a in blocks))
    mesh = across.mesh
    lying = None if mesh is None else _rows.spec(mesh, axis=1)
    on_each = _rows.on_each(summed, mesh, in_specs=lying, out_specs=PartitionSpec())
    return on_each(*blocks)


def moment(
    design: Float[Array, "blocks rows p"],
    weights: Float[Array, "blocks rows"],
    *,
    across: Across,
) -> Float[Array, "p p"]:
    """`sum_i weights_i x_i x_i'`; cost 2 n p^2 operations, memory of one block."""

    def block(x, weight):
        return matmul((x * weight[:, None]).T, x)

    return over_blocks(block, design, weights, across=across)


def whiten(
    data: Data,
    curvature: Float[Array, "blocks rows"],
    ridge: Float[Array, ""],
    *,
    intercept: bool,
) -> Problem:
    """A data set in the coordinates of `metric_of`, for the curvature q.

    Cost O(n d^2 + d^3), memory one copy of the features.
    """
    total = curvature.sum()
    centre = jnp.zeros(data.features.shape[2], data.features.dtype)
    if intercept:
        centre = jnp.einsum("br,brd->d", curvature / total, data.features)
    centred = data.features - centre[None, None, :]
    variance = jnp.einsum("br,brd->d", curvature, jnp.square(centred))
    penalty = ridge / jnp.square(data.scale)
    scale = jnp.sqrt(variance + penalty)
    scaled = centred / scale[None, None, :]
    metric, forward = metric_of(
        moment(scaled, curvature, across=data.across),
        penalty / jnp.square(scale),
        data.directions,
        total=total,
        centre=centre * data.scale,
        scale=scale * data.scale,
        intercept=intercept,
    )
    design = matmul(scaled, forward)
    if intercept:
        design = jnp.pad(design, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    return Problem(Rows(design, data.labels, data.mass, data.across), metric)


def renew(
    problem: Problem,
    curvature: Float[Array, "blocks rows"],
    ridge: Float[Array, ""],
    *,
    intercept: bool,
) -> Turned:
    """The metric of another curvature; the rows stay as `whiten` made them.

    What is asked of that curvature is 10 % of the one that they were whitened for, or
    more: the moment of whitened rows is well conditioned then. Cost O(n p^2 + p^3), no
    copy of the rows.
    """
    design, old = problem.rows.design, problem.metric
    total = curvature.sum()
    d = design.shape[2] - 1 if intercept else design.shape[2]
    second = moment(design, curvature, across=problem.rows.across)
    centre = second[d, :d] / total if intercept else jnp.zeros(d, second.dtype)
    second = second[:d, :d] - total * centre[:, None] * centre[None, :]
    penalty = ridge * old.ridge_spectrum[:d]
    scale = jnp.sqrt(jnp.diag(second) + penalty)
    metric, _ = metric_of(
        second / (scale[:, None] * scale[None, :]),
        penalty / jnp.square(scale),
        old.directions[:, :d],
        total=total,
        centre=centre,
        scale=scale,
        intercept=intercept,
        conditioned=True,
    )
    forward, back = metric.to_coefficients, metric.to_whitened
    if intercept:
        last = jnp.zeros(d + 1, second.dtype).at[d].set(1)
        forward = jnp.concatenate([forward, (last - centre @ forward)[None]])
        back = jnp.column_stack([back.at[d].set(centre), last])
    to_coefficients = matmul(old.to_coefficients[:, :d], metric.to_coefficients)
    ridge_spectrum = jnp.square(to_coefficients).sum(axis=0)
    metric = metric._replace(
        to_coefficients=to_coefficients, ridge_spectrum=ridge_spectrum
    )
    return Turned(metric, forward, back)


def metric_of(
    second: Float[Array, "d d"],
    penalty: Float[Array, " d"],
    directions: Float[Array, "k d"],
    *,
    total: Float[Array, ""],
    centre: Float[Array, " d"],
    scale: Float[Array, " d"],
    intercept: bool,
    conditioned: bool = False,
) -> tuple[Metric, Float[Array, "d q"]]:
    """Coordinates in which `A = sum_i q_i x_i x_i'`, q the curvature, is diagonal.

    The ridge is diagonal there too. With `sigma^2 = diag(A) + ridge` and
    `M = sigma^-1 (A + ridge) sigma^-1`, whose diagonal is 1, the map is
    `T = sigma^-1 M^-1/2 V`, V the eigenvectors of what A becomes under the first two
    factors: `T'AT = diag(spectrum)` and `T'T = (1 - spectrum) / ridge`. Any other ridge
    keeps both diagonal; `ridge` is where the floating-point metric is most accurate.

    Args:
        second: `sigma^-1 A sigma^-1`.
        penalty: diagonal of what the ridge is there, `ridge / sigma^2`.
        directions: the `u_k`.
        total: sum of the q.
        centre: what was subtracted from the features, 0 without an intercept.
        scale: `sigma`.
        intercept: whether there is one.
        conditioned: whether M is known to be far from singular: then its Cholesky
            factor is as good as a root, and costs a quarter.

    Returns:
        The metric, and what maps its coordinates to those of `second`: `M^-1/2 V`. Cost
        O(d^3).
    """
    n_features = second.shape[0]
    eps = jnp.finfo(second.dtype).eps
    correlations = second + jnp.diag(penalty)
    if conditioned:
        back = jnp.linalg.cholesky(correlations).T
        forward = jax.scipy.linalg.solve_triangular(
            back, jnp.eye(n_features, dtype=second.dtype)
        )
    else:
        values, vectors = jnp.linalg.eigh(correlations)
        root = jnp.sqrt(jnp.maximum(values, eps * n_features * values[-1]))
        back, forward = (vectors * root[None, :]).T, vectors / root[None, :]
    spectrum, rotation = jnp.linalg.eigh(matmul(forward.T, matmul(second, forward)))
    forward = matmul(forward, rotation)
    to_whitened = matmul(rotation.T, back) * scale[None, :]
    to_coefficients = forward / scale[:, None]
    spectrum = jnp.maximum(spectrum, 0)
    ridge_spectrum = jnp.square(to_coefficients).sum(axis=0)
    directions = matmul(directions, to_coefficients)
    if intercept:
        spectrum = jnp.append(spectrum, total)
        ridge_spectrum = jnp.pad(ridge_spectrum, (0, 1))
        directions = jnp.pad(directions, ((0, 0), (0, 1)))
        to_coefficients = jnp.pad(to_coefficients, ((0, 0), (0, 1)))
        to_whitened = jnp.pad(to_whitened, ((0, 1), (0, 0)))
    metric = Metric(
        spectrum, ridge_spectrum, directions, to_coefficients, to_whitened, centre
    )
    return metric, forward


def to_point(metric: Metric, model: Model, *, intercept: bool) -> Array:
    """Whitened coordinates of models."""
    point = matmul(metric.to_whitened, model.coefficients)
    if intercept:
        constant = model.intercept + metric.centre @ model.coefficients
        point = point.at[-1].set(constant)
    return point


def to_model(metric: Metric, point: Array, *, intercept: bool) -> Model:
    """Models from their whitened coordinates."""
    coefficients = matmul(metric.to_coefficients, point)
    constant = point[-1] - metric.centre @ coefficients if intercept else 0 * point[0]
    return Model(coefficients, constant)


def choose(flags: Bool[Array, "*m"], left: Tree, right: Tree) -> Tree:
    """For every configuration, the leaves of one tree or of the other."""

    def leaf(a, b):
        ranks = (1,) * (a.ndim - flags.ndim)
        return jnp.where(flags.reshape(ranks + flags.shape), a, b)

    return jax.tree.map(leaf, left, right)


def ridge_slope(
    metric: Metric, settings: Settings, point: Float[Array, "p *m"]
) -> Float[Array, "p *m"]:
    """Gradient of the ridge term, whose value is half its product with `point`.

    By way of the coefficients: what rounding leaves off the diagonal counts in float32
    where there are more columns than rows.
    """
    coefficients = matmul(metric.to_coefficients, point)
    return settings.ridge[None] * matmul(metric.to_coefficients.T, coefficients)


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
