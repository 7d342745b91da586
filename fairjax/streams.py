"""Rows that do not fit into memory: chunks of one shape, read again for every pass.

A stream is any object that can be iterated again and again and yields the same chunks
each time. What is a sum over rows (moments, slopes, rates) is a sum over its chunks, so
`solvers.fit_linear_stream`, `orthogonality.directions_stream` and
`metrics.audit_stream` hold a few chunks, however many rows there are. Files become
streams by `datasets.from_parquet`, arrays on disk (`numpy.memmap`) by `from_arrays`;
the next chunk is read by a thread while the device works on this one.

All chunks have as many rows as the first one, so that each program is compiled once: a
shorter one is filled up with rows of weight 0.
"""

import collections
import contextlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import ArrayLike, Bool, Float32, Int32, Real, Shaped

from .arrays import checks, memory

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """Some rows of a data set.

    Attributes:
        features: of the rows.
        labels: as the loss wants them.
        groups: codes in `[0, n_groups)`.
        weights: non-negative sample weights; 0 for rows that only fill the chunk up.
    """

    features: Float32[np.ndarray, "r d"]
    labels: Float32[np.ndarray, " r"]
    groups: Int32[np.ndarray, " r"]
    weights: Float32[np.ndarray, " r"]


# What can be iterated again and again, and yields the same chunks each time.
Stream = Iterable[Chunk]


class _Arrays(NamedTuple):
    features: Real[np.ndarray, "n d"]
    labels: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"] | None
    weights: Shaped[np.ndarray, " n"] | None


class ArrayStream:
    """The stream of `from_arrays`."""

    lasting = True

    def __init__(self, arrays: _Arrays, chunk: int) -> None:
        self._arrays = arrays
        self._chunk = chunk

    def __iter__(self) -> Iterator[Chunk]:
        features, labels, groups, weights = self._arrays
        for number, start in enumerate(range(0, features.shape[0], self._chunk)):
            rows = slice(start, start + self._chunk)
            own = np.asarray(features[rows])
            n = own.shape[0]
            if own.dtype != np.float32:
                own = _copy(own)
            yield _padded(
                Chunk(
                    own,
                    np.asarray(labels[rows], np.float32),
                    np.zeros(n, np.int32)
                    if groups is None
                    else _codes(np.asarray(groups[rows]), number),
                    np.ones(n, np.float32)
                    if weights is None
                    else np.asarray(weights[rows], np.float32),
                ),
                rows=self._chunk,
            )


def from_arrays(
    features: Real[np.ndarray, "n d"],
    labels: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    *,
    weights: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"] | None = None,
    chunk: int = 65_536,
) -> ArrayStream:
    """A stream of arrays in memory, or of arrays on disk (`numpy.memmap`).

    Args:
        features: samples; only a chunk of them is read at a time.
        labels: as the loss wants them.
        groups: codes; all 0 when absent.
        weights: non-negative sample weights, or a mask.
        chunk: rows per chunk; the last one is filled up with rows of weight 0.

    Returns:
        The stream, whose chunks are converted to float32 as they are read. Values are
        checked by what reads the stream.

    Raises:
        ValueError: for a chunk below 1, no rows, and lengths that differ.

    Example:
        >>> stream = from_arrays(np.ones((5, 2)), np.ones(5), chunk=3)
        >>> [c.weights.tolist() for c in stream]
        [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    check_chunk(chunk)
    shape = np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"`features` must be a table (n, d) with rows and columns, but has shape "
            f"{shape}."
        )
    others = {"labels": labels, "groups": groups, "weights": weights}
    for name, values in others.items():
        if values is not None:
            checks.check_length(values, n=shape[0], name=name)
    return ArrayStream(_Arrays(features, labels, groups, weights), min(chunk, shape[0]))


def scored(
    chunks: Stream,
    coefficients: Real[ArrayLike, " d"],
    intercept: float | Real[ArrayLike, ""] = 0.0,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """One pass of a linear model: what `metrics.audit_stream` reads.

    Args:
        chunks: a stream.
        coefficients: of one model.
        intercept: added to the scores.

    Yields:
        Scores, labels, groups and weights of each chunk.

    Raises:
        ValueError: for coefficients that are not one number per feature.

    Example:
        >>> stream = from_arrays(np.ones((2, 2)), np.array([0, 1]))
        >>> [scores.tolist() for scores, *_ in scored(stream, np.array([1.0, 2.0]))]
        [[3.0, 3.0]]
    """
    model = np.asarray(coefficients, np.float32)
    shift = np.asarray(intercept, np.float32)
    with contextlib.closing(read(chunks)) as reader:
        for features, labels, groups, weights in reader:
            if model.shape != features.shape[1:] or shift.shape:
                raise ValueError(
                    f"`coefficients` and `intercept` must be of one model, shapes "
                    f"{features.shape[1:]} and (), but have shapes {model.shape} and "
                    f"{shift.shape}. Of several models, pass one at a time."
                )
            yield features @ model + shift, labels, groups, weights


def check_chunk(chunk: int) -> None:
    """Raises `ValueError` for a number of rows per chunk below 1.

    Example:
        >>> check_chunk(0)
        Traceback (most recent call last):
        ValueError: `chunk` must be at least 1 row, but is 0.
    """
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1 row, but is {chunk}.")


def _padded(chunk: Chunk, *, rows: int) -> Chunk:
    """The chunk with rows of weight 0 at its end, up to a number of rows."""
    missing = rows - len(chunk.weights)
    if not missing:
        return chunk
    return Chunk(*(np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for a in chunk))


def read(stream: Stream, *, depth: int = 2) -> Generator[Chunk, None, None]:
    """One pass: chunks of one shape, read ahead by a thread.

    A stream may write to its arrays again once it is asked for the next chunk: what it
    yields is copied before. Nothing is copied of lists and tuples, nor of a stream with
    an attribute `lasting` that is True: it promises to leave its chunks as they are, as
    those of `from_arrays` and `datasets.from_parquet` do.

    Args:
        stream: yields chunks, or tuples of their four arrays.
        depth: how many chunks may wait; with the one that is being read and the one
            that is in use, `depth + 2` are held.

    Yields:
        The chunks, each with as many rows as the first one.

    Raises:
        ValueError: for a stream that can be read once only, one without chunks, chunks
            whose shapes do not go together, and groups that are no integers.

    Example:
        >>> stream = from_arrays(np.ones((5, 2)), np.ones(5), chunk=3)
        >>> [c.features.shape for c in read(stream)]
        [(3, 2), (3, 2)]
    """
    if isinstance(stream, Iterator):
        raise ValueError(
            f"`chunks` must be readable again and again, but is a "
            f"{type(stream).__name__}, which ends after one pass. Pass an object whose "
            f"`__iter__` begins anew, such as `streams.from_arrays` makes."
        )
    return _read_ahead(_uniform_chunks(stream), depth=depth)


def _uniform_chunks(stream: Stream) -> Generator[Chunk, None, None]:
    """The chunks in one shape, in memory that stays as it is; runs in the thread."""
    lasting = isinstance(stream, list | tuple) or getattr(stream, "lasting", False)
    first, source = None, iter(stream)
    try:
        for number, given in enumerate(source):
            chunk = _as_chunk(given, number, copy=not lasting)
            shape = chunk.features.shape
            first = first or shape
            if shape[0] > first[0] or shape[1] != first[1]:
                raise ValueError(
                    f"`chunks` must have one shape, but chunk 0 has {first} and chunk "
                    f"{number} has {shape}. Cut the rows into chunks of equal length; "
                    f"only shorter ones are filled up."
                )
            yield _padded(chunk, rows=first[0])
    finally:
        # A generator has files to close, and only its own thread may do so.
        getattr(source, "close", lambda: None)()
    if first is None:
        raise ValueError("`chunks` must hold at least one chunk, but is empty.")


def _as_chunk(given: Chunk, number: int, *, copy: bool) -> Chunk:
    if len(given) != 4:
        raise ValueError(
            f"`chunks` must yield (features, labels, groups, weights), but chunk "
            f"{number} has {len(given)} parts."
        )
    features, labels, groups, weights = map(np.asarray, given)
    shape = features.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"chunk {number}: `features` must be a table (r, d) with rows and columns, "
            f"but has shape {shape}."
        )
    own = np.array if copy else np.asarray
    chunk = Chunk(
        _copy(features) if copy else np.asarray(features, np.float32),
        own(labels, np.float32),
        own(_codes(groups, number)),
        own(weights, np.float32),
    )
    for name in ("labels", "groups", "weights"):
        checks.check_length(
            getattr(chunk, name), n=shape[0], name=f"chunk {number}: {name}"
        )
    return chunk


def _copy(table: Real[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """The table in single precision, in pages of its own."""
    own = memory.page_zeros(*table.shape)
    own[:] = table
    return own


def _codes(groups: Shaped[np.ndarray, "..."], number: int) -> Int32[np.ndarray, "..."]:
    """Codes of a chunk as int32, which would cut fractions off and wrap large ones."""
    if groups.dtype.kind not in "biu":
        raise ValueError(
            f"chunk {number}: `groups` must be integer codes, but their dtype is "
            f"{groups.dtype}. Encode with `np.unique(..., return_inverse=True)`."
        )
    codes = groups.astype(np.int32, copy=False)
    for at in np.argwhere(codes != groups)[:1]:
        raise ValueError(
            f"chunk {number}: `groups` must be codes that int32 holds, but one is "
            f"{groups[tuple(at)]}. Re-encode with `np.unique(..., "
            f"return_inverse=True)`."
        )
    return codes


def _read_ahead(
    items: Generator[Item, None, None], *, depth: int
) -> Generator[Item, None, None]:
    """The same items, produced by a thread ahead of their use; `depth` may wait.

    An error in the thread is raised where the item would have been; when the caller
    stops early, the thread ends before the next item.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="fairjax-reader") as thread:
        waiting = collections.deque(
            thread.submit(next, items, end) for _ in range(depth + 1)
        )
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # pyright: ignore[reportReturnType]
        finally:
            for future in waiting:
                future.cancel()
            # It has files to close, and only its own thread may do so.
            thread.submit(items.close)
