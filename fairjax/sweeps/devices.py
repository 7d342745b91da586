"""Meshes: devices, in one process or several, that share the points of a sweep.

Either one program runs on all devices, each having its rows (`program`), or each device
runs programs of its own on its rows and results are put together (`share`).
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from ..arrays import mesh as meshes
from . import processes


def check(mesh: Any, m: int, *, name: str = "points") -> Mesh:
    """The mesh, its axes such that JAX moves what does not lie as it should.

    Raises:
        ValueError: unless it is one, of at most m devices, and those of this process
            alone or of all processes.
    """
    mesh = meshes.with_auto_axes(mesh)
    owners = {device.process_index for device in mesh.devices.flat}
    if owners not in ({jax.process_index()}, {*range(jax.process_count())}):
        raise ValueError(
            f"`mesh` must hold devices of this process alone or of all "
            f"{jax.process_count()}, but holds those of {sorted(owners)} in process "
            f"{jax.process_index()}. Make it of `jax.local_devices()` or "
            f"`jax.devices()`."
        )
    if m < mesh.size:
        raise ValueError(
            f"`{name}` must be at least as many as the {mesh.size} devices of `mesh`, "
            f"but are {m}. Take a smaller mesh: `jax.make_mesh(({m},), ...)`."
        )
    return mesh


def several(mesh: Mesh | None) -> bool:
    """Whether processes share the points, and so must agree on what they do."""
    return mesh is not None and mesh.is_multi_process


def apart(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Outside of `jax.set_mesh` where there is a mesh: two would be one too many."""
    if mesh is None or jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(None)


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The same on every device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def program(fn: Callable[[PyTree, PyTree], PyTree], mesh: Mesh | None) -> Any:
    """A compiled `fn(same, rows)`: the rows lie on the devices, results everywhere."""
    if mesh is not None:
        rows = PartitionSpec(mesh.axis_names)
        fn = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,
        )
    return jax.jit(fn, out_shardings=everywhere(mesh))


def share(
    work: Callable[[Int[np.ndarray, " r"]], PyTree], m: int, mesh: Mesh | None
) -> PyTree:
    """`work(rows)` for m rows, each device of the mesh having some of them.

    Args:
        work: from indices of rows to arrays with one entry per row, run once per device
            of this process, in threads, with that device as the default one.
        m: at least the number of devices. All have equally many rows: the last one is
            repeated, and copies are dropped.
        mesh: None for all rows at once.

    Returns:
        The arrays of all rows, of the host, in all processes.
    """
    if mesh is None:
        return jax.device_get(work(np.arange(m)))
    size = -(-m // mesh.size)
    places = [
        (place, device)
        for place, device in enumerate(mesh.devices.ravel())
        if device.process_index == jax.process_index()
    ]
    if several(mesh):
        owners = np.bincount([device.process_index for device in mesh.devices.ravel()])
        if len(set(owners)) > 1 or len(owners) != jax.process_count():
            raise ValueError(
                f"`mesh` must hold equally many devices of each process, but holds "
                f"{owners.tolist()} of {jax.process_count()}."
            )
    wide = bool(jax.config.jax_enable_x64)

    def on_one(place: int, device: jax.Device) -> PyTree:
        # Settings such as these belong to a thread.
        with jax.enable_x64(wide), jax.default_device(device):
            rows = np.arange(place * size, (place + 1) * size)
            return jax.device_get(work(np.minimum(rows, m - 1)))

    if len(places) == 1:
        parts = [on_one(*places[0])]
    else:
        with ThreadPoolExecutor(len(places)) as pool:
            parts = list(pool.map(lambda own: on_one(*own), places))
    order = np.array([place for place, _ in places])
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    if several(mesh):
        order, whole = processes.gather((order, whole))
    places_of_rows = np.argsort(order)

    def in_order(stacked: np.ndarray) -> np.ndarray:
        return stacked[places_of_rows].reshape(-1, *stacked.shape[2:])[:m]

    return jax.tree.map(in_order, whole)
