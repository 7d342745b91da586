"""Tables: columns of a data frame become codes, a split, labels and features.

A column counts as numbers or as categories, and the text of a category is the same for
every dtype that pandas may have inferred. Scales and categories are learned from the
training rows only. What pandas would repair in silence is an error that names the row.
"""

import csv
import decimal
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped

from .. import files
from ..arrays import checks

Frame = Any  # A pandas table; pandas is an optional extra, imported where it is used.

MISSING = "missing"
# What pandas takes for missing: here only among numbers, as it may be a group's name.
NO_NUMBERS = """
    NA N/A #N/A #NA <NA> n/a NULL null None NaN nan -NaN -nan 1.#IND -1.#IND 1.#QNAN
    -1.#QNAN
"""
MOST_CATEGORIES = 1000
MOST_COLUMNS = 100_000


def joint_codes(
    attributes: Sequence[Shaped[np.ndarray, " n"]],
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """Joint codes and their names: one group per combination that occurs."""
    table = np.stack(attributes, axis=1)
    combinations, codes = np.unique(table, axis=0, return_inverse=True)
    # NumPy 2.0.0 returned the inverse as a column.
    return codes.ravel().astype(np.int32), tuple(map(" & ".join, combinations))


def stratified(
    strata: Int[np.ndarray, " n"],
    *,
    test_size: float,
    seed: int,
    along: Float[np.ndarray, " n"] | None = None,
) -> Bool[np.ndarray, " n"]:
    """Random rows for training: the same share of each stratum, and at least one.

    With `along`, both parts also spread alike over its values in each stratum.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"`test_size` must be a share in (0, 1), but is {test_size}.")
    rng = np.random.default_rng(seed)
    is_train = np.ones(strata.size, bool)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        n_test = min(int(test_size * rows.size + 0.5), rows.size - 1)
        if along is None:
            is_train[rows[:n_test]] = False
        else:
            rows = rows[np.argsort(along[rows], kind="stable")]
            fewer = min(n_test, rows.size - n_test)
            picked = np.isin(rows, _one_per_block(rows, fewer, rng))
            is_train[rows] = picked if fewer < n_test else ~picked
    return is_train


def _one_per_block(
    rows: Int[np.ndarray, " k"], n_blocks: int, rng: np.random.Generator
) -> Int[np.ndarray, " b"]:
    """Cuts rows into blocks of nearly equal size, and draws one row from each."""
    # The random shift gives every row the same chance, whatever the block sizes.
    inner = np.arange(1, n_blocks) * rows.size / max(n_blocks, 1) + rng.random()
    edges = np.concatenate([[0], inner.astype(int), [rows.size]])[: n_blocks + 1]
    return rows[rng.integers(edges[:-1], edges[1:])]


def favourable(
    column: Frame, *, target: str, positive: object, argument: str = "target"
) -> tuple[Bool[np.ndarray, " n"], str]:
    """Which rows have the favourable value, and the text of that value."""
    for row in np.flatnonzero(column.isna().to_numpy())[:1]:
        raise ValueError(
            f"`{argument}`: column {target!r} is empty in data row "
            f"{column.index[row] + 1}. Pass `drop_missing=True` to leave such rows out."
        )
    texts = as_text(column)
    value = favourable_value(
        np.unique(texts), target=target, positive=positive, argument=argument
    )
    return texts == value, value


def favourable_value(
    values: Shaped[np.ndarray, " v"],
    *,
    target: str,
    positive: object,
    argument: str = "target",
) -> str:
    """Which of the texts that a column holds, sorted, becomes label 1."""
    shown = ", ".join(map(repr, values[:8].tolist())) + ", ..." * (values.size > 8)
    if values.size < 2:
        raise ValueError(
            f"`{argument}`: column {target!r} must hold two values or more, but holds "
            f"only {shown}: there is nothing to learn."
        )
    if positive is None:
        obvious = {("0", "1"): "1", ("-1", "1"): "1", ("False", "True"): "True"}
        positive = obvious.get(tuple(values.tolist()))
        if positive is None:
            raise ValueError(
                f"`positive` must name the favourable value of column {target!r}, "
                f"which holds {shown}. All other values become label 0."
            )
    given = text(positive)
    alike = [given] if given in values else [v for v in values if _alike(v, given)]
    if len(alike) != 1:
        raise ValueError(
            f"`positive` = {positive!r} does not occur in column {target!r}, which "
            f"holds {shown}."
        )
    return str(alike[0])


def _alike(value: str, given: str) -> bool:
    """Whether texts are the same truth value, or the same number."""
    if value.lower() in ("false", "true"):
        return value.lower() == given.lower()
    try:
        return decimal.Decimal(value).compare(decimal.Decimal(given)) == 0
    except decimal.InvalidOperation:
        return False


def encoded(
    frame: Frame, is_train: Bool[np.ndarray, " n"], *, fill: bool = False
) -> tuple[Float32[np.ndarray, "n d"], tuple[str, ...]]:
    """Scaled numbers and one-hot categories, learned from the training rows only.

    With `fill`, a missing number becomes the mean of those of the training rows;
    without, it is an error.
    """
    blocks, names = [], []
    for name in frame:
        if is_numeric(frame[name]):
            blocks.append(_scaled(frame[name], is_train, fill=fill)[:, None])
            names.append(name)
            continue
        texts = as_text(frame[name])
        categories = np.unique(texts[is_train])
        if categories.size > MOST_CATEGORIES:
            raise ValueError(
                f"column {name!r} has {categories.size} categories, more than "
                f"{MOST_CATEGORIES} one-hot features. Name it in `exclude`, or group "
                f"its values; one stray text makes a column of numbers categorical."
            )
        blocks.append((texts[:, None] == categories).astype(np.float32))
        names += [f"{name}={category}" for category in categories]
    if not blocks:
        raise ValueError(
            "no feature is left: every column is the target, sensitive or excluded."
        )
    return np.concatenate(blocks, axis=1), tuple(names)


def _scaled(
    column: Frame, is_train: Bool[np.ndarray, " n"], *, fill: bool
) -> Float32[np.ndarray, " n"]:
    """Mean 0 and variance 1 over the training rows; 0 where these are constant."""
    values = column.to_numpy(dtype=float)
    if fill:
        known = values[is_train & ~np.isnan(values)]
        values = np.where(np.isnan(values), known.mean() if known.size else 0, values)
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise ValueError(
            f"column {column.name!r} must hold finite numbers, but data row "
            f"{column.index[row] + 1} has {values[row]}. Fill or correct it, name the "
            f"column in `exclude`, or pass `drop_missing=True` if entries are empty."
        )
    train = values[is_train]
    if train.min() == train.max():
        return np.zeros(values.shape, np.float32)
    by = unit(train)
    train = train * by
    with np.errstate(all="ignore"):
        scaled = ((values * by - train.mean()) / train.std()).astype(np.float32)
    checks.check_finite(scaled, name=column.name)
    return scaled


def unit(values: Float[np.ndarray, " n"]) -> float:
    """The power of 2 that takes numbers below 1, so that their squares stay floats.

    Nothing is rounded by it. Numbers below 1e-308 come as near to 1 as it can.
    """
    largest = float(np.abs(values).max()) or math.ulp(0.0)
    return 2.0 ** min(-math.frexp(largest)[1], 1023)


def is_numeric(column: Frame) -> bool:
    """Whether the column is scaled; truth values are categories."""
    types = extra("pandas").api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


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


def as_text(column: Frame) -> Shaped[np.ndarray, " n"]:
    """Entries as stripped text, the same for every dtype pandas may have inferred."""
    codes, values = extra("pandas").factorize(column)
    # Missing entries have code -1, the last text.
    return np.array([text(value) or MISSING for value in values] + [MISSING])[codes]


def as_names(column: Frame) -> Shaped[np.ndarray, " n"]:
    """Group names: a bare number would not say which attribute it belongs to."""
    texts = as_text(column)
    prefix = f"{column.name}=" if is_numeric(column) else ""
    return np.char.add(prefix, texts)


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
    frame = extra("pandas").read_csv(
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
    types = extra("pandas").api.types
    for name, kind in frame.dtypes.items():
        if types.is_object_dtype(kind) or types.is_string_dtype(kind):
            frame[name] = _with_missing(frame[name])
    return frame


def _with_missing(column: Frame) -> Frame:
    """Blank texts become missing, as do the words for it where all else is numbers."""
    pd = extra("pandas")
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


def extra(module: str) -> Any:
    """An optional package, or an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"reading datasets needs {module}: install it with "
            f'`pip install "fairjax[data]"`.'
        ) from error
