"""How the command speaks: options read, errors in one line, tables and reports."""

import contextlib
import csv
import difflib
import importlib.util
import io
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TextIO, TypeVar

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import files
from ..plots import canvas

T = TypeVar("T")

MOST = 2000  # Characters of a message.
FEW = 30  # Below, a rate moves by more than 3 points with one sample.

# Arguments of the package that are options of the command, which its errors name.
_ARGUMENTS = {
    name: "--" + name.replace("_", "-")
    for name in (
        *("target", "sensitive", "positive", "favourable", "split", "exclude"),
        *("drop_missing", "data_dir", "sep", "encoding", "checkpoint"),
        *("strengths", "ridges", "bandwidths", "draws", "repair", "jitter"),
    )
} | {
    "n_folds": "--folds",
    "strength": "--strengths",
    "ridge": "--ridges",
    "jax_enable_x64": "--float64",
}


def line(message: object) -> str:
    """A message of the command, in one line, which a hostile name cannot flood."""
    text = " ".join(str(message).split())
    return "fairjax: " + (text if len(text) <= MOST else text[:MOST] + " ...")


def as_options(message: str) -> str:
    """A message of the package, in which arguments have the names of options."""

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in _ARGUMENTS:
            return found[0]
        given = f" {value}" if value not in (None, "True") else ""
        return f"`{_ARGUMENTS[name]}{given}`"

    return re.sub(r"`(\w+)(?:=(\w+))?`", option, message)


def tell(error: BaseException) -> int:
    """What the user can mend, or has stopped, is told in one line, not a traceback.

    Returns:
        The exit status.
    """
    if isinstance(error, KeyboardInterrupt):
        print(line("stopped; nothing was written."), file=sys.stderr)
        return 130
    if isinstance(error, (ValueError, OSError, ImportError)):
        print(line(as_options(str(error))), file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Ends the command after such errors."""
    try:
        yield
    except (ValueError, OSError, ImportError, KeyboardInterrupt) as error:
        raise typer.Exit(tell(error)) from error


def console(stream: TextIO) -> Console:
    """Names are printed as they are: brackets are no markup, numbers no highlights."""
    width = None if stream.isatty() else 100
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def need_matplotlib() -> None:
    """Raises `ImportError` before the work if no picture could be drawn after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'pictures need matplotlib: install it with `pip install "fairjax[cli]"`.'
        )


def choose(name: str, table: Mapping[str, T], *, option: str) -> T:
    """The entry of that name."""
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        raise ValueError(
            f"`{option}` must be one of {', '.join(table)}, but is {name!r}."
            + "".join(f" Did you mean {other}?" for other in near)
        )
    return table[name]


def numbers(text: str, *, option: str) -> list[float]:
    """Numbers such as `0,0.5,1` or `0:2:64`, which is from, to and how many."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, count = text.split(":")
        if not 1 <= int(count) <= 100_000:
            raise ValueError
        return np.linspace(float(first), float(last), int(count)).tolist()
    except ValueError:
        raise ValueError(
            f"`{option}` must be numbers such as 0,0.5,1 or 0:2:64 (from, to, how many "
            f"up to 100000), but is {text!r}."
        ) from None


def seeds(text: str) -> list[int]:
    """Seeds: `3` for how many, or a list such as `0,7`."""
    try:
        if "," in text:
            found = [int(part) for part in text.split(",") if part.strip()]
        else:
            found = list(range(int(text)))
        if not 1 <= len(found) <= 1000 or not all(0 <= s < 2**31 for s in found):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"`--seeds` must be how many, such as 3, or a list of whole numbers from "
            f"0, such as 0,7, but is {text!r}."
        ) from None
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def output(folder: Path, names: Iterable[str]) -> Iterator[list[Path]]:
    """Yields the paths of files in the folder of `--out`, which is tried at once."""
    with contextlib.ExitStack() as stack:
        try:
            paths = stack.enter_context(files.folder_for(folder, names))
        except OSError as error:
            raise ValueError(
                f"`--out` {str(folder)!r} cannot be written: {error}. Name a folder "
                f"that can be."
            ) from error
        yield paths


def check_output(path: Path, *, option: str, apart: Mapping[str, Path]) -> None:
    """Raises `ValueError` unless a file can be written there, apart from these."""
    for name, other in apart.items():
        if os.path.realpath(path) == os.path.realpath(other) or (
            path.exists() and other.exists() and path.samefile(other)
        ):
            raise ValueError(
                f"`{option}` {str(path)!r} is {name}, which would be lost. Name "
                f"another file."
            )
    try:
        files.check_writable(path)
    except OSError as error:
        raise ValueError(
            f"`{option}` {str(path)!r} cannot be written: {error}. Name a file in a "
            f"folder that exists and can be written."
        ) from error


def picture_format(path: Path, *, option: str) -> str:
    """The format of a picture; the suffix of its path names it."""
    try:
        return canvas.file_format(path)
    except ValueError as error:
        raise ValueError(str(error).replace("`path`", f"`{option}`")) from error


def table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    bold: int | None = None,
) -> Table:
    """A table whose first column is words and the others numbers."""
    drawn = Table(title=Text(title) if title else None, title_justify="left")
    for i, name in enumerate(head):
        drawn.add_column(Text(name), justify="right" if i else "left")
    for i, row in enumerate(rows):
        drawn.add_row(*map(Text, row), style="bold" if i == bold else None)
    return drawn


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table for a report."""
    rule = ["---:" if i else "---" for i in range(len(head))]
    plain_rows = [list(map(plain, row)) for row in (head, *rows)]
    lines = [plain_rows[0], rule, *plain_rows[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_rows(stream: IO[bytes], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV table."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    stream.write(text.getvalue().encode())


def harmless(text: str) -> str:
    """Spreadsheets would run a cell that begins like a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def plain(text: str) -> str:
    """Escapes what Markdown would read as formatting."""
    text = " ".join(text.split("\n"))
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|$~&!" else c for c in text)
