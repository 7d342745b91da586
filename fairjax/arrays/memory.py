"""Memory of its own for large tables that one thread makes and another lets go."""

import mmap

import numpy as np
from jaxtyping import Float32


def page_zeros(n: int, d: int) -> Float32[np.ndarray, "n d"]:
    """Zeros in pages of their own, which the system has back when they are let go.

    The heap would keep tables of this size, made by one thread and let go by another:
    with 16 heaps of 64 MiB and more, that is a gigabyte for chunks of 28 MB. They also
    begin where a page does, so that JAX takes them as they lie.

    Args:
        n: rows.
        d: columns.

    Returns:
        The table, to be written to.

    Example:
        >>> page_zeros(2, 3).sum()
        np.float32(0.0)
    """
    memory = mmap.mmap(-1, max(4 * n * d, 1), access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, np.float32, count=n * d).reshape(n, d)
