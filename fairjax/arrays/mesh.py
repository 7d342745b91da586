"""Rows over all devices of a mesh: how arrays are cut, and what each device does."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def as_auto(mesh: Any) -> Mesh:
    """`auto_of` a mesh, for arrays that lie on it already.

    Raises:
        ValueError: likewise, and where `jax.set_mesh` has made axes explicit, which
            JAX does not mix with such arrays.
    """
    context = jax.sharding.get_abstract_mesh()
    if AxisType.Explicit in context.axis_types:
        raise ValueError(
            "`mesh` must not be used inside `jax.set_mesh` with explicit axes, but "
            f"those are {context.axis_names}. Leave it, and lay rows with "
            f"`sharding.shard_rows`."
        )
    return auto_of(mesh)


def auto_of(mesh: Any) -> Mesh:
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
    if mesh is None:
        return array
    array = untyped(array)
    extra = -array.shape[0] % mesh.size
    if not extra:
        return array
    return jnp.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1), mode=mode)


def untyped(array: Array) -> Array:
    """The array where it is; its type does not tell any more where that is.

    Rows that `jax.device_put` lays on a mesh of `jax.make_mesh` have such types, which
    JAX does not mix with others.
    """
    lying = jax.typeof(array).sharding
    if AxisType.Explicit not in lying.mesh.axis_types:
        return array
    # Outside of `jit`, JAX 0.10 has no `shard_map` from one kind of axes to another.
    retyped = jax.jit(_without_types, static_argnums=(0, 1))
    return retyped(lying.mesh, lying.spec, array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _without_types(
    mesh: AbstractMesh, lying: PartitionSpec, array: Shaped[Array, "n ..."]
) -> Shaped[Array, "n ..."]:
    auto = mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    return jax.shard_map(
        lambda own: own, mesh=auto, in_specs=lying, out_specs=lying, check_vma=False
    )(array)


def _to(mesh: AbstractMesh, lying: PartitionSpec, array: Array) -> Any:
    return _without_types(mesh, lying, array), None


def _back(mesh: AbstractMesh, lying: PartitionSpec, _: None, slope: Array) -> Any:
    raise ValueError(
        f"derivatives in rows that lie on a mesh need axes of `AxisType.Auto`, but "
        f"{mesh.axis_names} are explicit. Lay the rows with `sharding.shard_rows`."
    )


_without_types.defvjp(_to, _back)
