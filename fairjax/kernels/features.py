"""Feature maps: explicit features whose inner products approximate a kernel.

With `<phi(x), phi(y)> = k(x, y)`, nearly, a kernel machine is a linear model on
`phi(x)`. Large problems then go to `solvers.fit_linear` with all its fairness terms,
and no table of n x n values is ever made.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree, Real, UInt32

from ..arrays import checks
from ..arrays.samples import Weights, as_weights, check_sample, shares, wide
from . import functions as functions
from .pairwise import Kernel, combine, partition

_product = functools.partial(jnp.matmul, precision="highest")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMap:
    """Samples to features; made by `features_for`, an immutable pytree.

    Attributes:
        function: static; of samples and the arrays.
        arrays: `Frequencies` or `Landmarks`.
    """

    function: Callable[[Array, Any], Array] = dataclasses.field(
        metadata={"static": True}
    )
    arrays: PyTree

    def __call__(self, samples: Real[ArrayLike, "n d"]) -> Float[Array, "n m"]:
        """Features of training samples and of new ones alike.

        Args:
            samples: as wide as those that the map was made for.

        Returns:
            A row per sample, in the dtype of the map.

        Raises:
            ValueError: for samples that are not finite, or of another width.
        """
        known = self.arrays[0]
        if jnp.shape(samples)[1:] != known.shape[-1:]:
            raise ValueError(
                f"`samples` must have the {known.shape[-1]} columns that the map was "
                f"made for, but their shape is {jnp.shape(samples)}."
            )
        checks.check_finite(samples, name="samples")
        return _apply(self, jnp.asarray(samples).astype(known.dtype))


class Frequencies(NamedTuple):
    """Random frequencies, drawn by `fourier`.

    Attributes:
        centre: taken off samples first: far away from zero, angles lose their digits.
        frequencies: one row for each pair of features.
        amplitude: of every feature.
    """

    centre: Float[Array, " d"]
    frequencies: Float[Array, "p d"]
    amplitude: Float[Array, ""]


class Landmarks(NamedTuple):
    """Landmarks with their inverse root, drawn by `nystrom`.

    Attributes:
        points: the landmarks.
        root: inverse square root of their table, symmetric.
        parameters: the traced ones of the kernel.
    """

    points: Float[Array, "m d"]
    root: Float[Array, "m m"]
    parameters: list[Any]


def fourier(
    kernel: Kernel,
    samples: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    n_features: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
) -> FeatureMap:
    """Cosine and sine of random frequencies: a method of `features_for`.

    For `gaussian`, `gaussian_sum`, `laplacian` and `inverse_multiquadric`. Each is a
    mixture of Gaussians, so a frequency is a normal vector times a random scale. Inner
    products have the kernel's values as their mean. With `r(t)` the kernel at distance
    t, an inner product of samples at distance t has the variance

        (r(0)^2 + r(0) r(2 t) - 2 r(t)^2) / n_features

    if frequencies are independent: a standard deviation of about
    `r(0) / sqrt(n_features)` for samples far apart, and 0 for equal ones. Here they
    are orthogonal in blocks of d, and their scales spread evenly, which lowers the
    error: on Adult (107 columns, 1,024 features, the median as bandwidth) from 0.020
    to 0.009 for the Gaussian, from 0.023 to 0.012 for the inverse multiquadric.

    Args:
        kernel: one of the four, with its bandwidth bound.
        samples: say where the centre is, and nothing else.
        weights: shares of the samples.
        n_features: static, even: two for each frequency.
        key: source of the frequencies.

    Returns:
        The map. Cost O(n_features d min(n_features, d) + n d), and O(n d n_features)
        for each call.

    Raises:
        ValueError: for any other kernel, a bandwidth that is not a scalar, and an odd
            number of features.

    Example:
        >>> kernel = functools.partial(functions.gaussian, bandwidth=1.0)
        >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> phi = features_for(kernel, x, n_features=4096, key=jax.random.key(0))
        >>> bool(abs(phi(x) @ phi(x).T - kernel(x, x)).max() < 0.05)
        True

    References:
        Rahimi, Recht, *Random features for large-scale kernel machines*, NeurIPS 2007;
        Sutherland, Schneider, *On the error of random Fourier features*, UAI 2015, for
        the variance; Yu et al., *Orthogonal random features*, NeurIPS 2016.
    """
    own = getattr(kernel, "func", kernel)
    quantiles = next((s for known, s in _SCALE_QUANTILES.items() if known is own), None)
    if quantiles is None:
        names = ", ".join(known.__name__ for known in _SCALE_QUANTILES)
        raise ValueError(
            f"`kernel` must be one of {names} for Fourier features, but is "
            f"{getattr(own, '__name__', own)}. For any positive semidefinite kernel "
            f"use `method=kernels.nystrom`."
        )
    bandwidth = inspect.signature(kernel).parameters["bandwidth"].default
    if jnp.ndim(bandwidth):
        raise ValueError(
            f"`bandwidth` of `kernel` must be a scalar, but has shape "
            f"{jnp.shape(bandwidth)}. Map over bandwidths with `jax.vmap`."
        )
    if n_features % 2:
        raise ValueError(
            f"`n_features` must be even, a cosine and a sine for each frequency, but "
            f"is {n_features}."
        )
    parts = partition(kernel)
    drawn = _draw_frequencies(
        parts.traced,
        samples,
        weights,
        key,
        kernel=parts.static,
        quantiles=quantiles,
        n_pairs=n_features // 2,
    )
    return FeatureMap(_fourier_features, drawn)


def nystrom(
    kernel: Kernel,
    samples: Float[Array, "n d"],
    weights: Float[Array, " n"],
    *,
    n_features: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
) -> FeatureMap:
    """Projects on the kernel at landmarks among the samples: a `features_for` method.

    `phi(x) = K_ZZ^(-1/2) k(Z, x)` with landmarks Z, for any positive semidefinite
    kernel. An inner product is the kernel after projection on the span of the
    landmarks: exact where x or y is one of them, for all samples if all are landmarks,
    and for a kernel of finite rank once they span it. Elsewhere `phi(x)` is too short,
    never too long. The error falls as the eigenvalues of the kernel do: fast for smooth
    kernels and few columns, where it beats `fourier` by far.

    Args:
        kernel: symmetric and positive semidefinite, hyper-parameters bound.
        samples: from which landmarks are drawn without replacement.
        weights: shares of the samples, the chances to be drawn.
        n_features: static; number of landmarks.
        key: source of the landmarks.

    Returns:
        The map, which is smooth in the kernel's parameters. Directions with eigenvalues
        below 10 roundings of the largest one are left out: in float32, inner products
        are exact to about 1e-4. Inside `jit`, features are NaN for a kernel that is not
        positive semidefinite, and a landmark of weight 0 is replaced by the first one.
        Cost O(n_features^2 (n_features + d) + n), and O(n n_features (n_features + d))
        for each call.

    Raises:
        ValueError: for more landmarks than samples with weight, and a kernel whose
            table of the landmarks is not finite or has negative eigenvalues.

    Example:
        >>> kernel = functools.partial(functions.polynomial, degree=1)
        >>> x = jnp.array([[0.0, 1.0], [1.0, 1.0], [2.0, -1.0], [5.0, 3.0]])
        >>> phi = features_for(
        ...     kernel, x, n_features=3, key=jax.random.key(0), method=nystrom)
        >>> bool(jnp.allclose(phi(x) @ phi(x).T, kernel(x, x), atol=1e-3))
        True

    References:
        Williams, Seeger, *Using the Nystrom method to speed up kernel machines*,
        NeurIPS 2000; Yang et al., *Nystrom method vs random Fourier features*,
        NeurIPS 2012.
    """
    known = checks.concrete(weights)
    n = int((np.asarray(weights) > 0).sum()) if known else samples.shape[0]
    if n_features > n:
        raise ValueError(
            f"`n_features` must be at most {n}, the number of samples with weight, but "
            f"is {n_features}: each feature is a landmark of its own."
        )
    parts = partition(kernel)
    landmarks = _draw_landmarks(
        parts.traced,
        samples,
        weights,
        key,
        kernel=parts.static,
        n_features=n_features,
    )
    root = landmarks.root
    if checks.concrete(root) and not np.isfinite(np.asarray(root)).all():
        raise ValueError(
            f"`kernel` must be finite and positive semidefinite, but its table of "
            f"{n_features} landmarks is not. Rescale the samples, or take another "
            f"kernel: `kernels.energy`, for one, cannot be written as inner products."
        )
    return FeatureMap(_NystromFeatures(parts.static), landmarks)


def features_for(
    kernel: Kernel,
    samples: Real[ArrayLike, "n d"],
    *,
    n_features: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
    method: Callable[..., FeatureMap] = fourier,
    weights: Weights = None,
) -> FeatureMap:
    """A map to features whose inner products approximate a kernel.

    Fit linear models on the features: with `erm.hinge` and `ridge = 1 / (n c)` the
    result is that of `fit_svm`, nearly, with `orthogonality.directions` of the features
    as its constraint; any other loss gives that loss's kernel machine. For thousands of
    samples `fit_svm` is exact and fast; take features where its n x n tables do not
    fit, or for many configurations. With 600 rows of Adult, equal opportunity and 32,
    128, 512 features, decisions on test samples agree with `fit_svm` for 93 %, 96 %,
    98.5 % by `fourier` and for 94 %, 98 %, 99 % by `nystrom`.

    Args:
        kernel: a function of two blocks of samples, hyper-parameters bound, such as
            `functools.partial(kernels.gaussian, bandwidth=h)`. Numbers with a fraction
            may be traced: `vmap` over a bandwidth makes one map for each, all from the
            same draw. Keep a function that you define yourself: a new one each time is
            compiled each time.
        samples: training samples.
        n_features: static; more are nearer to the kernel.
        key: source of what is drawn; the same key gives the same map.
        method: static; `fourier`, for kernels of distances, or `nystrom`, for any
            kernel. Their docstrings tell the error and the cost.
        weights: non-negative sample weights, or a mask.

    Returns:
        The map, in float64 for float64 samples and else in float32. Call it on training
        samples and on new ones. For a traced parameter that is not positive its
        features are NaN.

    Raises:
        ValueError: for samples that are empty or not finite, bad weights, fewer than
            one feature, a bandwidth that is missing or not positive, and as the
            method does.

    Example:
        >>> from fairjax import erm, kernels, notions, orthogonality, solvers
        >>> x, key = jnp.arange(12.0)[:, None], jax.random.key(0)
        >>> y, groups = jnp.arange(12) // 3 % 2, jnp.arange(12) % 2
        >>> kernel = functools.partial(kernels.gaussian, bandwidth=1.0)
        >>> phi = features_for(kernel, x, n_features=256, key=key)
        >>> cond = notions.equal_opportunity(groups, y, n_groups=2)
        >>> fit = solvers.fit_linear(
        ...     phi(x), y, loss=erm.hinge, ridge=1 / (12 * 10.0), tolerance=0.0,
        ...     directions=orthogonality.directions(phi(x), cond))
        >>> scores = phi(x) @ fit.coefficients + fit.intercept
        >>> (scores > 0).astype(int).tolist()
        [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    """
    functions.check_bound(kernel)
    _check_bandwidth(kernel)
    check_sample(samples, weights, name="samples", word="weights")
    if n_features < 1:
        raise ValueError(f"`n_features` must be at least 1, but is {n_features}.")
    points = jnp.asarray(samples).astype(wide(samples))
    mass = shares(as_weights(weights, points.shape[0], points.dtype))
    return method(kernel, points, mass, n_features=n_features, key=key)


def _half_normal(levels: Array) -> Array:
    """Quantiles of the absolute value of a normal number."""
    return 2**0.5 * jax.scipy.special.erfinv(levels)


def _scales_of_sum(levels: Array, kernel: Kernel) -> Array:
    count = inspect.signature(kernel).parameters["n_bandwidths"].default
    return 2 ** ((jnp.floor(count * levels) - (count - 1) / 2) / 2)


# Quantiles of the scale by which a kernel multiplies the frequencies of a Gaussian.
_SCALE_QUANTILES = {
    functions.gaussian: lambda levels, kernel: jnp.ones_like(levels),
    functions.gaussian_sum: _scales_of_sum,
    # A normal vector divided by a half-normal number is multivariate Cauchy.
    functions.laplacian: lambda levels, kernel: 1 / _half_normal(levels),
    # (1 + s)^(-1/2) is the mean of exp(-t s) with t of Gamma(1/2), and 2 t is the
    # square of a normal number.
    functions.inverse_multiquadric: lambda levels, kernel: _half_normal(levels),
}


@jax.jit
def _apply(phi: FeatureMap, samples: Float[Array, "n d"]) -> Float[Array, "n m"]:
    return phi.function(samples, phi.arrays)


def _fourier_features(
    samples: Float[Array, "n d"], drawn: Frequencies
) -> Float[Array, "n m"]:
    angles = _product(samples - drawn.centre[None], drawn.frequencies.T)
    both = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return drawn.amplitude * both


class _NystromFeatures(NamedTuple):
    """A function that equals any other one of the same kernel, as `jit` asks for."""

    kernel: Hashable

    def __call__(
        self, samples: Float[Array, "n d"], landmarks: Landmarks
    ) -> Float[Array, "n m"]:
        kernel = combine(self.kernel, landmarks.parameters)
        return _product(kernel(samples, landmarks.points), landmarks.root)


@functools.partial(jax.jit, static_argnames=("kernel", "quantiles", "n_pairs"))
def _draw_frequencies(
    traced: list[Any],
    samples: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: Array,
    *,
    kernel: Any,
    quantiles: Callable[[Array, Kernel], Array],
    n_pairs: int,
) -> Frequencies:
    kernel = combine(kernel, traced)
    width, dtype = samples.shape[1], samples.dtype
    rotation_key, length_key, level_key = jax.random.split(key, 3)
    block = min(width, n_pairs)
    blocks = -(-n_pairs // block)
    rotations = jax.random.orthogonal(rotation_key, block, (blocks,), dtype, m=width)
    normal = jax.random.normal(length_key, (n_pairs, width), dtype)
    lengths = jnp.linalg.norm(normal, axis=1)
    jitter = jax.random.uniform(level_key, (n_pairs,), dtype)
    levels = (jnp.arange(n_pairs).astype(dtype) + jitter) / n_pairs
    # Rounding may reach the ends, where the quantiles are 0 or infinite.
    eps = float(jnp.finfo(dtype).eps)
    scales = quantiles(jnp.clip(levels, eps, 1 - eps), kernel)
    bandwidth = inspect.signature(kernel).parameters["bandwidth"].default
    sizes = lengths * scales / jnp.asarray(bandwidth).astype(dtype)
    frequencies = sizes[:, None] * rotations.reshape(-1, width)[:n_pairs]
    origin = jnp.zeros((1, width), dtype)
    amplitude = jnp.sqrt(kernel(origin, origin)[0, 0] / n_pairs)
    return Frequencies(_product(weights, samples), frequencies, amplitude)


@functools.partial(jax.jit, static_argnames=("kernel", "n_features"))
def _draw_landmarks(
    traced: list[Any],
    samples: Float[Array, "n d"],
    weights: Float[Array, " n"],
    key: Array,
    *,
    kernel: Any,
    n_features: int,
) -> Landmarks:
    chosen = jax.random.choice(
        key, samples.shape[0], (n_features,), replace=False, p=weights
    )
    # A copy of another landmark adds nothing to their span.
    points = jnp.where(
        (weights[chosen] > 0)[:, None], samples[chosen], samples[chosen[0]]
    )
    table = combine(kernel, traced)(points, points)
    return Landmarks(points, _inverse_root(table), [jnp.asarray(a) for a in traced])


@jax.custom_jvp
def _inverse_root(table: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """`table^(-1/2)` on its range; NaN unless it is positive semidefinite."""
    vectors, inverses = _inverse_roots(table)
    return _product(vectors * inverses[None], vectors.T)


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
    # Slopes of `eigh` are infinite where eigenvalues are equal; those of the root are
    # not. With a_i = eigenvalue_i^(-1/2), the difference quotients of the root are
    # -a_i^2 a_j^2 / (a_i + a_j), and a_i^3 where j is outside the range.
    (table,), (change,) = primals, tangents
    vectors, a = _inverse_roots(table)
    root = _product(vectors * a[None], vectors.T)
    total = a[:, None] + a[None, :]
    inside = (a[:, None] > 0) & (a[None, :] > 0)
    product = a[:, None] * a[None, :]
    quotients = jnp.where(
        inside, -product * (product / jnp.where(inside, total, 1)), total**3
    )
    along = _product(_product(vectors.T, (change + change.T) / 2), vectors)
    return root, _product(_product(vectors, quotients * along), vectors.T)


def _inverse_roots(
    table: Float[Array, "m m"],
) -> tuple[Float[Array, "m m"], Float[Array, " m"]]:
    """Eigenvectors, and eigenvalues to the power -1/2, 0 outside the range."""
    values, vectors = jnp.linalg.eigh(table)
    eps = float(jnp.finfo(table.dtype).eps)
    kept = values > 10 * eps * values[-1]
    inverses = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, values, 1)), 0)
    semidefinite = values[0] >= -(eps**0.5) * values[-1]
    return vectors, jnp.where(semidefinite, inverses, jnp.nan)


def _check_bandwidth(kernel: Kernel) -> None:
    """Raises `ValueError` where a kernel lacks its bandwidth."""
    known = inspect.signature(kernel).parameters.get("bandwidth")
    if known is not None and known.default is inspect.Parameter.empty:
        name = getattr(kernel, "__name__", "kernel")
        raise ValueError(
            f"`kernel` needs a bandwidth, but none is bound. Bind it with "
            f"`functools.partial({name}, bandwidth=h)`; start from "
            f"`kernels.median_heuristic`."
        )
