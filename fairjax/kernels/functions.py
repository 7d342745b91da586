"""Kernels: plain functions from two blocks of samples to the table of their values.

Distances come from inner products of samples that are centred first, because float32
loses everything about samples that lie close together far away from zero. What is left
is an error of about `d * 1e-7` times the squared distance from the centre.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, Real, UInt32

from ..arrays import checks
from ..arrays.samples import TwoSamples, Weights, shares, two_samples

Scalar = float | int | Real[ArrayLike, ""]

# Up to this width differences are taken one by one: exact, and no slower.
_MAX_EXACT_WIDTH = 3


def gaussian(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, bandwidth: Scalar
) -> Float[Array, "n m"]:
    """`exp(-|x - y|^2 / (2 bandwidth^2))`, in (0, 1].

    Args:
        x: samples.
        y: samples to compare with.
        bandwidth: positive, in units of the samples; see `median_heuristic`.

    Returns:
        The table; NaN for a bandwidth that is not positive. Cost O(n m d).

    Example:
        >>> table = gaussian(jnp.zeros((1, 1)), jnp.ones((1, 1)), bandwidth=1.0)
        >>> round(table.item(), 4)
        0.6065
    """
    unit = 2**0.5 * _nan_unless_positive(bandwidth, x)
    return jnp.exp(_squared_distances(*_scaled(x, y, unit), sign=-1))


def gaussian_sum(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    bandwidth: Scalar,
    n_bandwidths: int = 5,
) -> Float[Array, "n m"]:
    """Sum of Gaussians whose squared bandwidths double: sees several scales at once.

    The squared bandwidths are `bandwidth^2 * 2^l`, `l` from `-(n_bandwidths - 1) / 2`
    in steps of 1. Costs one exponential and a multiplication for each further one.

    Args:
        x: samples.
        y: samples to compare with.
        bandwidth: positive; the geometric mean of the bandwidths.
        n_bandwidths: static; how many.

    Returns:
        The table, in (0, n_bandwidths]; NaN for a bandwidth that is not positive.

    Raises:
        ValueError: for a number of bandwidths that is not a positive `int`.

    Example:
        >>> gaussian_sum(jnp.zeros((1, 1)), jnp.zeros((1, 1)), bandwidth=1.0).item()
        5.0

    References:
        Long et al., *Learning transferable features with deep adaptation networks*,
        ICML 2015, section 4.1, where bandwidths are spread in the same way.
    """
    _check_static(n_bandwidths, name="n_bandwidths")
    widest = _nan_unless_positive(bandwidth, x) * 2 ** ((n_bandwidths - 1) / 4)
    power = jnp.exp(_squared_distances(*_scaled(x, y, 2**0.5 * widest), sign=-1))
    total = power
    for _ in range(n_bandwidths - 1):
        # Halving the squared bandwidth squares the kernel.
        power = jnp.square(power)
        total += power
    return total


def laplacian(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, bandwidth: Scalar
) -> Float[Array, "n m"]:
    """`exp(-|x - y| / bandwidth)` with the Euclidean norm, in (0, 1].

    Args:
        x: samples.
        y: samples to compare with.
        bandwidth: positive, in units of the samples.

    Returns:
        The table; NaN for a bandwidth that is not positive. Its gradient is 0 where two
        samples coincide, and where float32 cannot tell whether they do. Cost O(n m d).

    Example:
        >>> table = laplacian(jnp.zeros((1, 1)), jnp.ones((1, 1)), bandwidth=1.0)
        >>> round(table.item(), 4)
        0.3679
    """
    return jnp.exp(-_euclidean(*_scaled(x, y, _nan_unless_positive(bandwidth, x))))


def energy(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """`-|x - y|` with the Euclidean norm: no bandwidth, heavy tails.

    Conditionally positive definite, which is all that differences of distributions
    need: its squared MMD is the energy distance.

    Args:
        x: samples.
        y: samples to compare with.

    Returns:
        The table, at most 0. Its gradient is 0 where two samples coincide, and where
        float32 cannot tell whether they do. There, coordinates beyond 4e18 / d count as
        that, so that squares stay finite, and distances below 1e-19 are 0: rescale such
        samples. Cost O(n m d).

    Example:
        >>> energy(jnp.zeros((1, 1)), jnp.ones((2, 1))).tolist()
        [[-1.0, -1.0]]

    References:
        Sejdinovic, Sriperumbudur, Gretton, Fukumizu, *Equivalence of distance-based and
        RKHS-based statistics in hypothesis testing*, Annals of Statistics 2013.
    """
    return -distances(x, y)


def inverse_multiquadric(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, bandwidth: Scalar
) -> Float[Array, "n m"]:
    """`(1 + |x - y|^2 / bandwidth^2)^(-1/2)`, in (0, 1]: heavier tails than Gaussian.

    Args:
        x: samples.
        y: samples to compare with.
        bandwidth: positive, in units of the samples.

    Returns:
        The table; NaN for a bandwidth that is not positive. Cost O(n m d).

    Example:
        >>> x, y = jnp.zeros((1, 2)), jnp.array([[1.0, 1.0]])
        >>> round(inverse_multiquadric(x, y, bandwidth=1.0).item(), 4)
        0.5774
    """
    squares = _squared_distances(*_scaled(x, y, _nan_unless_positive(bandwidth, x)))
    # Rounding may leave a squared distance below 0, and tiny bandwidths magnify it.
    return jax.lax.rsqrt(1 + jnp.maximum(squares, 0))


def polynomial(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    degree: int = 2,
    scale: Scalar = 1.0,
    offset: Scalar = 1.0,
) -> Float[Array, "n m"]:
    """`(<x, y> / scale^2 + offset)^degree`: sees moments up to the degree only.

    Not invariant to shifts, so samples are not centred: far away from zero, float32
    says little.

    Args:
        x: samples.
        y: samples to compare with.
        degree: static, at least 1.
        scale: positive, in units of the samples.
        offset: at least 0, for a positive definite kernel.

    Returns:
        The table; NaN for a scale that is not positive. Cost O(n m d).

    Raises:
        ValueError: for a degree that is not a positive `int`.

    Example:
        >>> polynomial(jnp.ones((1, 2)), jnp.ones((1, 2)), degree=2).item()
        9.0
    """
    _check_static(degree, name="degree")
    products = _products(
        x / _nan_unless_positive(scale, x), y / _nan_unless_positive(scale, x)
    )
    return (products + jnp.asarray(offset).astype(x.dtype)) ** degree


def squared_distances(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """Squared Euclidean distances by one matrix product; cost O(n m d).

    Rounding may leave a result a little below 0 when d > 3; it is exact up to d = 3.

    Example:
        >>> squared_distances(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])).tolist()
        [[25.0]]
    """
    return _squared_distances(*_centred_if_wide(x, y))


def distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Euclidean distances, 0 with gradient 0 where rounding hides them; O(n m d).

    In float32 of coordinates up to 4e18 / d, and not below 1e-19: see `energy`.

    Example:
        >>> distances(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])).tolist()
        [[5.0]]
    """
    return _euclidean(*_centred_if_wide(x, y))


def median_heuristic(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    x_weights: Weights = None,
    y_weights: Weights = None,
    pairs: int = 10_000,
) -> Float[Array, ""]:
    """A bandwidth: the median distance between two samples of the pooled clouds.

    It is a rule of thumb. Where groups differ at a scale much smaller than the spread
    of all samples, a smaller bandwidth sees more; `gaussian_sum` hedges.

    Args:
        x: one cloud of samples.
        y: the other one, as wide.
        key: source of the drawn pairs.
        x_weights: non-negative sample weights, or a mask; each cloud counts the same.
        y_weights: likewise.
        pairs: static; how many pairs are drawn with replacement. The result is a
            quantile whose level is 0.5 with a standard error of `0.5 / sqrt(pairs)`.

    Returns:
        The median of the distances of drawn pairs of two samples; 0 when most of them
        coincide or none can be drawn: no bandwidth then. Cost O((n + m) log + pairs d).

    Raises:
        ValueError: for input that is not finite, clouds that are empty or of different
            width, negative weights, or no pairs.

    Example:
        >>> x, y = jnp.array([[0.0]]), jnp.array([[3.0]])
        >>> median_heuristic(x, y, key=jax.random.key(0)).item()
        3.0

    References:
        Gretton et al., *A kernel two-sample test*, JMLR 2012, section 8; Garreau,
        Jitkrittum, Kanagawa, *Large sample analysis of the median heuristic*, 2017.
    """
    if pairs < 1:
        raise ValueError(f"`pairs` must be at least 1, but is {pairs}.")
    samples = two_samples(x, y, x_weights, y_weights)
    return _median(samples, key, pairs=pairs)


def check_bound(kernel: Any, *, name: str = "kernel") -> None:
    """Raises `ValueError` unless the bandwidth and scale of a kernel are positive.

    Example:
        >>> check_bound(functools.partial(gaussian, bandwidth=0.0))
        Traceback (most recent call last):
        ValueError: `bandwidth` of `kernel` must be positive and finite, but is 0.0. ...
    """
    if not callable(kernel):
        raise ValueError(
            f"`{name}` must be a function of two blocks of samples, such as "
            f"`functools.partial(kernels.gaussian, bandwidth=1.0)`, but is {kernel!r}."
        )
    if not isinstance(kernel, functools.partial):
        return
    for word in ("bandwidth", "scale"):
        value = kernel.keywords.get(word, 1.0)
        if not checks.concrete(value):
            continue
        numbers = np.asarray(value, float)
        if not (np.isfinite(numbers) & (numbers > 0)).all():
            raise ValueError(
                f"`{word}` of `{name}` must be positive and finite, but is {value}. "
                f"Start from `kernels.median_heuristic`."
            )


@functools.partial(jax.jit, static_argnames="pairs")
def _median(samples: TwoSamples, key: Array, *, pairs: int) -> Float[Array, ""]:
    other = samples.x if samples.y is None else samples.y
    pooled = jnp.concatenate([samples.x, other])
    mass = jnp.concatenate([shares(samples.x_weights), shares(samples.y_weights)])
    some = mass.sum() > 0
    even = jnp.full_like(mass, 1 / mass.size)
    mass = jnp.where(some, mass / jnp.where(some, mass.sum(), 1), even)
    first, second = jax.random.choice(key, mass.size, (2, pairs), p=mass)
    squares = jnp.square(
        _clip_to_range(pooled[first]) - _clip_to_range(pooled[second])
    ).sum(axis=1)
    apart = squares > 0
    found = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
    # A sample is no partner of its own; such draws go to the end, out of the way.
    partners = (first != second) & some
    ranked = jnp.sort(jnp.where(partners, found, jnp.inf))
    count = partners.sum()
    middle = (ranked[jnp.maximum(count - 1, 0) // 2] + ranked[count // 2]) / 2
    return jnp.where(count > 0, middle, 0)


def _squared_distances(
    x: Float[Array, "n d"], y: Float[Array, "m d"], *, sign: int = 1
) -> Float[Array, "n m"]:
    """Squared distances times a sign: another pass over the table would change it."""
    if x.shape[1] <= _MAX_EXACT_WIDTH:
        gaps = (x[:, i, None] - y[None, :, i] for i in range(x.shape[1]))
        return sign * functools.reduce(jnp.add, map(jnp.square, gaps))
    norms = sign * _squared_norms(x)[:, None] + sign * _squared_norms(y)[None, :]
    return norms + _products(x, -2 * sign * y)


def _euclidean(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    squares, floor = _squared_distances(x, y), jnp.zeros((1, 1), x.dtype)
    if x.shape[1] > _MAX_EXACT_WIDTH:
        # The bound on the rounding of three sums of d products.
        unit = x.shape[1] * float(jnp.finfo(x.dtype).eps)
        floor = unit * (_squared_norms(x)[:, None] + _squared_norms(y)[None, :])
    # Not `squares > floor`, which would make a NaN look like no distance at all.
    apart = ~(squares <= floor)
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)


def _products(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    # Barriers keep the transposed samples, so that slopes are products of these with
    # the table: on CPU, XLA takes a quarter longer where the table is transposed.
    x, y = jax.lax.optimization_barrier((x.T, y.T))
    return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())), precision="highest")


def _squared_norms(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.square(x).sum(axis=1)


def _centred_if_wide(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Samples clipped to range, and centred where squares are expanded."""
    if x.shape[1] > _MAX_EXACT_WIDTH:
        x, y = _centred(x, y)
    return _clip_to_range(x), _clip_to_range(y)


def _scaled(
    x: Float[Array, "n d"], y: Float[Array, "m d"], unit: Float[Array, ""]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    # Samples are divided, not the table: its passes are what takes time.
    x, y = _centred(x, y)
    return _clip_to_range(x / unit), _clip_to_range(y / unit)


def _centred(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    # Distances do not depend on the centre, so it needs no derivative. Shares are
    # summed, because a sum of the largest numbers would overflow.
    centre = jax.lax.stop_gradient((x / x.shape[0]).sum(axis=0))[None]
    return x - centre, y - centre


def _clip_to_range(samples: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Samples clipped so that squared distances are finite: `inf - inf` is NaN."""
    limit = float(jnp.finfo(samples.dtype).max) ** 0.5 / (4 * samples.shape[1])
    return jnp.clip(samples, -limit, limit)


def _nan_unless_positive(value: Scalar, like: Array) -> Float[Array, ""]:
    """NaN unless positive, so that a bad value in a traced sweep marks its own row."""
    number = jnp.asarray(value).astype(like.dtype)
    return jnp.where(number > 0, number, jnp.nan)


def _check_static(number: Any, *, name: str) -> None:
    if not isinstance(number, int) or number < 1:
        raise ValueError(
            f"`{name}` must be a positive `int`, known before tracing, but is "
            f"{number!r}."
        )
