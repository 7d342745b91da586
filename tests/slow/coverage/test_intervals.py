"""In how many samples bootstrap intervals hold the truth."""

import functools

import jax
import jax.numpy as jnp
import pytest

from fairjax import metrics, notions

METHODS = "percentile", "bca"


def two_groups(key, n, draw):
    groups = jnp.arange(n) % 2
    return {"groups": groups, "values": draw(key, groups), "clusters": None,
            "strata": None}  # fmt: skip


def rates(key, groups):
    chance = jnp.array([0.3, 0.6])[groups]
    return (jax.random.uniform(key, groups.shape) < chance).astype(float)


def shifted(key, groups):
    return jax.random.normal(key, groups.shape) + 1.5 * groups.astype(float)


def clustered(key, *, told=True):
    """Four rows each of 100 people, half of the variance between people."""
    a, b = jax.random.split(key)
    own = jnp.arange(400) // 4
    groups = own % 2
    values = jax.random.normal(a, (100,))[own] + jax.random.normal(b, (400,))
    values = values + 2.0 * groups.astype(float)
    return {"groups": groups, "values": values, "clusters": own if told else None,
            "strata": None}  # fmt: skip


def stratified(key, *, told=True):
    """120 of one kind and 80 of another, half of each in each group, by design."""
    kind, groups = (jnp.arange(200) >= 120).astype(int), jnp.arange(200) % 2
    values = jax.random.normal(key, (200,)) + (3 * kind + groups).astype(float)
    return {"groups": groups, "values": values, "clusters": None,
            "strata": 2 * kind + groups if told else None}  # fmt: skip


def coverage(sample, metric, truth, method, repeats=1000):
    """In how many of the samples the 95 % interval holds the truth."""

    def covers(key):
        own, key = jax.random.split(key)
        data = sample(own)
        cond = notions.demographic_parity(data["groups"], n_groups=2)
        how = metrics.Bootstrap(
            key, draws=400, method=method, clusters=data["clusters"],
            strata=data["strata"],
        )  # fmt: skip
        found = metrics.interval(metric, data["values"], cond, bootstrap=how)
        return (found.low <= truth) & (truth <= found.high)

    keys = jax.random.split(jax.random.key(11), repeats)
    return jax.jit(lambda keys: jax.lax.map(covers, keys))(keys).mean().item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("sample", "metric", "truth"),
    [
        (functools.partial(two_groups, n=160, draw=rates), metrics.max_gap, 0.3),
        (functools.partial(two_groups, n=160, draw=rates), metrics.min_ratio, 0.5),
        (functools.partial(two_groups, n=120, draw=shifted), metrics.wasserstein, 1.5),
        (clustered, metrics.max_gap, 2.0),
        (stratified, metrics.max_gap, 1.0),
    ],
    ids=["gap", "ratio", "wasserstein", "clusters", "strata"],
)
def test_nominal_95_covers_between_93_and_97(sample, metric, truth, method):
    assert 0.93 <= coverage(sample, metric, truth, method) <= 0.97


def test_rows_of_clusters_drawn_alone_cover_too_rarely():
    """And a design that is not told makes intervals too wide."""
    untold = functools.partial(clustered, told=False)
    assert coverage(untold, metrics.max_gap, 2.0, "percentile", 400) < 0.8
    untold = functools.partial(stratified, told=False)
    assert coverage(untold, metrics.max_gap, 1.0, "percentile", 400) > 0.985


def test_at_parity_no_interval_of_a_largest_gap_covers():
    """The limit that the docstring of `Bootstrap` states."""
    sample = functools.partial(
        two_groups, n=160, draw=lambda key, g: jax.random.normal(key, g.shape)
    )
    assert coverage(sample, metrics.max_gap, 0.0, "percentile", 200) < 0.1
