"""Pictures: what accuracy a smaller unfairness costs, and how scores are distributed.

Arrays in, a `matplotlib.figure.Figure` out. Nothing global is touched: no pyplot, no
backend, no style; matplotlib is imported on the first call. Every mark differs in
shape, fill or line, so that a picture printed in grey still reads.
"""

import os
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Int, Real

from .. import files
from ..arrays import checks
from . import canvas
from .scores import Scores as Scores
from .scores import distributions as distributions
from .scores import repair as repair

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


class Frontier(NamedTuple):
    """One panel: the points of a sweep, measured on test data.

    Attributes:
        unfairness: less is better, such as a gap of decision rates.
        accuracy: more is better.
        front: the points to join by the line, as `sweeps.pareto_front` gives; choose
            them on validation data for an honest picture.
        selected: index of the chosen point, -1 for none.
        unconstrained: index of the point fitted without fairness, -1 for none.
        converged: False for points to be drawn as failed fits.
        label: what the horizontal axis measures, with its unit.
        heading: name of the panel, such as the data set.
        low: lower ends of intervals of the unfairness, NaN for points without one;
            they are drawn as horizontal bars.
        high: upper ends.
    """

    unfairness: Real[ArrayLike, " m"]
    accuracy: Real[ArrayLike, " m"]
    front: Bool[ArrayLike, " m"]
    selected: int | Int[ArrayLike, ""]
    unconstrained: int | Int[ArrayLike, ""]
    converged: Bool[ArrayLike, " m"]
    label: str = "difference of equal opportunity on test [0-1]"
    heading: str = ""
    low: Real[ArrayLike, " m"] | None = None
    high: Real[ArrayLike, " m"] | None = None


def frontier(
    panels: Frontier | Sequence[Frontier],
    *,
    accuracy_label: str = "test accuracy [share of correct decisions]",
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws accuracy against unfairness, one panel per notion, model or data set.

    The line joins the front's points as a staircase: between two of them, accuracy is
    that of the fairer one. A fit that did not converge is a cross wherever it lies.
    Points with a NaN or an infinity have no place; their number is in the heading.

    Args:
        panels: one or more; they share the vertical axis.
        accuracy_label: the vertical axis, with its unit.
        title: above all panels.

    Returns:
        A figure for `save`, about 5 x 4 inches per panel.

    Raises:
        ValueError: for no panel, lengths that differ, no finite point, or an index
            outside the points.
        ImportError: without matplotlib.

    Example:
        >>> figure = frontier(Frontier(
        ...     unfairness=np.array([0.0, 0.2]), accuracy=np.array([0.7, 0.8]),
        ...     front=np.array([True, True]), selected=0, unconstrained=1,
        ...     converged=np.array([True, True])))
        >>> len(figure.axes)
        1
    """
    panels = [panels] if isinstance(panels, Frontier) else list(panels)
    if not panels:
        raise ValueError("`panels` must hold at least one `Frontier`, but is empty.")
    for panel in panels:
        _check(panel)
    figure = canvas.blank(0.6 + 4.6 * len(panels), 4.4)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel)
    axes[0].set_ylabel(accuracy_label)
    if title:
        figure.suptitle(title)
    entries = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    order = [name for name in _NAMES if name in entries]
    figure.legend(
        [entries[name] for name in order],
        order,
        loc="outside lower center",
        ncols=len(order) if len(panels) > 1 else min(len(order), 3),
        frameon=False,
        markerscale=0.8,
        fontsize="small",
    )
    return figure


def intervals(
    names: Sequence[str],
    values: Real[ArrayLike, " k"],
    low: Real[ArrayLike, " k"],
    high: Real[ArrayLike, " k"],
    *,
    label: str,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws numbers of one unit with their intervals, one below the other.

    Args:
        names: of the numbers.
        values: the numbers.
        low: lower ends; NaN for a number without an interval.
        high: upper ends.
        label: the horizontal axis, with its unit.
        title: above the picture.

    Returns:
        A figure for `save`, half an inch per number high.

    Raises:
        ValueError: for no number, lengths that differ, or numbers that are not finite.
        ImportError: without matplotlib.

    Example:
        >>> figure = intervals(["selected", "refused"], np.array([0.1, 0.2]),
        ...     np.array([0.0, np.nan]), np.array([0.3, np.nan]), label="gap [0-1]")
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['selected', 'refused']
    """
    n = len(names)
    if not n:
        raise ValueError("`names` must hold at least one number's, but is empty.")
    ends = {"values": values, "low": low, "high": high}
    for name, column in ends.items():
        checks.check_length(column, n=n, name=name, to="names")
    checks.check_finite(values, name="values")
    x, left, right = (np.asarray(column, float) for column in ends.values())
    figure = canvas.blank(7.0, 1.1 + 0.42 * n)
    ax = figure.subplots()
    places = np.arange(n)
    barred = np.isfinite(left) & np.isfinite(right)
    ax.hlines(places[barred], left[barred], right[barred], color=canvas.GREY, lw=5)
    ax.plot(x, places, "o", color="black", markersize=6, zorder=3)
    ax.set_yticks(places, names)
    for text in ax.get_yticklabels():
        text.set_parse_math(False)
    ax.set_ylim(n - 0.5, -0.5)
    if min(x.min(), left[barred].min(initial=0)) >= 0:
        ax.set_xlim(left=0)
    ax.set_xlabel(label)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    canvas.tidy(ax)
    return figure


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure, whole or not at all; an older file is replaced at the end.

    Args:
        figure: from a function of this module, or any other.
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
    suffix = canvas.file_format(path)
    try:
        files.write_whole({path: partial(canvas.write, figure, format=suffix)})
    except OSError as error:
        raise ValueError(
            f"`path` {path} cannot be written: {error}. Name a file in a directory "
            f"that exists and can be written."
        ) from error


_FRONT = "Pareto front"
_SELECTED = "selected"
_UNCONSTRAINED = "without fairness"
_OTHER = "other settings"
_FAILED = "not converged"
_BARS = "interval of unfairness"
_NAMES = (_FRONT, _SELECTED, _UNCONSTRAINED, _OTHER, _FAILED, _BARS)


def _draw(ax: "matplotlib.axes.Axes", panel: Frontier) -> None:
    x = np.asarray(panel.unfairness, float)
    y = np.asarray(panel.accuracy, float)
    front, converged = np.asarray(panel.front, bool), np.asarray(panel.converged, bool)
    seen = np.isfinite(x) & np.isfinite(y)
    plain = seen & converged & ~front
    failed = seen & ~converged
    line = np.flatnonzero(seen & front)
    line = line[np.lexsort((y[line], x[line]))]
    style = {"linestyle": "none", "clip_on": False}
    if plain.any():
        ax.plot(
            x[plain], y[plain], marker="o", markersize=4.5, markerfacecolor="none",
            markeredgecolor=canvas.GREY, markeredgewidth=0.9, label=_OTHER, zorder=2,
            **style,
        )  # fmt: skip
    ends = [
        np.full(x.shape, np.nan) if e is None else e for e in (panel.low, panel.high)
    ]
    low, high = (np.asarray(end, float) for end in ends)
    barred = seen & np.isfinite(low) & np.isfinite(high)
    if barred.any():
        # Lists: older releases look for a number in an array of one point and warn.
        arms = [(x - low)[barred].tolist(), (high - x)[barred].tolist()]
        ax.errorbar(
            x[barred], y[barred], xerr=arms, fmt="none", ecolor=canvas.GREY,
            elinewidth=0.9, capsize=2.5, label=_BARS, zorder=1,
        )  # fmt: skip
    if failed.any():
        ax.plot(
            x[failed], y[failed], marker="x", markersize=6, markeredgecolor="black",
            markeredgewidth=1.1, label=_FAILED, zorder=5, **style,
        )  # fmt: skip
    if line.size:
        ax.plot(
            x[line], y[line], drawstyle="steps-post", color=canvas.BLUE, linewidth=1.8,
            marker="o", markersize=5, markevery=converged[line].tolist(), label=_FRONT,
            zorder=4, clip_on=False,
        )  # fmt: skip
    for index, name, looks in (
        (panel.unconstrained, _UNCONSTRAINED, {"marker": "s", "markersize": 15,
         "markerfacecolor": "none", "markeredgewidth": 1.5}),
        (panel.selected, _SELECTED, {"marker": "*", "markersize": 15,
         "markerfacecolor": canvas.RED, "markeredgewidth": 0.9}),
    ):  # fmt: skip
        i = int(np.asarray(index))
        if i >= 0 and seen[i]:
            ax.plot(
                x[i], y[i], markeredgecolor="black", label=name, zorder=6, **looks,
                **style,
            )  # fmt: skip
    lost = int((~seen).sum())
    note = f"{lost} of {seen.size} fits not finite" if lost else ""
    ax.set_title(
        " - ".join(filter(None, [panel.heading, note])), loc="left", fontsize="medium"
    )
    ax.set_xlabel(panel.label)
    ax.margins(0.06)
    ax.locator_params(axis="x", nbins=6)
    if x[seen].min() >= 0:
        ax.set_xlim(left=-0.03 * max(x[seen].max(), 1e-3))
    canvas.tidy(ax)


def _check(panel: Frontier) -> None:
    n = np.shape(panel.unfairness)[0]
    for name in ("accuracy", "front", "converged", "low", "high"):
        if getattr(panel, name) is not None:
            checks.check_length(getattr(panel, name), n=n, name=name, to="unfairness")
    if (panel.low is None) != (panel.high is None):
        raise ValueError("`low` and `high` must be given together, but one is None.")
    if panel.low is not None:
        outside = np.flatnonzero(
            (np.asarray(panel.low) > panel.unfairness)
            | (np.asarray(panel.high) < panel.unfairness)
        )
        if outside.size:
            raise ValueError(
                f"`low` and `high` must enclose `unfairness`, but those of point "
                f"{outside[0]} do not."
            )
    if not (np.isfinite(panel.unfairness) & np.isfinite(panel.accuracy)).any():
        raise ValueError(
            f"none of the {n} points has a finite unfairness and accuracy, so there is "
            f"nothing to draw. Look at `SweepResult.finite`."
        )
    for name in ("selected", "unconstrained"):
        index = int(np.asarray(getattr(panel, name)))
        if not -1 <= index < n:
            raise ValueError(
                f"`{name}` must be the index of one of the {n} points, or -1 for none, "
                f"but is {index}."
            )
