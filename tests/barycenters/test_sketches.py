"""Sketches: sums of chunks, with the stated error, on several devices."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fairjax import barycenters
from tests.reference.barycenters import G

N, CHUNKS = 4000, 4


@pytest.fixture
def untyped():
    """As users run it: without the shape checks that would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def data(rng):
    scores = rng.lognormal(size=N).astype(np.float32)
    groups = np.concatenate([np.arange(G), rng.integers(G, size=N - G)])
    edges = np.unique(np.quantile(scores[:1000], np.linspace(0, 1, 65)[1:-1]))
    return scores, groups, edges.astype(np.float32)


def chunked(scores, groups, edges):
    empty = barycenters.init_sketch(edges, n_groups=G)
    chunks = zip(np.split(scores, CHUNKS), np.split(groups, CHUNKS), strict=True)
    return [barycenters.update_sketch(empty, x, s) for x, s in chunks]


def test_merging_in_any_order_equals_one_pass(data):
    scores, groups, edges = data
    a, b, c, d = chunked(*data)
    merge = barycenters.merge_sketches
    left, right = merge(merge(merge(a, b), c), d), merge(merge(d, c), merge(b, a))
    np.testing.assert_array_equal(left.counts, right.counts)
    np.testing.assert_allclose(left.offsets, right.offsets, rtol=1e-5)
    once = barycenters.update_sketch(
        barycenters.init_sketch(edges, n_groups=G), scores, groups
    )
    np.testing.assert_array_equal(left.counts, once.counts)
    np.testing.assert_allclose(left.offsets, once.offsets, rtol=1e-5)
    added = a
    for x, s in zip(np.split(scores, 4)[1:], np.split(groups, 4)[1:], strict=True):
        added = barycenters.update_sketch(added, x, s)
    np.testing.assert_array_equal(added.counts, once.counts)


def test_the_map_has_the_stated_error(data):
    scores, groups, edges = data
    a, b, c, d = chunked(*data)
    sketch = barycenters.merge_sketches(
        barycenters.merge_sketches(a, b), barycenters.merge_sketches(c, d)
    )
    fitted, error = (
        barycenters.fit_map_from_sketch(sketch),
        np.asarray(barycenters.sketch_rank_error(sketch)),
    )
    assert error.max() < 0.06
    np.testing.assert_allclose(fitted.shares, np.bincount(groups) / N, rtol=1e-6)
    for s in range(G):  # the sketch's own F and Q, read off the table
        own = np.sort(scores[groups == s])
        true = (np.arange(len(own)) + 0.5) / len(own)
        table = slice(*np.asarray(fitted.cdf)[s])
        knots, mass = np.asarray(fitted.scores[table]), np.asarray(fitted.mass[table])
        size = np.diff(mass, prepend=0)
        midranks = (mass - size / 2) / mass[-1]
        assert np.abs(np.interp(own, knots, midranks) - true).max() <= error[s]
        steps = np.r_[0, mass][np.searchsorted(knots, own, side="right")] / mass[-1]
        assert np.abs(steps - true).max() <= error[s] / 1.5 + 0.5 / len(own)
        # `Q` of the k-th of n members at (k - 1/2) / n: in the same bin as the member.
        found = knots[np.searchsorted(mass / mass[-1], true)]
        bins = np.searchsorted(edges, own, side="right")
        inner = (bins > 0) & (bins < len(edges))
        widths = np.diff(edges)[bins[inner] - 1]
        assert (np.abs(found - own)[inner] <= widths).all()
    full = barycenters.fit_map(scores, groups, n_groups=G)
    inside = (scores > edges[0]) & (scores < edges[-1])
    exact = np.asarray(barycenters.apply_map(full, scores, groups))
    ours = np.asarray(barycenters.apply_map(fitted, scores, groups))
    assert np.abs(ours - exact)[inside].mean() < 0.02
    np.testing.assert_allclose(ours.mean(), scores.mean(), rtol=0.02)


def test_sketches_are_summed_across_devices(rng):
    edges = np.linspace(0, 1, 33).astype(np.float32)
    scores = rng.random((4, 50)).astype(np.float32)
    groups = rng.integers(2, size=(4, 50))
    empty = barycenters.init_sketch(edges, n_groups=2)

    def device(x, s):
        part = barycenters.update_sketch(empty, x, s)
        return part._replace(
            counts=jax.lax.psum(part.counts, "device"),
            offsets=jax.lax.psum(part.offsets, "device"),
        )

    spread = jax.vmap(device, axis_name="device")(scores, groups)
    whole = barycenters.update_sketch(empty, scores.ravel(), groups.ravel())
    np.testing.assert_array_equal(spread.counts[0], whole.counts)
    np.testing.assert_allclose(spread.offsets[0], whole.offsets, atol=1e-6)
    weights = np.full(200, 2.0, np.float32)
    doubled = barycenters.update_sketch(
        empty, scores.ravel(), groups.ravel(), weights=weights
    )
    np.testing.assert_array_equal(doubled.counts, 2 * whole.counts)


def test_a_row_is_counted_next_to_millions(rng):
    empty = barycenters.init_sketch(np.array([0.0]), n_groups=1)
    large = empty._replace(counts=jnp.array([[0.0, 2.0**25]]))
    more = barycenters.update_sketch(large, np.ones(1000), np.zeros(1000, int))
    assert more.counts[0, 1] == 2.0**25 + 1000


def test_trouble_inside_jit_makes_the_map_nan(rng):
    update = jax.jit(barycenters.update_sketch)
    whole = barycenters.init_sketch(np.linspace(0, 1, 9).astype(np.float32), n_groups=2)
    whole = update(whole, rng.random(50).astype(np.float32), np.arange(50) % 2)
    score, group, one = jnp.array([0.5]), jnp.array([1]), jnp.ones(1)
    unknown = update(whole, score, jnp.array([9]), weights=one)
    np.testing.assert_array_equal(unknown.counts, whole.counts)
    masked = update(whole, jnp.array([0.5]), group, weights=0 * one)
    np.testing.assert_array_equal(masked.counts, whole.counts)
    moved = whole._replace(edges=whole.edges + 1)
    for bad in (
        update(whole, jnp.array([jnp.nan]), group, weights=one),
        update(whole, score, group, weights=-one),
        jax.jit(barycenters.merge_sketches)(whole, moved),
    ):
        assert np.isnan(jax.jit(barycenters.fit_map_from_sketch)(bad).shares).all()


def test_errors_say_which_where_and_what_to_do(data, untyped):
    scores, groups, edges = data
    sketch = barycenters.init_sketch(edges, n_groups=G)
    other = barycenters.init_sketch(edges + 1, n_groups=G)
    more = barycenters.init_sketch(edges, n_groups=G + 1)
    partial = barycenters.update_sketch(sketch, scores[:1], groups[:1])
    for message, call in {
        "increase strictly": lambda: barycenters.init_sketch(np.zeros(3), n_groups=2),
        r"edges\[1\] = nan": lambda: barycenters.init_sketch(
            np.array([0, np.nan]), n_groups=2
        ),
        "at least one edge": lambda: barycenters.init_sketch(np.zeros(0), n_groups=2),
        r"equal `edges`": lambda: barycenters.merge_sketches(sketch, other),
        r"edges` and groups": lambda: barycenters.merge_sketches(sketch, more),
        r"groups\[0\] = 9": lambda: barycenters.update_sketch(
            sketch, scores[:1], np.array([9])
        ),
        r"scores\[0\] = inf": lambda: barycenters.update_sketch(
            sketch, np.array([np.inf]), groups[:1]
        ),
        r"`scores` must have one number per sample.*\(2, 1\)": lambda: (
            barycenters.update_sketch(sketch, scores[:2, None], groups[:2])
        ),
        "as many entries as `scores`, 2": lambda: barycenters.update_sketch(
            sketch, scores[:2], groups[:1]
        ),
        r"weights\[0\] = -1": lambda: barycenters.update_sketch(
            sketch, scores[:1], groups[:1], weights=np.array([-1.0])
        ),
        "group 1 has no calibration row": lambda: barycenters.fit_map_from_sketch(
            partial
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_sums_that_overflow_are_refused():
    empty = barycenters.init_sketch(np.zeros(1, np.float32), n_groups=1)
    two, large = np.zeros(2, np.float32), np.full(2, 3e38, np.float32)
    groups = np.zeros(2, int)
    with pytest.raises(ValueError, match="must have sums that float32 can hold"):
        barycenters.update_sketch(empty, two, groups, weights=large)
    half = barycenters.update_sketch(empty, two[:1], groups[:1], weights=large[:1])
    with pytest.raises(ValueError, match="Divide the weights of all chunks"):
        barycenters.merge_sketches(half, half)
