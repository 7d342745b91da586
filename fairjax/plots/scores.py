"""Pictures of scores: their distribution in each group, before and after a repair.

A distribution is drawn as its distribution function, which needs neither bins nor a
bandwidth and shows the Kolmogorov-Smirnov distance as the largest vertical gap. Groups
differ in colour, dashes and markers, so that a picture printed in grey still reads.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Real

from ..arrays import checks
from . import canvas

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLOURS = (canvas.BLUE, canvas.RED, canvas.GREEN, canvas.PURPLE,
            canvas.ORANGE, canvas.SKY, "black", canvas.GREY)  # fmt: skip
_MARKERS = "os^vDXP*"
_DASHES = ("-", "--", "-.", (0, (1, 1.2)))
_MOST_GROUPS = len(_COLOURS)
_MOST_POINTS = 1000  # Of a curve; more would not be seen.


class Scores(NamedTuple):
    """One panel: the scores of some rows.

    Attributes:
        scores: real outputs of a model.
        groups: codes, indices into the names of the groups.
        weights: non-negative sample weights, or None.
        label: what a score is, with its unit.
        heading: name of the panel.
    """

    scores: Real[ArrayLike, " n"]
    groups: Int[ArrayLike, " n"]
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None
    label: str = "score"
    heading: str = ""


def distributions(
    panels: Scores | Sequence[Scores],
    *,
    group_names: Sequence[str],
    threshold: float | None = None,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws the distribution function of each group's scores, panel by panel.

    Args:
        panels: one or more; they share both axes.
        group_names: as many as there are codes; the legend says which line is whose.
            Beyond eight groups, those with most rows in the first panel are drawn.
        threshold: a vertical line where decisions change, or None.
        title: above all panels.

    Returns:
        A figure for `save`, about 5 x 4 inches per panel.

    Raises:
        ValueError: for no panel, a panel without rows, scores that are not finite, bad
            weights, codes without a name, or lengths that differ.
        ImportError: without matplotlib.

    Example:
        >>> figure = distributions(
        ...     Scores(np.array([0.1, 0.4, 0.3]), np.array([0, 0, 1])),
        ...     group_names=("a", "b"))
        >>> len(figure.axes)
        1
    """
    panels = [panels] if isinstance(panels, Scores) else list(panels)
    if not panels:
        raise ValueError("`panels` must hold at least one `Scores`, but is empty.")
    for panel in panels:
        _check_scores(panel, group_names)
    figure, axes = _figure(len(panels), title)
    drawn = _largest(panels[0].groups, len(group_names))
    entries: dict[str, Any] = {}
    for ax, panel in zip(axes, panels, strict=True):
        _draw_distributions(ax, panel, drawn, entries, group_names)
        if ax is not axes[0]:
            ax.sharex(axes[0])
            ax.sharey(axes[0])
        if threshold is not None:
            entries["threshold"] = ax.axvline(
                threshold, color="black", linewidth=1, linestyle=(0, (6, 3))
            )
    _legend(figure, entries, len(group_names))
    return figure


def repair(
    before: Real[ArrayLike, " n"],
    after: Real[ArrayLike, " n"],
    groups: Int[ArrayLike, " n"],
    *,
    group_names: Sequence[str],
    weights: Real[ArrayLike, " n"] | Bool[ArrayLike, " n"] | None = None,
    labels: tuple[str, str] = ("score before repair", "score after repair"),
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws scores per group before and after a repair, and which score became which.

    Args:
        before: the scores.
        after: what became of them, row by row.
        groups: codes, indices into the names of the groups.
        group_names: as in `distributions`.
        weights: non-negative sample weights, or None.
        labels: what the scores before and after are, with their units.
        title: above all panels.

    Returns:
        A figure for `save` with three panels: both distributions on the same axes, and
        the transport curves with the diagonal that stands for no change.

    Raises:
        ValueError: as `distributions`.
        ImportError: without matplotlib.

    Example:
        >>> scores, groups = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
        >>> figure = repair(scores, scores, groups, group_names=("a", "b"))
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['before', 'after', 'transport']
    """
    first = Scores(before, groups, weights, labels[0], "before")
    second = Scores(after, groups, weights, labels[1], "after")
    for panel in (first, second):
        _check_scores(panel, group_names)
    checks.check_length(after, n=np.size(before), name="after", to="before")
    figure, (left, middle, right) = _figure(3, title)
    drawn = _largest(groups, len(group_names))
    entries: dict[str, Any] = {}
    _draw_distributions(left, first, drawn, entries, group_names)
    _draw_distributions(middle, second, drawn, entries, group_names)
    middle.sharex(left)
    middle.sharey(left)
    ends = [float(np.min(before)), float(np.max(before))]
    (entries["no change"],) = right.plot(
        ends, ends, color="black", linewidth=0.8, zorder=1
    )
    x, y = np.asarray(before, float), np.asarray(after, float)
    for position, group in enumerate(drawn):
        rows = np.flatnonzero(np.asarray(groups) == group)
        order = rows[np.lexsort((y[rows], x[rows]))]
        order = order[_thin(np.arange(1, order.size + 1))]
        right.plot(x[order], y[order], zorder=3, **_style(position))
    _label_axes(right, "transport", labels[0])
    right.set_ylabel(_escape(labels[1]))
    _legend(figure, entries, len(group_names))
    return figure


def _figure(n_panels: int, title: str):
    figure = canvas.blank(0.6 + 4.4 * n_panels, 4.4)
    axes = figure.subplots(1, n_panels, squeeze=False)[0]
    axes[0].set_ylabel("share of the group at or below [0-1]")
    if title:
        figure.suptitle(_escape(title))
    return figure, axes


def _draw_distributions(
    ax: "matplotlib.axes.Axes",
    panel: Scores,
    drawn: list[int],
    entries: dict[str, Any],
    names: Sequence[str],
) -> None:
    scores, groups = np.asarray(panel.scores, float), np.asarray(panel.groups)
    weights = np.ones(scores.size) if panel.weights is None else panel.weights
    weights = np.asarray(weights, float)
    for position, group in enumerate(drawn):
        members = (groups == group) & (weights > 0)
        if members.any():
            x, level = _distribution(scores[members], weights[members])
            (line,) = ax.plot(x, level, drawstyle="steps-post", **_style(position))
            entries.setdefault(names[group], line)
    _label_axes(ax, panel.heading, panel.label)


def _distribution(
    scores: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The steps of a distribution function, from 0 to 1."""
    order = np.argsort(scores, kind="stable")
    x, level = scores[order], np.cumsum(weights[order])
    last = np.append(x[1:] != x[:-1], True)
    x, level = x[last], level[last] / level[-1]
    shown = _thin(level)
    return np.append(x[0], x[shown]), np.append(0.0, level[shown])


def _thin(level: np.ndarray) -> Int[np.ndarray, " m"]:
    """Indices of at most so many points, evenly spread over increasing levels."""
    if level.size <= _MOST_POINTS:
        return np.arange(level.size)
    even = np.linspace(level[0], level[-1], _MOST_POINTS)
    return np.unique(np.minimum(np.searchsorted(level, even), level.size - 1))


def _style(position: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[position],
        "linestyle": _DASHES[position % len(_DASHES)],
        "linewidth": 1.6,
        "marker": _MARKERS[position],
        "markersize": 5.5,
        "markerfacecolor": "white",
        # Fractions of the panel's diagonal along the line.
        "markevery": (0.03 + 0.05 * (position % 4), 0.2),
    }


def _largest(groups: ArrayLike, n_groups: int) -> list[int]:
    """The groups to draw, in the order of their codes."""
    counts = np.bincount(np.asarray(groups), minlength=n_groups)
    order = np.argsort(-counts, kind="stable")[:_MOST_GROUPS]
    return sorted(order.tolist())


def _label_axes(ax: "matplotlib.axes.Axes", heading: str, label: str) -> None:
    ax.set_title(_escape(heading), loc="left", fontsize="medium")
    ax.set_xlabel(_escape(label))
    ax.locator_params(axis="x", nbins=6)
    ax.margins(0.03)
    canvas.tidy(ax)


def _legend(
    figure: "matplotlib.figure.Figure", entries: dict[str, Any], n_groups: int
) -> None:
    if n_groups > _MOST_GROUPS:
        from matplotlib.lines import Line2D

        note = f"({n_groups - _MOST_GROUPS} smaller groups are not drawn)"
        entries[note] = Line2D([], [], linestyle="none")
    longest = max(map(len, entries))
    width = figure.get_figwidth() * 14  # Letters that fit side by side.
    canvas.legend(figure, entries, columns=max(1, math.floor(width / (longest + 8))))


def _escape(text: str) -> str:
    """Text between dollars would be read as a formula."""
    return text.replace("$", r"\$")


def _check_scores(panel: Scores, group_names: Sequence[str]) -> None:
    n = np.shape(panel.scores)[0]
    if not n:
        raise ValueError("`scores` must hold at least one row, but holds none.")
    checks.check_length(panel.groups, n=n, name="groups", to="scores")
    checks.check_groups(panel.groups, n_groups=len(group_names))
    checks.check_finite(panel.scores, name="scores")
    if panel.weights is not None:
        checks.check_weights(panel.weights, n=n)
