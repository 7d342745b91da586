"""Batches of work on the workers of an executor give what one process gives."""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fairjax import sweeps


def scaled_sine(scale, x):
    return {"y": scale * jnp.sin(x), "noise": jax.random.normal(jax.random.key(0))}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor:
        yield executor


def test_a_sweep_in_another_process_is_that_of_this_one(processes, tmp_path, x64):
    fn, points = Partial(scaled_sine, np.float64(2)), jnp.linspace(0.0, 1.0, 7)
    one = sweeps.run(fn, points, chunk=3)
    calls = []
    options = {"chunk": 3, "checkpoint": tmp_path, "executor": processes}
    many = sweeps.run(fn, points, **options, progress=lambda *c: calls.append(c))
    # Found again: no worker is needed.
    again = sweeps.run(fn, points, **options | {"executor": None})
    for found in (many, again):
        assert found.values["y"].dtype == jnp.float64
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12), found, one
        )
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert len(list(tmp_path.glob("chunk-*.npz"))) == 3


def test_results_keep_the_order_of_the_batches():
    seen = []
    with ThreadPoolExecutor(2) as executor:
        found = sweeps.map_batches(
            jnp.square,
            (np.float32(i) for i in range(5)),
            executor=executor,
            done=lambda *pair: seen.append(pair),
        )
    assert [float(value) for value in found] == [0, 1, 4, 9, 16]
    assert sorted((i, float(value)) for i, value in seen) == [
        (i, i * i) for i in range(5)
    ]


def fail_at_one(x):
    if x == 1:
        raise KeyError("mine")
    return x


def test_a_failure_passes_through_and_cancels_the_rest():
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyError, match="mine"):
        sweeps.map_batches(fail_at_one, range(3), executor=executor)
    with pytest.raises(KeyError, match="mine"):
        sweeps.map_batches(fail_at_one, range(3))


def test_work_that_cannot_travel_is_told():
    lock = multiprocessing.get_context("spawn").Lock()
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match="must be picklable"),
    ):
        sweeps.map_batches(functools.partial(max, lock), [1], executor=executor)


def test_a_mesh_and_an_executor_exclude_each_other():
    mesh = jax.make_mesh((1,), ("points",), devices=jax.devices()[:1])
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match="`mesh` and `executor` cannot be given"),
    ):
        sweeps.run(jnp.sin, jnp.arange(2.0), mesh=mesh, executor=executor)
