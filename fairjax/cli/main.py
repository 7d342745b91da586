"""The `fairjax` command: a thin layer over the package; here its options only.

Options are read and checked first, then the output, then the data; only then does
anything compile. Bad input prints one line and exits with status 2. Results are written
aside and moved into place, so a run that fails leaves older ones as they were.
"""

import contextlib
import importlib.metadata
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import jax

try:
    import rich as rich
    import typer
except ImportError as error:
    print(
        f"fairjax: the command needs {error.name}: install it with "
        f'`pip install "fairjax[cli]"`.',
        file=sys.stderr,
    )
    raise SystemExit(2) from error

from . import audit as _audit_command
from . import compilation_cache as _runtime
from . import options, rendezvous, tables, terminal
from . import repair as _repair_command
from . import sweep as _sweep_command

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(importlib.metadata.version("fairjax"))
        raise typer.Exit
    return wanted


@contextlib.contextmanager
def _running(compilation_cache: bool, *, float64: bool) -> Iterator[None]:
    programs = _runtime.programs_kept(compilation_cache)
    with terminal.one_line(), programs, jax.enable_x64(float64):
        yield


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

    Try `fairjax sweep`, and `fairjax sweep --help`. To measure the scores of a model
    that is already there, use `audit`; to make them fair, `repair`.
    """


@app.command()
def sweep(
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="toy, adult, compas, german, law_school, communities, student or "
            "school; those with real labels need a network.  [default: toy]",
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
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="The column to predict; needed with --csv. For law_school pass_bar, "
            "ugpa or zfygpa; for adult income, hours-per-week or occupation; for "
            "compas two_year_recid, is_violent_recid or score_text. Repeat it for "
            "several tasks with --model shared.",
        ),
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
    sep: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help=r"With --csv: what stands between entries; \t for a tab.  "
            "[default: ,]",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --csv: of the file's text.  [default: utf-8-sig]",
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
            "first two) or all. May be repeated. Real labels have the first only.  "
            "[default: both]",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="linear, kernel-svm (a support vector machine), mlp (a network), or "
            "shared (a network whose hidden layers serve all tasks of a data set such "
            "as school).",
        ),
    ] = "linear",
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of linear models: logistic, hinge, squared-hinge or squared.  "
            "[default: logistic]",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of linear models: constraint, penalty, projection or elimination.  "
            "[default: constraint]",
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of kernel-svm: rbf (Gaussian), laplacian, inverse-multiquadric, "
            "linear or quadratic.  [default: rbf]",
        ),
    ] = None,
    bandwidths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of kernel-svm: widths of the kernel in units of the features, "
            "written as --strengths.  [default: the median distance of two rows]",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Of kernel-svm: how many training rows it learns from, drawn with "
            "the same share of each group and label; its time grows with their square "
            "or faster.  [default: 2000]",
        ),
    ] = None,
    penalty: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of networks: mmd, energy or sinkhorn between the groups on the last "
            "hidden layer, or mean-gap of the scores.  [default: mmd]",
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of networks: hidden units per layer, such as 64,32.  [default: 64]",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Of networks: passes over the data.  [default: 20]",
        ),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="How much fairness: 0,0.5,1 or 0:2:64, which is from:to:how-many. "
            "For constraint, the share of the gap of mean scores to remove; above 1 "
            "turns it around (linear models). For penalties, their weight.  [default: "
            "for constraint 64 values, 0 to 2, and 11, 0 to 1, for kernel-svm; else 0 "
            "and powers of ten]",
        ),
    ] = None,
    ridges: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of linear models and kernel-svm: weights of the ridge term, written "
            "likewise; C is 1 / (rows x ridge).  [default: 1e-4, and 1e-3 for "
            "kernel-svm]",
        ),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="How many repetitions with other random folds (and splits), such as "
            "3, or a list of seeds, such as 0,7.",
        ),
    ] = "1",
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Of linear models and kernel-svm: folds of the cross-validation that "
            "selects a point; 0 selects by training numbers. Networks hold a fifth of "
            "the training part out.  [default: 5]",
        ),
    ] = None,
    guarantee: Annotated[
        float | None,
        typer.Option(
            metavar="LIMIT",
            help="Of all models but shared: set 30 % of the training rows aside and "
            "select the most accurate model that is shown by them to have a true gap "
            "of at most this, such as 0.1; or say why none is.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="With --guarantee: at least this probability that no model above the "
            "limit is selected, for all notions together.  [default: 0.95]",
        ),
    ] = None,
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
    checkpoint: options.Checkpoint = None,
    coordinator: options.Coordinator = None,
    processes: options.Processes = None,
    process_id: options.ProcessId = None,
    wait: options.Wait = None,
    compilation_cache: options.KeepPrograms = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no table.")
    ] = False,
) -> None:
    """Trace the frontier between accuracy and fairness.

    Fits one model per strength, measures how often it is right and how far its
    decisions differ between groups, and selects the least unfair model among those with
    90 % of the best cross-validated accuracy. The test part plays no role in that.

    \b
    Examples:
      fairjax sweep
      fairjax sweep --dataset adult
      fairjax sweep --dataset compas --notion all --strengths 0:1:11 --seeds 5
      fairjax sweep --dataset compas --model kernel-svm --kernel rbf
      fairjax sweep --dataset adult --model mlp --penalty sinkhorn
      fairjax sweep --dataset school --model shared
      fairjax sweep --dataset adult --notion demographic-parity --guarantee 0.05
      fairjax sweep --csv loans.csv --target repaid --positive yes --sensitive sex
      fairjax sweep --coordinator 10.0.0.1:9876 --processes 2 --process-id 0
    """  # noqa: D301
    with _running(compilation_cache, float64=float64):
        place = rendezvous.place(coordinator, processes, process_id, wait)
        _sweep_command.run(
            place,
            checkpoint=checkpoint,
            dataset=dataset,
            csv_file=csv_file,
            columns={
                "target": target,
                "positive": positive,
                "split": split,
                "favourable": favourable,
                "exclude": exclude,
                "sep": None if sep is None else options.separator(sep),
                "encoding": encoding,
            },
            sensitive=sensitive,
            drop_missing=drop_missing,
            without_sensitive=without_sensitive,
            data_dir=data_dir,
            notion=notion,
            model=model,
            given={
                "loss": loss,
                "method": method,
                "ridges": ridges,
                "folds": folds,
                "kernel": kernel,
                "bandwidths": bandwidths,
                "rows": rows,
                "penalty": penalty,
                "widths": widths,
                "epochs": epochs,
            },
            strengths=strengths,
            seeds=seeds,
            guarantee=guarantee,
            confidence=confidence,
            out=out,
            quiet=quiet,
        )


@app.command()
def audit(
    scores: options.Table,
    score: options.Score,
    group: options.Group,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="What turned out: two values, or real numbers for a regression.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="The favourable value of the label, unless that is 0/1, -1/1 or "
            "False/True.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Scores above it are favourable decisions.  [default: 0.5 if all "
            "scores lie in 0 to 1, else 0 with labels of two values; none for real "
            "labels, and without labels for other scores]",
        ),
    ] = None,
    weight: options.Weight = None,
    draws: Annotated[
        int, typer.Option(metavar="NUMBER", help="Resamples behind each interval.")
    ] = 200,
    sep: options.Sep = ",",
    encoding: options.Encoding = "utf-8-sig",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Gets groups.csv, gaps.csv, report.md, scores.png and gaps.png; older "
            "ones are replaced.",
        ),
    ] = None,
    compilation_cache: options.KeepPrograms = True,
    quiet: options.Quiet = False,
) -> None:
    """Measure how scores, decisions and errors differ between groups.

    Prints the numbers of each group and the gaps between groups, with bootstrap
    intervals, and says which groups are too small to conclude anything.

    \b
    Examples:
      fairjax audit scores.csv --score p --group sex
      fairjax audit scores.csv --score p --group sex --group race --label hired
      fairjax audit scores.csv --score p --group sex --label y --out audit
    """  # noqa: D301
    with _running(compilation_cache, float64=True):
        _audit_command.run(
            scores,
            tables.Columns(score, group, weight, options.separator(sep), encoding),
            label=label,
            positive=positive,
            threshold=threshold,
            draws=draws,
            out=out,
            quiet=quiet,
        )


@app.command()
def repair(
    scores: options.Table,
    score: options.Score,
    group: options.Group,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Gets the table, its rows as they are, with one column more; an older "
            "one is replaced.",
        ),
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table with the same columns from which the distributions are "
            "learned, such as the training scores.  [default: the scores themselves]",
        ),
    ] = None,
    repair: Annotated[
        float,
        typer.Option(
            metavar="NUMBER",
            help="The share of the Wasserstein distance between groups that is "
            "removed: 1 makes scores fair; 0.5 halves it for a quarter of the price.",
        ),
    ] = 1.0,
    jitter: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help="Split equal scores of a group at random, with this seed, which exact "
            "parity needs when there are many.",
        ),
    ] = None,
    weight: options.Weight = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="The name of the new column.")
    ] = "fair_score",
    sep: options.Sep = ",",
    encoding: options.Encoding = "utf-8-sig",
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the scores of each group before and after, and which score "
            "became which: .png, .pdf or .svg.",
        ),
    ] = None,
    compilation_cache: options.KeepPrograms = True,
    quiet: options.Quiet = False,
) -> None:
    """Make scores equally distributed in all groups.

    Moves each score to the Wasserstein barycenter of the groups' distributions, which
    changes scores least. That keeps the order inside each group and the mean, and needs
    no labels. A row's group must be known to repair its score.

    \b
    Examples:
      fairjax repair scores.csv --score p --group sex --out fair.csv
      fairjax repair new.csv --score p --group sex --calibration old.csv --out f.csv
      fairjax repair scores.csv --score p --group sex --repair 0.5 --out fair.csv
    """  # noqa: D301
    with _running(compilation_cache, float64=True):
        _repair_command.run(
            scores,
            tables.Columns(score, group, weight, options.separator(sep), encoding),
            calibration=calibration,
            repair=repair,
            jitter=jitter,
            column=column,
            out=out,
            picture=picture,
            quiet=quiet,
        )


def main() -> NoReturn:
    """Runs the command; the status is 0, or 2 for input it cannot use."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot show must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(
            sys.argv[1:] or ["--help"], prog_name="fairjax", standalone_mode=False
        )
    except Exception as error:
        # Usage errors; their class is typer's own in some versions, click's in others.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        # The subcommand in use, where the error knows it.
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "fairjax"
        print(terminal.line(f"{message()} See `{command} --help`."), file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)
