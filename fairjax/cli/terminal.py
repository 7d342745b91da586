"""The command and its surroundings: errors in one line, the terminal, output files."""

import contextlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import typer
from rich.console import Console

from .. import files, sweeps
from ..plots import canvas

MOST = 2000  # Characters of a message.

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
    """Prints errors that the user can mend, and interruptions, in one line each.

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


@contextlib.contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[sweeps.Progress]:
    """Yields what draws a progress bar, or nothing under `--quiet`."""
    with contextlib.ExitStack() as stack:
        if quiet:
            yield lambda done, total: None
        else:
            yield stack.enter_context(sweeps.progress_bar(label))


def need_matplotlib() -> None:
    """Raises `ImportError` before the work if no picture could be drawn after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'pictures need matplotlib: install it with `pip install "fairjax[cli]"`.'
        )


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


def check_picture(path: Path, *, option: str) -> None:
    """Raises `ValueError` unless the suffix of the path names a format of pictures."""
    try:
        canvas.file_format(path)
    except ValueError as error:
        raise ValueError(str(error).replace("`path`", f"`{option}`")) from error
