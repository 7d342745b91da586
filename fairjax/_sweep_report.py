"""What `fairjax sweep` says: a table, sentences, a report, a file and a picture."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from rich.table import Table

from . import _terminal, datasets, frontiers, plots
from ._terminal import plain

if TYPE_CHECKING:
    import matplotlib.figure

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
MOST_ROWS = 18
_GAPS = {
    False: "A gap is the largest difference between two groups of the share of "
    "decisions for label 1: among all (demographic parity), among those with label 1 "
    "(equal opportunity), or the larger one of those among either label (equalized "
    "odds).",
    True: "A gap is the largest distance between the distribution functions of two "
    "groups' scores (Kolmogorov-Smirnov), accuracy the share of the labels' variance "
    "that scores explain.",
}
_COLUMNS = ("train", "validation", "test")


class Panel(NamedTuple):
    """What was found for one notion: per seed, and the mean over seeds."""

    notion: str
    runs: list[frontiers.Frontier]
    mean: frontiers.Frontier


class Words(NamedTuple):
    """What is measured, in words: classes and real labels differ."""

    accuracy: str
    unfairness: str
    axis: str  # of the picture

    @staticmethod
    def of(data: datasets.Dataset, notion: str) -> "Words":
        if data.is_regression:
            return Words(
                "explained variance",
                "KS distance between groups",
                "explained variance on test [share]",
            )
        return Words(
            "accuracy",
            f"difference of {notion.replace('-', ' ')}",
            "test accuracy [share of correct decisions]",
        )


def headline(data: datasets.Dataset) -> str:
    """The data in one sentence."""
    n_train = int(data.is_train.sum())
    labels = "Labels" if data.is_regression else "Label 1"
    tasks = "" if data.tasks is None else f"{len(data.task_names)} tasks. "
    return (
        f"{data.name}: {n_train:,} training and {data.is_train.size - n_train:,} test "
        f"rows, {data.features.shape[1]} features. {labels}: {data.label_name}. {tasks}"
        f"Groups: {', '.join(data.group_names)}."
    )


def _shown(found: frontiers.Frontier) -> list[int]:
    """Rows of the table, fairest last: the ends of the front and an even choice."""
    front = np.flatnonzero(found.on_front)
    front = front[np.argsort(-found.test_unfairness[front], kind="stable")]
    if front.size > MOST_ROWS:
        even = np.linspace(0, front.size - 1, MOST_ROWS).round().astype(int)
        front = front[even]
    rows = {*front.tolist(), found.selected, found.unconstrained}
    return sorted(rows, key=lambda i: (-found.test_unfairness[i], i))


def _varied(found: frontiers.Frontier) -> list[str]:
    """The settings beside the strength that differ between points."""
    return [n for n in ("ridge", "bandwidth") if np.unique(getattr(found, n)).size > 1]


def _cells(found: frontiers.Frontier) -> Iterator[tuple[int, list[str]]]:
    for i in _shown(found):
        marks = "*" * (i == found.selected) + "o" * (i == found.unconstrained)
        marks += "!" * (not found.converged[i])
        cells = [marks, f"{found.strength[i]:.4g}"]
        cells += [f"{getattr(found, name)[i]:.3g}" for name in _varied(found)]
        for part in ("train", "cv", "test"):
            for what in ("accuracy", "unfairness"):
                cells.append(f"{getattr(found, f'{part}_{what}')[i]:.4f}")
        yield i, cells


def legend(found: frontiers.Frontier) -> str:
    """What the marks of the table mean."""
    bad = ", ! not converged" * (not found.converged[_shown(found)].all())
    return (
        f"* selected, o without fairness{bad}. On the front of the test part: "
        f"{int(found.on_front.sum())} of {found.on_front.size} points."
    )


def table(panel: Panel, data: datasets.Dataset) -> Table:
    """The front of the test part, with the points that matter most."""
    found, words = panel.mean, Words.of(data, panel.notion)
    title = f"gap = {words.unfairness}, in shares"
    if data.is_regression:
        title = f"accuracy = {words.accuracy}; {title}"
    mean = f"; means over {len(panel.runs)} seeds" * (len(panel.runs) > 1)
    head = ["", "strength", *_varied(found)]
    for part in _COLUMNS:
        head += [f"{part}\naccuracy", "\ngap"]
    rows = dict(_cells(found))
    bold = list(rows).index(found.selected)
    return _terminal.table(title + mean, head, rows.values(), bold=bold)


def sentences(panel: Panel, data: datasets.Dataset) -> list[str]:
    """The conclusion, and what casts doubt on it."""
    found, words = panel.mean, Words.of(data, panel.notion)
    i, free = found.selected, found.unconstrained
    settings = [f", {n} {getattr(found, n)[i]:.3g}" for n in _varied(found)]

    def spread(name: str) -> str:
        values = [getattr(run, name)[i] for run in panel.runs]
        return f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""

    lines = [
        f"Selected strength {found.strength[i]:.3g}{''.join(settings)}: test "
        f"{words.accuracy} "
        f"{found.test_accuracy[i]:.3f}{spread('test_accuracy')} (without fairness "
        f"{found.test_accuracy[free]:.3f}), {words.unfairness} "
        f"{found.test_unfairness[i]:.3f}{spread('test_unfairness')} (without fairness "
        f"{found.test_unfairness[free]:.3f})."
    ]
    if not found.converged.all():
        lines.append(
            f"Warning: {int((~found.converged).sum())} of {found.converged.size} "
            f"points did not reach their precision; their numbers are the best found."
        )
    part, stratum, group = np.unravel_index(found.counts.argmin(), found.counts.shape)
    if (count := int(found.counts.min())) < _terminal.FEW:
        lines.append(
            f"Warning: the {('training', 'test')[part]} part has only {count} samples "
            f"of group {data.group_names[group]}{STRATA[panel.notion][stratum]}: the "
            f"{words.unfairness} is uncertain."
        )
    return lines


def picture(
    panels: Sequence[Panel], data: datasets.Dataset
) -> "matplotlib.figure.Figure":
    """The frontier of each notion side by side."""
    drawn = [
        plots.Frontier(
            unfairness=panel.mean.test_unfairness,
            accuracy=panel.mean.test_accuracy,
            front=panel.mean.on_front,
            selected=panel.mean.selected,
            unconstrained=panel.mean.unconstrained,
            converged=panel.mean.converged,
            label=f"{Words.of(data, panel.notion).unfairness} on test [0-1]",
        )
        for panel in panels
    ]
    # matplotlib reads text between dollars as a formula.
    return plots.frontier(
        drawn,
        title=data.name.replace("$", r"\$"),
        accuracy_label=Words.of(data, "").axis,
    )


def rows(
    panels: Sequence[Panel],
    data: datasets.Dataset,
    seeds: Sequence[int],
    labels: dict[str, str],
) -> Iterator[list[object]]:
    """All points of all seeds, under a header."""
    names = [
        name
        for name in frontiers.Frontier._fields
        if name not in ("coefficients", "intercept", "counts")
    ]
    yield ["dataset", "notion", *labels, "seed", *names]
    for panel in panels:
        for seed, run in zip(seeds, panel.runs, strict=True):
            head = [_terminal.harmless(data.name), panel.notion, *labels.values(), seed]
            for i in range(run.strength.size):
                yield [*head, *(_entry(getattr(run, name), i) for name in names)]


def _entry(column, i: int) -> str:
    """An index becomes a flag, like the other flags 0 or 1."""
    value = column == i if isinstance(column, int) else column[i]
    return str(int(value)) if np.asarray(value).dtype.kind in "bi" else f"{value:.7g}"


def report(
    panels: Sequence[Panel],
    data: datasets.Dataset,
    seeds: Sequence[int],
    labels: dict[str, str],
    models: str,
    chosen_by: str,
) -> str:
    """All of it as Markdown; `models` and `chosen_by` say how in half a sentence."""
    version = importlib.metadata.version("fairjax")
    repeats = "seed" if len(seeds) == 1 else "means over the seeds"
    lines = [
        f"# Accuracy and fairness: {plain(data.name)}",
        plain(headline(data)),
        f"{models}; {repeats} {', '.join(map(str, seeds))}. A strength is "
        f"{MEANINGS[labels.get('method') or labels['penalty']]}.",
        "![accuracy against unfairness](frontier.png)",
    ]
    for panel in panels:
        found = panel.mean
        notion = panel.notion.replace("-", " ")
        lines += [f"## {notion.capitalize()}"]
        lines += map(plain, sentences(panel, data))
        head = ["", "strength", *_varied(found)]
        head += [f"{part} {what}" for part in _COLUMNS for what in ("accuracy", "gap")]
        lines += [_terminal.markdown(head, [cells for _, cells in _cells(found)])]
        lines += [plain(legend(found))]
        lines += [_counts(panel, data)]
    lines += [
        "## How to read this",
        f"{_GAPS[data.is_regression]} Selected is the least unfair point among those "
        f"with 90 % of the best accuracy, by {chosen_by}. The front and the test "
        f"columns played no role in it.",
        f"fairjax {version}, jax {jax.__version__}.",
    ]
    return "\n\n".join(lines) + "\n"


def _counts(panel: Panel, data: datasets.Dataset) -> str:
    rows = [
        [name + words, *(f"{n:,}" for n in panel.mean.counts[:, stratum, group])]
        for stratum, words in enumerate(STRATA[panel.notion])
        for group, name in enumerate(data.group_names)
    ]
    return _terminal.markdown(["group", "training samples", "test samples"], rows)
