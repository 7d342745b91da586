"""The `fairjax` command: a thin layer over `datasets`, `frontiers` and `plots`.

Options are read and checked first, then the output folder, then the data; only then
does anything compile. Bad input prints one line and exits with status 2. Results are
written aside and moved into place, so a run that fails leaves older ones as they were.
"""

import contextlib
import csv
import difflib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TextIO, TypeVar

import jax
import numpy as np

from . import datasets, erm, frontiers, notions, plots, sweeps

try:
    import typer
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    print(
        f"fairjax: the command needs {error.name}: install it with "
        f'`pip install "fairjax[cli]"`.',
        file=sys.stderr,
    )
    raise SystemExit(2) from error

T = TypeVar("T")

NOTIONS: dict[str, notions.Notion] = {
    "demographic-parity": notions.demographic_parity,
    "equal-opportunity": notions.equal_opportunity,
    "equalized-odds": notions.equalized_odds,
}
LOSSES: dict[str, erm.Loss] = {
    "logistic": erm.logistic,
    "hinge": erm.hinge,
    "squared-hinge": erm.squared_hinge,
    "squared": erm.squared,
}
METHODS: dict[str, frontiers.Method] = {
    "constraint": frontiers.constraint,
    "penalty": frontiers.penalty,
    "projection": frontiers.projection,
    "elimination": frontiers.elimination,
}
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
}
STRATA = {
    "demographic-parity": [""],
    "equal-opportunity": [" with label 1"],
    "equalized-odds": [" with label 0", " with label 1"],
}
FEW = 30  # Below, a rate moves by more than 3 points with one sample.
MOST_ROWS = 18

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


class Panel(NamedTuple):
    """What was found for one notion: per seed, and the mean over seeds."""

    notion: str
    runs: list[frontiers.Frontier]
    mean: frontiers.Frontier


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(importlib.metadata.version("fairjax"))
        raise typer.Exit
    return wanted


@app.callback()
def fairjax(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Fair machine learning: how much accuracy does fairness cost?

    Try `fairjax sweep`, and `fairjax sweep --help`.
    """


@app.command()
def sweep(
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="toy, adult, compas or german.  [default: toy]"
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="A table of your own, with a header line, instead of --dataset.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --csv: the column to predict."),
    ] = None,
    sensitive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="The column that tells the groups apart; needed with --csv. "
            "Repeat it for intersections.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="With --csv: the favourable value of the target, unless that is "
            "0/1, -1/1 or False/True.",
        ),
    ] = None,
    favourable: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS", help="With --csv: what that value means, for the report."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help='With --csv: a column that says "train" or "test". Without it, a '
            "quarter of the rows are drawn for the test.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="With --csv: a column that is no feature. May be repeated.",
        ),
    ] = None,
    drop_missing: Annotated[
        bool,
        typer.Option(
            "--drop-missing",
            help="Leave out rows with missing entries (--csv and adult).",
        ),
    ] = False,
    without_sensitive: Annotated[
        bool,
        typer.Option(
            "--without-sensitive", help="Keep sensitive columns out of the features."
        ),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the data sets lie. Else the variable FAIRJAX_DATA_DIR names "
            "the folder, or they are downloaded.",
        ),
    ] = None,
    notion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="demographic-parity, equal-opportunity, equalized-odds, both (the "
            "first two) or all. May be repeated.  [default: both]",
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(metavar="NAME", help="logistic, hinge, squared-hinge or squared."),
    ] = "logistic",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="constraint, penalty, projection or elimination."
        ),
    ] = "constraint",
    strengths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="How much fairness: 0,0.5,1 or 0:2:64, which is from:to:how-many. "
            "For constraint, the share of the gap of mean scores to remove; above 1 "
            "turns it around. For penalty, its weight.  [default: 64 values, 0 to 2; "
            "penalty: 0 and 1e-3 to 1e3]",
        ),
    ] = None,
    ridges: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="Weights of the ridge term, written likewise."
        ),
    ] = "1e-4",
    seeds: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="How many repetitions with other random folds (and splits), such as "
            "3, or a list of seeds, such as 0,7.",
        ),
    ] = "1",
    folds: Annotated[
        int,
        typer.Option(
            help="Folds of the cross-validation that selects a point; 0 selects by "
            "training numbers."
        ),
    ] = 5,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Gets results.csv, report.md and frontier.png; older ones are "
            "replaced.",
        ),
    ] = Path("fairjax-out"),
    float64: Annotated[
        bool, typer.Option("--float64/--float32", help="Precision of the numbers.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no table.")
    ] = False,
) -> None:
    r"""Trace the frontier between accuracy and fairness of linear models.

    Fits one model per strength, measures how often it is right and how far its
    decisions differ between groups, and selects the least unfair model among those with
    90 % of the best cross-validated accuracy. The test part plays no role in that.

    \b
    Examples:
      fairjax sweep
      fairjax sweep --dataset adult
      fairjax sweep --dataset compas --notion all --strengths 0:1:11 --seeds 5
      fairjax sweep --csv loans.csv --target repaid --positive yes --sensitive sex
    """
    with _one_line(), jax.enable_x64(float64):
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError(
                "pictures need matplotlib: install it with "
                '`pip install "fairjax[cli]"`.'
            )
        settings = {
            "loss": _choose(loss, LOSSES, option="--loss"),
            "method": _choose(method, METHODS, option="--method"),
            "strengths": strengths and _numbers(strengths, option="--strengths"),
            "ridges": _numbers(ridges, option="--ridges"),
            "n_folds": folds,
        }
        chosen = _notions(notion or ["both"])
        seed_list = _seeds(seeds)
        load = _loader(
            dataset,
            csv_file,
            columns={"target": target, "positive": positive, "split": split}
            | {"favourable": favourable, "exclude": exclude},
            sensitive=sensitive,
            drop_missing=drop_missing,
            without_sensitive=without_sensitive,
            data_dir=data_dir,
        )
        with _output(out) as publish:
            loaded = [load(seed) for seed in seed_list]
            for data in loaded:
                for name in chosen:
                    frontiers.check(data, notion=NOTIONS[name], n_folds=folds)
            panels = _sweep(loaded, seed_list, chosen, settings, quiet=quiet)
            head = _headline(loaded[0])
            labels = {"method": method, "loss": loss}
            picture = _picture(panels, loaded[0])
            publish(
                {
                    "results.csv": lambda path: _write_csv(
                        path, panels, loaded[0], seed_list, labels
                    ),
                    "report.md": lambda path: path.write_text(
                        _report(panels, loaded[0], seed_list, labels, folds),
                        encoding="utf-8",
                    ),
                    "frontier.png": lambda path: plots.save(picture, path),
                }
            )
            console = _console(sys.stdout)
            if not quiet:
                console.print(head, soft_wrap=True)
            for panel in panels:
                if not quiet:
                    console.print()
                    console.print(_table(panel))
                    console.print(_legend(panel.mean), soft_wrap=True)
                for sentence in _sentences(panel, loaded[0]):
                    console.print(sentence, soft_wrap=True)
            if not quiet:
                console.print()
            console.print(
                f"Wrote results.csv, report.md and frontier.png to {out}.",
                soft_wrap=True,
            )


def main() -> NoReturn:
    """Runs the command; the status is 0, or 2 for input it cannot use."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot show must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("fairjax: stopped; nothing was written.", file=sys.stderr)
        status = 130
    except Exception as error:
        # Usage errors; their class is typer's own in some versions, click's in others.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        print(_line(f"{message()} See `fairjax sweep --help`."), file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _line(message: object) -> str:
    return "fairjax: " + " ".join(str(message).split())


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What the user can mend is told in one line, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        print(_line(error), file=sys.stderr)
        raise typer.Exit(2) from error


def _choose(name: str, table: Mapping[str, T], *, option: str) -> T:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        raise ValueError(
            f"`{option}` must be one of {', '.join(table)}, but is {name!r}."
            + "".join(f" Did you mean {other}?" for other in near)
        )
    return table[name]


def _notions(names: Sequence[str]) -> list[str]:
    groups = {name: [name] for name in NOTIONS}
    groups |= {"both": list(NOTIONS)[:2], "all": list(NOTIONS)}
    chosen = [_choose(name, groups, option="--notion") for name in names]
    return list(dict.fromkeys(name for group in chosen for name in group))


def _numbers(text: str, *, option: str) -> list[float]:
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, count = text.split(":")
        if not 1 <= int(count) <= 100_000:
            raise ValueError
        return np.linspace(float(first), float(last), int(count)).tolist()
    except ValueError:
        raise ValueError(
            f"`{option}` must be numbers such as 0,0.5,1 or 0:2:64 (from, to, how many "
            f"up to 100000), but is {text!r}."
        ) from None


def _seeds(text: str) -> list[int]:
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        else:
            seeds = list(range(int(text)))
        if not 1 <= len(seeds) <= 1000 or not all(0 <= s < 2**31 for s in seeds):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"`--seeds` must be how many, such as 3, or a list of whole numbers from "
            f"0, such as 0,7, but is {text!r}."
        ) from None
    return list(dict.fromkeys(seeds))


def _loader(
    dataset: str | None,
    path: Path | None,
    *,
    columns: dict[str, str | list[str] | None],
    sensitive: list[str] | None,
    drop_missing: bool,
    without_sensitive: bool,
    data_dir: Path | None,
) -> Callable[[int], datasets.Dataset]:
    """The data set for a seed; only given options are passed on."""
    given = {name: value for name, value in columns.items() if value}
    if path is None:
        dataset = dataset or "toy"
        load = _choose(dataset, datasets.LOADERS, option="--dataset")
        where = f"--dataset {dataset}"
    else:
        if dataset is not None:
            raise ValueError("give one of `--dataset` and `--csv`, not both.")
        if not columns["target"] or not sensitive:
            raise ValueError(
                "`--csv` needs `--target COLUMN`, what to predict, and `--sensitive "
                "COLUMN`, what tells the groups apart."
            )
        load = datasets.from_csv
        where = "--csv"
        given["path"] = str(path)
    options: dict[str, Any] = dict(given)
    options |= {"sensitive": sensitive} if sensitive else {}
    options |= {"drop_missing": True} if drop_missing else {}
    options |= {"sensitive_in_features": False} if without_sensitive else {}
    options |= {"data_dir": data_dir} if data_dir else {}
    known = inspect.signature(load).parameters
    for name in options:
        if name not in known:
            flag = {"sensitive_in_features": "without-sensitive"}.get(name, name)
            raise ValueError(f"`--{flag.replace('_', '-')}` has no use with `{where}`.")
    if "seed" not in known or columns["split"]:
        once = []

        def fixed(seed: int) -> datasets.Dataset:
            # The seeds differ in their folds only: the same rows serve all.
            once[:] = once or [load(**options)]
            return once[0]

        return fixed
    return lambda seed: load(**options, seed=seed)


def _sweep(
    loaded: Sequence[datasets.Dataset],
    seeds: Sequence[int],
    chosen: Sequence[str],
    settings: dict,
    *,
    quiet: bool,
) -> list[Panel]:
    each = settings["n_folds"] + 1
    total = each * len(chosen) * len(seeds)
    bar = contextlib.nullcontext() if quiet else sweeps.progress_bar("fitting")
    panels = []
    with bar as progress:
        before = 0

        def report(done: int, _: int) -> None:
            if progress:
                progress(before + done, total)

        for name in chosen:
            runs = []
            for data, seed in zip(loaded, seeds, strict=True):
                runs.append(
                    frontiers.linear(
                        data,
                        notion=NOTIONS[name],
                        seed=seed,
                        progress=report,
                        **settings,
                    )
                )
                before += each
            panels.append(Panel(name, runs, frontiers.average(runs)))
    return panels


def _headline(data: datasets.Dataset) -> str:
    n_train = int(data.is_train.sum())
    return (
        f"{data.name}: {n_train:,} training and {data.is_train.size - n_train:,} test "
        f"rows, {data.features.shape[1]} features. Label 1: {data.label_name}. Groups: "
        f"{', '.join(data.group_names)}."
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


_COLUMNS = ("train", "validation", "test")


def _cells(found: frontiers.Frontier) -> Iterator[tuple[int, list[str]]]:
    several = np.unique(found.ridge).size > 1
    for i in _shown(found):
        marks = "*" * (i == found.selected) + "o" * (i == found.unconstrained)
        marks += "!" * (not found.converged[i])
        cells = [marks, f"{found.strength[i]:.4g}"]
        cells += [f"{found.ridge[i]:.3g}"] * several
        for part in ("train", "cv", "test"):
            for what in ("accuracy", "unfairness"):
                cells.append(f"{getattr(found, f'{part}_{what}')[i]:.4f}")
        yield i, cells


def _legend(found: frontiers.Frontier) -> str:
    bad = ", ! not converged" * (not found.converged[_shown(found)].all())
    return (
        f"* selected, o without fairness{bad}. On the front of the test part: "
        f"{int(found.on_front.sum())} of {found.on_front.size} points."
    )


def _table(panel: Panel) -> Table:
    found = panel.mean
    title = f"gap = difference of {panel.notion.replace('-', ' ')}, in shares"
    mean = f"; means over {len(panel.runs)} seeds" * (len(panel.runs) > 1)
    table = Table(title=Text(title + mean), title_justify="left")
    table.add_column("")
    table.add_column("strength", justify="right")
    if np.unique(found.ridge).size > 1:
        table.add_column("ridge", justify="right")
    for part in _COLUMNS:
        table.add_column(f"{part}\naccuracy", justify="right")
        table.add_column("\ngap", justify="right")
    for i, cells in _cells(found):
        style = "bold" if i == found.selected else None
        table.add_row(*map(Text, cells), style=style)
    return table


def _sentences(panel: Panel, data: datasets.Dataset) -> list[str]:
    """The conclusion, and what casts doubt on it."""
    found, notion = panel.mean, panel.notion.replace("-", " ")
    i, free = found.selected, found.unconstrained
    several = np.unique(found.ridge).size > 1
    ridge = f", ridge {found.ridge[i]:.3g}" * several

    def spread(name: str) -> str:
        values = [getattr(run, name)[i] for run in panel.runs]
        return f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""

    lines = [
        f"Selected strength {found.strength[i]:.3g}{ridge}: test accuracy "
        f"{found.test_accuracy[i]:.3f}{spread('test_accuracy')} (without fairness "
        f"{found.test_accuracy[free]:.3f}), difference of {notion} "
        f"{found.test_unfairness[i]:.3f}{spread('test_unfairness')} (without fairness "
        f"{found.test_unfairness[free]:.3f})."
    ]
    if not found.converged.all():
        lines.append(
            f"Warning: {int((~found.converged).sum())} of {found.converged.size} "
            f"points did not reach their precision; their numbers are the best found."
        )
    part, stratum, group = np.unravel_index(found.counts.argmin(), found.counts.shape)
    if (count := int(found.counts.min())) < FEW:
        lines.append(
            f"Warning: the {('training', 'test')[part]} part has only {count} samples "
            f"of group {data.group_names[group]}{STRATA[panel.notion][stratum]}: the "
            f"difference of {notion} is uncertain."
        )
    return lines


def _picture(panels: Sequence[Panel], data: datasets.Dataset):
    drawn = [
        plots.Frontier(
            unfairness=panel.mean.test_unfairness,
            accuracy=panel.mean.test_accuracy,
            front=panel.mean.on_front,
            selected=panel.mean.selected,
            unconstrained=panel.mean.unconstrained,
            converged=panel.mean.converged,
            label=f"difference of {panel.notion.replace('-', ' ')} on test [0-1]",
        )
        for panel in panels
    ]
    # matplotlib reads text between dollars as a formula.
    return plots.frontier(drawn, title=data.name.replace("$", r"\$"))


def _write_csv(
    path: Path,
    panels: Sequence[Panel],
    data: datasets.Dataset,
    seeds: Sequence[int],
    labels: dict[str, str],
) -> None:
    names = [
        name
        for name in frontiers.Frontier._fields
        if name not in ("coefficients", "intercept", "counts")
    ]
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["dataset", "notion", *labels, "seed", *names])
        for panel in panels:
            for seed, run in zip(seeds, panel.runs, strict=True):
                head = [_harmless(data.name), panel.notion, *labels.values(), seed]
                for i in range(run.strength.size):
                    values = [_entry(getattr(run, name), i) for name in names]
                    rows.writerow([*head, *values])


def _entry(column, i: int) -> str:
    """An index becomes a flag, like the other flags 0 or 1."""
    value = column == i if isinstance(column, int) else column[i]
    return str(int(value)) if np.asarray(value).dtype.kind in "bi" else f"{value:.7g}"


def _harmless(text: str) -> str:
    """Spreadsheets would run a cell that begins like a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _plain(text: str) -> str:
    """Escapes what Markdown would read as formatting."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|$~&!" else c for c in text)


def _report(
    panels: Sequence[Panel],
    data: datasets.Dataset,
    seeds: Sequence[int],
    labels: dict[str, str],
    folds: int,
) -> str:
    version = importlib.metadata.version("fairjax")
    chosen_by = f"{folds}-fold cross-validation" if folds else "training numbers"
    repeats = "seed" if len(seeds) == 1 else "means over the seeds"
    lines = [
        f"# Accuracy and fairness: {_plain(data.name)}",
        _plain(_headline(data)),
        f"Linear models, {labels['loss']} loss, method {labels['method']}; "
        f"{repeats} {', '.join(map(str, seeds))}. A strength is "
        f"{MEANINGS[labels['method']]}.",
        "![accuracy against unfairness](frontier.png)",
    ]
    for panel in panels:
        found = panel.mean
        notion = panel.notion.replace("-", " ")
        lines += [f"## {notion.capitalize()}"]
        lines += map(_plain, _sentences(panel, data))
        head = ["", "strength", *["ridge"] * (np.unique(found.ridge).size > 1)]
        head += [f"{part} {what}" for part in _COLUMNS for what in ("accuracy", "gap")]
        table = [head, ["---", *["---:"] * (len(head) - 1)]]
        table += [cells for _, cells in _cells(found)]
        lines += ["\n".join("| " + " | ".join(map(_mark, row)) + " |" for row in table)]
        lines += [_plain(_legend(found))]
        lines += [_counts(panel, data)]
    lines += [
        "## How to read this",
        f"A gap is the largest difference between two groups of the share of "
        f"decisions for label 1: among all (demographic parity), among those with "
        f"label 1 (equal opportunity), or the larger one of those among either label "
        f"(equalized odds). Selected is the least unfair point among those with 90 % "
        f"of the best accuracy, by {chosen_by} on the training part. The front and "
        f"the test columns played no role in it.",
        f"fairjax {version}, jax {jax.__version__}.",
    ]
    return "\n\n".join(lines) + "\n"


def _mark(cell: str) -> str:
    return cell if cell.startswith("---") else _plain(cell)


def _counts(panel: Panel, data: datasets.Dataset) -> str:
    rows = ["| group | training samples | test samples |", "| --- | ---: | ---: |"]
    for stratum, words in enumerate(STRATA[panel.notion]):
        for group, name in enumerate(data.group_names):
            train, test = panel.mean.counts[:, stratum, group]
            rows.append(f"| {_plain(name + words)} | {train:,} | {test:,} |")
    return "\n".join(rows)


def _console(stream: TextIO) -> Console:
    """Names are printed as they are: brackets are no markup, numbers no highlights."""
    width = None if stream.isatty() else 100
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


Writers = Mapping[str, Callable[[Path], object]]


@contextlib.contextmanager
def _output(folder: Path) -> Iterator[Callable[[Writers], None]]:
    """Tries the folder at once; yields what writes files there, whole or not at all."""

    def publish(writers: Writers) -> None:
        with _staging(folder) as aside, warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box; no reason to speak up.
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            for name, write in writers.items():
                write(aside / name)
            for name in writers:
                os.replace(aside / name, folder / name)

    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _staging(folder):
            pass
        _check_free(folder, ("results.csv", "report.md", "frontier.png"))
    except OSError as error:
        raise ValueError(
            f"`--out` {str(folder)!r} cannot be written: {error}. Name a folder that "
            f"can be."
        ) from error
    try:
        yield publish
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _check_free(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{name} is a folder there")


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".fairjax-", dir=folder) as aside:
        yield Path(aside)
