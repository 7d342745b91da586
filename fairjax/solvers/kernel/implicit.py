"""Derivatives of fitted kernel machines, by the implicit function theorem.

Near a solution the same bounds hold with equality, so the machine is a smooth function
of everything that it was fitted on: the solution of one linear system.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from ... import erm
from ...arrays import checks
from ...kernels.functions import Scalar, check_bound
from ...notions import Conditionals
from ...orthogonality import Contrasts, gap_weights, pairwise
from . import active_set, newton
from .dual import Problem, derived
from .problem import Kernel, check_bandwidth
from .programs import KernelFit

_APART = 1e-3  # share of the largest score by which a machine is another one
_INSIDE = 1e-9  # shares of a bound by which free alphas keep away from its ends


class Machine(NamedTuple):
    """A kernel machine: a score is `kernel(x, train) @ coefficients + intercept`.

    Attributes:
        coefficients: one per training sample.
        intercept: never penalised.
        mismatch: largest difference of its scores of the training samples to those of
            the fit, as a share of the largest score, or of 1. Not small: the arguments
            are not those of the fit, or the fit has not converged.
    """

    coefficients: Float[Array, " n"]
    intercept: Float[Array, ""]
    mismatch: Float[Array, ""]


def implicit(
    fit: KernelFit,
    features: Float[Array, "n d"],
    labels: Real[Array, " n"] | Bool[Array, " n"],
    *,
    loss: erm.Loss,
    kernel: Kernel,
    c: Scalar = 1.0,
    bandwidth: Scalar | None = None,
    cond: Conditionals | None = None,
    tolerance: Scalar | Float[Array, " k"] = 0.0,
    contrasts: Contrasts = pairwise,
    weights: Real[Array, " n"] | Bool[Array, " n"] | None = None,
) -> Machine:
    """The fitted machine as a differentiable function of what it was fitted on.

    Pure JAX, for `jit`, `grad` and `vmap` over batches of fits: its value is the
    fit, its derivatives are those of the solution in the features, labels of a
    regression, c, bandwidth or other parameters of the kernel, tolerance and weights.
    So hyper-parameters can follow the gradient of a validation loss, and data can be
    moved against a fitted model.

    Args:
        fit: of one configuration; of a batch, take `jax.tree.map(lambda a: a[i], fit)`.
        features: the arguments that it was fitted with, as all that follow.
        labels: see `features`.
        loss: static; `erm.hinge` of `fit_svm`, `erm.squared` of `fit_ridge` or
            `erm.logistic` of `fit_logistic`.
        kernel: see `features`; its parameters may be traced.
        c: see `features`.
        bandwidth: see `features`.
        cond: see `features`.
        tolerance: see `features`; one number, or one per direction.
        contrasts: see `features`.
        weights: see `features`.

    Returns:
        Coefficients and intercept. Cost O(n^3) and three tables of `n * n`, forward and
        backward. Of a support vector machine with a sample exactly at its margin, or of
        a bound on a gap that is just reached, there are two one-sided derivatives: this
        is one of them. Where directions or samples depend on each other the machine
        is unique, its coefficients are not.

    Raises:
        ValueError: unless `jax_enable_x64` is set, without which little would be left
            of the derivatives; for a batch, another number of samples or directions, a
            loss that is not in the list, a kernel whose bandwidth is missing, features
            that are not finite; and, where no argument is traced, for arguments that
            are not those of the fit. Inside transformations look at `mismatch`.

    Example:
        >>> import numpy as np
        >>> from fairjax import kernels
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 0.0])
        >>> fit = solvers.fit_ridge(x, y, kernel=kernels.gaussian, bandwidth=1.0)
        >>> with jax.enable_x64(True):
        ...     slope = jax.grad(lambda h: implicit(fit, jnp.asarray(x), jnp.asarray(y),
        ...         loss=erm.squared, kernel=kernels.gaussian, bandwidth=h).intercept)
        ...     print(f"{slope(1.0):.3f}")
        -0.141

    References:
        Krantz, Parks, *The implicit function theorem*, 2003; for support vector
        machines Chapelle, Vapnik, Bousquet, Mukherjee, *Choosing multiple parameters
        for support vector machines*, Machine Learning 2002.
    """
    if not jax.config.jax_enable_x64:
        raise ValueError(
            "derivatives of kernel machines need float64: set `jax_enable_x64`, or "
            "call this under `with jax.enable_x64(True):`."
        )
    methods: dict[erm.Loss, Callable[..., Any]] = {
        erm.hinge: _hinge,
        erm.squared: _squared,
        erm.logistic: _logistic,
    }
    if loss not in methods:
        raise ValueError(
            f"`loss` must be `erm.hinge`, `erm.squared` or `erm.logistic`, as the fit "
            f"had it, but is {loss!r}."
        )
    check_bound(kernel)
    check_bandwidth(kernel, bandwidth)
    if jnp.ndim(fit.coefficients) != 1:
        raise ValueError(
            f"`fit` must be of one configuration, but its coefficients have shape "
            f"{jnp.shape(fit.coefficients)}. Take `jax.tree.map(lambda a: a[i], fit)`, "
            f"or `jax.vmap` over all of them."
        )
    checks.check_length(
        features, n=fit.dual.shape[0], name="features", to="fit.dual", columns=True
    )
    checks.check_length(labels, n=fit.dual.shape[0], name="labels", to="fit.dual")
    checks.check_finite(features, name="features")
    features = features.astype(jnp.float64)
    bound = {} if bandwidth is None else {"bandwidth": bandwidth}
    values = kernel(features, features, **bound)
    rows = jnp.zeros((0, len(features)))
    if cond is not None:
        sides = jnp.asarray(contrasts(cond.weights.shape[1]))
        totals = cond.weights.sum(axis=-1, keepdims=True, dtype=jnp.float64)
        exact = cond.weights / jnp.where(totals > 0, totals, 1)
        rows = gap_weights(cond._replace(weights=exact), sides)
    if len(rows) != fit.multipliers.shape[0]:
        raise ValueError(
            f"`cond` and `contrasts` must be those of the fit, which has "
            f"{fit.multipliers.shape[0]} directions, but have {len(rows)}."
        )
    mass = jnp.ones(len(features)) if weights is None else weights.astype(jnp.float64)
    numbers = labels.astype(jnp.float64)
    targets = numbers if loss is erm.squared else 2 * numbers - 1
    problem, lengths = _problem(
        values,
        rows,
        targets,
        binary=loss is not erm.squared,
        prices=jnp.asarray(c, jnp.float64) * mass,
        tolerance=jnp.asarray(tolerance, jnp.float64),
    )
    signs = jnp.sign(jnp.asarray(fit.multipliers))
    dual, intercept = methods[loss](problem, fit, signs, lengths)
    units = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
    along = jnp.matmul(dual.mu * units, rows, precision="highest")
    coefficients = problem.labels * dual.alpha - along
    other = jnp.matmul(values, jnp.asarray(fit.coefficients), precision="highest")
    scores = jnp.matmul(values, coefficients, precision="highest") + intercept
    apart = jnp.abs(scores - other - fit.intercept).max()
    mismatch = jax.lax.stop_gradient(apart / jnp.maximum(jnp.abs(other).max(), 1))
    if checks.concrete(mismatch) and not mismatch <= _APART:
        raise ValueError(
            f"the arguments must be those of the fit, but its scores differ by "
            f"{float(mismatch):.1g} of the largest one. Check `c`, `tolerance`, "
            f"`weights` and the kernel, and `fit.converged`."
        )
    return Machine(coefficients, intercept, mismatch)


def _problem(
    values: Float[Array, "n n"],
    rows: Float[Array, "k n"],
    targets: Float[Array, " n"],
    *,
    binary: bool,
    prices: Float[Array, " n"],
    tolerance: Float[Array, "..."],
) -> tuple[Problem, Float[Array, " k"]]:
    across = jnp.matmul(rows, values, precision="highest")
    gram = jnp.matmul(across, rows.T, precision="highest")
    # Lengths are units only: no derivative goes through them.
    squares = jax.lax.stop_gradient(jnp.diagonal(gram))
    floor = 1e-14 * jax.lax.stop_gradient(jnp.diagonal(values)).max()
    live = squares > floor
    lengths = jnp.where(live, jnp.sqrt(jnp.where(live, squares, 1)), 0)
    units = jnp.where(live, 1 / jnp.where(live, lengths, 1), 0)
    problem = Problem(
        values,
        units[:, None] * across,
        units[:, None] * gram * units[None, :],
        targets if binary else jnp.ones_like(targets),
        targets,
        prices,
        jnp.where(live, tolerance * units, jnp.inf),
    )
    return problem, lengths


def _hinge(problem: Problem, fit: KernelFit, signs: Array, lengths: Array) -> Any:
    alpha, bound = jnp.asarray(fit.dual), jax.lax.stop_gradient(problem.bound)
    used = bound > 0
    free = used & (alpha > _INSIDE * bound) & (alpha < (1 - _INSIDE) * bound)
    full = used & (alpha >= (1 - _INSIDE) * bound)
    faces = active_set.Faces(free, full, signs)
    size = len(alpha)
    mu = jnp.asarray(fit.multipliers) * lengths
    centre = jax.lax.stop_gradient(derived(problem, alpha, mu))
    ease = 1e-12 * jnp.diagonal(problem.kernel).max()
    intercept = jnp.asarray(fit.intercept)
    return active_set.on_faces(problem, size, faces, intercept, centre, ease)


def _step(loss: newton.Loss) -> Callable[..., Any]:
    """One step of Newton's method from the solution leads back to it."""

    def step(problem: Problem, fit: KernelFit, signs: Array, lengths: Array) -> Any:
        mu = jnp.asarray(fit.multipliers) * lengths
        scores = derived(problem, jnp.asarray(fit.dual), mu).scores + fit.intercept
        model = newton.model(problem, loss, jax.lax.stop_gradient(scores))
        return newton.step(problem, model, signs)

    return step


_squared, _logistic = _step(newton.squared), _step(newton.logistic)
