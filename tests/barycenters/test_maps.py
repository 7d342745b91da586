"""The map against its definition in float64, its laws, its transforms, its errors."""

import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fairjax import barycenters as bary
from fairjax import metrics
from fairjax.arrays import ranks
from tests.reference import barycenters as definitions
from tests.reference.barycenters import G, N, draw, ks

DEFINITIONS = [
    (bary.interp, definitions.fair_by_midranks),
    (bary.step, definitions.fair_by_steps),
]
variants = pytest.mark.parametrize("variant", [bary.interp, bary.step])
MASSES = [None, "integer", "real"]


def mass(kind, rng):
    """Weights with zeros, in which every group still has members."""
    return {
        None: None,
        "integer": rng.integers(0, 4, size=N) + (np.arange(N) < G),
        "real": rng.exponential(size=N).astype(np.float32),
    }[kind]


@pytest.fixture
def data(rng):
    return draw(rng)


@pytest.fixture
def untyped():
    """As users run it: without the shape checks that would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def crime():
    folder = os.environ.get("FAIRJAX_DATA_DIR")
    if not folder:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    read = lambda name: np.loadtxt(pathlib.Path(folder, "crime_rf", name + ".csv"))  # noqa: E731
    return {
        "scores": read("RF_YLF").astype(np.float32),
        "groups": read("SL").astype(int),
        "rows": read("RF_YTF").astype(np.float32),
        "row_groups": read("ST").astype(int),
        "labels": read("RF_YTT"),
    }


@pytest.mark.parametrize(("variant", "definition"), DEFINITIONS)
@pytest.mark.parametrize("weighted", MASSES)
@pytest.mark.parametrize("digits", [None, 1])
def test_maps_match_the_definition(variant, definition, weighted, digits, rng):
    scores, groups = draw(rng, digits=digits)
    rows, row_groups = draw(rng, digits=digits)
    weights = mass(weighted, rng)
    fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
    ours = bary.apply_map(fitted, rows, row_groups, variant=variant)
    theirs = definition(scores, groups, rows, row_groups, G, weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_randomised_map_matches_the_definition(split, sigma, rng):
    """Algorithm 1, given its split and its jitter: ranks by counting, in float64."""
    scores, groups = draw(rng, digits=0)
    fitted = bary.fit_map(
        scores, groups, n_groups=G, key=jax.random.key(0), sigma=sigma, split=split
    )
    cdf, quantile = np.asarray(fitted.cdf), np.asarray(fitted.quantile)
    sizes = np.bincount(groups)
    halves = [(sizes + 1) // 2, sizes // 2] if split else [sizes, sizes]
    np.testing.assert_array_equal(np.diff(cdf)[:, 0], halves[0])
    np.testing.assert_array_equal(np.diff(quantile)[:, 0], halves[1])
    np.testing.assert_allclose(fitted.shares, sizes / N, rtol=1e-6)
    bits = ranks.random_bits(jax.random.key(0), jnp.arange(N))
    moved, ties = map(
        np.asarray, ranks.jitter(jnp.asarray(scores), jnp.float32(sigma), bits)
    )
    assert np.abs(moved - scores).max() <= sigma
    assert np.unique(moved).size > (100 if sigma else 1)
    entries = np.stack([moved.astype(float), ties], axis=1)
    table = np.stack([np.asarray(fitted.scores, float), fitted.ties], axis=1)
    expected = np.zeros(N)
    for s, r in np.ndindex(G, G):
        own, other = table[slice(*cdf[s])], table[slice(*quantile[r]), 0]
        members = entries[groups == s]
        assert {*map(tuple, own)} <= {*map(tuple, members)}
        rank = np.array([sum(tuple(z) <= tuple(e) for z in own) for e in members])
        at = np.maximum(-(-rank * len(other) // len(own)), 1) - 1
        expected[groups == s] += sizes[r] / N * other[at]
    # The key and the rows of the fit reproduce its jitter.
    fair = bary.apply_map(fitted, scores, groups, key=jax.random.key(0))
    expected = np.clip(expected, scores.min(), scores.max())
    np.testing.assert_allclose(fair, expected, rtol=1e-5, atol=5e-6)


@variants
def test_crime_deterministic(variant, crime):
    before = np.mean((crime["rows"] - crime["labels"]) ** 2)
    assert before == pytest.approx(0.0141, abs=5e-5)
    assert ks(crime["rows"], crime["row_groups"]) == pytest.approx(0.602, abs=5e-4)
    fitted = bary.fit_map(crime["scores"], crime["groups"], n_groups=2)
    fair = bary.apply_map(fitted, crime["rows"], crime["row_groups"], variant=variant)
    assert np.mean((fair - crime["labels"]) ** 2) == pytest.approx(0.0323, abs=2e-4)
    assert ks(fair, crime["row_groups"]) <= 0.0902


def test_crime_randomised(crime):
    def once(key):
        fitted = bary.fit_map(crime["scores"], crime["groups"], n_groups=2, key=key)
        rows = jnp.arange(len(crime["rows"])) + len(crime["scores"])
        return bary.apply_map(
            fitted, crime["rows"], crime["row_groups"], key=key, rows=rows
        )

    keys = jax.random.split(jax.random.key(0), 200)
    fair = np.asarray(jax.jit(jax.vmap(once))(keys))
    mse = np.mean((fair - crime["labels"]) ** 2, axis=1)
    distance = [ks(f, crime["row_groups"]) for f in fair]
    # Measured: medians 0.0325 and 0.101, quartiles 0.0315-0.0335 and 0.092-0.118.
    # A median of 200 is known to about a tenth of the distance of the quartiles.
    np.testing.assert_allclose(
        np.percentile(mse, [25, 50, 75]), [0.0315, 0.0325, 0.0335], atol=4e-4
    )
    np.testing.assert_allclose(
        np.percentile(distance, [25, 50, 75]), [0.092, 0.101, 0.118], atol=0.008
    )


def test_crime_ties_need_jitter(crime):
    rounded, groups = np.round(crime["scores"], 1), crime["groups"]
    key = jax.random.key(0)
    fitted = bary.fit_map(rounded, groups, n_groups=2, key=key, split=False)
    assert ks(bary.apply_map(fitted, rounded, groups, key=key), groups) <= 0.002
    plain = bary.fit_map(rounded, groups, n_groups=2)
    assert ks(bary.apply_map(plain, rounded, groups), groups) > 0.2


@variants
def test_groups_of_equal_size_become_equal(variant, rng):
    groups = np.arange(N) % G
    scores = (rng.normal(size=N) + groups).astype(np.float32)
    fitted = bary.fit_map(scores, groups, n_groups=G)
    fair = bary.apply_map(fitted, scores, groups, variant=variant)
    # Up to the last bit, on which the groups may cross by one member.
    assert ks(scores, groups) > 0.3
    assert ks(np.round(fair, 5), groups) <= G / N + 1e-6
    np.testing.assert_allclose(fair.mean(), scores.mean(), atol=1e-5)


@pytest.mark.parametrize("randomised", [False, True])
def test_group_with_one_member_and_constant_scores(randomised, data):
    key = jax.random.key(0) if randomised else None
    groups = np.where(np.arange(N) == 7, 2, np.arange(N) % 2)
    fitted = bary.fit_map(data[0], groups, n_groups=G, key=key)
    fair = np.asarray(bary.apply_map(fitted, data[0], groups, key=key))
    # Both large groups shrink to their shares; the one member counts for everybody.
    assert np.isfinite(fair).all()
    share, alone = np.bincount(groups)[:2] / N, data[0][7] / N
    others = [fitted.scores[slice(*np.asarray(fitted.quantile)[s])] for s in (0, 1)]
    top = sum(p * np.max(q) for p, q in zip(share, others, strict=True)) + alone
    assert fair.max() == pytest.approx(float(top), rel=1e-5)
    constant = bary.fit_map(np.full(N, 3, np.float32), groups, n_groups=G, key=key)
    fair = bary.apply_map(constant, data[0], groups, key=key)
    np.testing.assert_array_equal(fair, np.full(N, 3, np.float32))
    assert bary.excess_risk(constant) == 0
    assert bary.repair_for(constant, unfairness=0.0) == 0
    assert bary.repair_for(constant, excess_risk=0.0) == 1


@variants
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20, 2.0**120])
def test_float32_scores_of_any_scale(variant, scale, data):
    scores, groups = data
    scale = np.float32(scale)

    def fair(scores):
        fitted = bary.fit_map(scores, groups, n_groups=G)
        return bary.apply_map(fitted, scores, groups, variant=variant)

    np.testing.assert_array_equal(fair(scores * scale), scale * fair(scores))
    fitted = bary.fit_map(scores, groups, n_groups=G)
    scaled = bary.fit_map(scores * scale, groups, n_groups=G)
    wanted = bary.excess_risk(fitted) / 9
    np.testing.assert_allclose(bary.repair_for(fitted, unfairness=wanted), 2 / 3)
    if scale < 2.0**60:  # of which the square is still a number
        found = bary.repair_for(scaled, unfairness=wanted * scale**2)
        np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)


@pytest.mark.parametrize(("variant", "definition"), DEFINITIONS)
def test_the_largest_numbers_do_not_overflow(variant, definition, rng):
    largest = np.finfo(np.float32).max
    scores = rng.choice([-largest, -1, 0, largest / 2, largest], size=N)
    scores, groups = scores.astype(np.float32), np.arange(N) % G
    # No group vanishes beside others; powers of two, for exact sums on both sides.
    weights = np.array([2.0**-100, 1.0, 2.0**100])[groups]
    fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
    exact = definition(scores, groups, scores, groups, G, weights)
    for t in [0.0, 0.3, 0.5, 1.0]:
        fair = bary.apply_map(fitted, scores, groups, repair=t, variant=variant)
        expected = (1 - t) * scores.astype(float) + t * exact
        np.testing.assert_allclose(fair, expected, rtol=1e-5, atol=1e-5 * largest)
    assert not np.isnan(bary.excess_risk(fitted))


@variants
@pytest.mark.parametrize("weighted", MASSES)
def test_a_row_does_not_see_its_neighbours(variant, weighted, data, rng):
    fitted = bary.fit_map(*data, n_groups=G, weights=mass(weighted, rng))
    rows, row_groups = draw(rng)
    together = bary.apply_map(fitted, rows, row_groups, variant=variant)
    # Another mix of groups and other scores in the rest of the batch.
    only = row_groups == 1
    others, other_groups = draw(rng)
    others[only], other_groups[only] = rows[only], 1
    mixed = bary.apply_map(fitted, others, other_groups, variant=variant)
    np.testing.assert_array_equal(mixed[only], together[only])
    order = rng.permutation(N)
    shuffled = bary.apply_map(fitted, rows[order], row_groups[order], variant=variant)
    np.testing.assert_array_equal(shuffled, together[order])


@variants
def test_a_row_alone_gets_the_same_answer(variant, data, rng):
    fitted = bary.fit_map(*data, n_groups=G)
    rows, row_groups = draw(rng)
    together = bary.apply_map(fitted, rows, row_groups, variant=variant)
    single = jax.vmap(
        lambda x, s: bary.apply_map(fitted, x[None], s[None], variant=variant)[0]
    )(jnp.asarray(rows), jnp.asarray(row_groups))
    # Programs of another shape may contract products and sums differently.
    np.testing.assert_allclose(single, together, rtol=1e-6, atol=1e-6)


def test_jitter_belongs_to_the_row(rng):
    scores, groups = draw(rng, digits=0)
    key, ids = jax.random.key(0), rng.permutation(10**6)[:N]
    fitted = bary.fit_map(scores, groups, n_groups=G, key=key, sigma=0.1)
    together = bary.apply_map(fitted, scores, groups, key=key, rows=ids)
    some = rng.permutation(N)
    shuffled = bary.apply_map(
        fitted, scores[some], groups[some], key=key, rows=ids[some]
    )
    np.testing.assert_array_equal(shuffled, together[some])
    # With sigma = 0 a score that equals no calibration score needs no identifier.
    fitted = bary.fit_map(scores, groups, n_groups=G, key=key)
    fresh = scores + np.float32(0.25)
    together = bary.apply_map(fitted, fresh, groups, key=key)
    shuffled = bary.apply_map(fitted, fresh[some], groups[some], key=key)
    np.testing.assert_array_equal(shuffled, together[some])


@pytest.mark.parametrize("weighted", [*MASSES, "randomised"])
def test_order_is_kept_and_probabilities_stay_probabilities(weighted, rng):
    groups = np.arange(N) % G
    scores = (rng.random(N) ** (1 + groups)).astype(np.float32)
    scores[:9] = [0, 0, 0, 1, 1, 1, 0.5, 0.5, 0.5]
    arguments = (
        {"key": jax.random.key(0), "sigma": 0.1}
        if weighted == "randomised"
        else {"weights": mass(weighted, rng)}
    )
    fitted = bary.fit_map(scores, groups, n_groups=G, **arguments)
    rows = np.sort(np.r_[rng.random(N - 20), np.linspace(-1, 2, 20)]).astype(np.float32)
    inside = np.clip(rows, 0, 1)
    for variant in [bary.interp, bary.step]:
        for s in range(G):
            own = np.full(N, s)
            fair = bary.apply_map(fitted, rows, own, variant=variant)
            assert np.diff(fair).min() >= (0 if variant is bary.step else -1e-6)
            for repair in [0.3, 0.9, 1.0]:
                part = bary.apply_map(
                    fitted, inside, own, repair=repair, variant=variant
                )
                assert part.min() >= 0
                assert part.max() <= 1
    if weighted == "randomised":
        fair = bary.apply_map(fitted, inside, groups, key=jax.random.key(1))
        assert fair.min() >= 0
        assert fair.max() <= 1


@variants
@pytest.mark.parametrize("weighted", MASSES)
@pytest.mark.parametrize("digits", [None, 0])
def test_the_mean_is_kept(variant, weighted, digits, rng):
    scores, groups = draw(rng, digits=digits)
    weights = mass(weighted, rng)
    fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
    fair = bary.apply_map(fitted, scores, groups, variant=variant)
    cells, _ = definitions.tables(scores, groups, weights, G)
    largest = max((own / own.sum()).max() for _, own in cells)
    gap = np.average(fair, weights=weights) - np.average(scores, weights=weights)
    assert abs(gap) <= np.ptp(scores) * largest


@pytest.mark.parametrize("weighted", MASSES)
def test_price_is_the_variance_around_the_barycenter(weighted, rng):
    """By plain integration of the quantile functions; ties and weights are exact."""
    scores, groups = draw(rng, digits=0)
    weights = mass(weighted, rng)
    fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
    cells, shares = definitions.tables(scores, groups, weights, G)
    ends = [np.cumsum(own) / own.sum() for _, own in cells]
    levels = np.unique(np.concatenate([[0], *ends]).round(12))
    middle = (levels[1:] + levels[:-1]) / 2
    quantiles = np.array(
        [
            values[np.searchsorted(e, middle)]
            for (values, _), e in zip(cells, ends, strict=True)
        ]
    )
    around = np.square(quantiles - shares @ quantiles)
    expected = shares @ around @ np.diff(levels)
    assert bary.excess_risk(fitted) == pytest.approx(expected, rel=1e-5)
    other = metrics.price_of_fairness(scores, groups, n_groups=G, weights=weights)
    assert other == pytest.approx(expected, rel=1e-5)


def test_repair_is_the_geodesic(rng):
    groups = np.arange(N) % G
    scores = (rng.normal(size=N) * (1 + groups) + groups).astype(np.float32)
    fitted = bary.fit_map(scores, groups, n_groups=G)
    whole = float(bary.excess_risk(fitted))

    def variance(scores):  # W2 variance; for equal sizes, mean over sorted members
        return np.var([np.sort(scores[groups == s]) for s in range(G)], axis=0).mean()

    assert whole == pytest.approx(variance(scores), rel=1e-5)
    for t in [0.0, 0.25, 1.0]:
        moved = np.asarray(bary.apply_map(fitted, scores, groups, repair=t))
        assert np.mean((moved - scores) ** 2) == pytest.approx(t**2 * whole, rel=1e-4)
        left = variance(moved) / whole
        assert left == pytest.approx((1 - t) ** 2, rel=1e-4, abs=1e-6)
    start = bary.apply_map(fitted, scores, groups, repair=0.0)
    np.testing.assert_array_equal(start, scores)
    half = bary.repair_for(fitted, excess_risk=whole / 4)
    np.testing.assert_allclose(half, 0.5, rtol=1e-5)
    wanted = jnp.array([0.0, whole / 4, 2 * whole])
    found = jax.jit(lambda w: bary.repair_for(fitted, unfairness=w))(wanted)
    np.testing.assert_allclose(found, [1, 0.5, 0], rtol=1e-5)


@variants
def test_jit_and_vmap_agree_with_loops_and_trace_once(variant, data):
    scores, groups = data
    fitted = bary.fit_map(scores, groups, n_groups=G)
    traces = []

    @jax.jit
    def both(scores, repair):
        traces.append(1)
        fitted = bary.fit_map(scores, groups, n_groups=G)
        return bary.apply_map(fitted, scores, groups, repair=repair, variant=variant)

    repairs = jnp.linspace(0, 1, 5)
    loop = [
        bary.apply_map(fitted, scores, groups, repair=r, variant=variant)
        for r in repairs
    ]
    swept = jax.vmap(both, in_axes=(None, 0))(jnp.asarray(scores), repairs)
    np.testing.assert_allclose(swept, np.stack(loop), rtol=1e-6, atol=1e-6)
    alone = [both(jnp.asarray(scores), r) for r in repairs]
    np.testing.assert_allclose(np.stack(alone), np.stack(loop), rtol=1e-6, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("randomised", [False, True])
def test_a_map_is_saved_and_loaded(randomised, data, tmp_path):
    key = jax.random.key(0) if randomised else None
    fitted = bary.fit_map(*data, n_groups=G, key=key)
    np.savez(tmp_path / "map.npz", **fitted._asdict())
    loaded = bary.BarycenterMap(**np.load(tmp_path / "map.npz"))
    pickled = pickle.loads(pickle.dumps(jax.device_get(fitted)))
    expected = bary.apply_map(fitted, *data, key=key)
    for other in (loaded, pickled):
        fair = bary.apply_map(other, *data, key=key)
        np.testing.assert_array_equal(fair, expected)


def test_gradients_equal_finite_differences(x64, rng):
    n, k = 20, 6
    groups = np.concatenate([np.arange(G), rng.integers(G, size=n - G)])
    row_groups = rng.integers(G, size=k)
    scores, rows = rng.normal(size=n), rng.normal(size=k)

    def objective(scores, rows, repair):
        fitted = bary.fit_map(scores, groups, n_groups=G)
        fair = bary.apply_map(fitted, rows, row_groups, repair=repair)
        wanted = bary.repair_for(fitted, unfairness=0.01)
        return jnp.sum(jnp.sin(fair)) + bary.excess_risk(fitted) + wanted

    point = (jnp.asarray(scores), jnp.asarray(rows), jnp.asarray(0.7))
    gradients = jax.jit(jax.grad(objective, argnums=(0, 1, 2)))(*point)
    value, step = jax.jit(objective), 1e-6
    for argument, gradient in enumerate(gradients):
        for at in np.ndindex(np.shape(gradient)):
            ends = []
            for h in (step, -step):
                moved = list(point)
                moved[argument] = point[argument].at[at].add(h)
                ends.append(float(value(*moved)))
            difference = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient[at]) == pytest.approx(difference, abs=1e-6)


@pytest.mark.parametrize("randomised", [False, True])
def test_gradients_are_finite_with_ties(randomised, rng):
    scores, groups = draw(rng, digits=0)
    key = jax.random.key(0) if randomised else None

    def objective(scores, repair):
        fitted = bary.fit_map(scores, groups, n_groups=G, key=key)
        fair = bary.apply_map(fitted, scores, groups, repair=repair, key=key)
        return jnp.sum(jnp.square(fair)) + bary.repair_for(fitted, unfairness=0.0)

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    for point in [scores, np.zeros_like(scores)]:
        for repair in [0.0, 0.5, 1.0]:
            both = gradient(jnp.asarray(point), repair)
            assert all(np.all(np.isfinite(g)) for g in both)
    own = gradient(jnp.asarray(scores), 0.0)[0]
    np.testing.assert_allclose(own, 2 * scores, rtol=1e-6)


def test_gradient_at_a_calibration_score_is_the_slope_above_it():
    scores, groups = np.array([0.0, 1, 2, 4], np.float32), np.array([0, 0, 1, 1])
    fitted = bary.fit_map(scores, groups, n_groups=2)
    row = jax.jit(
        jax.grad(lambda x: bary.apply_map(fitted, x[None], jnp.array([0]))[0])
    )
    assert row(jnp.float32(0)) == 1.5
    assert row(jnp.float32(0.5)) == 1.5
    assert row(jnp.float32(2)) == 0


def test_gradient_in_the_weights_is_refused(data):
    scores, groups = data

    def shares(weights):
        fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
        return jnp.sum(jnp.square(fitted.shares))

    with pytest.raises(TypeError, match="repetitions"):
        jax.grad(shares)(jnp.ones(N))


@variants
def test_weights_count_as_repetitions_and_masks_as_subsets(variant, rng):
    scores, groups = draw(rng, digits=1)
    weights = mass("integer", rng)
    rows, row_groups = draw(rng, digits=1)

    def fair(scores, groups, weights=None):
        fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
        return bary.apply_map(fitted, rows, row_groups, variant=variant)

    weighted = fair(scores, groups, weights)
    repeated = fair(np.repeat(scores, weights), np.repeat(groups, weights))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6, atol=1e-6)
    scaled = fair(scores, groups, weights.astype(np.float32) * np.float32(1e-30))
    np.testing.assert_allclose(scaled, repeated, rtol=1e-5, atol=1e-5)
    mask = weights > 0
    masked, subset = fair(scores, groups, mask), fair(scores[mask], groups[mask])
    np.testing.assert_allclose(masked, subset, rtol=1e-6, atol=1e-6)


def test_trouble_inside_jit_is_nan_in_exactly_those_rows(data):
    scores, groups = data

    @jax.jit
    def fit(scores, groups, weights, sigma):
        key = jax.random.key(0)
        return bary.fit_map(
            scores, groups, n_groups=G, weights=weights, sigma=sigma, key=key
        )

    apply = jax.jit(lambda m, x, s, t: bary.apply_map(m, x, s, repair=t))
    good = (jnp.asarray(scores), jnp.asarray(groups), jnp.ones(N), 0.0)
    rows = jnp.array([0.0, jnp.nan, 1.0, jnp.inf, 2.0, -1.0])
    row_groups = jnp.array([0, 1, 7, 2, -1, 1])
    fair = apply(fit(*good), rows, row_groups, 1.0)
    assert np.isnan(fair).tolist() == [False, True, True, True, True, False]
    for repair in (1.5, -0.1, jnp.nan):
        assert np.isnan(apply(fit(*good), rows, row_groups, repair)).all()
    # A group without calibration rows, and rows that belong to no group.
    for argument, value in [(1, jnp.where(good[1] == 2, 9, good[1])), (2, good[1] < 2)]:
        hollow = list(good)
        hollow[argument] = value.astype(good[argument].dtype)
        ours = apply(fit(*hollow), jnp.zeros(6), jnp.array([0, 2, 1, 2, 0, 1]), 1.0)
        assert np.isnan(ours).tolist() == [False, True, False, True, False, False]
    for argument, value in [
        (0, good[0].at[5].set(jnp.nan)),
        (0, good[0].at[5].set(-jnp.inf)),
        (2, good[2].at[3].set(-1)),
        (2, good[2].at[3].set(jnp.inf)),
        (3, -1.0),
        (3, jnp.nan),
    ]:
        broken = list(good)
        broken[argument] = value
        assert np.isnan(apply(fit(*broken), rows, row_groups, 1.0)).all()
        assert np.isnan(bary.excess_risk(fit(*broken)))
    # Of weight 0, a row may hold anything.
    masked = fit(good[0].at[5].set(jnp.nan), good[1], good[2].at[5].set(0), 0.0)
    assert np.isnan(apply(masked, rows, row_groups, 1.0)).sum() == 4


def errors(data):
    scores, groups = data
    fit, apply = bary.fit_map, bary.apply_map
    fitted = fit(scores, groups, n_groups=G)
    hollow = jax.jit(lambda x, s: fit(x, s, n_groups=G + 1))(scores, groups)
    nan = np.where(np.arange(N) == 3, np.nan, scores).astype(np.float32)
    infinite = np.where(np.arange(N) == 4, np.inf, scores).astype(np.float32)
    negative = np.where(np.arange(N) == 0, -1.0, 1.0)
    return {
        r"groups\[0\] = 5": lambda: apply(fitted, scores[:1], np.array([5])),
        r"groups\[1\] = 3 is a group without": lambda: apply(
            hollow, scores[:2], np.array([0, 3])
        ),
        r"groups\[2\] = 2": lambda: fit(scores, groups, n_groups=2),
        "group 3 has no calibration row": lambda: fit(scores, groups, n_groups=G + 1),
        "group 2 has no calibration row": lambda: fit(
            scores, groups, n_groups=G, weights=groups < 2
        ),
        r"weights\[0\] = -1": lambda: fit(scores, groups, n_groups=G, weights=negative),
        "`weights` must have as many entries as": lambda: fit(
            scores, groups, n_groups=G, weights=np.ones(2)
        ),
        r"`scores` must be finite, but scores\[3\]": lambda: fit(
            nan, groups, n_groups=G
        ),
        r"scores\[4\] = inf": lambda: fit(infinite, groups, n_groups=G),
        r"but scores\[3\] = nan": lambda: apply(fitted, nan, groups),
        r"but scores\[4\] = inf": lambda: apply(fitted, infinite, groups),
        "`groups` must have as many entries as `scores`, 120, but has 2": lambda: fit(
            scores, groups[:2], n_groups=G
        ),
        "as many entries as `scores`, 2, but has 120": lambda: apply(
            fitted, scores[:2], groups
        ),
        r"`repair` must lie in \[0, 1\], but is 1.01": lambda: apply(
            fitted, scores, groups, repair=1.01
        ),
        "`repair` must lie": lambda: apply(fitted, scores, groups, repair=float("nan")),
        "asks for jitter": lambda: apply(fitted, scores, groups, key=jax.random.key(0)),
        "`sigma` must be at least 0": lambda: fit(
            scores, groups, n_groups=G, sigma=-1.0
        ),
        "`sigma` must be finite": lambda: fit(
            scores, groups, n_groups=G, sigma=float("inf")
        ),
        "hold 1 to": lambda: fit(scores[:0], groups[:0], n_groups=G),
        "`scores` must have one number": lambda: fit(
            scores[:, None], groups, n_groups=G
        ),
        "`scores` must have one number per": lambda: apply(
            fitted, scores[:, None], groups
        ),
        "`repair` must be one number": lambda: apply(
            fitted, scores, groups, repair=np.array([0.5, 1.0])
        ),
        "exactly one": lambda: bary.repair_for(fitted),
        "`unfairness` must be at least": lambda: bary.repair_for(
            fitted, unfairness=-1.0
        ),
    }


def test_errors_say_which_where_and_what_to_do(data, untyped):
    for message, call in errors(data).items():
        with pytest.raises(ValueError, match=message):
            call()
