"""Notions against their definitions: loops over samples, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import notions

N, N_GROUPS, N_STRATA = 40, 4, 3
JITTED = {
    "demographic_parity": jax.jit(
        notions.demographic_parity, static_argnames="n_groups"
    ),
    "equal_opportunity": jax.jit(notions.equal_opportunity, static_argnames="n_groups"),
    "equalized_odds": jax.jit(notions.equalized_odds, static_argnames="n_groups"),
}
STRATA = {
    "demographic_parity": lambda labels: [np.full(labels.shape, True)],
    "equal_opportunity": lambda labels: [labels == 1],
    "equalized_odds": lambda labels: [labels == 0, labels == 1],
}


def rows_by_definition(groups, strata, n_groups, weights):
    """Weight of each sample of a cell over the weight of the cell."""
    rows = np.zeros((len(strata), n_groups, len(groups)))
    for s, inside in enumerate(strata):
        for g in range(n_groups):
            total = sum(
                float(weights[i])
                for i in range(len(groups))
                if inside[i] & (groups[i] == g)
            )
            for i in range(len(groups)):
                if inside[i] and groups[i] == g and total > 0:
                    rows[s, g, i] = float(weights[i]) / total
    return rows


def draw(rng):
    """A random case; group 2 has no positives and group 3 is often empty."""
    groups = rng.integers(rng.integers(3, N_GROUPS + 1), size=N)
    labels = np.where(groups == 2, 0, rng.integers(2, size=N))
    return groups, labels, rng.exponential(size=N).astype(np.float32)


@pytest.mark.parametrize("name", STRATA)
@pytest.mark.parametrize("kind", ["none", "weights", "mask", "integers"])
def test_notions_match_their_definitions(name, kind, rng):
    for _ in range(10):
        groups, labels, mass = draw(rng)
        weights = {
            "none": None,
            "weights": mass,
            "mask": rng.random(N) < 0.5,
            "integers": rng.integers(3, size=N),
        }[kind]
        expected = rows_by_definition(
            groups,
            STRATA[name](labels),
            N_GROUPS,
            np.ones(N) if weights is None else weights,
        )
        cond = JITTED[name](groups, labels, n_groups=N_GROUPS, weights=weights)
        np.testing.assert_allclose(cond.weights, expected, rtol=1e-6)
        np.testing.assert_array_equal(cond.occupied, expected.sum(axis=-1) > 0)
        eager = getattr(notions, name)(
            groups, labels, n_groups=N_GROUPS, weights=weights
        )
        np.testing.assert_allclose(eager.weights, expected, rtol=1e-6)


def test_conditional_parity_matches_its_definition(rng):
    jitted = jax.jit(
        notions.conditional_parity, static_argnames=("n_groups", "n_strata")
    )
    for _ in range(10):
        groups, _, mass = draw(rng)
        strata = rng.integers(-1, N_STRATA + 1, size=N)
        masks = [strata == s for s in range(N_STRATA)]
        cond = jitted(
            groups, strata, n_groups=N_GROUPS, n_strata=N_STRATA, weights=mass
        )
        expected = rows_by_definition(groups, masks, N_GROUPS, mass)
        np.testing.assert_allclose(cond.weights, expected, rtol=1e-6)
        outside = (strata < 0) | (strata >= N_STRATA)
        assert not np.asarray(cond.weights)[..., outside].any()


@pytest.mark.parametrize("name", STRATA)
def test_a_mask_equals_leaving_samples_out(name, rng):
    groups, labels, mass = draw(rng)
    keep = rng.random(N) < 0.6
    notion = getattr(notions, name)
    masked = notion(groups, labels, n_groups=N_GROUPS, weights=np.where(keep, mass, 0))
    subset = notion(groups[keep], labels[keep], n_groups=N_GROUPS, weights=mass[keep])
    np.testing.assert_allclose(masked.weights[..., keep], subset.weights, rtol=1e-6)
    np.testing.assert_array_equal(masked.occupied, subset.occupied)
    assert not np.asarray(masked.weights)[..., ~keep].any()


def test_group_codes_may_be_boolean():
    groups = np.array([False, True, True])
    cond = notions.demographic_parity(groups, n_groups=2)
    assert cond.weights.tolist() == [[[1, 0, 0], [0, 0.5, 0.5]]]
    chance = notions.equal_opportunity(groups, groups, n_groups=2)
    assert chance.weights.tolist() == [[[0, 0, 0], [0, 0.5, 0.5]]]
    odds = notions.equalized_odds(groups, ~groups, n_groups=2)
    assert odds.weights.tolist() == [[[0, 0, 0], [0, 0.5, 0.5]], [[1, 0, 0], [0, 0, 0]]]


def test_small_integer_codes_do_not_wrap_around():
    groups = np.array([0, 255], np.uint8)
    cond = notions.demographic_parity(groups, n_groups=300)
    assert np.flatnonzero(cond.occupied[0]).tolist() == [0, 255]


@pytest.mark.parametrize("scale", [1e38, 1e-37])
def test_weights_of_any_scale_keep_their_proportions(scale):
    weights = (scale * np.array([1, 3, 2, 2, 2])).astype(np.float32)
    cond = notions.demographic_parity(
        np.array([0, 0, 1, 1, 1]), n_groups=2, weights=weights
    )
    expected = [[[0.25, 0.75, 0, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]]]
    np.testing.assert_allclose(cond.weights, expected, rtol=1e-6)
    assert cond.occupied.all()


def test_codes_out_of_range_belong_to_no_group_inside_jit():
    groups = jnp.array([0, 7, 1, -1])
    cond = JITTED["demographic_parity"](groups, n_groups=2)
    assert cond.weights.tolist() == [[[1, 0, 0, 0], [0, 0, 1, 0]]]


def test_all_masked_inside_jit_is_empty_and_not_nan():
    cond = JITTED["equalized_odds"](
        jnp.array([0, 1]), jnp.array([0, 1]), n_groups=2, weights=jnp.zeros(2)
    )
    assert not cond.weights.any()
    assert not cond.occupied.any()


def test_demographic_parity_does_not_read_labels():
    groups = jnp.array([0, 1, 1])
    with_labels = notions.demographic_parity(groups, jnp.array([1, 0, 1]), n_groups=2)
    without = notions.demographic_parity(groups, n_groups=2)
    np.testing.assert_array_equal(with_labels.weights, without.weights)


def test_intersect_matches_ravel_multi_index(rng):
    sizes = [3, 2, 4]
    attributes = [rng.integers(size, size=N) for size in sizes]
    codes, n_groups = notions.intersect(attributes, sizes=sizes)
    assert n_groups == 24
    np.testing.assert_array_equal(codes, np.ravel_multi_index(attributes, sizes))


def test_intersect_leaves_combinations_without_members_empty():
    codes, n_groups = notions.intersect(
        [np.array([0, 1, 1]), np.array([0, 0, 1])], sizes=[2, 2]
    )
    cond = notions.demographic_parity(codes, n_groups=n_groups)
    assert cond.occupied.tolist() == [[True, False, True, True]]


@pytest.mark.parametrize(
    ("groups", "weights", "message"),
    [
        ([0, 1, 2], None, r"codes in \[0, 2\), but groups\[2\] = 2"),
        ([0, -1, 1], None, r"groups\[1\] = -1"),
        ([0.0, 1.0, 1.0], None, "integer codes, but its dtype is float"),
        ([0, 1, 1], [1.0, -2.0, 1.0], r"not be negative, but weights\[1\] = -2"),
        ([0, 1, 1], [1.0, np.nan, 1.0], r"finite, but weights\[1\] = nan"),
        ([0, 1, 1], [0.0, 0.0, 0.0], "must have a positive entry"),
        ([0, 1, 1], [0.0, 1e-39, 0.0], "an entry of at least 1.2e-38"),
    ],
)
def test_bad_values_raise_and_say_where(groups, weights, message):
    weights = None if weights is None else np.array(weights)
    with pytest.raises(ValueError, match=message):
        notions.demographic_parity(np.array(groups), n_groups=2, weights=weights)


@pytest.mark.parametrize(
    ("attributes", "sizes", "message"),
    [
        ([[0, 1]], [2, 2], "there are 1 and 2"),
        ([], [], "at least one"),
        ([[0, 3]], [2], r"attributes\[1\] = 3"),
        ([[0], [0, 1]], [2, 2], r"as many entries as `attributes\[0\]`, 1, but has 2"),
        (
            [[0]] * 12,
            [10] * 12,
            "must have a product that 32 bits hold",
        ),
    ],
)
def test_intersect_refuses_bad_attributes(attributes, sizes, message, untyped):
    with pytest.raises(ValueError, match=message):
        notions.intersect([np.array(a) for a in attributes], sizes=sizes)


def test_double_precision_stays_double(x64, rng):
    groups, labels, _ = draw(rng)
    weights = rng.exponential(size=N)
    cond = notions.equalized_odds(groups, labels, n_groups=N_GROUPS, weights=weights)
    assert cond.weights.dtype == jnp.float64
    expected = rows_by_definition(
        groups, STRATA["equalized_odds"](labels), N_GROUPS, weights
    )
    np.testing.assert_allclose(cond.weights, expected, rtol=1e-14)


@pytest.mark.parametrize("name", STRATA)
def test_memberships_match_their_definition(name, rng):
    for kind in (np.float16, np.float32, np.float64):
        likely = rng.dirichlet(np.ones(N_GROUPS), size=N)
        likely[:, 1] *= likely[:, 1] > 0.1
        likely = (likely / likely.sum(axis=1, keepdims=True)).astype(kind)
        labels, mass = rng.integers(2, size=N), rng.exponential(size=N)
        expected = []
        for inside in STRATA[name](labels):
            rows = (likely.astype(float) * (mass * inside)[:, None]).T
            expected.append(rows / rows.sum(axis=1, keepdims=True))
        given = jnp.asarray(likely), jnp.asarray(labels)
        options = {"n_groups": N_GROUPS, "weights": jnp.asarray(mass, jnp.float32)}
        for notion in (getattr(notions, name), JITTED[name]):
            cond = notion(*given, **options)
            np.testing.assert_allclose(cond.weights, expected, rtol=1e-5, atol=1e-8)
            assert cond.occupied.all()


def test_memberships_times_small_weights_do_not_vanish():
    likely = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    for scale in (1, 2.0**-126):
        mass = np.full(2, scale, np.float32)
        cond = notions.demographic_parity(likely, n_groups=2, weights=mass)
        np.testing.assert_array_equal(cond.weights[0], likely.T)
        assert cond.occupied.all()


def test_sure_memberships_are_codes(rng):
    groups, labels, mass = draw(rng)
    sure = np.eye(N_GROUPS)[groups]
    for name in STRATA:
        notion, options = JITTED[name], {"n_groups": N_GROUPS, "weights": mass}
        found, expected = (notion(g, labels, **options) for g in (sure, groups))
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)
        np.testing.assert_array_equal(found.occupied, expected.occupied)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [[0.5, 0.5, 0.0]],
            r"each of 2 groups, shape \(n, 2\), but has shape \(1, 3\)",
        ),
        ([[0.5, 0.6]], "rows sum to 1, but row 0 sums to 1.1"),
        ([[0.5, 0.5], [0.5, np.nan]], "must not be NaN, but row 1 is"),
        ([[-0.5, 1.5]], r"must be at least 0, but groups\[0, 0\] = -0.5"),
        ([[np.inf, 0.0]], r"must be finite, but groups\[0, 0\] = inf"),
    ],
)
def test_bad_memberships_are_refused(groups, message, untyped):
    with pytest.raises(ValueError, match=message):
        notions.demographic_parity(np.array(groups), n_groups=2)


def test_bias_of_memberships_is_the_covariance_given_what_is_known(x64):
    """All of a population of 3 x 2 x 2 kinds: what is known, the group, the value."""
    known = np.array([0.2, 0.5, 0.3])
    member = np.array([0.9, 0.4, 0.2])  # P(S = 1 | Z)
    by_known = np.array([0.3, 0.6, 0.8])
    by_group = np.array([[0.1, 0.5], [0.6, 0.6], [0.9, 0.4]])  # P(f = 1 | Z, S)
    z, s, f = np.indices((3, 2, 2)).reshape(3, -1)
    likely = np.stack([1 - member, member], axis=1)
    for chance in (np.stack([by_known] * 2, axis=1), by_group):
        share = known[z] * likely[z, s] * np.where(f, chance[z, s], 1 - chance[z, s])
        means = {}
        for kind, groups in (("codes", s), ("memberships", likely[z])):
            cond = notions.demographic_parity(groups, n_groups=2, weights=share)
            means[kind] = np.asarray(cond.weights[0]) @ f
        within = (likely * chance).sum(axis=1)
        covariance = likely * chance - likely * within[:, None]
        bias = known @ covariance / (known @ likely)
        np.testing.assert_allclose(
            means["codes"] - means["memberships"], bias, atol=1e-12
        )
        assert (np.abs(bias) > 0.01).all() == (chance is by_group)


def test_unknown_codes_stay_unknown_when_joined():
    joined = jax.jit(lambda a, b: notions.intersect([a, b], sizes=[2, 2])[0])
    a, b = jnp.array([1, 0, 2, 1, 1]), jnp.array([-1, 3, 0, 1, 2**31 - 1])
    assert joined(a, b).tolist() == [-1, -1, -1, 3, -1]


def test_labels_of_minus_one_and_one_are_not_two_strata():
    groups = np.array([0, 1, 0, 1])
    for labels in (np.array([-1, -1, 1, 1]), jnp.array([-1.0, -1.0, 1.0, 1.0])):
        with pytest.raises(ValueError, match="are -1 and 1: .* Map -1 to 0"):
            notions.equalized_odds(groups, labels, n_groups=2)
    # An unknown label among known ones is compared with nobody.
    cond = notions.equalized_odds(groups, np.array([-1, 0, 0, 1]), n_groups=2)
    assert cond.occupied.tolist() == [[True, True], [False, True]]
