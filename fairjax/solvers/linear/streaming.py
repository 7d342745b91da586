"""Linear models whose rows are a stream: the steps of `accelerated`, fed by passes.

Metric, risk and gradients are sums over rows, for all configurations at once. `passes`
makes them chunk by chunk, in standardised coordinates that never change; steps and
certificates between the passes are small, and the same code as in memory. Rows are
single precision, sums and all that is small double, so that rounding over millions of
rows does not spoil the certificate.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ... import erm
from ...arrays import checks
from ...streams import Stream
from . import accelerated, passes, problem
from .passes import ColumnStatistics, Standardisation
from .problem import Model, Settings
from .results import LinearFit, to_fit
from .whitening import Metric, make_metric, unwhiten, whiten_model


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
) -> LinearFit:
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
        intercept: True fits b, which is never penalised.
        precision: relative gap asked for, above 0. Rows are single precision, which
            1e-7 still leaves room for.
        max_passes: how often the rows may be read. Configurations that are open then
            keep the best point found and say so in `converged`.

    Returns:
        One model per configuration in float32, without a leading axis when all are
        scalars; `iterations` are passes in which a configuration moved. Cost: per pass
        `4 n d m` operations and one reading, in a thread ahead of them; `2 n d^2` more
        in the few that renew the metric. Memory: five chunks and 1,024 m scores.

    Raises:
        ValueError: for the hinge, whose second-order steps need all rows at once; for
            settings that `fit_linear` refuses; for chunks that are not finite, labels
            other than 0 and 1 or all equal, negative weights; for a stream that cannot
            be read again or is not the same when it is.

    Example:
        >>> from fairjax import streams
        >>> features = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
        >>> stream = streams.from_arrays(features, np.array([0, 0, 1, 1]), chunk=3)
        >>> fit = fit_linear_stream(stream, ridge=0.1,
        ...     directions=np.array([[1.0, 0.0]]), tolerance=np.array([0.0, 0.5]))
        >>> fit.converged.tolist(), fit.coefficients[:, 0].round(3).tolist()
        ([True, True], [0.0, 0.5])

    References:
        Donini et al., NeurIPS 2018, Problem 11 and Eq. 12.
    """
    smooth = problem.smooth_loss(loss)
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
    shape = problem.check_settings(settings, rows)
    statistics = passes.column_statistics(
        chunks, binary=loss is not erm.squared, intercept=intercept
    )
    d = len(statistics.standardisation.scale)
    rows = np.zeros((0, d)) if directions is None else rows
    if rows.shape[1] != d:
        raise ValueError(
            f"`directions` must have a column for each of the {d} features, but have "
            f"{rows.shape[1]}."
        )
    with jax.enable_x64(True):
        m = shape[0] if shape else 1
        columns = problem.as_settings(
            problem.broadcast_settings(settings, m, len(rows), jnp.float64)
        )
        fit = _fit(
            chunks,
            statistics,
            columns,
            jnp.asarray(rows),
            loss=smooth,
            intercept=intercept,
            precision=jnp.asarray(precision, jnp.float64),
            max_passes=max_passes,
        )
        fit = jax.tree.map(
            lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, fit
        )
    return fit if shape else jax.tree.map(lambda a: a[0], fit)


def _fit(
    chunks: Stream,
    statistics: ColumnStatistics,
    settings: Settings,
    directions: Float[Array, "k d"],
    *,
    loss: erm.SmoothLoss,
    intercept: bool,
    precision: Float[Array, ""],
    max_passes: int,
) -> LinearFit:
    """Models and certificates, by rounds as in `accelerated.solve_batch`.

    Each round starts with the pass for its metric, which also certifies the point that
    it starts from: a metric costs no further pass.
    """
    standardisation = statistics.standardisation
    sums_at = functools.partial(
        passes.sum_over_chunks, chunks, statistics, loss=loss, intercept=intercept
    )
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    model, state = problem.initial_state(directions, settings.ridge.shape[0])
    best_model, best = model, state
    n_passes, number = 1, 0

    while True:
        point = _standardise(standardisation, model, intercept=intercept)
        sums = sums_at(point, of=passes.moment_sums)
        n_passes += 1
        metric, to_pass = _metric(
            sums[2], standardisation, centre, directions, intercept=intercept
        )
        steps = _init(metric, model, state, best_model, best, intercept=intercept)
        for count in range(accelerated.MIN_STEPS * 2**number):
            base = steps.state.point
            if count % accelerated.CHECK_EVERY == 0:
                if count:
                    sums = sums_at(to_pass @ base, of=passes.risk_sums)
                    n_passes += 1
                steps = _certify_steps(
                    metric,
                    settings,
                    steps,
                    sums[1],
                    to_pass.T @ sums[0],
                    precision=precision,
                )
                if bool(steps.best.converged.all()) or n_passes >= max_passes:
                    break
            else:
                base = _extrapolate(steps)
                sums = sums_at(to_pass @ base, of=passes.gradient_sums)
                n_passes += 1
            steps = _step(metric, settings, steps, base, to_pass.T @ sums[0])
            if n_passes >= max_passes:
                break
        model = _unwhiten(metric, steps.state.point, intercept=intercept)
        best_model = _unwhiten(metric, steps.best.point, intercept=intercept)
        state, best = steps.state, steps.best
        number += 1
        if bool(best.converged.all()) or n_passes >= max_passes:
            break
    best = best._replace(iterations=state.iterations)
    return to_fit(directions, settings, best_model, best, precision=precision)


@functools.partial(jax.jit, static_argnames="intercept")
def _metric(
    moment: Float[Array, "q q"],
    standardisation: Standardisation,
    ridge: Float[Array, ""],
    directions: Float[Array, "k d"],
    *,
    intercept: bool,
) -> tuple[Metric, Float[Array, "q p"]]:
    """The metric, and the map from its coordinates to those of the passes."""
    origin, unit = (jnp.asarray(a) for a in standardisation)
    total = jnp.trace(moment)
    centre = origin
    if intercept:
        total, first = moment[-1, -1], moment[-1, :-1]
        moment = moment[:-1, :-1] - first[:, None] * first[None, :] / total
        centre = origin + unit * first / total
    penalty = ridge / jnp.square(unit)
    scale = jnp.sqrt(jnp.maximum(jnp.diag(moment), 0) + penalty)
    second = moment / (scale[:, None] * scale[None, :])
    # Single precision leaves eigenvalues below 0; without, the ridge is diagonal.
    values, vectors = jnp.linalg.eigh((second + second.T) / 2)
    second = (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.T
    metric, _ = make_metric(
        second,
        penalty / jnp.square(scale),
        directions,
        total=total,
        centre=centre,
        scale=scale * unit,
        intercept=intercept,
    )
    to_pass = metric.to_coefficients * unit[:, None]
    if intercept:
        constant = (origin - centre) @ metric.to_coefficients
        to_pass = jnp.concatenate([to_pass, constant.at[-1].add(1)[None]])
    return metric, to_pass


@functools.partial(jax.jit, static_argnames="intercept")
def _standardise(
    standardisation: Standardisation, model: Model, *, intercept: bool
) -> Float[Array, "q m"]:
    """Models in the coordinates of the passes."""
    point = model.coefficients * standardisation.scale[:, None]
    if intercept:
        constant = model.intercept + standardisation.centre @ model.coefficients
        point = jnp.concatenate([point, constant[None]])
    return point


@functools.partial(jax.jit, static_argnames="intercept")
def _init(metric, model, state, best_model, best, *, intercept):
    """The steps in a new metric, before the first one, from those in the last."""
    point = whiten_model(metric, model, intercept=intercept)
    best_point = whiten_model(metric, best_model, intercept=intercept)
    return accelerated.init(
        state._replace(point=point), best._replace(point=best_point)
    )


_unwhiten = jax.jit(unwhiten, static_argnames="intercept")
_certify_steps = jax.jit(accelerated.certify_steps)
_extrapolate = jax.jit(accelerated.extrapolate)
_step = jax.jit(accelerated.step)
