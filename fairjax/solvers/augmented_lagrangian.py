"""The augmented Lagrangian method: any differentiable model under bounds on gaps."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ..arrays import checks

Params = TypeVar("Params")


class AugmentedLagrangianFit(NamedTuple):
    """A constrained minimum of any model.

    Attributes:
        params: the parameters, a pytree like the start.
        objective: its value there.
        violation: largest excess over a bound.
        multipliers: of each bound.
        stationarity: norm of the Lagrangian's gradient.
        iterations: inner steps taken, over all outer rounds.
        converged: True where violation and stationarity are within the limits.
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
) -> AugmentedLagrangianFit:
    """The minimum of any objective under `|constraints(params)| <= tolerance`.

    Each round minimises `objective + rho/2 dist(c + mu/rho)^2`, the distance to
    `[-tolerance, tolerance]`, by gradient steps, then moves the multipliers mu by the
    remaining violation; rho grows tenfold when a round has not halved it. For a
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
        keeps_value = optax.tree.get(start, "value", default=None) is not None
        value_and_grad = optax.value_and_grad_from_state(lagrangian)

        def step(carry):
            count, params, state, _ = carry
            if keeps_value:
                value, gradient = value_and_grad(params, state=state)
            else:
                value, gradient = jax.value_and_grad(lagrangian)(params)
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
            value, gradient = jax.value_and_grad(lagrangian)(new)
            finite = jnp.isfinite(value)
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, params)
            norm = jnp.where(finite, optax.tree.norm(gradient), jnp.nan)
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
        new = AugmentedLagrangianFit(
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
        open_ = (count < 2) | ~result.converged
        return (count < rounds) & open_ & ~jnp.isnan(result.stationarity)

    value = objective(params)
    start = AugmentedLagrangianFit(
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
