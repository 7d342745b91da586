"""In how many samples bounds hold the truth, by simulation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import barycenters, bounds, notions


def draws(n_repetitions, sizes, sample, seed=0):
    """Values `(repetitions, n)` of groups of these sizes, one law per group."""
    rng = np.random.default_rng(seed)
    parts = [sample(rng, g, (n_repetitions, size)) for g, size in enumerate(sizes)]
    return np.concatenate(parts, axis=1).astype(np.float32)


LAWS = {
    "common": ((0.4, 0.5, 0.6), lambda rng, g, shape: rng.random(shape) < 0.4 + g / 10),
    "rare": ((0.01, 0.02, 0.03), lambda rng, g, s: rng.random(s) < 0.01 * (1 + g)),
    "smooth": ((1 / 3, 1 / 4, 1 / 5), lambda rng, g, s: rng.beta(1, 2 + g, size=s)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("method", [bounds.hoeffding, bounds.empirical_bernstein])
def test_simulated_coverage_of_means_and_gaps(method, law):
    sizes, repetitions = (15, 40, 200), 2000
    truth, sampler = np.array(LAWS[law][0]), LAWS[law][1]
    values = draws(repetitions, sizes, sampler)
    groups = np.repeat(np.arange(3), sizes)
    weights = np.random.default_rng(1).uniform(0.2, 1, size=len(groups))
    gaps = truth[:, None] - truth[None]
    for cond in (
        notions.demographic_parity(groups, n_groups=3),
        notions.demographic_parity(groups, n_groups=3, weights=weights),
    ):
        bound_of = partial(method, cond=cond, value_range=(0, 1), confidence=0.8)
        run = jax.jit(jax.vmap(bound_of))
        found = jax.device_get(run(values))
        for bound, value in ((found.means, truth), (found.gaps, gaps)):
            inside = (bound.low[:, 0] <= value) & (value <= bound.high[:, 0])
            share = inside.reshape(repetitions, -1).all(axis=1).mean()
            assert share >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / repetitions)


def test_a_choice_among_configurations_needs_the_union_bound():
    """The worst of 20 models on one sample: covered with the argument, not without."""
    repetitions, models, n = 2000, 20, 60
    counts = np.random.default_rng(3).binomial(n, 0.3, size=(repetitions, models))
    cond = notions.demographic_parity(np.zeros(n, int), n_groups=1)
    outcomes = (np.arange(n)[None] < np.arange(n + 1)[:, None]).astype(int)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def rates(decisions, n_configurations):
        bound = bounds.binomial(decisions, cond, n_configurations=n_configurations)
        return bound.means.low[0, 0], bound.means.high[0, 0]

    shares = []
    for number in (1, models):
        low, high = jax.device_get(rates(outcomes, jnp.asarray(number)))
        inside = (low[counts] <= 0.3) & (high[counts] >= 0.3)
        shares.append(inside.all(axis=1).mean())
    assert shares[0] < 0.75
    assert shares[1] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)


@pytest.mark.parametrize("known", [True, False])
def test_rademacher_covers_the_model_fitted_on_the_sample(known):
    """Labels are coins: every model has risk 1/2, and the fitted one looks better."""
    n, d, repetitions = 400, 100, 300
    rng = np.random.default_rng(5)
    features = rng.choice([-1, 1], size=(repetitions, n, d)) / np.sqrt(d)
    signs = rng.choice([-1, 1], size=(repetitions, n))
    direction = np.einsum("rnd,rn->rd", features, signs)
    # The minimiser of the linear loss in the unit ball.
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    scores = np.einsum("rnd,rd->rn", features, direction)
    losses = ((1 - signs * scores) / 2).astype(np.float32)
    cond = notions.demographic_parity(np.zeros(n, int), n_groups=1)
    given: dict[str, Any] = {"radius": 1.0} if known else {"square_norms": np.ones(n)}

    @jax.jit
    @jax.vmap
    def high(losses):
        ball: dict[str, Any] = {"value_range": (0, 1), "norm": 1, "lipschitz": 0.5}
        return bounds.rademacher(losses, cond, **ball, **given).means.high[0, 0]

    found = np.asarray(high(losses))
    assert losses.mean() < 0.48  # the bias that the bound has to make up for
    assert (found >= 0.5).mean() >= 0.95
    assert found.mean() < (0.65 if known else 0.75)


def test_simulated_coverage_of_bands_and_distances():
    """Uniform scores to the power 1, 2 and 3: distribution functions x^(1/k)."""
    sizes, repetitions = (20, 60, 150), 2000
    scores = draws(repetitions, sizes, lambda rng, g, s: rng.random(s) ** (g + 1))
    cond = notions.demographic_parity(np.repeat(np.arange(3), sizes), n_groups=3)
    x = np.linspace(0, 1, 100_001)
    cdfs = np.stack([x ** (1 / k) for k in (1, 2, 3)])
    truth = np.abs(cdfs[:, None] - cdfs[None]).max(axis=-1)
    run = jax.jit(jax.vmap(partial(bounds.dkw, cond=cond, confidence=0.8)))
    found = jax.device_get(run(scores))
    low, high = found.distances.low[:, 0], found.distances.high[:, 0]
    inside = ((low <= truth) & (truth <= high)).reshape(repetitions, -1).all(axis=1)
    assert inside.mean() >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / repetitions)
    # The bands themselves, whose level DKW makes nearly exact.
    within, start = np.ones(repetitions, bool), 0
    for g, size in enumerate(sizes):
        part = np.sort(scores[:, start : start + size], axis=1) ** (1 / (g + 1))
        steps = np.arange(size + 1) / size
        off = np.maximum(np.abs(part - steps[1:]), np.abs(part - steps[:-1])).max(
            axis=1
        )
        within &= off <= np.asarray(found.bands[:, 0, g])
        start += size
    assert 0.8 - 3 * np.sqrt(0.8 * 0.2 / repetitions) <= within.mean() <= 0.92


def test_repaired_ks_covers_the_map():
    """Fair scores of uniform ones are order statistics; KS read off at 200 levels."""
    sizes, levels, repetitions = (30, 80), 200, 500
    groups = np.repeat(np.arange(2), sizes)
    grid = np.tile((np.arange(levels) + 0.5) / levels, 2).astype(np.float32)
    grid_groups = np.repeat(np.arange(2), levels)

    def one(key):
        draw, fit = jax.random.split(key)
        scores = jax.random.uniform(draw, (groups.size,)) * jnp.asarray(
            np.where(groups == 0, 1.0, 0.5), jnp.float32
        )
        fitted = barycenters.fit_map(scores, groups, n_groups=2, key=fit)
        at = jnp.asarray(grid * np.where(grid_groups == 0, 1, 0.5).astype(np.float32))
        fair = barycenters.apply_map(fitted, at, jnp.asarray(grid_groups), key=draw)
        cdf = jax.vmap(lambda row: jnp.searchsorted(jnp.sort(row), fair, side="right"))
        distance = jnp.abs(jnp.diff(cdf(fair.reshape(2, -1)), axis=0)).max() / levels
        return distance, jnp.diff(fitted.cdf)[:, 0]

    keys = jax.random.split(jax.random.key(0), repetitions)
    distances, counts = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    assert (np.asarray(counts) == [15, 40]).all()
    found = bounds.repaired_ks(counts[0], confidence=0.8)
    mean = np.sqrt(np.pi / 2) * (15**-0.5 + 40**-0.5)
    e = [np.sqrt(np.log(2 * 2 / 0.2) / (2 * m)) for m in (15, 40)]
    np.testing.assert_allclose(found.mean, [[0, mean], [mean, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.high[0, 1], sum(e), rtol=1e-6)
    assert mean / 3 < np.mean(distances) <= mean
    assert np.mean(distances <= found.high[0, 1]) >= 0.8
    absent = bounds.repaired_ks(jnp.array([0, 10**6]))
    assert absent.mean[0, 1] == absent.high[0, 1] == 1
