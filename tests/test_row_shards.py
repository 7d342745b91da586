"""Rows over several devices and processes: equal results, and the bytes promised."""

import socket
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fairjax import divergences, erm, kernels, notions, penalties, sharding, solvers
from fairjax.solvers.linear import accelerated
from fairjax.solvers.linear import blocks as _blocks
from fairjax.solvers.linear import problem as _linear
from tests.reference.collectives import sent
from tests.slow.processes.test_meshes import START, call

# Evaluated here on one device, and in other processes on several.
PROGRAM = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from fairjax import barycenters, divergences, erm, kernels, metrics, notions
from fairjax import orthogonality, penalties, solvers

N, D = 61, 3

def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32) * np.float32([1, 10, 0.1])
    groups = rng.integers(3, size=N).astype(np.int32)
    noise = rng.normal(size=N)
    labels = (x[:, 0] + x[:, 1] / 10 + groups + noise > 1).astype(np.int32)
    return erm.Batch(x, labels, groups)

@jax.jit
def of_weights(batch, mask):
    "All that reads weights of a notion or of samples; nothing may be gathered."
    x, labels, groups = batch[:3]
    cond = notions.equalized_odds(groups, labels, n_groups=3, weights=mask)

    def loss(coefficients):
        scores = x @ coefficients
        return (
            erm.empirical_risk(scores, labels, loss=erm.logistic, weights=mask)
            + penalties.mean_gap(scores, cond)
            + penalties.risk_gap(scores, labels, cond, loss=erm.squared)
            + penalties.covariance(scores, x, weights=mask))

    composed = erm.objective(loss=erm.logistic, notion=notions.demographic_parity,
        n_groups=3, on_scores=penalties.mean_gap_info, n_tasks=2, per_task=True)
    batch = batch._replace(weights=mask, tasks=labels)
    scores = x @ jnp.ones(D)
    directions = orthogonality.directions(x, cond)
    fair = orthogonality.project_features(x, directions)
    edges = jnp.linspace(-20, 20, 65)
    sketch = barycenters.update_sketch(
        barycenters.init_sketch(edges, n_groups=3), scores, groups, weights=mask)
    return {
        "loss": jax.value_and_grad(loss)(jnp.ones(D)),
        "objective": jax.grad(
            lambda w: composed(erm.Outputs(x @ w, x), batch, 0.5)[0])(jnp.ones(D)),
        "directions": directions,
        "fair": orthogonality.directions(fair, cond),
        "rates": metrics.group_means(scores > 0, cond),
        "gap": metrics.max_gap(scores > 0, cond),
        "accuracy": metrics.accuracy(scores > 0, labels, weights=mask),
        "balanced": metrics.balanced_accuracy(scores > 0, labels, weights=mask),
        "features": divergences.mmd_random_features(x, x, x_weights=cond.weights[0, 0],
            y_weights=cond.weights[0, 1], bandwidth=10.0, key=jax.random.key(0),
            n_features=64),
        "counts": sketch.counts,
        "offsets": sketch.offsets,
    }

@jax.jit
def audited(batch, mask):
    return metrics.audit(
        batch.features @ jnp.ones(D), batch.labels, batch.groups, n_groups=3,
        weights=mask)._asdict()

def mmd(x, groups, mask, mesh):
    "All pairs of three groups, and the gradient in the samples."
    cond = notions.demographic_parity(groups, n_groups=3, weights=mask)
    kernel = partial(kernels.gaussian, bandwidth=5.0)
    divergence = partial(
        divergences.mmd_squared, kernel=kernel, unbiased=True, block=3, mesh=mesh)
    gap = partial(penalties.divergence_gap, divergence=divergence)
    return jax.jit(jax.value_and_grad(gap))(x, cond)

def linear(batch, mask, mesh):
    cond = notions.demographic_parity(batch.groups, n_groups=3, weights=mask)
    return solvers.fit_linear(
        batch.features, batch.labels, ridge=1e-2, weights=mask,
        directions=orthogonality.directions(batch.features, cond),
        tolerance=jnp.array([0.0, 0.2, np.inf]), mesh=mesh)._asdict()
"""
EIGHT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
"""
SHARDED = """
import sys
sys.path.insert(0, "tests")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", {cache!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
from tests.reference.collectives import largest, sent
from fairjax import sharding
from fairjax.solvers.linear import blocks as _blocks, problem as _linear

def save(**results):
    leaves, _ = jax.tree_util.tree_flatten_with_path(results)
    np.savez({folder!r} + "/" + "_".join(results), **{{
        jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}})
"""


@pytest.fixture(scope="module")
def one():
    """What one device finds, by the place in the tree of results."""
    names = {}
    exec(PROGRAM, names)
    batch = jax.tree.map(jnp.asarray, names["data"]())
    mask = jnp.ones(names["N"], bool)
    results = {
        "weights": names["of_weights"](batch, mask),
        "audit": names["audited"](batch, mask),
        "mmd": names["mmd"](batch.features, batch.groups, mask, None),
        "linear": names["linear"](batch, mask, None),
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(results)
    return {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}


def programs(folder, text):
    cache = jax.config.jax_compilation_cache_dir
    return PROGRAM + SHARDED.format(folder=str(folder), cache=cache) + text


def compare(folder, one):
    """Every number that was saved is that of one device."""
    found = {}
    for path in folder.glob("*.npz"):
        found |= np.load(path)
    assert found.keys() == one.keys()
    for at, values in found.items():
        if "iterations" in at or at.endswith(("gap']", "violation']")):
            continue  # Certificates of the solver: below.
        if at == "['weights']['counts']" or at == "['audit']['counts']":
            np.testing.assert_array_equal(values, one[at], err_msg=at)
        else:
            size = 1e-5 * max(1, np.abs(one[at]).max())
            np.testing.assert_allclose(
                values, one[at], rtol=1e-5, atol=size, err_msg=at
            )
    assert found["['linear']['converged']"].all()
    assert (found["['linear']['gap']"] <= 1e-6).all()
    assert (found["['linear']['violation']"] <= 1e-5).all()


def test_eight_devices_give_what_one_gives(tmp_path, one):
    text = """
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("rows",))
batch, mask = sharding.shard_rows(data(), mesh=mesh)
assert batch.features.shape == (64, D) and int(mask.sum()) == N
assert {s.data.shape for s in batch.features.addressable_shards} == {(8, D)}

program = of_weights.lower(batch, mask).compile()
kinds = sent(program.as_text())
assert set(kinds) == {"all-reduce"}, kinds
# The largest are the bins of the sketch, counts and offsets: no row is among them.
assert largest(program.as_text()) == 4 * 3 * 66, largest(program.as_text())
save(weights=program(batch, mask))
save(audit=audited(batch, mask))

# A mesh of two axes: rows lie over both.
two = jax.make_mesh((2, 4), ("a", "b"))
x, _ = sharding.shard_rows(data().features, mesh=two)
value, gradient = mmd(x, batch.groups, mask, two)
save(mmd=(value, sharding.unshard_rows(gradient, mask)))

# Blocks of three rows on each device, so that three are scanned.
_blocks.BLOCK = 3
save(linear=linear(batch, mask, mesh))
settings = dict.fromkeys(("ridge", "tolerance", "target", "lam"), jnp.float32(1))
program = solvers._batched.lower(
    batch.features, batch.labels, mask, jnp.ones((1, D)), settings,
    mesh=mask.sharding.mesh,
    loss=_linear.SMOOTH[erm.logistic], size=3, m=3, intercept=True, precision=1e-6,
).compile()
assert set(sent(program.as_text())) == {"all-reduce"}
assert largest(program.as_text()) == 4 * (D + 1) ** 2 < 4 * 64
"""
    call(EIGHT + programs(tmp_path, text))
    compare(tmp_path, one)


def test_two_processes_give_what_one_gives(tmp_path, one):
    text = """
assert jax.process_count() == 2 and jax.device_count() == 2
mesh = jax.make_mesh((2,), ("rows",))
# Each process has rows of its own, not as many as the other.
own = slice(0, 40) if jax.process_index() == 0 else slice(40, N)
whole = data()
mine = jax.tree.map(lambda a: a[own], whole)
batch, mask = sharding.shard_rows(mine, mesh=mesh)
assert batch.features.shape == (80, D)
np.testing.assert_array_equal(sharding.unshard_rows(batch, mask).labels, mine.labels)
assert not checks.concrete(batch) and checks.concrete(mask.sum())
results = dict(
    weights=of_weights(batch, mask),
    audit=audited(batch, mask),
    linear=linear(batch, mask, mesh),
)
value, gradient = mmd(batch.features, batch.groups, mask, mesh)
rows = np.zeros((2, 40, D), np.float32)
mine = sharding.unshard_rows(gradient, mask)
rows[jax.process_index(), :len(mine)] = mine
from jax.experimental import multihost_utils
rows = multihost_utils.process_allgather(rows).sum(axis=0)
results["mmd"] = (value, rows.reshape(-1, D)[:N])
if jax.process_index() == 0:
    save(**results)
"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = programs(tmp_path, "from fairjax import checks\n" + text)
    call(*(START.format(port=port, own=own) + common for own in (0, 1)))
    compare(tmp_path, one)


def test_bytes_of_the_ring(tmp_path):
    text = """
mesh = jax.make_mesh((8,), ("rows",))
n, hops = 10, 4

def gap(x, a, b):
    return divergences.mmd_squared(x, x, x_weights=a, y_weights=b,
        kernel=partial(kernels.gaussian, bandwidth=1.0), mesh=mesh)

args = sharding.shard_rows((np.ones((80, D)), np.ones(80), np.ones(80)), mesh=mesh)[0]
args = [a.astype(jnp.float32) for a in args]
for fn, numbers in (
    (gap, hops * (D + 1)),
    (jax.value_and_grad(gap), hops * (2 * D + 1) + D),
):
    text = jax.jit(fn).lower(*args).compile().as_text()
    found = sent(text)
    assert set(found) == {"collective-permute", "all-reduce"}, found
    assert found["collective-permute"] == 4 * n * numbers, (found, numbers)
    # Sums, bounds of the samples, whether any has weight.
    assert found["all-reduce"] <= 4 * (4 * D + 16), found
"""
    call(EIGHT + programs(tmp_path, text))


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])


def text_of(fn, *args, **named):
    return str(jax.jit(fn).lower(*args, **named).compile().as_text())


@pytest.mark.parametrize("blocks", [1, 3])
def test_bytes_of_the_linear_solver(mesh, monkeypatch, blocks, rng):
    n, d, m = 60, 4, 5
    monkeypatch.setattr(_blocks, "BLOCK", n // 2 // blocks)
    rows = (rng.normal(size=(n, d)), rng.integers(2, size=n), np.ones(n) / n)
    rows = jax.tree.map(lambda a: a.astype(np.float32), rows)
    rows, _ = sharding.shard_rows(rows, mesh=mesh)
    auto = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    cut = partial(_blocks.in_blocks, directions=jnp.zeros((0, d)), mesh=auto)
    data = jax.jit(cut)(*rows)
    assert data.features.shape == (blocks, n // blocks, d)

    metric = jax.jit(partial(_linear.whiten, intercept=True))
    metric = metric.lower(data, data.mass, jnp.float32(1)).compile()
    expected = {"all-reduce": 4 * (1 + 2 * d + d**2)}
    assert sent(str(metric.as_text())) == expected
    problem = metric(data, data.mass, jnp.float32(1))
    later = jax.jit(partial(_linear.renew, intercept=True))
    later = later.lower(problem, data.mass, jnp.float32(1)).compile()
    expected = {"all-reduce": 4 * (1 + (d + 1) ** 2)}
    assert sent(str(later.as_text())) == expected

    loss = _linear.SMOOTH[erm.logistic]
    points = jnp.zeros((d + 1, m))
    step = text_of(
        lambda r, p: accelerated.risk_slope(r, loss, p), problem.rows, points
    )
    assert sent(step) == {"all-reduce": 4 * (d + 1) * m}
    step = text_of(
        lambda r, p: accelerated.risk_and_slope(r, loss, p), problem.rows, points
    )
    assert sent(step) == {"all-reduce": 4 * (d + 2) * m}


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

    step = text_of(jax.value_and_grad(loss), params, x, labels, groups, mask)
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
    everywhere = jax.device_put(
        mask, jax.sharding.NamedSharding(mask.sharding.mesh, P())
    )
    assert sharding.unshard_rows(x, everywhere).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_rows_on_explicit_axes_give_values_and_no_derivatives(mesh, rng):
    x, y = rng.normal(size=(2, 6, 2)).astype(np.float32)
    assert mesh.axis_types == (jax.sharding.AxisType.Explicit,)
    lie = partial(jax.device_put, device=jax.sharding.NamedSharding(mesh, P("rows")))
    groups = np.arange(6) % 2

    def gap(x, y, own, mesh):
        kernel = partial(kernels.gaussian, bandwidth=1.0)
        return divergences.mmd_squared(
            x, y, x_weights=own == 0, y_weights=own == 1, kernel=kernel, mesh=mesh
        )

    for other in (x, y):
        same = other is x
        given = lie(x)
        found = gap(given, given if same else lie(y), lie(groups), mesh)
        np.testing.assert_allclose(found, gap(x, other, groups, None), rtol=1e-5)
    fit = partial(solvers.fit_linear, loss=erm.squared, ridge=0.1)
    expected = fit(jnp.asarray(x), jnp.asarray(groups)).coefficients
    found = fit(lie(x), lie(groups), mesh=mesh).coefficients
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"\('rows',\) are explicit\. Lay the rows with"
    ):
        jax.grad(lambda x: gap(x, x, lie(groups), mesh))(lie(x))


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


def test_clouds_of_any_size_with_slopes_in_all_arguments(mesh, rng):
    # 7 and 4 samples on two devices; the bandwidth depends on the data.
    x = jnp.asarray(rng.normal(size=(7, 2)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(4, 2)) + 1, jnp.float32)
    a, b = (jnp.asarray(rng.random(len(z)) + 0.1, jnp.float32) for z in (x, y))

    def gap(x, y, a, b, mesh):
        kernel = partial(kernels.gaussian, bandwidth=1 + jnp.square(x).mean())
        return divergences.mmd_squared(
            x, y, x_weights=a, y_weights=b, kernel=kernel, unbiased=True, mesh=mesh
        )

    def run(mesh):
        found = jax.value_and_grad(partial(gap, mesh=mesh), argnums=(0, 1, 2, 3))
        return jax.jit(found)(x, y, a, b)

    many, one = jax.tree.leaves(run(mesh)), jax.tree.leaves(run(None))
    for found, expected in zip(many, one, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_energy_distance_on_a_mesh_is_its_definition(mesh, rng):
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(8, 2))

    def mean(p, q):
        return np.linalg.norm(p[:, None] - q[None], axis=-1).mean()

    found = divergences.energy_distance(
        jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), mesh=mesh
    )
    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
