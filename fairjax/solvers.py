"""Fair empirical risk minimisation, solved with a certificate.

`fit_linear` solves the convex problem of a linear model for a whole batch of
configurations and proves how far each is from the optimum; `fit_linear_stream` does so
where the rows do not fit into memory. `augmented_lagrangian` puts the same constraint
on any differentiable model, where a certificate is out of reach.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from . import (
    _blocks,
    _first_order,
    _linear,
    _linear_fits,
    _rows,
    _samples,
    _second_order,
    checks,
    erm,
)
from ._linear_fits import LinearFit as LinearFit
from ._streamed import fit_linear_stream as fit_linear_stream

Params = TypeVar("Params")


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
    smooth = _linear_fits.check_loss(loss)
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
    shape = _linear_fits.check_settings(settings, directions)
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


class FitResult(NamedTuple):
    """A constrained minimum of any model.

    Attributes:
        params: the parameters, a pytree like the start.
        objective: its value there.
        violation: by how much the worst bound is exceeded.
        multipliers: price of each bound.
        stationarity: norm of the Lagrangian's gradient.
        iterations: inner steps taken, over all outer rounds.
        converged: whether violation and stationarity are within the limits asked for.
    """

    params: Params
    objective: Float[Array, ""]
    violation: Float[Array, ""]
    multipliers: Float[Array, " k"]
    stationarity: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def augmented_lagrangian(
    objective: Callable[[Params], Float[Array, ""]],
    constraints: Callable[[Params], Float[Array, " k"]],
    params: Params,
    *,
    tolerance: ArrayLike = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    feasibility: ArrayLike = 1e-4,
    stationarity: ArrayLike = 1e-3,
    rounds: int = 20,
    steps: int = 200,
) -> FitResult:
    """Minimises any objective under `|constraints(params)| <= tolerance`.

    Each round minimises `objective + rho/2 dist(c + mu/rho)^2`, the distance to
    `[-tolerance, tolerance]`, by gradient steps, then moves the multipliers mu by what
    is left of the violation; rho grows tenfold when a round has not halved it. For a
    convex objective and affine constraints it finds the optimum; otherwise a stationary
    point, which depends on the start. Pure JAX: jit it, vmap it over `tolerance` or
    starts.

    Args:
        objective: parameters to a scalar, for example an empirical risk.
        constraints: parameters to the gaps that are to be bounded, for example the
            differences of `erm.conditional_risks` between groups.
        params: the start, a pytree of floating-point arrays.
        tolerance: bounds, at least 0; scalar or `(k,)`.
        optimizer: any optax transformation; `optax.lbfgs()` when None.
        feasibility: largest violation that counts as converged [units of constraints].
        stationarity: largest gradient norm of the Lagrangian that does.
        rounds: static; limit of multiplier updates.
        steps: static; limit of gradient steps per round.

    Returns:
        The last finite iterate, converged or not; NaN in the objective ends the run.
        Cost: at most `rounds * steps` gradients and line searches.

    Raises:
        ValueError: for parameters that are not finite or not floating-point, and
            negative tolerances.

    Example:
        >>> result = augmented_lagrangian(
        ...     lambda p: jnp.sum((p - 2.0) ** 2), lambda p: p[:1] - p[1:],
        ...     jnp.array([0.0, 5.0]))
        >>> result.converged.item(), result.params.round(2).tolist()
        (True, [2.0, 2.0])

    References:
        Bertsekas, *Constrained Optimization and Lagrange Multiplier Methods*, 1982,
        chapter 3, for two-sided inequalities.
    """
    for leaf in jax.tree.leaves(params):
        checks.check_finite(leaf, name="params")
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"`params` must be floating-point, but a leaf has dtype "
                f"{jnp.result_type(leaf)}. Convert it with `.astype(float)`."
            )
    checks.check_nonnegative(tolerance, name="tolerance")
    optimizer = optax.with_extra_args_support(
        optax.lbfgs() if optimizer is None else optimizer
    )
    params = jax.tree.map(jnp.asarray, params)
    gaps = jax.eval_shape(constraints, params)
    bounds = jnp.broadcast_to(jnp.asarray(tolerance, gaps.dtype), gaps.shape)

    def excess(gaps):
        return gaps - jnp.clip(gaps, -bounds, bounds)

    def violation_of(params):
        return jnp.abs(excess(constraints(params))).max(initial=0)

    def minimise(params, multipliers, rho):
        def lagrangian(p):
            shifted = constraints(p) + multipliers / rho
            return objective(p) + rho / 2 * jnp.square(excess(shifted)).sum()

        # Optimisers with a line search keep the value at the new point; others do not.
        start = optimizer.init(params)
        known = optax.tree.get(start, "value", default=None) is not None
        slope = optax.value_and_grad_from_state(lagrangian) if known else None

        def step(carry):
            count, params, state, _ = carry
            if slope is None:
                value, gradient = jax.value_and_grad(lagrangian)(params)
            else:
                value, gradient = slope(params, state=state)
            # optax counts in integers and decays in floats: its own promotion holds.
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(
                    gradient,
                    state,
                    params,
                    value=value,
                    grad=gradient,
                    value_fn=lagrangian,
                )
            new = optax.apply_updates(params, updates)
            good = jnp.isfinite(lagrangian(new))
            new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, params)
            norm = jnp.where(good, optax.tree.norm(jax.grad(lagrangian)(new)), jnp.nan)
            return count + 1, new, state, norm

        def unfinished(carry):
            count, _, _, norm = carry
            return (count < steps) & (norm > stationarity)

        norm = optax.tree.norm(jax.grad(lagrangian)(params))
        first = (jnp.int32(0), params, start, norm)
        count, params, _, norm = jax.lax.while_loop(unfinished, step, first)
        return params, norm, count

    def body(carry):
        count, result, rho = carry
        params, norm, taken = minimise(result.params, result.multipliers, rho)
        shifted = constraints(params) + result.multipliers / rho
        violation = violation_of(params)
        new = FitResult(
            params,
            objective(params),
            violation,
            rho * excess(shifted),
            norm,
            result.iterations + taken,
            (violation <= feasibility) & (norm <= stationarity),
        )
        slow = violation > jnp.maximum(result.violation / 2, feasibility)
        return count + 1, new, jnp.where(slow, 10 * rho, rho)

    def unfinished(carry):
        count, result, _ = carry
        # The first round has multipliers of 0: it cannot be the last one.
        early = (count < 2) | ~result.converged
        return (count < rounds) & early & ~jnp.isnan(result.stationarity)

    value = objective(params)
    start = FitResult(
        params,
        value,
        violation_of(params),
        jnp.zeros(gaps.shape, gaps.dtype),
        jnp.full_like(value, jnp.inf),
        jnp.int32(0),
        jnp.asarray(False),
    )
    rho = jnp.asarray(10, gaps.dtype)
    return jax.lax.while_loop(unfinished, body, (0, start, rho))[1]


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
    settings = _linear_fits.in_columns(settings, m, directions)
    if loss is None:
        found = _first_order.opening(data.directions, m)
    else:
        found = _first_order.first_order(
            data,
            settings,
            size=size,
            loss=loss,
            intercept=intercept,
            precision=precision,
        )
    fit = _linear_fits.report(data.directions, settings, *found, precision=precision)
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
    settings = _linear_fits.in_columns(settings, fit.gap.shape[0], directions)
    model = _linear.Model(fit.coefficients.T, fit.intercept)
    state = _linear.State(
        fit.coefficients.T,
        fit.multipliers.T,
        fit.objective,
        fit.gap * fit.objective,
        fit.iterations,
        fit.converged,
    )
    found = _second_order.second_order(
        data,
        settings,
        model,
        state,
        loss=loss,
        intercept=intercept,
        precision=precision,
        max_iterations=max_iterations,
    )
    fit = _linear_fits.report(data.directions, settings, *found, precision=precision)
    return _rows.everywhere(fit, mesh)


def _in_blocks(features, labels, weights, directions, mesh) -> _blocks.Data:
    dtype = features.dtype
    weights = weights.astype(dtype)
    mass = _samples.shares(weights)
    return _blocks.in_blocks(
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
