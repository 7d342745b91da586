"""Rows over the devices of a mesh: placed, brought back, refused, and bytes sent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fairjax import divergences, erm, kernels, notions, penalties, sharding, solvers
from tests.reference.collectives import compiled_text, sent


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])


def test_bytes_of_a_training_step(mesh, rng):
    n, d, k = 40, 3, 32
    rows = (
        rng.normal(size=(n, d)).astype(np.float32),
        rng.integers(2, size=n),
        rng.integers(3, size=n),
    )
    (x, labels, groups), mask = sharding.shard_rows(rows, mesh=mesh)
    params = {"in": jnp.ones((d, k)), "bias": jnp.ones(k), "out": jnp.ones(k)}

    def loss(params, x, labels, groups, mask):
        scores = jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["out"]
        cond = notions.equalized_odds(groups, labels, n_groups=3, weights=mask)
        risk = erm.empirical_risk(scores, labels, loss=erm.logistic, weights=mask)
        return risk + penalties.mean_gap(scores, cond)

    step = compiled_text(jax.value_and_grad(loss), params, x, labels, groups, mask)
    found = sent(step)
    assert set(found) == {"all-reduce"}
    # Parameters, a notion and its means (2 s g + s g), the sum of losses, the largest
    # weight and the sum of weights.
    expected = 4 * (d * k + 2 * k + 3 * 2 * 3 + 3)
    assert found["all-reduce"] == expected


def test_rows_come_back_in_order(mesh):
    rows = {"x": np.arange(10.0).reshape(5, 2), "s": np.array(list(range(5)), np.int8)}
    sharded, mask = sharding.shard_rows(rows, mesh=mesh)
    assert sharded["x"].shape == (6, 2)
    assert mask.tolist() == [True] * 5 + [False]
    assert sharded["s"].sharding.spec == jax.sharding.PartitionSpec(("rows",))
    back = sharding.unshard_rows(sharded, mask)
    assert back["s"].dtype == np.int8
    for name in rows:
        np.testing.assert_array_equal(back[name], rows[name])
    # Results may lie anywhere.
    whole = jnp.arange(6)
    np.testing.assert_array_equal(sharding.unshard_rows(whole, mask), np.arange(5))


def test_rows_on_several_devices_come_back_once(mesh):
    x, mask = sharding.shard_rows(np.arange(5.0), mesh=mesh)
    replicated = jax.device_put(
        mask, jax.sharding.NamedSharding(mask.sharding.mesh, P())
    )
    assert sharding.unshard_rows(x, replicated).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_inside_explicit_axes_rows_are_refused(mesh, rng):
    x, labels = rng.normal(size=(4, 2)).astype(np.float32), np.array([0, 1, 0, 1])
    refused = pytest.raises(
        ValueError, match=r"inside `jax.set_mesh` with explicit axes.*\('rows',\)"
    )
    with jax.set_mesh(mesh):
        with refused:
            sharding.shard_rows(x, mesh=mesh)
        with refused:
            divergences.energy_distance(x, x, mesh=mesh)
        with refused:
            solvers.fit_linear(jnp.asarray(x), jnp.asarray(labels), mesh=mesh)
    auto = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    with jax.set_mesh(auto):
        rows, _ = sharding.shard_rows(x, mesh=mesh)
        found = divergences.energy_distance(rows, rows + 1, mesh=auto)
    expected = divergences.energy_distance(jnp.asarray(x), jnp.asarray(x + 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bad_rows_and_meshes_are_refused(mesh, untyped):
    x = jnp.ones((4, 2))
    wrong: Any = "all"
    with pytest.raises(ValueError, match=r"`mesh` must be a `jax.sharding.Mesh`"):
        sharding.shard_rows(x, mesh=wrong)
    with pytest.raises(ValueError, match=r"`rows` must be finite, but rows\[1\] = nan"):
        sharding.shard_rows((x, np.array([1, np.nan, 1, 1])), mesh=mesh)
    with pytest.raises(ValueError, match="as many entries as `the first array"):
        sharding.shard_rows((x, np.ones(3)), mesh=mesh)
    for empty in ((), np.float32(1), np.ones((0, 2))):
        with pytest.raises(ValueError, match="`rows` must hold arrays with at least"):
            sharding.shard_rows(empty, mesh=mesh)
    _, mask = sharding.shard_rows(x, mesh=mesh)
    with pytest.raises(ValueError, match="as many entries as `mask`, 4, but has 3"):
        sharding.unshard_rows(np.ones(3), mask)
    with pytest.raises(ValueError, match=r"`mesh` must be a `jax.sharding.Mesh`"):
        divergences.mmd_squared(x, x, kernel=kernels.energy, mesh=wrong)
    with pytest.raises(ValueError, match=r"`mesh` must be a `jax.sharding.Mesh`"):
        solvers.fit_linear(x, jnp.array([0, 1, 0, 1]), mesh=wrong)
