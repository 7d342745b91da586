"""A table of one's own: a CSV file and the names of its columns become a dataset."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from . import dataset, sources, tables
from .dataset import Dataset
from .tables import Frame


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
    frame = tables.read_csv(Path(path), sep=sep, encoding=encoding)
    sensitive, exclude = dataset.listed(sensitive), dataset.listed(exclude)
    roles = {
        "target": [target],
        "sensitive": sensitive,
        "exclude": exclude,
        "split": [] if split is None else [split],
    }
    for argument, names in roles.items():
        for name in names:
            dataset.check_known(name, list(frame), argument=argument)
    for argument in ("sensitive", "split"):
        if target in roles[argument]:
            raise ValueError(
                f"`target` and `{argument}` both name {target!r}: what is to be "
                f"predicted must be another column."
            )
    used = {name for name in frame if name not in exclude}
    used |= {target, *sensitive, *roles["split"]}
    if drop_missing:
        frame = frame.dropna(subset=sorted(used))
    if not len(frame):
        raise ValueError(
            f"{str(path)!r} has no rows{' without missing entries' * drop_missing}."
        )
    labels, value = tables.favourable(frame[target], target=target, positive=positive)
    return dataset.build(
        Path(path).stem,
        frame.drop(columns=list({target, *exclude, *roles["split"]})),
        labels,
        label_name=favourable or f"{target} = {value}",
        attributes={
            name: dataset.Attribute(tables.as_names(frame[name]), (name,))
            for name in sensitive
        },
        sensitive=sensitive,
        sensitive_in_features=sensitive_in_features,
        split=(test_size, seed) if split is None else _named_split(frame[split]),
    )


def _named_split(column: Frame) -> Bool[np.ndarray, " n"]:
    """The split that a column states in words."""
    words = np.char.lower(tables.as_text(column))
    for row in np.flatnonzero((words != "train") & (words != "test"))[:1]:
        raise ValueError(
            f'`split`: column {column.name!r} must say "train" or "test", but says '
            f"{str(words[row])!r} in data row {column.index[row] + 1}."
        )
    return words == "train"
