"""Losses and risks against plain NumPy, scikit-learn, and loops over cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fairjax import erm, metrics, notions

N, N_GROUPS = 60, 4
LOSSES = {
    "logistic": lambda f, y: np.log1p(np.exp(-(2 * y - 1) * f)),
    "hinge": lambda f, y: np.maximum(0, 1 - (2 * y - 1) * f),
    "squared_hinge": lambda f, y: np.maximum(0, 1 - (2 * y - 1) * f) ** 2,
    "squared": lambda f, y: (f - y) ** 2,
    "linear": lambda f, y: (1 - (2 * y - 1) * f) / 2,
    "zero_one": lambda f, y: ((f > 0) != (y == 1)).astype(float),
}


@pytest.fixture
def case(rng):
    """Scores, labels, groups (the last one empty, group 2 without positives)."""
    groups = rng.integers(N_GROUPS - 1, size=N)
    labels = np.where(groups == 2, 0, rng.integers(2, size=N))
    return rng.normal(scale=2, size=N).astype(np.float32), labels, groups


@pytest.mark.parametrize("name", LOSSES)
def test_losses_match_their_definitions(name, case):
    scores, labels, _ = case
    values = getattr(erm, name)(jnp.array(scores), jnp.array(labels))
    expected = LOSSES[name](scores.astype(float), labels)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_risks_match_scikit_learn(weighted, case, rng):
    scores, labels, _ = case
    weights = rng.exponential(size=N).astype(np.float32) if weighted else None

    def risk(loss):
        mass = None if weights is None else jnp.array(weights)
        return erm.empirical_risk(
            jnp.array(scores), jnp.array(labels), loss=loss, weights=mass
        )

    doubles = scores.astype(float)
    expected = {
        "hinge": sklearn.metrics.hinge_loss(labels, doubles, sample_weight=weights),
        "logistic": sklearn.metrics.log_loss(
            labels, 1 / (1 + np.exp(-doubles)), sample_weight=weights
        ),
        "squared": sklearn.metrics.mean_squared_error(
            labels, doubles, sample_weight=weights
        ),
        "zero_one": sklearn.metrics.zero_one_loss(
            labels, doubles > 0, sample_weight=weights
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(risk(getattr(erm, name)), value, rtol=1e-5)


def test_losses_stay_finite_for_huge_scores():
    scores, labels = jnp.array([1e30, -1e30, 1e30]), jnp.array([1, 0, 0])
    np.testing.assert_allclose(erm.logistic(scores, labels), [0, 0, 1e30], rtol=1e-6)
    np.testing.assert_allclose(erm.hinge(scores, labels), [0, 0, 1e30], rtol=1e-6)
    slopes = jax.grad(lambda f: erm.logistic(f, labels).sum())(scores)
    np.testing.assert_allclose(slopes, [0, 0, 1], atol=1e-6)


def test_a_mask_equals_leaving_samples_out(case, rng):
    scores, labels, _ = case
    keep = rng.random(N) < 0.5
    masked = erm.empirical_risk(
        jnp.array(scores), jnp.array(labels), loss=erm.hinge, weights=jnp.array(keep)
    )
    subset = erm.empirical_risk(
        jnp.array(scores[keep]), jnp.array(labels[keep]), loss=erm.hinge
    )
    np.testing.assert_allclose(masked, subset, rtol=1e-6)


def test_risk_without_any_weight_is_zero_inside_jit():
    risk = jax.jit(erm.empirical_risk, static_argnames="loss")
    ones = jnp.ones(3)
    assert risk(ones, -ones, loss=erm.hinge, weights=jnp.zeros(3)) == 0


@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        ([1.0, np.inf], None, r"finite, but scores\[1\] = inf"),
        ([1.0, 2.0], [1.0, -1.0], r"not be negative, but weights\[1\] = -1"),
        ([1.0, 2.0], [0.0, 0.0], "must have a positive entry"),
    ],
)
def test_bad_values_raise_and_say_where(scores, weights, message):
    with pytest.raises(ValueError, match=message):
        erm.empirical_risk(
            jnp.array(scores),
            jnp.array([0, 1]),
            loss=erm.hinge,
            weights=None if weights is None else jnp.array(weights),
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_conditional_risks_and_gap_match_loops_over_cells(name, weighted, case, rng):
    scores, labels, groups = case
    weights = rng.exponential(size=N).astype(np.float32) if weighted else np.ones(N)
    values = LOSSES[name](scores.astype(float), labels)
    expected, gaps = np.zeros((2, N_GROUPS)), []
    for s in range(2):
        risks = []
        for g in range(N_GROUPS):
            cell = (labels == s) & (groups == g)
            if cell.any():
                expected[s, g] = np.average(values[cell], weights=weights[cell])
                risks.append(expected[s, g])
        gaps.append(max(risks) - min(risks))
    cond = notions.equalized_odds(
        groups, labels, n_groups=N_GROUPS, weights=weights if weighted else None
    )
    loss, arrays = getattr(erm, name), (jnp.array(scores), jnp.array(labels))
    risks = jax.jit(erm.conditional_risks, static_argnames="loss")(
        *arrays, cond, loss=loss
    )
    np.testing.assert_allclose(risks, expected, rtol=1e-5, atol=1e-6)
    gap = erm.max_risk_gap(*arrays, cond, loss=loss)
    np.testing.assert_allclose(gap, max(gaps), rtol=1e-5, atol=1e-6)


def test_gap_of_zero_one_risks_is_the_difference_of_equal_opportunity(case):
    scores, labels, groups = case
    cond = notions.equal_opportunity(groups, labels, n_groups=N_GROUPS)
    rates = [(scores[(labels == 1) & (groups == g)] > 0).mean() for g in range(2)]
    gap = erm.max_risk_gap(
        jnp.array(scores), jnp.array(labels), cond, loss=erm.zero_one
    )
    np.testing.assert_allclose(gap, abs(rates[0] - rates[1]), rtol=1e-5)
    np.testing.assert_allclose(gap, metrics.max_gap(scores > 0, cond), rtol=1e-5)


def test_gap_is_zero_with_nothing_to_compare():
    cond = notions.demographic_parity(jnp.array([1, 1]), n_groups=3)
    scores, labels = jnp.array([1.0, -1.0]), jnp.array([1, 1])
    assert erm.max_risk_gap(scores, labels, cond, loss=erm.hinge) == 0
    slopes = jax.grad(lambda f: erm.max_risk_gap(f, labels, cond, loss=erm.hinge))(
        scores
    )
    assert not slopes.any()


def test_one_trace_for_equal_shapes(case):
    scores, labels, groups = case
    traces = []

    def gap(scores, labels, groups):
        traces.append(None)
        cond = notions.equal_opportunity(groups, labels, n_groups=N_GROUPS)
        return erm.max_risk_gap(scores, labels, cond, loss=erm.logistic)

    jitted = jax.jit(gap)
    first = jitted(scores, labels, groups)
    second = jitted(2 * scores, labels, groups)
    assert len(traces) == 1
    assert first != second


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_other_codes_are_refused_by_losses_that_take_0_and_1(name, untyped):
    scores, labels = jnp.array([1.0, 2.0]), jnp.array([1, -1])
    loss = getattr(erm, name)
    cond = notions.demographic_parity(jnp.array([0, 1]), n_groups=2)
    calls = [
        lambda labels, **w: erm.empirical_risk(scores, labels, loss=loss, **w),
        lambda labels, **w: erm.conditional_risks(
            scores, labels, cond if not w else alone, loss=loss
        ),
    ]
    first = jnp.array([1.0, 0.0])
    alone = notions.demographic_parity(jnp.array([0, 1]), n_groups=2, weights=first)
    for call in calls:
        if name == "squared":
            call(labels)
        else:
            with pytest.raises(ValueError, match=r"\[0, 1\], but labels\[1\] = -1"):
                call(labels)
        # A sample that does not count may have any label; soft ones lie between.
        call(labels, weights=first)
        call(jnp.array([1.0, 0.25]))
        with pytest.raises(ValueError, match=r"`labels` must be finite"):
            call(jnp.array([1.0, jnp.nan]))


def test_columns_and_means_are_no_scores_and_losses(untyped):
    scores, labels = jnp.array([1.0, -1.0, 0.5]), jnp.array([1, 0, 1])
    weights = jnp.ones(3)
    risk = functools.partial(erm.empirical_risk, loss=erm.hinge)
    for bad in (
        lambda: risk(scores[:, None], labels),
        lambda: risk(scores, labels[:, None]),
        lambda: risk(scores, labels, weights=weights[:, None]),
        lambda: jax.jit(risk)(scores[:, None], labels),
        lambda: jax.jit(risk)(scores, labels, weights=weights[:, None]),
    ):
        with pytest.raises(ValueError, match=r"shape \(3,\), but has shape \(3, 1\)"):
            bad()
    with pytest.raises(ValueError, match="`loss` must be pointwise"):
        erm.empirical_risk(scores, labels, loss=lambda f, y: erm.hinge(f, y).mean())
    with pytest.raises(ValueError, match="at least one sample"):
        risk(scores[:0], labels[:0])
