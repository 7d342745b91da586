"""The problem that every linear solver takes: its settings, models and solutions.

For every configuration of a batch, over coefficients w and intercept b:

    minimise  sum_i c_i loss(<w, x_i> + b, y_i) + ridge/2 |w|^2 + lam sum_k <w, u_k>^2
    subject to  lower_k <= <w, u_k> <= upper_k.

*Coordinates* (`whitening`). Both the second moment of the features and the ridge are
diagonal there, for every ridge at once; badly scaled and collinear columns become
harmless, and a batch shares one eigendecomposition.

*Methods.* For a smooth loss, accelerated proximal steps on a quadratic majoriser, two
matrix products per step for the whole batch (`accelerated`). Configurations they leave
uncertified go one by one to Newton's method (`newton`), and all of the hinge's to an
interior point method (`interior_point`).

*Constraint and penalty.* Solved exactly in every step by the few multipliers mu of
`multipliers`, which give the certificate (`certificate`) its dual point.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ... import erm
from ...arrays import checks
from ...erm.losses import SMOOTH

Tree = TypeVar("Tree")


class Settings(NamedTuple):
    """The configuration, or a batch of them along the last axis."""

    ridge: Float[Array, "*m"]
    lower: Float[Array, "k *m"]
    upper: Float[Array, "k *m"]
    lam: Float[Array, "*m"]


class Model(NamedTuple):
    """Linear models, one per column."""

    coefficients: Float[Array, "d *m"]
    intercept: Float[Array, "*m"]


class State(NamedTuple):
    """Solutions in whitened coordinates, with their certificates."""

    point: Float[Array, "p *m"]
    multipliers: Float[Array, "k *m"]
    objective: Float[Array, "*m"]
    gap: Float[Array, "*m"]
    iterations: Int[Array, "*m"]
    converged: Bool[Array, "*m"]


def initial_state(directions: Float[Array, "k d"], m: int) -> tuple[Model, State]:
    """Zero models of a batch of m, uncertified."""
    k, d = directions.shape
    dtype = directions.dtype
    zeros = jnp.zeros(m, dtype)
    state = State(
        jnp.zeros((d, m), dtype),
        jnp.zeros((k, m), dtype),
        zeros,
        jnp.full(m, jnp.inf, dtype),
        jnp.zeros(m, jnp.int32),
        jnp.zeros(m, bool),
    )
    return Model(jnp.zeros((d, m), dtype), zeros), state


def smooth_loss(loss: erm.Loss) -> erm.SmoothLoss | None:
    """The derivatives of a smooth loss; None for the hinge.

    Raises:
        ValueError: for a loss that no linear solver takes.
    """
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
    """The batch's shape, `(m,)` or `()`.

    Raises:
        ValueError: for settings out of range or whose batch axes do not match.
    """
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


def broadcast_settings(
    settings: dict[str, ArrayLike], m: int, k: int, dtype: Any
) -> dict[str, Float[Array, "m *k"]]:
    """Arguments of `check_settings` for m configurations, of shape (m,) or (m, k).

    Scalars and arrays get one shape, so that they share compiled programs.
    """

    def broadcast(name: str, value: ArrayLike) -> Array:
        array = jnp.asarray(value).astype(dtype)
        if name in ("ridge", "lam"):
            return jnp.broadcast_to(array, (m,))
        columns = array if array.ndim == 2 else array.reshape(-1, 1)
        return jnp.broadcast_to(columns, (m, k))

    return {name: broadcast(name, value) for name, value in settings.items()}


def as_settings(settings: dict[str, Float[Array, "m *k"]]) -> Settings:
    """Settings with their bounds, configurations along the last axis."""
    target, tolerance = settings["target"].T, settings["tolerance"].T
    lower, upper = target - tolerance, target + tolerance
    return Settings(settings["ridge"], lower, upper, settings["lam"])


def select(flags: Bool[Array, "*m"], left: Tree, right: Tree) -> Tree:
    """Leaves of `left` for the configurations whose flag is True, else of `right`."""

    def leaf(a, b):
        ranks = (1,) * (a.ndim - flags.ndim)
        return jnp.where(flags.reshape(ranks + flags.shape), a, b)

    return jax.tree.map(leaf, left, right)
