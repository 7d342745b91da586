"""A table of one's own: a CSV file and the names of its columns become a dataset."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import files
from . import columns, dataset, labels, roles, sources
from .columns import Column, Frame
from .dataset import Dataset

# What pandas takes for missing: here only among numbers, as it may be a group's name.
NO_NUMBERS = """
    NA N/A #N/A #NA <NA> n/a NULL null None NaN nan -NaN -nan 1.#IND -1.#IND 1.#QNAN
    -1.#QNAN
"""
MOST_COLUMNS = 100_000


def from_csv(
    path: sources.Location,
    *,
    target: str,
    sensitive: str | Sequence[str],
    positive: str | int | float | bool | None = None,
    favourable: str | None = None,
    split: str | None = None,
    exclude: str | Sequence[str] = (),
    sensitive_in_features: bool = True,
    drop_missing: bool = False,
    test_size: float = 0.25,
    seed: int = 0,
    sep: str = ",",
    encoding: str = "utf-8-sig",
) -> Dataset:
    r"""Reads a CSV file with a header line.

    Columns of numbers are scaled; all others are categories, one-hot encoded, where a
    missing entry is a category of its own. Missing is what is empty or blank, and in a
    column whose other entries are all numbers also NA, N/A, NULL, None, NaN and the
    like: among texts these are names.

    Args:
        path: of the file.
        target: column to predict.
        sensitive: one or several columns; several make intersections, as groups only
            those that occur.
        positive: the value of `target` that becomes label 1, the favourable outcome;
            all other values become 0. May be left out for 0 and 1, -1 and 1, or False
            and True. A number or truth value may be spelled in another way, 01 or true.
        favourable: what label 1 means, in words; "<target> = <positive>" when absent.
        split: column that says "train" or "test"; when absent, a seeded split,
            stratified by label and group, with single rows of a kind in training.
        exclude: columns that are no features: identifiers, weights, other outcomes.
        sensitive_in_features: False leaves the sensitive columns out of the features.
        drop_missing: leaves out rows with a missing entry in a column that is used.
        test_size: share of the test part, in (0, 1); not read with `split`.
        seed: of the split; not read with `split`.
        sep: the character between entries.
        encoding: of the file; the default reads UTF-8 with or without a mark.

    Returns:
        The dataset, named after the file, rows in its order.

    Raises:
        ValueError: for a file that cannot be read or has no rows, unknown columns,
            numbers that are missing or infinite, and labels or groups all alike. Data
            rows are counted from 1, below the header.

    Example:
        >>> import pathlib, tempfile
        >>> text = "age,sex,repaid\n" + "31,F,yes\n40,M,no\n25,M,yes\n58,F,no\n" * 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "loans.csv")
        ...     _ = path.write_text(text)
        ...     data = from_csv(path, target="repaid", sensitive="sex", positive="yes")
        >>> data.feature_names, data.group_names, data.label_name
        (('age', 'sex=F', 'sex=M'), ('F', 'M'), 'repaid = yes')
    """
    frame = read_csv(Path(path), sep=sep, encoding=encoding)
    parts = roles.assign(
        list(frame),
        target=target,
        sensitive=sensitive,
        split=split,
        exclude=exclude,
        sensitive_in_features=sensitive_in_features,
        drop_missing=drop_missing,
    )
    frame = parts.select(frame)
    if not len(frame):
        raise ValueError(
            f"{str(path)!r} has no rows{' without missing entries' * drop_missing}."
        )
    is_positive, value = labels.favourable(frame[target], positive=positive)
    return dataset.build(
        Path(path).stem,
        frame[list(parts.features)],
        is_positive,
        label_name=favourable or f"{target} = {value}",
        attributes={name: dataset.Attribute(frame[name]) for name in parts.sensitive},
        sensitive=parts.sensitive,
        sensitive_in_features=True,
        split=(test_size, seed) if split is None else parts.is_train(frame),
    )


def read_csv(path: Path, *, sep: str, encoding: str) -> Frame:
    """A table with stripped column names; pandas alone would repair bad files."""
    if len(sep) != 1 or sep in ' "\r\n':
        raise ValueError(
            f"`sep` must be one character, neither a space, a quote nor a line end, "
            f"but is {sep!r}."
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(
            f"{str(path)!r} is no file, and a table is read twice. Write it to one."
        )
    try:
        before = files.state(path)
        with path.open(newline="", encoding=encoding) as lines:
            rows = csv.reader(lines, delimiter=sep, skipinitialspace=True, strict=True)
            header = [name.strip() for name in next((r for r in rows if r), [])]
            _check_header(header, path)
            for row in rows:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{str(path)!r} has {len(header)} columns, but line "
                        f"{rows.line_num} has {len(row)} entries. Check `sep` = "
                        f"{sep!r} and the quotes there."
                    )
    except (OSError, UnicodeError, LookupError, csv.Error) as error:
        raise ValueError(
            f"cannot read {str(path)!r} as CSV with `sep` = {sep!r} and `encoding` = "
            f"{encoding!r}: {error}. Check the path and these two."
        ) from error
    frame = columns.extra("pandas").read_csv(
        path,
        sep=sep,
        encoding=encoding,
        names=header,
        header=0,
        index_col=False,
        skipinitialspace=True,
        low_memory=False,
        keep_default_na=False,
        na_values=[""],
    )
    files.check_state(path, before)
    types = columns.extra("pandas").api.types
    for name, kind in frame.dtypes.items():
        if types.is_object_dtype(kind) or types.is_string_dtype(kind):
            frame[name] = _with_missing(frame[name])
    return frame


def _with_missing(column: Column) -> Column:
    """Blank texts become missing, as do the words for it where all else is numbers."""
    pd = columns.extra("pandas")
    words = column.isin([*NO_NUMBERS.split(), "#N/A N/A"]).to_numpy(bool)
    entries = column.to_numpy(object)
    blank = np.array([isinstance(v, str) and v.isspace() for v in entries], bool)
    if not (words.any() or blank.any()):
        return column
    others = column[~(words | blank | column.isna().to_numpy())]
    if len(others) and pd.to_numeric(others, errors="coerce").notna().all():
        return pd.to_numeric(column.mask(words | blank))
    return column.mask(blank)


def _check_header(header: list[str], path: Path) -> None:
    if len(header) > MOST_COLUMNS:
        raise ValueError(
            f"{str(path)!r} has {len(header):,} columns, more than {MOST_COLUMNS:,}. "
            f"Keep those that are used."
        )
    if len(set(header)) < len(header) or not header:
        more = ", ..." * (len(header) > 8)
        raise ValueError(
            f"{str(path)!r} must begin with a line of different column names, but it "
            f"has {header[:8] or 'none'}{more}."
        )
