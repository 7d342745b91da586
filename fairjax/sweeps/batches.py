"""Batches of independent work, here or on the workers of an executor.

The engine is any `concurrent.futures.Executor`: Dask's `Client.get_executor()`, whose
scheduler takes late workers and retries the batches of lost ones, loky,
`mpi4py.futures`, Ray's, or `ProcessPoolExecutor` with the `spawn` method. A worker
needs fairjax installed, and nothing else: the work travels as a pickle.
"""

import functools
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, as_completed
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..arrays import checks

Work = Callable[[Any], Any]
Done = Callable[[int, Any], None]


def map_batches(
    work: Work,
    batches: Iterable[Any],
    *,
    executor: Executor | None = None,
    done: Done | None = None,
) -> list[Any]:
    """Results of `work(batch)` for each batch, as host arrays in the batches' order.

    Args:
        work: a function of one batch. It is pickled once, with the data bound to it by
            `functools.partial`, sent along with every batch, and loaded once by each
            worker, so that its compiled programs serve all batches there. Functions
            must be importable by the workers; where cloudpickle is installed (Dask and
            loky bring it) closures travel as well.
        batches: pytrees of arrays of the host.
        executor: whose workers do the work, in any order, with the caller's precision
            (`jax_enable_x64` and the like). None does it here, one after the other.
            Processes must be spawned: JAX's threads do not survive a fork.
        done: called here as `done(index, result)` when a batch is finished.

    Raises:
        ValueError: for work that cannot be pickled.
        Exception: the first one raised by `work` or `done`; batches that have not
            begun are cancelled.

    Example:
        >>> list(map(float, map_batches(jax.numpy.square, [1.0, 3.0], done=print)))
        0 1.0
        1 9.0
        [1.0, 9.0]
    """
    if executor is None:
        results = []
        for index, batch in enumerate(batches):
            results.append(jax.device_get(work(batch)))
            if done:
                done(index, results[-1])
        return results
    call = functools.partial(_call, _pickled(work), _numerical_settings())
    futures = {executor.submit(call, batch): i for i, batch in enumerate(batches)}
    results = [None] * len(futures)
    try:
        for future in as_completed(futures):
            index = futures[future]
            results[index] = future.result()
            if done:
                done(index, results[index])
    finally:
        for future in futures:
            future.cancel()
    return results


def chunk_size(m: int, chunk: int | None, executor: Executor | None) -> int:
    """Points per batch: all unless said otherwise, or a 32nd for an executor."""
    if chunk is None:
        return m if executor is None else -(-m // 32)
    return min(checks.as_count(chunk, name="chunk", least=1), m)


def split_points(points: PyTree, m: int, size: int) -> list[PyTree]:
    """Batches of one size; the last is filled up with copies of the last point."""
    batches = []
    for start in range(0, m, size):
        rows = np.minimum(np.arange(start, start + size), m - 1)
        batches.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], points))
    return batches


def _pickled(work: Work) -> bytes:
    try:
        from cloudpickle import dumps
    except ImportError:
        from pickle import dumps
    try:
        return dumps(work)
    except (AttributeError, RuntimeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"work for `executor` must be picklable: {error}. Define its functions in "
            f"a module that workers can import, or install cloudpickle."
        ) from error


def _numerical_settings() -> dict[str, Any]:
    """Settings of JAX that change numbers, by the name of their context manager."""
    return {
        "enable_x64": bool(jax.config.jax_enable_x64),
        "default_matmul_precision": jax.config.jax_default_matmul_precision,
        "default_prng_impl": jax.config.jax_default_prng_impl,
    }


def _call(work: bytes, settings: dict[str, Any], batch: Any) -> Any:
    """The result of one batch; runs in a worker."""
    with (
        jax.enable_x64(settings["enable_x64"]),
        jax.default_matmul_precision(settings["default_matmul_precision"]),
        jax.default_prng_impl(settings["default_prng_impl"]),
    ):
        return jax.device_get(_load(work)(batch))


@functools.lru_cache(maxsize=1)
def _load(work: bytes) -> Work:
    """The same object for each batch of one call, as the caches of `jit` need it."""
    return pickle.loads(work)
