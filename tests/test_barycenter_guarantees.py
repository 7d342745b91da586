"""What statistics promises about the map, by simulation where the law is known."""

import itertools

import definitions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fairjax import _ranks
from fairjax import barycenters as bary


def test_error_on_gaussians_falls_like_root_n(rng):
    """The barycenter of Gaussians is Gaussian, with the mean standard deviation."""
    mean, std, share = np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([0.4, 0.6])
    ranks = scipy.stats.norm.ppf((np.arange(99) + 1) / 100)
    rows = (np.outer(std, ranks) + mean[:, None]).ravel().astype(np.float32)
    truth = np.tile(share @ mean + (share @ std) * ranks, 2)
    row_groups = np.repeat(np.arange(2), len(ranks))
    errors, sizes = [], np.array([10**2, 3 * 10**3, 10**5])
    for n, repetitions in zip(sizes, [200, 100, 20], strict=True):
        groups = (np.arange(n) % 5 >= 2).astype(np.int32)
        squares = []
        for _ in range(repetitions):
            scores = mean[groups] + std[groups] * rng.normal(size=n)
            fitted = bary.fit_map(scores.astype(np.float32), groups, n_groups=2)
            gap = bary.apply_map(fitted, rows, row_groups) - truth
            squares.append(np.mean(np.square(gap)))
        errors.append(np.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.06)
    assert errors[-1] < 0.02


def test_expected_ks_is_under_the_bound():
    """1,035 pairs of groups for each size from 10 to 10,000, and unequal sizes.

    Given the data, the fair scores of a group have a law on finitely many values, read
    off here at 500 levels of the true law. Half of the groups have Gaussian scores,
    the other half zeros and ones, which the jitter must order.
    """
    sizes, per_size, fits, levels = [10, 100, 1_000, 10_000], 10, 23, 500
    groups = np.repeat(np.arange(4 * per_size), np.repeat(sizes, per_size))
    grid = (np.arange(levels) + 0.5) / levels
    binary = np.arange(4 * per_size) % 2 == 1
    chance = (0.3 + 0.2 * (np.arange(4 * per_size) % 3))[:, None]  # of a one
    one = grid > 1 - chance
    inside = np.where(one, 1 - (1 - grid) / chance, grid / (1 - chance))
    scores_at = np.where(binary[:, None], one, scipy.stats.norm.ppf(grid))
    scores_at = jnp.asarray(scores_at.ravel().astype(np.float32))
    ties_at = jnp.asarray((inside * _ranks.LAST_TIE).ravel().astype(np.uint32))
    groups_at = jnp.asarray(np.repeat(np.arange(4 * per_size), levels))

    @jax.jit
    def fair_scores(key):
        noise, coin, split = jax.random.split(key, 3)
        normal = jax.random.normal(noise, groups.shape)
        ones = jax.random.bernoulli(coin, jnp.asarray(chance[groups, 0], jnp.float32))
        scores = jnp.where(binary[groups], ones.astype(jnp.float32), normal)
        fitted = bary.fit_map(scores, groups, n_groups=len(binary), key=split)
        return bary.step(fitted, scores_at, groups_at, ties_at)

    found = {pair: [] for pair in itertools.combinations_with_replacement(sizes, 2)}
    for key in jax.random.split(jax.random.key(1), fits):
        fair = np.asarray(fair_scores(key)).reshape(len(binary), levels)
        assert (np.diff(fair) >= 0).all()
        for a, b in itertools.combinations(range(len(binary)), 2):
            size = sizes[a // per_size], sizes[b // per_size]
            if len(found[size]) < 1035:
                both = np.concatenate([fair[a], fair[b]])
                above = [np.searchsorted(fair[g], both, side="right") for g in (a, b)]
                found[size].append(np.abs(above[0] - above[1]).max() / levels)
    for (n, m), distances in found.items():
        assert len(distances) == 1035
        spread = 1 / (n // 2) + 1 / (m // 2)
        bound = np.sqrt(np.pi / 2) * (np.sqrt(1 / (n // 2)) + np.sqrt(1 / (m // 2)))
        # The mean of Kolmogorov's distribution: what large groups come to.
        limit = np.sqrt(np.pi / 2) * np.log(2) * np.sqrt(spread)
        assert np.mean(distances) <= bound
        if min(n, m) >= 1000:
            assert np.mean(distances) == pytest.approx(limit, rel=0.1)


def test_parity_over_the_draw_holds_with_atoms():
    # Given group sizes, ranks of exchangeable scores and jitters are uniform: the laws
    # of g in groups of equal size agree exactly, whatever the scores, even 0 or 1.
    groups = np.repeat(np.arange(2), 6)
    chance = jnp.asarray(np.array([0.2, 0.7])[np.r_[groups, 0, 1]], jnp.float32)

    @jax.jit
    @jax.vmap
    def once(key, sigma):
        draw, fit = jax.random.split(key)
        scores = jax.random.bernoulli(draw, chance).astype(jnp.float32)
        fitted = bary.fit_map(scores[:12], groups, n_groups=2, key=fit, sigma=sigma)
        ids = jnp.array([100, 101])
        return bary.apply_map(fitted, scores[12:], jnp.array([0, 1]), key=fit, rows=ids)

    n = 20_000
    sigma = jnp.repeat(jnp.array([0.0, 0.3]), n)
    fair = np.asarray(once(jax.random.split(jax.random.key(2), 2 * n), sigma))
    for part in (fair[:n], fair[n:]):
        assert definitions.ks(part.T.ravel(), np.repeat(np.arange(2), n)) < 0.017
