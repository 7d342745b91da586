"""Limits of gaps from counts and distances alone: those of decisions and scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import bounds, datasets, frontiers, notions

TOY = datasets.toy(n=400)


@pytest.fixture(scope="module")
def found():
    return frontiers.linear(
        TOY, notion=notions.equalized_odds, strengths=[0.0, 0.5, 1.0], n_folds=0
    )


def on_test(found):
    test = TOY.test
    scores = found.fit.coefficients.astype(float) @ test.features.T.astype(float)
    cond = notions.equalized_odds(
        jnp.asarray(test.groups), jnp.asarray(test.labels), n_groups=2
    )
    return scores + found.fit.intercept.astype(float)[:, None] > 0, cond


def test_rates_of_a_frontier_are_means_of_its_decisions(found):
    decisions, _ = on_test(found)
    test = TOY.test
    for label in range(2):
        for group in range(2):
            cell = (test.labels == label) & (test.groups == group)
            expected = decisions[:, cell].mean(axis=1)
            # A sum of as many float32 weights, in any order.
            np.testing.assert_allclose(
                found.test_rates[:, label, group], expected, rtol=cell.sum() * 2.0**-24
            )
            assert cell.sum() == found.counts[1, label, group]
    gaps = np.abs(found.test_rates[..., 0] - found.test_rates[..., 1]).max(axis=1)
    np.testing.assert_allclose(found.test_unfairness, gaps, atol=2e-6)


def counts(found):
    """Decisions 1 of each point in each cell of the test part, and its samples."""
    trials = found.counts[1]
    return np.rint(found.test_rates * trials), trials


def test_limits_are_those_of_the_exact_bounds(found):
    decisions, cond = on_test(found)
    ends = bounds.binomial_gaps(*counts(found))
    for i in range(3):
        largest = bounds.binomial(jnp.asarray(decisions[i]), cond).largest
        np.testing.assert_allclose(ends.low[i], largest.low.max(), atol=1e-5)
        np.testing.assert_allclose(ends.high[i], largest.high.max(), atol=1e-5)
        assert ends.low[i] <= found.test_unfairness[i] <= ends.high[i] < 1


def test_more_models_than_a_batch_change_nothing(found):
    ones, trials = counts(found)
    few = bounds.binomial_gaps(ones, trials)
    many = bounds.binomial_gaps(np.tile(ones, (10, 1, 1)), trials)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(np.tile(one, 10), other)


def test_distances_have_the_limits_of_their_scores(rng):
    n = 300
    groups = np.arange(n) % 3 // 2
    scores = rng.normal(size=n) + groups
    cond = notions.demographic_parity(jnp.asarray(groups), n_groups=2)
    largest = bounds.dkw(jnp.asarray(scores, jnp.float32), cond).largest
    seen = np.asarray(largest.estimate)
    ends = bounds.ks_gaps(seen, np.array([[200, 100]]))
    np.testing.assert_allclose(ends.low, largest.low, atol=1e-6)
    np.testing.assert_allclose(ends.high, largest.high, atol=1e-6)


def test_a_confidence_must_be_a_probability():
    for measure in (bounds.binomial_gaps, bounds.ks_gaps):
        seen = np.zeros((1, 1, 2)) if measure is bounds.binomial_gaps else np.zeros(1)
        with pytest.raises(ValueError, match="`confidence` must lie in"):
            measure(seen, np.array([[2, 2]]), confidence=1.0)
