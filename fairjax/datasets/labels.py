"""Labels 0 and 1 from a column of any values, one of which is favourable."""

import decimal
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from . import columns
from .columns import Column


def target_texts(
    column: Column, *, argument: str = "target"
) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Codes of the entries and the text of each; none may be missing."""
    for row in np.flatnonzero(columns.missing(column))[:1]:
        raise ValueError(
            f"`{argument}`: column {column.name!r} is empty in "
            f"{columns.place(column, row)}. Pass `drop_missing=True` to leave such "
            f"rows out."
        )
    return columns.texts(column)


def favourable(
    column: Column, *, positive: object, argument: str = "target"
) -> tuple[Bool[np.ndarray, " n"], str]:
    """True for rows with the favourable value, and the text of that value.

    Args:
        column: the labels, in any form.
        positive: the favourable value; may be None for 0 and 1, -1 and 1, or False and
            True.
        argument: what the caller calls the column, for error messages.

    Raises:
        ValueError: for missing entries, values all alike, and a value that is not told
            or does not occur.
    """
    codes, texts = target_texts(column, argument=argument)
    present = {texts[code] for code in np.unique(codes)}
    value = favourable_value(
        present, target=column.name, positive=positive, argument=argument
    )
    return np.array([text == value for text in texts])[codes], value


def favourable_value(
    present: Iterable[str],
    *,
    target: str,
    positive: object,
    argument: str = "target",
) -> str:
    """The text, of those that a column holds, that becomes label 1."""
    values = sorted(present)
    shown = ", ".join(map(repr, values[:8])) + ", ..." * (len(values) > 8)
    if len(values) < 2:
        raise ValueError(
            f"`{argument}`: column {target!r} must hold two values or more, but holds "
            f"only {shown}: there is nothing to learn."
        )
    if positive is None:
        if values not in (["0", "1"], ["-1", "1"], ["False", "True"]):
            raise ValueError(
                f"`positive` must name the favourable value of column {target!r}, "
                f"which holds {shown}. All other values become label 0."
            )
        positive = values[1]
    given = columns.text(positive)
    same = [given] if given in values else [v for v in values if _same(v, given)]
    if len(same) != 1:
        raise ValueError(
            f"`positive` = {positive!r} does not occur in column {target!r}, which "
            f"holds {shown}."
        )
    return same[0]


def _same(value: str, given: str) -> bool:
    """True for texts of the same truth value, or the same number."""
    if value.lower() in ("false", "true"):
        return value.lower() == given.lower()
    try:
        return decimal.Decimal(value).compare(decimal.Decimal(given)) == 0
    except decimal.InvalidOperation:
        return False
