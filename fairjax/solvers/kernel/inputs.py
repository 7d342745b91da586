"""Arguments of the kernel machines: checked, in float64, one row per configuration."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ...arrays import checks
from ...kernels import check_bound
from ...notions import Conditionals
from ...orthogonality import Contrasts, gap_weights

Kernel = Callable[..., Float[Array, "n m"]]
Samples = Real[Array | np.ndarray, "n d"]
Labels = Real[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"]
Weights = Real[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"] | None


class Inputs(NamedTuple):
    """Samples and configurations.

    Attributes:
        samples: float64.
        labels: -1 or 1; all 1 where labels are real numbers.
        targets: what the scores are to reach.
        mass: weights of the samples.
        rows: `u_k = sum_i rows_ki phi_i`.
        c: one per configuration, as the following.
        bandwidth: NaN where the kernel is bound.
        tolerance: one per direction.
        single: whether all settings were scalars.
    """

    samples: Float[np.ndarray, "n d"]
    labels: Float[np.ndarray, " n"]
    targets: Float[np.ndarray, " n"]
    mass: Float[np.ndarray, " n"]
    rows: Float[np.ndarray, "k n"]
    c: Float[np.ndarray, " m"]
    bandwidth: Float[np.ndarray, " m"]
    tolerance: Float[np.ndarray, "m k"]
    single: bool


def check_inputs(
    features: Samples,
    labels: Labels,
    *,
    binary: bool,
    kernel: Kernel,
    c: ArrayLike,
    bandwidth: ArrayLike | None,
    cond: Conditionals | None,
    tolerance: ArrayLike,
    contrasts: Contrasts,
    weights: Weights,
    precision: float,
    max_iterations: int,
) -> Inputs:
    """The arguments of a fit in float64; raises `ValueError` for bad ones."""
    check_bound(kernel)
    check_bandwidth(kernel, bandwidth)
    given = (features, labels, weights, c, bandwidth, tolerance, cond)
    if not checks.concrete(*jax.tree.leaves(given)):
        raise ValueError(
            "a kernel machine needs concrete arrays, but was called inside `jit`, "
            "`vmap` or `grad`. Batches of configurations are arguments: `c`, "
            "`bandwidth`, `tolerance`; derivatives come from `solvers.implicit`."
        )
    checks.check_finite(features, name="features")
    if binary:
        checks.check_labels(labels, n=len(features))
    else:
        checks.check_length(labels, n=len(features), name="labels", to="features")
        checks.check_finite(labels, name="labels")
    if weights is not None:
        checks.check_weights(weights, n=len(features))
    checks.check_nonnegative(precision, name="precision", positive=True)
    if max_iterations < 1:
        raise ValueError(
            f"`max_iterations` must be at least 1, but is {max_iterations}."
        )
    targets = np.asarray(labels, np.float64)
    targets = 2 * targets - 1 if binary else targets
    signs = targets if binary else np.ones_like(targets)
    mass = np.ones(len(signs)) if weights is None else np.asarray(weights, np.float64)
    for sign, label in ((-1, 0), (1, 1)) if binary else ():
        if not (mass[signs == sign] > 0).any():
            raise ValueError(
                f"`weights` must leave samples of both labels, but those of label "
                f"{label} all have weight 0."
            )
    if not (mass > 0).any():
        raise ValueError("`weights` must leave at least one sample, but all are 0.")
    rows = contrast_weights(cond, contrasts, n=len(signs))
    samples = np.asarray(features, np.float64)
    settings, single = _broadcast_settings(c, bandwidth, tolerance, n_rows=len(rows))
    return Inputs(samples, signs, targets, mass, rows, **settings, single=single)


def check_bandwidth(kernel: Kernel, bandwidth: ArrayLike | None) -> None:
    """Raises `ValueError` where the kernel lacks its bandwidth, or takes none."""
    known = inspect.signature(kernel).parameters
    unbound = (
        "bandwidth" in known and known["bandwidth"].default is inspect.Parameter.empty
    )
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    if bandwidth is None and unbound:
        raise ValueError(
            "`kernel` needs a bandwidth, but `bandwidth` is None. Give a number, or "
            "one for each configuration; start from `kernels.median_heuristic`."
        )
    if bandwidth is not None and not takes_any and "bandwidth" not in known:
        raise ValueError(
            f"`bandwidth` is given, but `kernel` takes none: its arguments are "
            f"{', '.join(known)}."
        )


def contrast_weights(
    cond: Conditionals | None, contrasts: Contrasts, *, n: int
) -> Float[np.ndarray, "k n"]:
    """Weights whose products with scores are the gaps of mean scores, in float64.

    Row k makes the direction `u_k = sum_i weights_ki phi_i` that a kernel machine's
    constraint is on; gaps of any scores are `weights @ scores`.

    Args:
        cond: from a notion; None for no direction.
        contrasts: which groups are compared.
        n: number of samples.

    Raises:
        ValueError: unless `cond` has one weight per sample.
    """
    if cond is None:
        return np.zeros((0, n))
    checks.check_length(cond.weights[0, 0], n=n, name="cond.weights")
    with jax.enable_x64(True):
        return np.asarray(exact_gap_weights(cond, contrasts))


def exact_gap_weights(cond: Conditionals, contrasts: Contrasts) -> Float[Array, "k n"]:
    """`orthogonality.gap_weights` as exact as counts are, where float64 is enabled."""
    weights = jnp.asarray(cond.weights).astype(jnp.float64)
    totals = weights.sum(axis=-1, keepdims=True)
    exact = cond._replace(weights=weights / jnp.where(totals > 0, totals, 1))
    return gap_weights(exact, jnp.asarray(contrasts(weights.shape[1])))


def _broadcast_settings(
    c: ArrayLike, bandwidth: ArrayLike | None, tolerance: ArrayLike, *, n_rows: int
) -> tuple[dict[str, np.ndarray], bool]:
    """Settings of one length, and whether all of them were scalars."""
    given = {"c": np.asarray(c, np.float64)}
    given["bandwidth"] = np.asarray(np.nan if bandwidth is None else bandwidth, float)
    given["tolerance"] = np.asarray(tolerance, np.float64)
    for name in ("c", "bandwidth"):
        if name == "c" or bandwidth is not None:
            checks.check_nonnegative(given[name], name=name, positive=True)
            checks.check_finite(given[name], name=name)
    checks.check_nonnegative(given["tolerance"], name="tolerance")
    leading = {name: values.shape[:1] for name, values in given.items()}
    longest = max(leading.values(), key=len)
    shapes = [values.shape for values in given.values()]
    wide = given["tolerance"].ndim == 2
    if (
        any(len(own) and own != longest for own in leading.values())
        or longest == (0,)
        or max(given["c"].ndim, given["bandwidth"].ndim) > 1
        or given["tolerance"].ndim > 2
        or (wide and given["tolerance"].shape[1] != n_rows)
    ):
        raise ValueError(
            f"`c`, `bandwidth` and `tolerance` must be scalars or of one length (m,), "
            f"the last one also (m, {n_rows}), but their shapes are {shapes}. Make "
            f"them with `sweeps.grid`."
        )
    m = longest or (1,)
    if not wide:
        given["tolerance"] = np.broadcast_to(given["tolerance"], m)[:, None]
    given["tolerance"] = np.broadcast_to(given["tolerance"], (*m, n_rows))
    for name in ("c", "bandwidth"):
        given[name] = np.broadcast_to(given[name], m)
    return given, longest == ()
