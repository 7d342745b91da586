"""Kernels against their formulas, and the bandwidth that the median suggests."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import kernels

H, N, M = 1.3, 9, 7


def draw(rng, width, dtype=float, shift=0.0):
    """Two clouds, for NumPy and for JAX."""
    x, y = rng.normal(size=(N, width)) + shift, rng.normal(size=(M, width)) + shift
    x, y = x.astype(dtype), y.astype(dtype)
    return x, y, jnp.asarray(x), jnp.asarray(y)


def lengths(x, y):
    return np.sqrt(np.square(x[:, None] - y[None]).sum(axis=-1))


# Each kernel of bandwidth h, and its formula.
FORMULAS = {
    kernels.gaussian: lambda x, y, h: np.exp(-(lengths(x, y) ** 2) / (2 * h**2)),
    kernels.gaussian_sum: lambda x, y, h: sum(
        np.exp(-(lengths(x, y) ** 2) / (2 * h**2 * 2.0**level))
        for level in range(-2, 3)
    ),
    kernels.laplacian: lambda x, y, h: np.exp(-lengths(x, y) / h),
    kernels.inverse_multiquadric: lambda x, y, h: (
        (1 + lengths(x, y) ** 2 / h**2) ** -0.5
    ),
}
every_kernel = pytest.mark.parametrize("kernel", FORMULAS, ids=lambda k: k.__name__)


@every_kernel
@pytest.mark.parametrize("width", [1, 3, 4, 8])
def test_tables_match_their_formulas(kernel, width, rng, x64):
    x, y, *both = draw(rng, width)
    expected = FORMULAS[kernel](x, y, H)
    np.testing.assert_allclose(kernel(*both, bandwidth=H), expected, rtol=1e-12)


@every_kernel
@pytest.mark.parametrize("width", [2, 5])
def test_slopes_match_finite_differences(kernel, width, rng, x64):
    x, y, *both = draw(rng, width)

    def total(x, h):
        return kernel(x, both[1], bandwidth=h).sum()

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(both[0], H)
    step = 1e-6 * rng.normal(size=x.shape)
    ends = [FORMULAS[kernel](x + s, y, H).sum() for s in (step, -step)]
    np.testing.assert_allclose(2 * (slopes[0] * step).sum(), ends[0] - ends[1], 1e-6)
    ends = [FORMULAS[kernel](x, y, H + s).sum() for s in (1e-6, -1e-6)]
    np.testing.assert_allclose(2e-6 * slopes[1], ends[0] - ends[1], rtol=1e-6)


@pytest.mark.parametrize("width", [2, 5])
def test_energy_and_polynomial_match_their_formulas(width, rng, x64):
    x, y, *both = draw(rng, width)
    np.testing.assert_allclose(kernels.energy(*both), -lengths(x, y), rtol=1e-12)
    found = kernels.polynomial(*both, degree=3, scale=2.0, offset=0.5)
    np.testing.assert_allclose(found, (x @ y.T / 4 + 0.5) ** 3, rtol=1e-10)
    np.testing.assert_allclose(kernels.distances(*both), lengths(x, y), rtol=1e-12)
    found = kernels.squared_distances(*both)
    np.testing.assert_allclose(found, lengths(x, y) ** 2, rtol=1e-10)


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("kernel", [kernels.energy, kernels.laplacian])
def test_slopes_are_zero_where_points_coincide(kernel, width):
    if kernel is kernels.laplacian:
        kernel = functools.partial(kernel, bandwidth=1.0)
    x = jnp.ones((3, width))
    slope = jax.grad(lambda x: kernel(x, jnp.ones((2, width))).sum())(x)
    np.testing.assert_array_equal(slope, 0)


@every_kernel
def test_float32_sees_distances_far_away_from_zero(kernel, rng):
    x, y, *both = draw(rng, 5, np.float32, shift=1000.0)
    expected = FORMULAS[kernel](x.astype(float), y.astype(float), H)
    found = kernel(*both, bandwidth=np.float32(H))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@every_kernel
def test_huge_points_and_bad_bandwidths_in_a_sweep(kernel):
    huge = jnp.array([[3e38, -3e38, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    table = kernel(huge, -huge, bandwidth=1.0)
    assert np.isfinite(table).all()
    sweep = jax.vmap(lambda h: kernel(huge, huge, bandwidth=h))(jnp.array([1.0, 0.0]))
    assert np.isfinite(sweep[0]).all()
    assert np.isnan(sweep[1]).all()


def test_median_heuristic_is_the_median_of_pairs(rng, x64):
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2)) + 4
    key, many = jax.random.key(0), 100_000
    found = kernels.median_heuristic(x, y, key=key, pairs=many)
    # Each cloud has half of the mass, whatever its size; no point is its own partner.
    pooled, mass = np.concatenate([x, y]), np.repeat([1 / 12, 1 / 10], [6, 5])
    pairs = list(itertools.permutations(range(11), 2))
    distances = np.array([lengths(pooled[[i]], pooled[[j]]).item() for i, j in pairs])
    chances = np.array([mass[i] * mass[j] for i, j in pairs])
    order = np.argsort(distances)
    reached = np.cumsum(chances[order]) / chances.sum()
    low, high = (distances[order][np.searchsorted(reached, q)] for q in (0.49, 0.51))
    assert low <= found <= high

    # Masked points are never drawn, scale is kept, and the key alone decides.
    masked = kernels.median_heuristic(
        np.concatenate([x, 1e6 + x]), y, x_weights=np.arange(12) < 6, key=key
    )
    assert masked < 10
    np.testing.assert_allclose(
        kernels.median_heuristic(1e-3 * x, 1e-3 * y, key=key, pairs=many),
        1e-3 * found,
        rtol=1e-9,
    )
    assert kernels.median_heuristic(x[:1], x[:1], key=key) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: kernels.gaussian_sum(z, z, bandwidth=1.0, n_bandwidths=0), "n_band"),
        (lambda z: kernels.polynomial(z, z, degree=1.5), "`degree` must be a positive"),
        (
            lambda z: kernels.median_heuristic(z, z, key=jax.random.key(0), pairs=0),
            "`pairs` must be at least 1",
        ),
        (
            lambda z: kernels.median_heuristic(z, z[:, :1], key=jax.random.key(0)),
            "same width, but have 2 and 1 columns",
        ),
        (
            lambda z: kernels.check_bound(
                functools.partial(kernels.gaussian, bandwidth=np.array([1.0, -2.0]))
            ),
            "`bandwidth` of `kernel` must be positive",
        ),
        (
            lambda z: kernels.check_bound(
                functools.partial(kernels.polynomial, scale=np.nan), name="x_kernel"
            ),
            "`scale` of `x_kernel` must be positive",
        ),
    ],
)
def test_bad_input_is_refused_at_the_door(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((3, 2)))


def test_distances_in_float32_hold_where_the_docstring_says():
    for size in (1e-18, 1.0, 1e18):
        x, y = jnp.array([[size]]), jnp.array([[3 * size]])
        np.testing.assert_allclose(kernels.energy(x, y), [[-2 * size]], rtol=1e-6)
    # Beyond, they are bounded and never NaN.
    far = jnp.array([[3e38], [-3e38]])
    assert np.isfinite(kernels.energy(far, far)).all()
