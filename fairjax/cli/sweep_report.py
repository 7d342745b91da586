"""Results of `fairjax sweep`: a table, sentences, a report, a file and a picture."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import bounds, frontiers, plots
from ..datasets import Dataset
from . import report
from .guarantee import GuaranteeResult
from .models import Model
from .report import Detail, Table, plain

if TYPE_CHECKING:
    import matplotlib.figure

CONFIDENCE = 0.95  # Of the limits of true gaps.
MEANINGS = {
    "constraint": "the share of the gap between the groups' mean scores that is "
    "removed: 0 leaves the model free, 1 makes mean scores equal, more turns the gap "
    "around",
    "penalty": "the weight of the squared gap between the groups' mean scores, added "
    "to the objective: 0 leaves the model free",
    "projection": "0 for the features as they are, 1 for features projected so that "
    "every linear model on them has equal mean scores",
    "elimination": "0 for the features as they are, 1 for features with one coordinate "
    "eliminated so that every linear model on them has equal mean scores",
    "mmd": "the weight of the squared MMD between the groups on the last hidden layer",
    "energy": "the weight of the energy distance between the groups on the last hidden "
    "layer",
    "sinkhorn": "the weight of the Sinkhorn divergence between the groups on the last "
    "hidden layer",
    "mean-gap": "the weight of the squared gap between the groups' mean scores",
}
STRATA = {
    "demographic-parity": [""],
    "equal-opportunity": [" with label 1"],
    "equalized-odds": [" with label 0", " with label 1"],
}
_MOST_ROWS = 18
_GAPS = {
    False: "A gap is the largest difference between two groups of the share of "
    "decisions for label 1: among all (demographic parity), among those with label 1 "
    "(equal opportunity), or the larger one of those among either label (equalized "
    "odds).",
    True: "A gap is the largest distance between the distribution functions of two "
    "groups' scores (Kolmogorov-Smirnov), accuracy the share of the labels' variance "
    "that scores explain.",
}


class Panel(NamedTuple):
    """Everything that was found for one notion.

    Attributes:
        notion: its name.
        data: of the first seed.
        runs: a frontier for each seed.
        mean: over the seeds.
        guarantee: the test of the points on rows set aside, or None.
        limits: of the true gaps of the points that are shown, NaN for others; None for
            means over seeds, which have no such limits.
    """

    notion: str
    data: Dataset
    runs: list[frontiers.Frontier]
    mean: frontiers.Frontier
    guarantee: GuaranteeResult | None = None
    limits: bounds.GapRange | None = None

    @property
    def accuracy(self) -> str:
        """The name of what is called accuracy."""
        return "explained variance" if self.data.is_regression else "accuracy"

    @property
    def unfairness(self) -> str:
        """The name of the gap."""
        if self.data.is_regression:
            return "KS distance between groups"
        return f"difference of {self.notion.replace('-', ' ')}"

    @property
    def shown(self) -> list[int]:
        """Points of the table, fairest last: ends of the front and an even choice."""
        unfairness = self.mean.test_unfairness
        front = np.flatnonzero(self.mean.on_front)
        front = front[np.argsort(-unfairness[front], kind="stable")]
        if front.size > _MOST_ROWS:
            even = np.linspace(0, front.size - 1, _MOST_ROWS).round().astype(int)
            front = front[even]
        points = {*front.tolist(), self.mean.selected, self.mean.unconstrained}
        return sorted(points - {-1}, key=lambda i: (-unfairness[i], i))

    @property
    def settings(self) -> dict[str, np.ndarray]:
        """The settings beside the strength that differ between points."""
        return {
            name: column
            for name, column in self.mean.points.items()
            if name != "strength" and np.unique(column).size > 1
        }

    def with_limits(self) -> "Panel":
        """The panel with limits of the true gaps, if it is of one seed."""
        if len(self.runs) > 1:
            return self
        found, shown, trials = self.mean, self.shown, self.mean.counts[1]
        if self.data.is_regression:
            known = bounds.ks_gaps(
                found.test_unfairness[shown], trials, confidence=CONFIDENCE
            )
        else:
            ones = np.rint(found.test_rates[shown] * trials)
            known = bounds.binomial_gaps(ones, trials, confidence=CONFIDENCE)
        limits = np.full((2, found.strength.size), np.nan)
        limits[:, shown] = known
        return self._replace(limits=bounds.GapRange(*limits))


def headline(data: Dataset) -> str:
    """The data in one sentence."""
    n_train = int(data.is_train.sum())
    labels = "Labels" if data.is_regression else "Label 1"
    tasks = "" if data.tasks is None else f"{len(data.task_names)} tasks. "
    return (
        f"{data.name}: {n_train:,} training and {data.is_train.size - n_train:,} test "
        f"rows, {data.features.shape[1]} features. {labels}: {data.label_name}. {tasks}"
        f"Groups: {', '.join(data.group_names)}."
    )


def cell_names(notion: str, data: Dataset) -> list[list[str]]:
    """The name of each cell of the notion, by stratum and group."""
    return [
        [f"group {name}{stratum}" for name in data.group_names]
        for stratum in STRATA[notion]
    ]


def parts(panels: Sequence[Panel], model: Model) -> Iterator[str | Detail | Table]:
    """Everything that is printed before the names of the files."""
    yield Detail(headline(panels[0].data))
    yield Detail(f"{model.description}.")
    for panel in panels:
        yield Detail("")
        yield _narrow_table(panel)
        yield Detail(_legend(panel))
        yield from sentences(panel)
    yield Detail("")


def sentences(panel: Panel) -> list[str]:
    """The conclusion, and what casts doubt on it."""
    found, i, free = panel.mean, panel.mean.selected, panel.mean.unconstrained
    lines = []
    if i >= 0:
        settings = [f", {k} {column[i]:.3g}" for k, column in panel.settings.items()]
        lines.append(
            f"Selected strength {found.strength[i]:.3g}{''.join(settings)}: test "
            f"{panel.accuracy} {_with_spread(panel, 'test_accuracy')} (without "
            f"fairness {found.test_accuracy[free]:.3f}), {panel.unfairness} "
            f"{_with_spread(panel, 'test_unfairness')} (without fairness "
            f"{found.test_unfairness[free]:.3f})."
        )
    if panel.guarantee:
        notion = panel.notion.replace("-", " ").capitalize()
        lines.append(f"{notion}: {panel.guarantee.selection.reason}")
    if not lines:
        lines.append(
            f"None is selected: no point has a validation {panel.accuracy} of 0 or "
            f"more. More `--epochs` or other `--strengths` may help."
        )
    if panel.limits:
        lines.append(_limits(panel, panel.limits))
    if not found.converged.all():
        lines.append(
            f"Warning: {int((~found.converged).sum())} of {found.converged.size} "
            f"points did not reach their precision; their numbers are the best found."
        )
    if (smallest := int(found.counts.min())) < report.FEW:
        at = np.unravel_index(found.counts.argmin(), found.counts.shape)
        cell = cell_names(panel.notion, panel.data)[at[1]][at[2]]
        lines.append(
            f"Warning: the {('training', 'test')[at[0]]} part has only {smallest} "
            f"samples of {cell}: the {panel.unfairness} is uncertain."
        )
    return lines


def document(panels: Sequence[Panel], seeds: Sequence[int], model: Model) -> str:
    """The report in Markdown."""
    data = panels[0].data
    repeats = "seed" if len(seeds) == 1 else "means over the seeds"
    meaning = MEANINGS[model.columns.get("method") or model.columns["penalty"]]
    lines: list[str | Table] = [
        f"# Accuracy and fairness: {plain(data.name)}",
        plain(headline(data)),
        f"{model.description}; {repeats} {', '.join(map(str, seeds))}. A strength is "
        f"{meaning}.",
        "![accuracy against unfairness](frontier.png)",
    ]
    for panel in panels:
        lines.append(f"## {panel.notion.replace('-', ' ').capitalize()}")
        lines += map(plain, sentences(panel))
        lines += [_wide_table(panel), plain(_legend(panel)), _counts(panel)]
    lines += [
        "## How to read this",
        f"{_GAPS[data.is_regression]} {_selection_rule(panels, model)} The front and "
        f"the test columns played no role in it.{_limits_rule(panels[0])}",
    ]
    return report.document(lines)


def picture(panels: Sequence[Panel]) -> "matplotlib.figure.Figure":
    """The frontier of each notion side by side."""
    data, axis = panels[0].data, "test accuracy [share of correct decisions]"
    if data.is_regression:
        axis = "explained variance on test [share]"
    # matplotlib reads text between dollars as a formula.
    title = data.name.replace("$", r"\$")
    return plots.frontier(
        [panel.mean for panel in panels],
        labels=[f"{panel.unfairness} on test [0-1]" for panel in panels],
        limits=[panel.limits for panel in panels],
        title=title,
        accuracy_label=axis,
    )


def rows(
    panels: Sequence[Panel], seeds: Sequence[int], model: Model
) -> Iterator[list[object]]:
    """All points of all seeds, under a header."""
    names = panels[0].mean.columns()
    tested = ("safety_unfairness", "safety_high", "safety_tested", "safety_passed")
    more = tested if any(panel.guarantee for panel in panels) else ()
    yield ["dataset", "notion", *model.columns, "seed", *names, *more]
    for panel in panels:
        columns = []
        if panel.guarantee:
            found = panel.guarantee.selection
            columns = [found.gap, found.high, found.tested, found.passed]
        name = report.harmless(panel.data.name)
        for seed, run in zip(seeds, panel.runs, strict=True):
            head = [name, panel.notion, *model.columns.values(), seed]
            entries = [*run.columns().values(), *columns]
            for i in range(run.strength.size):
                yield [*head, *(_entry(column, i) for column in entries)]


def _entry(column, i: int) -> str:
    """An entry of a column; flags are 0 or 1."""
    value = column[i]
    return str(int(value)) if np.asarray(value).dtype.kind in "bi" else f"{value:.7g}"


def _cells(panel: Panel, parts: Sequence[str]) -> Iterator[list[str]]:
    """Rows of a table of the points that are shown."""
    found = panel.mean
    for i in panel.shown:
        marks = "*" * (i == found.selected) + "o" * (i == found.unconstrained)
        marks += "!" * (not found.converged[i])
        cells = [marks, f"{found.strength[i]:.4g}"]
        cells += [f"{column[i]:.3g}" for column in panel.settings.values()]
        for part in parts:
            for measure in ("accuracy", "unfairness"):
                cells.append(f"{getattr(found, f'{part}_{measure}')[i]:.4f}")
        if panel.limits:
            cells.append(f"{panel.limits.low[i]:.3f}-{panel.limits.high[i]:.3f}")
        yield cells


def _narrow_table(panel: Panel) -> Table:
    """The front of the test part in 80 characters."""
    title = f"gap = {panel.unfairness}, in shares"
    if panel.data.is_regression:
        title = f"accuracy = {panel.accuracy}; {title}"
    if len(panel.runs) > 1:
        title += f"; means over {len(panel.runs)} seeds"
    head = ["", "strength", *panel.settings]
    # The limits take the place of the training part.
    parts = {"cv": "validation", "test": "test"}
    parts = parts if panel.limits else {"train": "train"} | parts
    for part in parts.values():
        head += [f"{part}\naccuracy", "\ngap"]
    head += [f"true gap\n{CONFIDENCE:.0%}"] * bool(panel.limits)
    selected = panel.mean.selected
    bold = panel.shown.index(selected) if selected >= 0 else None
    return Table(head, [*_cells(panel, [*parts])], title, bold)


def _wide_table(panel: Panel) -> Table:
    """The same for the report, with the training part."""
    head = ["", "strength", *panel.settings]
    for part in ("train", "validation", "test"):
        head += [f"{part} accuracy", f"{part} gap"]
    head += [f"true gap, {CONFIDENCE:.0%}"] * bool(panel.limits)
    return Table(head, [*_cells(panel, ["train", "cv", "test"])])


def _counts(panel: Panel) -> Table:
    """Samples in each cell."""
    cells = [
        [name + stratum, *(f"{n:,}" for n in panel.mean.counts[:, s, g])]
        for s, stratum in enumerate(STRATA[panel.notion])
        for g, name in enumerate(panel.data.group_names)
    ]
    return Table(["group", "training samples", "test samples"], cells)


def _legend(panel: Panel) -> str:
    """The meaning of the marks of the table."""
    found = panel.mean
    star = "* selected, " * (found.selected >= 0)
    bad = ", ! not converged" * (not found.converged[panel.shown].all())
    return (
        f"{star}o without fairness{bad}. On the front of the test part: "
        f"{int(found.on_front.sum())} of {found.on_front.size} points."
    )


def _with_spread(panel: Panel, name: str) -> str:
    """A number of the selected point, with its standard deviation over seeds."""
    i = panel.mean.selected
    values = [getattr(run, name)[i] for run in panel.runs]
    spread = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{getattr(panel.mean, name)[i]:.3f}{spread}"


def _limits(panel: Panel, known: bounds.GapRange) -> str:
    """Sentences on the limits of the true gaps, as the test part shows them."""
    i, free = panel.mean.selected, panel.mean.unconstrained

    def ends(at: int) -> str:
        return f"between {known.low[at]:.3f} and {known.high[at]:.3f}"

    own = i if i >= 0 else free
    seen = panel.mean.test_unfairness[own]
    half = max(known.high[own] - seen, seen - known.low[own])
    which = "of the selected point" if i >= 0 else "without fairness"
    text = f"The true {panel.unfairness} {which} lies {ends(own)}"
    if i >= 0 and i != free:
        text += f", without fairness {ends(free)}"
    text += f" ({CONFIDENCE:.0%} confidence for each)."
    if known.low[own] <= 0:
        text += " The test part cannot tell it from 0."
    if i >= 0 and i != free and known.high[i] >= known.low[free]:
        text += " The two overlap: a test part of this size does not tell them apart."
    counts = panel.mean.counts[1]
    stratum, group = np.unravel_index(counts.argmin(), counts.shape)
    cell = cell_names(panel.notion, panel.data)[stratum][group]
    return (
        f"{text} The least is known of {cell}: with its {counts[stratum, group]:,} "
        f"test samples the gap is known to +-{half:.2g}."
    )


def _limits_rule(panel: Panel) -> str:
    """Sentences that explain the limits."""
    if panel.limits is None:
        return ""
    return (
        f" The true gap is that of all people like those of the test part. Its limits, "
        f"bars in the picture, hold for a row by itself with {CONFIDENCE:.0%} "
        f"confidence, whatever the number of samples; a row that was picked for its "
        f"gap on the test part may lie outside."
    )


def _selection_rule(panels: Sequence[Panel], model: Model) -> str:
    """Sentences on how the point was selected."""
    tested = panels[0].guarantee
    if tested is None:
        return (
            f"Selected is the least unfair point among those with 90 % of the best "
            f"accuracy, by {model.selected_by}."
        )
    limit, confidence = tested.guarantee
    shared = " for all notions together" * (len(panels) > 1)
    return (
        f"Selected is the most accurate point that passes a test on "
        f"{tested.n_rows:,} training rows set aside: whoever draws such rows from the "
        f"population and selects like this is led to a point with a true gap above "
        f"{limit:g} with a probability of at most {100 * (1 - confidence):.3g} %"
        f"{shared}. Tested are the points on the front of the numbers of "
        f"{model.selected_by} that have 90 % of the best accuracy; they are numbered "
        f"from 0, in the order of results.csv."
    )
