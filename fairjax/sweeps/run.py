"""Evaluation of a function at every point of a grid.

How a function of one point becomes a function of many is a choice, and a choice is a
function: `vmapped`, `mapped`, `batched`, or your own. `run` adds what a long sweep
needs around it: chunks, progress, resume, workers, and failed points that stay alone.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Bool, PyTree

from ..arrays import checks
from . import checkpoints, devices
from .batches import chunk_size, split_points
from .progress import Progress

PointFunction = Callable[..., Any]
Strategy = Callable[[PointFunction], PointFunction]


class SweepResult(NamedTuple):
    """Result of `run`; axis 0 of every array has one entry per point, in order.

    Attributes:
        points: the grid, as arrays.
        values: what the function returned, stacked.
        finite: False where a floating value of the point is NaN or infinite.
    """

    points: PyTree
    values: PyTree
    finite: Bool[Array, " m"]


def vmapped(fn: PointFunction) -> PointFunction:
    """All points at once, in lockstep: for accelerators; memory grows with m.

    Example:
        >>> vmapped(jnp.square)(jnp.array([1.0, 2.0])).tolist()
        [1.0, 4.0]
    """
    return jax.vmap(fn)


def mapped(fn: PointFunction) -> PointFunction:
    """One point after another inside one program: for CPUs; memory of one point.

    Example:
        >>> mapped(jnp.square)(jnp.array([1.0, 2.0])).tolist()
        [1.0, 4.0]
    """
    return functools.partial(jax.lax.map, fn)


def batched(fn: PointFunction) -> PointFunction:
    """For a function that takes a batch of points already, as the linear solver does.

    Example:
        >>> batched(jnp.cumsum)(jnp.array([1.0, 2.0])).tolist()
        [1.0, 3.0]
    """
    return fn


def default_strategy() -> Strategy:
    """`mapped` on CPUs, where lockstep wins nothing, else `vmapped`."""
    return mapped if jax.default_backend() == "cpu" else vmapped


def run(
    fn: PointFunction,
    points: PyTree,
    *,
    strategy: Strategy | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> SweepResult:
    """Values of a function at every point of a grid; it is compiled once.

    Args:
        fn: one point to a pytree of arrays of static shape (under `batched`: a batch
            of points to arrays that keep its leading axis). Bind data with
            `jax.tree_util.Partial`.
        points: pytree of arrays with the same leading axis m, as `grid` returns.
        strategy: `vmapped`, `mapped`, `batched` or any function like them. When
            absent: `mapped` on CPUs, where lockstep wins nothing, else `vmapped`.
        chunk: points per call, static; when absent all of them, or a 32nd with
            `executor`. The last chunk is filled up with copies of the last point,
            which are dropped again.
        mesh: devices that share the points of each chunk, over all axes of the mesh;
            the data are copied to each of them. A chunk is rounded up to a multiple of
            their number. Results are those of one device, up to rounding: programs for
            other shapes may add in another order. The mesh may span processes that
            `jax.distributed` has joined: each calls `run` alike and gets all results.
        executor: whose workers evaluate the chunks, each on its default device; see
            `map_batches`. `fn` and its data must be picklable; each worker compiles
            once.
        progress: called as `progress(done, total)` after each chunk; `progress_bar`.
        checkpoint: a directory. Every chunk is saved there, whole or not at all, and
            found again by a later run: its results are the same bit for bit. One of
            another function (by its jaxpr), of other points, data or options is
            refused.
        tag: whatever else the results depend on, such as what host callbacks do; a
            checkpoint under another tag is refused.

    Returns:
        The stacked values; a point that fails numerically is flagged in `finite` and
        leaves the others as they are. Cost: one trace, one compilation, and
        ceil(m / chunk) calls, each brought to the host.

    Raises:
        ValueError: for points without a common leading axis, a chunk below 1, fewer
            points than devices, results that do not keep the batch axis, a call from
            inside `jit`, `mesh` and `executor` at once, a checkpoint that belongs to
            another sweep or cannot be written, or one with a mesh that spans
            processes. Exceptions in `fn` pass through.

    Example:
        >>> from fairjax.sweeps import grid
        >>> result = run(lambda p: 1 / p["lam"], grid(lam=[0.0, 2.0]), chunk=1)
        >>> result.values.tolist(), result.finite.tolist()
        ([inf, 0.5], [False, True])
    """
    if not checks.concrete(points, fn if isinstance(fn, Partial) else None):
        raise ValueError(
            "`run` works from the host, chunk by chunk. Inside `jit`, call "
            "`sweeps.mapped(fn)(points)` or `sweeps.vmapped(fn)(points)`."
        )
    points, m = _as_points(points)
    size = chunk_size(m, chunk, executor)
    if mesh is not None:
        mesh = devices.check_mesh(mesh, m, checkpoint=checkpoint, executor=executor)
        size = -(-size // mesh.size) * mesh.size
    strategy = default_strategy() if strategy is None else strategy
    batches = split_points(points, m, size)
    with devices.without_context(mesh):
        bound = jax.device_put(fn if isinstance(fn, Partial) else Partial(fn))
        if mesh is not None:
            bound = jax.device_put(bound, devices.replicated(mesh))
        evaluate = functools.partial(_evaluate, strategy)
        program = devices.program(evaluate, mesh)
        shapes = program.eval_shape(bound, batches[0])
        _check_results(shapes, size=size)
        manifest = {}
        if checkpoint is not None:
            name = getattr(strategy, "__name__", type(strategy).__name__)
            manifest = {"chunk": str(size), "tag": tag, "strategy": name}
            manifest |= checkpoints.describe("points", points)
            manifest |= checkpoints.describe("data", bound.args)
            manifest |= checkpoints.describe("data", bound.keywords)
            manifest |= checkpoints.describe_shapes("results", shapes)
            traced = jax.make_jaxpr(evaluate)(bound, batches[0])
            manifest["program"] = checkpoints.program_digest(traced)
        store = checkpoints.Checkpoint(checkpoint, manifest, shapes, name="chunk")
        work = functools.partial(program, bound)
        if executor is not None:
            work = functools.partial(_evaluate_in_worker, strategy, bound)
        chunks = store.map_batches(
            work,
            batches,
            executor=executor,
            progress=progress and (lambda done, _: progress(min(done * size, m), m)),
        )
    values = jax.tree.map(lambda *v: jnp.asarray(np.concatenate(v)[:m]), *chunks)
    finite = [
        jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(values)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    ok = functools.reduce(jnp.logical_and, finite, jnp.ones(m, bool))
    return SweepResult(jax.tree.map(jnp.asarray, points), values, ok)


def _evaluate(strategy: Strategy, bound: PyTree, batch: PyTree) -> PyTree:
    return strategy(bound)(batch)


_program = jax.jit(_evaluate, static_argnums=0)


def _evaluate_in_worker(strategy: Strategy, bound: PyTree, batch: PyTree) -> PyTree:
    """One chunk; equal strategies and functions share one compiled program."""
    return _program(strategy, bound, batch)


def _as_points(points: PyTree) -> tuple[PyTree, int]:
    leaves = jax.tree.leaves(points)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            f"`points` must be arrays with one leading axis in common, at least 1 "
            f"long, but the shapes are {[np.shape(leaf) for leaf in leaves]}. Make "
            f"them with `sweeps.grid`."
        )

    def to_host(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else np.asarray(leaf)

    return jax.tree.map(to_host, points), lengths.pop()[0]


def _check_results(info: PyTree, *, size: int) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(info)]
    if not shapes or any(shape[:1] != (size,) for shape in shapes):
        raise ValueError(
            f"a batch of {size} points must give arrays with leading axis {size}, but "
            f"the shapes are {shapes}. Under `sweeps.batched`, `fn` takes the batch; "
            f"otherwise it takes one point and returns at least one array."
        )
