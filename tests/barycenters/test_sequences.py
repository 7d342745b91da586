"""Several attributes in sequence: fair to each, in any order where they add up."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fairjax import barycenters, notions
from tests.reference.barycenters import ks


@pytest.fixture
def untyped():
    """As users run it: without the shape checks that would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_sequence_is_fair_to_each_and_its_order_does_not_matter(rng):
    n = 20_000
    first, second = rng.integers(2, size=n), rng.integers(3, size=n)
    scores = rng.normal(size=n) + first + 0.5 * second  # independent shifts
    scores = scores.astype(np.float32)
    forward = barycenters.fit_maps(scores, [first, second], sizes=[2, 3])
    fair = barycenters.apply_maps(forward, scores, [first, second])
    backward = barycenters.fit_maps(scores, [second, first], sizes=[3, 2])
    other = barycenters.apply_maps(backward, scores, [second, first])
    assert ks(scores, first) > 0.3
    assert max(ks(fair, first), ks(fair, second)) < 0.025
    assert np.sqrt(np.mean((fair - other) ** 2)) < 0.04 * np.std(scores)
    half = barycenters.apply_maps(forward, scores, [first, second], repair=0.5)
    np.testing.assert_allclose(half, (scores + fair) / 2, rtol=1e-5, atol=1e-5)
    joint, n_groups = notions.intersect([first, second], sizes=[2, 3])
    together = barycenters.fit_map(scores, joint, n_groups=n_groups)
    inter = barycenters.apply_map(together, scores, joint)
    assert ks(inter, np.asarray(joint)) < 0.002
    assert np.sqrt(np.mean((inter - fair) ** 2)) < 0.05 * np.std(scores)


@pytest.mark.parametrize("randomised", [False, True])
def test_a_sequence_is_its_maps_one_after_the_other(randomised, rng):
    key = jax.random.key(0) if randomised else None
    attributes = [np.arange(60) % 2, np.arange(60) % 3]
    scores = rng.normal(size=60).astype(np.float32)
    maps = barycenters.fit_maps(scores, attributes, sizes=[2, 3], key=key)
    fair = barycenters.apply_maps(maps, scores, attributes, key=key)
    expected = scores
    for a, (fitted, groups) in enumerate(zip(maps, attributes, strict=True)):
        own = None if key is None else jax.random.fold_in(key, a)
        expected = barycenters.apply_map(fitted, expected, groups, key=own)
    np.testing.assert_array_equal(fair, expected)


def test_trouble_is_named_and_inside_jit_nan(rng, untyped):
    attributes = [np.arange(60) % 2, np.arange(60) % 3]
    scores = rng.normal(size=60).astype(np.float32)
    maps = barycenters.fit_maps(scores, attributes, sizes=[2, 3])
    with pytest.raises(ValueError, match=r"`repair` must lie in \[0, 1\], but is 2"):
        barycenters.apply_maps(maps, scores, attributes, repair=2.0)
    with pytest.raises(ValueError, match="`attributes` and `maps` .* 1 and 2"):
        barycenters.apply_maps(maps, scores, attributes[:1])
    with pytest.raises(ValueError, match="`attributes` and `sizes` .* 2 and 1"):
        barycenters.fit_maps(scores, attributes, sizes=[2])
    with pytest.raises(ValueError, match=r"groups\[2\] = 2"):
        barycenters.fit_maps(scores, attributes, sizes=[2, 2])
    traced = jax.jit(lambda x, t: barycenters.apply_maps(maps, x, attributes, repair=t))
    assert np.isnan(traced(scores, 1.5)).all()
    fair = traced(jnp.asarray(scores).at[4].set(jnp.nan), 1.0)
    assert np.flatnonzero(np.isnan(fair)).tolist() == [4]
