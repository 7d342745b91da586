"""Maximum mean discrepancy: the largest gap of means over a kernel's unit ball.

`MMD^2 = |mean of k(x, .) - mean of k(y, .)|^2 = E k(x, x') - 2 E k(x, y) + E k(y, y')`
is 0 for a characteristic kernel (Gaussian, Laplacian, inverse multiquadric, energy)
only if both distributions are the same. Here are the statistics that estimate it from
weighted samples: all pairs, pairs in a row, random features.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Key, Real, UInt32

from .. import kernels
from ..arrays import mesh as meshes
from ..arrays.samples import TwoSamples, Weights, shares, two_samples
from ..kernels import Kernel, pairwise


def mmd_squared(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
    kernel: Kernel,
    unbiased: bool = False,
    block: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """Squared MMD of two weighted samples, by one pass over blocks of the kernel.

    With weights `a` and `b`, each divided by its sum, the estimate is

    - biased (V-statistic): `sum_ij s_i s_j k(z_i, z_j)`, where `z` are both samples one
      after the other and `s = (a, -b)`. At least 0 up to rounding, and 0 if `x = y`.
    - unbiased (U-statistic): `sum_{i!=j} a_i a_j k(x_i, x_j) / sum_{i!=j} a_i a_j`, the
      same for `y`, minus `2 sum_ij a_i b_j k(x_i, y_j)`. For independent samples and
      weights that do not depend on them, its mean is that of the distributions, which
      averages over mini-batches need; a single value may be negative.

    Derivatives in points, weights and the kernel's hyper-parameters are exact, forward
    and reverse. Called as `mmd_squared(z, z, ...)` with one and the same array, samples
    are taken once, with `s = a - b`; and under `jax.vmap` over weights alone, as in
    `penalties.divergence_gap`, all members share one evaluation of the kernel.

    Args:
        x: one cloud of samples.
        y: the other one, as wide.
        x_weights: non-negative sample weights, or a mask; all ones when absent. A
            masked sample may lie anywhere: outside three times the range of the others
            it is moved there, which its weight's derivative can see, but no value.
        y_weights: likewise.
        kernel: a symmetric function of two blocks, such as
            `functools.partial(kernels.gaussian, bandwidth=h)`. Keep a function that you
            define yourself: a new one each time is compiled each time.
        unbiased: static.
        block: static; most samples in a block, 768 on a CPU and 2,048 elsewhere when
            absent. Memory is O(block^2 + (n + m) d).
        mesh: static; devices that share the rows of both clouds, over all axes of the
            mesh, as `sharding.shard_rows` lays them. Each device gathers all samples
            and visits the pairs of its own rows: memory stays O(block^2 + (n + m) d),
            time is divided by the number of devices; see `sharding` for the bytes.

    Returns:
        The squared distance [kernel]. It is 0 where it cannot be estimated: a cloud
        without weight, and for the unbiased one a cloud with fewer than two samples of
        positive weight. Such a 0 does not mean equal: look at `cond.occupied`. Cost
        O((n + m)^2 d), for value and gradient together three matrix products over half
        of the pairs.

    Raises:
        ValueError: for clouds that are empty, not finite or of different width; weights
            that are negative, not finite or all 0; a bandwidth that is not positive; a
            block below 1; a `mesh` that is none.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]])
        >>> mmd_squared(x, y, kernel=kernels.energy).item()
        1.0

    References:
        Gretton, Borgwardt, Rasch, Scholkopf, Smola, *A kernel two-sample test*, JMLR
        2012, Eq. 3 (unbiased) and Eq. 5 (biased), here for weighted samples: the sums
        over pairs become weighted U- and V-statistics (Shapiro, Hubert, Annals of
        Statistics 1979).
    """
    kernels.check_bound(kernel)
    block = pairwise.block_size(block)
    mesh = None if mesh is None else meshes.check_auto(mesh)
    samples = two_samples(x, y, x_weights, y_weights)
    static, traced = pairwise.partition(kernel)
    return _mmd(
        traced, samples, kernel=static, unbiased=unbiased, block=block, mesh=mesh
    )


def energy_distance(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
    unbiased: bool = False,
    block: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """`2 E|x - y| - E|x - x'| - E|y - y'|`, Euclidean norms: no bandwidth to choose.

    It is the squared MMD of `kernels.energy`. In one dimension it is
    `2 integral (F - G)^2`, the square of `scipy.stats.energy_distance`.

    Args:
        x: one cloud of samples.
        y: the other one, as wide.
        x_weights: non-negative sample weights, or a mask.
        y_weights: likewise.
        unbiased: static; see `mmd_squared`.
        block: static; most samples in a block; see `mmd_squared`.
        mesh: static; devices that share the rows.

    Returns:
        The energy distance [units of the samples], 0 where it cannot be estimated; its
        gradient is 0 between samples that coincide. Float32 limits the size of samples
        as `kernels.energy` says. Cost as for `mmd_squared`.

    Raises:
        ValueError: as in `mmd_squared`.

    Example:
        >>> energy_distance(jnp.array([[0.0]]), jnp.array([[3.0]])).item()
        6.0

    References:
        Szekely, Rizzo, *Energy statistics: a class of statistics based on distances*,
        Journal of Statistical Planning and Inference 2013.
    """
    return mmd_squared(
        x,
        y,
        x_weights=x_weights,
        y_weights=y_weights,
        kernel=kernels.energy,
        unbiased=unbiased,
        block=block,
        mesh=mesh,
    )


def mmd_linear_time(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "n d"],
    *,
    x_weights: None = None,
    y_weights: None = None,
    kernel: Kernel,
) -> Float[Array, ""]:
    """Unbiased squared MMD from neighbours in the sequence: linear cost, more noise.

    The mean over i of `h(z_{2i-1}, z_{2i})`, where `z_i = (x_i, y_i)` and
    `h(z, z') = k(x, x') + k(y, y') - k(x, y') - k(x', y)`: a stream of samples will do.
    Its variance is of order 1 / n everywhere, where `mmd_squared` has 1 / n^2 close to
    equal distributions: for the same error, it needs many more samples.

    Args:
        x: samples in random order.
        y: as many, independent of `x`; the last one of an odd number is not used.
        x_weights: must be None. The statistic is defined for samples that count alike.
        y_weights: likewise.
        kernel: as for `mmd_squared`.

    Returns:
        The squared distance [kernel], which may be negative; cost O(n d).

    Raises:
        ValueError: for weights, fewer than two samples, sizes that differ, samples that
            are not finite, and a bandwidth that is not positive.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]])
        >>> mmd_linear_time(x, y, kernel=kernels.energy).item()
        0.0

    References:
        Gretton et al., *A kernel two-sample test*, JMLR 2012, Lemma 14.
    """
    if x_weights is not None or y_weights is not None:
        raise ValueError(
            "`x_weights` and `y_weights` must be None: the linear-time statistic is "
            "defined without weights. Use `mmd_squared` or `mmd_random_features`."
        )
    kernels.check_bound(kernel)
    samples = two_samples(x, y, None, None)
    other = samples.x if samples.y is None else samples.y
    n, m = samples.x.shape[0], other.shape[0]
    if n != m or n < 2:
        raise ValueError(
            f"`x` and `y` must have the same number of samples, at least 2, but have "
            f"{n} and {m}. Use `mmd_squared`."
        )
    static, traced = pairwise.partition(kernel)
    return _linear_time(traced, samples.x, other, kernel=static)


def mmd_random_features(
    x: Real[ArrayLike, "n d"],
    y: Real[ArrayLike, "m d"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
    bandwidth: kernels.Scalar,
    key: Key[Array, ""] | UInt32[Array, "2"],
    n_features: int = 1024,
) -> Float[Array, ""]:
    """Biased squared MMD of the Gaussian kernel by random frequencies: linear cost.

    The mean over frequencies `w ~ N(0, 1 / bandwidth^2)` of the squared distance of
    both characteristic functions, `|sum_i a_i e^{i w x_i} - sum_j b_j e^{i w y_j}|^2`.

    Error against `mmd_squared(..., unbiased=False)`, the mean over keys: each term lies
    in [0, 4] and has this mean, so the standard error is at most
    `2 sqrt(MMD^2 / n_features)`, and the error exceeds t with probability at most
    `2 exp(-n_features t^2 / 8)`. For a fixed key it is a squared distance of feature
    means and never negative.

    Args:
        x: one cloud of samples.
        y: the other one, as wide.
        x_weights: non-negative sample weights, or a mask.
        y_weights: likewise.
        bandwidth: positive, as in `kernels.gaussian`; traced and differentiable.
        key: source of the frequencies. A key that changes between training steps makes
            the gradient unbiased; a fixed one is blind to what its features miss.
        n_features: static; number of frequencies.

    Returns:
        The estimate, 0 for a cloud without weight; cost O((n + m) n_features d), memory
        O((n + m)(64 + d)).

    Raises:
        ValueError: as in `mmd_squared`, and for fewer than one feature.

    Example:
        >>> x, y = jnp.zeros((1, 1)), jnp.ones((1, 1))
        >>> exact = mmd_squared(
        ...     x, y, kernel=functools.partial(kernels.gaussian, bandwidth=1.0))
        >>> found = mmd_random_features(x, y, bandwidth=1.0, key=jax.random.key(0))
        >>> bool(abs(found - exact) < 4 * 2 * (exact / 1024) ** 0.5)
        True

    References:
        Rahimi, Recht, *Random features for large-scale kernel machines*, NeurIPS 2007;
        Sutherland, Schneider, *On the error of random Fourier features*, UAI 2015: sine
        and cosine of each frequency, and the error of the MMD.
    """
    if n_features < 1:
        raise ValueError(f"`n_features` must be at least 1, but is {n_features}.")
    kernels.check_bound(functools.partial(kernels.gaussian, bandwidth=bandwidth))
    samples = two_samples(x, y, x_weights, y_weights)
    h = jnp.asarray(bandwidth).astype(samples.x.dtype)
    return _random_features(samples, h, key, n_features=n_features)


@functools.partial(jax.jit, static_argnames=("kernel", "unbiased", "block", "mesh"))
def _mmd(
    traced: list[Any],
    samples: TwoSamples,
    *,
    kernel: Any,
    unbiased: bool,
    block: int,
    mesh: Mesh | None,
) -> Float[Array, ""]:
    k = pairwise.combine(kernel, traced)
    pair_sum = functools.partial(pairwise.pair_sum, block=block, mesh=mesh)
    points, (a, b) = _pooled(samples, mesh)
    if not unbiased:
        signed = (a - b)[None]
        value = pair_sum(k, points, signed, signed)
        return jnp.where((a > 0).any() & (b > 0).any(), value, 0)

    enough = ((a > 0).sum() >= 2) & ((b > 0).sum() >= 2)
    # sum_{i!=j} a_i a_j, as `sum_i a_i = 1`.
    pairs = [jnp.where(enough, (w * (1 - w)).sum(), 1) for w in (a, b)]
    right = jnp.stack([a / pairs[0] - b, b / pairs[1] - a])
    value = pair_sum(k, points, jnp.stack([a, b]), right)
    diagonal = _pointwise(k, points, points)
    twice = jnp.square(a) / pairs[0] + jnp.square(b) / pairs[1]
    value -= jnp.vdot(twice, diagonal, precision=Precision.HIGHEST)
    return jnp.where(enough, value, 0)


def _pooled(
    samples: TwoSamples, mesh: Mesh | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """Both clouds as one, and the shares of its points in each.

    On a mesh each device joins its own rows of both, so that none has to move.
    """
    points = meshes.pad_rows(samples.x, mesh, mode="edge")
    weights = (samples.x_weights, samples.y_weights)
    a, b = (shares(meshes.pad_rows(w, mesh)) for w in weights)
    if samples.y is not None:
        others = meshes.pad_rows(samples.y, mesh, mode="edge")
        join = meshes.shard_map(lambda *parts: jnp.concatenate(parts), mesh)
        points = join(points, others)
        a, b = join(a, jnp.zeros_like(b)), join(jnp.zeros_like(a), b)
    used = pairwise.used_by_any(points, a + b)
    return pairwise.clip_masked_points(points, used), (a, b)


def _pointwise(kernel: Kernel, x: Array, y: Array) -> Float[Array, " n"]:
    return jax.vmap(lambda p, q: kernel(p[None], q[None])[0, 0])(x, y)


@functools.partial(jax.jit, static_argnames="kernel")
def _linear_time(
    traced: list[Any], x: Float[Array, "n d"], y: Float[Array, "n d"], *, kernel: Any
) -> Float[Array, ""]:
    k = functools.partial(_pointwise, pairwise.combine(kernel, traced))
    n = x.shape[0] // 2 * 2
    x1, x2, y1, y2 = x[0:n:2], x[1:n:2], y[0:n:2], y[1:n:2]
    return jnp.mean(k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1))


@functools.partial(jax.jit, static_argnames="n_features")
def _random_features(
    samples: TwoSamples, bandwidth: Array, key: Array, *, n_features: int
) -> Float[Array, ""]:
    points, (a, b) = _pooled(samples)
    # A shift turns both characteristic functions by the same angle.
    points -= jax.lax.stop_gradient(points.mean(axis=0))[None]
    signed = a - b
    h = jnp.where(bandwidth > 0, bandwidth, jnp.nan)
    frequencies = jax.random.normal(key, (n_features, points.shape[1]), points.dtype)
    product = functools.partial(jnp.matmul, precision=Precision.HIGHEST)

    @jax.checkpoint
    def gap(frequency: Float[Array, " d"]) -> Float[Array, ""]:
        angles = product(points, frequency / h)
        real = product(signed, jnp.cos(angles))
        imaginary = product(signed, jnp.sin(angles))
        return jnp.square(real) + jnp.square(imaginary)

    gaps = jax.lax.map(gap, frequencies, batch_size=min(64, n_features))
    return jnp.where((a > 0).any() & (b > 0).any(), gaps.mean(), 0)
