"""Wasserstein distances on the line against SciPy and against quantile functions."""

import jax
import numpy as np
import pytest
from scipy import stats

from fairjax.divergences import sliced_wasserstein, wasserstein_1d

N, M = 12, 8


def by_definition(x, y, a, b, p):
    """Root of the integral of |quantiles of x - those of y|^p, step by step."""

    def quantile(points, mass, level):
        order = np.argsort(points)
        reached = np.cumsum(mass[order]) / mass.sum()
        at = np.searchsorted(reached, level)
        return points[order][np.minimum(at, len(points) - 1)]

    sums = [np.cumsum(m[np.argsort(z)]) / m.sum() for z, m in ((x, a), (y, b))]
    levels = np.unique(np.concatenate([[0], *sums]))
    middles, widths = (levels[1:] + levels[:-1]) / 2, np.diff(levels)
    gaps = np.abs(quantile(x, a, middles) - quantile(y, b, middles))
    return (widths @ gaps**p) ** (1 / p)


def draw(rng):
    x, y = rng.normal(size=N), rng.normal(size=M) + 0.3
    return x, y, rng.uniform(0.1, 1, size=N), rng.uniform(0.1, 1, size=M)


def distance(x, y, a, b, p=1.0):
    return wasserstein_1d(x, y, x_weights=a, y_weights=b, p=p)


with_slopes = jax.jit(
    jax.value_and_grad(distance, argnums=(0, 1, 2, 3)), static_argnames="p"
)


def test_first_distance_matches_scipy(rng, x64):
    for shift in (0, 1e3):
        x, y, a, b = draw(rng)
        a[:3] = 0
        x, y = x + shift, np.round(y, 1) + shift
        expected = stats.wasserstein_distance(x, y, a, b)
        np.testing.assert_allclose(distance(x, y, a, b), expected, atol=1e-12)
        np.testing.assert_allclose(
            wasserstein_1d(x[:, None], y[:, None]),
            stats.wasserstein_distance(x, y),
            atol=1e-12,
        )


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 7.0])
def test_every_power_matches_its_definition_and_differentiates(p, rng, x64):
    data = draw(rng)
    found, slopes = with_slopes(*data, p=p)
    np.testing.assert_allclose(found, by_definition(*data, p), rtol=1e-10)
    for slope, argument in zip(slopes, range(4), strict=True):
        step = 1e-6 * rng.normal(size=data[argument].shape)
        ends = [
            by_definition(*data[:argument], end, *data[argument + 1 :], p)
            for end in (data[argument] + step, data[argument] - step)
        ]
        np.testing.assert_allclose(
            2 * np.vdot(slope, step), ends[0] - ends[1], rtol=1e-5
        )


def test_high_powers_neither_overflow_nor_vanish(rng):
    x = rng.normal(size=N).astype(np.float32)
    for scale in (1e-30, 1e30):
        shifted = wasserstein_1d(scale * x, scale * x + np.float32(3 * scale), p=40.0)
        np.testing.assert_allclose(shifted, 3 * scale, rtol=1e-4)


def test_equal_samples_have_distance_zero_exactly_and_no_slope(rng):
    x = rng.normal(size=N).astype(np.float32)
    mask = np.arange(2 * N) < N
    padded = np.append(x, 99 + x)
    # As numbers: a mask has no slopes.
    arrays = x, padded, np.full(N, 0.3, np.float32), mask.astype(np.float32)
    assert distance(*arrays[:3], mask, 1.0) == 0
    zero, (slope, *_) = with_slopes(*arrays, p=2.0)
    assert zero == 0
    np.testing.assert_array_equal(slope, 0)


def test_sliced_distance_is_the_mean_over_directions(rng, x64):
    x, y = rng.normal(size=(N, 3)), rng.normal(size=(M, 3))
    _, _, a, b = draw(rng)
    rows = rng.normal(size=(5, 3))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    costs = [by_definition(x @ u, y @ u, a, b, 2.0) ** 2 for u in units]
    found = sliced_wasserstein(x, y, x_weights=a, y_weights=b, directions=rows)
    np.testing.assert_allclose(found, np.sqrt(np.mean(costs)), rtol=1e-10)


def test_drawn_directions_are_uniform(rng, x64):
    """For a shift t, the mean squared projection is |t|^2 / d."""
    x, shift = rng.normal(size=(N, 3)), np.array([1.0, 2.0, -2.0])
    found = sliced_wasserstein(x, x + shift, key=jax.random.key(0), n_directions=4000)
    np.testing.assert_allclose(found**2, 9 / 3, rtol=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: wasserstein_1d(z, z, p=0.5), "`p` must be at least 1 and finite"),
        (lambda z: wasserstein_1d(z, z, p=np.inf), "`p` must be at least 1"),
        (lambda z: wasserstein_1d(np.ones((2, 2)), z), r"`x` must be scalars"),
        (lambda z: wasserstein_1d(z, np.ones(0)), r"`y` must hold at least one point"),
        (lambda z: wasserstein_1d(z, z * np.nan), "`y` must be finite"),
        (lambda z: wasserstein_1d(z, z, x_weights=-z), "must not be negative"),
        (lambda z: sliced_wasserstein(z[:, None], z[:, None]), "pass either `key`"),
        (
            lambda z: sliced_wasserstein(z[:, None], z[:, None], directions=np.eye(2)),
            r"`directions` must have shape \(k, 1\)",
        ),
        (
            lambda z: sliced_wasserstein(
                z[:, None], z[:, None], directions=np.zeros((1, 1))
            ),
            "length of directions",
        ),
        (
            lambda z: sliced_wasserstein(
                z[:, None], z[:, None], key=jax.random.key(0), n_directions=0
            ),
            "`n_directions` must be at least 1",
        ),
    ],
)
def test_bad_input_is_refused_at_the_door(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call(np.ones(3))
