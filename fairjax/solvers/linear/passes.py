"""Passes over a stream of chunks: checks, column statistics, and sums over rows.

Rows are single precision; they are centred, and scaled by powers of 2, block by block,
in coordinates that all passes share. Sums are double precision.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from ... import streams
from ...arrays import checks
from ...erm import SmoothLoss
from ...streams import Chunk, Stream
from . import accelerated
from . import blocks as row_blocks
from .blocks import Rows

Sums = tuple[Array, ...]
RowSums = Callable[[Rows, SmoothLoss, Array], Sums]

# Rows of a chunk that are in the processor's cache together.
ROWS = 1_024


class Standardisation(NamedTuple):
    """The coordinates of all passes, `(x - centre) / scale`; both exact in float32."""

    centre: Float64[np.ndarray, " d"]
    scale: Float64[np.ndarray, " d"]


class ColumnStatistics(NamedTuple):
    """Results of the first pass.

    Attributes:
        standardisation: centre 0 without an intercept.
        chunks: their number.
        weight: sum of all weights.
    """

    standardisation: Standardisation
    chunks: int
    weight: float


def column_statistics(
    chunks: Stream, *, binary: bool, intercept: bool
) -> ColumnStatistics:
    """Centre and scale of the columns, from a first pass that checks every value."""
    number, present = 0, set()
    weight, first, second = 0.0, 0.0, 0.0
    with contextlib.closing(streams.read(chunks)) as reader:
        for number, chunk in enumerate(reader, start=1):
            _check(chunk, number - 1, binary=binary)
            counted = chunk.labels[chunk.weights > 0]
            if counted.size:
                present |= {float(counted.min()), float(counted.max())}
            with jax.enable_x64(True):
                sums = jax.device_get(_column_sums(chunk.features, chunk.weights))
            weight = weight + _total_weight(chunk)
            first, second = first + sums[0], second + sums[1]
    if not weight > 0:
        raise ValueError("`weights` must have a positive entry, but all are zero.")
    if binary and len(present) < 2:
        raise ValueError(
            f"`labels` must hold both 0 and 1, but all are {present.pop():g}: there is "
            f"nothing to learn."
        )
    first, second = np.asarray(first) / weight, np.asarray(second) / weight
    centre = np.zeros_like(first)
    if intercept:
        centre = first.astype(np.float32).astype(np.float64)
    spread = np.sqrt(np.maximum(second - 2 * centre * first + centre**2, 1e-60))
    # A power of 2, so that nothing is rounded.
    scale = np.exp2(np.round(np.log2(spread)))
    return ColumnStatistics(Standardisation(centre, scale), number, weight)


def _check(chunk: Chunk, number: int, *, binary: bool) -> None:
    """Raises `ValueError` for values that no solver takes, and says in which chunk."""
    place = f"chunk {number}: "
    checks.check_finite(chunk.features, name=f"{place}features")
    checks.check_finite(chunk.labels, name=f"{place}labels")
    checks.check_finite(chunk.weights, name=f"{place}weights")
    checks.check_nonnegative(chunk.weights, name=f"{place}weights")
    if binary:
        bad = np.flatnonzero((chunk.labels != 0) & (chunk.labels != 1))
        if bad.size:
            raise ValueError(
                f"`labels` must be 0 or 1, but in chunk {number} labels[{bad[0]}] = "
                f"{chunk.labels[bad[0]]}. Map the favourable outcome to 1 and the "
                f"other one to 0."
            )


def _total_weight(chunk: Chunk) -> float:
    return float(chunk.weights.sum(dtype=np.float64))


def sum_over_chunks(
    chunks: Stream,
    statistics: ColumnStatistics,
    point: Float[Array, "q m"],
    *,
    of: RowSums,
    loss: SmoothLoss,
    intercept: bool,
) -> Sums:
    """Sums over all rows, from one pass, per unit of weight."""
    centre, scale = (a.astype(np.float32) for a in statistics.standardisation)
    point = point.astype(jnp.float32)
    number, weight, total = 0, 0.0, None
    with contextlib.closing(streams.read(chunks)) as reader:
        for chunk in reader:
            number += 1
            if chunk.features.shape[1] != len(scale):
                break
            partial = _chunk_sums(
                chunk.features,
                chunk.labels,
                chunk.weights,
                centre,
                1 / scale,
                point,
                of=of,
                loss=loss,
                intercept=intercept,
            )
            before, total = total, partial if total is None else _add(total, partial)
            weight += _total_weight(chunk)
            # Dispatch runs ahead of the device: without this, so would the chunks.
            jax.block_until_ready(before)
    if total is None or (number, weight) != (statistics.chunks, statistics.weight):
        raise ValueError(
            f"`chunks` must be the same in every pass, but the first one had "
            f"{statistics.chunks} chunks of weight {statistics.weight:g}, and a later "
            f"one {number} of weight {weight:g}."
        )
    return jax.tree.map(lambda a: a / statistics.weight, total)


def gradient_sums(rows: Rows, loss: SmoothLoss, point: Array) -> Sums:
    """The gradient of the risk."""
    return (accelerated.risk_gradient(rows, loss, point),)


def risk_sums(rows: Rows, loss: SmoothLoss, point: Array) -> Sums:
    """The gradient of the risk, and the risk."""
    return accelerated.risk_and_gradient(rows, loss, point)[::-1]


def moment_sums(rows: Rows, loss: SmoothLoss, point: Array) -> Sums:
    """The gradient of the risk, the risk, and the second moment under its curvature."""
    curvature = accelerated.mean_curvature(rows, loss, point)
    moment = row_blocks.moment(rows.design, curvature, devices=rows.devices)
    return (*risk_sums(rows, loss, point), moment)


@functools.partial(jax.jit, static_argnames=("of", "loss", "intercept"))
def _chunk_sums(
    features: Float32[Array, "r d"],
    labels: Float32[Array, " r"],
    weights: Float32[Array, " r"],
    centre: Float32[Array, " d"],
    inverse_scale: Float32[Array, " d"],
    point: Float32[Array, "q m"],
    *,
    of: RowSums,
    loss: SmoothLoss,
    intercept: bool,
) -> Sums:
    """The sums over one chunk, in double precision.

    Rows are standardised block by block, so that only a block of them is ever held.
    """

    def sums(features: Array, labels: Array, weights: Array) -> Sums:
        design = (features - centre[None]) * inverse_scale[None]
        if intercept:
            design = jnp.pad(design, ((0, 0), (0, 1)), constant_values=1)
        return of(Rows(design[None], labels[None], weights[None]), loss, point)

    n = features.shape[0]
    blocks = -(-n // ROWS)
    rows = -(-n // blocks)
    extra = blocks * rows - n
    total = row_blocks.sum_over_blocks(
        sums,
        jnp.pad(features, ((0, extra), (0, 0))).reshape(blocks, rows, -1),
        jnp.pad(labels, (0, extra)).reshape(blocks, rows),
        jnp.pad(weights, (0, extra)).reshape(blocks, rows),
        devices=row_blocks.Devices(),
    )
    return jax.tree.map(lambda a: a.astype(jnp.float64), total)


@jax.jit
def _add(total: Sums, partial: Sums) -> Sums:
    return jax.tree.map(jnp.add, total, partial)


@jax.jit
def _column_sums(
    features: Float32[Array, "r d"], weights: Float32[Array, " r"]
) -> tuple[Float64[Array, " d"], Float64[Array, " d"]]:
    """Weighted sums of the columns and of their squares."""
    wide, mass = features.astype(jnp.float64), weights.astype(jnp.float64)[:, None]
    return (mass * wide).sum(axis=0), (mass * jnp.square(wide)).sum(axis=0)
