"""Runs scripts one after another, each in a process of its own, and keeps the answers.

A process per script: one that fails, or is killed for its memory, does not take the
others with it, each starts with a fresh device and the precision it wants, and records
reach this one as they are measured. It imports no JAX itself, so the device is theirs.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairjax import files
from fairjax.plots import canvas

from .picture import draw
from .records import Record, fault, finite, from_json, heading, line
from .report import table, with_shares

HERE = Path(__file__).parent
CEILINGS = HERE / "ceilings.py"
# Those that take part in some benchmark; what is not installed is left out.
PACKAGES = (
    *("fairjax", "jax", "jaxlib", "numpy", "optax", "flax", "ott-jax", "scipy"),
    *("scikit-learn", "fairlearn", "cvxopt", "torch", "geomloss", "POT", "equipy"),
)
UNKNOWN = {"kind": "unknown", "platform": "unknown"}


class Run(NamedTuple):
    """What is known so far.

    Attributes:
        about: when, where and with which versions; device and precision.
        ceilings: the device's, by name, each with rate, unit and size.
        records: in the order in which they were measured.
        failures: what went wrong, by benchmark.
    """

    about: dict[str, Any]
    ceilings: dict[str, dict[str, Any]]
    records: list[Record]
    failures: dict[str, str]


def scripts() -> dict[str, Path]:
    """The benchmarks by name: every script here that has a function `records`."""
    return {
        path.stem: path
        for path in sorted(HERE.glob("*.py"))
        if "\ndef records(" in path.read_text(encoding="utf-8")
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> datetime.datetime:
    """In UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def ask(script: Path, *, smoke: bool, take: Callable[[str], bool]) -> str:
    """Runs one script and hands over its lines as they come.

    Args:
        script: which writes JSON lines when it is asked for `--json`.
        smoke: whether to ask for `--smoke`.
        take: is given each line; what it does not take is printed.

    Returns:
        What went wrong, or nothing.
    """
    options = ["--json", *(["--smoke"] if smoke else [])]
    command = [sys.executable, str(script), *options]
    # Tiny sizes compile far longer than they run, and nobody reads their seconds.
    hurried = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if smoke else {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=hurried | os.environ
    ) as child:
        try:
            for text in child.stdout or ():
                if not take(text):
                    print(text.rstrip("\n"), flush=True)
        except BaseException:
            child.terminate()
            raise
    if child.returncode < 0:
        return f"killed by signal {-child.returncode}"
    return f"ended with status {child.returncode}" if child.returncode else ""


def measured_ceilings(script: Path, run: Run, *, smoke: bool) -> Run:
    """The run with the device, the precision and the ceilings that a script tells."""
    found = {}

    def take(text: str) -> bool:
        try:
            found.update(json.loads(text))
        except (ValueError, TypeError):
            return False
        return True

    trouble = ask(script, smoke=smoke, take=take)
    ceilings = found.pop("ceilings", {})
    if not trouble and not ceilings:
        trouble = "told nothing"
    if trouble:
        run.failures["ceilings"] = trouble
    for name, ceiling in ceilings.items():
        print(f"  {name:38} {ceiling['rate']:.3g} {ceiling['unit']}", flush=True)
    return run._replace(about=run.about | found, ceilings=ceilings)


def add_records(name: str, script: Path, run: Run, *, smoke: bool) -> None:
    """Runs one benchmark and adds what it yields, and how it failed if it did."""
    place, wrong = None, ""
    count = len(run.records)

    def take(text: str) -> bool:
        nonlocal place, wrong
        record = from_json(text)
        if record is None:
            return False
        if words := fault(record):
            wrong = wrong or words
            return True
        if record.place != place:
            place = record.place
            print(heading(record))
        print(line(record), flush=True)
        run.records.append(record)
        return True

    wrong = ask(script, smoke=smoke, take=take) or wrong
    if not wrong and len(run.records) == count:
        wrong = "yielded no record"
    if wrong:
        run.failures[name] = wrong


def as_json(run: Run) -> str:
    """The whole run; NaN and infinities are words."""
    content = run.about | {
        "ceilings": run.ceilings,
        "failures": run.failures,
        "records": with_shares(run.records, run.ceilings, platform_of(run)),
    }
    return json.dumps(finite(content), indent=1, allow_nan=False) + "\n"


def platform_of(run: Run) -> str:
    """Of the device, as JAX names it."""
    return run.about["device"]["platform"]


def write(run: Run, folder: Path) -> None:
    """Replaces the three files, each whole or not at all; the picture comes last."""
    text = table(run.about, run.ceilings, run.records, run.failures)
    files.write_whole(
        {
            folder / "run.json": lambda stream: stream.write(as_json(run).encode()),
            folder / "table.md": lambda stream: stream.write(text.encode()),
        }
    )
    if run.records:
        rates = {name: ceiling["rate"] for name, ceiling in run.ceilings.items()}
        device = run.about["device"]
        title = f"{device['kind']}, {run.about['started'][:10]}"
        title += ", smoke sizes" if run.about["smoke"] else ""
        figure = draw(run.records, rates, platform=platform_of(run), title=title)
        picture = folder / "seconds.png"
        files.write_whole({picture: lambda stream: canvas.write(figure, stream)})


def run_all(
    chosen: Mapping[str, Path],
    *,
    smoke: bool = False,
    output: Path | None = None,
    ceilings: Path = CEILINGS,
) -> tuple[Path, Run]:
    """Runs these scripts and writes `run.json`, `table.md` and `seconds.png`.

    The files are replaced after each script, and when the run is stopped: what was
    measured is kept.

    Args:
        chosen: scripts by name.
        smoke: whether to ask for tiny sizes.
        output: where to, or a new folder under `results`, named by time and device.
        ceilings: the script that measures the device.

    Returns:
        The folder, and what was found.

    Raises:
        OSError: for a folder that cannot be written, at once where it is given.
        ImportError: without matplotlib, at once.
    """
    canvas.blank(1.0, 1.0)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        files.check_writable(output / "run.json")
    begun = now()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {
        "started": begun.isoformat(),
        "finished": None,
        "smoke": smoke,
        "load": load,
        "versions": versions(),
        "device": UNKNOWN,
        "precision": {},
    }
    print("ceilings", flush=True)
    run = measured_ceilings(ceilings, Run(about, {}, [], {}), smoke=smoke)
    kind = "".join(
        c if c.isalnum() else "-" for c in run.about["device"]["kind"].lower()
    )
    folder = output or HERE / "results" / f"{begun:%Y%m%dT%H%M%SZ}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    write(run, folder)
    for index, (name, script) in enumerate(chosen.items(), start=1):
        print(f"\n[{index}/{len(chosen)}] {name}", flush=True)
        try:
            add_records(name, script, run, smoke=smoke)
        except BaseException:
            run.failures[name] = "was stopped"
            raise
        finally:
            write(run, folder)
    run.about["finished"] = now().isoformat()
    write(run, folder)
    return folder, run


def main(names: Sequence[str], *, smoke: bool, output: Path | None) -> int:
    """Runs the benchmarks of these names, or all; returns the exit status.

    It is 0, or 1 if any failed, 2 for what the user can mend, 130 when stopped.
    """
    known = scripts()
    if unknown := [name for name in names if name not in known]:
        print(
            f"benchmarks: no benchmark is called {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    chosen = {name: known[name] for name in names} if names else known
    try:
        folder, run = run_all(chosen, smoke=smoke, output=output)
    except (OSError, ImportError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: stopped; what was measured is kept", file=sys.stderr)
        return 130
    print(f"\nwritten: {folder}")
    for name, trouble in run.failures.items():
        print(f"benchmarks: {name} {trouble}", file=sys.stderr)
    return 1 if run.failures else 0
