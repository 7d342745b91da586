"""What every linear solver takes and gives: settings, and models with certificates."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ... import erm
from ...arrays import checks
from .accelerated import resolve_batch
from .blocks import matmul
from .problem import SMOOTH, Model, Settings, Smooth, State


class LinearFit(NamedTuple):
    """Linear models with their certificates; `*m` is the batch, or nothing.

    Attributes:
        coefficients: one row per configuration.
        intercept: 0 when none was asked for.
        objective: risk + ridge term + penalty [units of the loss], known to about four
            times the precision asked for: the features are rounded once.
        gap: relative duality gap: the optimum is at least `objective * (1 - gap)`.
        violation: by how much the worst bound is exceeded [units of the score].
        multipliers: price of each bound, `-d optimum / d tolerance` up to sign, and
            slope of the penalty.
        iterations: steps taken.
        converged: whether gap and violation meet the precision asked for. A point that
            is not converged is still the best one found.
    """

    coefficients: Float[Array, "*m d"]
    intercept: Float[Array, "*m"]
    objective: Float[Array, "*m"]
    gap: Float[Array, "*m"]
    violation: Float[Array, "*m"]
    multipliers: Float[Array, "*m k"]
    iterations: Int[Array, "*m"]
    converged: Bool[Array, "*m"]


def check_loss(loss: erm.Loss) -> Smooth | None:
    """The derivatives of a smooth loss; None for the hinge."""
    if loss is erm.hinge:
        return None
    smooth = next((s for known, s in SMOOTH.items() if known is loss), None)
    if smooth is None:
        raise ValueError(
            f"`loss` must be erm.logistic, erm.hinge, erm.squared_hinge or "
            f"erm.squared, but is {getattr(loss, '__name__', loss)!r}. For any other "
            f"loss use `solvers.augmented_lagrangian`."
        )
    return smooth


def check_settings(
    settings: dict[str, ArrayLike], directions: Float[ArrayLike, "k d"]
) -> tuple[int, ...]:
    """The batch's shape, `(m,)` or `()`."""
    checks.check_nonnegative(settings["ridge"], name="ridge", positive=True)
    checks.check_nonnegative(settings["tolerance"], name="tolerance")
    checks.check_nonnegative(settings["lam"], name="lam")
    for name in ("ridge", "target", "lam"):
        checks.check_finite(settings[name], name=name)
    checks.check_finite(directions, name="directions")
    k = np.shape(directions)[0]
    shapes = {name: np.shape(value) for name, value in settings.items()}
    per_direction = ("tolerance", "target")
    for name in per_direction:
        if len(shapes[name]) == 2 and shapes[name][1] != k:
            raise ValueError(
                f"`{name}` of two axes must be (m, {k}), an entry per direction, but "
                f"has shape {shapes[name]}."
            )
    too_deep = any(len(s) > 1 + (n in per_direction) for n, s in shapes.items())
    lengths = {s[0] for s in shapes.values() if s}
    if too_deep or len(lengths - {1}) > 1:
        raise ValueError(
            f"`ridge`, `tolerance`, `target` and `lam` must be scalars or share one "
            f"batch axis, but have shapes {shapes}. Make the product grid with "
            f"`sweeps.grid`."
        )
    return (max(lengths),) if lengths else ()


def in_columns(
    settings: dict[str, Array], m: int, directions: Float[Array, "k d"]
) -> Settings:
    """Settings with the batch on the last axis."""
    k = directions.shape[0]

    def of_directions(value):
        columns = value if value.ndim == 2 else value.reshape(-1, 1)
        return jnp.broadcast_to(columns, (m, k)).T

    target, tolerance = (of_directions(settings[n]) for n in ("target", "tolerance"))
    ridge, lam = (jnp.broadcast_to(settings[n], (m,)) for n in ("ridge", "lam"))
    return Settings(ridge, target - tolerance, target + tolerance, lam)


def report(
    directions: Float[Array, "k d"],
    settings: Settings,
    model: Model,
    state: State,
    *,
    precision: float,
) -> LinearFit:
    """Checks the bounds on the coefficients themselves, not on their coordinates.

    What rounding in the change of coordinates left over a bound is taken back by the
    smallest move; the gap already charges for it.
    """

    def gaps_of(coefficients):
        gaps = matmul(directions, coefficients)
        return gaps, jnp.abs(gaps - jnp.clip(gaps, settings.lower, settings.upper))

    coefficients = model.coefficients
    if directions.shape[0]:
        m = settings.ridge.shape[0]
        products = matmul(directions, directions.T)
        multipliers = resolve_batch(
            jnp.broadcast_to(products[:, :, None], (*products.shape, m)),
            gaps_of(coefficients)[0],
            jnp.zeros_like(state.multipliers),
            settings._replace(lam=jnp.zeros_like(settings.lam)),
        )
        coefficients = coefficients - matmul(directions.T, multipliers)
    excess = gaps_of(coefficients)[1]
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
