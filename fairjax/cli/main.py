"""The `fairjax` command: a thin layer over the package.

Options are read and checked first, then the output, then the data; only then does
anything compile. Bad input prints one line and exits with status 2. Results are written
aside and moved into place, so a run that fails leaves older ones as they were.
"""

import contextlib
import importlib.metadata
import io
import sys
from collections.abc import Iterator
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

from . import audit as audit_command
from . import compilation_cache, terminal
from . import repair as repair_command
from . import sweep as sweep_command
from .options import (
    AuditOptions,
    DataOptions,
    ModelOptions,
    RepairOptions,
    RunOptions,
    SweepOptions,
    command,
)

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(importlib.metadata.version("fairjax"))
        raise typer.Exit
    return wanted


@contextlib.contextmanager
def _running(options: RunOptions, *, float64: bool) -> Iterator[None]:
    programs = compilation_cache.programs_kept(options.compilation_cache)
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
@command(DataOptions, ModelOptions, SweepOptions)
def sweep(data: DataOptions, model: ModelOptions, options: SweepOptions) -> None:
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
      fairjax sweep --dataset adult --scheduler tcp://10.0.0.1:8786
    """  # noqa: D301
    with _running(options, float64=options.float64):
        sweep_command.run(data, model, options)


@app.command()
@command(AuditOptions)
def audit(options: AuditOptions) -> None:
    """Measure how scores, decisions and errors differ between groups.

    Prints the numbers of each group and the gaps between groups, with bootstrap
    intervals, and says which groups are too small to conclude anything.

    \b
    Examples:
      fairjax audit scores.csv --score p --group sex
      fairjax audit scores.csv --score p --group sex --group race --label hired
      fairjax audit scores.csv --score p --group sex --label y --out audit
    """  # noqa: D301
    with _running(options, float64=True):
        audit_command.run(options)


@app.command()
@command(RepairOptions)
def repair(options: RepairOptions) -> None:
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
    with _running(options, float64=True):
        repair_command.run(options)


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
