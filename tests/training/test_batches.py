"""Stratified batches: what is in them, and what is unbiased over all of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import divergences, erm, kernels, notions, penalties
from fairjax.training import stratified_batches

GROUPS = np.array([0, 0, 1, 0, 1, 1, 0])  # four and three members


def subsets(batches):
    return [tuple(sorted(row)) for row in batches.indices.tolist()]


def all_batches():
    """Two members of each group, in every way."""
    own = [np.flatnonzero(code == GROUPS) for code in (0, 1)]
    pairs = [itertools.combinations(members.tolist(), 2) for members in own]
    return [tuple(sorted(a + b)) for a, b in itertools.product(*pairs)]


@pytest.fixture(scope="module")
def drawn():
    return stratified_batches(
        GROUPS, batch_size=4, key=jax.random.key(0), n_batches=3600
    )


def test_every_possible_batch_is_equally_likely(drawn):
    possible = all_batches()
    assert len(possible) == 18
    found = subsets(drawn)
    assert set(found) == set(possible)
    counts = np.array([found.count(batch) for batch in possible])
    # Standard error of a count of 200 is 14; blocks of one shuffle correlate a little.
    assert np.abs(counts - 200).max() < 60


def unbiased_mmd(z, indices, groups):
    """The penalty of a training loop on some samples."""
    cond = notions.demographic_parity(groups[indices], n_groups=2)
    divergence = functools.partial(
        divergences.mmd_squared,
        kernel=functools.partial(kernels.gaussian, bandwidth=1.0),
        unbiased=True,
    )
    return penalties.divergence_gap(z[indices], cond, divergence=divergence)


def test_gradients_are_unbiased_over_all_batches(drawn, rng, x64):
    """Averaged over every batch that the sampler draws, each counted once."""
    first = {batch: i for i, batch in enumerate(subsets(drawn))}
    rows = np.array(sorted(first.values()))
    indices, weights = drawn.indices[rows], drawn.weights[rows].astype(float)
    assert len(rows) == 18
    z, labels = rng.normal(size=(7, 2)), rng.integers(2, size=7)
    groups = jnp.array(GROUPS)

    def risk(coefficients, indices, weights):
        scores, own = jnp.array(z)[indices] @ coefficients, jnp.array(labels)[indices]
        return erm.empirical_risk(scores, own, loss=erm.logistic, weights=weights)

    slope = jax.jit(jax.vmap(jax.grad(unbiased_mmd), in_axes=(None, 0, None)))
    mean = slope(jnp.array(z), indices, groups).mean(axis=0)
    full = jax.grad(unbiased_mmd)(jnp.array(z), jnp.arange(7), groups)
    np.testing.assert_allclose(mean, full, rtol=1e-10)

    start = jnp.array(rng.normal(size=2))
    slope = jax.jit(jax.vmap(jax.grad(risk), in_axes=(None, 0, 0)))
    full = jax.grad(risk)(start, jnp.arange(7), jnp.ones(7))
    np.testing.assert_allclose(
        slope(start, indices, weights).mean(axis=0), full, rtol=1e-6
    )


def test_batches_share_places_by_size_and_cover_the_data(rng):
    groups = np.repeat([0, 1, 2], [60, 30, 1])
    labels = np.tile([0, 1], 46)[:91]
    batches = stratified_batches(
        groups, labels, batch_size=13, key=jax.random.key(1), min_members=2
    )
    assert batches.indices.shape == batches.weights.shape == (7, 13)
    cells = 2 * groups + labels
    for indices, weights in zip(*batches, strict=True):
        assert len(set(indices.tolist())) == 13
        counts = np.bincount(cells[indices], minlength=6)
        assert counts.tolist() == [4, 4, 2, 2, 1, 0]
        shares = np.bincount(cells[indices], weights, minlength=6)
        np.testing.assert_allclose(shares, np.bincount(cells, minlength=6) / 91)
    # 30 members and four places: seven blocks of one shuffle do not overlap.
    first = batches.indices[:, np.isin(cells[batches.indices[0]], 0)]
    assert len(np.unique(first)) == first.size == 28


def test_the_key_alone_decides():
    draw = [
        stratified_batches(GROUPS, batch_size=4, key=key, n_batches=20).indices
        for key in (jax.random.key(0), jax.random.PRNGKey(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "`batch_size` must be at least 4, for 2 of each of 2"),
        ({"batch_size": 8}, "at most the 7 samples, but is 8"),
        ({"n_batches": 0}, "`n_batches` must be at least 1"),
        ({"min_members": 0}, "`min_members` must be at least 1"),
        ({"labels": np.zeros(3, int)}, "`labels` must have as many entries"),
        ({"labels": np.zeros(7)}, "`labels` must be integer codes"),
        ({"groups": np.zeros(7)}, "`groups` must be integer codes"),
    ],
)
def test_bad_input_is_refused_at_the_door(change, message, untyped):
    given = {"groups": GROUPS, "batch_size": 4, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        stratified_batches(given.pop("groups"), given.pop("labels", None), **given)
