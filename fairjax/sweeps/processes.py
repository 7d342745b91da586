"""Several processes that run one program: what they agree on, and who writes.

Each calls the same functions in the same order. The first one reads and writes files;
what it finds, and what it fails at, all are told.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np
from jaxtyping import PyTree, UInt8

T = TypeVar("T")

_LETTERS = 4096  # of a message that all are told


def check_same(digest: bytes, *, what: str) -> None:
    """Raises `ValueError`, in all processes, unless all hold the same.

    Args:
        digest: 32 bytes that tell what this process holds.
        what: the same, in words.
    """
    own = np.frombuffer(digest, np.uint8)
    all_ = np.asarray(_multihost().process_allgather(own))
    other = np.flatnonzero((all_ != all_[0]).any(axis=1))
    if other.size:
        raise ValueError(
            f"{what} must be the same in all processes, but differ between process 0 "
            f"and {', '.join(map(str, other))}. Load the same data everywhere, with "
            f"the same seeds and the same precision."
        )


def by_first(action: Callable[[], T]) -> T | None:
    """What the first process does, and no other; its failure is everyone's.

    Returns:
        What it returned, in the first process; None in others.

    Raises:
        ValueError: with its message, in all processes, where it raised `OSError` or
            `ValueError`.
    """
    found, message = None, b""
    if jax.process_index() == 0:
        try:
            found = action()
        except (OSError, ValueError) as error:
            message = str(error).encode()[:_LETTERS] or b"failed in process 0"
    letters = np.zeros(_LETTERS, np.uint8)
    letters[: len(message)] = np.frombuffer(message, np.uint8)
    told = np.asarray(_multihost().broadcast_one_to_all(letters))
    if told.any():
        raise ValueError(bytes(told).rstrip(b"\0").decode(errors="replace"))
    return found


def from_first(values: PyTree | None, info: PyTree) -> PyTree | None:
    """The arrays of the first process, or None where it has none, for all processes.

    Args:
        values: of this process; read in the first one only.
        info: their shapes and dtypes.
    """
    there = np.asarray(values is not None)
    if not _multihost().broadcast_one_to_all(there):
        return None
    if jax.process_index():
        values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), info)
    told = _multihost().broadcast_one_to_all(_as_bytes(values))
    return _from_bytes(np.asarray(told), values)


def gather(tree: PyTree) -> PyTree:
    """The arrays of all processes, those of the first one first, joined on axis 0.

    Args:
        tree: arrays of the host, of the same shapes and dtypes in all processes.
    """
    told = np.asarray(_multihost().process_allgather(_as_bytes(tree)))
    parts = [_from_bytes(own, tree) for own in told]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def together(action: Callable[[], T]) -> T:
    """What each process does on its own; the failure of one is everyone's.

    Returns:
        What it returned in this process.

    Raises:
        ValueError: in all processes, where it raised `ImportError`, `OSError` or
            `ValueError` in one; its own message, or that of the first that failed.
    """
    found, failure = None, None
    try:
        found = action()
    except (ImportError, OSError, ValueError) as error:
        failure = error
    own = np.zeros(_LETTERS, np.uint8)
    message = (str(failure) or "failed").encode()[:_LETTERS] if failure else b""
    own[: len(message)] = np.frombuffer(message, np.uint8)
    told = np.asarray(_multihost().process_allgather(own))
    if failure is not None:
        raise failure
    for process in np.flatnonzero(told.any(axis=1)).tolist():
        words = bytes(told[process]).rstrip(b"\0").decode(errors="replace")
        raise ValueError(f"process {process} ended: {words}")
    return cast(T, found)


def _as_bytes(tree: PyTree) -> UInt8[np.ndarray, " b"]:
    """One vector: a device would round 64 bits to 32."""
    leaves = [np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return np.frombuffer(b"".join(leaves), np.uint8)


def _from_bytes(vector: UInt8[np.ndarray, " b"], like: PyTree) -> PyTree:
    whole, start, leaves = vector.tobytes(), 0, []
    for leaf in jax.tree.leaves(like):
        size = int(np.prod(leaf.shape, dtype=int)) * leaf.dtype.itemsize
        part = np.frombuffer(whole[start : start + size], leaf.dtype)
        leaves.append(part.reshape(leaf.shape).copy())
        start += size
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _multihost():
    from jax.experimental import multihost_utils

    return multihost_utils
