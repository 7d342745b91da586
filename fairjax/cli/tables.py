"""Tables of scores: columns by name, groups by name, and one column more.

A table is read once for its numbers and once as text, so that what is written back is
the file itself, byte for byte, with an entry added at the end of each row.
"""

import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int32

from .. import datasets, files
from ..arrays import checks
from ..datasets.columns import extra, group_codes, is_numeric
from ..datasets.csv import read_csv
from ..datasets.labels import favourable
from .options import TableOptions

LARGEST = 1e150  # Squares of differences must be finite too.
MOST_GROUPS = 100  # Every pair is compared, and every group drawn from.


class Rows(NamedTuple):
    """The rows of a table that an audit or a repair reads.

    Attributes:
        frame: the table.
        scores: finite numbers.
        groups: codes; the same in tables that were read together.
        weights: sample weights, 1 when the user has none.
    """

    frame: datasets.Frame
    scores: Float64[np.ndarray, " n"]
    groups: Int32[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]


class Labels(NamedTuple):
    """The labels of a table: 0 and 1, or real numbers.

    Attributes:
        values: one per row.
        binary: whether they are 0 and 1.
        name: what label 1 is, or the column of the real numbers.
    """

    values: Float64[np.ndarray, " n"]
    binary: bool
    name: str


def read(
    paths: Sequence[Path],
    options: TableOptions,
    *,
    others: Sequence[tuple[str, str]] = (),
) -> tuple[list[Rows], tuple[str, ...]]:
    """Reads tables whose groups have the same codes in all of them.

    Args:
        paths: of the files.
        options: which column is what, and how the files are written.
        others: further options and the columns they name, which must be there too.

    Returns:
        The rows of each table, and the names of the groups.

    Raises:
        ValueError: for a file that cannot be read or has no rows, unknown columns, a
            column with two roles, entries that are no numbers, and fewer than
            two groups or too many.
    """
    named = [("--score", options.score), *(("--group", name) for name in options.group)]
    named += [("--weight", options.weight)] if options.weight else []
    named += others
    _check_distinct(named)
    loaded = []
    for path in paths:
        frame = read_csv(path, sep=options.sep, encoding=options.encoding)
        for option, name in named:
            _check_known(name, list(frame), option=option, path=path)
        if not len(frame):
            raise ValueError(f"{str(path)!r} has no rows below its header.")
        loaded.append(frame)
    codes, names = _groups(loaded, options.group)
    tables = []
    for path, frame, groups in zip(paths, loaded, codes, strict=True):
        scores = finite(frame[options.score], option="--score", path=path)
        weights = np.ones(len(frame))
        if options.weight:
            weights = finite(frame[options.weight], option="--weight", path=path)
            _check_weights(weights, options.weight, path)
        tables.append(Rows(frame, scores, groups, weights))
    return tables, names


def finite(
    column: datasets.Frame, *, option: str, path: Path
) -> Float64[np.ndarray, " n"]:
    """The numbers of a column, none larger than `LARGEST`.

    Raises:
        ValueError: with the data row of the first entry that is no such number.
    """
    values = extra("pandas").to_numeric(column, errors="coerce")
    values = values.to_numpy(dtype=np.float64)
    for row in np.flatnonzero(~(np.abs(values) <= LARGEST))[:1]:
        missing = column.isna().iloc[row]
        what = "is empty or NaN" if missing else f"says {str(column.iloc[row])!r}"
        raise ValueError(
            f"`{option}`: column {column.name!r} of {str(path)!r} must hold numbers "
            f"up to {LARGEST:g}, but data row {row + 1} {what}. Correct or drop such "
            f"rows."
        )
    return values


def labels(rows: Rows, name: str, *, positive: str | None, path: Path) -> Labels:
    """The labels: real when a column of numbers has more than two values.

    Raises:
        ValueError: for an empty entry, and when the favourable one of two values or of
            several words is not told.
    """
    column = rows.frame[name]
    for row in np.flatnonzero(column.isna().to_numpy())[:1]:
        raise ValueError(
            f"`--label`: column {name!r} of {str(path)!r} is empty in data row "
            f"{row + 1}. Fill it, or drop such rows."
        )
    real = is_numeric(column) and column.nunique() > 2
    if real and positive is None:
        return Labels(finite(column, option="--label", path=path), False, name)
    good, value = favourable(column, positive=positive, argument="--label")
    return Labels(good.astype(np.float64), True, f"{name} = {value}")


def write_with(
    stream: IO[bytes],
    path: Path,
    options: TableOptions,
    *,
    name: str,
    values: Iterable[float],
    state: tuple[int, ...],
) -> None:
    """Writes the table with one column more, every other character as it was.

    Raises:
        ValueError: for a table that is not in the state in which it was read.
    """
    files.check_state(path, state)
    with path.open("rb") as start:
        marked = start.read(3) == b"\xef\xbb\xbf"
    encoding = options.encoding
    if encoding.lower().replace("_", "-") == "utf-8-sig" and not marked:
        encoding = "utf-8"
    entries = iter(values)
    header = True
    out = io.TextIOWrapper(stream, encoding=encoding, newline="", write_through=False)
    with path.open(newline="", encoding=options.encoding) as lines:
        for row, text in _records(lines, sep=options.sep):
            body = text.rstrip("\r\n")
            if row:
                entry = (
                    _quoted(name, options.sep) if header else repr(next(entries, 0.0))
                )
                body += options.sep + entry
                header = False
            out.write(body + text[len(text.rstrip("\r\n")) :])
    out.flush()
    out.detach()
    # Rows that came or went meanwhile have not their own values.
    files.check_state(path, state)


def _records(lines: Iterable[str], *, sep: str) -> Iterator[tuple[list[str], str]]:
    """Rows with their text, which may be several lines when an entry is quoted."""
    taken: list[str] = []

    def recorded() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    for row in csv.reader(
        recorded(), delimiter=sep, skipinitialspace=True, strict=True
    ):
        yield row, "".join(taken)
        taken.clear()


def _quoted(name: str, sep: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=sep, lineterminator="").writerow([name])
    return text.getvalue()


def _groups(
    loaded: Sequence[datasets.Frame], columns: list[str]
) -> tuple[list[Int32[np.ndarray, " n"]], tuple[str, ...]]:
    """Codes of the combinations of values, the same in all tables."""
    # Together, a column has one type, so that a value has one name.
    keys = extra("pandas").concat(
        [frame[columns] for frame in loaded], ignore_index=True
    )
    codes, names = group_codes([keys[name] for name in columns])
    if not 2 <= len(names) <= MOST_GROUPS:
        raise ValueError(
            f"`--group` must tell 2 to {MOST_GROUPS} groups apart, but "
            f"{' and '.join(map(repr, columns))} "
            f"{'has' if len(columns) == 1 else 'have'} {len(names)} "
            f"{'value' if len(names) == 1 else 'values'} here."
        )
    ends = np.cumsum([len(frame) for frame in loaded])
    return np.split(codes, ends[:-1]), names


def _check_distinct(named: Sequence[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for option, name in named:
        if name in seen:
            raise ValueError(
                f"`{seen[name]}` and `{option}` both name {name!r}: they must be "
                f"different columns."
            )
        seen[name] = option


def _check_known(name: str, known: list[str], *, option: str, path: Path) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known) or known[:10]
        raise ValueError(
            f"`{option}` names {name!r}, which is no column of {str(path)!r}. Nearest: "
            f"{', '.join(map(repr, near))}."
        )


def _check_weights(weights: Float[np.ndarray, " n"], name: str, path: Path) -> None:
    for row in np.flatnonzero(weights < 0)[:1]:
        raise ValueError(
            f"`--weight`: column {name!r} of {str(path)!r} must not be negative, but "
            f"data row {row + 1} says {weights[row]:g}."
        )
    checks.check_weights(weights, n=weights.size, name=f"--weight {name}")
