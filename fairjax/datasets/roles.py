"""Roles of columns: what is predicted, what makes the groups, what are features."""

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from . import columns
from .columns import Frame


class Roles(NamedTuple):
    """The columns that are read, and what for.

    Attributes:
        target: what is predicted.
        sensitive: what makes the groups.
        split: what says "train" or "test", or None.
        features: the others that are used, in their order.
        drop_missing: whether rows with a missing entry are left out.
    """

    target: str
    sensitive: tuple[str, ...]
    split: str | None
    features: tuple[str, ...]
    drop_missing: bool

    @property
    def used(self) -> list[str]:
        """All columns that are read, each once."""
        split = [] if self.split is None else [self.split]
        names = [self.target, *self.sensitive, *split, *self.features]
        return list(dict.fromkeys(names))

    def select(self, rows: Frame) -> Frame:
        """The columns that are read, without the rows that are to be left out."""
        rows = rows[self.used]
        if self.drop_missing:
            rows = rows[~np.any([columns.missing(rows[c]) for c in rows], axis=0)]
        return rows

    def is_train(self, rows: Frame) -> Bool[np.ndarray, " n"]:
        """True for rows that the split puts into training; all, without a split."""
        if self.split is None:
            return np.ones(len(rows), bool)
        column = rows[self.split]
        codes, texts = columns.texts(column)
        parts = np.array([text.lower() for text in texts])[codes]
        for row in np.flatnonzero((parts != "train") & (parts != "test"))[:1]:
            raise ValueError(
                f'`split`: column {column.name!r} must say "train" or "test", but says '
                f"{str(parts[row])!r} in {columns.place(column, row)}."
            )
        return parts == "train"


def assign(
    names: Sequence[str],
    *,
    target: str,
    sensitive: str | Sequence[str],
    split: str | None,
    exclude: str | Sequence[str],
    sensitive_in_features: bool,
    drop_missing: bool,
) -> Roles:
    """The roles of the columns of a table, as its reader states them.

    Raises:
        ValueError: for unknown columns, one with two roles, and no features.
    """
    exclude = [exclude] if isinstance(exclude, str) else exclude
    splits = [] if split is None else [split]
    check_known(target, names, argument="target")
    sensitive = choose(sensitive, names, argument="sensitive")
    for argument, values in (("exclude", exclude), ("split", splits)):
        for name in values:
            check_known(name, names, argument=argument)
    for argument, values in (("sensitive", sensitive), ("split", splits)):
        if target in values:
            raise ValueError(
                f"`target` and `{argument}` both name {target!r}: what is to be "
                f"predicted must be another column."
            )
    left_out = {target, *exclude, *splits}
    if not sensitive_in_features:
        left_out |= set(sensitive)
    features = tuple(name for name in names if name not in left_out)
    if not features:
        raise ValueError(
            "no feature is left: every column is the target, sensitive or excluded."
        )
    return Roles(target, tuple(sensitive), split, features, drop_missing)


def choose(
    given: str | Sequence[str],
    known: Iterable[str],
    *,
    argument: str,
    what: str = "columns",
) -> list[str]:
    """The names as a list: known, different, at least one."""
    names = [given] if isinstance(given, str) else list(given)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`{argument}` must name one or several different {what}, but is {names}."
        )
    for name in names:
        check_known(name, known, argument=argument)
    return names


def check_known(name: str, known: Iterable[str], *, argument: str) -> None:
    """Raises `ValueError` unless the name is known."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known[:10]
        raise ValueError(
            f"`{argument}` names {name!r}, which is unknown. Nearest: "
            f"{', '.join(map(repr, near))}."
        )
