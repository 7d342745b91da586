"""Fair empirical risk minimisation, solved with a certificate.

`fit_linear` solves the convex problem of a linear model for a whole batch of
configurations and proves how far each is from the optimum; `fit_linear_stream` does so
where the rows do not fit into memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ... import erm
from ...arrays import checks, samples
from ...arrays import mesh as _rows
from . import accelerated, blocks, newton, problem, results
from .results import LinearFit as LinearFit


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
    """Fits linear models under fairness constraints or penalties, in one program.

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
        intercept: static; whether to fit b, which is never penalised.
        precision: static; relative gap asked for, 1e-6 in float32 and 1e-10 in float64
            when None. Outside `jit`, configurations that batched float32 steps leave
            open, and all of the hinge's, are finished in float64.
        batch: static; configurations solved together. More share each pass over the
            data, and hold `batch` scores for each row of a block.
        max_iterations: static; limit of second-order steps for configurations that the
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
    smooth = results.check_loss(loss)
    if mesh is not None:
        mesh = _rows.as_auto(mesh)
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1 configuration, but is {batch}.")
    _check_samples(features, labels, weights, binary=loss is not erm.squared)
    features = _floating(jnp.asarray(features))
    dtype = features.dtype
    if directions is None:
        directions = jnp.zeros((0, features.shape[1]), dtype)
    settings = {"ridge": ridge, "tolerance": tolerance, "target": target, "lam": lam}
    shape = results.check_settings(settings, directions)
    if np.shape(directions)[1:] != features.shape[1:]:
        raise ValueError(
            f"`directions` must have the {features.shape[1]} columns of `features`, "
            f"but have shape {np.shape(directions)}."
        )
    settings = {name: jnp.asarray(a).astype(dtype) for name, a in settings.items()}
    mass = np.ones(features.shape[0], dtype) if weights is None else weights
    data = [jnp.asarray(a) for a in (features, labels, mass, directions)]
    if mesh is not None:
        data = [_rows.untyped(a) for a in data]
    if precision is None:
        precision = 1e-10 if dtype == jnp.float64 else 1e-6
    static = {"loss": smooth, "intercept": intercept, "precision": precision}
    static["mesh"] = mesh
    m = shape[0] if shape else 1
    fit = _batched(*data, settings, size=min(batch, m), m=m, **static)
    refine = functools.partial(_refined, max_iterations=max_iterations, **static)
    if not checks.concrete(fit):
        fit = refine(*data, settings, fit)
    elif not np.asarray(fit.converged).all():
        # What is left is what float32 finds hard. Another program, compiled only now.
        with jax.enable_x64(True):
            fit = _cast(refine(*_cast((*data, settings, fit), jnp.float64)), dtype)
    return fit if shape else jax.tree.map(lambda a: a[0], fit)


@functools.partial(
    jax.jit, static_argnames=("loss", "intercept", "precision", "size", "m", "mesh")
)
def _batched(
    features,
    labels,
    weights,
    directions,
    settings,
    *,
    loss,
    size,
    m,
    intercept,
    precision,
    mesh,
) -> LinearFit:
    """First-order steps for all configurations; none for the hinge."""
    data = _in_blocks(features, labels, weights, directions, mesh)
    settings = results.in_columns(settings, m, directions)
    if loss is None:
        found = accelerated.opening(data.directions, m)
    else:
        found = accelerated.first_order(
            data,
            settings,
            size=size,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
    fit = results.report(data.directions, settings, *found, precision=precision)
    return _rows.everywhere(fit, mesh)


@functools.partial(
    jax.jit,
    static_argnames=("loss", "intercept", "precision", "max_iterations", "mesh"),
)
def _refined(
    features,
    labels,
    weights,
    directions,
    settings,
    fit,
    *,
    loss,
    intercept,
    precision,
    max_iterations,
    mesh,
) -> LinearFit:
    """Second-order steps for what is not converged."""
    data = _in_blocks(features, labels, weights, directions, mesh)
    settings = results.in_columns(settings, fit.gap.shape[0], directions)
    model = problem.Model(fit.coefficients.T, fit.intercept)
    state = problem.State(
        fit.coefficients.T,
        fit.multipliers.T,
        fit.objective,
        fit.gap * fit.objective,
        fit.iterations,
        fit.converged,
    )
    found = newton.second_order(
        data,
        settings,
        model,
        state,
        loss=loss,
        intercept=intercept,
        precision=precision,
        max_iterations=max_iterations,
    )
    fit = results.report(data.directions, settings, *found, precision=precision)
    return _rows.everywhere(fit, mesh)


def _in_blocks(features, labels, weights, directions, mesh) -> blocks.Data:
    dtype = features.dtype
    weights = weights.astype(dtype)
    mass = samples.shares(weights)
    return blocks.in_blocks(
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
    """float64 stays, all else is computed in float32."""
    return features if features.dtype == jnp.float64 else features.astype(jnp.float32)
