"""Rows over all devices of a mesh: how arrays are cut, and what each device does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


def as_auto(mesh: Any) -> Mesh:
    """The mesh, its axes such that JAX moves what does not lie as it should.

    Raises:
        ValueError: for anything but a `jax.sharding.Mesh`.
    """
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"`mesh` must be a `jax.sharding.Mesh`, such as `jax.make_mesh((8,), "
            f"('rows',))`, but is {mesh!r}."
        )
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def spec(mesh: Mesh, *, axis: int = 0) -> PartitionSpec:
    """Arrays whose `axis` lies over all axes of the mesh."""
    return PartitionSpec(*(None,) * axis, mesh.axis_names)


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Results inside `jit` that every device, and so every process, shall hold."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def on_each(
    fn: Callable[..., Any],
    mesh: Mesh | None,
    *,
    in_specs: Any = None,
    out_specs: Any = None,
) -> Callable[..., Any]:
    """`fn` of each device's own rows, or of all rows without a mesh.

    Args:
        fn: pure JAX.
        mesh: the devices.
        in_specs: how arguments lie; all by rows when None.
        out_specs: how results do; likewise.
    """
    if mesh is None:
        return fn
    return jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=spec(mesh) if in_specs is None else in_specs,
        out_specs=spec(mesh) if out_specs is None else out_specs,
        check_vma=False,
    )


def padded(array: Array, mesh: Mesh | None, *, mode: str = "constant") -> Array:
    """As many rows on each device; those of `sharding.shard_rows` stay as they are."""
    extra = 0 if mesh is None else -array.shape[0] % mesh.size
    if not extra:
        return array
    return jnp.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1), mode=mode)
