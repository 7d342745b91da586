"""Kernel machines under the orthogonality constraint, solved with a certificate.

Fairness is P1's: with `u_k` the difference of two groups' means in the kernel's feature
space, `|<w, u_k>| <= tolerance_k` bounds the gap of their mean scores. The directions
are combinations of the training samples, so a fitted model is one coefficient per
training sample, whatever the constraint adds to it.
"""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ...arrays import checks
from ...notions import Conditionals
from ...orthogonality import Contrasts, pairwise
from . import newton, published, svm
from .batch import KernelFit, predict_batch, solve_batch
from .inputs import Kernel, Labels, Samples, Weights, check_inputs


def fit_svm(
    features: Samples,
    labels: Labels,
    *,
    kernel: Kernel,
    c: ArrayLike = 1.0,
    bandwidth: ArrayLike | None = None,
    cond: Conditionals | None = None,
    tolerance: ArrayLike = 0.0,
    contrasts: Contrasts = pairwise,
    weights: Weights = None,
    mode: Literal["exact", "published"] = "exact",
    precision: float = 1e-8,
    max_iterations: int = 1_000_000,
) -> KernelFit:
    """Support vector machines whose gaps of mean scores are bounded.

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
        mode: "published" solves the dual of the paper's code instead, for comparison:
            tolerance 0 only, no multiplier's part in w, and an intercept that is a mean
            over all support vectors. `gap` shows how far it is from the optimum, and
            `converged` says whether that dual is solved.
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
            not finite, a tolerance above 0 with `mode="published"`; and for arrays that
            are traced: the function works from the host.

    Example:
        >>> import jax.numpy as jnp
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
    if mode not in ("exact", "published"):
        raise ValueError(f'`mode` must be "exact" or "published", but is {mode!r}.')
    if mode == "published" and checks.concrete(tolerance) and np.any(tolerance):
        raise ValueError(
            f'`tolerance` must be 0 with `mode="published"`, which knows no other, but '
            f"is {tolerance}."
        )
    inputs = check_inputs(
        features,
        labels,
        binary=True,
        kernel=kernel,
        c=c,
        bandwidth=bandwidth,
        cond=cond,
        tolerance=tolerance,
        contrasts=contrasts,
        weights=weights,
        precision=precision,
        max_iterations=max_iterations,
    )
    method = functools.partial(
        published.solve if mode == "published" else svm.solve_from,
        precision=precision,
        max_iterations=max_iterations,
    )
    return solve_batch(inputs, kernel, method, precision=precision)


def fit_ridge(
    features: Samples,
    labels: Labels,
    *,
    kernel: Kernel,
    c: ArrayLike = 1.0,
    bandwidth: ArrayLike | None = None,
    cond: Conditionals | None = None,
    tolerance: ArrayLike = 0.0,
    contrasts: Contrasts = pairwise,
    weights: Weights = None,
    precision: float = 1e-8,
) -> KernelFit:
    """Kernel ridge regressions whose gaps of mean scores are bounded.

    As `fit_svm`, with the squared loss and real labels: it minimises

        |w|^2 / 2 + c sum_i weight_i (y_i - <w, phi_i> - b)^2

    under `|<w, u_k>| <= tolerance_k`. Without bounds it is kernel ridge regression with
    a ridge of `1 / (2 c)` and an intercept that is not penalised.

    Args:
        features: training samples.
        labels: real numbers. For classes give -1 and 1, so that a decision is
            `score > 0`.
        kernel: as for `fit_svm`, like all that follows.
        c: price of the squared error, above 0; scalar or `(m,)`.
        bandwidth: passed to the kernel.
        cond: from a notion, on the training samples.
        tolerance: bound on each `|<w, u_k>|` [units of the labels].
        contrasts: which groups are compared.
        weights: non-negative sample weights, or a mask, of the error.
        precision: largest relative gap.

    Returns:
        One model per configuration, as `fit_svm`. Points with the same bandwidth and c
        share one factor, whatever their tolerances: cost O(n^3) for each pair of these
        and O(n^2 k) for each point; memory: three tables of `n * n`.

    Raises:
        ValueError: as `fit_svm`; labels must be finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from fairjax import kernels, notions
        >>> features, labels = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 4.0])
        >>> cond = notions.demographic_parity(jnp.array([0, 0, 1, 1]), n_groups=2)
        >>> fit = fit_ridge(features, labels, kernel=kernels.gaussian, bandwidth=1.0,
        ...     c=100.0, cond=cond, tolerance=np.array([0.0, np.inf]))
        >>> scores = predict(fit, features, features, kernel=kernels.gaussian)
        >>> gaps = scores[:, 2:].mean(axis=1) - scores[:, :2].mean(axis=1)
        >>> abs(gaps).round(2).tolist()
        [0.0, 2.5]

    References:
        Donini et al., NeurIPS 2018, section 4, whose constraint suits any convex loss.
    """
    inputs = check_inputs(
        features,
        labels,
        binary=False,
        kernel=kernel,
        c=c,
        bandwidth=bandwidth,
        cond=cond,
        tolerance=tolerance,
        contrasts=contrasts,
        weights=weights,
        precision=precision,
        max_iterations=1,
    )
    return solve_batch(
        inputs,
        kernel,
        newton.solve_ridge_from,
        precision=precision,
        tolerances_share_c=True,
    )


def fit_logistic(
    features: Samples,
    labels: Labels,
    *,
    kernel: Kernel,
    c: ArrayLike = 1.0,
    bandwidth: ArrayLike | None = None,
    cond: Conditionals | None = None,
    tolerance: ArrayLike = 0.0,
    contrasts: Contrasts = pairwise,
    weights: Weights = None,
    precision: float = 1e-10,
    max_iterations: int = 100,
) -> KernelFit:
    """Kernel logistic regressions whose gaps of mean scores are bounded.

    As `fit_svm`, with the logistic loss: it minimises

        |w|^2 / 2 + c sum_i weight_i log(1 + exp(-y_i (<w, phi_i> + b)))

    under `|<w, u_k>| <= tolerance_k`. A score is a log-odds.

    Args:
        features: training samples.
        labels: 0 or 1; both must occur.
        kernel: as for `fit_svm`, like all that follows.
        c: price of the loss, above 0; scalar or `(m,)`.
        bandwidth: passed to the kernel.
        cond: from a notion, on the training samples.
        tolerance: bound on each `|<w, u_k>|` [log-odds].
        contrasts: which groups are compared.
        weights: non-negative sample weights, or a mask, of the loss.
        precision: largest relative gap; scores are known to about its root.
        max_iterations: limit of Newton steps for each configuration.

    Returns:
        One model per configuration, as `fit_svm`. Time: about ten factors, O(n^3), for
        each point, fewer along a growing c; memory: four tables of `n * n`.

    Raises:
        ValueError: as `fit_svm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fairjax import kernels, notions
        >>> features = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
        >>> cond = notions.demographic_parity(jnp.array([0, 0, 0, 1]), n_groups=2)
        >>> fit = fit_logistic(features, np.array([0, 0, 1, 1]), bandwidth=1.0,
        ...     kernel=kernels.gaussian, cond=cond, tolerance=0.5)
        >>> scores = predict(fit, features, features, kernel=kernels.gaussian)
        >>> print(abs(scores[:3].mean() - scores[3]).round(6))
        0.5

    References:
        Donini et al., NeurIPS 2018, section 4, whose constraint suits any convex loss.
    """
    inputs = check_inputs(
        features,
        labels,
        binary=True,
        kernel=kernel,
        c=c,
        bandwidth=bandwidth,
        cond=cond,
        tolerance=tolerance,
        contrasts=contrasts,
        weights=weights,
        precision=precision,
        max_iterations=max_iterations,
    )
    method = functools.partial(
        newton.solve_logistic_from, precision=precision, max_iterations=max_iterations
    )
    return solve_batch(inputs, kernel, method, precision=precision)


def predict(
    fit: KernelFit,
    train: Real[Array | np.ndarray, "n d"],
    features: Real[Array | np.ndarray, "r d"],
    *,
    kernel: Kernel,
) -> Float[np.ndarray, "*m r"]:
    """Scores of samples; a decision is `score > 0`.

    Args:
        fit: from `fit_svm`, `fit_ridge` or `fit_logistic`.
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
    checks.check_length(train, n=n, name="train", to="fit.coefficients", columns=True)
    checks.check_finite(train, name="train")
    checks.check_finite(features, name="features")
    if features.shape[1] != train.shape[1]:
        raise ValueError(
            f"`features` must have the {train.shape[1]} columns of `train`, but have "
            f"{features.shape[1]}."
        )
    samples, others = (np.asarray(a, np.float64) for a in (train, features))
    scores = predict_batch(fit, samples, others, kernel)
    return scores[0] if fit.coefficients.ndim == 1 else scores
