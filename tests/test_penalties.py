"""Penalties against their definitions and against finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import erm, kernels, notions, orthogonality, penalties
from fairjax.divergences import Potentials, mmd_squared, sinkhorn_info
from tests.divergences import test_mmd as mmd
from tests.divergences import test_sinkhorn as transport

N = 50
NOTIONS = {
    "demographic_parity": lambda labels: [np.full(labels.shape, True)],
    "equal_opportunity": lambda labels: [labels == 1],
    "equalized_odds": lambda labels: [labels == 0, labels == 1],
}


def squared_gaps_by_definition(values, groups, strata, n_groups, weights):
    """Sum over strata and pairs of occupied cells of the squared gap of means."""
    total = 0.0
    for inside in strata:
        cells = [inside & (groups == g) for g in range(n_groups)]
        means = [np.average(values[c], weights=weights[c]) for c in cells if c.any()]
        total += sum((a - b) ** 2 for a, b in itertools.combinations(means, 2))
    return total


def draw(rng, n_groups):
    """With three groups the last is empty; with five, another one has no positives."""
    groups = rng.integers({2: 2, 3: 2, 5: 4}[n_groups], size=N)
    labels = np.where(groups == 3, 0, rng.integers(2, size=N))
    return rng.normal(size=N), labels, groups, rng.exponential(size=N)


@functools.partial(jax.jit, static_argnames=("notion", "n_groups"))
def gaps_with_and_without_weights(scores, labels, groups, weights, *, notion, n_groups):
    found = []
    for mass in (None, weights):
        cond = getattr(notions, notion)(groups, labels, n_groups=n_groups, weights=mass)
        risk = penalties.risk_gap(scores, labels, cond, loss=erm.hinge)
        found.append((penalties.mean_gap(scores, cond), risk))
    return found


@pytest.mark.parametrize("n_groups", [2, 3, 5])
@pytest.mark.parametrize("notion", NOTIONS)
def test_penalties_match_their_definitions(n_groups, notion, rng):
    scores, labels, groups, weights = draw(rng, n_groups)
    losses = np.maximum(0, 1 - (2 * labels - 1) * scores)
    found = gaps_with_and_without_weights(
        scores, labels, groups, weights, notion=notion, n_groups=n_groups
    )
    for values, mass in zip(found, (np.ones(N), weights), strict=True):
        for value, of in zip(values, (scores, losses), strict=True):
            strata = NOTIONS[notion](labels)
            expected = squared_gaps_by_definition(of, groups, strata, n_groups, mass)
            assert expected > 0
            np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_gradients_match_finite_differences(n_groups, rng, x64):
    scores, labels, groups, weights = draw(rng, n_groups)

    @jax.jit
    def slopes_and_differences(scores):
        cond = notions.equalized_odds(
            groups, labels, n_groups=n_groups, weights=weights
        )

        def total(scores):
            risk = penalties.risk_gap(
                scores, jnp.array(labels), cond, loss=erm.logistic
            )
            return penalties.mean_gap(scores, cond) + risk

        # One row per sample: central differences of all of them in one call.
        shifts = 1e-5 * jnp.eye(N)
        ends = jnp.concatenate([scores[None] + shifts, scores[None] - shifts])
        above, below = jnp.split(jax.vmap(total)(ends), 2)
        return jax.grad(total)(scores), above - below

    slopes, differences = slopes_and_differences(scores)
    np.testing.assert_allclose(slopes, differences / 2e-5, rtol=1e-6, atol=1e-9)


def test_penalties_skip_empty_cells_instead_of_comparing_with_zero():
    cond = notions.demographic_parity(jnp.array([0, 1]), n_groups=4)
    assert penalties.mean_gap(jnp.array([5.0, 5.0]), cond) == 0
    alone = notions.demographic_parity(jnp.array([2, 2]), n_groups=4)
    assert penalties.mean_gap(jnp.array([5.0, 1.0]), alone) == 0


def test_mean_gap_of_a_linear_model_is_the_squared_constraint(rng):
    """Two groups: the squared inner product of the coefficients with the mean gap."""
    _, _, groups, _ = draw(rng, 2)
    features, coef = rng.normal(size=(N, 3)), rng.normal(size=3)
    cond = notions.demographic_parity(groups, n_groups=2)
    u = features[groups == 0].mean(axis=0) - features[groups == 1].mean(axis=0)
    value = penalties.mean_gap(jnp.array(features @ coef), cond)
    np.testing.assert_allclose(value, (coef @ u) ** 2, rtol=1e-4)


def mean_distance(x, y, *, x_weights, y_weights):
    """A divergence that insists on one array for both clouds."""
    assert x is y
    means = [weights @ x / weights.sum() for weights in (x_weights, y_weights)]
    return jnp.square(means[0] - means[1]).sum()


def squared_distance(z, weights, one, other):
    """What `mean_distance` says of two cells."""
    means = [np.average(z[c], weights=weights[c], axis=0) for c in (one, other)]
    return np.square(means[0] - means[1]).sum()


@pytest.mark.parametrize("n_groups", [2, 5])
@pytest.mark.parametrize("notion", NOTIONS)
def test_divergence_gap_is_the_sum_over_pairs_of_cells(n_groups, notion, rng, x64):
    _, labels, groups, weights = draw(rng, n_groups)
    z = rng.normal(size=(N, 2))
    expected = np.zeros((len(NOTIONS[notion](labels)), n_groups, n_groups))
    for stratum, inside in enumerate(NOTIONS[notion](labels)):
        cells = [inside & (groups == g) for g in range(n_groups)]
        occupied = [g for g in range(n_groups) if cells[g].any()]
        for g, h in itertools.permutations(occupied, 2):
            expected[stratum, g, h] = squared_distance(z, weights, cells[g], cells[h])
    total = len(expected) * n_groups * (n_groups - 1)

    @jax.jit
    def in_batches(z):
        cond = getattr(notions, notion)(
            groups, labels, n_groups=n_groups, weights=weights
        )
        return [
            penalties.divergence_gap_info(
                z, cond, divergence=mean_distance, batch_size=batch_size
            )
            for batch_size in (None, 1, 4)
        ]

    for info in in_batches(z):
        np.testing.assert_allclose(info.gaps, expected, rtol=1e-9)
        np.testing.assert_allclose(info.value, expected.sum() / 2, rtol=1e-9)
        np.testing.assert_array_equal(info.comparable, expected > 0)
        np.testing.assert_allclose(
            info.missing, 1 - (expected > 0).sum() / total, rtol=1e-6, atol=1e-9
        )


def test_divergence_gap_of_means_is_the_mean_gap(rng):
    scores, labels, groups, weights = draw(rng, 3)
    cond = notions.equalized_odds(groups, labels, n_groups=3, weights=weights)
    scores = jnp.array(scores)
    value = penalties.divergence_gap(scores[:, None], cond, divergence=mean_distance)
    info = penalties.mean_gap_info(scores, cond)
    np.testing.assert_allclose(value, info.value, rtol=1e-4)
    np.testing.assert_allclose(info.missing, 4 / 6, rtol=1e-6)
    np.testing.assert_allclose(info.gaps.sum() / 2, info.value, rtol=1e-6)
    pair = [[False, True, False], [True, False, False], [False] * 3]
    assert info.comparable.tolist() == [pair] * 2


def test_pooled_gap_compares_each_group_with_its_stratum(rng, x64):
    _, _, groups, _ = draw(rng, 3)
    z, ones = rng.normal(size=(N, 2)), np.ones(N)
    cond = notions.demographic_parity(groups, n_groups=3)
    info = penalties.divergence_gap_info(
        jnp.array(z), cond, divergence=mean_distance, pooled=True
    )
    expected = [squared_distance(z, ones, groups == g, groups >= 0) for g in (0, 1)]
    np.testing.assert_allclose(info.gaps[0, :, 0], [*expected, 0], rtol=1e-9)
    np.testing.assert_allclose(info.value, sum(expected), rtol=1e-9)
    assert info.comparable[0, :, 0].tolist() == [True, True, False]
    np.testing.assert_allclose(info.missing, 1 / 3, rtol=1e-6)


def test_cells_that_are_absent_or_too_small_are_left_out_with_finite_slopes(rng):
    groups = jnp.array([0, 0, 0, 1, 1, 2])
    cond = notions.demographic_parity(groups, n_groups=4)
    z = jnp.array(rng.normal(size=(6, 1)), jnp.float32)

    def fragile(x, y, *, x_weights, y_weights):
        """Has no value for a cell of one member, like an unbiased estimate."""
        spread = [1 - jnp.square(w / w.sum()).sum() for w in (x_weights, y_weights)]
        distance = mean_distance(x, y, x_weights=x_weights, y_weights=y_weights)
        return distance / spread[0] / spread[1]

    def value(z):
        info = penalties.divergence_gap_info(z, cond, divergence=fragile, min_members=2)
        return info.value, info

    (_, info), slope = jax.value_and_grad(value, has_aux=True)(z)
    assert np.argwhere(np.array(info.comparable[0])).tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(info.missing, 5 / 6, rtol=1e-6)
    assert info.value > 0
    assert np.isfinite(slope).all()
    assert slope[5] == 0


def test_mmd_gap_is_the_loop_over_pairs_of_subsets(rng, x64):
    """One pass over the kernel serves all pairs; cells too small are left out."""
    _, labels, groups, _ = draw(rng, 5)
    groups[groups == 2] = 0
    groups[:1] = 2  # a cell of one member, for which nothing is unbiased
    z = rng.normal(size=(N, 2)) + groups[:, None]
    kernel = functools.partial(kernels.gaussian, bandwidth=1.0)
    unbiased = functools.partial(mmd_squared, kernel=kernel, unbiased=True)
    table = functools.partial(mmd.gaussian_table, h=1.0)

    @jax.jit
    def gaps(z):
        cond = notions.equalized_odds(groups, labels, n_groups=5)
        return penalties.divergence_gap_info(z, cond, divergence=unbiased)

    info = gaps(z)
    known = set()
    for s, (g, h) in itertools.product((0, 1), itertools.combinations(range(5), 2)):
        cells = [z[(labels == s) & (groups == code)] for code in (g, h)]
        if min(map(len, cells)) >= 2:
            known.add((s, g, h))
            masses = map(np.ones, map(len, cells))
            expected = mmd.by_definition(*cells, *masses, table, unbiased=True)
            np.testing.assert_allclose(info.gaps[s, g, h], expected, rtol=1e-9)
    assert {tuple(at) for at in np.argwhere(np.triu(info.comparable))} == known
    assert 0 < len(known) < 20
    np.testing.assert_allclose(info.missing, 1 - len(known) / 20, rtol=1e-6)


def test_sinkhorn_gaps_tell_their_convergence_and_start_warm(rng):
    _, _, groups, weights = draw(rng, 3)
    z = rng.normal(size=(N, 2)).astype(np.float32)

    @functools.partial(jax.jit, static_argnames="batch_size")
    def gap(z, threshold, potentials=None, batch_size=None):
        cond = notions.demographic_parity(groups, n_groups=3, weights=weights)
        return penalties.divergence_gap_info(
            z,
            cond,
            divergence=functools.partial(
                sinkhorn_info, epsilon=0.3, threshold=threshold
            ),
            batch_size=batch_size,
            potentials=potentials,
        )

    usual = np.float32(3e-4)
    flat = Potentials(*np.zeros((4, 1, 3, N), np.float32))
    info, looped = gap(z, usual, flat), gap(z, usual, batch_size=1)
    assert info.value > 0.01
    np.testing.assert_allclose(info.gaps, looped.gaps, rtol=1e-4)
    # Of the pairs 01, 02, 12 only the first has members on both sides.
    cells = [groups == 0, groups == 1]
    pair = transport.by_definition(*(z[c] for c in cells), *(weights[c] for c in cells),
        0.3)  # fmt: skip
    np.testing.assert_allclose(info.value, pair, rtol=1e-4)
    assert info.details.converged.all()
    assert info.details.iterations.shape == (1, 3, 3)
    assert info.details.iterations[0, 0, 0] > 0
    warm = gap(z, usual, info.details.potentials)
    assert (warm.details.iterations == 0).all()
    # No plan comes as close as this one asks.
    assert not gap(z, np.float32(1e-30), flat).details.converged[0, 0]


@pytest.mark.parametrize("columns", [None, 3])
def test_covariance_matches_its_definition(columns, rng, x64):
    scores, labels, _, weights = draw(rng, 2)
    attribute = rng.normal(size=N if columns is None else (N, columns))
    table = np.column_stack([scores, attribute])
    for mass in (None, weights, labels == 1):
        matrix = np.cov(table.T, aweights=mass, ddof=0)
        value = penalties.covariance(
            jnp.array(scores),
            jnp.array(attribute),
            weights=None if mass is None else jnp.array(mass),
        )
        np.testing.assert_allclose(value, (matrix[0, 1:] ** 2).sum(), rtol=1e-9)


def test_covariance_with_a_binary_attribute_is_the_mean_gap(rng, x64):
    scores, _, groups, _ = draw(rng, 2)
    cond, share = notions.demographic_parity(groups, n_groups=2), groups.mean()
    gap = penalties.mean_gap(jnp.array(scores), cond) * (share * (1 - share)) ** 2
    found = penalties.covariance(jnp.array(scores), jnp.array(groups))
    np.testing.assert_allclose(found, gap, rtol=1e-6)


def test_orthogonality_is_the_mean_gap_of_a_linear_model(rng, x64):
    _, labels, groups, weights = draw(rng, 5)
    features, coef = rng.normal(size=(N, 3)), rng.normal(size=(3, 2))
    cond = notions.equalized_odds(groups, labels, n_groups=5, weights=weights)
    directions = orthogonality.directions(jnp.array(features), cond)
    gaps = [penalties.mean_gap(jnp.array(features @ w), cond) for w in coef.T]
    found = penalties.orthogonality(jnp.array(coef), directions)
    np.testing.assert_allclose(found, sum(gaps), rtol=1e-5)
    single = penalties.orthogonality(jnp.array(coef[:, 0]), directions)
    np.testing.assert_allclose(single, gaps[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda gap, z: gap(z[:3]), "`z` must have as many entries as `groups`, 4"),
        (lambda gap, z: gap(z * np.nan), "`z` must be finite"),
        (lambda gap, z: gap(z, batch_size=0), "`batch_size` must be at least 1"),
        (lambda gap, z: gap(z, min_members=0), "`min_members` must be at least 1"),
        (
            lambda gap, z: penalties.covariance(z[:, 0], z[:2]),
            "`attribute` must have as many entries as `scores`",
        ),
        (
            lambda gap, z: penalties.covariance(z[:, 0], z * np.nan),
            "`attribute` must be finite",
        ),
        (
            lambda gap, z: penalties.orthogonality(jnp.ones(3), jnp.ones((1, 2))),
            "as many features, but have 3 and 2",
        ),
    ],
)
def test_bad_input_is_refused_at_the_door(call, message, untyped):
    cond = notions.demographic_parity(jnp.array([0, 0, 1, 1]), n_groups=2)
    gap = functools.partial(
        penalties.divergence_gap, cond=cond, divergence=mean_distance
    )
    with pytest.raises(ValueError, match=message):
        call(gap, jnp.ones((4, 1)))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64])
def test_whole_numbers_have_the_gap_of_the_same_reals(dtype, rng, untyped):
    """Weights cast to integers would all be 0, and so would every gap."""
    scores, groups = rng.integers(2, size=30), rng.integers(2, size=30)
    cond = notions.demographic_parity(groups, n_groups=2)
    expected = penalties.mean_gap(jnp.asarray(scores, float), cond)
    assert expected > 0
    found = penalties.mean_gap(jnp.asarray(scores.astype(dtype)), cond)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
