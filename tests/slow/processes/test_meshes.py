"""Sweeps over several devices and processes: the results are those of one device."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fairjax import sweeps

ROOT = Path(__file__).parents[3]
SWEEP = """
import jax, jax.numpy as jnp, numpy as np
from jax.tree_util import Partial
from fairjax import erm, notions, orthogonality, sweeps
from fairjax.sweeps import devices

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(60, 4)), jnp.float32)
y = jnp.asarray(rng.integers(0, 2, 60))
cond = notions.demographic_parity(jnp.arange(60) % 2, n_groups=2)

def fit(x, y, u, point):
    def objective(w):
        gap = jnp.square(u @ w).sum()
        risk = erm.logistic(x @ w, y).mean() + point["ridge"] * jnp.square(w).sum()
        return risk + point["tolerance"] * gap

    descend = lambda _, w: w - 0.1 * jax.grad(objective)(w)
    w = jax.lax.fori_loop(0, 20, descend, jnp.zeros(4))
    return {"w": w, "objective": objective(w)}

def divide(point):
    return 1 / point["tolerance"]

points = sweeps.grid(ridge=[1e-3, 1e-2, 1e-1], tolerance=[0.0, 0.1, 0.2, 0.3, 9.0])
bound = Partial(fit, x, y, orthogonality.directions(x, cond))
one = sweeps.run(bound, points)

def check(mesh, **options):
    many = sweeps.run(bound, points, mesh=mesh, **options)
    for name in ("w", "objective"):
        np.testing.assert_allclose(many.values[name], one.values[name], atol=1e-5)
    finite = sweeps.run(divide, points, mesh=mesh).finite
    assert finite.tolist() == [False, True, True, True, True] * 3
"""


def call(*programs):
    """Runs programs side by side; all must end well."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for program in programs
    ]
    try:
        for job in jobs:
            text, _ = job.communicate(timeout=300)
            assert job.returncode == 0, text
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_eight_devices_give_what_one_gives():
    call(
        "import os\n"
        "os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'\n"
        + SWEEP
        + """
assert jax.device_count() == 8
check(jax.make_mesh((8,), ("points",)))
check(jax.make_mesh((2, 4), ("a", "b")), chunk=5, strategy=sweeps.mapped)
check(jax.make_mesh((2,), ("a",), devices=jax.devices()[:2]), strategy=sweeps.vmapped)
laps = []
sweeps.run(bound, points, mesh=jax.make_mesh((4,), ("a",), devices=jax.devices()[4:]),
           chunk=3, progress=lambda done, total: laps.append((done, total)))
assert laps == [(4, 15), (8, 15), (12, 15), (15, 15)], laps
"""
    )


START = """
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    "localhost:{port}", 2, {own}, initialization_timeout=120,
    heartbeat_timeout_seconds=10)
"""


def pair(end, **others):
    """The same program in two processes that know each other, but for `others`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        START.format(port=port, own=own)
        + SWEEP
        + end.format(own=own, other=1 - own, **others)
        for own in (0, 1)
    ]


def test_two_processes_give_what_one_gives(tmp_path):
    end = """
assert jax.process_count() == 2 and jax.device_count() == 2
mesh = jax.make_mesh((2,), ("points",))
check(mesh, chunk=6)
for name, options in (("checkpoint", {{"checkpoint": {folder!r}}}), ("map_rows", None)):
    try:
        if options is None:
            devices.map_rows(np.sin, 4, mesh)
        else:
            sweeps.run(divide, points, mesh=mesh, **options)
    except ValueError as error:
        assert "several processes with `executor=`" in str(error), error
    else:
        raise AssertionError("not refused")
# Devices of one process: its own points, files and business.
own = jax.sharding.Mesh(np.array(jax.local_devices()), ("own",))
for _ in range({own} + 1):
    alone = sweeps.run(jnp.sin, jnp.arange(3.0) + {own}, mesh=own,
        checkpoint={folder!r} + "/{own}")
    np.testing.assert_allclose(alone.values, np.sin(np.arange(3.0) + {own}), rtol=1e-5)
other = jax.sharding.Mesh(np.array(jax.devices()[1 - {own}:][:1]), ("other",))
try:
    sweeps.run(jnp.sin, jnp.arange(3.0), mesh=other)
except ValueError as error:
    assert "but holds those of [{other}] in process {own}." in str(error), error
else:
    raise AssertionError("not refused")
"""
    call(*pair(end, folder=str(tmp_path)))


def test_one_device_with_a_checkpoint(tmp_path):
    mesh = jax.make_mesh((1,), ("points",), devices=jax.devices()[:1])
    points = sweeps.grid(lam=np.linspace(0, 1, 5))
    first = sweeps.run(jnp.sin, points["lam"], mesh=mesh, chunk=2, checkpoint=tmp_path)
    again = sweeps.run(jnp.sin, points["lam"], mesh=mesh, chunk=2, checkpoint=tmp_path)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_allclose(first.values, np.sin(np.linspace(0, 1, 5)), rtol=1e-6)


@pytest.mark.parametrize("kind", jax.sharding.AxisType.__members__.values())
def test_a_mesh_of_the_context_does_not_matter(kind):
    if kind == jax.sharding.AxisType.Manual:
        return
    mesh = jax.make_mesh(
        (2,), ("points",), devices=jax.devices()[:2], axis_types=(kind,)
    )
    data = np.arange(4.0, dtype=np.float32)
    lying = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("points"))
    bound = Partial(
        lambda data, point: (data * point).sum(), jax.device_put(data, lying)
    )
    with jax.set_mesh(mesh):
        found = sweeps.run(bound, jnp.arange(3.0), mesh=mesh)
        assert jax.sharding.get_abstract_mesh().axis_names == ("points",)
    assert found.values.tolist() == [0.0, 6.0, 12.0]


def test_bad_meshes_are_refused(untyped):
    points = jnp.arange(3.0)
    with pytest.raises(ValueError, match=r"`mesh` must be a `jax.sharding.Mesh`"):
        sweeps.run(jnp.sin, points, mesh="all")
    # Nothing is sent to the devices of a mesh that is too large.
    wide = jax.sharding.Mesh(np.array([jax.devices()[0]] * 4), ("points",))
    with pytest.raises(ValueError, match="as many as the 4 devices of `mesh`"):
        sweeps.run(jnp.sin, points, mesh=wide)
