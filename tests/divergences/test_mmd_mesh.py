"""Two-sample statistics of rows over two devices against one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fairjax import divergences, kernels


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])


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
    with pytest.raises(
        ValueError, match=r"\('rows',\) are explicit\. Lay the rows with"
    ):
        jax.grad(lambda x: gap(x, x, lie(groups), mesh))(lie(x))
