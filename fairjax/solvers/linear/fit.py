"""Linear models in memory: batched first-order steps, then second-order ones.

`fit_linear` checks its arguments, solves all configurations by accelerated steps, and
hands those that did not converge, and all of the hinge's, to second-order methods in
double precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from ... import erm
from ...arrays import checks, samples
from ...arrays import mesh as meshes
from . import accelerated, blocks, interior_point, newton, problem
from .problem import Model, Settings, State
from .results import LinearFit, to_fit
from .whitening import unwhiten, whiten, whiten_model


def fit_linear(
    features: Real[Array, "n d"],
    labels: Real[Array, " n"] | Bool[Array, " n"],
    *,
    loss: erm.Loss = erm.logistic,
    ridge: ArrayLike = 1e-4,
    directions: Float[Array, "k d"] | None = None,
    tolerance: ArrayLike = float("inf"),
    target: ArrayLike = 0.0,
    lam: ArrayLike = 0.0,
    weights: Real[Array, " n"] | Bool[Array, " n"] | None = None,
    intercept: bool = True,
    precision: float | None = None,
    batch: int = 64,
    max_iterations: int = 60,
    mesh: Mesh | None = None,
) -> LinearFit:
    """Linear models under fairness constraints or penalties, fitted in one program.

    For every configuration (ridge, tolerance, lam) it solves

        minimise  mean loss(<w, x> + b, y) + ridge/2 |w|^2 + lam sum_k <w, u_k>^2
        subject to  |<w, u_k> - target_k| <= tolerance_k,

    P1's fair empirical risk minimisation with its linear surrogate, and proves the
    result by a duality gap. A support vector machine with constant C has
    `ridge = 1 / (n C)`. The constraint is on gaps of mean scores; check the gaps of
    decisions with `metrics`.

    Args:
        features: samples; masked-out rows must be finite too.
        labels: 0 or 1 (any real numbers for `erm.squared`); both must occur.
        loss: static; `erm.logistic`, `erm.squared_hinge`, `erm.squared` (smooth:
            batched steps) or `erm.hinge` (second-order steps, one
            configuration at a time).
        ridge: weight of the ridge term, above 0; scalar or `(m,)`.
        directions: the `u_k`, from `orthogonality.directions`; none means no fairness
            term.
        tolerance: bound on each `|<w, u_k>|` [score], infinity for none; scalar, `(m,)`
            or `(m, k)`.
        target: what each `<w, u_k>` is kept near [score], 0 in the paper; shapes as
            `tolerance`. Equal mean scores can leave unequal decisions: a target beyond
            0 reaches the rest of the frontier.
        lam: penalty weight, at least 0; scalar or `(m,)`.
        weights: non-negative sample weights, or a mask.
        intercept: static; True fits b, which is never penalised.
        precision: relative gap asked for, 1e-6 in float32 and 1e-10 in float64
            when None. Outside `jit`, configurations that batched float32 steps leave
            open, and all of the hinge's, are finished in float64.
        batch: static; configurations solved together. More share each pass over the
            data, and hold `batch` scores for each row of a block.
        max_iterations: limit of second-order steps for configurations that the
            batched steps leave open.
        mesh: static; devices that share the rows, over all axes of the mesh, as
            `sharding.shard_rows` lays them. Rows stay where they are; see `sharding`
            for the bytes sent. The mesh may span processes, which all get the models.

    Returns:
        One model per configuration, without a leading axis when all are scalars.
        Configurations next to each other in the batch start from one another's
        solutions. Cost: about 30 steps of `4 n d` operations per smooth configuration
        and 30 of `2 n d^2` per hinge configuration; memory three copies of the features
        plus `batch` scores for each row of a block, on each device at most 16,384 on
        a CPU and 65,536 elsewhere, whatever the number of configurations.

    Raises:
        ValueError: for input that is not finite, labels other than 0 and 1 or all
            equal, lengths that differ, bad weights, ridge not above 0, negative
            tolerance or lam, directions of another width, a `batch` below 1, batch
            shapes that do not match, a loss not in the list, a `mesh` that is none.
            Inside `jit`, where values are not known, `converged` is False instead.

    Example:
        >>> features = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> fit = fit_linear(features, labels, ridge=0.1,
        ...     directions=jnp.array([[1.0, 0.0]]), tolerance=jnp.array([0.0, 0.5]))
        >>> fit.converged.tolist(), fit.coefficients[:, 0].round(3).tolist()
        ([True, True], [0.0, 0.5])

    References:
        Donini et al., NeurIPS 2018, Problem 11 and Eq. 12. Reverse-mode gradients
        through the solver are not defined: JAX refuses them.
    """
    smooth = problem.smooth_loss(loss)
    if mesh is not None:
        mesh = meshes.check_auto(mesh)
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1 configuration, but is {batch}.")
    _check_samples(features, labels, weights, binary=loss is not erm.squared)
    features = _floating(jnp.asarray(features))
    dtype = features.dtype
    if directions is None:
        directions = jnp.zeros((0, features.shape[1]), dtype)
    settings = {"ridge": ridge, "tolerance": tolerance, "target": target, "lam": lam}
    shape = problem.check_settings(settings, directions)
    if np.shape(directions)[1:] != features.shape[1:]:
        raise ValueError(
            f"`directions` must have the {features.shape[1]} columns of `features`, "
            f"but have shape {np.shape(directions)}."
        )
    m, k = shape[0] if shape else 1, np.shape(directions)[0]
    settings = problem.broadcast_settings(settings, m, k, dtype)
    mass = np.ones(features.shape[0], dtype) if weights is None else weights
    data = [jnp.asarray(a) for a in (features, labels, mass, directions)]
    if mesh is not None:
        data = [meshes.drop_axis_types(a) for a in data]
    # As numbers: a mask shares the programs of weights.
    data = [a.astype(dtype) if a.dtype == bool else a for a in data]
    if precision is None:
        precision = 1e-10 if dtype == jnp.float64 else 1e-6
    static = {"loss": smooth, "intercept": intercept, "mesh": mesh}
    gap = jnp.asarray(precision, dtype)
    fit = _first_order(*data, settings, gap, size=min(batch, m), **static)
    steps = jnp.int32(max_iterations)
    if not checks.concrete(fit):
        fit = _second_order(*data, settings, fit, gap, steps, **static)
    elif not np.asarray(fit.converged).all():
        # Too hard for float32: another program, compiled only now.
        with jax.enable_x64(True):
            start = _cast((*data, settings, fit), jnp.float64)
            gap = jnp.asarray(precision, jnp.float64)
            fit = _cast(_second_order(*start, gap, steps, **static), dtype)
    return fit if shape else jax.tree.map(lambda a: a[0], fit)


@functools.partial(jax.jit, static_argnames=("size", "loss", "intercept", "mesh"))
def _first_order(
    features,
    labels,
    weights,
    directions,
    settings,
    precision,
    *,
    size,
    loss,
    intercept,
    mesh,
) -> LinearFit:
    """Models after first-order steps; zeros, uncertified, for the hinge."""
    data = _split_into_blocks(features, labels, weights, directions, mesh)
    settings = problem.as_settings(settings)
    if loss is None:
        found = problem.initial_state(data.directions, settings.ridge.shape[0])
    else:
        found = accelerated.solve_in_batches(
            data,
            settings,
            size=size,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
    fit = to_fit(data.directions, settings, *found, precision=precision)
    return meshes.replicated(fit, mesh)


@functools.partial(jax.jit, static_argnames=("loss", "intercept", "mesh"))
def _second_order(
    features,
    labels,
    weights,
    directions,
    settings,
    fit,
    precision,
    max_iterations,
    *,
    loss,
    intercept,
    mesh,
) -> LinearFit:
    """Models after second-order steps for those that have not converged."""
    data = _split_into_blocks(features, labels, weights, directions, mesh)
    settings = problem.as_settings(settings)
    model = Model(fit.coefficients.T, fit.intercept)
    state = State(
        fit.coefficients.T,
        fit.multipliers.T,
        fit.objective,
        fit.gap * fit.objective,
        fit.iterations,
        fit.converged,
    )
    found = _solve_one_by_one(
        data,
        settings,
        model,
        state,
        loss=loss,
        intercept=intercept,
        precision=precision,
        max_iterations=max_iterations,
    )
    fit = to_fit(data.directions, settings, *found, precision=precision)
    return meshes.replicated(fit, mesh)


def _solve_one_by_one(
    data: blocks.Data,
    settings: Settings,
    model: Model,
    state: State,
    *,
    loss: erm.SmoothLoss | None,
    intercept: bool,
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> tuple[Model, State]:
    """Models and certificates, with those that had not converged solved in turn.

    A smooth loss goes to Newton's method. The hinge, `loss` None, goes to the interior
    point method, and to Newton's where that fails: few data sets stop both.
    """
    centre = jnp.exp(jnp.log(settings.ridge).mean())
    curvature = 1.0 if loss is None else loss.max_curvature
    whitened = whiten(data, data.mass * curvature, centre, intercept=intercept)
    metric = whitened.metric
    state = state._replace(point=whiten_model(metric, model, intercept=intercept))
    limits = {"precision": precision, "max_iterations": max_iterations}

    def refine(setting: Settings, state: State) -> State:
        finish = functools.partial(
            newton.newton, whitened, setting, loss=loss, **limits
        )
        if loss is not None:
            return finish(state)
        found = interior_point.interior_point(whitened, setting, state, **limits)
        return jax.lax.cond(found.converged, lambda found: found, finish, found)

    def solve(index: Array) -> State:
        setting, start = jax.tree.map(lambda a: a[..., index], (settings, state))
        return jax.lax.cond(
            start.converged, lambda _, start: start, refine, setting, start
        )

    found = jax.lax.map(solve, jnp.arange(settings.ridge.shape[0]))
    found = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), found)
    return unwhiten(metric, found.point, intercept=intercept), found


def _split_into_blocks(features, labels, weights, directions, mesh) -> blocks.Data:
    dtype = features.dtype
    weights = weights.astype(dtype)
    mass = samples.shares(weights)
    return blocks.split_into_blocks(
        features, labels.astype(dtype), mass, directions.astype(dtype), mesh=mesh
    )


def _check_samples(features, labels, weights, *, binary: bool) -> None:
    shape = np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"`features` must be a table (n, d) with rows and columns, but has shape "
            f"{shape}."
        )
    checks.check_finite(features, name="features")
    checks.check_length(labels, n=shape[0], name="labels")
    if binary:
        checks.check_labels(labels, n=shape[0])
    else:
        checks.check_finite(labels, name="labels")
    if weights is not None:
        checks.check_weights(weights, n=shape[0])


def _cast(tree, dtype):
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def _floating(features: Array) -> Array:
    """The features in float64 where they were, else in float32."""
    return features if features.dtype == jnp.float64 else features.astype(jnp.float32)
