"""Parquet files as a stream: one pass learns the encoding, later passes apply it.

Columns mean what they mean in `from_csv`: numbers are scaled, all else are categories.
Means, deviations and categories are learned from the training rows, batch by batch, so
that streamed features are those of the same table in memory, up to rounding.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .. import files, streams
from ..arrays import memory
from ..streams import Chunk
from . import columns, dataset, labels, roles, sources
from .columns import Frame
from .encoder import MOST_CATEGORIES, EncodedColumn, Encoder
from .roles import Roles


class File(NamedTuple):
    """A file, its columns, and what tells that it has changed."""

    path: Path
    state: tuple[int, ...]
    schema: Any


@dataclasses.dataclass(frozen=True)
class ParquetStream:
    """A stream of encoded rows; iterate over it as often as you like.

    Attributes:
        name: of the first file, without its ending.
        label_name: what label 1 means.
        group_names: one per code.
        encoder: what was learned from the training rows.
        n_rows: how many rows the chunks hold, without those of weight 0.
        chunk: how many rows a chunk has.
        part: "train" or "test" where a column says so, else None for all rows.
    """

    name: str
    label_name: str
    group_names: tuple[str, ...]
    encoder: Encoder
    n_rows: int
    chunk: int
    part: str | None
    _files: tuple[File, ...]
    _roles: Roles
    _labels: dict[tuple[str, ...], int]
    _groups: dict[tuple[str, ...], int]
    # Each chunk is in memory of its own: `streams.read` need not copy it.
    lasting: ClassVar[bool] = True

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One per feature; `"race=Black"` for a one-hot column."""
        return self.encoder.feature_names

    @property
    def columns(self) -> tuple[EncodedColumn, ...]:
        """The encoding of each column."""
        return self.encoder.columns

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return len(self.group_names)

    @property
    def test(self) -> "ParquetStream":
        """The test part, where a column tells the parts; costs a pass that counts."""
        if self._roles.split is None:
            raise ValueError(
                "there is no test part: name a column in `split`, or read other files "
                "with `.on(paths)`."
            )
        return self._counted(part="test")

    def on(
        self, paths: sources.Location | Sequence[sources.Location]
    ) -> "ParquetStream":
        """All rows of other files in the same encoding; costs a pass that counts.

        A category that the training rows do not have gets zeros; a group or a target
        that was not there when the encoding was learned is an error.
        """
        found, used = _open(paths), self._roles._replace(split=None)
        _check_columns(found, used, like=self._files[0])
        return self._counted(part=None, _files=found, _roles=used)

    def __iter__(self) -> Iterator[Chunk]:
        """Begins a new pass; rows in the order of the files, the last ones filled up.

        Raises:
            ValueError: for a file that has changed since its encoding was learned.
        """
        chunk, end, total = self._empty(), 0, 0
        for rows in self._batches():
            start = 0
            while start < len(rows):
                take = min(self.chunk - end, len(rows) - start)
                part = Chunk(*(a[end : end + take] for a in chunk))
                self._encode(rows[start : start + take], part)
                start, end, total = start + take, end + take, total + take
                if end == self.chunk:
                    yield chunk
                    chunk, end = self._empty(), 0
        if total != self.n_rows:
            raise ValueError(
                f"the files of {self.name!r} had {self.n_rows} rows at first, and now "
                f"have {total}. Call `from_parquet` again."
            )
        if end:
            yield chunk

    def _batches(self) -> Iterator[Frame]:
        """The rows of this part, at most a chunk at a time."""
        for rows in _batches(self._files, self._roles, size=self.chunk):
            if self.part is None:
                yield rows
            else:
                yield rows[self._roles.is_train(rows) == (self.part == "train")]

    def _counted(self, **changes: Any) -> "ParquetStream":
        other = dataclasses.replace(self, **changes)
        n_rows = sum(map(len, other._batches()))
        if not n_rows:
            raise ValueError(f"the {other.part or 'other'} part has no rows.")
        return dataclasses.replace(other, n_rows=n_rows)

    def _empty(self) -> Chunk:
        n = self.chunk
        return Chunk(
            memory.page_zeros(n, len(self.feature_names)),
            np.zeros(n, np.float32),
            np.zeros(n, np.int32),
            np.zeros(n, np.float32),
        )

    def _encode(self, rows: Frame, out: Chunk) -> None:
        """Writes rows into their places in a chunk."""
        self.encoder.transform(rows, out=out.features)
        targets, members = _classes(rows, self._roles)
        for what, (codes, texts), known, values in (
            ("target", targets, self._labels, out.labels),
            ("group", members, self._groups, out.groups),
        ):
            new = {texts[code] for code in np.unique(codes)} - known.keys()
            for text in sorted(new)[:1]:
                raise ValueError(
                    f"{rows.index.name!r} has a {what} that was not there when the "
                    f"encoding was learned: {' & '.join(text)!r}."
                )
            values[:] = np.array([known.get(text, 0) for text in texts])[codes]
        out.weights[:] = 1


def from_parquet(
    paths: sources.Location | Sequence[sources.Location],
    *,
    target: str,
    sensitive: str | Sequence[str],
    positive: str | int | float | bool | None = None,
    favourable: str | None = None,
    split: str | None = None,
    exclude: str | Sequence[str] = (),
    sensitive_in_features: bool = True,
    drop_missing: bool = False,
    chunk: int = 65_536,
) -> ParquetStream:
    """Parquet files of any size as a stream of chunks, encoded as `from_csv` does.

    Columns of numbers are scaled; all others are categories, one-hot encoded, where a
    missing entry is a category of its own. Missing are null, NaN and blank texts.

    Args:
        paths: one file or several, which are read in this order.
        target: column to predict.
        sensitive: one or several columns; several make intersections, as groups only
            those that occur.
        positive: the value of `target` that becomes label 1, the favourable outcome;
            all other values become 0. May be left out for 0 and 1, -1 and 1, or False
            and True. A number or truth value may be spelled in another way, 01 or true.
        favourable: what label 1 means, in words; "<target> = <positive>" when absent.
        split: column that says "train" or "test"; the stream is of the training rows,
            and its property `test` of the others. When absent, all rows are training,
            and `stream.on(paths)` reads other files in the same encoding.
        exclude: columns that are no features: identifiers, weights, other outcomes.
        sensitive_in_features: False leaves the sensitive columns out of the features.
        drop_missing: leaves out rows with a missing entry in a column that is used.
        chunk: rows per chunk, which is all that is held; the last one is filled up with
            rows of weight 0.

    Returns:
        A stream that `solvers.fit_linear_stream` and others read. Cost: one pass here,
        and one for each iteration.

    Raises:
        ValueError: for files that are missing, empty, no Parquet, or of different
            columns; columns that are unknown, of lists or structs, or two of one name;
            numbers that are missing or infinite and targets that are missing, with file
            and row; labels or groups all alike. In later passes, for a file that has
            changed. Data rows are counted from 1.

    Example:
        >>> import pathlib, tempfile
        >>> import pyarrow as pa, pyarrow.parquet as pq
        >>> table = pa.table({"age": [31, 40, 25], "sex": ["F", "M", "M"],
        ...     "repaid": [True, False, True]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "loans.parquet")
        ...     pq.write_table(table, path)
        ...     stream = from_parquet(path, target="repaid", sensitive="sex", chunk=2)
        ...     weights = [c.weights.tolist() for c in stream]
        >>> stream.feature_names, stream.group_names, weights
        (('age', 'sex=F', 'sex=M'), ('F', 'M'), [[1.0, 1.0], [1.0, 0.0]])
    """
    streams.check_chunk(chunk)
    found = _open(paths)
    used = roles.assign(
        found[0].schema.names,
        target=target,
        sensitive=sensitive,
        split=split,
        exclude=exclude,
        sensitive_in_features=sensitive_in_features,
        drop_missing=drop_missing,
    )
    _check_columns(found, used, like=found[0])
    # Training rows of each target and group; 0 for those of the test part alone.
    targets: dict[tuple[str, ...], int] = {}
    groups: dict[tuple[str, ...], int] = {}

    def batches() -> Iterator[tuple[Frame, Bool[np.ndarray, " n"]]]:
        for rows in _batches(found, used, size=chunk):
            is_train = used.is_train(rows)
            for counts, (codes, texts) in zip(
                (targets, groups), _classes(rows, used), strict=True
            ):
                numbers = np.bincount(codes, weights=is_train)
                for code in np.unique(codes):
                    counts[texts[code]] = counts.get(texts[code], 0) + int(
                        numbers[code]
                    )
            if len(targets) > MOST_CATEGORIES:
                raise ValueError(
                    f"column {target!r} has more than {MOST_CATEGORIES} different "
                    f"values: a target must be a class."
                )
            yield rows[list(used.features)], is_train

    encoder = Encoder.learn(batches())
    name, n_rows = found[0].path.stem, sum(targets.values())
    if not n_rows:
        raise ValueError(
            f"{name!r} has no training rows{' without missing entries' * drop_missing}."
        )
    value = labels.favourable_value(
        [text for (text,) in targets], target=target, positive=positive
    )
    label_name = favourable or f"{target} = {value}"
    dataset.check_comparable(
        name,
        n_rows,
        n_labels=1 + (0 < targets[value,] < n_rows),
        n_groups=sum(count > 0 for count in groups.values()),
        origin=f"Label 1 is {label_name!r}; groups come from {list(used.sensitive)}.",
    )
    members = sorted(groups)
    return ParquetStream(
        name=name,
        label_name=label_name,
        group_names=tuple(map(" & ".join, members)),
        encoder=encoder,
        n_rows=n_rows,
        chunk=min(chunk, n_rows),
        part=None if split is None else "train",
        _files=found,
        _roles=used,
        _labels={target: int(target == (value,)) for target in targets},
        _groups={member: code for code, member in enumerate(members)},
    )


Classes = tuple[Int[np.ndarray, " n"], list[tuple[str, ...]]]


def _classes(rows: Frame, used: Roles) -> tuple[Classes, Classes]:
    """Targets and groups of the rows: codes, and the texts that make each."""
    codes, texts = labels.target_texts(rows[used.target])
    targets = codes, [(text,) for text in texts]
    return targets, columns.memberships([rows[name] for name in used.sensitive])


def _batches(found: tuple[File, ...], used: Roles, *, size: int) -> Iterator[Frame]:
    """The rows that are used, file by file, at most `size` at a time."""
    pd, types = columns.extra("pandas"), columns.extra("pyarrow.types")
    parquet = columns.extra("pyarrow.parquet")

    def keep_type(kind: Any) -> Any:
        # Arrow has no codes of half precision.
        return None if types.is_float16(kind) else pd.ArrowDtype(kind)

    # Texts that are stored as codes are read as codes, without making the texts.
    texts = [name for name in used.used if not _is_numeric(found[0], name)]
    # Reading ahead (`pre_buffer`) would hold the whole file, and `pyarrow.dataset` a
    # whole row group; a stream of bytes for each column holds a page.
    options = {"pre_buffer": False, "buffer_size": 2**16, "read_dictionary": texts}
    for file in found:
        if _state(file.path) != file.state:
            raise ValueError(
                f"{str(file.path)!r} has changed since its encoding was learned. Call "
                f"`from_parquet` again."
            )
        start = 0
        with parquet.ParquetFile(file.path, **options) as source:
            for batch in source.iter_batches(batch_size=size, columns=used.used):
                rows = batch.to_pandas(types_mapper=keep_type, ignore_metadata=True)
                end = start + len(rows)
                rows.index = pd.RangeIndex(start, end, name=str(file.path))
                start, rows = end, used.select(rows)
                if len(rows):
                    yield rows


def _open(paths: sources.Location | Sequence[sources.Location]) -> tuple[File, ...]:
    """The files, which must be there and have rows."""
    pa, parquet = columns.extra("pyarrow"), columns.extra("pyarrow.parquet")
    found = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        state = _state(Path(path))
        try:
            metadata = parquet.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"`paths`: cannot read {str(path)!r} as Parquet: {error}"
            ) from error
        if not metadata.num_rows:
            raise ValueError(f"{str(path)!r} has no rows.")
        found.append(File(Path(path), state, metadata.schema.to_arrow_schema()))
    if not found:
        raise ValueError("`paths` must name at least one file, but is empty.")
    return tuple(found)


def _state(path: Path) -> tuple[int, ...]:
    try:
        return files.state(path)
    except OSError as error:
        raise ValueError(
            f"`paths`: cannot read {str(path)!r}: {error.strerror}."
        ) from error


def _is_numeric(file: File, name: str) -> bool:
    """True for a column of numbers; truth values are categories."""
    types, kind = columns.extra("pyarrow.types"), file.schema.field(name).type
    return any(
        test(kind) for test in (types.is_integer, types.is_floating, types.is_decimal)
    )


def _check_columns(found: tuple[File, ...], used: Roles, *, like: File) -> None:
    """Raises `ValueError` unless files have the columns, numbers where another has."""
    is_nested = columns.extra("pyarrow.types").is_nested
    for file in found:
        for name in used.used:
            times = file.schema.names.count(name)
            if times != 1:
                raise ValueError(
                    f"{str(file.path)!r} has {times or 'no'} "
                    f"column{'s' * (times > 1)} {name!r}, which is used."
                    + " Give each a name of its own."
                    * (times > 1)
                )
            if is_nested(file.schema.field(name).type):
                raise ValueError(
                    f"column {name!r} of {str(file.path)!r} holds lists or structs, "
                    f"which are no features. Name it in `exclude`, or make a column of "
                    f"each of their parts."
                )
            numeric = _is_numeric(file, name)
            if numeric != _is_numeric(like, name):
                here, there = ("numbers", "categories")[:: 1 if numeric else -1]
                raise ValueError(
                    f"column {name!r} holds {here} in {str(file.path)!r}, but {there} "
                    f"in the first file. Convert one of them."
                )
