"""Whitened coordinates: the second moment of the features and the ridge are diagonal.

A metric is a symmetric matrix `A = sum_i q_i x_i x_i'` for curvatures q of the loss.
`whiten` moves the rows into coordinates where A is diagonal; `rewhiten` finds those of
another curvature without another copy of the rows. `whiten_model` and `unwhiten` carry
models there and back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .blocks import Data, Rows, matmul, moment
from .problem import Model, Settings


class Metric(NamedTuple):
    """Whitened coordinates, where an intercept is the last of them.

    Attributes:
        spectrum: diagonal of the metric, `sum_i q_i x_i x_i'`.
        ridge_spectrum: diagonal of `|w|^2` in these coordinates.
        directions: the `u_k` in these coordinates.
        to_coefficients: maps whitened coordinates to coefficients.
        to_whitened: maps coefficients to whitened coordinates.
        centre: subtracted from the features; zero without an intercept.
    """

    spectrum: Float[Array, " p"]
    ridge_spectrum: Float[Array, " p"]
    directions: Float[Array, "k p"]
    to_coefficients: Float[Array, "d p"]
    to_whitened: Float[Array, "p d"]
    centre: Float[Array, " d"]


class WhitenedData(NamedTuple):
    """A data set in the coordinates of a metric; its mass sums to 1."""

    rows: Rows
    metric: Metric


class RotatedMetric(NamedTuple):
    """A metric whose coordinates differ from those of the rows.

    Attributes:
        metric: its `to_whitened` and `centre` are from the rows' coordinates.
        to_rows: maps its coordinates to those of the rows.
        from_rows: the inverse.
    """

    metric: Metric
    to_rows: Float[Array, "p p"]
    from_rows: Float[Array, "p p"]


def whiten(
    data: Data,
    curvature: Float[Array, "blocks rows"],
    ridge: Float[Array, ""],
    *,
    intercept: bool,
) -> WhitenedData:
    """The data set in the coordinates of `make_metric`, for the curvature q.

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
    metric, forward = make_metric(
        moment(scaled, curvature, devices=data.devices),
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
    return WhitenedData(Rows(design, data.labels, data.mass, data.devices), metric)


def rewhiten(
    data: WhitenedData,
    curvature: Float[Array, "blocks rows"],
    ridge: Float[Array, ""],
    *,
    intercept: bool,
) -> RotatedMetric:
    """The metric of another curvature, for rows that stay as `whiten` made them.

    The curvature must be at least 10 % of the one that the rows were whitened for, so
    that their moment is well conditioned. Cost O(n p^2 + p^3), no copy of the rows.
    """
    design, old = data.rows.design, data.metric
    total = curvature.sum()
    d = design.shape[2] - 1 if intercept else design.shape[2]
    second = moment(design, curvature, devices=data.rows.devices)
    centre = second[d, :d] / total if intercept else jnp.zeros(d, second.dtype)
    second = second[:d, :d] - total * centre[:, None] * centre[None, :]
    penalty = ridge * old.ridge_spectrum[:d]
    scale = jnp.sqrt(jnp.diag(second) + penalty)
    metric, _ = make_metric(
        second / (scale[:, None] * scale[None, :]),
        penalty / jnp.square(scale),
        old.directions[:, :d],
        total=total,
        centre=centre,
        scale=scale,
        intercept=intercept,
        conditioned=True,
    )
    forward, inverse = metric.to_coefficients, metric.to_whitened
    if intercept:
        last = jnp.zeros(d + 1, second.dtype).at[d].set(1)
        forward = jnp.concatenate([forward, (last - centre @ forward)[None]])
        inverse = jnp.column_stack([inverse.at[d].set(centre), last])
    to_coefficients = matmul(old.to_coefficients[:, :d], metric.to_coefficients)
    ridge_spectrum = jnp.square(to_coefficients).sum(axis=0)
    metric = metric._replace(
        to_coefficients=to_coefficients, ridge_spectrum=ridge_spectrum
    )
    return RotatedMetric(metric, forward, inverse)


def make_metric(
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
    """The metric in which `A = sum_i q_i x_i x_i'`, q the curvature, is diagonal.

    The ridge is diagonal there too. With `sigma^2 = diag(A) + ridge` and
    `M = sigma^-1 (A + ridge) sigma^-1`, whose diagonal is 1, the map is
    `T = sigma^-1 M^-1/2 V`, V the eigenvectors of what A becomes under the first two
    factors: `T'AT = diag(spectrum)` and `T'T = (1 - spectrum) / ridge`. Any other ridge
    keeps both diagonal; `ridge` is where the floating-point metric is most accurate.

    Args:
        second: `sigma^-1 A sigma^-1`.
        penalty: diagonal of the ridge there, `ridge / sigma^2`.
        directions: the `u_k`.
        total: sum of the q.
        centre: subtracted from the features, 0 without an intercept.
        scale: `sigma`.
        intercept: True appends its coordinate.
        conditioned: True where M is known to be far from singular: then its Cholesky
            factor is as accurate as a root, and costs a quarter.

    Returns:
        The metric, and the map from its coordinates to those of `second`: `M^-1/2 V`.
        Cost O(d^3).
    """
    n_features = second.shape[0]
    eps = jnp.finfo(second.dtype).eps
    correlations = second + jnp.diag(penalty)
    if conditioned:
        root = jnp.linalg.cholesky(correlations).T
        forward = jax.scipy.linalg.solve_triangular(
            root, jnp.eye(n_features, dtype=second.dtype)
        )
    else:
        values, vectors = jnp.linalg.eigh(correlations)
        roots = jnp.sqrt(jnp.maximum(values, eps * n_features * values[-1]))
        root, forward = (vectors * roots[None, :]).T, vectors / roots[None, :]
    spectrum, rotation = jnp.linalg.eigh(matmul(forward.T, matmul(second, forward)))
    forward = matmul(forward, rotation)
    to_whitened = matmul(rotation.T, root) * scale[None, :]
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


def whiten_model(metric: Metric, model: Model, *, intercept: bool) -> Array:
    """Whitened coordinates of models."""
    point = matmul(metric.to_whitened, model.coefficients)
    if intercept:
        constant = model.intercept + metric.centre @ model.coefficients
        point = point.at[-1].set(constant)
    return point


def unwhiten(metric: Metric, point: Array, *, intercept: bool) -> Model:
    """Models from their whitened coordinates."""
    coefficients = matmul(metric.to_coefficients, point)
    constant = point[-1] - metric.centre @ coefficients if intercept else 0 * point[0]
    return Model(coefficients, constant)


def ridge_diagonal(metric: Metric, settings: Settings) -> Float[Array, "p *m"]:
    """Diagonal of the ridge term in whitened coordinates, for every configuration."""
    ones = (1,) * settings.ridge.ndim
    return settings.ridge[None] * metric.ridge_spectrum.reshape(-1, *ones)


def ridge_gradient(
    metric: Metric, settings: Settings, point: Float[Array, "p *m"]
) -> Float[Array, "p *m"]:
    """Gradient of the ridge term, whose value is half its product with `point`.

    By way of the coefficients: the off-diagonal entries that rounding leaves count in
    float32 where there are more columns than rows.
    """
    coefficients = matmul(metric.to_coefficients, point)
    return settings.ridge[None] * matmul(metric.to_coefficients.T, coefficients)
