"""Penalties against their definitions and against finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, notions, penalties

N = 50
NOTIONS = {
    "demographic_parity": lambda labels: [np.full(labels.shape, True)],
    "equal_opportunity": lambda labels: [labels == 1],
    "equalized_odds": lambda labels: [labels == 0, labels == 1],
}


def squared_gaps_by_definition(values, groups, strata, n_groups, weights):
    """Sum over strata and pairs of occupied cells of the squared gap of means."""
    total = 0.0
    for inside in strata:
        cells = [inside & (groups == g) for g in range(n_groups)]
        means = [np.average(values[c], weights=weights[c]) for c in cells if c.any()]
        total += sum((a - b) ** 2 for a, b in itertools.combinations(means, 2))
    return total


def draw(rng, n_groups):
    """With three groups the last is empty; with five, another one has no positives."""
    groups = rng.integers({2: 2, 3: 2, 5: 4}[n_groups], size=N)
    labels = np.where(groups == 3, 0, rng.integers(2, size=N))
    return rng.normal(size=N), labels, groups, rng.exponential(size=N)


@pytest.mark.parametrize("n_groups", [2, 3, 5])
@pytest.mark.parametrize("notion", NOTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_penalties_match_their_definitions(n_groups, notion, weighted, rng):
    scores, labels, groups, weights = draw(rng, n_groups)
    weights = weights if weighted else np.ones(N)
    cond = getattr(notions, notion)(
        groups, labels, n_groups=n_groups, weights=weights if weighted else None
    )
    strata = NOTIONS[notion](labels)
    arrays = jnp.array(scores), jnp.array(labels)

    expected = squared_gaps_by_definition(scores, groups, strata, n_groups, weights)
    assert expected > 0
    np.testing.assert_allclose(penalties.mean_gap(arrays[0], cond), expected, rtol=1e-4)

    losses = np.maximum(0, 1 - (2 * labels - 1) * scores)
    expected = squared_gaps_by_definition(losses, groups, strata, n_groups, weights)
    value = penalties.risk_gap(*arrays, cond, loss=erm.hinge)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_gradients_match_finite_differences(n_groups, rng, x64):
    scores, labels, groups, weights = draw(rng, n_groups)
    cond = notions.equalized_odds(groups, labels, n_groups=n_groups, weights=weights)
    labels = jnp.array(labels)

    def total(scores):
        risk = penalties.risk_gap(scores, labels, cond, loss=erm.logistic)
        return penalties.mean_gap(scores, cond) + risk

    slopes = jax.jit(jax.grad(total))(jnp.array(scores))
    # One column per sample: central differences of all of them in one call.
    shifts = 1e-5 * np.eye(N)
    values = jax.jit(jax.vmap(total))
    differences = values(jnp.array(scores + shifts)) - values(
        jnp.array(scores - shifts)
    )
    np.testing.assert_allclose(slopes, differences / 2e-5, rtol=1e-6, atol=1e-9)


def test_penalties_skip_empty_cells_instead_of_comparing_with_zero():
    cond = notions.demographic_parity(jnp.array([0, 1]), n_groups=4)
    assert penalties.mean_gap(jnp.array([5.0, 5.0]), cond) == 0
    alone = notions.demographic_parity(jnp.array([2, 2]), n_groups=4)
    assert penalties.mean_gap(jnp.array([5.0, 1.0]), alone) == 0


def test_mean_gap_of_a_linear_model_is_the_squared_constraint(rng):
    """Two groups: the squared inner product of the coefficients with the mean gap."""
    _, _, groups, _ = draw(rng, 2)
    features, coef = rng.normal(size=(N, 3)), rng.normal(size=3)
    cond = notions.demographic_parity(groups, n_groups=2)
    u = features[groups == 0].mean(axis=0) - features[groups == 1].mean(axis=0)
    value = penalties.mean_gap(jnp.array(features @ coef), cond)
    np.testing.assert_allclose(value, (coef @ u) ** 2, rtol=1e-4)
