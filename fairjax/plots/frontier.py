"""Pictures of frontiers, and of numbers with their intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike, Bool, Int, Real

from ..arrays import checks
from . import canvas

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Limits = tuple[Real[ArrayLike, " _"], Real[ArrayLike, " _"]]


@runtime_checkable
class MeasuredPoints(Protocol):
    """Points of a sweep with their measures: `frontiers.Frontier`, or your own."""

    @property
    def test_unfairness(self) -> Real[ArrayLike, " m"]:
        """Less is better, such as a gap of decision rates."""
        ...

    @property
    def test_accuracy(self) -> Real[ArrayLike, " m"]:
        """More is better."""
        ...

    @property
    def on_front(self) -> Bool[ArrayLike, " m"]:
        """Points to join by the line, as `sweeps.pareto_front` gives.

        Choose them on validation data for an honest picture.
        """
        ...

    @property
    def selected(self) -> int | Int[ArrayLike, ""]:
        """Index of the chosen point, -1 for none."""
        ...

    @property
    def unconstrained(self) -> int | Int[ArrayLike, ""]:
        """Index of the point fitted without fairness, -1 for none."""
        ...

    @property
    def converged(self) -> Bool[ArrayLike, " m"]:
        """False for points to be drawn as failed fits."""
        ...


def frontier(
    frontiers: MeasuredPoints | Sequence[MeasuredPoints],
    *,
    labels: Sequence[str] = (),
    headings: Sequence[str] = (),
    limits: Sequence[Limits | None] = (),
    accuracy_label: str = "test accuracy [share of correct decisions]",
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws accuracy against unfairness, one panel per notion, model or data set.

    The line joins the front's points as a staircase: between two of them, accuracy is
    that of the fairer one. A fit that did not converge is a cross wherever it lies.
    Points with a NaN or an infinity have no place; their number is in the heading.

    Args:
        frontiers: one or more; their panels share the vertical axis.
        labels: of the horizontal axes, what each measures, with its unit. By default
            the difference of equal opportunity.
        headings: of the panels, such as the data set.
        limits: of the unfairness, `(low, high)` with NaN for points without an
            interval, drawn as horizontal bars; None for a panel without any.
        accuracy_label: the vertical axis, with its unit.
        title: above all panels.

    Returns:
        A figure for `save`, about 5 x 4 inches per panel.

    Raises:
        ValueError: for no panel, lengths that differ, no finite point, an index outside
            the points, or limits that do not enclose them.
        ImportError: without matplotlib.

    Example:
        >>> from types import SimpleNamespace
        >>> figure = frontier(SimpleNamespace(
        ...     test_unfairness=np.array([0.0, 0.2]),
        ...     test_accuracy=np.array([0.7, 0.8]),
        ...     on_front=np.array([True, True]), selected=0, unconstrained=1,
        ...     converged=np.array([True, True])))
        >>> len(figure.axes)
        1
    """
    if isinstance(frontiers, MeasuredPoints):
        frontiers = [frontiers]
    n = len(frontiers)
    if not n:
        raise ValueError("`frontiers` must hold at least one, but is empty.")
    labels, headings = labels or [_LABEL] * n, headings or [""] * n
    limits = limits or [None] * n
    for name, values in (
        ("labels", labels),
        ("headings", headings),
        ("limits", limits),
    ):
        if len(values) != n:
            raise ValueError(
                f"`{name}` must have an entry for each of the {n} panels, but has "
                f"{len(values)}."
            )
    for points, ends in zip(frontiers, limits, strict=True):
        _check_points(points, ends)
    figure = canvas.blank(0.6 + 4.6 * n, 4.4)
    axes = figure.subplots(1, n, sharey=True, squeeze=False)[0]
    panels = zip(axes, frontiers, labels, headings, limits, strict=True)
    for ax, points, label, heading, ends in panels:
        _draw(ax, points, label, heading, ends)
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
        ncols=len(order) if n > 1 else min(len(order), 3),
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


_LABEL = "difference of equal opportunity on test [0-1]"
_FRONT = "Pareto front"
_SELECTED = "selected"
_UNCONSTRAINED = "without fairness"
_OTHER = "other settings"
_FAILED = "not converged"
_BARS = "interval of unfairness"
_NAMES = (_FRONT, _SELECTED, _UNCONSTRAINED, _OTHER, _FAILED, _BARS)


def _draw(
    ax: "matplotlib.axes.Axes",
    points: MeasuredPoints,
    label: str,
    heading: str,
    limits: Limits | None,
) -> None:
    x = np.asarray(points.test_unfairness, float)
    y = np.asarray(points.test_accuracy, float)
    front = np.asarray(points.on_front, bool)
    converged = np.asarray(points.converged, bool)
    finite = np.isfinite(x) & np.isfinite(y)
    others = finite & converged & ~front
    failed = finite & ~converged
    line = np.flatnonzero(finite & front)
    line = line[np.lexsort((y[line], x[line]))]
    style = {"linestyle": "none", "clip_on": False}
    if others.any():
        ax.plot(
            x[others], y[others], marker="o", markersize=4.5, markerfacecolor="none",
            markeredgecolor=canvas.GREY, markeredgewidth=0.9, label=_OTHER, zorder=2,
            **style,
        )  # fmt: skip
    low, high = (
        np.asarray(end, float) for end in limits or [np.full(x.shape, np.nan)] * 2
    )
    barred = finite & np.isfinite(low) & np.isfinite(high)
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
        (points.unconstrained, _UNCONSTRAINED, {"marker": "s", "markersize": 15,
         "markerfacecolor": "none", "markeredgewidth": 1.5}),
        (points.selected, _SELECTED, {"marker": "*", "markersize": 15,
         "markerfacecolor": canvas.RED, "markeredgewidth": 0.9}),
    ):  # fmt: skip
        i = int(np.asarray(index))
        if i >= 0 and finite[i]:
            ax.plot(
                x[i], y[i], markeredgecolor="black", label=name, zorder=6, **looks,
                **style,
            )  # fmt: skip
    n_missing = int((~finite).sum())
    note = f"{n_missing} of {finite.size} fits not finite" if n_missing else ""
    ax.set_title(
        " - ".join(filter(None, [heading, note])), loc="left", fontsize="medium"
    )
    ax.set_xlabel(label)
    ax.margins(0.06)
    ax.locator_params(axis="x", nbins=6)
    if x[finite].min() >= 0:
        ax.set_xlim(left=-0.03 * max(x[finite].max(), 1e-3))
    canvas.tidy(ax)


def _check_points(points: MeasuredPoints, limits: Limits | None) -> None:
    unfairness = np.asarray(points.test_unfairness)
    n = len(unfairness)
    low, high = limits or (unfairness, unfairness)
    columns = {
        "test_accuracy": points.test_accuracy,
        "on_front": points.on_front,
        "converged": points.converged,
        "limits[0]": low,
        "limits[1]": high,
    }
    for name, column in columns.items():
        checks.check_length(column, n=n, name=name, to="test_unfairness")
    outside = np.flatnonzero((low > unfairness) | (high < unfairness))
    if outside.size:
        raise ValueError(
            f"`limits` must enclose `test_unfairness`, but those of point {outside[0]} "
            f"do not."
        )
    if not (np.isfinite(unfairness) & np.isfinite(points.test_accuracy)).any():
        raise ValueError(
            f"none of the {n} points has a finite unfairness and accuracy, so there is "
            f"nothing to draw. Look at `SweepResult.finite`."
        )
    for name in ("selected", "unconstrained"):
        index = int(np.asarray(getattr(points, name)))
        if not -1 <= index < n:
            raise ValueError(
                f"`{name}` must be the index of one of the {n} points, or -1 for none, "
                f"but is {index}."
            )
