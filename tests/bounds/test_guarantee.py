"""Promises of a small gap: limits against SciPy, exact and simulated false promises."""

import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from fairjax import bounds, datasets, frontiers, metrics, notions, sweeps
from fairjax.bounds import guarantee

REPEATS, M = 1000, 20
GUARANTEE = (0.25, 0.95)
# Of 1,000 repetitions, exceeded once in a thousand such tests if 5 % were the truth.
MOST = scipy.stats.binom.ppf(0.999, REPEATS, 0.05)


# The limit of a point


def upper_by_definition(one, other, failure):
    """Largest `p - q` among the chances that Fisher's test of both cells allows."""
    t: Any = scipy.optimize.brentq(
        lambda t: t * (1 - np.log(t)) - failure, 1e-12, 0.999
    )
    shares = np.linspace(0, 1, 4001)[1:-1]
    (k, n), (j, m) = one, other
    high = scipy.stats.beta.isf(t**shares, k + 1, n - k) if k < n else 1.0
    low = scipy.stats.beta.ppf(t ** (1 - shares), j, m - j + 1) if j else 0.0
    return np.max(high - low)


@pytest.mark.parametrize("failure", [0.05, 0.05 / 64])
def test_upper_limits_are_those_of_their_definition(failure):
    trials = np.array([[40, 300, 900], [75, 20, 2000]])
    counts = np.array(
        [[[4, 31, 100], [0, 20, 800]], [[40, 299, 899], [30, 8, 800]]], np.int64
    )
    found = guarantee.upper_limits(counts, trials, failure=failure)
    for i in range(2):
        pairs, gaps = {}, {}
        for s, (g, h) in itertools.product(
            range(2), itertools.permutations(range(3), 2)
        ):
            cells = [(counts[i, s, c], trials[s, c]) for c in (g, h)]
            one, other = cells
            pairs[s, g, h] = upper_by_definition(one, other, failure)
            gaps[s, g, h] = cells[0][0] / cells[0][1] - cells[1][0] / cells[1][1]
        assert tuple(found.pair[i]) == max(pairs, key=lambda cells: pairs[cells])
        assert found.gap[i] == pytest.approx(max(gaps.values()), abs=1e-12)
        expected = max(pairs.values())
        # The scan errs to the wide side, and by little.
        assert expected - 1e-6 <= found.high[i] <= expected + 0.03 * (1 - expected)


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.6])
def test_a_gap_above_the_limit_passes_with_no_more_than_the_level(limit):
    """Exact: all outcomes of two cells, over a grid of true rates at the limit."""
    trials, failure = np.array([[31, 24]]), 0.1
    counts = np.array(list(np.ndindex(32, 25)))[:, None]
    found = guarantee.upper_limits(counts, trials, failure=failure)
    within = (found.high <= limit).reshape(32, 25)
    shares = []
    for rate in np.linspace(0, 1 - limit, 41):
        one = scipy.stats.binom.pmf(np.arange(32), 31, rate)
        other = scipy.stats.binom.pmf(np.arange(25), 24, rate + limit)
        shares.append(one @ within @ other)
    assert max(shares) <= failure
    # Nor is it empty caution: samples this small can only promise large limits.
    assert (max(shares) > 0.2 * failure) == (limit > 0.5)


def test_cells_of_equal_counts_do_not_change_the_limits(rng):
    trials = np.array([[50, 60], [50, 400]])
    counts = rng.binomial(trials, 0.4, size=(9, 2, 2))
    whole = guarantee.upper_limits(counts, trials, failure=0.01)
    for i in range(9):
        alone = guarantee.upper_limits(counts[i : i + 1], trials, failure=0.01)
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(one[i], other[0])


# Simulations: how often a promise is false


def promises(rng, trials, rates, *, accuracy, failure):
    """The point promised in each repetition, -1 for none; points are independent."""
    trials, rates = np.asarray(trials), np.asarray(rates)
    counts = rng.binomial(trials, rates, size=(REPEATS, *rates.shape))
    found = guarantee.upper_limits(
        counts.reshape(-1, *trials.shape), trials, failure=failure
    )
    within = (found.high <= GUARANTEE[0]).reshape(REPEATS, -1)
    chosen = [guarantee.most_accurate(accuracy, 0 * accuracy, own) for own in within]
    return np.array([-1 if i is None else i for i in chosen])


TRIALS = {  # strata and groups of each notion
    "demographic_parity": [[500, 380]],
    "equal_opportunity": [[320, 520]],
    "equalized_odds": [[330, 500], [420, 360]],
}


def rates_of(notion, gaps):
    """Rates with these largest gaps; in equalized odds among positives alone."""
    gaps = np.asarray(gaps)
    last = np.stack([0.3 + 0 * gaps, 0.3 + gaps], axis=-1)
    strata = [0 * last + 0.1, last] if notion == "equalized_odds" else [last]
    return np.stack(strata, axis=1)


@pytest.mark.parametrize("notion", TRIALS)
def test_false_promises_are_no_more_than_stated(notion, rng):
    limit, confidence = GUARANTEE
    rates = rates_of(notion, np.full(M, limit + 1e-6))
    accuracy = rng.uniform(size=M)
    options = {"trials": TRIALS[notion], "rates": rates, "accuracy": accuracy}
    failure = (1 - confidence) / M
    wrong = (promises(rng, **options, failure=failure) >= 0).sum()
    assert 0.1 * MOST < wrong <= MOST
    # Without the correction for the number of points the statement is false.
    wrong = (promises(rng, **options, failure=1 - confidence) >= 0).sum()
    assert wrong > 4 * MOST


@pytest.mark.parametrize("notion", TRIALS)
def test_points_well_below_the_limit_are_promised(notion, rng):
    rates = rates_of(notion, np.repeat([0.01, GUARANTEE[0] + 0.01], M // 2))
    accuracy = np.arange(M) / M  # the unfair ones are more accurate
    trials = TRIALS[notion]
    chosen = promises(rng, trials, rates, accuracy=accuracy, failure=0.05 / M)
    assert (chosen >= 0).mean() > 0.99
    assert (chosen >= M // 2).sum() <= MOST
    # Nearly always the most accurate of the fair ones, or the one before.
    assert (chosen >= M // 2 - 3).mean() > 0.95


# select


def safety(rng, *, n=900, m=6):
    groups, labels = rng.integers(3, size=n), rng.integers(2, size=n)
    shifts = np.linspace(0, 0.5, m)[:, None] * (groups == 2)
    decisions = rng.random((m, n)) < 0.3 + shifts
    return groups, labels, decisions


def selected(decisions, cond, asked=(0.2, 0.9), **changes):
    m = len(decisions)
    options: dict[str, Any] = {
        "accuracy": np.linspace(0.8, 0.85, m),
        "unfairness": np.ones(m),
    } | changes
    limit, confidence = asked
    return bounds.select_guaranteed(
        **options, decisions=decisions, cond=cond, limit=limit, confidence=confidence
    )


def test_select_is_the_test_that_is_simulated(rng):
    groups, labels, decisions = safety(rng)
    cond = notions.equalized_odds(groups, labels, n_groups=3)
    counts, trials = np.zeros((6, 2, 3), int), np.zeros((2, 3), int)
    for s, g in itertools.product(range(2), range(3)):
        inside = (labels == s) & (groups == g)
        counts[:, s, g], trials[s, g] = decisions[:, inside].sum(1), inside.sum()
    able = np.array([True, True, False, True, True, True])
    expected = guarantee.upper_limits(counts, trials, failure=0.1 / 5)
    found = selected(decisions, cond, (0.25, 0.9), valid=able)
    high = np.where(able, expected.high, 1)
    np.testing.assert_allclose(found.high, high, rtol=1e-12)
    np.testing.assert_array_equal(found.tested, able)
    passed = able & (expected.high <= 0.25)
    np.testing.assert_array_equal(found.passed, passed)
    assert 0 < passed.sum() < able.sum()
    assert found.chosen == np.flatnonzero(passed).max()
    gaps = [metrics.max_gap(jnp.asarray(own), cond) for own in decisions]
    np.testing.assert_allclose(found.gap, gaps, atol=1e-6)
    # Another dtype, and arrays of the device.
    again = selected(jnp.asarray(decisions, jnp.float32), cond, (0.25, 0.9), valid=able)
    assert str(again) == str(found)


def test_a_mask_is_the_same_as_a_subset(rng):
    groups, labels, decisions = safety(rng)
    mask = rng.random(900) < 0.4
    whole = notions.equal_opportunity(groups, labels, n_groups=3, weights=mask)
    part = notions.equal_opportunity(groups[mask], labels[mask], n_groups=3)
    one, other = selected(decisions, whole), selected(decisions[:, mask], part)
    assert str(one) == str(other)


def test_of_equally_accurate_points_the_least_unfair_is_chosen(rng):
    groups, labels, _ = safety(rng)
    cond = notions.demographic_parity(groups, n_groups=3)
    decisions = np.zeros((4, 900), int)
    columns = {"accuracy": np.full(4, 0.7), "unfairness": np.array([3.0, 1, 1, 2])}
    assert selected(decisions, cond, **columns).chosen == 1
    columns["accuracy"] = np.array([0.7, 0.65, 0.7, 0.68])
    assert selected(decisions, cond, **columns).chosen == 2
    # Those of too little accuracy are not tested at all.
    found = selected(decisions, cond, **columns, keep=1.0)
    assert found.tested.tolist() == [True, False, True, False]


def test_the_reason_is_for_a_person(rng):
    groups = np.repeat([0, 1], [400, 17])
    cond = notions.demographic_parity(groups, n_groups=2)
    decisions = np.stack([np.arange(417) % 4 == 0, groups == 1])
    found = selected(decisions, cond, (0.05, 0.95), names=[["men", "women"]])
    assert found.chosen is None
    assert found.reason.startswith(
        "No point can be promised a largest gap of at most 0.05 with 95 % confidence: "
        "of 2 tested points, point 0 has the least upper limit, 0."
    )
    assert (
        "with 17 and 400 samples in the safety set and rates of 0.294 and 0.250. At "
        "such rates it takes about" in found.reason
    )
    assert "It is set by women and men" in found.reason
    # What it takes is enough, and nearly the least.
    needed = int(found.reason.split("about ")[1].split(" ")[0].replace(",", ""))
    for n, enough in ((1.06 * needed, True), (0.92 * needed, False)):
        trials = np.full((1, 2), round(n))
        counts = np.array([[[0.25 * n, 5 / 17 * n]]]).round().astype(np.int64)
        high = guarantee.upper_limits(counts, trials, failure=0.025).high
        assert (high[0] <= 0.05) == enough
    found = selected(decisions[1:], cond, (0.05, 0.95))
    assert "Its gap there is 1.000 already: more samples will not do" in found.reason
    found = selected(np.zeros((1, 417), bool), cond, (0.4, 0.9))
    assert found.reason.startswith("Point 0 is promised a largest gap of at most 0.4 ")
    assert "Of 1 tested point 1 passes" in found.reason


def test_a_cell_without_samples_promises_nothing():
    groups, labels = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0])
    cond = notions.equalized_odds(groups, labels, n_groups=3)
    found = selected(np.zeros((2, 5), int), cond, (0.999, 0.01))
    assert found.chosen is None
    assert not found.passed.any()
    assert found.high.tolist() == [1, 1]
    assert "has no samples of group 2 in stratum 1, whose decisions may" in found.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0.0}, r"`limit` must be in \(0, 1\), but is 0.0"),
        ({"confidence": 1.0}, r"`confidence` must be in \(0, 1\), but is 1.0"),
        ({"limit": np.nan}, "`limit` must be .* but is nan"),
        ({"decisions": np.zeros((2, 7))}, "a row for each of the 3 points"),
        ({"decisions": np.full((3, 8), 0.5)}, r"but decisions\[0, 0\] = 0.5"),
        ({"decisions": np.full((3, 8), np.nan)}, "must be 0 or 1"),
        ({"names": [["a"]]}, "a name for each of the 2 groups in each of the 1 strata"),
        ({"valid": np.zeros(3, bool)}, "none of the 3 points can be chosen"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_bad_arguments_are_refused_at_the_door(change, message):
    cond = notions.demographic_parity(np.arange(8) % 2, n_groups=2)
    given = {"decisions": np.zeros((3, 8)), "cond": cond, "limit": 0.1}
    with pytest.raises(ValueError, match=message):
        bounds.select_guaranteed(np.ones(3), np.ones(3), **given | change)


def test_conditionals_that_promise_nothing_are_refused(rng):
    decisions = np.zeros((1, 4), int)
    alone = notions.demographic_parity(np.zeros(4, int), n_groups=1)
    with pytest.raises(ValueError, match="must compare at least two groups"):
        selected(decisions, alone)
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    uneven = notions.demographic_parity(np.arange(4) % 2, n_groups=2, weights=weights)
    with pytest.raises(ValueError, match="must weigh the members of a cell alike"):
        selected(decisions, uneven)
    cond = notions.demographic_parity(np.arange(4) % 2, n_groups=2)
    with pytest.raises(ValueError, match="on the host only"):
        jax.jit(lambda d: selected(d, cond).high)(jnp.asarray(decisions))


# safety_split


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_safety_set_has_its_share_of_every_cell(share, rng):
    labels, groups = rng.integers(2, size=997), rng.integers(4, size=997)
    drawn = [
        np.asarray(
            sweeps.safety_split(labels, groups, share=share, key=jax.random.key(seed))
        )
        for seed in range(2)
    ]
    for safe in drawn:
        assert safe.sum() == int(share * 997 + 0.5)
        for label, group in itertools.product(range(2), range(4)):
            inside = (labels == label) & (groups == group)
            assert abs(safe[inside].sum() - share * inside.sum()) < 1
    assert 0.5 * share < (drawn[0] & drawn[1]).sum() / drawn[0].sum() < 1.5 * share


def test_every_sample_of_a_cell_has_the_same_chance():
    ones, keys = jnp.ones(10, int), jax.random.split(jax.random.key(0), 2000)
    safe = jax.vmap(lambda k: sweeps.safety_split(ones, ones, share=0.3, key=k))(keys)
    # Each count is binomial(2000, 0.3): a deviation of 4.5 standard deviations.
    np.testing.assert_allclose(safe.sum(axis=0), 600, atol=4.5 * (2000 * 0.21) ** 0.5)
    assert (safe.sum(axis=1) == 3).all()


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, np.nan, 0.01, 0.99])
def test_a_share_without_samples_is_refused(share):
    with pytest.raises(ValueError, match="`share` must"):
        sweeps.safety_split(
            np.ones(9, int), np.ones(9, int), share=share, key=jax.random.key(0)
        )


# From a data set to a promise


def test_what_adult_can_promise():
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    data = datasets.adult()
    rows = np.flatnonzero(data.is_train)
    part = data.train
    safe = np.asarray(
        sweeps.safety_split(part.labels, part.groups, key=jax.random.key(0))
    )
    kept = ~data.is_train
    kept[rows[~safe]] = True
    learn = data._replace(
        features=data.features[kept],
        labels=data.labels[kept],
        groups=data.groups[kept],
        is_train=data.is_train[kept],
    )
    found = frontiers.linear(
        learn,
        notion=notions.equal_opportunity,
        strengths=[0.0, 0.5, 0.75, 1.0, 1.25],
        n_folds=0,
    )
    scores = part.features[safe] @ found.fit.coefficients.T + found.fit.intercept
    cond = notions.equal_opportunity(
        part.groups[safe], part.labels[safe], n_groups=data.n_groups
    )
    columns = found.cv_accuracy, found.cv_unfairness
    given = {"decisions": scores.T > 0, "cond": cond}
    promised = bounds.select_guaranteed(*columns, limit=0.12, **given)
    assert promised.chosen is not None
    assert found.test_unfairness[promised.chosen] <= 0.12
    assert not promised.passed[found.unconstrained]
    refused = bounds.select_guaranteed(*columns, limit=0.02, **given)
    assert refused.chosen is None
    assert "353" in refused.reason
