"""Leakage: areas against SciPy's ranks, chance in noise, rings and three groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from fairjax import probes

N = 240


def leak(z, groups, n_groups=2, **options):
    options = {"key": jax.random.key(0), "draws": 50} | options
    return probes.leakage(z, groups, n_groups=n_groups, **options)


def test_noise_leaks_nothing_and_chance_is_inside(rng):
    groups = np.arange(N) % 2
    found = leak(rng.normal(size=(N, 3)), groups)
    assert found.chance == 0.5
    for probe in (found.linear, found.kernel):
        assert probe.auc_low < 0.55
        assert abs(probe.auc - 0.5) < 0.12
        assert probe.balanced_accuracy_low <= probe.balanced_accuracy
        assert probe.balanced_accuracy <= probe.balanced_accuracy_high


def test_the_linear_probe_agrees_with_scikit_learn(rng):
    groups = (np.arange(N) % 4 == 0).astype(int)
    z = rng.normal(size=(N, 3)) + 0.8 * groups[:, None]
    found = leak(z, groups).linear
    scaled = (z - z.mean(0)) / z.std(0)
    model = LogisticRegression(C=2 / (1e-3 * N), class_weight="balanced")
    scores = cross_val_predict(model, scaled, groups, method="decision_function", cv=5)
    # Other folds: the same up to what changes with them.
    assert found.auc == pytest.approx(roc_auc_score(groups, scores), abs=0.02)
    expected = balanced_accuracy_score(groups, scores > 0)
    assert found.balanced_accuracy == pytest.approx(expected, abs=0.04)


def test_only_the_kernel_probe_sees_a_ring(rng):
    groups = np.arange(N) % 2
    angle, radius = rng.uniform(0, 2 * np.pi, N), 1 + 2 * groups
    # The constant column tells nothing, and makes one shape of all representations.
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], axis=1)
    found = leak(z, groups)
    assert found.linear.auc < 0.65
    assert found.kernel.auc > 0.98


def test_three_groups_are_recognised_and_names_do_not_matter(rng):
    groups = np.arange(N) % 3
    z = np.eye(3)[groups] * 4 + rng.normal(size=(N, 3))
    found = leak(z, groups, n_groups=3)
    assert found.chance == 1 / 3
    assert found.linear.balanced_accuracy > 0.95
    renamed = leak(z, np.array([2, 0, 1])[groups], n_groups=3)
    assert abs(renamed.linear.auc - found.linear.auc) < 0.01


def test_areas_are_mann_whitneys_with_ties_and_weights(rng, x64):
    scores, positive = np.round(rng.normal(size=N), 1), rng.integers(2, size=N) == 1
    order = np.argsort(scores)
    ranked = scores[order]
    ties = [np.searchsorted(ranked, ranked, side=s) for s in ("left", "right")]
    ranks = jnp.asarray(order), tuple(map(jnp.asarray, ties)), jnp.asarray(positive)
    found = probes._area(*ranks, jnp.ones(N))
    u = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    pairs = positive.sum() * (~positive).sum()
    np.testing.assert_allclose(found, u / pairs, rtol=1e-12)
    counts = rng.integers(0, 3, size=N)
    found = probes._area(*ranks, jnp.asarray(counts.astype(float)))
    more = np.repeat(np.arange(N), counts)
    np.testing.assert_allclose(
        found, roc_auc_score(positive[more], scores[more]), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.ones(N)}, r"`representation` must have shape \(n, k\)"),
        ({"z": np.full((N, 2), np.nan)}, "`representation` must be finite"),
        ({"groups": np.zeros(N, int)}, "at least two groups with 5 members each"),
        ({"groups": np.zeros(3, int)}, "`groups` must have as many entries"),
        ({"draws": 0}, "`draws` must be at least 1"),
        ({"level": 1.0}, r"`level` must lie in \(0, 1\)"),
    ],
)
def test_bad_input_is_refused_at_the_door(change, message, rng, untyped):
    given = {"z": rng.normal(size=(N, 2)), "groups": np.arange(N) % 2} | change
    with pytest.raises(ValueError, match=message):
        leak(given.pop("z"), given.pop("groups"), **given)
