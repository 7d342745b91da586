"""Columns of a data frame, read as numbers or as texts.

A column counts as numbers or as categories, and the text of an entry is the same for
every dtype that pandas may have inferred or a file may state. The index of a frame
counts the data rows of its source from 0, and is named after the file where rows come
from several: errors say which row they mean.
"""

import decimal
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Shaped

Frame = Any  # A pandas table; pandas is an optional extra, imported where it is used.
Column = Any  # One of its columns, a series.

MISSING = "missing"


def extra(module: str) -> Any:
    """An optional package, or an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"reading datasets needs {module}: install it with "
            f'`pip install "fairjax[data]"`.'
        ) from error


def is_numeric(column: Column) -> bool:
    """True for a column of numbers; truth values are categories."""
    types = extra("pandas").api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def numbers(column: Column) -> Float[np.ndarray, " n"]:
    """Entries in double precision, NaN where one is missing."""
    return column.to_numpy(dtype=float, na_value=np.nan)


def finite(column: Column, *, fill: bool = False) -> Float[np.ndarray, " n"]:
    """Entries in double precision, none infinite; with `fill`, some may be missing."""
    values = numbers(column)
    for row in np.flatnonzero(~(np.isfinite(values) | (fill & np.isnan(values))))[:1]:
        raise ValueError(
            f"column {column.name!r} must hold finite numbers, but "
            f"{place(column, row)} has {values[row]}. Fill or correct it, name the "
            f"column in `exclude`, or pass `drop_missing=True` if entries are empty."
        )
    return values


def text(value: object) -> str:
    """The text of an entry; that of a number does not depend on its type."""
    if isinstance(value, np.floating):
        # The shortest digits that tell it from others of its type: 0.1 in any of them.
        value = float(value if value.is_integer() else str(value))
    if isinstance(value, decimal.Decimal) and value.is_finite():
        near = float(value)
        if value == int(value):
            value = int(value)
        elif decimal.Decimal(str(near)) == value:
            value = near
        else:
            value = f"{value:f}".rstrip("0")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _coded(column: Column) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Codes of the entries and the text of each, "" for what is missing or blank."""
    pd = extra("pandas")
    codes, values = pd.factorize(column)
    # As Python floats, those of single precision would have digits to spare.
    values = np.asarray(values) if is_numeric(column) else values
    texts = ["" if pd.isna(value) else text(value) for value in values] + [""]
    # Missing entries have code -1, the last text.
    return codes % len(texts), texts


def texts(column: Column) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Codes of the entries and the text of each; some may not occur or be alike."""
    codes, found = _coded(column)
    return codes, [text or MISSING for text in found]


def as_text(column: Column) -> Shaped[np.ndarray, " n"]:
    """Entries as stripped text, the same for every dtype pandas may have inferred."""
    codes, found = texts(column)
    return np.array(found)[codes]


def missing(column: Column) -> Bool[np.ndarray, " n"]:
    """True for entries that are null, NaN or blank."""
    if is_numeric(column):
        return np.isnan(numbers(column))
    codes, found = _coded(column)
    return np.array([not text for text in found])[codes]


def place(column: Column, row: int | np.integer) -> str:
    """The data row of an entry, counted from 1, and its file, for error messages."""
    file = column.index.name
    return f"data row {column.index[row] + 1}" + (f" of {file!r}" if file else "")


def memberships(
    columns: Sequence[Column],
) -> tuple[Int[np.ndarray, " n"], list[tuple[str, ...]]]:
    """Codes of the combinations that occur, and the texts that make each."""
    codes, names = [], []
    for column in columns:
        own, found = texts(column)
        # A bare number would not say which attribute it belongs to.
        prefix = f"{column.name}=" if is_numeric(column) else ""
        codes.append(own)
        names.append(np.array([prefix + text for text in found]))
    shape = tuple(map(len, names))
    occurring, joint = np.unique(
        np.ravel_multi_index(codes, shape), return_inverse=True
    )
    parts = zip(names, np.unravel_index(occurring, shape), strict=True)
    return joint, list(zip(*(own[i].tolist() for own, i in parts), strict=True))


def group_codes(
    columns: Sequence[Column],
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """Codes of the groups and their names, one per combination that occurs."""
    codes, members = memberships(columns)
    groups = sorted(set(members))
    known = {member: code for code, member in enumerate(groups)}
    joint = np.array([known[member] for member in members], np.int32)
    return joint[codes], tuple(map(" & ".join, groups))
