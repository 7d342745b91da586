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
from jaxtyping import Bool, Float, Int, Shaped

from .. import streams
from ..streams import Chunk
from . import dataset, sources, tables

Batch = Any  # A record batch of pyarrow, which is imported where it is used.


class Column(NamedTuple):
    """How a column becomes features.

    Attributes:
        name: of the column.
        mean: of the training rows; 0 for categories.
        deviation: likewise, the standard deviation; 0 where they are constant.
        categories: one feature each; empty for numbers.
    """

    name: str
    mean: float
    deviation: float
    categories: tuple[str, ...]


class Roles(NamedTuple):
    """Which columns are read, and what for.

    Attributes:
        target: what is predicted.
        sensitive: what makes the groups.
        split: what says "train" or "test", or None.
        features: the others that are used, in the order of the first file.
        numeric: those whose type is numbers.
        drop_missing: whether rows with a missing entry are left out.
    """

    target: str
    sensitive: tuple[str, ...]
    split: str | None
    features: tuple[str, ...]
    numeric: frozenset[str]
    drop_missing: bool

    @property
    def used(self) -> list[str]:
        """All columns that are read, each once."""
        split = [] if self.split is None else [self.split]
        return list(
            dict.fromkeys([self.target, *self.sensitive, *split, *self.features])
        )


class File(NamedTuple):
    """A file, and what tells that it has changed."""

    path: Path
    size: int
    changed: int


class Piece(NamedTuple):
    """Rows of a file that are used; `rows` are their places in it, from 1."""

    path: Path
    rows: Int[np.ndarray, " r"]
    batch: Batch


@dataclasses.dataclass(frozen=True)
class ParquetStream:
    """A stream of encoded rows; iterate over it as often as you like.

    Attributes:
        name: of the first file, without its ending.
        feature_names: one per column; `"race=Black"` for a one-hot column.
        label_name: what label 1 means.
        group_names: one per code.
        columns: what was learned from the training rows.
        n_rows: how many rows the chunks hold, without those of weight 0.
        chunk: how many rows a chunk has.
        part: "train" or "test" where a column says so, else None for all rows.
    """

    name: str
    feature_names: tuple[str, ...]
    label_name: str
    group_names: tuple[str, ...]
    columns: tuple[Column, ...]
    n_rows: int
    chunk: int
    part: str | None
    _files: tuple[File, ...]
    _roles: Roles
    _positive: str
    _targets: frozenset[str]
    _codes: dict[tuple[str, ...], int]
    # Each chunk is in memory of its own: `streams.read` need not copy it.
    lasting: ClassVar[bool] = True

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
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
        files = _files(paths)
        _check_types(files, self._roles)
        roles = self._roles._replace(split=None)
        return dataclasses.replace(self, _roles=roles)._counted(part=None, _files=files)

    def __iter__(self) -> Iterator[Chunk]:
        """Begins a new pass; rows in the order of the files, the last ones filled up.

        Raises:
            ValueError: for a file that has changed since its encoding was learned.
        """
        chunk, fill, total = self._empty(), 0, 0
        for piece in _pieces(self._files, self._roles, self.part, rows=self.chunk):
            start, n = 0, piece.batch.num_rows
            while start < n:
                take = min(self.chunk - fill, n - start)
                part = slice(start, start + take)
                own = Piece(
                    piece.path, piece.rows[part], piece.batch.slice(start, take)
                )
                self._encode(own, Chunk(*(a[fill : fill + take] for a in chunk)))
                start, fill, total = start + take, fill + take, total + take
                if fill == self.chunk:
                    yield chunk
                    chunk, fill = self._empty(), 0
        if total != self.n_rows:
            raise ValueError(
                f"the files of {self.name!r} had {self.n_rows} rows at first, and now "
                f"have {total}. Call `from_parquet` again."
            )
        if fill:
            yield chunk

    def _counted(self, **changes: Any) -> "ParquetStream":
        other = dataclasses.replace(self, **changes)
        pieces = _pieces(other._files, other._roles, other.part, rows=self.chunk)
        n_rows = sum(piece.batch.num_rows for piece in pieces)
        if not n_rows:
            raise ValueError(f"the {other.part or 'other'} part has no rows.")
        return dataclasses.replace(other, n_rows=n_rows)

    def _empty(self) -> Chunk:
        n = self.chunk
        return Chunk(
            streams.pages(n, len(self.feature_names)),
            np.zeros(n, np.float32),
            np.zeros(n, np.int32),
            np.zeros(n, np.float32),
        )

    def _encode(self, piece: Piece, into: Chunk) -> None:
        """Writes rows into their places in a chunk."""
        roles, at = self._roles, 0
        for column in self.columns:
            if not column.categories:
                values = _numbers(piece, column.name)
                if column.deviation:
                    into.features[:, at] = _scaled(values, column, piece)
                at += 1
                continue
            known = {text: at + i for i, text in enumerate(column.categories)}
            codes, texts = _texts(piece, column.name)
            place = np.array([known.get(text, -1) for text in texts])[codes]
            rows = np.flatnonzero(place >= 0)
            into.features[rows, place[rows]] = 1
            at += len(column.categories)
        codes, texts = _labels(piece, roles)
        into.labels[:] = np.array([t == self._positive for t in texts])[codes]
        joint, members = _memberships(piece, roles)
        known = np.array([t in self._targets for t in texts])
        new_targets = [texts[c] for c in codes[~known[codes]][:1]]
        new_groups = [" & ".join(m) for m in members if m not in self._codes]
        for what, new in (("target", new_targets), ("group", new_groups)):
            if new:
                raise ValueError(
                    f"{str(piece.path)!r} has a {what} that was not there when the "
                    f"encoding was learned: {new[0]!r}."
                )
        into.groups[:] = np.array([self._codes[m] for m in members])[joint]
        into.weights[:] = 1


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
    files = _files(paths)
    names, numeric, _ = _types(files[0].path)
    sensitive, exclude = dataset.listed(sensitive), dataset.listed(exclude)
    _check_roles(names, target, sensitive, exclude, split)
    left_out = {target, *exclude, *([] if split is None else [split])}
    if not sensitive_in_features:
        left_out |= set(sensitive)
    features = tuple(name for name in names if name not in left_out)
    if not features:
        raise ValueError(
            "no feature is left: every column is the target, sensitive or excluded."
        )
    roles = Roles(target, tuple(sensitive), split, features, numeric, drop_missing)
    _check_types(files, roles)
    learned = _learn(files, roles, rows=chunk)
    name = files[0].path.stem
    if not learned.n_rows:
        raise ValueError(
            f"{name!r} has no training rows{' without missing entries' * drop_missing}."
        )
    value = tables.favourable_value(
        np.array(sorted(learned.targets)), target=target, positive=positive
    )
    positives = learned.labels.get(value, 0)
    for what, some in (
        ("label", 0 < positives < learned.n_rows),
        ("group", len(learned.trained) > 1),
    ):
        if not some:
            raise ValueError(
                f"the training part of {name!r} needs at least two {what}s, but its "
                f"{learned.n_rows} rows have the same: there is nothing to compare."
            )
    members = sorted(learned.members)
    feature_names = []
    for column in learned.columns:
        texts = [f"{column.name}={c}" for c in column.categories]
        feature_names += texts or [column.name]
    return ParquetStream(
        name=name,
        feature_names=tuple(feature_names),
        label_name=favourable or f"{target} = {value}",
        group_names=tuple(map(" & ".join, members)),
        columns=learned.columns,
        n_rows=learned.n_rows,
        chunk=min(chunk, learned.n_rows),
        part=None if split is None else "train",
        _files=files,
        _roles=roles,
        _positive=value,
        _targets=frozenset(learned.targets),
        _codes={member: code for code, member in enumerate(members)},
    )


class _Learned(NamedTuple):
    """What the first pass tells; `trained` are the groups of the training rows."""

    columns: tuple[Column, ...]
    n_rows: int
    targets: set[str]
    labels: dict[str, int]
    members: set[tuple[str, ...]]
    trained: set[tuple[str, ...]]


class _Moments(NamedTuple):
    """Count, mean, sum of squared deviations, and range of a column of numbers.

    They are those of the numbers times `unit`, so that no square overflows or vanishes;
    the range is of the numbers themselves.
    """

    unit: float = 2.0**1023
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def plus(self, values: Float[np.ndarray, " r"]) -> "_Moments":
        """Chan, Golub, LeVeque (1983): nothing cancels, whatever the mean."""
        n, more = self.n, values.size
        unit = min(self.unit, tables.unit(values))
        step = unit / self.unit
        scaled = values * unit
        mean = float(scaled.mean())
        apart = mean - step * self.mean
        return _Moments(
            unit,
            n + more,
            step * self.mean + apart * more / (n + more),
            step * step * self.squares
            + float(np.square(scaled - mean).sum())
            + apart * apart * (n * more / (n + more)),
            min(self.low, float(values.min())),
            max(self.high, float(values.max())),
        )


def _learn(files: tuple[File, ...], roles: Roles, *, rows: int) -> _Learned:
    """The first pass over all rows."""
    moments = {name: _Moments() for name in roles.features if name in roles.numeric}
    categories: dict[str, set[str]] = {
        name: set() for name in roles.features if name not in roles.numeric
    }
    targets, labels, members, trained, n_rows = set(), {}, set(), set(), 0
    for piece in _pieces(files, roles, None, rows=rows):
        train = np.ones(len(piece.rows), bool)
        if roles.split is not None:
            train = _words(piece, roles.split) == "train"
        n_rows += int(train.sum())
        codes, texts = _labels(piece, roles)
        targets |= {texts[c] for c in np.unique(codes)}
        _check_number(targets, roles.target, "different values")
        for code, count in zip(
            *np.unique(codes[train], return_counts=True), strict=True
        ):
            labels[texts[code]] = labels.get(texts[code], 0) + int(count)
        joint, names = _memberships(piece, roles)
        members |= {names[c] for c in np.unique(joint)}
        trained |= {names[c] for c in np.unique(joint[train])}
        for name in moments:
            values = _numbers(piece, name)[train]
            if values.size:
                moments[name] = moments[name].plus(values)
        for name, found in categories.items():
            codes, texts = _texts(piece, name)
            found |= {texts[c] for c in np.unique(codes[train])}
            _check_number(found, name, "categories")

    def column(name: str) -> Column:
        if name in categories:
            return Column(name, 0.0, 0.0, tuple(sorted(categories[name])))
        unit, n, mean, squares, low, high = moments[name]
        deviation = 0.0 if low == high else float(np.sqrt(squares / max(n, 1)))
        return Column(name, mean / unit, deviation / unit, ())

    columns = tuple(map(column, roles.features)) if n_rows else ()
    return _Learned(columns, n_rows, targets, labels, members, trained)


def _pieces(
    files: tuple[File, ...], roles: Roles, part: str | None, *, rows: int
) -> Iterator[Piece]:
    """The rows that are used, file by file, at most `rows` at a time."""
    pa, parquet = tables.extra("pyarrow"), tables.extra("pyarrow.parquet")
    texts = [name for name in roles.used if name not in roles.numeric]
    for file in files:
        if _stamped(file.path) != file:
            raise ValueError(
                f"{str(file.path)!r} has changed since its encoding was learned. Call "
                f"`from_parquet` again."
            )
        seen = 0
        # Texts that are stored as codes are read as codes, without making the texts.
        # Reading ahead (`pre_buffer`) would hold the whole file; a stream of bytes for
        # each column holds a page, and not the column of a row group.
        options = {"pre_buffer": False, "buffer_size": 2**16}
        with parquet.ParquetFile(file.path, read_dictionary=texts, **options) as source:
            for batch in source.iter_batches(batch_size=rows, columns=roles.used):
                numbers = np.arange(seen + 1, seen + batch.num_rows + 1)
                seen += batch.num_rows
                piece = Piece(file.path, numbers, batch)
                keep = np.ones(batch.num_rows, bool)
                if part is not None and roles.split is not None:
                    keep &= _words(piece, roles.split) == part
                if roles.drop_missing:
                    for name in roles.used:
                        keep &= ~_missing(piece, roles, name)
                if not keep.all():
                    batch = batch.filter(pa.array(keep))
                    piece = Piece(file.path, numbers[keep], batch)
                if batch.num_rows:
                    yield piece


def _numbers(piece: Piece, name: str) -> Float[np.ndarray, " r"]:
    """A column of numbers; none may be missing or infinite."""
    # Integers beyond 2^53 are rounded.
    column = piece.batch.column(name).cast("float64", safe=False)
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise ValueError(
            f"column {name!r} must hold finite numbers, but data row "
            f"{piece.rows[row]} of {str(piece.path)!r} has {values[row]}. Fill or "
            f"correct it, name the column in `exclude`, or pass `drop_missing=True` if "
            f"entries are empty."
        )
    return values


def _scaled(
    values: Float[np.ndarray, " r"], column: Column, piece: Piece
) -> Float[np.ndarray, " r"]:
    """Numbers less the mean, divided by the deviation; float32 must hold them."""
    by = tables.unit(np.array([column.deviation]))
    with np.errstate(over="ignore"):
        scaled = values * by
        scaled -= column.mean * by
        scaled /= column.deviation * by
    largest = float(np.finfo(np.float32).max)
    if max(scaled.max(), -scaled.min()) > largest:
        row = np.flatnonzero(np.abs(scaled) > largest)[0]
        raise ValueError(
            f"column {column.name!r} must be finite in float32 when scaled, but data "
            f"row {piece.rows[row]} of {str(piece.path)!r} has {values[row]}, where "
            f"the mean was {column.mean:.3g} and the deviation {column.deviation:.3g}. "
            f"Correct it, or name the column in `exclude`."
        )
    return scaled


def _entries(piece: Piece, name: str) -> tuple[Int[np.ndarray, " r"], list[str]]:
    """Codes of the entries and the text of each, "" for what is missing.

    Null, NaN and blank texts are missing; the last text is for nulls.
    """
    types = tables.extra("pyarrow.types")
    column = piece.batch.column(name)
    if types.is_float16(column.type):
        column = column.cast("float32")
    if not hasattr(column, "indices"):
        column = column.dictionary_encode()
    values = column.dictionary
    codes = column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    # As Python floats, those of single precision would have digits to spare.
    floats = types.is_floating(values.type)
    listed = values.to_numpy(zero_copy_only=False) if floats else values.to_pylist()
    # A NaN is the only value that differs from itself.
    return codes, [
        "" if v is None or v != v else tables.text(v)  # noqa: PLR0124
        for v in listed
    ] + [""]


def _texts(piece: Piece, name: str) -> tuple[Int[np.ndarray, " r"], list[str]]:
    """Codes of the entries and the text of each."""
    codes, texts = _entries(piece, name)
    return codes, [text or tables.MISSING for text in texts]


def _missing(piece: Piece, roles: Roles, name: str) -> Bool[np.ndarray, " r"]:
    """Which entries are missing, as `_entries` has it."""
    if name in roles.numeric:
        return np.asarray(piece.batch.column(name).is_null(nan_is_null=True))
    codes, texts = _entries(piece, name)
    return np.array([not text for text in texts])[codes]


def _words(piece: Piece, name: str) -> Shaped[np.ndarray, " r"]:
    """What the column of the split says."""
    codes, texts = _texts(piece, name)
    words = np.array([t.lower() for t in texts])[codes]
    for row in np.flatnonzero((words != "train") & (words != "test"))[:1]:
        raise ValueError(
            f'`split`: column {name!r} must say "train" or "test", but says '
            f"{str(words[row])!r} in data row {piece.rows[row]} of "
            f"{str(piece.path)!r}."
        )
    return words


def _labels(piece: Piece, roles: Roles) -> tuple[Int[np.ndarray, " r"], list[str]]:
    """The targets as text; none may be missing."""
    for row in np.flatnonzero(_missing(piece, roles, roles.target))[:1]:
        raise ValueError(
            f"`target`: column {roles.target!r} is empty in data row "
            f"{piece.rows[row]} of {str(piece.path)!r}. Pass `drop_missing=True` to "
            f"leave such rows out."
        )
    return _texts(piece, roles.target)


def _memberships(
    piece: Piece, roles: Roles
) -> tuple[Int[np.ndarray, " r"], list[tuple[str, ...]]]:
    """Codes of the groups in these rows, and the names that make each."""
    codes, names = [], []
    for name in roles.sensitive:
        own, texts = _texts(piece, name)
        # A bare number would not say which attribute it belongs to.
        prefix = f"{name}=" if name in roles.numeric else ""
        codes.append(own)
        names.append([prefix + text for text in texts])
    shape = tuple(map(len, names))
    occurring, joint = np.unique(
        np.ravel_multi_index(codes, shape), return_inverse=True
    )
    places = zip(*np.unravel_index(occurring, shape), strict=True)
    return joint.ravel(), [
        tuple(own[i] for own, i in zip(names, place, strict=True)) for place in places
    ]


def _check_number(found: set[str], name: str, what: str) -> None:
    if len(found) > tables.MOST_CATEGORIES:
        raise ValueError(
            f"column {name!r} has more than {_tables.MOST_CATEGORIES} {what}. Name it "
            f"in `exclude`, or group its values; a target must be a class."
        )


def _files(
    paths: sources.Location | Sequence[sources.Location],
) -> tuple[File, ...]:
    """The files, which must be there and have rows."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise ValueError("`paths` must name at least one file, but is empty.")
    files = tuple(_stamped(Path(path)) for path in listed)
    for file in files:
        if not _opened(file.path).num_rows:
            raise ValueError(f"{str(file.path)!r} has no rows.")
    return files


def _stamped(path: Path) -> File:
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(
            f"`paths`: cannot read {str(path)!r}: {error.strerror}."
        ) from error
    return File(path, stat.st_size, stat.st_mtime_ns)


def _opened(path: Path) -> Any:
    """The metadata of a file."""
    pa, parquet = tables.extra("pyarrow"), tables.extra("pyarrow.parquet")
    try:
        return parquet.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"`paths`: cannot read {str(path)!r} as Parquet: {error}"
        ) from error


def _types(path: Path) -> tuple[list[str], frozenset[str], frozenset[str]]:
    """Names of the columns of a file, those of numbers, and those of lists and structs.

    Truth values are no numbers.
    """
    types = tables.extra("pyarrow.types")
    schema = _opened(path).schema.to_arrow_schema()
    tests = (types.is_integer, types.is_floating, types.is_decimal)
    numeric = [f.name for f in schema if any(test(f.type) for test in tests)]
    nested = [f.name for f in schema if types.is_nested(f.type)]
    return schema.names, frozenset(numeric), frozenset(nested)


def _check_types(files: tuple[File, ...], roles: Roles) -> None:
    """All files must have the columns that are used, numbers where the first has."""
    for file in files:
        names, numeric, nested = _types(file.path)
        for name in roles.used:
            times = names.count(name)
            if times != 1:
                raise ValueError(
                    f"{str(file.path)!r} has {times or 'no'} "
                    f"column{'s' * (times > 1)} {name!r}, which is used."
                    + " Give each a name of its own."
                    * (times > 1)
                )
            if name in nested:
                raise ValueError(
                    f"column {name!r} of {str(file.path)!r} holds lists or structs, "
                    f"which are no features. Name it in `exclude`, or make a column of "
                    f"each of their parts."
                )
            if (name in numeric) != (name in roles.numeric):
                here, there = ("numbers", "categories")[:: 1 if name in numeric else -1]
                raise ValueError(
                    f"column {name!r} holds {here} in {str(file.path)!r}, but {there} "
                    f"in the first file. Convert one of them."
                )


def _check_roles(
    names: list[str],
    target: str,
    sensitive: list[str],
    exclude: list[str],
    split: str | None,
) -> None:
    if not sensitive or len(set(sensitive)) < len(sensitive):
        raise ValueError(
            f"`sensitive` must name one or several different columns, but is "
            f"{sensitive}."
        )
    roles = {
        "target": [target],
        "sensitive": sensitive,
        "exclude": exclude,
        "split": [] if split is None else [split],
    }
    for argument, given in roles.items():
        for name in given:
            dataset.check_known(name, names, argument=argument)
    for argument in ("sensitive", "split"):
        if target in roles[argument]:
            raise ValueError(
                f"`target` and `{argument}` both name {target!r}: what is to be "
                f"predicted must be another column."
            )
