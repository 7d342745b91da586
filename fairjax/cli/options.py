"""Options that several subcommands share."""

from pathlib import Path
from typing import Annotated

import typer

Table = Annotated[
    Path,
    typer.Argument(metavar="SCORES.csv", help="A table with a header line."),
]
Score = Annotated[
    str, typer.Option(metavar="COLUMN", help="The column of the scores to read.")
]
Group = Annotated[
    list[str],
    typer.Option(
        metavar="COLUMN",
        help="The column that tells the groups apart. Repeat it for intersections.",
    ),
]
Weight = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Sample weights; they count as repetitions."),
]
Sep = Annotated[
    str,
    typer.Option(
        metavar="CHARACTER", help=r"What stands between entries; \t for a tab."
    ),
]
Encoding = Annotated[str, typer.Option(metavar="NAME", help="Of the file's text.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Sentences only: no progress and no tables.")
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Share the points among several processes, started alike but for their "
        "--process-id: where the first one listens. Or auto, which finds the others of "
        "a Slurm step or a cloud TPU; without it a process never looks for others.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", help="With --coordinator: how many processes."),
]
ProcessId = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="With --coordinator: which one this is, from 0. The first one writes.",
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="With --coordinator: how long to wait for other processes to come, or for "
        "one that no longer answers.  [default: 60]",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keeps what is finished: the same command, started again after it was "
        "stopped, goes on from there.",
    ),
]
KeepPrograms = Annotated[
    bool,
    typer.Option(
        "--compilation-cache/--no-compilation-cache",
        help="Keep compiled programs for later runs, in the user's cache directory, or "
        "where the variable JAX_COMPILATION_CACHE_DIR says.",
    ),
]


def separator(text: str) -> str:
    """The character between entries, as one types it."""
    return text.replace(r"\t", "\t")
