"""Linear models whose rows are a stream: the steps of `_first_order`, fed by passes.

Metric, risk and slopes are sums over rows, for all configurations at once. A pass makes
them chunk by chunk, in coordinates that never change (features less their mean, divided
by a power of 2, and a constant); what steps and certificates do afterwards is small,
and the same code as in memory. Rows are single precision, sums and all that is small
double, so that millions of rows do not wear the certificate out.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float32, Float64

from ... import erm, streams
from ...arrays import checks
from ...streams import Chunk, Stream
from . import accelerated, problem, results
from . import blocks as _blocks
from .blocks import Rows
from .problem import Metric, Model, Settings, Smooth

Sums = tuple[Array, ...]

# Rows of a chunk that are in the processor's cache together.
ROWS = 1_024


class Frame(NamedTuple):
    """The coordinates of all passes, `(x - centre) / scale`; both exact in float32."""

    centre: Float64[np.ndarray, " d"]
    scale: Float64[np.ndarray, " d"]


class Survey(NamedTuple):
    """What the first pass learned.

    Attributes:
        frame: centre 0 without an intercept.
        chunks: how many there are.
        weight: sum of all weights.
    """

    frame: Frame
    chunks: int
    weight: float


def fit_linear_stream(
    chunks: Stream,
    *,
    loss: erm.Loss = erm.logistic,
    ridge: ArrayLike = 1e-4,
    directions: Float[ArrayLike, "k d"] | None = None,
    tolerance: ArrayLike = float("inf"),
    target: ArrayLike = 0.0,
    lam: ArrayLike = 0.0,
    intercept: bool = True,
    precision: float = 1e-6,
    max_passes: int = 200,
) -> results.LinearFit:
    """`fit_linear` for rows that do not fit into memory: the same problem and proof.

    All configurations go through the rows together. About 50 passes bring the 64
    configurations of a frontier to a relative gap of 1e-6, whatever the number of rows.

    Args:
        chunks: a stream, from `datasets.from_parquet` or `streams.from_arrays`, or any
            object that yields the same `streams.Chunk` in every iteration. Groups are
            not read; weights are, and rows of weight 0 must be finite too.
        loss: `erm.logistic`, `erm.squared_hinge` or `erm.squared`. Not `erm.hinge`.
        ridge: weight of the ridge term, above 0; scalar or `(m,)`.
        directions: the `u_k`, from `orthogonality.directions_stream`; none means no
            fairness term.
        tolerance: bound on each `|<w, u_k>|` [score], infinity for none; scalar, `(m,)`
            or `(m, k)`.
        target: what each `<w, u_k>` is kept near [score]; shapes as `tolerance`.
        lam: penalty weight, at least 0; scalar or `(m,)`.
        intercept: whether to fit b, which is never penalised.
        precision: relative gap asked for, above 0. Rows are single precision, which
            1e-7 still leaves room for.
        max_passes: how often the rows may be read. Configurations that are open then
            keep the best point found and say so in `converged`.

    Returns:
        One model per configuration in float32, without a leading axis when all are
        scalars; `iterations` are passes in which a configuration moved. Cost: per pass
        `4 n d m` operations and one reading, in a thread ahead of them; `2 n d^2` more
        in the few that renew the metric. Memory: five chunks and `ROWS * m` scores.

    Raises:
        ValueError: for the hinge, whose second-order steps need all rows at once; for
            settings that `fit_linear` refuses; for chunks that are not finite, labels
            other than 0 and 1 or all equal, negative weights; for a stream that cannot
            be read again or is not the same when it is.

    Example:
        >>> features = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
        >>> stream = streams.from_arrays(features, np.array([0, 0, 1, 1]), chunk=3)
        >>> fit = fit_linear_stream(stream, ridge=0.1,
        ...     directions=np.array([[1.0, 0.0]]), tolerance=np.array([0.0, 0.5]))
        >>> fit.converged.tolist(), fit.coefficients[:, 0].round(3).tolist()
        ([True, True], [0.0, 0.5])

    References:
        Donini et al., NeurIPS 2018, Problem 11 and Eq. 12.
    """
    smooth = results.check_loss(loss)
    if smooth is None:
        raise ValueError(
            "`loss` must be smooth for a stream, but is erm.hinge, whose second-order "
            "steps need all rows at once. Use erm.squared_hinge, or `fit_linear` on a "
            "sample of the rows."
        )
    checks.check_nonnegative(precision, name="precision", positive=True)
    if max_passes < 2:
        raise ValueError(
            f"`max_passes` must be at least 2, but is {max_passes}: the first pass "
            f"only surveys the rows."
        )
    settings = {"ridge": ridge, "tolerance": tolerance, "target": target, "lam": lam}
    rows = np.zeros((0, 1)) if directions is None else np.asarray(directions, float)
    shape = results.check_settings(settings, rows)
    survey = _survey(chunks, binary=loss is not erm.squared, intercept=intercept)
    d = len(survey.frame.scale)
    rows = np.zeros((0, d)) if directions is None else rows
    if rows.shape[1] != d:
        raise ValueError(
            f"`directions` must have a column for each of the {d} features, but have "
            f"{rows.shape[1]}."
        )
    with jax.enable_x64(True):
        columns = {k: jnp.asarray(v, jnp.float64) for k, v in settings.items()}
        columns = results.in_columns(
            columns, shape[0] if shape else 1, jnp.asarray(rows)
        )
        fit = _fit(
            chunks,
            survey,
            columns,
            jnp.asarray(rows),
            loss=smooth,
            intercept=intercept,
            precision=precision,
            max_passes=max_passes,
        )
        fit = jax.tree.map(
            lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, fit
        )
    return fit if shape else jax.tree.map(lambda a: a[0], fit)


def _fit(
    chunks: Stream,
    survey: Survey,
    settings: Settings,
    directions: Float[Array, "k d"],
    *,
    loss: Smooth,
    intercept: bool,
    precision: float,
    max_passes: int,
) -> results.LinearFit:
    """Rounds as in `_first_order.solve_batch`; each opens with the pass for its metric.

    That pass also certifies the point it starts from, so a metric costs no pass more.
    """
    kind = {"loss": loss, "intercept": intercept}
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    model, state = accelerated.opening(directions, settings.ridge.shape[0])
    best_model, best = model, state
    passes, number = 1, 0

    while True:
        raw = _to_raw(survey.frame, model, intercept=intercept)
        sums = _sums(chunks, survey, raw, of=_with_moment, **kind)
        passes += 1
        metric, to_raw = _metric(
            sums[2], survey.frame, centre, directions, intercept=intercept
        )
        steps = _open(metric, model, state, best_model, best, intercept=intercept)
        for count in range(accelerated.FEWEST * 2**number):
            base = steps.state.point
            if count % accelerated.CHECK_EVERY == 0:
                if count:
                    sums = _sums(chunks, survey, to_raw @ base, of=_with_risk, **kind)
                    passes += 1
                steps = _certified(
                    metric,
                    settings,
                    steps,
                    sums[1],
                    to_raw.T @ sums[0],
                    precision=precision,
                )
                if bool(steps.best.converged.all()) or passes >= max_passes:
                    break
            else:
                base = _ahead(steps)
                sums = _sums(chunks, survey, to_raw @ base, of=_slope, **kind)
                passes += 1
            steps = _stepped(metric, settings, steps, base, to_raw.T @ sums[0])
            if passes >= max_passes:
                break
        model = _to_model(metric, steps.state.point, intercept=intercept)
        best_model = _to_model(metric, steps.best.point, intercept=intercept)
        state, best = steps.state, steps.best
        number += 1
        if bool(best.converged.all()) or passes >= max_passes:
            break
    best = best._replace(iterations=state.iterations)
    return results.report(directions, settings, best_model, best, precision=precision)


def _survey(chunks: Stream, *, binary: bool, intercept: bool) -> Survey:
    """The first pass: checks every value, and finds centre and scale of the columns."""
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
            weight = weight + _weight(chunk)
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
    return Survey(Frame(centre, np.exp2(np.round(np.log2(spread)))), number, weight)


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


def _weight(chunk: Chunk) -> float:
    return float(chunk.weights.sum(dtype=np.float64))


def _sums(
    chunks: Stream,
    survey: Survey,
    point: Float[Array, "q m"],
    *,
    of: Callable[[Rows, Smooth, Array], Sums],
    loss: Smooth,
    intercept: bool,
) -> Sums:
    """One pass: `of` summed over all chunks, per unit of weight."""
    centre, scale = (a.astype(np.float32) for a in survey.frame)
    point = point.astype(jnp.float32)
    number, weight, total = 0, 0.0, None
    with contextlib.closing(streams.read(chunks)) as reader:
        for chunk in reader:
            number += 1
            if chunk.features.shape[1] != len(scale):
                break
            share = _share(
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
            before, total = total, share if total is None else _plus(total, share)
            weight += _weight(chunk)
            # Dispatch runs ahead of the device: without this, so would the chunks.
            jax.block_until_ready(before)
    if total is None or (number, weight) != (survey.chunks, survey.weight):
        raise ValueError(
            f"`chunks` must be the same in every pass, but the first one had "
            f"{survey.chunks} chunks of weight {survey.weight:g}, and a later one "
            f"{number} of weight {weight:g}."
        )
    return jax.tree.map(lambda a: a / survey.weight, total)


def _slope(rows: Rows, loss: Smooth, point: Array) -> Sums:
    return (accelerated.risk_slope(rows, loss, point),)


def _with_risk(rows: Rows, loss: Smooth, point: Array) -> Sums:
    return accelerated.risk_and_slope(rows, loss, point)[::-1]


def _with_moment(rows: Rows, loss: Smooth, point: Array) -> Sums:
    curvature = accelerated.mean_curvature(rows, loss, point)
    moment = _blocks.moment(rows.design, curvature, across=rows.across)
    return (*_with_risk(rows, loss, point), moment)


@functools.partial(jax.jit, static_argnames=("of", "loss", "intercept"))
def _share(
    features: Float32[Array, "r d"],
    labels: Float32[Array, " r"],
    weights: Float32[Array, " r"],
    centre: Float32[Array, " d"],
    shrink: Float32[Array, " d"],
    point: Float32[Array, "q m"],
    *,
    of: Callable[[Rows, Smooth, Array], Sums],
    loss: Smooth,
    intercept: bool,
) -> Sums:
    """A chunk's part of the sums, in double precision.

    Coordinates are made block by block: only a block of them is ever held.
    """

    def sums(features: Array, labels: Array, weights: Array) -> Sums:
        design = (features - centre[None]) * shrink[None]
        if intercept:
            design = jnp.pad(design, ((0, 0), (0, 1)), constant_values=1)
        return of(Rows(design[None], labels[None], weights[None]), loss, point)

    n = features.shape[0]
    blocks = -(-n // ROWS)
    rows = -(-n // blocks)
    extra = blocks * rows - n
    total = _blocks.over_blocks(
        sums,
        jnp.pad(features, ((0, extra), (0, 0))).reshape(blocks, rows, -1),
        jnp.pad(labels, (0, extra)).reshape(blocks, rows),
        jnp.pad(weights, (0, extra)).reshape(blocks, rows),
        across=_blocks.Across(),
    )
    return jax.tree.map(lambda a: a.astype(jnp.float64), total)


@jax.jit
def _plus(total: Sums, share: Sums) -> Sums:
    return jax.tree.map(jnp.add, total, share)


@jax.jit
def _column_sums(
    features: Float32[Array, "r d"], weights: Float32[Array, " r"]
) -> tuple[Float64[Array, " d"], Float64[Array, " d"]]:
    """Weighted sums of the columns and of their squares."""
    wide, mass = features.astype(jnp.float64), weights.astype(jnp.float64)[:, None]
    return (mass * wide).sum(axis=0), (mass * jnp.square(wide)).sum(axis=0)


@functools.partial(jax.jit, static_argnames="intercept")
def _metric(
    moment: Float[Array, "q q"],
    frame: Frame,
    ridge: Float[Array, ""],
    directions: Float[Array, "k d"],
    *,
    intercept: bool,
) -> tuple[Metric, Float[Array, "q p"]]:
    """The metric, and what maps its coordinates to those of the passes."""
    total, origin = jnp.trace(moment), jnp.asarray(frame.centre)
    centre = origin
    if intercept:
        total, first = moment[-1, -1], moment[-1, :-1]
        moment = moment[:-1, :-1] - first[:, None] * first[None, :] / total
        centre = origin + frame.scale * first / total
    penalty = ridge / jnp.square(frame.scale)
    scale = jnp.sqrt(jnp.maximum(jnp.diag(moment), 0) + penalty)
    second = moment / (scale[:, None] * scale[None, :])
    # Without what single precision left below 0, the ridge is exactly diagonal.
    values, vectors = jnp.linalg.eigh((second + second.T) / 2)
    second = (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.T
    metric, _ = problem.metric_of(
        second,
        penalty / jnp.square(scale),
        directions,
        total=total,
        centre=centre,
        scale=scale * frame.scale,
        intercept=intercept,
    )
    to_raw = metric.to_coefficients * frame.scale[:, None]
    if intercept:
        constant = (origin - centre) @ metric.to_coefficients
        to_raw = jnp.concatenate([to_raw, constant.at[-1].add(1)[None]])
    return metric, to_raw


@functools.partial(jax.jit, static_argnames="intercept")
def _to_raw(frame: Frame, model: Model, *, intercept: bool) -> Float[Array, "q m"]:
    """Models in the coordinates of the passes."""
    raw = model.coefficients * frame.scale[:, None]
    if intercept:
        constant = model.intercept + frame.centre @ model.coefficients
        raw = jnp.concatenate([raw, constant[None]])
    return raw


@functools.partial(jax.jit, static_argnames="intercept")
def _open(metric, model, state, best_model, best, *, intercept):
    """Steps in a new metric from where those in the last one led."""
    point = problem.to_point(metric, model, intercept=intercept)
    known = problem.to_point(metric, best_model, intercept=intercept)
    return accelerated.opened(state._replace(point=point), best._replace(point=known))


_to_model = jax.jit(problem.to_model, static_argnames="intercept")
_certified = jax.jit(accelerated.certified)
_ahead = jax.jit(accelerated.ahead)
_stepped = jax.jit(accelerated.stepped)
