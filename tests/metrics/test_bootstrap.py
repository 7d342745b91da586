"""Intervals against the book in NumPy, SciPy, the metrics themselves, and coverage."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fairjax import metrics, notions
from fairjax.metrics.bootstrap import (
    bca_levels,
    compiled_interval,
    draw_quantiles,
)
from fairjax.metrics.bootstrap_statistics import compared, means_statistic
from fairjax.metrics.rates import mean_gap

N = 40
METHODS = "percentile", "bca"
one_group = functools.partial(notions.demographic_parity, n_groups=1)


def bootstrap_with_counts(statistic, n, **options):
    """The interval, and the counts of each draw as the statistic saw them."""
    seen = []

    def record(counts):
        seen.extend(np.array(counts, float).reshape(-1, n))
        return np.zeros(counts.shape, np.float32)

    def watched(counts):
        # Zeros, so that it runs; a call for all draws that are mapped over at once.
        zeros = jax.pure_callback(
            record,
            jax.ShapeDtypeStruct(counts.shape, np.float32),
            jax.lax.stop_gradient(counts).astype(np.float32),
            vmap_method="broadcast_all",
        )
        return statistic(counts + zeros.astype(counts.dtype))

    found = metrics.bootstrap(watched, n=n, key=jax.random.key(3), **options)
    jax.block_until_ready(found)
    return found, np.array(seen)


def interval_by_the_book(value, drawn, influence, level, method):
    """Efron, Tibshirani 1993, sections 13.3 and 14.3, with half of the ties below."""
    tails = np.array([1 - level, 1 + level]) / 2
    if method == "bca":
        share = (drawn < value).mean() + (drawn == value).mean() / 2
        z0, z = scipy.stats.norm.ppf(share), scipy.stats.norm.ppf(tails)
        a = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
        tails = scipy.stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    return np.quantile(drawn, tails)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("design", ["samples", "clusters", "strata", "both"])
def test_interval_matches_the_book(method, design, rng, x64):
    """A weighted mean, whose influence is `w (x - mean) / sum w`, and a rate."""
    x, weights = rng.exponential(size=N), rng.uniform(0.5, 2, size=N)
    x = np.stack([x, x > 1])
    clusters = np.arange(N) // 2 * 7 - 5 if design in ("clusters", "both") else None
    strata = (np.arange(N) < 14) * 3 if design in ("strata", "both") else None
    options = {"clusters": clusters, "strata": strata, "draws": 300, "level": 0.8}

    def means(counts):
        mass = weights * counts
        return (x * mass[None]).sum(axis=1) / mass.sum()

    (low, high), counts = bootstrap_with_counts(means, N, method=method, **options)
    counts = counts[~(counts == 1).all(axis=1)]  # The sample itself, for BCa.
    assert len(counts) == 300
    np.testing.assert_array_equal(counts.sum(axis=1), N)
    if clusters is not None:
        np.testing.assert_array_equal(counts[:, ::2], counts[:, 1::2])
    if strata is not None:
        np.testing.assert_array_equal(counts[:, :14].sum(axis=1), 14)
    drawn = np.array([means(c) for c in counts])
    for number in range(2):
        value = means(np.ones(N))[number]
        influence = weights * (x[number] - value) / weights.sum()
        units = np.arange(N) if clusters is None else np.arange(N) // 2
        influence = np.bincount(units, influence)
        stratum = np.zeros(N) if strata is None else strata
        stratum = stratum[:: N // len(influence)]
        for code in np.unique(stratum):
            influence[stratum == code] -= influence[stratum == code].mean()
        near = np.abs(drawn[:, number] - value) < 1e-12
        clean = np.where(near, value, drawn[:, number])
        expected = interval_by_the_book(value, clean, influence, 0.8, method)
        np.testing.assert_allclose([low[number], high[number]], expected, rtol=1e-6)


def test_every_sample_is_drawn_equally_often_and_independently():
    _, counts = bootstrap_with_counts(jnp.sum, 20, draws=1000)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=5 / 1000**0.5)
    # Multinomial: variance 1 - 1/n, covariance -1/n.
    spread = np.cov(counts.T) * 20
    expected = 20 * np.eye(20) - 1
    np.testing.assert_allclose(spread, expected, atol=20 * 5 * (2 / 1000) ** 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_interval_matches_scipy(method, rng):
    x, weights = rng.exponential(size=60), rng.uniform(0.2, 3, size=60)

    def mean(x, w, axis=-1):
        return (x * w).sum(axis=axis) / w.sum(axis=axis)

    # Renamed in SciPy 1.15.
    known = inspect.signature(scipy.stats.bootstrap).parameters
    source = {"rng" if "rng" in known else "random_state": rng}
    theirs = scipy.stats.bootstrap(
        (x, weights), mean, paired=True, n_resamples=6000, method=method,
        confidence_level=0.9, **source,
    )  # fmt: skip
    cond = one_group(np.zeros(60, int), weights=weights)
    how = metrics.Bootstrap(jax.random.key(0), draws=6000, level=0.9, method=method)
    mine = metrics.interval(metrics.group_means, x, cond, bootstrap=how)
    expected = theirs.confidence_interval
    # An end from 6,000 draws has a standard error of 0.03 of the estimate's.
    atol = 0.13 * theirs.standard_error
    np.testing.assert_allclose(mine.value[0, 0], mean(x, weights), rtol=1e-6)
    np.testing.assert_allclose(mine.low[0, 0], expected.low, atol=atol)
    np.testing.assert_allclose(mine.high[0, 0], expected.high, atol=atol)


NAMES = ["accuracy", "balanced", "means", "gap", "ratio", "ks", "w1", "w2", "price"]
NAMES += ["audit"]


def every_metric(data, weights, bootstrap, *, names=tuple(NAMES)):
    """Metrics by name; with intervals, or of one vector of weights."""
    scores, labels, groups = data
    parity = notions.demographic_parity(groups, n_groups=3, weights=weights)
    odds = notions.equalized_odds(groups, labels, n_groups=3, weights=weights)
    own = {"weights": weights}
    calls = {
        "accuracy": (metrics.accuracy, scores > 0, labels, own),
        "balanced": (metrics.balanced_accuracy, scores > 0, labels, own),
        "means": (metrics.group_means, scores, odds, {}),
        "gap": (metrics.max_gap, scores, odds, {}),
        "ratio": (metrics.min_ratio, scores > 0, parity, {}),
        "ks": (metrics.ks_distance, scores, odds, {}),
        "w1": (metrics.wasserstein, scores, odds, {}),
        "w2": (metrics.wasserstein, scores, odds, {"p": 2}),
        "price": (metrics.price_of_fairness, scores, groups, {"n_groups": 3, **own}),
        "audit": (metrics.audit, scores, labels, groups, {"n_groups": 3, **own}),
    }
    assert list(calls) == NAMES
    calls = {name: calls[name] for name in names}
    if bootstrap is None:
        return {name: fn(*args, **own) for name, (fn, *args, own) in calls.items()}
    return {
        name: metrics.interval(fn, *args, bootstrap=bootstrap, **own)
        for name, (fn, *args, own) in calls.items()
    }


class Resampled:
    """Every metric of a sample, of each of its draws, and the influences on both.

    Influences are differences of one and the same compiled program, so no derivative
    of a metric has a part in what is expected of its intervals.
    """

    def __init__(self, n=90, draws=60, step=1e-5):
        rng = np.random.default_rng(0)
        groups, labels = np.arange(n) % 3, np.arange(n) // 3 % 2
        scores = (rng.normal(size=n) + 0.5 * groups).round(1)
        self.weights = rng.uniform(0.5, 2, size=n) * (rng.random(n) > 0.1)
        scores[self.weights == 0] = 1e6
        self.data = jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(groups)
        self.key, self.draws = jax.random.key(1), draws
        keys = jax.random.split(self.key, draws)
        picks = jax.vmap(lambda key: jax.random.randint(key, (n,), 0, n))(keys)
        counts = [np.bincount(own, minlength=n) for own in np.asarray(picks)]
        moved = [1 + step * np.eye(n), 1 - step * np.eye(n)]
        rows = np.concatenate([np.ones((1, n)), counts, *moved])

        @jax.jit
        def numbers(weights, rows):
            def of_counts(own):
                return every_metric(self.data, weights * own, None)

            return jax.lax.map(of_counts, rows)

        found = jax.device_get(numbers(self.weights, rows))
        self.numbers = {name: jax.tree.leaves(own) for name, own in found.items()}
        self.step = step

    def ends(self, name, method):
        """For each number of a metric: its value and both ends."""
        for leaf in self.numbers[name]:
            table = leaf.reshape(len(leaf), -1).astype(float)
            value, drawn = table[0], table[1 : self.draws + 1]
            up, down = np.split(table[self.draws + 1 :], 2)
            influence = (up - down) / (2 * self.step)
            influence -= influence.mean(axis=0)
            influence[:, np.abs(influence).max(axis=0) < 1e-7] = 0
            spread = np.square(influence).sum(axis=0)
            skew = (influence**3).sum(axis=0) / np.where(spread > 0, spread, 1) ** 1.5
            tails = np.array([[0.1], [0.9]]) * np.ones(value.size)
            if method == "bca":
                tails = levels_of(tails, drawn, value, skew / 6)
            low, high = quantiles_of(drawn, tails)
            yield [a.reshape(leaf.shape[1:]) for a in (value, low, high)]


levels_of, quantiles_of = jax.jit(bca_levels), jax.jit(draw_quantiles)


@pytest.fixture(scope="module")
def resampled():
    with jax.enable_x64(True):
        return Resampled()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_each_metric_is_resampled_as_it_is_defined(name, method, resampled, x64):
    """Draw by draw, the metric of resampled weights: same key, same ends."""
    data, key, draws = resampled.data, resampled.key, resampled.draws
    how = metrics.Bootstrap(key, draws=draws, level=0.8, method=method)
    found = jax.jit(lambda w: every_metric(data, w, how, names=[name]))
    estimate = jax.device_get(found(resampled.weights)[name])
    assert isinstance(estimate, metrics.Estimate)
    numbers = list(zip(*map(jax.tree.leaves, estimate), strict=True))
    expected = list(resampled.ends(name, method))
    if name == "audit":  # Its last field counts samples there, and draws here.
        assert (estimate.low.counts < estimate.value.counts).all()
        assert (estimate.high.counts > estimate.value.counts).all()
        del numbers[-1], expected[-1]
    for mine, other in zip(numbers, expected, strict=True):
        for end, known in zip(mine, other, strict=True):
            np.testing.assert_allclose(end, known, rtol=1e-6, atol=1e-7)


def test_value_is_that_without_interval_and_jit_equals_eager(rng):
    values, groups = rng.normal(size=N), np.arange(N) % 2
    cond = notions.demographic_parity(groups, n_groups=2)
    how = metrics.Bootstrap(jax.random.key(0), draws=50)
    eager = metrics.interval(metrics.max_gap, values, cond, bootstrap=how)
    assert eager.value == metrics.max_gap(values, cond)
    again = metrics.interval(metrics.max_gap, values, cond, bootstrap=how)
    np.testing.assert_array_equal(eager, again)

    def found(how):
        return metrics.interval(metrics.max_gap, values, cond, bootstrap=how)

    np.testing.assert_allclose(jax.jit(found)(how), eager, rtol=1e-6)
    keys = jax.random.split(jax.random.key(5), 3)
    mapped = jax.vmap(lambda key: found(metrics.Bootstrap(key, draws=50)))(keys)
    assert len(set(mapped.low.tolist())) == 3
    for i, key in enumerate(keys):
        one = found(metrics.Bootstrap(key, draws=50))
        np.testing.assert_allclose(mapped.low[i], one.low, rtol=1e-5)
        np.testing.assert_allclose(mapped.high[i], one.high, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_interval_moves_with_the_values(method, rng):
    values = rng.exponential(size=N)
    cond = one_group(np.zeros(N, int))
    how = metrics.Bootstrap(jax.random.key(0), draws=200, method=method)
    before = np.array(
        metrics.interval(metrics.group_means, values, cond, bootstrap=how)
    )
    for scale, shift in ((3.0, 2.0), (1e-30, 0.0), (1e30, 0.0)):
        moved = metrics.interval(
            metrics.group_means, scale * values + shift, cond, bootstrap=how
        )
        np.testing.assert_allclose(moved, before * scale + shift, rtol=1e-5)
    mirrored = metrics.interval(metrics.group_means, -values, cond, bootstrap=how)
    np.testing.assert_allclose(mirrored.low, -before[2], rtol=1e-5)


def test_masked_samples_leave_the_distribution_of_the_subset(rng):
    values, groups = rng.normal(size=100), np.arange(100) % 2
    how = metrics.Bootstrap(jax.random.key(0), draws=4000)
    cond = notions.demographic_parity(groups, n_groups=2)
    subset = np.array(
        metrics.interval(metrics.group_means, values, cond, bootstrap=how)
    )
    mask = np.append(np.ones(100), np.zeros(60))
    padded = notions.demographic_parity(
        np.append(groups, np.zeros(60, int)), n_groups=2, weights=mask
    )
    both = np.append(values, np.full(60, 1e9))
    masked = np.array(
        metrics.interval(metrics.group_means, both, padded, bootstrap=how)
    )
    np.testing.assert_allclose(masked[0], subset[0], rtol=1e-6)
    width = (subset[2] - subset[1]).max()
    np.testing.assert_allclose(masked, subset, atol=0.06 * width)


def test_draws_without_a_cell_are_left_out_and_do_not_count_as_zero(rng):
    """Three of 60 are missing from 5 % of the draws, twice what an end leaves out."""
    values = np.append(rng.normal(size=57), [10.0, 11.0, 12.0])
    groups = np.append(np.zeros(57, int), [1, 1, 1])
    cond = notions.demographic_parity(groups, n_groups=3)
    how = metrics.Bootstrap(jax.random.key(0), draws=2000, method="percentile")
    means = metrics.interval(metrics.group_means, values, cond, bootstrap=how)
    assert means.low[0, 1] == 10
    assert means.high[0, 1] == 12
    # A group that the sample lacks says 0, as the value does.
    assert means.low[0, 2] == means.high[0, 2] == 0
    gap = metrics.interval(metrics.max_gap, values, cond, bootstrap=how)
    assert 9 < gap.low < gap.value < gap.high < 13
    labels = np.arange(60) % 2
    audit = metrics.interval(
        metrics.audit, values - 9, labels, groups, n_groups=3, bootstrap=how
    )
    ends = audit.low.selection_rates[1], audit.high.selection_rates[1]
    # Some versions of XLA divide by way of a reciprocal.
    assert [*ends, audit.low.demographic_parity] == pytest.approx([1, 1, 1], rel=2e-7)
    assert audit.low.counts[:, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("method", "draws"), [("bca", 7), ("percentile", 7), ("bca", 1)]
)
def test_alike_draws_extremes_and_tiny_samples_are_never_nan(method, draws):
    ones, places = np.ones(8), np.arange(8)
    cases = {
        "constant": (np.full(8, 3.0), places % 2, ones),
        "largest": (np.full(8, 3e38) * (-1.0) ** places, places // 4, ones),
        "tiny": (places * 1e-37, places % 2, ones),
        "one group": (places * 1.0, places * 0, ones),
        "one each": (places * 1.0, places % 2, places < 2),
        "one sample": (places * 1.0, places % 2, places < 1),
    }

    @jax.jit
    def estimates(values, groups, weights):
        how = metrics.Bootstrap(jax.random.key(0), draws=draws, method=method)
        cond = notions.demographic_parity(groups, n_groups=2, weights=weights)
        return (
            metrics.interval(metrics.group_means, values, cond, bootstrap=how),
            metrics.interval(metrics.max_gap, values, cond, bootstrap=how),
            metrics.interval(metrics.ks_distance, values, cond, bootstrap=how),
            metrics.interval(metrics.wasserstein, values, cond, bootstrap=how),
        )

    for name, (values, groups, weights) in cases.items():
        found = estimates(values.astype(np.float32), groups, weights.astype(float))
        for estimate in found:
            assert not any(np.isnan(leaf).any() for leaf in estimate), (name, estimate)
            assert (estimate.low <= estimate.high).all(), (name, estimate)
        if name == "constant":
            np.testing.assert_allclose(found[0], 3, rtol=1e-6)


def test_draws_that_are_nan_are_left_out_and_any_type_has_an_interval():
    none = metrics.bootstrap(
        lambda w: {"none": w[0] * jnp.nan, "count": w[0].astype(int), "flag": w[0] > 0},
        n=5, key=jax.random.key(0), method="bca",
    )  # fmt: skip
    assert none.low["none"] == -np.inf
    assert none.high["none"] == np.inf
    assert 0 <= none.low["count"] < none.high["count"] <= 5
    assert (none.low["flag"], none.high["flag"]) == (0, 1)


def test_memory_is_that_of_a_batch_of_draws():
    n, draws = 20_000, 10_000
    cond = notions.Conditionals(
        jax.ShapeDtypeStruct((1, 2, n), jnp.float32),
        jax.ShapeDtypeStruct((1, 2), bool),
    )
    scores = jax.ShapeDtypeStruct((n,), jnp.float32)
    how = metrics.Bootstrap(jax.random.key(0), draws=draws)
    program = compiled_interval.lower(
        means_statistic(mean_gap, compared), (scores, cond), how, n=n
    )
    # All draws of all samples would take 800 MB.
    assert program.compile().memory_analysis().temp_size_in_bytes < 8e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "`draws` must be at least 1, but is 0"),
        ({"level": 95}, r"`level` must lie in \(0, 1\), but is 95"),
        ({"level": 1.0}, r"`level` must lie in \(0, 1\)"),
        ({"method": "normal"}, "`method` must be \"bca\" or .* is 'normal'"),
        ({"clusters": np.zeros(3, int)}, r"`clusters` .* shape \(4,\), but .* \(3,\)"),
        ({"strata": np.zeros((4, 1), int)}, r"`strata` .* shape \(4, 1\)"),
        ({"strata": np.zeros(4)}, "`strata` must be integer codes.*float64"),
        ({"clusters": list("abcd")}, "`clusters` must be integer codes"),
        (
            {"clusters": np.array([7, 7, 8, 8]), "strata": np.array([0, 2, 1, 1])},
            r"cluster 7 is in strata 0 and 2 \(samples 0 and 1\)",
        ),
    ],
)
def test_bad_choices_raise(options, message, untyped):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap(jnp.sum, n=4, key=key, **options)
    cond = notions.demographic_parity(np.arange(4) % 2, n_groups=2)
    with pytest.raises(ValueError, match=message):
        metrics.interval(
            metrics.max_gap,
            np.ones(4),
            cond,
            bootstrap=metrics.Bootstrap(key, **options),
        )


def test_every_metric_of_a_sample_has_an_interval(untyped):
    """The error names those that have one."""
    draws = metrics.Bootstrap(jax.random.key(0))
    with pytest.raises(ValueError, match="`metrics.bootstrap`") as error:
        metrics.interval(jnp.sum, np.ones(3), bootstrap=draws)
    for name, function in vars(metrics).items():
        public = inspect.isfunction(function) and not name.startswith("_")
        if (
            public
            and function.__module__ != "fairjax.metrics.scores"
            and name
            not in {
                "audit_stream",
                "bootstrap",
                "interval",
            }
        ):
            assert f"`{name}`" in str(error.value)
