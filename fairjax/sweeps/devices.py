"""Devices of a mesh that share the points of a sweep.

Either one program runs on all devices, each having its rows (`program`), or each device
runs programs of its own on its rows and results are put together (`map_rows`). Points
over several machines are the work of an executor: see `executors`.
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


def check_mesh(
    mesh: Any,
    m: int,
    *,
    name: str = "points",
    checkpoint: object = None,
    executor: object = None,
) -> Mesh:
    """The mesh with automatic axes, so that JAX moves arrays where they are needed.

    Raises:
        ValueError: unless it is a mesh of at most m devices, and those of this process
            alone or of all processes, and then without a checkpoint; for an executor.
    """
    if executor is not None:
        raise ValueError(
            "`mesh` and `executor` cannot be given together: each worker uses its own "
            "default device. Leave one of them out."
        )
    mesh = meshes.auto_of(mesh)
    owners = {device.process_index for device in mesh.devices.flat}
    if owners not in ({jax.process_index()}, {*range(jax.process_count())}):
        raise ValueError(
            f"`mesh` must hold devices of this process alone or of all "
            f"{jax.process_count()}, but holds those of {sorted(owners)} in process "
            f"{jax.process_index()}. Make it of `jax.local_devices()` or "
            f"`jax.devices()`."
        )
    if checkpoint is not None:
        refuse_processes(mesh, "with `checkpoint`")
    if m < mesh.size:
        raise ValueError(
            f"`{name}` must be at least as many as the {mesh.size} devices of `mesh`, "
            f"but are {m}. Take a smaller mesh: `jax.make_mesh(({m},), ...)`."
        )
    return mesh


def refuse_processes(mesh: Mesh, where: str) -> None:
    """Raises `ValueError` for a mesh that spans processes."""
    if mesh.is_multi_process:
        raise ValueError(
            f"`mesh` must hold devices of this process alone {where}. Make it of "
            f"`jax.local_devices()`, or give batches to several processes with "
            f"`executor=`."
        )


def without_context(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Leaves `jax.set_mesh` for a block where there is a mesh: two would conflict."""
    if mesh is None or jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(None)


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """Sharding of arrays that are the same on every device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def program(fn: Callable[[PyTree, PyTree], PyTree], mesh: Mesh | None) -> Any:
    """A jitted `fn(shared, rows)`: rows are sharded, results replicated."""
    if mesh is not None:
        rows = PartitionSpec(mesh.axis_names)
        fn = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,
        )
    return jax.jit(fn, out_shardings=replicated(mesh))


def map_rows(
    work: Callable[[Int[np.ndarray, " r"]], PyTree], m: int, mesh: Mesh | None
) -> PyTree:
    """Host arrays of `work(rows)` for m rows, each device of the mesh doing some.

    Args:
        work: from indices of rows to arrays with one entry per row, run once per
            device, in threads, with that device as the default one.
        m: at least the number of devices. All have equally many rows: the last one is
            repeated, and copies are dropped.
        mesh: None for all rows at once.

    Raises:
        ValueError: for a mesh that spans processes.
    """
    if mesh is None:
        return jax.device_get(work(np.arange(m)))
    refuse_processes(mesh, "here")
    size = -(-m // mesh.size)
    wide = bool(jax.config.jax_enable_x64)

    def on_device(start: int, device: jax.Device) -> PyTree:
        # Settings such as these belong to a thread.
        with jax.enable_x64(wide), jax.default_device(device):
            rows = np.arange(start, start + size)
            return jax.device_get(work(np.minimum(rows, m - 1)))

    with ThreadPoolExecutor(mesh.size) as pool:
        starts = range(0, size * mesh.size, size)
        parts = list(pool.map(on_device, starts, mesh.devices.flat))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:m], *parts)
