"""Rows sharded over all devices of a mesh: axis types, shardings and padding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def check_auto(mesh: Any) -> Mesh:
    """The mesh with axes of `AxisType.Auto`, outside of explicit ones.

    Raises:
        ValueError: for anything but a `jax.sharding.Mesh`, and inside `jax.set_mesh`
            with explicit axes, which JAX does not mix with automatic ones.
    """
    context = jax.sharding.get_abstract_mesh()
    if AxisType.Explicit in context.axis_types:
        raise ValueError(
            "`mesh` must not be used inside `jax.set_mesh` with explicit axes, but "
            f"those are {context.axis_names}. Leave it, and lay rows with "
            f"`sharding.shard_rows`."
        )
    return with_auto_axes(mesh)


def with_auto_axes(mesh: Any) -> Mesh:
    """The mesh with axes of `AxisType.Auto`, so that JAX reshards where it must.

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


def row_spec(mesh: Mesh, *, axis: int = 0) -> PartitionSpec:
    """The partition of arrays whose `axis` is sharded over all axes of the mesh."""
    return PartitionSpec(*(None,) * axis, mesh.axis_names)


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a tree, inside `jit`, replicated on every device of the mesh."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def shard_map(
    fn: Callable[..., Any],
    mesh: Mesh | None,
    *,
    in_specs: Any = None,
    out_specs: Any = None,
) -> Callable[..., Any]:
    """`fn` applied to each device's own rows, or to all rows without a mesh.

    Args:
        fn: pure JAX.
        mesh: the devices.
        in_specs: partition of the arguments; by rows when None.
        out_specs: partition of the results; by rows when None.
    """
    if mesh is None:
        return fn
    return jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=row_spec(mesh) if in_specs is None else in_specs,
        out_specs=row_spec(mesh) if out_specs is None else out_specs,
        check_vma=False,
    )


def pad_rows(array: Array, mesh: Mesh | None, *, mode: str = "constant") -> Array:
    """Rows padded to a multiple of the devices; those of `shard_rows` are already."""
    if mesh is None:
        return array
    array = drop_axis_types(array)
    extra = -array.shape[0] % mesh.size
    if not extra:
        return array
    return jnp.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1), mode=mode)


def drop_axis_types(array: Array) -> Array:
    """The array on its devices, without explicit axes in its type.

    Rows that `jax.device_put` lays on a mesh of `jax.make_mesh` have such types, which
    JAX does not mix with automatic axes.
    """
    sharding = jax.typeof(array).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return array
    # Outside of `jit`, JAX 0.10 has no `shard_map` from one kind of axes to another.
    retype = jax.jit(_to_auto_axes, static_argnums=(0, 1))
    return retype(sharding.mesh, sharding.spec, array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _to_auto_axes(
    mesh: AbstractMesh, spec: PartitionSpec, array: Shaped[Array, "n ..."]
) -> Shaped[Array, "n ..."]:
    auto = mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    return jax.shard_map(
        lambda own: own, mesh=auto, in_specs=spec, out_specs=spec, check_vma=False
    )(array)


def _forward(mesh: AbstractMesh, spec: PartitionSpec, array: Array) -> Any:
    return _to_auto_axes(mesh, spec, array), None


def _backward(
    mesh: AbstractMesh, spec: PartitionSpec, _: None, cotangent: Array
) -> Any:
    raise ValueError(
        f"derivatives in rows that lie on a mesh need axes of `AxisType.Auto`, but "
        f"{mesh.axis_names} are explicit. Lay the rows with `sharding.shard_rows`."
    )


_to_auto_axes.defvjp(_forward, _backward)
