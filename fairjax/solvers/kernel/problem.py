"""What the kernel machines are given: checked, in float64, point by point.

A batch is solved bandwidth by bandwidth, so that its points share the table of the
kernel, in an order in which each one helps the next.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ...arrays import checks
from ...kernels.functions import check_bound
from ...notions import Conditionals
from ...orthogonality import Contrasts, gap_weights
from .dual import Problem

Kernel = Callable[..., Float[Array, "n m"]]
Samples = Real[Array | np.ndarray, "n d"]
Labels = Real[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"]
Weights = Real[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"] | None


class Given(NamedTuple):
    """Samples and configurations.

    Attributes:
        samples: float64.
        labels: -1 or 1; all 1 where labels are real numbers.
        targets: what the scores are to reach.
        mass: weights of the samples.
        rows: `u_k = sum_i rows_ki phi_i`.
        c: one per point, as the following.
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


class Group(NamedTuple):
    """Points of one bandwidth.

    Attributes:
        chosen: their places in the batch.
        problem: what they share; bound and tolerance are those of nobody.
        lengths: of the directions, 0 for what is no direction; in `problem` they have
            length 1.
    """

    chosen: np.ndarray
    problem: Problem
    lengths: Float[np.ndarray, " k"]

    def at(self, given: Given, i: int) -> Problem:
        """The problem of one point."""
        live = self.lengths > 0
        bounds = given.tolerance[i] / np.where(live, self.lengths, 1)
        return self.problem._replace(
            bound=jnp.asarray(given.c[i] * given.mass),
            tolerance=jnp.asarray(np.where(live, bounds, np.inf)),
        )


def prepared(
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
) -> Given:
    """Checks what a machine is given and brings it into one form."""
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
    sides = targets if binary else np.ones_like(targets)
    mass = np.ones(len(sides)) if weights is None else np.asarray(weights, np.float64)
    for side, label in ((-1, 0), (1, 1)) if binary else ():
        if not (mass[sides == side] > 0).any():
            raise ValueError(
                f"`weights` must leave samples of both labels, but those of label "
                f"{label} all have weight 0."
            )
    if not (mass > 0).any():
        raise ValueError("`weights` must leave at least one sample, but all are 0.")
    rows = contrast_weights(cond, contrasts, n=len(sides))
    samples = np.asarray(features, np.float64)
    settings, single = _points(c, bandwidth, tolerance, n_rows=len(rows))
    return Given(samples, sides, targets, mass, rows, **settings, single=single)


def groups(given: Given, kernel: Kernel, *, order: str) -> Iterator[Group]:
    """The points, bandwidth by bandwidth; call it where float64 is enabled.

    Args:
        given: samples and configurations.
        kernel: of their tables.
        order: "c" for tolerances that share a c next to each other, "tolerance" for
            values of c that share a tolerance, growing.
    """
    for width, own in by_bandwidth(given.bandwidth):
        chosen = np.flatnonzero(own)
        prices, bounds = given.c[chosen], given.tolerance[chosen].T
        keys = (*bounds, prices) if order == "c" else (prices, *bounds)
        values = table(kernel, width)(given.samples, given.samples)
        checks.check_finite(values, name="kernel(features, features)")
        problem, lengths = _problem(values, given)
        yield Group(chosen[np.lexsort(keys)], problem, lengths)


def by_bandwidth(
    bandwidth: Float[np.ndarray, " m"],
) -> Iterator[tuple[float, Bool[np.ndarray, " m"]]]:
    """Each bandwidth with its points."""
    for width in np.unique(bandwidth):
        yield width, np.isnan(bandwidth) if np.isnan(width) else bandwidth == width


def table(kernel: Kernel, width: float) -> Callable[[Any, Any], Array]:
    """The kernel at one bandwidth, in float64; NaN for one that is bound already."""
    bound = {} if np.isnan(width) else {"bandwidth": width}
    return lambda x, y: kernel(jnp.asarray(x), jnp.asarray(y), **bound)


def _problem(
    values: Float[Array, "n n"], given: Given
) -> tuple[Problem, Float[np.ndarray, " k"]]:
    """What all points of one kernel share, and the lengths of the directions."""
    across = np.asarray(given.rows @ values)
    gram = across @ given.rows.T
    lengths = np.sqrt(np.maximum(np.diagonal(gram), 0))
    # A difference of means that is rounding is no direction.
    floor = 1e-7 * np.sqrt(np.diagonal(values).max())
    lengths = np.where(lengths > floor, lengths, 0)
    units = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0)
    across = units[:, None] * across
    gram = units[:, None] * gram * units[None, :]
    shared = (across, gram, given.labels, given.targets, given.mass, lengths)
    return Problem(values, *map(jnp.asarray, shared)), lengths


def check_bandwidth(kernel: Kernel, bandwidth: ArrayLike | None) -> None:
    """Raises `ValueError` where the kernel lacks its bandwidth, or takes none."""
    known = inspect.signature(kernel).parameters
    open_ = (
        "bandwidth" in known and known["bandwidth"].default is inspect.Parameter.empty
    )
    takes = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    if bandwidth is None and open_:
        raise ValueError(
            "`kernel` needs a bandwidth, but `bandwidth` is None. Give a number, or "
            "one for each configuration; start from `kernels.median_heuristic`."
        )
    if bandwidth is not None and not takes and "bandwidth" not in known:
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
    weights = np.asarray(cond.weights, np.float64)
    totals = weights.sum(axis=-1, keepdims=True)
    with jax.enable_x64(True):
        exact = jnp.asarray(weights / np.where(totals > 0, totals, 1))
        sides = jnp.asarray(contrasts(weights.shape[1]))
        return np.asarray(gap_weights(cond._replace(weights=exact), sides))


def _points(
    c: ArrayLike, bandwidth: ArrayLike | None, tolerance: ArrayLike, *, n_rows: int
) -> tuple[dict[str, np.ndarray], bool]:
    """Settings of one length, and whether all of them were scalars."""
    given = {"c": np.asarray(c, np.float64)}
    given["bandwidth"] = np.asarray(np.nan if bandwidth is None else bandwidth, float)
    given["tolerance"] = np.asarray(tolerance, np.float64)
    checks.check_nonnegative(given["c"], name="c", positive=True)
    checks.check_finite(given["c"], name="c")
    if bandwidth is not None:
        checks.check_nonnegative(given["bandwidth"], name="bandwidth", positive=True)
        checks.check_finite(given["bandwidth"], name="bandwidth")
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
