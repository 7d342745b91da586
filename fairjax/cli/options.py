"""Options of the command: one frozen dataclass for each set, and how values are read.

A field of a dataclass is an option; `command` makes an ordinary function of such
dataclasses a command. Everything below takes the dataclasses, so an option is named
twice: here, and where it is used.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

T = TypeVar("T")


def _option(
    metavar: str | None, help: str, *names: str, default: Any = None, **more: Any
) -> Any:
    """A field whose option has this value in its help, and these names if not its own.

    The default is `MISSING` for an option that must be given.
    """
    option = typer.Option(*names, metavar=metavar, help=help, **more)
    return dataclasses.field(default=default, metadata={"typer": option})


def _flag(names: str, help: str, *, default: bool = False) -> Any:
    return _option(None, help, names, default=default)


def _separator(text: str | None) -> str | None:
    """The character between entries, of which a tab may be typed as such."""
    return text and text.replace(r"\t", "\t")


def command(*sets: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function of these dataclasses one of all their fields, as typer reads it.

    Args:
        sets: dataclasses, of which the function takes one value each, in this order.
            In the help the fields of `RunOptions` come last.
    """
    listed = [field for cls in sets for field in dataclasses.fields(cls)]
    listed.sort(key=lambda field: field.name in RunOptions.__dataclass_fields__)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is MISSING
            else field.default,
            annotation=Annotated[field.type, field.metadata["typer"]],
        )
        for field in listed
    ]

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        def with_fields(**given: Any) -> None:
            run(
                *(
                    cls(**{f.name: given[f.name] for f in dataclasses.fields(cls)})
                    for cls in sets
                )
            )

        with_fields.__name__, with_fields.__doc__ = run.__name__, run.__doc__
        with_fields.__annotations__ = {}
        vars(with_fields)["__signature__"] = inspect.Signature(parameters)
        return with_fields

    return decorate


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data set of a sweep."""

    dataset: str | None = _option(
        "NAME",
        "toy, adult, compas, german, law_school, communities, student or school; "
        "those with real labels need a network.  [default: toy]",
    )
    csv_file: Path | None = _option(
        "FILE",
        "A table of your own, with a header line, instead of --dataset.",
        "--csv",
    )
    target: list[str] | None = _option(
        "COLUMN",
        "The column to predict; needed with --csv. For law_school pass_bar, ugpa "
        "or zfygpa; for adult income, hours-per-week or occupation; for compas "
        "two_year_recid, is_violent_recid or score_text. Repeat it for several "
        "tasks with --model shared.",
    )
    sensitive: list[str] | None = _option(
        "COLUMN",
        "The column that tells the groups apart; needed with --csv. Repeat it for "
        "intersections.",
    )
    positive: str | None = _option(
        "VALUE",
        "With --csv: the favourable value of the target, unless that is 0/1, -1/1 "
        "or False/True.",
    )
    favourable: str | None = _option(
        "WORDS", "With --csv: what that value means, for the report."
    )
    split: str | None = _option(
        "COLUMN",
        'With --csv: a column that says "train" or "test". Without it, a quarter '
        "of the rows are drawn for the test.",
    )
    exclude: list[str] | None = _option(
        "COLUMN", "With --csv: a column that is no feature. May be repeated."
    )
    sep: str | None = _option(
        "CHARACTER",
        r"With --csv: what stands between entries; \t for a tab.  [default: ,]",
        callback=_separator,
    )
    encoding: str | None = _option(
        "NAME", "With --csv: of the file's text.  [default: utf-8-sig]"
    )
    drop_missing: bool = _flag(
        "--drop-missing", "Leave out rows with missing entries (--csv and adult)."
    )
    without_sensitive: bool = _flag(
        "--without-sensitive", "Keep sensitive columns out of the features."
    )
    data_dir: Path | None = _option(
        "FOLDER",
        "Where the data sets lie. Else the variable FAIRJAX_DATA_DIR names the "
        "folder, or they are downloaded.",
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model of a sweep and its grid, as they were typed; None where left out."""

    model: str = _option(
        "NAME",
        "linear, kernel-svm (a support vector machine), mlp (a network), or shared "
        "(a network whose hidden layers serve all tasks of a data set such as "
        "school).",
        default="linear",
    )
    loss: str | None = _option(
        "NAME",
        "Of linear models: logistic, hinge, squared-hinge or squared.  "
        "[default: logistic]",
    )
    method: str | None = _option(
        "NAME",
        "Of linear models: constraint, penalty, projection or elimination.  "
        "[default: constraint]",
    )
    kernel: str | None = _option(
        "NAME",
        "Of kernel-svm: rbf (Gaussian), laplacian, inverse-multiquadric, linear or "
        "quadratic.  [default: rbf]",
    )
    bandwidths: str | None = _option(
        "NUMBERS",
        "Of kernel-svm: widths of the kernel in units of the features, written as "
        "--strengths.  [default: the median distance of two rows]",
    )
    rows: int | None = _option(
        "NUMBER",
        "Of kernel-svm: how many training rows it learns from, drawn with the same "
        "share of each group and label; its time grows with their square or "
        "faster.  [default: 2000]",
        min=1,
    )
    penalty: str | None = _option(
        "NAME",
        "Of networks: mmd, energy or sinkhorn between the groups on the last "
        "hidden layer, or mean-gap of the scores.  [default: mmd]",
    )
    widths: str | None = _option(
        "NUMBERS", "Of networks: hidden units per layer, such as 64,32.  [default: 64]"
    )
    epochs: int | None = _option(
        "NUMBER", "Of networks: passes over the data.  [default: 20]", min=1
    )
    strengths: str | None = _option(
        "NUMBERS",
        "How much fairness: 0,0.5,1 or 0:2:64, which is from:to:how-many. For "
        "constraint, the share of the gap of mean scores to remove; above 1 turns "
        "it around (linear models). For penalties, their weight.  [default: for "
        "constraint 64 values, 0 to 2, and 11, 0 to 1, for kernel-svm; else 0 and "
        "powers of ten]",
    )
    ridges: str | None = _option(
        "NUMBERS",
        "Of linear models and kernel-svm: weights of the ridge term, written "
        "likewise; C is 1 / (rows x ridge).  [default: 1e-4, and 1e-3 for "
        "kernel-svm]",
    )
    folds: int | None = _option(
        "NUMBER",
        "Of linear models and kernel-svm: folds of the cross-validation that "
        "selects a point; 0 selects by training numbers. Networks hold a fifth of "
        "the training part out.  [default: 5]",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every command."""

    compilation_cache: bool = _flag(
        "--compilation-cache/--no-compilation-cache",
        "Keep compiled programs for later runs, in the user's cache "
        "directory, or where the variable JAX_COMPILATION_CACHE_DIR says.",
        default=True,
    )
    quiet: bool = _flag("--quiet", "Sentences only: no progress and no tables.")


@dataclass(frozen=True, kw_only=True)
class SweepOptions(RunOptions):
    """Options of a sweep, whatever the data and the model."""

    notion: list[str] | None = _option(
        "NAME",
        "demographic-parity, equal-opportunity, equalized-odds, both (the first "
        "two) or all. May be repeated. Real labels have the first only.  "
        "[default: both]",
    )
    seeds: str = _option(
        "NUMBERS",
        "How many repetitions with other random folds (and splits), such as 3, or "
        "a list of seeds, such as 0,7.",
        default="1",
    )
    guarantee: float | None = _option(
        "LIMIT",
        "Of all models but shared: set 30 % of the training rows aside and select "
        "the most accurate model that is shown by them to have a true gap of at "
        "most this, such as 0.1; or say why none is.",
    )
    confidence: float | None = _option(
        "NUMBER",
        "With --guarantee: at least this probability that no model above the limit "
        "is selected, for all notions together.  [default: 0.95]",
    )
    out: Path = _option(
        "FOLDER",
        "Gets results.csv, report.md and frontier.png; older ones are replaced.",
        default=Path("fairjax-out"),
    )
    float64: bool = _flag("--float64/--float32", "Precision of the numbers.")
    checkpoint: Path | None = _option(
        "FOLDER",
        "Keeps what is finished: the same command, started again after it was "
        "stopped, goes on from there.",
    )
    scheduler: str | None = _option(
        "ADDRESS",
        "Fit on the workers of a Dask scheduler, such as tcp://10.0.0.1:8786; it "
        "must answer within 10 s. Points of a worker that is lost are fitted by "
        "the others.",
    )


@dataclass(frozen=True, kw_only=True)
class TableOptions(RunOptions):
    """A table of scores, and which column is what."""

    scores: Path = dataclasses.field(
        metadata={
            "typer": typer.Argument(
                metavar="SCORES.csv", help="A table with a header line."
            )
        }
    )
    score: str = _option("COLUMN", "The column of the scores to read.", default=MISSING)
    group: list[str] = _option(
        "COLUMN",
        "The column that tells the groups apart. Repeat it for intersections.",
        default=MISSING,
    )
    weight: str | None = _option("COLUMN", "Sample weights; they count as repetitions.")
    sep: str = _option(
        "CHARACTER",
        r"What stands between entries; \t for a tab.",
        default=",",
        callback=_separator,
    )
    encoding: str = _option("NAME", "Of the file's text.", default="utf-8-sig")


@dataclass(frozen=True, kw_only=True)
class AuditOptions(TableOptions):
    """Options of an audit."""

    label: str | None = _option(
        "COLUMN", "What turned out: two values, or real numbers for a regression."
    )
    positive: str | None = _option(
        "VALUE",
        "The favourable value of the label, unless that is 0/1, -1/1 or False/True.",
    )
    threshold: float | None = _option(
        "NUMBER",
        "Scores above it are favourable decisions.  [default: 0.5 if all scores "
        "lie in 0 to 1, else 0 with labels of two values; none for real labels, "
        "and without labels for other scores]",
    )
    draws: int = _option("NUMBER", "Resamples behind each interval.", default=200)
    out: Path | None = _option(
        "FOLDER",
        "Gets groups.csv, gaps.csv, report.md, scores.png and gaps.png; older ones "
        "are replaced.",
    )


@dataclass(frozen=True, kw_only=True)
class RepairOptions(TableOptions):
    """Options of a repair."""

    out: Path = _option(
        "FILE",
        "Gets the table, its rows as they are, with one column more; an older one "
        "is replaced.",
        default=MISSING,
    )
    calibration: Path | None = _option(
        "FILE",
        "A table with the same columns from which the distributions are learned, "
        "such as the training scores.  [default: the scores themselves]",
    )
    repair: float = _option(
        "NUMBER",
        "The share of the Wasserstein distance between groups that is removed: 1 "
        "makes scores fair; 0.5 halves it for a quarter of the price.",
        default=1.0,
    )
    jitter: int | None = _option(
        "SEED",
        "Split equal scores of a group at random, with this seed, which exact "
        "parity needs when there are many.",
    )
    column: str = _option("NAME", "The name of the new column.", default="fair_score")
    picture: Path | None = _option(
        "FILE",
        "Also draw the scores of each group before and after, and which score "
        "became which: .png, .pdf or .svg.",
    )


def choose(name: str, table: Mapping[str, T], *, option: str) -> T:
    """The entry of that name."""
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        raise ValueError(
            f"`{option}` must be one of {', '.join(table)}, but is {name!r}."
            + "".join(f" Did you mean {other}?" for other in near)
        )
    return table[name]


def numbers(text: str, *, option: str) -> list[float]:
    """Numbers such as `0,0.5,1` or `0:2:64`, which is from, to and how many."""
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


def seed_list(text: str) -> list[int]:
    """Seeds: `3` for how many, or a list such as `0,7`."""
    try:
        if "," in text:
            found = [int(part) for part in text.split(",") if part.strip()]
        else:
            found = list(range(int(text)))
        if not 1 <= len(found) <= 1000 or not all(0 <= s < 2**31 for s in found):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"`--seeds` must be how many, such as 3, or a list of whole numbers from "
            f"0, such as 0,7, but is {text!r}."
        ) from None
    return list(dict.fromkeys(found))
