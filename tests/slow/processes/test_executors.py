"""A Dask scheduler with two workers, one of them killed in the middle of a sweep."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairjax import sweeps

distributed = pytest.importorskip("distributed")


def slow_sine(x):
    def wait(value):
        time.sleep(0.2)
        return value

    return jnp.sin(jax.pure_callback(wait, jax.ShapeDtypeStruct((), x.dtype), x))


@pytest.mark.filterwarnings("ignore")
def test_what_a_killed_worker_had_is_done_by_another():
    points = jnp.linspace(0.0, 1.0, 24)
    one = sweeps.run(slow_sine, points)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        laps = []

        def progress(done, total):
            laps.append(done)
            if len(laps) == 2:
                os.kill(next(iter(pids.values())), signal.SIGKILL)

        many = sweeps.run(
            slow_sine,
            points,
            chunk=2,
            executor=client.get_executor(),
            progress=progress,
        )
    assert laps == list(range(2, 25, 2))
    np.testing.assert_array_equal(many.values, one.values)
