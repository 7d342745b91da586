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
from ...kernels import Scalar, check_bound
from ...notions import Conditionals
from ...orthogonality import Contrasts, pairwise
from . import newton
from .active_set import ActiveSet, solve_system
from .batch import KernelFit
from .inputs import Kernel, check_bandwidth, exact_gap_weights
from .problem import Problem, dual_point, inverse_lengths, unit_directions

_MAX_MISMATCH = 1e-3  # share of the largest score, beyond which it is another machine
_MARGIN = 1e-9  # share of its bound by which a free alpha keeps away from the ends


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
        >>> from fairjax import kernels, solvers
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
    keywords = {} if bandwidth is None else {"bandwidth": bandwidth}
    values = kernel(features, features, **keywords)
    rows = jnp.zeros((0, len(features)))
    if cond is not None:
        rows = exact_gap_weights(cond, contrasts)
    if len(rows) != fit.multipliers.shape[0]:
        raise ValueError(
            f"`cond` and `contrasts` must be those of the fit, which has "
            f"{fit.multipliers.shape[0]} directions, but have {len(rows)}."
        )
    mass = jnp.ones(len(features)) if weights is None else weights.astype(jnp.float64)
    numbers = labels.astype(jnp.float64)
    targets = numbers if loss is erm.squared else 2 * numbers - 1
    cross, gram, lengths = unit_directions(values, rows)
    units = inverse_lengths(lengths)
    problem = Problem(
        values,
        cross,
        gram,
        jnp.ones_like(targets) if loss is erm.squared else targets,
        targets,
        jnp.asarray(c, jnp.float64) * mass,
        jnp.where(lengths > 0, jnp.asarray(tolerance, jnp.float64) * units, jnp.inf),
    )
    signs = jnp.sign(jnp.asarray(fit.multipliers))
    dual, intercept = methods[loss](problem, fit, signs, lengths)
    of_gaps = jnp.matmul(dual.mu * units, rows, precision="highest")
    coefficients = problem.labels * dual.alpha - of_gaps
    other = jnp.matmul(values, jnp.asarray(fit.coefficients), precision="highest")
    scores = jnp.matmul(values, coefficients, precision="highest") + intercept
    difference = jnp.abs(scores - other - fit.intercept).max()
    mismatch = jax.lax.stop_gradient(difference / jnp.maximum(jnp.abs(other).max(), 1))
    if checks.concrete(mismatch) and not mismatch <= _MAX_MISMATCH:
        raise ValueError(
            f"the arguments must be those of the fit, but its scores differ by "
            f"{float(mismatch):.1g} of the largest one. Check `c`, `tolerance`, "
            f"`weights` and the kernel, and `fit.converged`."
        )
    return Machine(coefficients, intercept, mismatch)


def _hinge(problem: Problem, fit: KernelFit, signs: Array, lengths: Array) -> Any:
    """The linear system of the fit's active set."""
    alpha, upper = jnp.asarray(fit.dual), jax.lax.stop_gradient(problem.upper_bound)
    used = upper > 0
    free = used & (alpha > _MARGIN * upper) & (alpha < (1 - _MARGIN) * upper)
    full = used & (alpha >= (1 - _MARGIN) * upper)
    mu = jnp.asarray(fit.multipliers) * lengths
    centre = jax.lax.stop_gradient(dual_point(problem, alpha, mu))
    damping = 1e-12 * jnp.diagonal(problem.kernel).max()
    intercept = jnp.asarray(fit.intercept)
    active = ActiveSet(free, full, signs)
    return solve_system(problem, len(alpha), active, intercept, centre, damping)


def _newton_step(loss: newton.Loss) -> Callable[..., Any]:
    """One step of Newton's method from the solution, which leads back to it."""

    def step(problem: Problem, fit: KernelFit, signs: Array, lengths: Array) -> Any:
        mu = jnp.asarray(fit.multipliers) * lengths
        scores = dual_point(problem, jnp.asarray(fit.dual), mu).scores + fit.intercept
        scores = jax.lax.stop_gradient(scores)
        model = newton.quadratic_model(problem, loss, scores)
        return newton.step(problem, model, signs)

    return step


_squared, _logistic = _newton_step(newton.squared), _newton_step(newton.logistic)
