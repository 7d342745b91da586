"""Kernel machines under the orthogonality constraint, solved with a certificate.

Fairness is P1's: with `u_k` the difference of two groups' means in the kernel's feature
space, `|<w, u_k>| <= tolerance_k` bounds the gap of their mean scores. The directions
are combinations of the training samples, so a fitted model is one coefficient per
training sample, whatever the constraint adds to it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from . import _svm, checks
from ._kernel_functions import check_bound
from .notions import Conditionals
from .orthogonality import Contrasts, gap_weights, pairwise

_ROWS = 1024  # samples that are predicted together

Kernel = Callable[..., Float[Array, "n m"]]


class KernelFit(NamedTuple):
    """Kernel machines with their certificates, as float64 arrays of the host.

    `*m` is the batch, or nothing.

    Attributes:
        coefficients: a score is `sum_i coefficients_i k(x, x_i) + intercept`.
        intercept: never penalised.
        dual: the alphas, in `[0, c * weight]`.
        multipliers: price of each bound on a gap, `-d optimum / d tolerance` up to
            sign.
        objective: of the primal problem.
        gap: relative duality gap: the optimum is at least `objective * (1 - gap)`.
        violation: by how much the worst bound is exceeded [score].
        iterations: pairs of alphas moved.
        converged: whether gap and violation meet the precision asked for. A point that
            is not converged is still the best one found.
        bandwidth: of each point's kernel; NaN where the kernel was bound.
    """

    coefficients: Float[np.ndarray, "*m n"]
    intercept: Float[np.ndarray, "*m"]
    dual: Float[np.ndarray, "*m n"]
    multipliers: Float[np.ndarray, "*m k"]
    objective: Float[np.ndarray, "*m"]
    gap: Float[np.ndarray, "*m"]
    violation: Float[np.ndarray, "*m"]
    iterations: Int[np.ndarray, "*m"]
    converged: Bool[np.ndarray, "*m"]
    bandwidth: Float[np.ndarray, "*m"]


def fit_svm(
    features: Real[Array | np.ndarray, "n d"],
    labels: Real[Array | np.ndarray, " n"] | Bool[Array | np.ndarray, " n"],
    *,
    kernel: Kernel,
    c: ArrayLike = 1.0,
    bandwidth: ArrayLike | None = None,
    cond: Conditionals | None = None,
    tolerance: ArrayLike = 0.0,
    contrasts: Contrasts = pairwise,
    weights: Real[Array | np.ndarray, " n"]
    | Bool[Array | np.ndarray, " n"]
    | None = None,
    precision: float = 1e-8,
    max_iterations: int = 1_000_000,
) -> KernelFit:
    """Fits support vector machines whose gaps of mean scores are bounded.

    For every configuration (c, bandwidth, tolerance) it solves

        minimise  |w|^2 / 2 + c sum_i weight_i max(0, 1 - y_i (<w, phi_i> + b))
        subject to  |<w, u_k>| <= tolerance_k,   u_k = differences of group means,

    to optimality, and proves it by the duality gap. The constraint is on mean scores of
    the training samples; check the gaps of decisions with `metrics`.

    Args:
        features: training samples.
        labels: 0 or 1; both must occur.
        kernel: a function of two blocks of samples, positive semidefinite, such as
            `functools.partial(kernels.gaussian, bandwidth=h)`, or with `bandwidth`
            given `kernels.gaussian` itself.
        c: price of the hinge, above 0; scalar or `(m,)`.
        bandwidth: passed to the kernel as `bandwidth=`, above 0; scalar or `(m,)`.
        cond: from a notion, on the training samples; None for no constraint. A contrast
            with an empty cell constrains nothing: look at `cond.occupied`.
        tolerance: bound on each `|<w, u_k>|` [score], infinity for none; scalar, `(m,)`
            or `(m, k)`.
        contrasts: which groups are compared, as in `orthogonality.directions`.
        weights: non-negative sample weights, or a mask, of the hinge; those of the
            constraint are in `cond`.
        precision: largest relative gap; the violation is at most a hundredth of it, in
            units of `|w|`.
        max_iterations: limit of moved pairs for each configuration.

    Returns:
        One model per configuration, without a leading axis when all are scalars. All is
        computed in float64, whatever the input. Configurations of one bandwidth share
        the table of the kernel, and start from one another's solutions as c grows.
        Memory: three tables of `n * n`. Time: n^2 d for each bandwidth; then of order n
        for each moved pair, of which there are about n where c is near 1 and 30 n
        where it is 1,000, and three or so systems as large as the number of vectors
        within their bounds. Kernels of low rank with c of 1,000 and a tolerance above 0
        may reach `max_iterations` and then say so; for a linear kernel
        `solvers.fit_linear` is the better way.

    Raises:
        ValueError: for input that is not finite, labels other than 0 and 1 or all
            equal, lengths that differ, bad weights, c or bandwidth not above 0,
            negative tolerance, batch shapes that do not match, a kernel whose table is
            not finite; and for arrays that are
            traced: the function works from the host.

    Example:
        >>> from fairjax import kernels, notions
        >>> features = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
        >>> cond = notions.demographic_parity(jnp.array([0, 0, 0, 1]), n_groups=2)
        >>> fit = fit_svm(features, np.array([0, 0, 1, 1]), kernel=kernels.gaussian,
        ...     bandwidth=1.0, cond=cond, tolerance=np.array([0.0, np.inf]))
        >>> fit.converged.tolist()
        [True, True]
        >>> scores = predict(fit, features, features, kernel=kernels.gaussian)
        >>> abs(scores[:, :3].mean(axis=1) - scores[:, 3]).round(3).tolist()
        [0.0, 1.333]

    References:
        Donini et al., NeurIPS 2018, section 4. Their code adds a row to the standard
        dual, which leaves out the multiplier's part of w and does not solve this
        problem. Platt, *Sequential minimal optimization*, 1998, with the pairs of Fan,
        Chen, Lin, *Working set selection using second order information*, JMLR 2005.
    """
    check_bound(kernel)
    _check_bandwidth(kernel, bandwidth)
    given = (features, labels, weights, c, bandwidth, tolerance, cond)
    if not checks.concrete(*jax.tree.leaves(given)):
        raise ValueError(
            "`fit_svm` needs concrete arrays, but was called inside `jit`, `vmap` or "
            "`grad`. Batches of configurations are arguments: `c`, `bandwidth`, "
            "`tolerance`."
        )
    checks.check_finite(features, name="features")
    checks.check_labels(labels, n=len(features))
    if weights is not None:
        checks.check_weights(weights, n=len(features))
    checks.check_nonnegative(precision, name="precision", positive=True)
    if max_iterations < 1:
        raise ValueError(
            f"`max_iterations` must be at least 1, but is {max_iterations}."
        )
    samples = np.asarray(features, np.float64)
    sides = 2 * np.asarray(labels, np.float64) - 1
    mass = np.ones(len(sides)) if weights is None else np.asarray(weights, np.float64)
    for side, label in ((-1, 0), (1, 1)):
        if not (mass[sides == side] > 0).any():
            raise ValueError(
                f"`weights` must leave samples of both labels, but those of label "
                f"{label} all have weight 0."
            )
    rows = _directions(cond, contrasts, n=len(sides))
    points, single = _points(c, bandwidth, tolerance, n_rows=len(rows))
    found = _solve(
        kernel, samples, sides, mass, rows, points, precision, max_iterations
    )
    return jax.tree.map(lambda a: a[0] if single else a, found)


def predict(
    fit: KernelFit,
    train: Real[Array | np.ndarray, "n d"],
    features: Real[Array | np.ndarray, "r d"],
    *,
    kernel: Kernel,
) -> Float[np.ndarray, "*m r"]:
    """Scores of samples; a decision is `score > 0`.

    Args:
        fit: from `fit_svm`.
        train: the samples that it was fitted on.
        features: samples to score.
        kernel: the same as for the fit; the bandwidths are in `fit`.

    Returns:
        Scores in float64. Cost O(r n (d + m)); memory: a table of 1,024 rows.

    Raises:
        ValueError: for samples that are not finite, or not those of the fit.

    Example:
        >>> import functools
        >>> from fairjax import kernels
        >>> x = np.array([[0.0], [1.0], [4.0], [5.0]])
        >>> linear = functools.partial(kernels.polynomial, degree=1, offset=0.0)
        >>> fit = fit_svm(x, np.array([0, 0, 1, 1]), kernel=linear, c=10.0)
        >>> predict(fit, x, np.array([[2.5], [4.0]]), kernel=linear).round(3).tolist()
        [0.0, 1.0]
    """
    n = fit.coefficients.shape[-1]
    checks.check_length(train, n=n, name="train", to="fit.coefficients")
    checks.check_finite(train, name="train")
    checks.check_finite(features, name="features")
    if features.shape[1] != train.shape[1]:
        raise ValueError(
            f"`features` must have the {train.shape[1]} columns of `train`, but have "
            f"{features.shape[1]}."
        )
    coefficients = np.atleast_2d(fit.coefficients)
    intercepts, widths = np.atleast_1d(fit.intercept), np.atleast_1d(fit.bandwidth)
    scores = np.empty((len(coefficients), len(features)))
    samples = np.asarray(train, np.float64)
    others = np.asarray(features, np.float64)
    with jax.enable_x64(True):
        for width in np.unique(widths):
            own = np.isnan(widths) if np.isnan(width) else widths == width
            table = _table(kernel, width)
            for start in range(0, len(others), _ROWS):
                block = others[start : start + _ROWS]
                part = np.asarray(table(block, samples)) @ coefficients[own].T
                scores[own, start : start + _ROWS] = part.T + intercepts[own][:, None]
    return scores[0] if fit.coefficients.ndim == 1 else scores


def _solve(
    kernel: Kernel,
    samples: Float[np.ndarray, "n d"],
    sides: Float[np.ndarray, " n"],
    mass: Float[np.ndarray, " n"],
    rows: Float[np.ndarray, "k n"],
    points: dict[str, np.ndarray],
    precision: float,
    max_iterations: int,
) -> KernelFit:
    """All points, bandwidth by bandwidth, along growing c."""
    m, n = len(points["c"]), len(sides)
    values = {
        "intercept": np.empty(m),
        "dual": np.empty((m, n)),
        "multipliers": np.empty((m, len(rows))),
        "objective": np.empty(m),
        "gap": np.empty(m),
        "violation": np.empty(m),
        "iterations": np.empty(m, np.int64),
    }
    worst = np.empty(m)
    widths = points["bandwidth"]
    with jax.enable_x64(True):
        for width in np.unique(widths):
            own = np.isnan(widths) if np.isnan(width) else widths == width
            chosen = np.flatnonzero(own)
            # Tolerances one after the other, c growing in each.
            keys = (points["c"][chosen], *points["tolerance"][chosen].T)
            chosen = chosen[np.lexsort(keys)]
            table = _table(kernel, width)(samples, samples)
            checks.check_finite(table, name="kernel(features, features)")
            problem, lengths = _problem(table, rows, sides)
            units = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0)
            last, start = np.inf, (np.zeros(n), np.zeros(len(rows)))
            for i in chosen:
                price, bounds = points["c"][i], points["tolerance"][i]
                if price < last:
                    start = (np.zeros(n), np.zeros(len(rows)))
                # As c grows, the last solution stays feasible.
                problem = problem._replace(
                    bound=jnp.asarray(price * mass),
                    tolerance=jnp.asarray(
                        np.where(lengths > 0, bounds * units, np.inf)
                    ),
                )
                found = jax.device_get(
                    _solve_one(problem, *start, precision, max_iterations)
                )
                last, start = price, (found.dual.alpha, found.dual.mu)
                values["dual"][i] = found.dual.alpha
                values["multipliers"][i] = found.dual.mu * units
                excess = np.abs(found.dual.gaps) * lengths - bounds
                values["violation"][i] = np.maximum(excess, 0).max(initial=0)
                for name in ("intercept", "objective", "gap", "iterations"):
                    values[name][i] = getattr(found, name)
                worst[i] = found.error
    coefficients = sides * values["dual"] - values["multipliers"] @ rows
    return KernelFit(
        coefficients, **values, converged=worst <= precision, bandwidth=widths
    )


def _problem(
    table: Float[Array, "n n"], rows: Float[np.ndarray, "k n"], sides: np.ndarray
) -> tuple[_svm.Problem, Float[np.ndarray, " k"]]:
    """What all points of one kernel share, and the lengths of the directions."""
    across = np.asarray(rows @ table)
    gram = across @ rows.T
    lengths = np.sqrt(np.maximum(np.diagonal(gram), 0))
    # A difference of means that is rounding is no direction.
    floor = 1e-7 * np.sqrt(np.diagonal(table).max())
    lengths = np.where(lengths > floor, lengths, 0)
    units = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0)
    across = units[:, None] * across
    gram = units[:, None] * gram * units[None, :]
    shared = (jnp.asarray(array) for array in (across, gram, sides, sides, lengths))
    return _svm.Problem(table, *shared), lengths


@jax.jit
def _solve_one(
    problem: _svm.Problem,
    alpha: Float[Array, " n"],
    mu: Float[Array, " k"],
    precision: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> _svm.Solution:
    start = _svm.derived(problem, alpha, mu)
    return _svm.solve(
        problem, start, precision=precision, max_iterations=max_iterations
    )


def _table(kernel: Kernel, width: float) -> Callable[[Any, Any], Array]:
    """The kernel at one bandwidth, in float64; NaN for one that is bound already."""
    bound = {} if np.isnan(width) else {"bandwidth": width}
    return lambda x, y: kernel(jnp.asarray(x), jnp.asarray(y), **bound)


def _check_bandwidth(kernel: Kernel, bandwidth: ArrayLike | None) -> None:
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


def _directions(
    cond: Conditionals | None, contrasts: Contrasts, *, n: int
) -> Float[np.ndarray, "k n"]:
    """Weights of the samples in each direction, as exact as the counts are."""
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
