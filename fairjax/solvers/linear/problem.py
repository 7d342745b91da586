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

*Constraint and penalty.* Solved exactly in every step, by the few multipliers mu of
`_multipliers`, which give the certificate its dual point.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ... import erm
from .blocks import Data, Rows, matmul, moment

Loss = Callable[[Array, Array], Array]
Tree = TypeVar("Tree")


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
