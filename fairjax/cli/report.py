"""Tables, sentences, reports and result files of all commands."""

import csv
import importlib.metadata
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import rich.table
from jaxtyping import Float, Int
from rich.text import Text

from .. import files, metrics
from ..plots import canvas
from . import terminal

if TYPE_CHECKING:
    pass

FEW = 30  # Below, a rate moves by more than 3 points with one sample.
Row = Sequence[object]
Content = (
    "str | Iterable[Row] | Callable[[IO[bytes]], object] | matplotlib.figure.Figure"
)


class Table(NamedTuple):
    """Cells whose first column is words and the others numbers.

    Attributes:
        head: names of the columns.
        rows: of texts.
        title: above it, on the terminal.
        bold: number of the row that is printed in bold.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    bold: int | None = None

    def printed(self) -> rich.table.Table:
        """The table for the terminal."""
        title = Text(self.title) if self.title else None
        drawn = rich.table.Table(title=title, title_justify="left")
        for i, name in enumerate(self.head):
            drawn.add_column(Text(name), justify="right" if i else "left")
        for i, row in enumerate(self.rows):
            drawn.add_row(*map(Text, row), style="bold" if i == self.bold else None)
        return drawn

    def markdown(self) -> str:
        """The table for a report."""
        rule = ["---:" if i else "---" for i in range(len(self.head))]
        head, *rows = [list(map(plain, row)) for row in (self.head, *self.rows)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


class Detail(NamedTuple):
    """A text that `--quiet` leaves out, as it does tables."""

    text: str


def show(parts: Iterable[str | Detail | Table], *, quiet: bool) -> None:
    """Prints texts and tables on standard output."""
    console = terminal.console(sys.stdout)
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True)
        elif not quiet:
            shown = part.printed() if isinstance(part, Table) else part.text
            console.print(shown, soft_wrap=isinstance(part, Detail))


def document(parts: Iterable[str | Table]) -> str:
    """A report in Markdown, of texts in Markdown and of tables."""
    texts = [part.markdown() if isinstance(part, Table) else part for part in parts]
    version = importlib.metadata.version("fairjax")
    return "\n\n".join([*texts, f"fairjax {version}, jax {jax.__version__}."]) + "\n"


def write(contents: Mapping[Path, Content]) -> None:
    """Writes texts, rows of CSV tables, figures and what functions write; all or none.

    Raises:
        OSError: for a place that cannot be written.
    """
    files.write_whole({path: _writer(made, path) for path, made in contents.items()})


def harmless(text: str) -> str:
    """A cell that no spreadsheet runs, as it would one that begins like a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def plain(text: str) -> str:
    """A text in which Markdown finds no formatting."""
    text = " ".join(text.split("\n"))
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|$~&!" else c for c in text)


def small(sizes: Mapping[str, int]) -> str:
    """The names and sizes of groups of fewer than `FEW` rows."""
    few = {name: size for name, size in sizes.items() if size < FEW}
    return ", ".join(f"{name} ({size:,})" for name, size in few.items())


def by_chance(
    groups: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], *, level: float
) -> list[str]:
    """The KS distance that the sizes of the groups would explain, in a sentence.

    Rows of weight 0 are no evidence; for those of different weights there is no such
    law, and no sentence.
    """
    used = weights > 0
    sizes = np.sort(np.bincount(groups[used]))
    sizes = sizes[sizes > 0]
    if sizes.size < 2:
        return ["All rows are of one group, so there is no distance to see."]
    if np.ptp(weights[used]):
        return []
    bound = metrics.ks_by_chance(*sizes[:2].tolist(), level=level)
    return [
        f"By chance alone, two groups of {sizes[0]:,} and {sizes[1]:,} rows with one "
        f"distribution stay below a KS distance of {bound:.2g} in {level:.0%} of "
        f"samples."
    ]


def _writer(content: Content, path: Path) -> Callable[[IO[bytes]], object]:
    """The function that writes such a content to an open file."""
    if callable(content):
        return content
    if isinstance(content, str):
        return lambda stream: stream.write(content.encode())
    if isinstance(content, Iterable):
        return partial(_write_rows, rows=content)
    return partial(canvas.write, content, format=canvas.file_format(path))


def _write_rows(stream: IO[bytes], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    stream.write(text.getvalue().encode())
