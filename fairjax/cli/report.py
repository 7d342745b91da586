"""What `fairjax sweep` says: a table, sentences, a report, a file and a picture."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from rich.table import Table

from .. import datasets, frontiers, plots
from . import terminal
from .guarantee import Promise
from .intervals import CONFIDENCE, Interval, intervals
from .terminal import plain

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
    """What was found for one notion: per seed, and the mean over seeds.

    `known` are limits of the true gaps of the rows that are shown, of one seed.
    """

    notion: str
    runs: list[frontiers.Frontier]
    mean: frontiers.Frontier
    promise: Promise | None = None
    known: Interval | None = None


class Words(NamedTuple):
    """What is measured, in words: classes and real labels differ."""

    accuracy: str
    unfairness: str
    axis: str  # of the picture

    @staticmethod
    def of(data: datasets.Dataset, notion: str) -> "Words":
        """The words for a data set and a notion."""
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


def cell_names(panel: Panel, data: datasets.Dataset) -> list[list[str]]:
    """What the cells of the notion are called."""
    return [
        [f"group {name}{words}" for name in data.group_names]
        for words in STRATA[panel.notion]
    ]


def _shown(found: frontiers.Frontier) -> list[int]:
    """Rows of the table, fairest last: the ends of the front and an even choice."""
    front = np.flatnonzero(found.on_front)
    front = front[np.argsort(-found.test_unfairness[front], kind="stable")]
    if front.size > MOST_ROWS:
        even = np.linspace(0, front.size - 1, MOST_ROWS).round().astype(int)
        front = front[even]
    rows = {*front.tolist(), found.selected, found.unconstrained}
    rows -= {-1}  # no point
    return sorted(rows, key=lambda i: (-found.test_unfairness[i], i))


def _varied(found: frontiers.Frontier) -> list[str]:
    """The settings beside the strength that differ between points."""
    return [n for n in ("ridge", "bandwidth") if np.unique(getattr(found, n)).size > 1]


def with_limits(panel: Panel) -> Panel:
    """With limits of the true gaps, which means over seeds do not have."""
    if len(panel.runs) > 1:
        return panel
    return panel._replace(known=intervals(panel.mean, _shown(panel.mean)))


def _cells(
    panel: Panel, parts: Sequence[str] = ("train", "cv", "test")
) -> Iterator[tuple[int, list[str]]]:
    found, known = panel.mean, panel.known
    for i in _shown(found):
        marks = "*" * (i == found.selected) + "o" * (i == found.unconstrained)
        marks += "!" * (not found.converged[i])
        cells = [marks, f"{found.strength[i]:.4g}"]
        cells += [f"{getattr(found, name)[i]:.3g}" for name in _varied(found)]
        for part in parts:
            for what in ("accuracy", "unfairness"):
                cells.append(f"{getattr(found, f'{part}_{what}')[i]:.4f}")
        if known:
            cells.append(f"{known.low[i]:.3f}-{known.high[i]:.3f}")
        yield i, cells


def legend(found: frontiers.Frontier) -> str:
    """What the marks of the table mean."""
    bad = ", ! not converged" * (not found.converged[_shown(found)].all())
    star = "* selected, " * (found.selected >= 0)
    return (
        f"{star}o without fairness{bad}. On the front of the test part: "
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
    # Of 80 characters the limits take what the training part would.
    parts = {"cv": "validation", "test": "test"}
    parts = parts if panel.known else {"train": "train"} | parts
    for part in parts.values():
        head += [f"{part}\naccuracy", "\ngap"]
    head += [f"true gap\n{CONFIDENCE:.0%}"] * bool(panel.known)
    rows = dict(_cells(panel, [*parts]))
    bold = list(rows).index(found.selected) if found.selected >= 0 else None
    return terminal.table(title + mean, head, rows.values(), bold=bold)


def sentences(panel: Panel, data: datasets.Dataset) -> list[str]:
    """The conclusion, and what casts doubt on it."""
    found, words = panel.mean, Words.of(data, panel.notion)
    i, free = found.selected, found.unconstrained
    settings = [f", {n} {getattr(found, n)[i]:.3g}" for n in _varied(found)]

    def spread(name: str) -> str:
        values = [getattr(run, name)[i] for run in panel.runs]
        return f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""

    if panel.promise:
        notion = panel.notion.replace("-", " ").capitalize()
        told = f"{notion}: {panel.promise.selection.reason}"
    else:
        told = ""
    lines = [
        f"Selected strength {found.strength[i]:.3g}{''.join(settings)}: test "
        f"{words.accuracy} "
        f"{found.test_accuracy[i]:.3f}{spread('test_accuracy')} (without fairness "
        f"{found.test_accuracy[free]:.3f}), {words.unfairness} "
        f"{found.test_unfairness[i]:.3f}{spread('test_unfairness')} (without fairness "
        f"{found.test_unfairness[free]:.3f})."
    ]
    if i < 0:
        lines = [
            f"None is selected: no point has a validation {words.accuracy} of 0 or "
            f"more. More `--epochs` or other `--strengths` may help."
        ]
    lines = [told] if i < 0 and told else lines + [told] * bool(told)
    lines += _limits(panel, data)
    if not found.converged.all():
        lines.append(
            f"Warning: {int((~found.converged).sum())} of {found.converged.size} "
            f"points did not reach their precision; their numbers are the best found."
        )
    part, stratum, group = np.unravel_index(found.counts.argmin(), found.counts.shape)
    if (count := int(found.counts.min())) < terminal.FEW:
        lines.append(
            f"Warning: the {('training', 'test')[part]} part has only {count} samples "
            f"of group {data.group_names[group]}{STRATA[panel.notion][stratum]}: the "
            f"{words.unfairness} is uncertain."
        )
    return lines


def _limits(panel: Panel, data: datasets.Dataset) -> list[str]:
    """What the test part can tell of the true gaps, and what it cannot."""
    found, known, words = panel.mean, panel.known, Words.of(data, panel.notion)
    if known is None:
        return []
    i, free = found.selected, found.unconstrained

    def ends(at: int) -> str:
        return f"between {known.low[at]:.3f} and {known.high[at]:.3f}"

    own = i if i >= 0 else free
    seen = found.test_unfairness[own]
    half = max(known.high[own] - seen, seen - known.low[own])
    counts = found.counts[1]
    stratum, group = np.unravel_index(counts.argmin(), counts.shape)
    which = "of the selected point" if i >= 0 else "without fairness"
    said = f"The true {words.unfairness} {which} lies {ends(own)}"
    if i >= 0 and i != free:
        said += f", without fairness {ends(free)}"
    said += f" ({CONFIDENCE:.0%} confidence for each)."
    if known.low[own] <= 0:
        said += " The test part cannot tell it from 0."
    if i >= 0 and i != free and known.high[i] >= known.low[free]:
        said += " The two overlap: a test part of this size does not tell them apart."
    name = cell_names(panel, data)[stratum][group]
    return [
        f"{said} The least is known of {name}: with its {counts[stratum, group]:,} "
        f"test samples the gap is known to +-{half:.2g}."
    ]


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
            low=panel.known.low if panel.known else None,
            high=panel.known.high if panel.known else None,
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
        if name not in ("coefficients", "intercept", "params", "counts", "test_rates")
    ]
    promised = ("safety_unfairness", "safety_high", "safety_tested", "safety_passed")
    more = promised if any(panel.promise for panel in panels) else ()
    yield ["dataset", "notion", *labels, "seed", *names, *more]
    for panel in panels:
        columns = []
        if panel.promise:
            found = panel.promise.selection
            columns = [found.gap, found.high, found.tested, found.passed]
        for seed, run in zip(seeds, panel.runs, strict=True):
            head = [terminal.harmless(data.name), panel.notion, *labels.values(), seed]
            for i in range(run.strength.size):
                entries = [*(getattr(run, name) for name in names), *columns]
                yield [*head, *(_entry(column, i) for column in entries)]


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
        head += [f"true gap, {CONFIDENCE:.0%}"] * bool(panel.known)
        lines += [terminal.markdown(head, [cells for _, cells in _cells(panel)])]
        lines += [plain(legend(found))]
        lines += [_counts(panel, data)]
    lines += [
        "## How to read this",
        f"{_GAPS[data.is_regression]} {_rule(panels, chosen_by)} The front and the "
        f"test columns played no role in it.{_reading(panels)}",
        f"fairjax {version}, jax {jax.__version__}.",
    ]
    return "\n\n".join(lines) + "\n"


def _reading(panels: Sequence[Panel]) -> str:
    if panels[0].known is None:
        return ""
    return (
        f" The true gap is that of all people like those of the test part. Its limits, "
        f"bars in the picture, hold for a row by itself with {CONFIDENCE:.0%} "
        f"confidence, whatever the number of samples; a row that was picked for its "
        f"gap on the test part may lie outside."
    )


def _rule(panels: Sequence[Panel], chosen_by: str) -> str:
    """How the point was selected."""
    promise = panels[0].promise
    if promise is None:
        return (
            f"Selected is the least unfair point among those with 90 % of the best "
            f"accuracy, by {chosen_by}."
        )
    limit, confidence = promise.wish
    shared = " for all notions together" * (len(panels) > 1)
    return (
        f"Selected is the most accurate point that passes a test on "
        f"{promise.n_rows:,} training rows set aside: whoever draws such rows from the "
        f"population and selects like this is led to a point with a true gap above "
        f"{limit:g} with a probability of at most {100 * (1 - confidence):.3g} %"
        f"{shared}. Tested are the points on the front of the numbers of {chosen_by} "
        f"that have 90 % of the best accuracy; they are numbered from 0, in the order "
        f"of results.csv."
    )


def _counts(panel: Panel, data: datasets.Dataset) -> str:
    rows = [
        [name + words, *(f"{n:,}" for n in panel.mean.counts[:, stratum, group])]
        for stratum, words in enumerate(STRATA[panel.notion])
        for group, name in enumerate(data.group_names)
    ]
    return terminal.markdown(["group", "training samples", "test samples"], rows)
