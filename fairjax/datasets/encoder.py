"""The encoder: columns become features, by what was learned from training rows.

Columns of numbers are scaled to mean 0 and variance 1, all others are categories, one
feature each. An encoder learns from chunks of rows and applies to chunks: a table in
memory is one chunk, a file too large for it is many. What it has learned are numbers
and texts, so that it can be kept and applied to rows that come later.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from . import columns
from .columns import Frame

MOST_CATEGORIES = 1000


class EncodedColumn(NamedTuple):
    """The encoding of one column.

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

    @property
    def feature_names(self) -> list[str]:
        """One per feature: `"age"`, or `"race=Black"` for each category."""
        return [f"{self.name}={text}" for text in self.categories] or [self.name]

    def scaled(
        self, column: columns.Column, *, fill: bool = False
    ) -> Float[np.ndarray, " n"]:
        """Numbers less the mean, divided by the deviation; float32 must hold them."""
        values = columns.finite(column, fill=fill)
        if not self.deviation:
            return np.zeros(values.size)
        by = _unit(np.array([self.deviation]))
        with np.errstate(over="ignore"):
            scaled = (values * by - self.mean * by) / (self.deviation * by)
        for row in np.flatnonzero(np.abs(scaled) > np.finfo(np.float32).max)[:1]:
            raise ValueError(
                f"column {self.name!r} must be finite in float32 when scaled, but "
                f"{columns.place(column, row)} has {values[row]}, where the mean was "
                f"{self.mean:.3g} and the deviation {self.deviation:.3g}. Correct it, "
                f"or name the column in `exclude`."
            )
        return np.where(np.isnan(values), 0, scaled)


class ColumnStatistics(NamedTuple):
    """Statistics of a column over the training rows: moments, or categories.

    The moments are those of the numbers times `unit`, so that no square overflows or
    vanishes; the range is of the numbers themselves. Missing numbers count as rows that
    have the mean.
    """

    categories: frozenset[str] = frozenset()
    unit: float = 2.0**1023
    n: int = 0
    n_missing: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def plus_texts(self, column: columns.Column) -> "ColumnStatistics":
        """The categories, with those of more rows."""
        codes, texts = columns.texts(column)
        found = self.categories | {texts[code] for code in np.unique(codes)}
        if len(found) > MOST_CATEGORIES:
            raise ValueError(
                f"column {column.name!r} has {len(found)} categories, more than "
                f"{MOST_CATEGORIES} one-hot features. Name it in `exclude`, or group "
                f"its values; one stray text makes a column of numbers categorical."
            )
        return self._replace(categories=found)

    def plus_numbers(self, numbers: Float[np.ndarray, " n"]) -> "ColumnStatistics":
        """The moments with those of more rows, by Chan, Golub, LeVeque (1983).

        Nothing cancels, whatever the mean.
        """
        values = numbers[~np.isnan(numbers)]
        n_missing = self.n_missing + numbers.size - values.size
        if not values.size:
            return self._replace(n_missing=n_missing)
        n = self.n + values.size
        unit = min(self.unit, _unit(values))
        step = unit / self.unit
        scaled = values * unit
        mean = float(scaled.mean())
        shift, share = mean - step * self.mean, values.size / n
        return ColumnStatistics(
            unit=unit,
            n=n,
            n_missing=n_missing,
            mean=step * self.mean + shift * share,
            squares=step * step * self.squares
            + float(np.square(scaled - mean).sum())
            + shift * shift * self.n * share,
            low=min(self.low, float(values.min())),
            high=max(self.high, float(values.max())),
        )

    def encoding(self, name: str) -> EncodedColumn:
        """The encoding of the column."""
        deviation = 0.0
        if self.low < self.high:
            deviation = math.sqrt(self.squares / (self.n + self.n_missing))
        mean, deviation = self.mean / self.unit, deviation / self.unit
        return EncodedColumn(name, mean, deviation, tuple(sorted(self.categories)))


class Encoder(NamedTuple):
    """Scaled numbers and one-hot categories.

    Attributes:
        columns: how each column becomes features, in their order.
        fill: whether a missing number becomes the mean; else it is an error.
    """

    columns: tuple[EncodedColumn, ...]
    fill: bool = False

    @classmethod
    def learn(
        cls,
        chunks: Iterable[tuple[Frame, Bool[np.ndarray, " n"]]],
        *,
        fill: bool = False,
    ) -> "Encoder":
        """The encoder of the training rows, from chunks with the same columns.

        Args:
            chunks: rows, and which of them are for training; the others are checked.
            fill: whether a missing number becomes the mean; else it is an error.

        Raises:
            ValueError: for numbers that are missing or infinite, and a column of more
                than 1,000 categories.
        """
        statistics: dict[str, ColumnStatistics] = {}
        for rows, is_train in chunks:
            for name in rows:
                column, before = rows[name], statistics.get(name, ColumnStatistics())
                if columns.is_numeric(column):
                    values = columns.finite(column, fill=fill)
                    statistics[name] = before.plus_numbers(values[is_train])
                else:
                    statistics[name] = before.plus_texts(column[is_train])
        return cls(tuple(s.encoding(name) for name, s in statistics.items()), fill)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One per feature; `"race=Black"` for a one-hot column."""
        return tuple(name for column in self.columns for name in column.feature_names)

    def transform(
        self, rows: Frame, out: Float32[np.ndarray, "n d"] | None = None
    ) -> Float32[np.ndarray, "n d"]:
        """The features of any rows; a category that is not known gets zeros.

        Args:
            rows: with the columns from which the encoder has learned.
            out: zeros to be written to; made when absent.

        Raises:
            ValueError: for numbers that are missing or infinite, or not finite in
                float32 when scaled.
        """
        if out is None:
            out = np.zeros((len(rows), len(self.feature_names)), np.float32)
        at = 0
        for column in self.columns:
            if not column.categories:
                out[:, at] = column.scaled(rows[column.name], fill=self.fill)
            else:
                codes, texts = columns.texts(rows[column.name])
                known = {text: at + i for i, text in enumerate(column.categories)}
                places = np.array([known.get(text, -1) for text in texts])[codes]
                found = np.flatnonzero(places >= 0)
                out[found, places[found]] = 1
            at += len(column.feature_names)
        return out


def _unit(values: Float[np.ndarray, " k"]) -> float:
    """A power of two that makes the largest number nearly 1: their squares stay floats.

    Nothing is rounded by it. Numbers below 1e-308 come as near to 1 as it can.
    """
    largest = float(np.abs(values).max()) or math.ulp(0.0)
    return 2.0 ** min(-math.frexp(largest)[1], 1023)
