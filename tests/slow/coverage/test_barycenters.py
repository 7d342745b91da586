"""What statistics promises about the map, by simulation where the law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fairjax import barycenters as bary
from fairjax.arrays import ranks as _ranks
from tests.reference import barycenters as definitions


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


@pytest.mark.parametrize(
    "sizes", [(10, 10), (100, 100), (1_000, 1_000), (10_000, 10_000), (10, 10_000)]
)
def test_expected_ks_is_under_the_bound(sizes):
    """1,000 draws of both groups: Gaussian scores, and zeros and ones.

    Given a draw, the fair scores of a group have a law on finitely many values, read
    off here at 500 levels of the true law. The zeros and ones need the jitter.
    """
    levels, repetitions = 500, 1_000
    groups = np.repeat(np.arange(2), sizes)
    grid = (np.arange(levels) + 0.5) / levels
    one = grid > 1 - 0.3  # the chance of a one is 0.3
    inside = np.where(one, 1 - (1 - grid) / 0.3, grid / (1 - 0.3))
    scores_at = np.concatenate([scipy.stats.norm.ppf(grid), one])
    scores_at = jnp.asarray(scores_at.astype(np.float32))
    ties_at = np.concatenate([np.zeros(levels), inside * _ranks.LAST_TIE])
    ties_at = jnp.asarray(ties_at.astype(np.uint32))
    groups_at = jnp.asarray(np.repeat(np.arange(2), levels))

    def ks(key):
        noise, coin, split = jax.random.split(key, 3)
        normal = jax.random.normal(noise, groups.shape)
        ones = jax.random.bernoulli(coin, 0.3, groups.shape).astype(jnp.float32)
        scores = jnp.where(groups == 0, normal, ones)
        fitted = bary.fit_map(scores, groups, n_groups=2, key=split)
        fair = bary.step(fitted, scores_at, groups_at, ties_at).reshape(2, levels)
        cdf = jax.vmap(lambda row: jnp.searchsorted(row, fair.ravel(), side="right"))
        return jnp.abs(jnp.diff(cdf(fair), axis=0)).max() / levels

    keys = jax.random.split(jax.random.key(1), repetitions)
    distances = np.asarray(jax.jit(lambda keys: jax.lax.map(ks, keys))(keys))
    n, m = (size // 2 for size in sizes)  # half of each group serves `F`
    assert distances.mean() <= np.sqrt(np.pi / 2) * (n**-0.5 + m**-0.5)
    if min(n, m) >= 500:
        # The mean of Kolmogorov's distribution: what large groups come to.
        limit = np.sqrt(np.pi / 2) * np.log(2) * np.sqrt(1 / n + 1 / m)
        assert distances.mean() == pytest.approx(limit, rel=0.05)


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
