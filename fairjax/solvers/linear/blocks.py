"""Rows in blocks, over the devices of a mesh, and sums over them.

Each device holds a part of every block. A pass over the rows reads a block at a time
and ends in one all-reduce.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Shaped

from ...arrays import mesh as meshes

Tree = TypeVar("Tree")

# Rows per block: only the scores of one block and batch are ever held. On a CPU a block
# that fits into its caches is read from memory once per step, not twice.
BLOCK, BLOCK_OF_ACCELERATOR = 16_384, 65_536


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that each hold a part of every block, as static pytree metadata."""

    mesh: Mesh | None = None


class Data(NamedTuple):
    """A data set as given, in blocks of rows; padding rows have mass 0.

    Attributes:
        features: samples.
        labels: as the loss wants them.
        mass: sample weights that sum to 1.
        directions: the `u_k`.
        scale: divisor of each column, so that no square overflows.
        devices: each holds a part of every block.
    """

    features: Float[Array, "blocks rows d"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    directions: Float[Array, "k d"]
    scale: Float[Array, " d"]
    devices: Devices


class Rows(NamedTuple):
    """Samples in any coordinates, in blocks.

    Attributes:
        design: features.
        labels: as given.
        mass: sample weights.
        devices: each holds a part of every block.
    """

    design: Float[Array, "blocks rows p"]
    labels: Float[Array, "blocks rows"]
    mass: Float[Array, "blocks rows"]
    devices: Devices = Devices()


def matmul(a: Array, b: Array) -> Array:
    """Product in full precision; accelerators round to 8 or 10 bits by default."""
    return jnp.matmul(a, b, precision="highest")


def transposed_matmul(
    design: Float[Array, "n p"], slopes: Float[Array, "n *m"]
) -> Array:
    """Product `design' slopes`, such as the vjp of `design @ point`.

    Written and kept as `(slopes' design)'`: on CPU, XLA takes up to eight times as long
    where the larger factor is the transposed one.
    """
    product = jax.lax.dot_general(
        slopes, design, (((0,), (0,)), ((), ())), precision="highest"
    )
    return jax.lax.optimization_barrier(product).T


def split_into_blocks(
    features: Float[Array, "n d"],
    labels: Float[Array, " n"],
    mass: Float[Array, " n"],
    directions: Float[Array, "k d"],
    *,
    mesh: Mesh | None = None,
) -> Data:
    """The data set in equal blocks of rows, columns scaled to 1.

    On a mesh each device splits its own rows, and a block has a part on every device:
    no row moves.
    """
    largest = jnp.maximum(jnp.abs(features).max(axis=0), 1e-15)
    # A power of 2, so that nothing is rounded.
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    rows = (features / scale[None, :], labels, mass)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    on_cpu = device.platform == "cpu"
    split = meshes.shard_map(
        functools.partial(_split, most=BLOCK if on_cpu else BLOCK_OF_ACCELERATOR),
        mesh,
        out_specs=None if mesh is None else meshes.row_spec(mesh, axis=1),
    )
    features, labels, mass = split(*(meshes.pad_rows(a, mesh) for a in rows))
    return Data(features, labels, mass, directions, scale, Devices(mesh))


def _split(*arrays: Array, most: int) -> tuple[Array, ...]:
    """Arrays in equal blocks of at most so many rows, filled up with zeros."""
    n = arrays[0].shape[0]
    blocks = -(-n // most)
    rows = -(-n // blocks)
    extra = [(0, blocks * rows - n)]
    return tuple(
        jnp.pad(a, extra + [(0, 0)] * (a.ndim - 1)).reshape(blocks, rows, *a.shape[1:])
        for a in arrays
    )


def sum_over_blocks(
    fn: Callable[..., Tree],
    *blocks: Shaped[Array, "blocks rows ..."],
    devices: Devices,
) -> Tree:
    """Sum of a function's values over blocks of rows.

    Each device adds up its own parts of all blocks first: one all-reduce, however many
    blocks there are.
    """

    def add(total: Tree, block: tuple[Array, ...]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, fn(*block)), None

    def local_sum(*blocks: Array) -> Tree:
        shapes = jax.eval_shape(fn, *(a[0] for a in blocks))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total = jax.lax.scan(add, zeros, blocks)[0]
        return jax.lax.psum(total, mesh.axis_names) if mesh else total

    if blocks[0].shape[0] == 1:
        return fn(*(a[0] for a in blocks))
    mesh = devices.mesh
    spec = None if mesh is None else meshes.row_spec(mesh, axis=1)
    sharded = meshes.shard_map(
        local_sum, mesh, in_specs=spec, out_specs=PartitionSpec()
    )
    return sharded(*blocks)


def moment(
    design: Float[Array, "blocks rows p"],
    weights: Float[Array, "blocks rows"],
    *,
    devices: Devices,
) -> Float[Array, "p p"]:
    """Second moment `sum_i weights_i x_i x_i'`.

    Cost 2 n p^2 operations, memory of one block.
    """

    def block(x, weight):
        return matmul((x * weight[:, None]).T, x)

    return sum_over_blocks(block, design, weights, devices=devices)
