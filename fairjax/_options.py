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
