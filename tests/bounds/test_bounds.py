"""Bounds against SciPy, NumPy in double precision, and simulated or exact coverage."""

import itertools
import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from fairjax import bounds, metrics, notions
from fairjax.bounds.binomial import lower_limit

N, G = 60, 3
RANGE = (-1.0, 3.0)


@pytest.fixture
def sample(rng):
    """Values, groups, labels and weights; group 2 has no positives."""
    groups = np.concatenate([np.arange(G), rng.integers(G, size=N - G)])
    labels = np.where(groups == 2, 0, rng.integers(2, size=N))
    values = rng.uniform(*RANGE, size=N)
    return values, groups, labels, rng.uniform(0.5, 2, size=N)


def cells_of(groups, labels, weights):
    """Members and normalised weights of each cell of equalized odds."""
    for s, g in itertools.product(range(2), range(G)):
        inside = np.flatnonzero((groups == g) & (labels == s) & (weights > 0))
        share = weights[inside] / weights[inside].sum() if inside.size else weights[:0]
        yield (s, g), inside, share


def expected_bounds(means, halves, pair_half, low, high):
    """Intervals from half-widths per cell and pair, as dictionaries of cells."""
    span = high - low
    found = {"means": np.zeros((2, 2, G)), "gaps": np.zeros((2, 2, G, G))}
    for s, g in itertools.product(range(2), range(G)):
        some = (s, g) in means
        ends = (means[s, g] - halves[s, g], means[s, g] + halves[s, g])
        found["means"][:, s, g] = np.clip(ends, low, high) if some else (low, high)
        for h in range(G):
            if g != h:
                both = some and (s, h) in means
                gap = means[s, g] - means[s, h] if both else 0
                half = pair_half((s, g), (s, h)) if both else span
                found["gaps"][:, s, g, h] = np.clip(
                    [gap - half, gap + half], -span, span
                )
    low_gap, high_gap = found["gaps"]
    found["largest"] = np.maximum(low_gap.max((1, 2)), 0), np.abs(high_gap).max((1, 2))
    return found


def assert_intervals(found, expected, **tolerance):
    for name, ends in expected.items():
        bound = getattr(found, name)
        np.testing.assert_allclose(bound.low, ends[0], err_msg=name, **tolerance)
        np.testing.assert_allclose(bound.high, ends[1], err_msg=name, **tolerance)


class Missing(dict):
    """Absent cells read as 0."""

    def __missing__(self, key):
        return 0.0


def test_hoeffding_and_bernstein_match_their_definitions(sample, x64):
    values, groups, labels, weights = sample
    cond = notions.equalized_odds(groups, labels, n_groups=G, weights=weights)
    low, high = RANGE
    span, failure, models = high - low, 0.1, 3
    mean, square, peak, deviation, size = (Missing() for _ in range(5))
    for cell, inside, share in cells_of(groups, labels, weights):
        if inside.size:
            mean[cell] = share @ values[inside]
            square[cell], peak[cell] = share @ share, share.max()
            deviation[cell], size[cell] = values[inside].std(ddof=1), inside.size
    assert len(mean) == 5  # of 6; pairs: 3 among negatives, 1 among positives
    settings = {"value_range": RANGE, "confidence": 0.9, "n_configurations": models}

    log = np.log(2 * 5 * models / failure)
    halves = Missing({c: span * np.sqrt(square[c] * log / 2) for c in mean})
    log_pairs = np.log(2 * 4 * models / failure)
    expected = expected_bounds(
        mean,
        halves,
        lambda c, d: span * np.sqrt((square[c] + square[d]) * log_pairs / 2),
        low,
        high,
    )
    found = bounds.hoeffding(values, cond, **settings)
    assert_intervals(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        found.largest.estimate.max(), metrics.max_gap(values, cond)
    )
    np.testing.assert_allclose(
        np.where(cond.occupied, found.means.estimate, 0),
        metrics.group_means(values, cond),
    )

    def sigma(cell, log):
        spare = span * np.sqrt(2 * log / (size[cell] - 1))
        return min(deviation[cell] + spare, span / 2)

    log = np.log(3 * 5 * models / failure)
    halves = Missing(
        {
            c: np.sqrt(2 * square[c] * sigma(c, log) ** 2 * log)
            + span * peak[c] * log / 3
            for c in mean
        }
    )
    log_pairs = np.log((2 * 4 + 5) * models / failure)

    def pair_half(c, d):
        variance = sum(square[e] * sigma(e, log_pairs) ** 2 for e in (c, d))
        most = max(peak[c], peak[d])
        return np.sqrt(2 * variance * log_pairs) + span * most * log_pairs / 3

    expected = expected_bounds(mean, halves, pair_half, low, high)
    found = bounds.empirical_bernstein(values, cond, **settings)
    assert_intervals(found, expected, rtol=1e-12, atol=1e-12)


def test_empirical_bernstein_is_within_theorem_4(rng, x64):
    """Both signs and the deviation at a third each: never wider than the theorem."""
    for n in (2, 10, 1000):
        values = rng.beta(1, 20, size=n)
        cond = notions.demographic_parity(np.zeros(n, int), n_groups=1)
        found = bounds.empirical_bernstein(values, cond, value_range=(0, 1)).means
        log = np.log(3 / 0.05)
        theorem = np.sqrt(2 * values.var(ddof=1) * log / n) + 7 * log / (3 * (n - 1))
        assert found.high[0, 0] - values.mean() <= theorem
    assert found.high[0, 0] - values.mean() > 0.9 * theorem


def test_limits_of_a_rate_are_those_of_scipy():
    counts, trials, levels = [], [], []
    for n in [1, 2, 9, 100, 10**4, 10**6, 10**7]:
        for rate in (0, 1e-4, 0.01, 0.3, 0.5, 0.99, 1):
            for k in {round(n * rate), min(n, round(n * rate) + 1)}:
                counts += [k] * 4
                trials += [n] * 4
                levels += [0.5, 0.025, 1e-4, 1e-9]
    counts, trials, levels = (np.array(a, float) for a in (counts, trials, levels))
    some = np.maximum(counts, 1)

    def excess(limit, i):
        return (
            scipy.special.betainc(some[i], trials[i] - some[i] + 1, limit) / levels[i]
            - 1
        )

    expected = [
        scipy.optimize.brentq(excess, 0, 1, args=(i,), xtol=1e-25, rtol=1e-12)
        for i in range(len(counts))
    ]
    expected = np.where(counts > 0, expected, 0)
    found = lower_limit(counts, trials, np.log(levels))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def decisions_of(counts, trials):
    """Decisions and groups with these numbers of ones."""
    groups = np.repeat(np.arange(len(trials)), trials)
    ones = [np.arange(n) < k for k, n in zip(counts, trials, strict=True)]
    return np.concatenate(ones).astype(int), groups


@pytest.mark.parametrize(
    ("counts", "trials"), [((0, 7), (9, 7)), ((3, 40), (60, 90)), ((400, 1), (999, 5))]
)
def test_rates_and_their_gap_match_scipy(counts, trials, x64):
    decisions, groups = decisions_of(counts, trials)
    cond = notions.demographic_parity(groups, n_groups=2)
    found = bounds.binomial(decisions, cond, confidence=0.9, n_configurations=4)
    level = 1 - 0.1 / (2 * 4)
    for g in range(2):
        exact = scipy.stats.binomtest(counts[g], trials[g]).proportion_ci(
            level, "exact"
        )
        np.testing.assert_allclose(found.means.low[0, g], exact.low, atol=1e-12)
        np.testing.assert_allclose(found.means.high[0, g], exact.high, atol=1e-12)
    # t (1 - log t) is the chance that the product of two uniforms is at most t.
    size = -np.log(0.1 / 8)
    for _ in range(100):
        size = np.log1p(size) - np.log(0.1 / 8)
    t = np.exp(-size)
    np.testing.assert_allclose(t * (1 - np.log(t)), 0.1 / 8)
    share = np.linspace(0, 1, 20_001)

    def limit(k, n, levels):
        return (
            scipy.stats.beta.ppf(levels, k, n - k + 1) if k else np.zeros_like(levels)
        )

    for g, h in ((0, 1), (1, 0)):
        (k, n), (j, m) = (counts[g], trials[g]), (counts[h], trials[h])
        gap = limit(k, n, t**share) - 1 + limit(m - j, m, t ** (1 - share))
        width = (k / n - j / m) - gap.min()
        assert -1 <= found.gaps.low[0, g, h] <= gap.min() + 1e-9
        assert found.gaps.low[0, g, h] >= gap.min() - 0.06 * width
        assert found.gaps.low[0, g, h] == -found.gaps.high[0, h, g]


def test_exact_coverage_of_rates_and_gaps():
    """All outcomes of two small cells, weighed with their true probabilities."""
    n, m = 9, 15
    outcomes = np.array(list(itertools.product(range(n + 1), range(m + 1))))
    groups = jnp.asarray(np.repeat([0, 1], [n, m]))
    cond = notions.demographic_parity(groups, n_groups=2)
    decisions = np.stack([decisions_of(k, (n, m))[0] for k in outcomes])
    intervals = jax.jit(jax.vmap(lambda d: bounds.binomial(d, cond)))(decisions)
    intervals = jax.device_get(intervals)
    rates = [0.003, 0.02, 0.1, 0.3, 0.5, 0.8, 0.97, 1.0]
    coverage = {"means": [], "gaps": [], "largest": []}
    for p, q in itertools.product(rates, rates):
        chance = scipy.stats.binom.pmf(outcomes[:, 0], n, p)
        chance = chance * scipy.stats.binom.pmf(outcomes[:, 1], m, q)
        truth = {
            "means": [p, q],
            "gaps": [[0, p - q], [q - p, 0]],
            "largest": abs(p - q),
        }
        for name, value in truth.items():
            bound = getattr(intervals, name)
            inside = (bound.low[:, 0] <= value) & (value <= bound.high[:, 0] + 1e-6)
            inside = inside.reshape(len(outcomes), -1).all(axis=1)
            coverage[name].append(chance[inside].sum())
    for name, found in coverage.items():
        assert min(found) >= 0.95 - 1e-6, name
    assert min(coverage["gaps"]) < 0.992  # counts jump, so it cannot be 0.95


def test_rademacher_matches_its_definition(sample, x64):
    _, groups, labels, weights = sample
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 4))
    features /= np.linalg.norm(features, axis=1).max()
    losses = rng.uniform(0, 2, size=N)
    cond = notions.equalized_odds(groups, labels, n_groups=G, weights=weights)
    norm, slope, span, failure, models = 0.7, 0.5, 2.0, 0.05, 2
    mean, square, lengths = Missing(), Missing(), Missing()
    for cell, inside, share in cells_of(groups, labels, weights):
        if inside.size:
            mean[cell], square[cell] = share @ losses[inside], share @ share
            lengths[cell] = share**2 @ (features[inside] ** 2).sum(axis=1)
    settings: dict[str, Any] = {
        "value_range": (0, 2),
        "norm": norm,
        "lipschitz": slope,
        "n_configurations": models,
    }
    known = {c: square[c] * 0.9**2 for c in square}
    given: dict[str, Any]
    for events, times, size, given in (
        (2, 1, known, {"radius": 0.9}),
        (3, 3, lengths, {"square_norms": (features**2).sum(axis=1)}),
    ):

        def half(cells, n, events=events, times=times, size=size):
            spread = sum(square[c] for c in cells) * np.log(
                events * n * models / failure
            )
            complexity = slope * norm * np.sqrt(sum(size[c] for c in cells))
            return 2 * complexity + times * span * np.sqrt(spread / 2)

        expected = expected_bounds(
            mean,
            Missing({c: half([c], 5) for c in mean}),
            lambda c, d, half=half: half([c, d], 4),
            0,
            2,
        )
        found = bounds.rademacher(losses, cond, **settings, **given)
        assert_intervals(found, expected, rtol=1e-12, atol=1e-12)


def test_ks_distances_match_scipy_and_dkw(sample, x64):
    values, groups, labels, _ = sample
    scores = values.round(1)  # with ties
    mask = np.arange(N) % 5 > 0
    cond = notions.equalized_odds(groups, labels, n_groups=G, weights=mask)
    found = bounds.dkw(scores, cond, confidence=0.9, n_configurations=2)
    members = {c: inside for c, inside, _ in cells_of(groups, labels, mask * 1.0)}
    log = np.log(2 * 5 * 2 / 0.1)
    for s, g, h in itertools.product(range(2), range(G), range(G)):
        x, y = scores[members[s, g]], scores[members[s, h]]
        bound = [end[s, g, h] for end in found.distances]
        if x.size:
            band = np.sqrt(log / (2 * x.size))
            np.testing.assert_allclose(found.bands[s, g], min(band, 1), rtol=1e-12)
        if g == h:
            assert bound == [0, 0, 0]
        elif x.size and y.size:
            distance = np.asarray(scipy.stats.ks_2samp(x, y))[0]
            spare = min(1, np.sqrt(log / 2 / x.size)) + min(
                1, np.sqrt(log / 2 / y.size)
            )
            ends = np.clip([distance, distance - spare, distance + spare], 0, 1)
            np.testing.assert_allclose(bound, ends, atol=1e-12)
        else:
            assert bound == [0, 0, 1]
            assert min(x.size, y.size) == 0
    np.testing.assert_allclose(
        found.largest.estimate.max(), metrics.ks_distance(scores, cond), rtol=1e-12
    )
    np.testing.assert_allclose(found.largest.high[0], found.distances.high[0].max())
    assert found.largest.high[1] == 1


def test_each_bound_is_the_narrowest_somewhere():
    n = 2000
    groups = np.arange(n) % 2
    cond = notions.demographic_parity(groups, n_groups=2)

    def widths(values):
        found = [
            f(values, cond, value_range=(0, 1))
            for f in (bounds.hoeffding, bounds.empirical_bernstein)
        ]
        return [float(b.largest.high[0] - b.largest.estimate[0]) for b in found]

    rng = np.random.default_rng(0)
    rare = (rng.random(n) < 0.01).astype(int)
    exact = bounds.binomial(rare, cond).largest
    exact = float(exact.high[0] - exact.estimate[0])
    hoeffding, bernstein = widths(rare)
    assert exact < bernstein < hoeffding
    assert exact < hoeffding / 3
    common = rng.integers(2, size=n)
    exact = bounds.binomial(common, cond).gaps
    half = float(exact.high[0, 0, 1] - exact.low[0, 0, 1]) / 2
    hoeffding, bernstein = widths(common)
    assert 1.96 * np.sqrt(0.5 / n * 2) < half < hoeffding < bernstein < 1.15 * hoeffding


def all_bounds(values, decisions, cond, confidence):
    """Every bound, for what holds of all of them."""
    settings = {"value_range": RANGE, "confidence": confidence}
    return {
        "hoeffding": bounds.hoeffding(values, cond, **settings),
        "bernstein": bounds.empirical_bernstein(values, cond, **settings),
        "rademacher": bounds.rademacher(
            values, cond, norm=1.0, lipschitz=1.0, square_norms=values**2, **settings
        ),
        "binomial": bounds.binomial(decisions, cond, confidence=confidence),
        "ks": bounds.dkw(values, cond, confidence=confidence),
    }


compiled = jax.jit(all_bounds)


def jitted(values, decisions, cond, confidence=0.95):
    return compiled(values, decisions, cond, jnp.float32(confidence))


def assert_same(found, expected, atol=2e-6):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)

    jax.tree.map(compare, found, expected)


def test_jit_equals_eager_and_a_map_over_confidences_the_loop(sample):
    values, groups, labels, _ = sample
    values, decisions = values.astype(np.float32), (values > 0).astype(np.float32)
    cond = notions.equalized_odds(groups, labels, n_groups=G)
    levels = (0.5, 0.9, 0.999)
    mapped = jax.vmap(compiled, in_axes=(None, None, None, 0))(
        values, decisions, cond, jnp.array(levels)
    )
    looped = [jitted(values, decisions, cond, level) for level in levels]
    assert_same(mapped, jax.tree.map(lambda *leaves: np.stack(leaves), *looped))
    assert_same(looped[1], all_bounds(values, decisions, cond, 0.9))
    for found in looped[2].values():
        for bound in [part for part in found if isinstance(part, bounds.Bound)]:
            assert (bound.low <= bound.estimate).all()
            assert (bound.estimate <= bound.high).all()
    gaps = looped[2]["bernstein"].gaps
    np.testing.assert_array_equal(gaps.low, -gaps.high.swapaxes(1, 2))


def test_masked_equals_the_subset_and_names_do_not_matter(sample):
    values, groups, labels, _ = sample
    values, decisions = values.astype(np.float32), (values > 0).astype(np.float32)
    mask = np.arange(N) % 3 > 0
    every = notions.equalized_odds(groups, labels, n_groups=G, weights=mask)
    part = notions.equalized_odds(groups[mask], labels[mask], n_groups=G)
    found = jitted(values, decisions, every)
    assert_same(found, jitted(values[mask], decisions[mask], part))
    codes = np.array([2, 0, 1])
    renamed = notions.equalized_odds(codes[groups], labels, n_groups=G, weights=mask)
    other = jitted(values, decisions, renamed)
    for name, bound in found.items():
        back = jax.tree.map(lambda a: a[:, codes], other[name][0])
        assert_same(back, bound[0])
        pairs = jax.tree.map(lambda a: a[:, codes][:, :, codes], other[name][1])
        assert_same(pairs, bound[1])
        assert_same(other[name][2], bound[2])


def test_an_empty_cell_has_the_whole_range(sample):
    values, groups, labels, _ = sample
    values, decisions = values.astype(np.float32), (values > 0).astype(np.float32)
    cond = notions.equalized_odds(groups, labels, n_groups=G)
    found = jitted(values, decisions, cond)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for name in ("hoeffding", "bernstein", "rademacher"):
        assert (found[name].means.low[1, 2], found[name].means.high[1, 2]) == RANGE
        assert found[name].gaps.high[1, 0, 2] == found[name].largest.high[1] == 4
        assert found[name].gaps.high[1, 2, 2] == 0
    assert found["binomial"].means.high[1, 2] == found["binomial"].largest.high[1] == 1
    assert found["ks"].bands[1, 2] == found["ks"].largest.high[1] == 1
    nobody = notions.Conditionals(jnp.zeros((2, G, N)), jnp.zeros((2, G), bool))
    found = jitted(values, decisions, nobody)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert (found["binomial"].gaps.low[:, 0, 1] == -1).all()
    single = notions.Conditionals(nobody.weights[:, :1], nobody.occupied[:, :1])
    found = jitted(values, decisions, single)
    assert (found["hoeffding"].largest.high == 0).all()


def test_broken_assumptions_inside_jit_say_nothing(sample):
    values, groups, labels, weights = sample
    values, decisions = values.astype(np.float32), (values > 0).astype(np.float32)
    cond = notions.equalized_odds(groups, labels, n_groups=G)
    at = int(np.flatnonzero((groups == 1) & (labels == 0))[0])
    for bad in (99.0, np.nan):
        spoilt, wrong = values.copy(), decisions.copy()
        spoilt[at] = wrong[at] = bad
        found = jitted(spoilt, wrong, cond)
        for name in ("hoeffding", "bernstein", "rademacher"):
            assert (
                found[name].means.low[0, 1] == found[name].gaps.low[0, 0, 1] == -np.inf
            )
            assert found[name].means.high[0, 1] == found[name].largest.high[0] == np.inf
            assert np.isfinite(found[name].gaps.high[0, 0, 2])
        rates = found["binomial"].means
        assert (rates.low[0, 1], rates.high[0, 1]) == (0, 1)
        assert rates.high[0, 0] - rates.low[0, 0] < 0.9
    assert found["ks"].distances.high[0, 0, 1] == found["ks"].bands[0, 1] == 1
    unequal = notions.equalized_odds(groups, labels, n_groups=G, weights=weights)
    found = jitted(values, decisions, unequal)
    assert (found["ks"].bands == 1).all()
    assert (found["binomial"].means.high == 1).all()
    assert (found["binomial"].gaps.low[0, 0, 1:] == -1).all()


def test_gradients_are_finite_without_spread_and_without_members(sample):
    values, groups, labels, _ = sample
    cond = notions.equalized_odds(groups, labels, n_groups=G)
    constant = jnp.zeros(N)

    @jax.grad
    def slope(values):
        found = bounds.empirical_bernstein(values, cond, value_range=RANGE)
        return found.largest.high.sum() + found.means.low.sum()

    for point in (constant, jnp.asarray(values, jnp.float32)):
        assert np.isfinite(slope(point)).all()


WIDTHS = {
    "hoeffding": partial(bounds.hoeffding_width, value_range=(0, 2)),
    "bernstein": partial(
        bounds.empirical_bernstein_width, value_range=(0, 2), deviation=0.1
    ),
    "binomial": partial(bounds.binomial_width, rate=0.2),
    "rademacher": partial(
        bounds.rademacher_width, value_range=(0, 2), norm=1, radius=1, lipschitz=1
    ),
    "ks": bounds.ks_width,
}


@pytest.mark.parametrize("name", WIDTHS)
def test_samples_for_is_the_smallest_number(name, x64):
    width = partial(WIDTHS[name], n_groups=3, n_strata=2, confidence=0.9)
    wanted = np.array([0.3, 0.04])
    found = bounds.samples_for(wanted, width=width)
    for n, half in zip(found.tolist(), wanted, strict=True):
        assert width(n) <= half < width(n - 1)
    more = bounds.samples_for(0.04, width=partial(width, n_configurations=100))
    assert more > found[1]


def test_planned_widths_are_those_of_the_bounds(x64):
    """Two strata of three groups with 50 samples each, a fifth of them 1."""
    groups = np.tile(np.repeat(np.arange(3), 50), 2)
    strata, values = np.repeat([0, 1], 150), (np.arange(300) % 5 == 0).astype(int)
    cond = notions.conditional_parity(groups, strata, n_groups=3, n_strata=2)
    plan = {"n_groups": 3, "n_strata": 2, "confidence": 0.9, "n_configurations": 7}
    level = {"confidence": 0.9, "n_configurations": 7}
    ball = {"value_range": (0, 2), "norm": 1, "radius": 0.1, "lipschitz": 1}
    deviation = values[:50].std(ddof=1)
    pairs = [
        (
            bounds.hoeffding(values, cond, value_range=(0, 2), **level).gaps,
            bounds.hoeffding_width(50, value_range=(0, 2), **plan),
        ),
        (
            bounds.empirical_bernstein(values, cond, value_range=(0, 2), **level).gaps,
            bounds.empirical_bernstein_width(
                50, value_range=(0, 2), deviation=deviation, **plan
            ),
        ),
        (
            bounds.rademacher(values, cond, **ball, **level).gaps,
            bounds.rademacher_width(50, **ball, **plan),
        ),
        (
            bounds.binomial(values, cond, **level).gaps,
            bounds.binomial_width(50, rate=0.2, **plan),
        ),
        (
            bounds.dkw(values, cond, **level).distances,
            bounds.ks_width(50, **plan),
        ),
    ]
    for gaps, width in pairs:
        np.testing.assert_allclose(gaps.high[:, 0, 1], width, rtol=1e-9)
        assert 0 < width < 1


@pytest.mark.usefixtures("untyped")
def test_bad_input_is_refused(sample):
    values, groups, labels, weights = sample
    decisions = (values > 0).astype(np.float32)
    cond = notions.equalized_odds(groups, labels, n_groups=G)
    unequal = notions.equalized_odds(groups, labels, n_groups=G, weights=weights)
    ball: dict[str, Any] = {"value_range": RANGE, "norm": 1.0, "lipschitz": 1.0}
    negative: dict[str, Any] = ball | {"norm": -1.0}
    for call, message in (
        (
            lambda: bounds.hoeffding(values, cond, value_range=(0, 1)),
            r"`values`.*values\[",
        ),
        (lambda: bounds.hoeffding(values, cond, value_range=(1, 0)), r"`value_range`"),
        (lambda: bounds.hoeffding(values, cond, value_range=(0, np.inf)), r"finite"),
        (
            lambda: bounds.hoeffding(values[:5], cond, value_range=RANGE),
            r"`values`.*60",
        ),
        (lambda: bounds.hoeffding(values * np.nan, cond, value_range=RANGE), r"finite"),
        (
            lambda: bounds.hoeffding(values, cond, value_range=RANGE, confidence=95),
            r"`confidence` must lie in \(0, 1\), but is 95",
        ),
        (
            lambda: bounds.binomial(decisions, cond, n_configurations=0),
            r"`n_configurations` must be at least 1, but is 0",
        ),
        (
            lambda: bounds.binomial(values, cond),
            r"`decisions` must be 0 or 1.*Threshold",
        ),
        (
            lambda: bounds.binomial(decisions, unequal),
            r"stratum 0, group 0.*`hoeffding`",
        ),
        (lambda: bounds.dkw(values, unequal), r"`cond` must weigh"),
        (lambda: bounds.rademacher(values, cond, **ball), r"exactly one of `radius`"),
        (
            lambda: bounds.rademacher(values, cond, radius=1.0, **negative),
            r"`norm` must be at least 0",
        ),
        (
            lambda: bounds.rademacher(values, cond, square_norms=values, **ball),
            r"`square_norms` must be at least 0",
        ),
        (lambda: bounds.repaired_ks(np.array([-1, 3])), r"`counts`.*counts\[0\]"),
        (lambda: bounds.samples_for(0.0, width=bounds.ks_width), r"`half_width`"),
        (lambda: bounds.ks_width(10, n_groups=1), r"`n_groups` must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    # A sample that no cell counts may have any value.
    outside = np.where(labels == 0, 50.0, values)
    positives = notions.equal_opportunity(groups, labels, n_groups=G)
    bounds.hoeffding(outside, positives, value_range=RANGE)


def test_equal_opportunity_on_adult():
    """A linear model fitted on the training part, judged on the test part."""
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    from fairjax import datasets

    data = datasets.adult()
    features, labels, _ = data.train
    design = np.c_[features, np.ones(len(features))].astype(float)
    normal = design.T @ design + 1e-3 * len(design) * np.eye(design.shape[1])
    coef = np.linalg.solve(normal, design.T @ (2.0 * labels - 1))
    features, labels, groups = data.test
    decisions = (np.c_[features, np.ones(len(features))] @ coef > 0).astype(int)
    cond = notions.equal_opportunity(groups, labels, n_groups=data.n_groups)
    found = bounds.binomial(decisions, cond)
    rates = [decisions[(groups == g) & (labels == 1)] for g in range(2)]
    for g, rate in enumerate(rates):
        exact = scipy.stats.binomtest(int(rate.sum()), rate.size)
        exact = exact.proportion_ci(1 - 0.05 / 2, "exact")
        np.testing.assert_allclose(found.means.low[0, g], exact.low, rtol=1e-5)
        np.testing.assert_allclose(found.means.high[0, g], exact.high, rtol=1e-5)
    gap = abs(rates[0].mean() - rates[1].mean())
    np.testing.assert_allclose(found.largest.estimate[0], gap, rtol=1e-5)
    assert 0 < found.largest.low[0] < gap < found.largest.high[0] < gap + 0.07


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hoeffding", {"value_range": (1, 0)}, "low < high, but is \\(1.0, 0.0\\)"),
        ("bernstein", {"value_range": (0, np.inf)}, "`value_range` must be"),
        ("bernstein", {"deviation": -1.0}, "`deviation` must be at least 0"),
        ("binomial", {"rate": 10}, "`rate` must lie in \\[0, 1\\], but is 10"),
        ("binomial", {"rate": -0.1}, "`rate` must lie in"),
        ("rademacher", {"norm": -1.0}, "`norm` must be at least 0"),
        ("rademacher", {"lipschitz": np.nan}, "`lipschitz` must be at least 0"),
        ("rademacher", {"value_range": (2, 2)}, "`value_range` must be"),
    ],
)
def test_impossible_plans_are_refused(name, options, message):
    """A range turned around was a negative width, and one sample enough for it."""
    width = partial(WIDTHS[name], **options)
    with pytest.raises(ValueError, match=message):
        width(100)
    with pytest.raises(ValueError, match=message):
        bounds.samples_for(0.05, width=width)
