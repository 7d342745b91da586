"""Several processes that run one program: what they agree on, and who writes.

Each calls the same functions in the same order. The first one reads and writes files;
what it finds, and what it fails at, all are told.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

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
    return jax.tree.map(np.asarray, _multihost().broadcast_one_to_all(values))


def _multihost():
    from jax.experimental import multihost_utils

    return multihost_utils
