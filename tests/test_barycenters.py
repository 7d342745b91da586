"""The map against its definition in float64, its guarantees, laws and errors."""

import os
import pathlib
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import barycenters as bary
from fairjax import notions

N, G = 120, 3


def tables(scores, groups, weights, n_groups):
    """Per group: distinct scores and their weights, in float64."""
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    result = []
    for s in range(n_groups):
        own = (groups == s) & (weights > 0)
        distinct, inverse = np.unique(
            np.asarray(scores, float)[own], return_inverse=True
        )
        result.append((distinct, np.bincount(inverse, weights[own])))
    total = sum(mass.sum() for _, mass in result)
    return result, [mass.sum() / total for _, mass in result]


def fair_by_midranks(scores, groups, rows, row_groups, n_groups, weights=None):
    """`sum_r p_r Q_r(F_s(x))`, both linear through the mid-ranks."""
    cells, shares = tables(scores, groups, weights, n_groups)
    levels = [(np.cumsum(m) - m / 2) / m.sum() for _, m in cells]
    result = []
    for x, s in zip(np.asarray(rows, float), row_groups, strict=True):
        u = np.interp(x, cells[s][0], levels[s])
        quantiles = [np.interp(u, levels[r], cells[r][0]) for r in range(n_groups)]
        result.append(np.dot(shares, quantiles))
    return np.array(result)


def fair_by_steps(scores, groups, rows, row_groups, n_groups, weights=None):
    """The same with `F(x) = P(score <= x)` and `Q(u) = min {t: F(t) >= u}`."""
    cells, shares = tables(scores, groups, weights, n_groups)
    result = []
    for x, s in zip(np.asarray(rows, float), row_groups, strict=True):
        values, mass = cells[s]
        u = Fraction(mass[values <= x].sum()) / Fraction(mass.sum())
        quantiles = [
            next(
                v
                for v, m in zip(values, np.cumsum(mass), strict=True)
                if Fraction(m) >= u * Fraction(mass.sum())
            )
            for values, mass in cells
        ]
        result.append(np.dot(shares, quantiles))
    return np.array(result)


DEFINITIONS = [(bary.interp, fair_by_midranks), (bary.step, fair_by_steps)]
variants = pytest.mark.parametrize("variant", [bary.interp, bary.step])


def ks(scores, groups):
    """Largest KS distance between two groups, exact."""
    scores = np.asarray(scores)
    at = np.sort(scores)
    cdfs = np.array(
        [
            np.searchsorted(np.sort(scores[groups == s]), at, side="right")
            / np.sum(groups == s)
            for s in np.unique(groups)
        ]
    )
    return np.abs(cdfs[:, None] - cdfs[None]).max()


def draw(rng, n=N, n_groups=G, digits=None):
    groups = np.concatenate([np.arange(n_groups), rng.integers(n_groups, size=n)])[:n]
    scores = rng.normal(size=n) * (1 + groups) + groups
    scores = scores if digits is None else np.round(scores, digits)
    return scores.astype(np.float32), groups


@pytest.fixture
def data(rng):
    return draw(rng)


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
@pytest.mark.parametrize("weighted", [None, "integer", "real"])
@pytest.mark.parametrize("digits", [None, 1])
def test_maps_match_the_definition(variant, definition, weighted, digits, rng):
    scores, groups = draw(rng, digits=digits)
    rows, row_groups = draw(rng, digits=digits)
    weights = {
        None: None,
        "integer": rng.integers(0, 4, size=N) + (np.arange(N) < G),
        "real": rng.random(N).astype(np.float32),
    }[weighted]
    fitted = bary.fit_map(scores, groups, n_groups=G, weights=weights)
    ours = bary.apply_map(fitted, rows, row_groups, variant=variant)
    theirs = definition(scores, groups, rows, row_groups, G, weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6)


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
    assert np.median(mse) == pytest.approx(0.0325, abs=4e-4)
    assert np.subtract(*np.percentile(mse, [75, 25])) < 0.003
    assert np.median(distance) == pytest.approx(0.101, abs=0.01)
    assert np.subtract(*np.percentile(distance, [75, 25])) < 0.04


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
    assert bary.price(constant) < 1e-12
    assert bary.repair_for(constant, unfairness=0.0) in (0, 1)


@variants
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_float32_scores_of_any_scale(variant, scale, data):
    scores, groups = data
    scale = np.float32(scale)

    def fair(scores):
        fitted = bary.fit_map(scores, groups, n_groups=G)
        return bary.apply_map(fitted, scores, groups, variant=variant)

    np.testing.assert_array_equal(fair(scores * scale), scale * fair(scores))


def test_ranks_are_exact_for_a_million_rows(rng):
    n, first = 10**6, 333_333
    order = rng.permutation(n)
    scores = order.astype(np.float32)  # integers below 2^24 are exact
    groups = (order >= first).astype(np.int32)
    fitted = bary.fit_map(scores, groups, n_groups=2)
    fair = np.asarray(bary.apply_map(fitted, scores, groups, variant=bary.step))
    sizes = np.array([first, n - first])
    rank = np.where(groups == 0, order, order - first).astype(np.int64) + 1
    position = [-(-rank * size // sizes[groups]) - 1 for size in sizes]
    shares = (sizes.astype(np.float32) / np.float32(n)).astype(np.float64)
    exact = shares[0] * position[0] + shares[1] * (position[1] + first)
    # One rank is 1/3 or 2/3 of a unit in the result, whose own precision is 0.06.
    assert np.abs(fair - exact).max() <= 0.15


def test_error_on_gaussians_falls_like_root_n():
    mean, std, share = np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([0.4, 0.6])
    levels = (np.arange(99) + 1) / 100
    ranks = np.asarray(jax.scipy.stats.norm.ppf(levels), float)
    rows = np.outer(std, ranks)
    rows = (rows + mean[:, None]).ravel().astype(np.float32)
    truth = np.tile(share @ mean + (share @ std) * ranks, 2)
    row_groups = np.repeat(np.arange(2), len(levels))
    errors, sizes = [], [10**2, 10**3, 10**4, 10**5]

    def error(key, n):
        groups = jnp.asarray(np.arange(n) % 5 >= 2).astype(jnp.int32)
        noise = jax.random.normal(key, (n,))
        scores = jnp.asarray(mean, jnp.float32)[groups]
        scores = scores + jnp.asarray(std, jnp.float32)[groups] * noise
        fitted = bary.fit_map(scores, groups, n_groups=2)
        gap = bary.apply_map(fitted, rows, row_groups) - truth.astype(np.float32)
        return jnp.mean(jnp.square(gap))

    for n, repetitions in zip(sizes, [100, 100, 30, 10], strict=True):
        keys = jax.random.split(jax.random.key(n), repetitions)
        each = jax.jit(lambda keys, n=n: jax.lax.map(lambda k: error(k, n), keys))(keys)
        errors.append(float(jnp.sqrt(jnp.mean(each))))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.06)
    assert errors[-1] < 0.02


@pytest.mark.parametrize(
    ("sizes", "repetitions"),
    [
        ((10, 10), 1000),
        ((10, 100), 1000),
        ((1000, 100), 1000),
        ((10_000, 10_000), 1000),
    ],
)
def test_expected_ks_is_under_the_bound(sizes, repetitions):
    # Rows on a grid of quantiles of the true laws: KS given the data, to 1/500.
    levels = jnp.linspace(0.001, 0.999, 500)
    rows = jnp.concatenate([jax.scipy.stats.norm.ppf(levels), -jnp.log1p(-levels)])
    row_groups = np.repeat(np.arange(2), 500)
    groups = np.repeat(np.arange(2), sizes)

    def distance(key):
        normal, other, split = jax.random.split(key, 3)
        scores = jnp.concatenate(
            [
                jax.random.normal(normal, (sizes[0],)),
                jax.random.exponential(other, (sizes[1],)),
            ]
        )
        fitted = bary.fit_map(scores, groups, n_groups=2, key=split)
        fair = bary.apply_map(fitted, rows, row_groups)
        pair = jnp.sort(fair.reshape(2, -1), axis=1)
        count = jax.vmap(lambda own: jnp.searchsorted(own, fair, side="right"))(pair)
        return jnp.abs(count[0] - count[1]).max() / 500

    def distances(keys):
        return jax.lax.map(distance, keys, batch_size=50)

    keys = jax.random.split(jax.random.key(1), 1000)
    expected = float(jnp.mean(jax.jit(distances)(keys)))
    half = min(sizes) // 2
    # Two empirical cdfs of `half` points by the Dvoretzky-Kiefer-Wolfowitz-Massart
    # inequality, plus one atom each; the paper's form has a larger constant.
    bound = 2 * np.sqrt(np.pi / (2 * half)) + 2 / half
    assert expected <= bound <= 6 / np.sqrt(min(sizes) + 1)


def test_parity_over_the_draw_holds_with_atoms():
    # Given group sizes, ranks of exchangeable scores and jitters are uniform: the laws
    # of g in groups of equal size agree exactly, whatever the scores, even 0 or 1.
    groups = np.repeat(np.arange(2), 6)
    chance = jnp.asarray(np.array([0.2, 0.7])[np.r_[groups, 0, 1]], jnp.float32)

    def once(key):
        draw, fit = jax.random.split(key)
        scores = jax.random.bernoulli(draw, chance).astype(jnp.float32)
        fitted = bary.fit_map(scores[:12], groups, n_groups=2, key=fit)
        ids = jnp.array([100, 101])
        return bary.apply_map(fitted, scores[12:], jnp.array([0, 1]), key=fit, rows=ids)

    keys = jax.random.split(jax.random.key(2), 20_000)
    fair = np.asarray(jax.jit(jax.vmap(once))(keys))
    assert ks(fair.T.ravel(), np.repeat(np.arange(2), len(keys))) < 0.017


@variants
def test_a_row_does_not_see_its_neighbours(variant, data, rng):
    fitted = bary.fit_map(*data, n_groups=G)
    rows, row_groups = draw(rng)
    together = bary.apply_map(fitted, rows, row_groups, variant=variant)
    single = jax.vmap(
        lambda x, s: bary.apply_map(fitted, x[None], s[None], variant=variant)[0]
    )(jnp.asarray(rows), jnp.asarray(row_groups))
    # Programs of another shape may contract products and sums differently.
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    close(single, together)
    only = row_groups == 1  # another group mix in the batch
    alone = bary.apply_map(fitted, rows[only], row_groups[only], variant=variant)
    close(alone, together[only])


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


def test_split_and_jitter_follow_the_paper(data):
    scores, groups = data
    fitted = bary.fit_map(scores, groups, n_groups=G, key=jax.random.key(0), sigma=0.5)
    cdf, quantile = np.asarray(fitted.cdf), np.asarray(fitted.quantile)
    sizes = np.bincount(groups)
    np.testing.assert_array_equal(np.diff(cdf)[:, 0], (sizes + 1) // 2)
    np.testing.assert_array_equal(np.diff(quantile)[:, 0], sizes // 2)
    for s in range(G):
        own = np.sort(scores[groups == s])
        both = [fitted.scores[slice(*bounds[s])] for bounds in (cdf, quantile)]
        moved = np.abs(np.sort(np.concatenate(both)) - own)
        assert 0 < moved.max() <= 0.5
    assert fitted.scores.min() >= scores.min()
    assert fitted.scores.max() <= scores.max()
    np.testing.assert_allclose(fitted.shares, sizes / N, rtol=1e-6)


@pytest.mark.parametrize("randomised", [False, True])
def test_order_is_kept_and_probabilities_stay_probabilities(randomised, rng):
    groups = np.arange(N) % G
    scores = (rng.random(N) ** (1 + groups)).astype(np.float32)
    scores[:9] = [0, 0, 0, 1, 1, 1, 0.5, 0.5, 0.5]
    key = jax.random.key(0) if randomised else None
    fitted = bary.fit_map(scores, groups, n_groups=G, key=key, sigma=0.1)
    rows = np.sort(np.r_[rng.random(N - 20), np.linspace(-1, 2, 20)]).astype(np.float32)
    for variant in [bary.interp, bary.step]:
        for s in range(G):
            fair = bary.apply_map(fitted, rows, np.full(N, s), variant=variant)
            assert np.diff(fair).min() >= (0 if variant is bary.step else -1e-6)
            assert fair.min() >= 0
            assert fair.max() <= 1
            for repair in [0.3, 0.9]:
                inside = np.clip(rows, 0, 1)
                part = bary.apply_map(fitted, inside, np.full(N, s), repair=repair)
                assert part.min() >= 0
                assert part.max() <= 1


@variants
def test_the_mean_is_kept(variant, data):
    scores, groups = data
    fitted = bary.fit_map(scores, groups, n_groups=G)
    fair = bary.apply_map(fitted, scores, groups, variant=variant)
    tolerance = np.ptp(scores) / np.bincount(groups).min()
    assert abs(fair.mean() - scores.mean()) <= tolerance


def test_repair_is_the_geodesic(rng):
    groups = np.arange(N) % G
    scores = (rng.normal(size=N) * (1 + groups) + groups).astype(np.float32)
    fitted = bary.fit_map(scores, groups, n_groups=G)
    whole = float(bary.price(fitted))

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
    rebuilt = bary.BarycenterMap(*map(jnp.asarray, map(np.asarray, fitted)))
    again = bary.apply_map(rebuilt, scores, groups, variant=variant)
    np.testing.assert_array_equal(again, loop[-1])


def test_gradients_equal_finite_differences(x64, rng):
    groups = np.concatenate([np.arange(G), rng.integers(G, size=30)])
    row_groups = rng.integers(G, size=9)
    scores, rows = rng.normal(size=33), rng.normal(size=9)

    @jax.jit
    def objective(scores, rows, repair):
        fitted = bary.fit_map(scores, groups, n_groups=G)
        fair = bary.apply_map(fitted, rows, row_groups, repair=repair)
        own = bary.apply_map(fitted, scores, groups, repair=repair)
        return jnp.sum(jnp.sin(fair)) + jnp.sum(jnp.cos(own)) + bary.price(fitted)

    point = (jnp.asarray(scores), jnp.asarray(rows), jnp.asarray(0.7))
    gradients = jax.grad(objective, argnums=(0, 1, 2))(*point)
    for argument, gradient in enumerate(gradients):
        for at in np.ndindex(np.shape(gradient)):
            ends = []
            for h in (1e-6, -1e-6):
                moved = list(point)
                moved[argument] = point[argument].at[at].add(h)
                ends.append(float(objective(*moved)))
            assert float(gradient[at]) == pytest.approx(
                (ends[0] - ends[1]) / 2e-6, abs=1e-6
            )


@pytest.mark.parametrize("randomised", [False, True])
def test_gradients_are_finite_with_ties(randomised, rng):
    scores, groups = draw(rng, digits=0)
    key = jax.random.key(0) if randomised else None

    def objective(scores, repair):
        fitted = bary.fit_map(scores, groups, n_groups=G, key=key)
        fair = bary.apply_map(fitted, scores, groups, repair=repair, key=key)
        return jnp.sum(jnp.square(fair))

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    for repair in [0.0, 0.5, 1.0]:
        both = gradient(jnp.asarray(scores), repair)
        assert all(np.all(np.isfinite(g)) for g in both)
    own = gradient(jnp.asarray(scores), 0.0)[0]
    np.testing.assert_allclose(own, 2 * scores, rtol=1e-6)


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
    weights = rng.integers(0, 4, size=N) + (np.arange(N) < G)
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


def test_every_dtype_and_number_of_groups(x64, rng):
    scores, groups = draw(rng, n=60)
    rows, row_groups = draw(rng, n=60)
    exact = fair_by_midranks(scores, groups, rows, row_groups, G)
    for dtype, tolerance in [(np.float64, 1e-12), (np.float32, 1e-5)]:
        fitted = bary.fit_map(scores.astype(dtype), groups, n_groups=G)
        fair = bary.apply_map(fitted, rows.astype(dtype), row_groups)
        assert fair.dtype == dtype
        np.testing.assert_allclose(fair, exact, atol=tolerance)
    many = np.arange(60) * 300  # beyond the packed sort
    sparse = np.full(20_000, 0.0)
    sparse[many] = 1.0
    fitted = bary.fit_map(
        np.zeros(20_000, np.float32) + sparse.astype(np.float32),
        np.arange(20_000),
        n_groups=20_000,
    )
    assert np.diff(np.asarray(fitted.cdf)).tolist() == [[1]] * 20_000


def test_trouble_inside_jit_is_nan_in_exactly_those_rows(data):
    scores, groups = data
    fit = jax.jit(lambda x, s, n=G: bary.fit_map(x, s, n_groups=n), static_argnums=2)
    apply = jax.jit(lambda m, x, s, t: bary.apply_map(m, x, s, repair=t))
    whole = fit(scores, groups)
    rows = jnp.array([0.0, jnp.nan, 1.0, jnp.inf, 2.0, -1.0])
    row_groups = jnp.array([0, 1, 7, 2, -1, 1])
    fair = apply(whole, rows, row_groups, 1.0)
    assert np.isnan(fair).tolist() == [False, True, True, True, True, False]
    assert np.isnan(apply(whole, rows, row_groups, 1.5)).all()
    empty = fit(scores, groups, G + 1)
    ours = apply(empty, rows[::2], jnp.array([0, G, 1]), 1.0)
    assert np.isnan(ours).tolist() == [False, True, False]
    np.testing.assert_allclose(ours[0], fair[0], rtol=1e-6)
    broken = fit(jnp.asarray(scores).at[5].set(jnp.nan), groups)
    assert np.isnan(apply(broken, rows, row_groups, 1.0)).all()
    negative = jax.jit(lambda w: bary.fit_map(scores, groups, n_groups=G, weights=w))(
        jnp.ones(N).at[3].set(-1)
    )
    assert np.isnan(apply(negative, rows, row_groups, 1.0)).all()
    # A calibration row of unknown group belongs to no group.
    other = fit(
        scores,
        jnp.asarray(groups).at[3:].set(jnp.where(groups[3:] == 2, 9, groups[3:])),
    )
    assert np.isfinite(apply(other, rows[:1], row_groups[:1], 1.0)).all()


def errors(data):
    scores, groups = data
    fit, apply = bary.fit_map, bary.apply_map
    fitted = fit(scores, groups, n_groups=G)
    hollow = jax.jit(lambda x, s: fit(x, s, n_groups=G + 1))(scores, groups)
    nan = np.where(np.arange(N) == 3, np.nan, scores).astype(np.float32)
    sketch = bary.sketch_init(np.linspace(0, 1, 5), n_groups=G)
    return {
        r"groups\[0\] = 5": lambda: apply(fitted, scores[:1], np.array([5])),
        r"groups\[1\] = 3 is a group without": lambda: apply(
            hollow, scores[:2], np.array([0, 3])
        ),
        "group 3 has no calibration row": lambda: fit(scores, groups, n_groups=G + 1),
        "group 2 has no calibration row": lambda: fit(
            scores, groups, n_groups=G, weights=groups < 2
        ),
        r"weights\[0\] = -1": lambda: fit(
            scores, groups, n_groups=G, weights=np.where(np.arange(N) == 0, -1.0, 1.0)
        ),
        r"`scores` must be finite, but scores\[3\]": lambda: fit(
            nan, groups, n_groups=G
        ),
        r"but scores\[3\] = nan": lambda: apply(fitted, nan, groups),
        "`repair` must lie in": lambda: apply(fitted, scores, groups, repair=1.01),
        "`repair` must lie": lambda: apply(fitted, scores, groups, repair=float("nan")),
        "asks for jitter": lambda: apply(fitted, scores, groups, key=jax.random.key(0)),
        "`sigma` must be at least 0": lambda: fit(
            scores, groups, n_groups=G, sigma=-1.0
        ),
        "hold 1 to": lambda: fit(scores[:0], groups[:0], n_groups=G),
        "exactly one": lambda: bary.repair_for(fitted),
        "`unfairness` must be at least": lambda: bary.repair_for(
            fitted, unfairness=-1.0
        ),
        "increase strictly": lambda: bary.sketch_init(np.zeros(3), n_groups=2),
        "equal `edges`": lambda: bary.sketch_merge(
            sketch, bary.sketch_init(np.linspace(0, 2, 5), n_groups=G)
        ),
        r"code|codes": lambda: bary.sketch_update(sketch, scores[:1], np.array([9])),
    }


def test_errors_say_which_where_and_what_to_do(data):
    for message, call in errors(data).items():
        with pytest.raises(ValueError, match=message):
            call()


def test_sequence_is_fair_to_each_and_its_order_does_not_matter(rng):
    n = 20_000
    first, second = rng.integers(2, size=n), rng.integers(3, size=n)
    scores = rng.normal(size=n) + first + 0.5 * second  # independent shifts
    scores = scores.astype(np.float32)
    forward = bary.fit_sequence(scores, [first, second], sizes=[2, 3])
    fair = bary.apply_sequence(forward, scores, [first, second])
    backward = bary.fit_sequence(scores, [second, first], sizes=[3, 2])
    other = bary.apply_sequence(backward, scores, [second, first])
    assert ks(scores, first) > 0.3
    assert max(ks(fair, first), ks(fair, second)) < 0.025
    assert np.sqrt(np.mean((fair - other) ** 2)) < 0.04 * np.std(scores)
    half = bary.apply_sequence(forward, scores, [first, second], repair=0.5)
    np.testing.assert_allclose(half, (scores + fair) / 2, rtol=1e-5, atol=1e-5)
    joint, n_groups = notions.intersect([first, second], sizes=[2, 3])
    together = bary.fit_map(scores, joint, n_groups=n_groups)
    inter = bary.apply_map(together, scores, joint)
    assert ks(inter, np.asarray(joint)) < 0.002
    assert np.sqrt(np.mean((inter - fair) ** 2)) < 0.05 * np.std(scores)


def test_sketch_merges_and_keeps_its_stated_error(rng):
    n, chunks = 4000, 4
    scores = rng.lognormal(size=n).astype(np.float32)
    groups = np.concatenate([np.arange(G), rng.integers(G, size=n - G)])
    edges = np.unique(np.quantile(scores[:1000], np.linspace(0, 1, 65)[1:-1]))
    empty = bary.sketch_init(edges.astype(np.float32), n_groups=G)
    update = jax.jit(bary.sketch_update)
    parts = [
        update(empty, x, s)
        for x, s in zip(np.split(scores, chunks), np.split(groups, chunks), strict=True)
    ]
    a, b, c, d = parts
    merge = bary.sketch_merge
    left, right = merge(merge(merge(a, b), c), d), merge(merge(d, c), merge(b, a))
    np.testing.assert_array_equal(left.counts, right.counts)
    np.testing.assert_allclose(left.offsets, right.offsets, rtol=1e-5)
    once = update(empty, scores, groups)
    np.testing.assert_array_equal(left.counts, once.counts)
    fitted = bary.fit_sketch(left)
    error = np.asarray(bary.sketch_error(left))
    assert error.max() < 0.06
    np.testing.assert_allclose(fitted.shares, np.bincount(groups) / n, rtol=1e-6)
    for s in range(G):  # the sketch's own F, read off the table, at the true scores
        own = np.sort(scores[groups == s])
        true = (np.arange(len(own)) + 0.5) / len(own)
        table = slice(*np.asarray(fitted.cdf)[s])
        knots, mass = np.asarray(fitted.scores[table]), np.asarray(fitted.mass[table])
        size = np.diff(mass, prepend=0)
        midranks = (mass - size / 2) / mass[-1]
        assert np.abs(np.interp(own, knots, midranks) - true).max() <= error[s]
        steps = np.r_[0, mass][np.searchsorted(knots, own, side="right")] / mass[-1]
        assert np.abs(steps - true).max() <= error[s] / 1.5 + 0.5 / len(own)
    full = bary.apply_map(bary.fit_map(scores, groups, n_groups=G), scores, groups)
    ours = bary.apply_map(fitted, scores, groups)
    inside = (scores > edges[0]) & (scores < edges[-1])
    assert np.abs(ours - full)[inside].mean() < 0.02
    np.testing.assert_allclose(ours.mean(), scores.mean(), rtol=0.02)


def test_sketch_is_merged_across_devices_and_reports_trouble(rng):
    edges = np.linspace(0, 1, 33).astype(np.float32)
    scores, groups = (
        rng.random((4, 50)).astype(np.float32),
        rng.integers(2, size=(4, 50)),
    )
    empty = bary.sketch_init(edges, n_groups=2)

    def device(x, s):
        part = bary.sketch_update(empty, x, s)
        return part._replace(
            counts=jax.lax.psum(part.counts, "device"),
            offsets=jax.lax.psum(part.offsets, "device"),
        )

    spread = jax.vmap(device, axis_name="device")(scores, groups)
    whole = bary.sketch_update(empty, scores.ravel(), groups.ravel())
    np.testing.assert_array_equal(spread.counts[0], whole.counts)
    np.testing.assert_allclose(spread.offsets[0], whole.offsets, atol=1e-6)
    bad = jax.jit(bary.sketch_update)(whole, jnp.array([jnp.nan]), jnp.array([1]))
    fitted = jax.jit(bary.fit_sketch)(bad)
    assert np.isnan(fitted.shares).all()
    unknown = jax.jit(bary.sketch_update)(whole, jnp.array([0.5]), jnp.array([9]))
    np.testing.assert_array_equal(unknown.counts, whole.counts)
    doubled = bary.sketch_update(
        empty, scores.ravel(), groups.ravel(), weights=np.full(200, 2.0, np.float32)
    )
    np.testing.assert_array_equal(doubled.counts, 2 * whole.counts)


def test_lengths_that_differ_are_refused(data):
    scores, groups = data
    fitted = bary.fit_map(scores, groups, n_groups=G)
    # The run-time type checks of the test suite see it before the function does.
    with pytest.raises((ValueError, TypeError)):
        bary.fit_map(scores, groups[:2], n_groups=G)
    with pytest.raises((ValueError, TypeError)):
        bary.apply_map(fitted, scores[:2], groups)


def test_gradient_at_a_calibration_score_is_the_slope_above_it():
    scores, groups = np.array([0.0, 1, 2, 4], np.float32), np.array([0, 0, 1, 1])
    fitted = bary.fit_map(scores, groups, n_groups=2)
    row = lambda x: bary.apply_map(fitted, x[None], jnp.array([0]))[0]  # noqa: E731
    assert jax.grad(row)(jnp.float32(0)) == 1.5
    assert jax.grad(row)(jnp.float32(0.5)) == 1.5
    assert jax.grad(row)(jnp.float32(2)) == 0
