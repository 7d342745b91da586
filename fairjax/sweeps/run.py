"""Sweeps: grids of hyper-parameters as data, run by one compiled program.

A point is a pytree of scalars, a grid is the same pytree with a leading axis. How a
function of one point becomes a function of many is a choice, and a choice is a
function: `vmapped`, `mapped`, `batched`, or your own. `run` adds what a long sweep
needs around it: chunks, progress, resume, and failed points that stay alone.

Bind data with `jax.tree_util.Partial(fn, data)`: they become arguments of the program,
not constants inside it, and a checkpoint tells when they have changed.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Int, PyTree

from ..arrays import checks
from . import checkpoints, devices, fingerprints, processes
from .selection import pareto_front as pareto_front
from .selection import select as select
from .splits import as_count
from .splits import folds as folds
from .splits import safety_split as safety_split

PointFunction = Callable[..., Any]
Strategy = Callable[[PointFunction], PointFunction]
Progress = Callable[[int, int], None]


class SweepResult(NamedTuple):
    """What `run` returns; axis 0 of every array has one entry per point, in order.

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


def grid(**axes: Any) -> dict[str, Array]:
    """Cartesian product of named axes; the last one varies fastest.

    Args:
        **axes: one-dimensional, numbers; infinity is allowed, NaN is not.

    Returns:
        One array of shape (m,) per axis, m the product of the lengths.

    Raises:
        ValueError: for no axis, an empty one, NaN, or a number that JAX's present
            precision cannot hold.

    Example:
        >>> points = grid(lam=[0.0, 1.0], seed=[3, 4])
        >>> points["lam"].tolist(), points["seed"].tolist()
        ([0.0, 0.0, 1.0, 1.0], [3, 4, 3, 4])
    """
    if not axes:
        raise ValueError("`grid` needs an axis, for example `grid(lam=[0.1, 1.0])`.")
    columns = {}
    for name, axis in axes.items():
        values = np.asarray(axis)
        if values.ndim != 1 or values.size == 0:
            raise ValueError(
                f"`{name}` must be a list of at least one value, but has shape "
                f"{values.shape}. Write a fixed value as [value]."
            )
        real = (jnp.bool_, jnp.integer, jnp.floating)  # bfloat16 too
        known = any(jnp.issubdtype(values.dtype, kind) for kind in real)
        if not known or np.isnan(values.astype(float)).any():
            raise ValueError(
                f"`{name}` must hold numbers and no NaN, but is {values.tolist()}."
            )
        with np.errstate(over="ignore"):
            columns[name] = np.asarray(jnp.asarray(values))
        held = np.isclose(
            columns[name].astype(float), values.astype(float), rtol=1e-6, atol=0
        )
        if not held.all():
            raise ValueError(
                f"`{name}` holds {values[~held][0]}, which {columns[name].dtype} "
                f"cannot. Rescale it, or set `jax_enable_x64`."
            )
    product = np.meshgrid(*columns.values(), indexing="ij")
    return {k: jnp.asarray(v.ravel()) for k, v in zip(columns, product, strict=True)}


def run(
    fn: PointFunction,
    points: PyTree,
    *,
    strategy: Strategy | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tag: str = "",
) -> SweepResult:
    """Evaluates a function at every point of a grid, compiling it once.

    Args:
        fn: one point to a pytree of arrays of static shape (under `batched`: a batch
            of points to arrays that keep its leading axis). Bind data with
            `jax.tree_util.Partial`.
        points: pytree of arrays with the same leading axis m, as `grid` returns.
        strategy: `vmapped`, `mapped`, `batched` or any function like them. When
            absent: `mapped` on CPUs, where lockstep wins nothing, else `vmapped`.
        chunk: points per call, static; all of them when absent. The last chunk is
            filled up with copies of the last point, which are dropped again.
        mesh: devices that share the points of each chunk, over all axes of the mesh;
            the data are copied to each of them. A chunk is rounded up to a multiple of
            their number. Results are those of one device, up to rounding: programs for
            other shapes may add in another order. The mesh may span processes that
            `jax.distributed` has joined: each calls `run` alike and gets all results.
        progress: called as `progress(done, total)` after each chunk; `progress_bar`.
        checkpoint: a directory. Every chunk is saved there, whole or not at all, and
            found again by a later run: its results are the same bit for bit. Of several
            processes the first one reads and writes.
        tag: whatever else the results depend on, such as a version of `fn`; a
            checkpoint under another tag is refused.

    Returns:
        The stacked values; a point that fails numerically is flagged in `finite` and
        leaves the others as they are. Cost: one trace, one compilation, and
        ceil(m / chunk) calls, each brought to the host.

    Raises:
        ValueError: for points without a common leading axis, a chunk below 1, fewer
            points than devices, results that do not keep the batch axis, a call from
            inside `jit`, a checkpoint that belongs to another sweep or cannot be
            written, or processes that differ in points, data or options. Exceptions in
            `fn` pass through.

    Example:
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
    size = m if chunk is None else min(as_count(chunk, name="chunk", least=1), m)
    if mesh is not None:
        mesh = devices.check(mesh, m)
        size = -(-size // mesh.size) * mesh.size
    if strategy is None:
        strategy = mapped if jax.default_backend() == "cpu" else vmapped
    with devices.apart(mesh):
        bound = jax.device_put(fn if isinstance(fn, Partial) else Partial(fn))
        several = devices.several(mesh)
        manifest = {}
        if several or checkpoint is not None:
            name = getattr(strategy, "__name__", type(strategy).__name__)
            manifest = {"chunk": str(size), "tag": tag, "strategy": name}
            manifest |= checkpoints.describe("points", points)
            manifest |= checkpoints.describe("data", bound.args)
            manifest |= checkpoints.describe("data", bound.keywords)
        if several:
            saved = {"saved": str(checkpoint is not None)}
            digest = checkpoints.digest(manifest | saved)
            processes.check_same(digest, what="`points`, data and options of a sweep")
        if mesh is not None:
            bound = jax.device_put(bound, devices.everywhere(mesh))

        def batch_at(start: int) -> PyTree:
            rows = np.minimum(np.arange(start, start + size), m - 1)
            return jax.tree.map(lambda leaf: leaf[rows], points)

        def evaluate(bound: PyTree, batch: PyTree) -> PyTree:
            return strategy(bound)(batch)

        program = devices.program(evaluate, mesh)
        traced = program.trace(bound, batch_at(0))
        _check_results(traced.out_info, size=size)
        if manifest:
            manifest |= checkpoints.describe_form("results", traced.out_info)
        store = checkpoints.Store(
            checkpoint, manifest, traced.out_info, part="chunk", several=several
        )

        compiled = None
        chunks = []
        for number, start in enumerate(range(0, m, size)):
            values = store.load(number)
            if values is None:
                compiled = compiled or traced.lower().compile()
                values = jax.device_get(compiled(bound, batch_at(start)))
                store.save(number, values)
            chunks.append(values)
            if progress:
                progress(min(start + size, m), m)
    values = jax.tree.map(lambda *v: jnp.asarray(np.concatenate(v)[:m]), *chunks)
    finite = [
        jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(values)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    ok = functools.reduce(jnp.logical_and, finite, jnp.ones(m, bool))
    return SweepResult(jax.tree.map(jnp.asarray, points), values, ok)


@contextlib.contextmanager
def progress_bar(description: str = "sweep") -> Iterator[Progress]:
    """Yields a `progress` callable that draws a bar with the time left on stderr.

    It draws nothing when stderr is no terminal or rich is not installed.

    Example:
        >>> with progress_bar("lam") as progress:
        ...     _ = run(jnp.sqrt, jnp.arange(4.0), chunk=2, progress=progress)
    """
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        yield lambda done, total: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Bar(console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def cross_validate(
    fn: PointFunction,
    fold_codes: Int[ArrayLike, " n"],
    *,
    n_folds: int,
    progress: Progress | None = None,
) -> PyTree:
    """Calls `fn(train, validation)` once per fold; one program serves all folds.

    A fold is a pair of masks, so shapes never change: fit with `weights=train` and
    score with `weights=validation`. Grids go inside: `mapped(...)(points)` in `fn`
    gives (n_folds, m) tables. Where chunks or a checkpoint are wanted, make the fold
    an axis instead: `run(fn, grid(fold=range(n_folds), lam=...))`.

    Args:
        fn: two boolean masks (n,) to a pytree of arrays; it is traced once. Bind data
            with `jax.tree_util.Partial`.
        fold_codes: from `folds`; each of `[0, n_folds)` must occur.
        n_folds: static.
        progress: called as `progress(done, n_folds)` after each fold.

    Returns:
        The values of `fn`, stacked on a new axis 0 of length `n_folds`.

    Raises:
        ValueError: for codes out of range, an empty fold, or fewer than 2 folds.

    Example:
        >>> codes = jnp.array([0, 1, 1])
        >>> cross_validate(
        ...     lambda train, validation: validation.sum(), codes, n_folds=2).tolist()
        [1, 2]
    """
    n = np.shape(fold_codes)[0]
    n_folds = as_count(n_folds, name="n_folds", least=2, most=n)
    checks.check_groups(fold_codes, n_groups=n_folds, name="fold_codes")
    if checks.concrete(fold_codes):
        sizes = np.bincount(np.asarray(fold_codes), minlength=n_folds)
        if not sizes.all():
            raise ValueError(
                f"every fold needs a sample, but fold {int(np.argmin(sizes))} of "
                f"{n_folds} has none. Make the codes with `sweeps.folds`."
            )
    codes = jnp.asarray(fold_codes)
    bound = jax.device_put(fn if isinstance(fn, Partial) else Partial(fn))
    one = jax.jit(lambda bound, codes, fold: bound(codes != fold, codes == fold))
    values = []
    for fold in range(n_folds):
        values.append(one(bound, codes, jnp.asarray(fold, codes.dtype)))
        if progress:
            jax.block_until_ready(values[-1])
            progress(fold + 1, n_folds)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def _as_points(points: PyTree) -> tuple[PyTree, int]:
    leaves = jax.tree.leaves(points)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            f"`points` must be arrays with one leading axis in common, at least 1 "
            f"long, but the shapes are {[np.shape(leaf) for leaf in leaves]}. Make "
            f"them with `sweeps.grid`."
        )
    arrays = jax.tree.map(jnp.asarray, points)
    host = jax.tree.map(
        lambda x: x if fingerprints.is_key(x) else np.asarray(x), arrays
    )
    return host, lengths.pop()[0]


def _check_results(info: PyTree, *, size: int) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(info)]
    if not shapes or any(shape[:1] != (size,) for shape in shapes):
        raise ValueError(
            f"a batch of {size} points must give arrays with leading axis {size}, but "
            f"the shapes are {shapes}. Under `sweeps.batched`, `fn` takes the batch; "
            f"otherwise it takes one point and returns at least one array."
        )
