"""What `fairjax audit` does: group tables and gaps of scores, with a picture."""

import contextlib
import importlib.metadata
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from .. import bounds, files, notions, plots, sweeps
from ..plots import canvas
from . import tables, terminal
from .measures import LEVEL, RATIO, Gap, chance, gaps, in_order
from .tables import Columns, Labels, Rows
from .terminal import plain

if TYPE_CHECKING:
    import matplotlib.figure

FILES = ("groups.csv", "gaps.csv", "report.md", "scores.png", "gaps.png")
CONFIDENCE = 0.95  # Of the exact limits.


class Found(NamedTuple):
    """What an audit found, ready to be shown.

    Attributes:
        head: names of the numbers of a group.
        groups: these numbers, one row per group; NaN where there is none.
        gaps: the comparisons between groups.
        sentences: what was compared, and what casts doubt on it.
    """

    head: list[str]
    groups: list[list[float]]
    gaps: list[Gap]
    sentences: list[str]


def run(
    scores: Path,
    columns: Columns,
    *,
    label: str | None,
    positive: str | None,
    threshold: float | None,
    draws: int,
    out: Path | None,
    quiet: bool,
) -> None:
    """Reads the options and the table, measures, writes and prints."""
    if positive is not None and label is None:
        raise ValueError("`--positive` needs `--label COLUMN`, whose value it names.")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"`--threshold` must be finite, but is {threshold}.")
    if draws < 1:
        raise ValueError(f"`--draws` must be at least 1, but is {draws}.")
    with contextlib.ExitStack() as stack:
        paths = []
        if out is not None:
            terminal.need_matplotlib()
            paths = stack.enter_context(terminal.output(out, FILES))
            for path in paths:
                apart = {"the table of scores": scores}
                terminal.check_output(path, option="--out", apart=apart)
        others = [f"--label {label}"] if label else []
        (rows,), names = tables.read([scores], columns, others=others)
        labels = None
        if label:
            labels = tables.labels(rows, label, positive=positive, path=scores)
        limit = _limit(rows, labels, threshold)
        found = _audit(rows, labels, limit, names, draws=draws, quiet=quiet)
        if paths:
            _write(paths, found, rows, labels, limit, names, scores, columns.score)
        console = terminal.console(sys.stdout)
        if not quiet:
            for table in _tables(found, names):
                console.print(table)
        said = [*found.sentences]
        said += [f"Wrote {', '.join(FILES[:-1])} and {FILES[-1]} to {out}."] * bool(out)
        for sentence in said:
            console.print(sentence, soft_wrap=True)


def _limit(rows: Rows, labels: Labels | None, threshold: float | None) -> float | None:
    """What a score must exceed for a favourable decision; None for no decisions."""
    if threshold is not None:
        return threshold
    if labels is not None and not labels.binary:
        return None
    if rows.scores.min() >= 0 and rows.scores.max() <= 1:
        return 0.5
    return None if labels is None else 0.0


def _audit(
    rows: Rows,
    labels: Labels | None,
    limit: float | None,
    names: tuple[str, ...],
    *,
    draws: int,
    quiet: bool,
) -> Found:
    decisions = None if limit is None else rows.scores > limit
    ordered = in_order(
        rows.scores,
        rows.groups,
        rows.weights,
        decisions=decisions,
        labels=None if labels is None else labels.values,
        binary=labels is not None and labels.binary,
    )
    bar = contextlib.nullcontext() if quiet else sweeps.progress_bar("resampling")
    with bar as progress:
        compared = gaps(
            ordered,
            n_groups=len(names),
            draws=draws,
            progress=progress or (lambda done, total: None),
        )
    head, numbers = _numbers(rows, labels, decisions, len(names))
    sentences = _sentences(rows, labels, limit, names, draws=draws)
    if decisions is not None:
        sentences += _limits(rows, labels, decisions, names)
    return Found(head, numbers, compared, sentences)


def _numbers(
    rows: Rows,
    labels: Labels | None,
    decisions: Bool[np.ndarray, " n"] | None,
    n_groups: int,
) -> tuple[list[str], list[list[float]]]:
    """The numbers of each group, and their names; rows of weight 0 do not count."""
    head = ["rows", "mean", "10%", "median", "90%"]
    head += ["selected"] * (decisions is not None)
    if labels is not None and not labels.binary:
        head += ["mean label", "mean error", "mean squared error"]
    elif labels is not None:
        head += ["positives", "true positive rate", "false positive rate", "accuracy"]
    table = []
    for group in range(n_groups):
        mine = rows.groups == group
        scores, weights = rows.scores[mine], rows.weights[mine]
        numbers = [float((weights > 0).sum()), _mean(scores, weights)]
        numbers += _quantiles(scores, weights)
        if decisions is not None:
            numbers.append(_mean(decisions[mine], weights))
        if labels is not None:
            truth = labels.values[mine]
            if not labels.binary:
                error = scores - truth
                numbers += [_mean(v, weights) for v in (truth, error, error**2)]
            elif decisions is not None:
                chosen = decisions[mine]
                numbers.append(float(truth[weights > 0].sum()))
                numbers += [
                    _mean(chosen[truth == value], weights[truth == value])
                    for value in (1, 0)
                ]
                numbers.append(_mean(chosen == truth, weights))
        table.append(numbers)
    return head, table


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else np.nan


def _quantiles(scores: np.ndarray, weights: np.ndarray) -> list[float]:
    if not weights.sum() > 0:
        return [np.nan] * 3
    kept, levels = weights > 0, [0.1, 0.5, 0.9]
    return np.quantile(
        scores[kept], levels, weights=weights[kept], method="inverted_cdf"
    ).tolist()


def _sentences(
    rows: Rows,
    labels: Labels | None,
    limit: float | None,
    names: tuple[str, ...],
    *,
    draws: int,
) -> list[str]:
    """How the numbers came about, and which groups are too small for them."""
    said = []
    if limit is not None:
        said.append(
            f"Selected, the favourable decision: a score above {limit:g} "
            f"(`--threshold` changes that)."
        )
    elif labels is None:
        said.append("Without `--threshold` there are no selection rates.")
    if labels is not None and labels.binary:
        said.append(f"Positive: {labels.name}.")
    said.append(
        f"Gaps are the largest difference between two groups; intervals: {LEVEL:.0%} "
        f"bootstrap percentiles from {draws:,} draws. Resampling widens a gap that is "
        f"nearly 0, so an interval above 0 is no proof of unfairness."
    )
    used = rows.weights > 0
    cells = {"": used}
    if labels is not None and labels.binary:
        cells |= {
            " with a positive label": used & (labels.values == 1),
            " without a positive label": used & (labels.values == 0),
        }
    said += chance(rows.groups, rows.weights)
    small = [
        f"{name}{words} ({size:,})"
        for words, where in cells.items()
        for name, size in zip(
            names,
            tables.member_counts(rows.groups, len(names), where),
            strict=True,
        )
        if size < terminal.FEW
    ]
    if small:
        said.append(
            f"Warning: fewer than {_terminal.FEW} rows, too few to conclude anything: "
            f"{', '.join(small)}."
        )
    return said


def _limits(
    rows: Rows,
    labels: Labels | None,
    decisions: Bool[np.ndarray, " n"],
    names: tuple[str, ...],
) -> list[str]:
    """What the rows can tell of the true gaps of rates: `bounds.binomial`.

    Rows of different weights have no such limits, and no sentence.
    """
    used = rows.weights > 0
    if np.ptp(rows.weights[used]):
        return []
    parts = {"selection rates": (used, "rows")}
    if labels is not None and labels.binary:
        parts["true positive rates"] = (used & (labels.values == 1), "positives")
    said = []
    for what, (part, unit) in parts.items():
        counts = np.bincount(rows.groups[part], minlength=len(names))
        if (counts > 0).sum() < 2:
            continue
        # Of a group without rows nothing is known, which is not the others' fault.
        kept = counts > 0
        codes = np.where(kept, np.cumsum(kept) - 1, 0)[rows.groups]
        cond = notions.demographic_parity(codes, n_groups=int(kept.sum()), weights=part)
        found = bounds.binomial(decisions, cond, confidence=CONFIDENCE).largest
        gap, low, high = (float(end[0]) for end in found)
        least = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        doubt = "" if low > 0 else ", so that it cannot be told from 0"
        said.append(
            f"The true difference of {what} lies between {low:.3f} and {high:.3f} with "
            f"{CONFIDENCE:.0%} confidence{doubt}: {names[least]} has "
            f"{counts[least]:,} {unit}, and the gap is known to "
            f"+-{max(high - gap, gap - low):.2g}."
        )
    return said


def _shown(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if name in ("rows", "positives") else f"{value:.4g}"


def _group_cells(found: Found, names: Sequence[str]) -> list[list[str]]:
    return [
        [name, *map(_shown, found.head, numbers)]
        for name, numbers in zip(names, found.groups, strict=True)
    ]


def _gap_cells(found: Found) -> list[list[str]]:
    return [[gap.name, *(_shown("", value) for value in gap[1:])] for gap in found.gaps]


_GAP_HEAD = ["between groups", "gap", f"{LEVEL:.0%} from", "to"]
_SHARE = " [0-1]"
_SCORES = 5  # Numbers of a group that concern its scores alone.


def _tables(found: Found, names: tuple[str, ...]) -> list[terminal.Table]:
    """Two narrow tables of the groups, and one of the gaps."""
    cells = _group_cells(found, names)
    head = ["group", *found.head]
    drawn = [terminal.table("", head[: _SCORES + 1], [c[: _SCORES + 1] for c in cells])]
    if len(found.head) > _SCORES:
        rest = [[c[0], *c[_SCORES + 1 :]] for c in cells]
        drawn.append(terminal.table("", [head[0], *head[_SCORES + 1 :]], rest))
    return [*drawn, terminal.table("", _GAP_HEAD, _gap_cells(found))]


def _write(
    paths: list[Path],
    found: Found,
    rows: Rows,
    labels: Labels | None,
    limit: float | None,
    names: tuple[str, ...],
    scores: Path,
    score: str,
) -> None:
    groups, compared, report, picture, bars = paths
    harmless = map(terminal.harmless, names)
    table: list[Sequence[object]] = [["group", *found.head]]
    for name, numbers in zip(harmless, found.groups, strict=True):
        table.append([name, *map(_exact, numbers)])
    gap_table: list[Sequence[object]] = [["gap", "value", "low", "high"]]
    gap_table += [[gap.name, *map(_exact, gap[1:])] for gap in found.gaps]
    text = _report(found, names, scores, score).encode()
    drawn = _picture(rows, labels, limit, names, scores, score)
    files.write_whole(
        {
            groups: partial(terminal.write_rows, rows=table),
            compared: partial(terminal.write_rows, rows=gap_table),
            report: lambda stream: stream.write(text),
            picture: partial(canvas.write, drawn),
            bars: partial(canvas.write, _bars(found, scores, score)),
        }
    )


def _exact(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.9g}"


def _report(found: Found, names: tuple[str, ...], scores: Path, score: str) -> str:
    version = importlib.metadata.version("fairjax")
    lines = [
        f"# Audit of {plain(score)} in {plain(scores.name)}",
        "![distribution of the scores in each group](scores.png)",
        "## Groups",
        terminal.markdown(["group", *found.head], _group_cells(found, names)),
        "## Between groups",
        terminal.markdown(_GAP_HEAD, _gap_cells(found)),
        "![gaps between groups with their intervals](gaps.png)",
        *map(plain, found.sentences),
        f"fairjax {version}, jax {jax.__version__}.",
    ]
    return "\n\n".join(lines) + "\n"


def _bars(found: Found, scores: Path, score: str) -> "matplotlib.figure.Figure":
    """The gaps that are shares, with their intervals."""
    shares = [g for g in found.gaps if g.name.endswith(_SHARE) and g.name != RATIO]
    return plots.intervals(
        [gap.name.removesuffix(_SHARE) for gap in shares],
        *np.array([gap[1:] for gap in shares]).T,
        label=f"largest gap{_SHARE}, {LEVEL:.0%} intervals",
        title=f"{score}, {scores.name}".replace("$", r"\$"),
    )


def _picture(
    rows: Rows,
    labels: Labels | None,
    limit: float | None,
    names: tuple[str, ...],
    scores: Path,
    score: str,
) -> "matplotlib.figure.Figure":
    """The distributions among all rows, and with labels among those of each."""
    parts = {"all rows": np.ones(rows.scores.size, bool)}
    if labels is not None and labels.binary:
        parts |= {
            f"positive: {labels.name}": labels.values == 1,
            "all other labels": labels.values == 0,
        }
    panels = [
        plots.Scores(
            rows.scores[part],
            rows.groups[part],
            rows.weights[part],
            label=f"{score} [score]",
            heading=heading,
        )
        for heading, part in parts.items()
        if rows.weights[part].any()
    ]
    return plots.distributions(
        panels, group_names=names, threshold=limit, title=scores.name
    )
