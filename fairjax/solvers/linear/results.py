"""Results shared by all linear solvers: models with certificates."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .blocks import matmul
from .multipliers import coordinate_descent_batch
from .problem import Model, Settings, State


class LinearFit(NamedTuple):
    """Linear models with their certificates; `*m` is the batch, or nothing.

    Attributes:
        coefficients: one row per configuration.
        intercept: 0 when none was asked for.
        objective: risk + ridge term + penalty [units of the loss], known to about four
            times the precision asked for: the features are rounded once.
        gap: relative duality gap: the optimum is at least `objective * (1 - gap)`.
        violation: largest excess over a bound [units of the score].
        multipliers: price of each bound, `-d optimum / d tolerance` up to sign, and
            slope of the penalty.
        iterations: steps taken.
        converged: True where gap and violation meet the precision asked for. A point
            that is not converged is still the best one found.
    """

    coefficients: Float[Array, "*m d"]
    intercept: Float[Array, "*m"]
    objective: Float[Array, "*m"]
    gap: Float[Array, "*m"]
    violation: Float[Array, "*m"]
    multipliers: Float[Array, "*m k"]
    iterations: Int[Array, "*m"]
    converged: Bool[Array, "*m"]


def to_fit(
    directions: Float[Array, "k d"],
    settings: Settings,
    model: Model,
    state: State,
    *,
    precision: Float[Array, ""],
) -> LinearFit:
    """The models with their certificates, coefficients projected onto the bounds.

    The projection corrects rounding in the change of coordinates; the gap already
    charges for it.
    """

    def gaps_and_excess(coefficients):
        gaps = matmul(directions, coefficients)
        return gaps, jnp.abs(gaps - jnp.clip(gaps, settings.lower, settings.upper))

    coefficients = model.coefficients
    if directions.shape[0]:
        m = settings.ridge.shape[0]
        products = matmul(directions, directions.T)
        multipliers = coordinate_descent_batch(
            jnp.broadcast_to(products[:, :, None], (*products.shape, m)),
            gaps_and_excess(coefficients)[0],
            jnp.zeros_like(state.multipliers),
            settings._replace(lam=jnp.zeros_like(settings.lam)),
        )
        coefficients = coefficients - matmul(directions.T, multipliers)
    excess = gaps_and_excess(coefficients)[1]
    scale = matmul(jnp.abs(directions), jnp.abs(coefficients))
    rounding = directions.shape[1] * jnp.finfo(scale.dtype).eps
    return LinearFit(
        coefficients.T,
        model.intercept,
        state.objective,
        state.gap / jnp.maximum(state.objective, jnp.finfo(scale.dtype).tiny),
        excess.max(axis=0, initial=0),
        state.multipliers.T,
        state.iterations,
        state.converged & (excess <= (precision + rounding) * scale).all(axis=0),
    )
