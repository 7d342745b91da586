"""Parts of all pictures: an empty figure, its style, a legend, and a file of it.

Nothing global is touched: no pyplot, no backend, no style; matplotlib is imported on
the first call.
"""

import os
import pathlib
import warnings
from collections.abc import Mapping
from functools import partial
from typing import IO, TYPE_CHECKING

from .. import files

if TYPE_CHECKING:
    import matplotlib.artist
    import matplotlib.axes
    import matplotlib.figure

# Of Okabe and Ito, distinct to colour-blind readers.
BLUE, RED, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#8C8C8C"


def blank(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of this size in inches.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: `fairjax[plot]`.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(ax: "matplotlib.axes.Axes") -> None:
    """A faint grid behind the marks, and no frame above and on the right."""
    ax.grid(visible=True, color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend(
    figure: "matplotlib.figure.Figure",
    entries: Mapping[str, "matplotlib.artist.Artist"],
    *,
    columns: int,
) -> None:
    """A legend below all panels; names are printed as they are."""
    drawn = figure.legend(
        list(entries.values()),
        [str(i) for i in range(len(entries))],
        loc="outside lower center",
        ncols=min(columns, len(entries)),
        frameon=False,
        fontsize="small",
    )
    # matplotlib would leave out a name that begins with "_" and typeset a formula.
    for text, name in zip(drawn.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def file_format(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of a path names.

    Raises:
        ValueError: for a suffix that matplotlib does not write.
        ImportError: without matplotlib.
    """
    formats = blank(1.0, 1.0).canvas.get_supported_filetypes()
    suffix = pathlib.Path(path).suffix[1:].lower()
    if suffix not in formats:
        raise ValueError(
            f"`path` must end in one of {', '.join(f'.{f}' for f in sorted(formats))}, "
            f"but is {path}."
        )
    return suffix


def write(
    figure: "matplotlib.figure.Figure", stream: IO[bytes], *, format: str = "png"
) -> None:
    """Writes a figure to an open file."""
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; no reason to speak up.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(stream, format=format, dpi=200)


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure, whole or not at all; an older file is replaced at the end.

    Args:
        figure: from a function of this package, or any other.
        path: its suffix decides the format: .png, .pdf, .svg and what else matplotlib
            has.

    Raises:
        ValueError: for a suffix that matplotlib does not write, or a place that
            cannot be written.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), f"{folder}/empty.png")
        ...     os.listdir(folder)
        ['empty.png']
    """
    path = pathlib.Path(path)
    suffix = file_format(path)
    try:
        files.write_whole({path: partial(write, figure, format=suffix)})
    except OSError as error:
        raise ValueError(
            f"`path` {path} cannot be written: {error}. Name a file in a directory "
            f"that exists and can be written."
        ) from error
