"""`fit_linear` on rows over two devices: equal models, and the bytes promised."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fairjax import erm, sharding, solvers
from fairjax.erm.losses import SMOOTH
from fairjax.solvers.linear import accelerated, whitening
from fairjax.solvers.linear import blocks as row_blocks
from tests.reference.collectives import compiled_text, sent


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])


@pytest.mark.parametrize("blocks", [1, 3])
def test_bytes_of_the_linear_solver(mesh, monkeypatch, blocks, rng):
    n, d, m = 60, 4, 5
    monkeypatch.setattr(row_blocks, "BLOCK", n // 2 // blocks)
    rows = (rng.normal(size=(n, d)), rng.integers(2, size=n), np.ones(n) / n)
    rows = jax.tree.map(lambda a: a.astype(np.float32), rows)
    rows, _ = sharding.shard_rows(rows, mesh=mesh)
    auto = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    split = partial(
        row_blocks.split_into_blocks, directions=jnp.zeros((0, d)), mesh=auto
    )
    data = jax.jit(split)(*rows)
    assert data.features.shape == (blocks, n // blocks, d)

    metric = jax.jit(partial(whitening.whiten, intercept=True))
    metric = metric.lower(data, data.mass, jnp.float32(1)).compile()
    expected = {"all-reduce": 4 * (1 + 2 * d + d**2)}
    assert sent(str(metric.as_text())) == expected
    whitened = metric(data, data.mass, jnp.float32(1))
    later = jax.jit(partial(whitening.rewhiten, intercept=True))
    later = later.lower(whitened, data.mass, jnp.float32(1)).compile()
    expected = {"all-reduce": 4 * (1 + (d + 1) ** 2)}
    assert sent(str(later.as_text())) == expected

    loss = SMOOTH[erm.logistic]
    points = jnp.zeros((d + 1, m))
    step = compiled_text(
        lambda r, p: accelerated.risk_gradient(r, loss, p), whitened.rows, points
    )
    assert sent(step) == {"all-reduce": 4 * (d + 1) * m}
    step = compiled_text(
        lambda r, p: accelerated.risk_and_gradient(r, loss, p), whitened.rows, points
    )
    assert sent(step) == {"all-reduce": 4 * (d + 2) * m}


def test_rows_on_explicit_axes_give_models(mesh, rng):
    x = rng.normal(size=(6, 2)).astype(np.float32)
    assert mesh.axis_types == (jax.sharding.AxisType.Explicit,)
    lie = partial(jax.device_put, device=jax.sharding.NamedSharding(mesh, P("rows")))
    groups = np.arange(6) % 2

    fit = partial(solvers.fit_linear, loss=erm.squared, ridge=0.1)
    expected = fit(jnp.asarray(x), jnp.asarray(groups)).coefficients
    found = fit(lie(x), lie(groups), mesh=mesh).coefficients
    np.testing.assert_allclose(found, expected, rtol=1e-4)
