"""Metrics against plain NumPy, fairlearn, scikit-learn and SciPy."""

import inspect
import itertools
from typing import NamedTuple

import fairlearn.metrics
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.metrics

from fairjax import erm, metrics, notions

N, N_GROUPS, CASES = 48, 6, 200

# One compilation is quicker than one per operation.
ks_distance = jax.jit(metrics.ks_distance)
wasserstein = jax.jit(metrics.wasserstein, static_argnames="p")
price_of_fairness = jax.jit(metrics.price_of_fairness, static_argnames="n_groups")


class Case(NamedTuple):
    """Weight 0 marks samples that are not there, so that all cases share a shape."""

    scores: np.ndarray
    decisions: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    weights: np.ndarray

    def kept(self):
        """The samples that are there."""
        return Case(*(field[self.weights > 0] for field in self))


def draw(rng):
    """Unequal, tiny and empty cells, ties, masks, counts or real numbers as weights."""
    present = rng.permutation(N_GROUPS)[: rng.integers(2, N_GROUPS + 1)]
    groups = rng.choice(present, size=N, p=rng.dirichlet(np.ones(len(present))))
    groups[:2] = present[:2]
    labels = (rng.random(N) < rng.uniform(0.1, 0.9)).astype(int)
    scores = rng.normal(size=N) + rng.normal(size=N_GROUPS)[groups]
    scores = scores.round(1) if rng.random() < 0.5 else scores
    decisions = (rng.random(N) < rng.uniform(0.05, 0.95)).astype(int)
    kinds = np.ones(N), rng.integers(1, 4, size=N), rng.exponential(size=N) + 0.01
    weights = np.asarray(kinds[rng.integers(3)], float)
    weights[rng.integers(5, N + 1) :] = 0
    return Case(scores, decisions, labels, groups, weights)


def numbers(case):
    """Every metric; jitted and mapped over the cases."""
    scores, decisions, labels, groups, weights = case
    conds = {
        name: getattr(notions, name)(groups, labels, n_groups=N_GROUPS, weights=weights)
        for name in STRATA
    }
    parity = conds["demographic_parity"]
    return {
        "accuracy": metrics.accuracy(decisions, labels, weights=weights),
        "balanced_accuracy": metrics.balanced_accuracy(
            decisions, labels, weights=weights
        ),
        "means": {k: metrics.group_means(scores, c) for k, c in conds.items()},
        "gap": {k: metrics.max_gap(decisions, c) for k, c in conds.items()},
        "ratio": {k: metrics.min_ratio(decisions, c) for k, c in conds.items()},
        "ks": {k: metrics.ks_distance(scores, c) for k, c in conds.items()},
        "w1": {k: metrics.wasserstein(scores, c) for k, c in conds.items()},
        "w2": {k: metrics.wasserstein(scores, c, p=2) for k, c in conds.items()},
        "parity_ks": metrics.ks_distance(scores, parity),
        "price": metrics.price_of_fairness(
            scores, groups, n_groups=N_GROUPS, weights=weights
        ),
        "audit": metrics.audit(
            scores, labels, groups, n_groups=N_GROUPS, threshold=0.25, weights=weights
        ),
    }


STRATA = {
    "demographic_parity": lambda case: [np.full(case.labels.shape, True)],
    "equal_opportunity": lambda case: [case.labels == 1],
    "equalized_odds": lambda case: [case.labels == 0, case.labels == 1],
}


@pytest.fixture(scope="module")
def drawn():
    """The cases and, for each, the numbers in double precision."""
    rng = np.random.default_rng(1)
    cases = [draw(rng) for _ in range(CASES)]
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda *fields: np.stack(fields), *cases)
        found = jax.device_get(jax.jit(jax.vmap(numbers))(batch))
    return [
        (case, jax.tree.map(lambda values, i=i: values[i], found))
        for i, case in enumerate(cases)
    ]


def cells(case, inside):
    """Scores, decisions and weights of each occupied cell of a stratum, by group."""
    masks = {g: inside & (case.groups == g) for g in np.unique(case.groups[inside])}
    return {
        g: (case.scores[m], case.decisions[m], case.weights[m])
        for g, m in masks.items()
    }


def ks_by_definition(x, wx, y, wy):
    points = np.concatenate([x, y])
    gaps = [wx[x <= t].sum() / wx.sum() - wy[y <= t].sum() / wy.sum() for t in points]
    return np.abs(gaps).max()


def transport_cost(x, wx, y, wy, p):
    """Cost of the monotone coupling: integral over the levels of both quantiles."""
    ends, values = [], []
    for scores, weights in ((x, wx), (y, wy)):
        order = np.argsort(scores)
        ends.append(np.cumsum(weights[order]) / weights.sum())
        values.append(scores[order])
    # Levels that are equal but for rounding must not split off a step.
    levels = np.unique(np.concatenate([[0], *ends]).round(13))
    middle = (levels[1:] + levels[:-1]) / 2
    at = [np.minimum(np.searchsorted(e, middle), len(e) - 1) for e in ends]
    return np.diff(levels) @ np.abs(values[0][at[0]] - values[1][at[1]]) ** p


def test_gaps_and_ratios_match_their_definitions(drawn):
    for case, found in drawn:
        case = case.kept()
        for name, strata in STRATA.items():
            gaps, ratios = [0.0], [1.0]
            for inside in strata(case):
                rates = [
                    np.average(d, weights=w) for _, d, w in cells(case, inside).values()
                ]
                if len(rates) > 1:
                    gaps.append(max(rates) - min(rates))
                    ratios.append(min(rates) / max(rates) if max(rates) > 0 else 1)
            np.testing.assert_allclose(found["gap"][name], max(gaps), atol=1e-12)
            np.testing.assert_allclose(found["ratio"][name], min(ratios), atol=1e-12)


def test_means_match_their_definition_and_metric_frame(drawn):
    for case, found in drawn:
        case = case.kept()
        for name, strata in STRATA.items():
            for s, inside in enumerate(strata(case)):
                expected = np.zeros(N_GROUPS)
                for g, (x, _, w) in cells(case, inside).items():
                    expected[g] = np.average(x, weights=w)
                np.testing.assert_allclose(
                    found["means"][name][s], expected, atol=1e-12
                )
    for case, found in drawn[:40]:
        case = case.kept()
        frame = fairlearn.metrics.MetricFrame(
            metrics=fairlearn.metrics.selection_rate,
            y_true=case.labels,
            y_pred=(case.scores > 0.25).astype(int),
            sensitive_features=case.groups,
            sample_params={"sample_weight": case.weights},
        )
        rates = found["audit"].selection_rates[frame.by_group.index.to_numpy()]
        expected = [float(np.squeeze(rate)) for rate in frame.by_group]
        np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_accuracies_match_scikit_learn(drawn):
    for case, found in drawn:
        case = case.kept()
        arguments = case.labels, case.decisions
        expected = sklearn.metrics.accuracy_score(
            *arguments, sample_weight=case.weights
        )
        np.testing.assert_allclose(found["accuracy"], expected, atol=1e-12)
        # scikit-learn warns where a label does not occur.
        recalls = [
            np.average(case.decisions[m] == y, weights=case.weights[m])
            for y in (0, 1)
            if (m := case.labels == y).any()
        ]
        np.testing.assert_allclose(
            found["balanced_accuracy"], np.mean(recalls), atol=1e-12
        )
        if len(recalls) == 2:
            expected = sklearn.metrics.balanced_accuracy_score(
                *arguments, sample_weight=case.weights
            )
            np.testing.assert_allclose(found["balanced_accuracy"], expected, atol=1e-12)


def test_gaps_and_ratios_match_metric_frame(drawn):
    compared = 0
    for case, found in drawn:
        case = case.kept()
        gaps, ratios = {}, {}
        for label, inside in (
            ("any", case.labels < 2),
            (0, case.labels == 0),
            (1, case.labels == 1),
        ):
            if inside.sum() < 2:
                continue
            frame = fairlearn.metrics.MetricFrame(
                metrics=fairlearn.metrics.selection_rate,
                y_true=case.labels[inside],
                y_pred=case.decisions[inside],
                sensitive_features=case.groups[inside],
                sample_params={"sample_weight": case.weights[inside]},
            )
            # fairlearn 0.12 makes an array of a group of one and leaves it out.
            if frame.by_group.dtype == float:
                gaps[label] = frame.difference()
                # fairlearn has no number for 0 / 0, which is parity here.
                ratios[label] = np.nan_to_num(frame.ratio(), nan=1.0)
        for name, labels in (
            ("demographic_parity", {"any"}),
            ("equal_opportunity", {1}),
            ("equalized_odds", {0, 1}),
        ):
            if labels <= gaps.keys():
                compared += 1
                gap = max(gaps[label] for label in labels)
                ratio = min(ratios[label] for label in labels)
                np.testing.assert_allclose(found["gap"][name], gap, atol=1e-12)
                np.testing.assert_allclose(found["ratio"][name], ratio, atol=1e-12)
    assert compared > CASES


def test_gaps_and_ratios_match_fairlearn_where_no_cell_is_empty(drawn):
    """fairlearn takes the rate of an empty cell for 0; here the cell is left out."""
    pairs = [(case.kept(), found) for case, found in drawn]
    complete = [
        (case, found)
        for case, found in pairs
        if all(len(set(case.labels[case.groups == g])) == 2 for g in case.groups)
    ]
    assert len(complete) > 20
    for case, found in complete[:20]:
        shared = {"sensitive_features": case.groups, "sample_weight": case.weights}
        for name in STRATA:
            for kind, word in (("gap", "difference"), ("ratio", "ratio")):
                theirs = getattr(fairlearn.metrics, f"{name}_{word}")
                expected = theirs(case.labels, case.decisions, **shared)
                if not np.isnan(expected):
                    mine = found[kind][name]
                    np.testing.assert_allclose(mine, expected, atol=1e-12)


def test_an_empty_cell_is_left_out_where_fairlearn_counts_a_rate_of_zero():
    labels, groups = np.array([1, 1, 0, 1, 0]), np.array([0, 0, 1, 2, 2])
    decisions = np.array([1, 1, 1, 1, 0])
    cond = notions.equal_opportunity(groups, labels, n_groups=3)
    assert metrics.max_gap(decisions, cond) == 0
    theirs = fairlearn.metrics.equal_opportunity_difference(
        labels, decisions, sensitive_features=groups
    )
    assert theirs == 1


def test_score_distances_match_their_definitions_and_scipy(drawn):
    for case, found in drawn:
        case = case.kept()
        for name, strata in STRATA.items():
            ks, costs = [0.0], {1: [0.0], 2: [0.0]}
            for inside in strata(case):
                groups = [(x, w) for x, _, w in cells(case, inside).values()]
                for (x, wx), (y, wy) in itertools.combinations(groups, 2):
                    ks.append(ks_by_definition(x, wx, y, wy))
                    costs[1].append(scipy.stats.wasserstein_distance(x, y, wx, wy))
                    costs[2].append(transport_cost(x, wx, y, wy, 2) ** 0.5)
                    if (
                        min(len(x), len(y)) > 2
                        and (wx == 1).all()
                        and (wy == 1).all()
                        and name == "equal_opportunity"
                    ):
                        statistic = scipy.stats.ks_2samp(x, y, method="asymp").statistic
                        np.testing.assert_allclose(ks[-1], statistic, atol=1e-12)
            np.testing.assert_allclose(found["ks"][name], max(ks), atol=1e-12)
            np.testing.assert_allclose(found["w1"][name], max(costs[1]), atol=1e-12)
            # The root of the rounding of weights, as the docstring says.
            np.testing.assert_allclose(found["w2"][name], max(costs[2]), atol=1e-7)


def test_price_matches_the_pairwise_identity(drawn):
    """On the line the price is `sum_{a<b} p_a p_b W2^2(nu_a, nu_b)`: a variance."""
    for case, found in drawn:
        case = case.kept()
        groups = list(cells(case, case.labels < 2).values())
        total = case.weights.sum()
        expected = sum(
            wx.sum() * wy.sum() / total**2 * transport_cost(x, wx, y, wy, 2)
            for (x, _, wx), (y, _, wy) in itertools.combinations(groups, 2)
        )
        np.testing.assert_allclose(found["price"], expected, atol=1e-10)
        assert (
            found["price"] <= np.cov(case.scores, aweights=case.weights, ddof=0) + 1e-10
        )


def test_audit_gathers_the_other_functions(drawn):
    for case, found in drawn[:50]:
        audit, kept = found["audit"], case.kept()
        decisions = kept.scores > 0.25
        assert audit.ks == found["parity_ks"]
        assert audit.wasserstein == found["w1"]["demographic_parity"]
        expected = np.average(decisions == kept.labels, weights=kept.weights)
        np.testing.assert_allclose(audit.accuracy, expected, atol=1e-12)
        for label, group in itertools.product(range(2), range(N_GROUPS)):
            cell = (kept.labels == label) & (kept.groups == group)
            assert audit.counts[label, group] == cell.sum()
            rate = (
                np.average(decisions[cell], weights=kept.weights[cell])
                if cell.any()
                else 0
            )
            np.testing.assert_allclose(audit.rates[label, group], rate, atol=1e-12)
        occupied = audit.counts > 0
        gaps = [
            np.ptp(audit.rates[y][occupied[y]]) if occupied[y].any() else 0
            for y in (0, 1)
        ]
        np.testing.assert_allclose(audit.equal_opportunity, gaps[1], atol=1e-12)
        np.testing.assert_allclose(audit.equalized_odds, max(gaps), atol=1e-12)
        rates = audit.selection_rates[audit.counts.sum(axis=0) > 0]
        np.testing.assert_allclose(audit.demographic_parity, np.ptp(rates), atol=1e-12)
        ratio = rates.min() / rates.max() if rates.max() > 0 else 1
        np.testing.assert_allclose(audit.demographic_parity_ratio, ratio, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_is_the_least_cost_of_a_coupling(p, rng):
    """The definition itself: a linear program over all couplings."""
    scores, groups = rng.normal(size=14), np.repeat([0, 1], [5, 9])
    weights = rng.exponential(size=14)
    x, y, wx, wy = scores[:5], scores[5:], weights[:5], weights[5:]
    marginals = np.concatenate(
        [np.kron(np.eye(5), np.ones(9)), np.kron(np.ones(5), np.eye(9))]
    )
    program = scipy.optimize.linprog(
        (np.abs(x[:, None] - y) ** p).ravel(),
        A_eq=marginals,
        b_eq=np.concatenate([wx / wx.sum(), wy / wy.sum()]),
    )
    cond = notions.demographic_parity(groups, n_groups=2, weights=weights)
    value = wasserstein(scores, cond, p=p)
    np.testing.assert_allclose(value, program.fun ** (1 / p), rtol=1e-5)


def test_single_precision_at_scale_matches_scipy(rng):
    n = 20_000
    groups = (rng.random(n) < 0.3).astype(int)
    scores = (rng.normal(size=n) + 0.1 * groups).astype(np.float32)
    x, y = scores[groups == 0], scores[groups == 1]
    cond = notions.demographic_parity(groups, n_groups=2)
    expected = scipy.stats.ks_2samp(x, y, method="asymp").statistic
    np.testing.assert_allclose(ks_distance(scores, cond), expected, rtol=1e-5)
    expected = scipy.stats.wasserstein_distance(x, y)
    np.testing.assert_allclose(wasserstein(scores, cond), expected, rtol=1e-5)
    distance = wasserstein(scores, cond, p=2)
    price = price_of_fairness(scores, groups, n_groups=2)
    share = groups.mean()
    np.testing.assert_allclose(price, share * (1 - share) * distance**2, rtol=1e-4)


@pytest.mark.parametrize("metric", [metrics.ks_distance, metrics.wasserstein])
def test_memory_grows_linearly(metric):
    def scratch(n):
        shapes = notions.Conditionals(
            jax.ShapeDtypeStruct((2, 3, n), jnp.float32),
            jax.ShapeDtypeStruct((2, 3), bool),
        )
        scores = jax.ShapeDtypeStruct((n,), jnp.float32)
        compiled = jax.jit(metric).lower(scores, shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Twelve arrays of the size of the weights; one of n x n would take 6 GB.
    assert scratch(40_000) < 12 * 4 * (2 * 3 * 40_000)


def test_equal_distributions_of_unequal_sizes_are_at_distance_zero_exactly(rng):
    atoms = rng.normal(size=7).astype(np.float32)
    scores = np.concatenate([np.tile(atoms, 3), np.tile(atoms, 10), atoms])
    groups = np.repeat([0, 1, 2], [21, 70, 7])
    cond = notions.demographic_parity(groups, n_groups=3)
    assert ks_distance(scores, cond) == 0
    assert wasserstein(scores, cond) == 0
    assert wasserstein(scores, cond, p=2) == 0
    assert price_of_fairness(scores, groups, n_groups=3) < 1e-12


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 3e38])
def test_scores_of_any_scale_keep_their_distances(scale):
    groups = jnp.array([0, 0, 1, 1])
    cond = notions.demographic_parity(groups, n_groups=2)
    scores = jnp.array([0.0, 0.5, 0.5, 1.0]) * scale
    assert ks_distance(scores, cond) == 0.5
    for p in (1, 2):
        value = wasserstein(scores, cond, p=p)
        np.testing.assert_allclose(value, 0.5 * scale, rtol=1e-5)
        slopes = jax.grad(lambda x, p=p: wasserstein(x, cond, p=p))(scores)
        np.testing.assert_allclose(slopes, [-0.5, -0.5, 0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(metrics.max_gap(scores, cond), 0.5 * scale, rtol=1e-5)
    np.testing.assert_allclose(metrics.min_ratio(scores, cond), 1 / 3, rtol=1e-5)
    assert not jnp.isnan(price_of_fairness(scores, groups, n_groups=2))


def test_samples_of_weight_zero_have_no_influence():
    groups, weights = jnp.array([0, 1, 0, 1]), jnp.array([1, 1, 0, 0])
    cond = notions.demographic_parity(groups, n_groups=2, weights=weights)
    scores = jnp.array([1e-3, 3e-3, 3e38, -3e38])
    np.testing.assert_allclose(wasserstein(scores, cond), 2e-3, rtol=1e-5)
    np.testing.assert_allclose(wasserstein(scores, cond, p=2), 2e-3, rtol=1e-5)
    price = price_of_fairness(scores, groups, n_groups=2, weights=weights)
    np.testing.assert_allclose(price, 1e-6, rtol=1e-5)
    assert ks_distance(scores, cond) == 1


def test_nothing_to_compare_reads_as_zero_and_is_not_nan():
    cond = notions.demographic_parity(jnp.array([2, 2]), n_groups=4)
    scores = jnp.array([5.0, 1.0])
    assert metrics.group_means(scores, cond).tolist() == [[0, 0, 3, 0]]
    assert metrics.max_gap(scores, cond) == 0
    assert metrics.min_ratio(scores, cond) == 1
    assert ks_distance(scores, cond) == 0
    assert wasserstein(scores, cond, p=2) == 0
    assert price_of_fairness(scores, jnp.array([2, 2]), n_groups=4) == 0
    everything_masked = jax.jit(
        lambda w: metrics.audit(
            scores, jnp.array([0, 1]), jnp.array([0, 1]), n_groups=2, weights=w
        )
    )(jnp.zeros(2))
    assert everything_masked.accuracy == 0
    assert everything_masked.demographic_parity_ratio == 1
    assert not any(np.isnan(leaf).any() for leaf in everything_masked)


def test_ratio_of_zeros_is_parity_but_zero_to_something_is_not():
    cond = notions.demographic_parity(jnp.array([0, 1]), n_groups=2)
    assert metrics.min_ratio(jnp.array([0, 0]), cond) == 1
    assert metrics.min_ratio(jnp.array([0, 1]), cond) == 0


def test_means_of_the_largest_numbers_do_not_overflow_into_nan():
    cond = notions.demographic_parity(jnp.arange(60) % 2, n_groups=2)
    largest = jnp.full(60, jnp.finfo(jnp.float32).max)
    np.testing.assert_allclose(
        metrics.max_gap(largest, cond) / largest[0], 0, atol=1e-6
    )


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint8, np.int64, np.float16, np.float64]
)
def test_decisions_of_any_type_give_the_same_numbers(dtype, rng):
    decisions, labels = rng.integers(2, size=(2, 30))
    cond = notions.demographic_parity(rng.integers(2, size=30), n_groups=2)
    typed = decisions.astype(dtype)
    assert metrics.max_gap(typed, cond) == metrics.max_gap(decisions, cond)
    expected = (decisions == labels).mean()
    value = metrics.accuracy(typed, labels.astype(dtype))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_half_precision_scores_are_computed_in_single_precision(rng):
    scores = rng.normal(size=2000).astype(np.float16)
    groups = rng.integers(2, size=2000)
    cond = notions.demographic_parity(groups, n_groups=2)
    gap = abs(np.diff([scores[groups == g].astype(float).mean() for g in (0, 1)])[0])
    assert metrics.max_gap(scores, cond).dtype == jnp.float32
    np.testing.assert_allclose(metrics.max_gap(scores, cond), gap, rtol=1e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_gradients_match_finite_differences(ties, rng, x64):
    n = 24
    groups = jnp.array(np.arange(n) % 3)
    scores = rng.normal(size=n)

    def total(scores, logits):
        weights = jax.nn.softmax(logits)
        cond = notions.demographic_parity(groups, n_groups=3, weights=weights)
        price = price_of_fairness(scores, groups, n_groups=3, weights=weights)
        return (
            metrics.max_gap(scores, cond)
            + wasserstein(scores, cond)
            + wasserstein(scores, cond, p=2)
            + price
        )

    slope = jax.jit(jax.grad(total, argnums=(0, 1)))
    if ties:
        for tied in (scores.round(), np.zeros(n)):
            slopes = slope(jnp.array(tied), jnp.zeros(n))
            assert all(np.isfinite(leaf).all() for leaf in slopes)
        return
    point = scores, rng.normal(size=n)
    slopes = slope(*map(jnp.array, point))
    assert np.abs(slopes[1]).max() > 1e-3
    values, shifts = jax.jit(jax.vmap(total)), 1e-6 * np.eye(n)
    for argument in range(2):
        sides = []
        for sign in (1, -1):
            moved = [np.tile(value, (n, 1)) for value in point]
            moved[argument] = moved[argument] + sign * shifts
            sides.append(values(*map(jnp.array, moved)))
        differences = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(slopes[argument], differences, atol=1e-6)


def test_weights_have_a_gradient_where_they_are_equal(x64):
    """Equal weights take a short cut, which must not cut their gradient."""
    scores, groups = jnp.array([0.0, 1.0, 5.0]), jnp.array([0, 0, 1])

    def distance(weights):
        cond = notions.demographic_parity(groups, n_groups=2, weights=weights)
        return wasserstein(scores, cond)

    # The distance is 5 - w1 / (w0 + w1).
    slopes = jax.grad(distance)(jnp.ones(3))
    np.testing.assert_allclose(slopes, [0.25, -0.25, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("accuracy", [[0, 2], [0, 1]], r"`decisions` must be 0 or 1"),
        ("accuracy", [[0, 1], [0, -1]], r"`labels` .* labels\[1\] = -1"),
        ("accuracy", [[1], [0, 1]], "as many entries as `labels`, 2"),
        ("balanced_accuracy", [[0.3, 1], [0, 1]], "Threshold scores"),
        ("balanced_accuracy", [[1], [0, 1]], "as many entries as `labels`, 2"),
        ("group_means", [[1, np.nan]], r"values\[1\] = nan"),
        ("max_gap", [[1]], "as many entries as `groups`, 2"),
        ("min_ratio", [[1, -1]], r"at least 0, but values\[1\] = -1"),
        ("min_ratio", [[1, np.inf]], r"finite, but values\[1\] = inf"),
        ("ks_distance", [[np.inf, 0]], r"scores\[0\] = inf"),
        ("wasserstein", [[0, np.nan]], r"scores\[1\] = nan"),
        ("price_of_fairness", [[0.0], [0, 1]], "as many entries as `groups`, 2"),
        ("price_of_fairness", [[0, 1], [0, 2]], r"groups\[1\] = 2"),
        ("audit", [[0, 1], [1], [0, 1]], "`labels` must have as many"),
        ("audit", [[0], [1, 0], [0, 1]], "`scores` must have as many"),
        ("audit", [[0, 1], [1, 3], [0, 1]], r"labels\[1\] = 3"),
    ],
)
def test_bad_values_raise_and_say_where(name, arrays, message, untyped):
    metric = getattr(metrics, name)
    known = inspect.signature(metric).parameters
    arrays = [np.array(values) for values in arrays]
    if "cond" in known:
        arrays.append(notions.demographic_parity(np.array([0, 1]), n_groups=2))
    with pytest.raises(ValueError, match=message):
        metric(*arrays, **({"n_groups": 2} if "n_groups" in known else {}))


def test_bad_choices_raise(untyped):
    cond = notions.demographic_parity(np.array([0, 1]), n_groups=2)
    with pytest.raises(ValueError, match="`p` must be 1 or 2, but is 3"):
        metrics.wasserstein(np.array([0.0, 1.0]), cond, p=3)
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\), but is 90"):
        metrics.bootstrap(jnp.sum, n=2, key=jax.random.key(0), level=90)
    with pytest.raises(ValueError, match="`draws` must be at least 1, but is 0"):
        metrics.bootstrap(jnp.sum, n=2, key=jax.random.key(0), draws=0)


def test_overlapping_groups_are_refused():
    shared = notions.Conditionals(jnp.full((1, 2, 2), 0.5), jnp.full((1, 2), True))
    with pytest.raises(ValueError, match="sample 0 is in several of stratum 0"):
        metrics.wasserstein(jnp.array([0.0, 1.0]), shared)
    assert ks_distance(jnp.array([0.0, 1.0]), shared) == 0


def test_the_gap_of_losses_is_the_gap_of_risks(rng):
    scores, labels = jnp.array(rng.normal(size=30)), jnp.array(rng.integers(2, size=30))
    cond = notions.equalized_odds(rng.integers(3, size=30), labels, n_groups=3)
    gap = erm.max_risk_gap(scores, labels, cond, loss=erm.logistic)
    np.testing.assert_allclose(
        metrics.max_gap(erm.logistic(scores, labels), cond), gap, rtol=1e-6
    )


def test_bootstrap_matches_the_normal_interval_of_a_mean(rng):
    values = jnp.array(rng.normal(size=400))
    everyone = jnp.zeros(400, jnp.int32)

    def mean(weights):
        cond = notions.demographic_parity(everyone, n_groups=1, weights=weights)
        return metrics.group_means(values, cond)[0, 0]

    low, high = metrics.bootstrap(
        mean, n=400, key=jax.random.key(1), draws=2000, level=0.9
    )
    spread = 1.645 * np.std(values) / 20
    expected = float(np.mean(values)) + float(spread) * np.array([-1, 1])
    np.testing.assert_allclose([low, high], expected, atol=0.1 * spread)


def test_bootstrap_of_an_audit_contains_it(rng):
    scores = rng.normal(size=80)
    labels, groups = rng.integers(2, size=(2, 80))

    def statistic(weights):
        return metrics.audit(scores, labels, groups, n_groups=2, weights=weights)

    @jax.jit
    def both(key):
        return statistic(np.ones(80)), metrics.bootstrap(
            statistic, n=80, key=key, draws=100
        )

    found, interval = both(jax.random.key(0))
    assert interval.low.accuracy < found.accuracy < interval.high.accuracy
    assert (interval.low.rates < found.rates).all()
    assert (interval.high.rates > found.rates).all()
    assert interval.low.ks < interval.high.ks


def test_a_threshold_must_be_a_number():
    labels, groups = np.arange(4) % 2, np.arange(4) // 2
    with pytest.raises(ValueError, match="`threshold` must be finite"):
        metrics.audit(np.ones(4), labels, groups, n_groups=2, threshold=np.nan)
