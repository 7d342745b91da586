"""Seconds against size: a panel for each benchmark and case with alternatives.

Ours are filled marks on full lines, the others hollow marks on broken ones, each with a
shape and a pattern of its own, so that a picture printed in grey still reads. A grey
line is the least time that the device's ceilings allow.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fairjax.plots import canvas

from .records import Record, floor

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

OURS = (
    ("o", "-", canvas.BLUE),
    ("s", "-", canvas.SKY),
    ("D", "-", canvas.GREEN),
    ("p", "-", "#444444"),
)
OTHERS = (
    ("^", "--", canvas.RED),
    ("v", "-.", canvas.PURPLE),
    (">", ":", canvas.ORANGE),
    ("<", (0, (5, 1, 1, 1, 1, 1)), "#444444"),
    ("P", (0, (8, 3)), canvas.RED),
    ("X", (0, (1, 3)), canvas.PURPLE),
)
COLUMNS = 3


def panels(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by benchmark and case; cases with alternatives only, where there are any.

    A benchmark whose cases all have one alternative keeps them all.
    """
    cases: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        cases.setdefault((record.benchmark, record.case), []).append(record)
    several = {
        key: found for key, found in cases.items() if len({*map(_name, found)}) > 1
    }
    compared = {name for name, _ in several}
    return {k: v for k, v in cases.items() if k in several or k[0] not in compared}


def draw(
    records: Sequence[Record],
    ceilings: Mapping[str, float],
    *,
    platform: str,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Draws medians of seconds, with the range of the repeats as bars.

    Args:
        records: at least one.
        ceilings: rates by name, see `records.floor`.
        platform: of the device they belong to.
        title: the first line above all panels.

    Returns:
        A figure of up to three panels in a row, both axes logarithmic.

    Raises:
        ImportError: without matplotlib.
    """
    cases = panels(records)
    columns = min(COLUMNS, len(cases))
    rows = math.ceil(len(cases) / columns)
    figure = canvas.blank(0.4 + 4.4 * columns, 0.3 + 4.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, ((benchmark, case), found) in zip(axes, cases.items(), strict=False):
        _panel(ax, found, ceilings, platform)
        ax.set_title(f"{benchmark}: {case}", fontsize="medium", parse_math=False)
    for ax in axes[len(cases) :]:
        ax.set_visible(False)
    marks = "median of the calls after the first, or the only call"
    lines = textwrap.wrap(f"{marks}; bars: fastest to slowest", 48 * columns)
    text = "\n".join([title, *lines]).strip()
    figure.suptitle(text, fontsize="medium", parse_math=False)
    return figure


def _name(record: Record) -> str:
    return record.alternative


def _panel(
    ax: "matplotlib.axes.Axes",
    records: Sequence[Record],
    ceilings: Mapping[str, float],
    platform: str,
) -> None:
    names = list(dict.fromkeys(map(_name, records)))
    left = {True: 0, False: 0}
    for name in names:
        own = sorted((r for r in records if _name(r) == name), key=lambda r: r.size)
        ours = own[0].ours
        styles = OURS if ours else OTHERS
        marker, style, color = styles[left[ours] % len(styles)]
        left[ours] += 1
        medians = [r.median for r in own]
        below = [r.median - r.fastest for r in own]
        above = [r.slowest - r.median for r in own]
        ax.errorbar(
            [r.size for r in own],
            medians,
            yerr=[below, above],
            marker=marker,
            linestyle=style,
            color=color,
            markerfacecolor=color if ours else "white",
            markersize=7,
            linewidth=1.6,
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
    _ceiling(ax, records, ceilings, platform)
    ax.set_xscale("log")
    ax.set_yscale("log")
    sizes = sorted({r.size for r in records})
    if len(sizes) <= 4:
        ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        ax.minorticks_off()
    if len(sizes) == 1:
        ax.set_xlim(sizes[0] / 2, sizes[0] * 2)
    ax.set_xlabel(f"size [{records[0].unit}]")
    ax.set_ylabel("time of a call [s]")
    low, high = ax.get_ylim()
    if high < 12 * low:
        # Less than a decade might hold no tick with a number.
        middle = math.sqrt(low * high)
        ax.set_ylim(middle / 12**0.5, middle * 12**0.5)
    canvas.tidy(ax)
    ax.legend(fontsize="x-small", framealpha=0.8)


def _ceiling(
    ax: "matplotlib.axes.Axes",
    records: Sequence[Record],
    ceilings: Mapping[str, float],
    platform: str,
) -> None:
    """The ceiling's time for the task itself: what `fairjax` is asked for."""
    known = sorted(
        (record.size, least)
        for record in records
        if record.alternative == "fairjax"
        and (least := floor(record, ceilings, platform=platform)) is not None
    )
    if not known:
        return
    sizes, times = zip(*known, strict=True)
    ax.plot(
        sizes,
        times,
        color=canvas.GREY,
        linewidth=3.5,
        alpha=0.6,
        marker="_",
        markersize=18,
        markeredgewidth=3.5,
        label="ceiling of the device",
        zorder=1,
    )
