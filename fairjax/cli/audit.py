"""`fairjax audit`: numbers of each group, gaps between groups, and pictures of both."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .. import bounds, metrics, notions, plots
from . import report, tables, terminal
from .options import AuditOptions
from .report import Table, plain
from .tables import Labels, Rows

if TYPE_CHECKING:
    import matplotlib.figure

FILES = ("groups.csv", "gaps.csv", "report.md", "scores.png", "gaps.png")
LEVEL = 0.9  # Of the bootstrap intervals.
CONFIDENCE = 0.95  # Of the exact limits.
_SCORES = 5  # Numbers of a group that concern its scores alone.
_SHARE = " [0-1]"
GAPS = {
    "mean": "difference of mean scores [score]",
    "ks": "KS distance [0-1]",
    "wasserstein": "Wasserstein-1 distance [score]",
    "wasserstein_2": "Wasserstein-2 distance [score]",
    "price_of_fairness": "price of fairness [score^2]",
    "selection_rate": "difference of selection rates, demographic parity [0-1]",
    "selection_ratio": "ratio of selection rates [0-1]",
    "true_positive_rate": "difference of true positive rates, equal opportunity [0-1]",
    "false_positive_rate": "difference of false positive rates [0-1]",
    "equalized_odds": "the larger of these two, equalized odds [0-1]",
    "accuracy": "difference of accuracies [0-1]",
    "error": "difference of mean errors [score]",
    "squared_error": "difference of mean squared errors [score^2]",
}

Number = Callable[[Bool[np.ndarray, " n"]], float]  # From some of the rows.


class Sample(NamedTuple):
    """The rows that are audited.

    Attributes:
        rows: scores, groups and weights.
        labels: or None.
        threshold: what a score must exceed for a favourable decision; None where there
            are no decisions.
        names: of the groups.
    """

    rows: Rows
    labels: Labels | None
    threshold: float | None
    names: tuple[str, ...]

    @property
    def decisions(self) -> Bool[np.ndarray, " n"] | None:
        """True for rows whose decision is favourable."""
        return None if self.threshold is None else self.rows.scores > self.threshold

    @property
    def positive(self) -> Bool[np.ndarray, " n"] | None:
        """Labels of two values."""
        if self.labels is None or not self.labels.binary:
            return None
        return self.labels.values == 1

    @property
    def real_labels(self) -> Float[np.ndarray, " n"] | None:
        """Labels that are real numbers."""
        if self.labels is None or self.labels.binary:
            return None
        return self.labels.values


def run(options: AuditOptions) -> None:
    """Reads the options and the table, measures, writes and prints."""
    if options.positive is not None and options.label is None:
        raise ValueError("`--positive` needs `--label COLUMN`, whose value it names.")
    if options.threshold is not None and not np.isfinite(options.threshold):
        raise ValueError(f"`--threshold` must be finite, but is {options.threshold}.")
    if options.draws < 1:
        raise ValueError(f"`--draws` must be at least 1, but is {options.draws}.")
    with ExitStack() as stack:
        paths = []
        if options.out is not None:
            terminal.need_matplotlib()
            paths = stack.enter_context(terminal.output(options.out, FILES))
            apart = {"the table of scores": options.scores}
            for path in paths:
                terminal.check_output(path, option="--out", apart=apart)
        sample = read(options)
        gaps = measure_gaps(sample, options)
        head, groups = group_numbers(sample)
        said = sentences(sample, draws=options.draws)
        cells = [
            [name, *map(_rounded, head, numbers)]
            for name, numbers in zip(sample.names, groups, strict=True)
        ]
        group_table = Table(["group", *head], cells)
        gap_table = Table(
            ["between groups", "gap", f"{LEVEL:.0%} from", "to"],
            [[name, *(_rounded("", v) for v in gap)] for name, gap in gaps.items()],
        )
        if paths:
            lines = [
                f"# Audit of {plain(options.score)} in {plain(options.scores.name)}",
                "![distribution of the scores in each group](scores.png)",
                "## Groups",
                group_table,
                "## Between groups",
                gap_table,
                "![gaps between groups with their intervals](gaps.png)",
                *map(plain, said),
            ]
            names = map(report.harmless, sample.names)
            contents = (
                [["group", *head], *_exact(names, groups)],
                [["gap", "value", "low", "high"], *_exact(gaps, gaps.values())],
                report.document(lines),
                _score_picture(sample, options),
                _gap_picture(gaps, options),
            )
            report.write(dict(zip(paths, contents, strict=True)))
            said.append(
                f"Wrote {', '.join(FILES[:-1])} and {FILES[-1]} to {options.out}."
            )
        printed = [*_in_two(group_table), gap_table, *said]
        report.show(printed, quiet=options.quiet)


def read(options: AuditOptions) -> Sample:
    """The rows of the table, with the threshold that is asked for or fits them."""
    others = [("--label", options.label)] if options.label else []
    (rows,), names = tables.read([options.scores], options, others=others)
    labels, threshold = None, options.threshold
    if options.label:
        labels = tables.labels(
            rows, options.label, positive=options.positive, path=options.scores
        )
    if threshold is None and (labels is None or labels.binary):
        if rows.scores.min() >= 0 and rows.scores.max() <= 1:
            threshold = 0.5
        elif labels is not None:
            threshold = 0.0
    return Sample(rows, labels, threshold, names)


def measure_gaps(sample: Sample, options: AuditOptions) -> dict[str, metrics.Estimate]:
    """The gaps between groups, by their names in words."""
    rows, positive = sample.rows, sample.positive
    with terminal.progress("resampling", quiet=options.quiet) as progress:
        found = metrics.score_gaps(
            rows.scores,
            rows.groups,
            rows.weights,
            n_groups=len(sample.names),
            decisions=sample.decisions,
            labels=sample.real_labels if positive is None else positive,
            draws=options.draws,
            level=LEVEL,
            progress=progress,
        )
    return {words: found[name] for name, words in GAPS.items() if name in found}


def group_numbers(sample: Sample) -> tuple[list[str], list[list[float]]]:
    """Names of the numbers of a group, and those of each; NaN where there is none.

    Rows of weight 0 do not count.
    """
    scores, used = sample.rows.scores, sample.rows.weights > 0
    chosen, positive, real = sample.decisions, sample.positive, sample.real_labels
    columns = {"rows": lambda own: float(own.sum()), "mean": _mean_of(scores, sample)}
    for level, name in ((0.1, "10%"), (0.5, "median"), (0.9, "90%")):
        columns[name] = _quantile_of(level, sample)
    if chosen is not None:
        columns["selected"] = _mean_of(chosen, sample)
    if real is not None:
        error = scores - real
        columns["mean label"] = _mean_of(real, sample)
        columns["mean error"] = _mean_of(error, sample)
        columns["mean squared error"] = _mean_of(error**2, sample)
    elif positive is not None and chosen is not None:
        columns["positives"] = lambda own: float((own & positive).sum())
        columns["true positive rate"] = _mean_of(chosen, sample, positive)
        columns["false positive rate"] = _mean_of(chosen, sample, ~positive)
        columns["accuracy"] = _mean_of(chosen == positive, sample)
    groups = [
        used & (sample.rows.groups == group) for group in range(len(sample.names))
    ]
    return [*columns], [[number(own) for number in columns.values()] for own in groups]


def sentences(sample: Sample, *, draws: int) -> list[str]:
    """Sentences on the numbers, their precision, and groups that are too small."""
    said, rows = [], sample.rows
    if sample.threshold is not None:
        said.append(
            f"Selected, the favourable decision: a score above {sample.threshold:g} "
            f"(`--threshold` changes that)."
        )
    elif sample.labels is None:
        said.append("Without `--threshold` there are no selection rates.")
    parts = {"": np.ones(rows.scores.size, bool)}
    if sample.labels is not None and sample.positive is not None:
        said.append(f"Positive: {sample.labels.name}.")
        parts[" with a positive label"] = sample.positive
        parts[" without a positive label"] = ~sample.positive
    said.append(
        f"Gaps are the largest difference between two groups; intervals: {LEVEL:.0%} "
        f"bootstrap percentiles from {draws:,} draws. Resampling widens a gap that is "
        f"nearly 0, so an interval above 0 is no proof of unfairness."
    )
    said += report.by_chance(rows.groups, rows.weights, level=LEVEL)
    sizes = {
        f"{name}{words}": size
        for words, part in parts.items()
        for name, size in zip(
            sample.names,
            _counts(sample, part & (rows.weights > 0)).tolist(),
            strict=True,
        )
    }
    if small := report.small(sizes):
        said.append(
            f"Warning: fewer than {report.FEW} rows, too few to conclude anything: "
            f"{small}."
        )
    return said + _true_gaps(sample)


def _true_gaps(sample: Sample) -> list[str]:
    """Sentences on the limits of the true gaps of rates, by `bounds.binomial`.

    Rows of different weights have no such limits, and no sentence.
    """
    rows, decisions = sample.rows, sample.decisions
    used = rows.weights > 0
    if decisions is None or np.ptp(rows.weights[used]):
        return []
    parts = {"selection rates": (used, "rows")}
    if sample.positive is not None:
        parts["true positive rates"] = (used & sample.positive, "positives")
    said = []
    for rates, (part, unit) in parts.items():
        counts = _counts(sample, part)
        kept = counts > 0
        if kept.sum() < 2:
            continue
        # Of a group without rows nothing is known, which is not the others' fault.
        codes = np.where(kept, np.cumsum(kept) - 1, 0)[rows.groups]
        cond = notions.demographic_parity(codes, n_groups=int(kept.sum()), weights=part)
        found = bounds.binomial(decisions, cond, confidence=CONFIDENCE).largest
        gap, low, high = (float(end[0]) for end in found)
        least = int(np.where(kept, counts, counts.max() + 1).argmin())
        doubt = "" if low > 0 else ", so that it cannot be told from 0"
        said.append(
            f"The true difference of {rates} lies between {low:.3f} and {high:.3f} "
            f"with {CONFIDENCE:.0%} confidence{doubt}: {sample.names[least]} has "
            f"{counts[least]:,} {unit}, and the gap is known to "
            f"+-{max(high - gap, gap - low):.2g}."
        )
    return said


def _counts(sample: Sample, part: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " g"]:
    """Rows of each group in a part of the sample."""
    return np.bincount(sample.rows.groups[part], minlength=len(sample.names))


def _mean_of(
    values: np.ndarray, sample: Sample, part: Bool[np.ndarray, " n"] | bool = True
) -> Number:
    """The function from some rows to the weighted mean of those in the part."""

    def mean(own: Bool[np.ndarray, " n"]) -> float:
        own = own & part
        if not own.any():
            return np.nan
        return float(np.average(values[own], weights=sample.rows.weights[own]))

    return mean


def _quantile_of(level: float, sample: Sample) -> Number:
    """The function from some rows to the weighted quantile of their scores."""

    def quantile(own: Bool[np.ndarray, " n"]) -> float:
        if not own.any():
            return np.nan
        scores, weights = sample.rows.scores[own], sample.rows.weights[own]
        return float(np.quantile(scores, level, weights=weights, method="inverted_cdf"))

    return quantile


def _rounded(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if name in ("rows", "positives") else f"{value:.4g}"


def _exact(
    names: Iterable[str], table: Iterable[Iterable[float]]
) -> Iterator[list[str]]:
    """Rows of a CSV table, empty where there is no number."""
    for name, numbers in zip(names, table, strict=True):
        yield [name, *("" if np.isnan(v) else f"{v:.9g}" for v in numbers)]


def _in_two(groups: Table) -> list[Table]:
    """Two narrow tables: the scores of the groups, and what else there is."""
    ends = (slice(1, 1 + _SCORES), slice(1 + _SCORES, None))
    return [
        Table(
            [groups.head[0], *groups.head[part]],
            [[row[0], *row[part]] for row in groups.rows],
        )
        for part in ends
        if groups.head[part]
    ]


def _gap_picture(
    gaps: dict[str, metrics.Estimate], options: AuditOptions
) -> "matplotlib.figure.Figure":
    """The gaps that are shares, with their intervals."""
    shares = {
        name.removesuffix(_SHARE): gap
        for name, gap in gaps.items()
        if name.endswith(_SHARE) and name != GAPS["selection_ratio"]
    }
    return plots.intervals(
        [*shares],
        *np.array([*shares.values()]).T,
        label=f"largest gap{_SHARE}, {LEVEL:.0%} intervals",
        title=f"{options.score}, {options.scores.name}".replace("$", r"\$"),
    )


def _score_picture(sample: Sample, options: AuditOptions) -> "matplotlib.figure.Figure":
    """The distributions among all rows, and with labels among those of each."""
    rows = sample.rows
    parts = {"all rows": np.ones(rows.scores.size, bool)}
    if sample.labels is not None and sample.positive is not None:
        parts[f"positive: {sample.labels.name}"] = sample.positive
        parts["all other labels"] = ~sample.positive
    panels = [
        plots.Scores(
            rows.scores[part],
            rows.groups[part],
            rows.weights[part],
            label=f"{options.score} [score]",
            heading=heading,
        )
        for heading, part in parts.items()
        if rows.weights[part].any()
    ]
    return plots.distributions(
        panels,
        group_names=sample.names,
        threshold=sample.threshold,
        title=options.scores.name,
    )
