"""The command under attack: malformed and hostile tables, full disks, killed runs.

Whatever is wrong with a file, the command says so in one line and ends with status 2,
and what an earlier run wrote is as it was. What other tests of a command hold already
is not here again.
"""

import csv
import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fairjax import cli, datasets, files
from fairjax.cli import tables as _score_tables

GOOD = "p,s,y\n" + "0.1,F,0\n0.2,F,1\n0.7,M,0\n0.9,M,1\n" * 6
COMMANDS = ["audit", "repair", "sweep"]


def arguments(command, path, out):
    """The arguments under which a good table of p, s and y is read."""
    if command == "sweep":
        return ["sweep", "--csv", path, "--target", "y", "--sensitive", "s",
                "--strengths", "0,1", "--folds", "2", "--out", out]  # fmt: skip
    if command == "audit":
        return ["audit", path, "--score", "p", "--group", "s", "--draws", 5,
                "--out", out]  # fmt: skip
    return ["repair", path, "--score", "p", "--group", "s", "--out", out / "fair.csv"]


def invoke(*words):
    return CliRunner().invoke(cli.app, list(map(str, words)))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def out(tmp_path):
    """What an earlier run wrote."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("fair.csv", "groups.csv", "results.csv", "report.md"):
        (folder / name).write_text("older")
    return folder


def assert_refused(result, out, before, *, message=""):
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("fairjax: ")
    assert message in lines[0]
    assert len(lines[0]) < 2100
    assert contents(out) == before


HOSTILE = {
    "latin-1": (GOOD.replace("F", "Fräulein").encode("latin-1"), "encoding`"),
    "utf-16": (GOOD.encode("utf-16"), "cannot read"),
    "half a character": (GOOD.encode() + b"\xc3", "cannot read"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 40, "cannot read"),
    "an open quote": (GOOD.replace("0.7", '"0.7').encode(), ""),
    "text after a quote": (GOOD.replace("0.7", '"0.7"x').encode(), "cannot read"),
    "one endless entry": (b"p,s,y\n" + b"9" * 200_000 + b",F,0\n", "field larger"),
    "an entry of 400 digits": (GOOD.replace("0.7", "9" * 400).encode(), ""),
    "zeros": (bytes(5000), ""),
    "line ends only": (b"\n" * 5000, "different column names"),
    "a formula for a number": (GOOD.replace("0.7", "=1+1").encode(), ""),
    "two names alike": (GOOD.replace("s,y", "s,s").encode(), "different column names"),
}

TEXTS = {"a formula for a number"}
if int(pd.__version__.split(".")[0]) < 3:
    TEXTS.add("an entry of 400 digits")  # Which older ones do not read as a number.


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_table_gets_one_line_and_status_2(command, kind, tmp_path, out):
    data, message = HOSTILE[kind]
    if command == "sweep" and kind in TEXTS:
        pytest.skip("a column of texts is a category there")
    path, before = tmp_path / "scores.csv", contents(out)
    path.write_bytes(data)
    result = invoke(*arguments(command, path, out))
    assert_refused(result, out, before, message=message)
    assert path.read_bytes() == data


@pytest.mark.parametrize("command", COMMANDS)
def test_a_million_columns_are_refused_in_seconds(command, tmp_path, out):
    path, before = tmp_path / "wide.csv", contents(out)
    names = ",".join(f"c{i}" for i in range(10**6))
    path.write_text(f"{names}\n{',' * (10**6 - 1)}\n")
    peak, start = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.process_time(),
    )
    result = invoke(*arguments(command, path, out))
    assert_refused(result, out, before, message="1,000,000 columns, more than 100,000")
    assert time.process_time() - start < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown < 2**20  # KiB


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_is_not_waited_for(command, tmp_path, out):
    path, before = tmp_path / "pipe.csv", contents(out)
    os.mkfifo(path)
    for place in (path, "/dev/zero"):
        result = invoke(*arguments(command, place, out))
        assert_refused(result, out, before, message="is no file")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_without_permission(command, tmp_path, out, monkeypatch):
    path, before = tmp_path / "scores.csv", contents(out)
    path.write_text(GOOD)
    plain = pathlib.Path.open

    def guarded(self, *arguments, **options):
        # Root, as which tests may run, is refused nothing.
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return plain(self, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", guarded)
    result = invoke(*arguments(command, path, out))
    assert_refused(result, out, before, message="Permission denied")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_changes_while_it_is_read(command, tmp_path, out, monkeypatch):
    path, before = tmp_path / "scores.csv", contents(out)
    path.write_text(GOOD)
    pandas = datasets.extra("pandas")
    read = pandas.read_csv

    def late(*arguments, **options):
        with path.open("a") as stream:
            stream.write("0.5,F,1\n")
        return read(*arguments, **options)

    monkeypatch.setattr(pandas, "read_csv", late)
    result = invoke(*arguments(command, path, out))
    assert_refused(result, out, before, message="has changed while it was read")


@pytest.mark.parametrize("change", ["longer", "shorter", "as long", "gone"])
def test_a_table_that_changes_before_it_is_repaired(change, tmp_path, out, monkeypatch):
    path, before = tmp_path / "scores.csv", contents(out)
    path.write_text(GOOD)
    write = _score_tables.write_with

    def late(stream, **options):
        if change == "gone":
            path.unlink()
        else:
            rows = GOOD.splitlines(keepends=True)
            swapped = [rows[0], *rows[:0:-1]]
            kept = {"longer": rows + rows[1:], "shorter": rows[:-3], "as long": swapped}
            path.write_text("".join(kept[change]))
        write(stream, **options)

    monkeypatch.setattr(_score_tables, "write_with", late)
    result = invoke(*arguments("repair", path, out))
    message = "No such file" if change == "gone" else "has changed while it was read"
    assert_refused(result, out, before, message=message)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk(command, step, tmp_path, out, monkeypatch):
    path, before = tmp_path / "scores.csv", contents(out)
    path.write_text(GOOD)
    full = OSError(errno.ENOSPC, "No space left on device")
    if step == "fsync":

        def fail(number):
            raise full

        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        plain = open

        def small(name, mode="r", *more, **options):
            if mode == "xb" and plain(name, "xb").close() is None:
                return plain("/dev/full", "wb", 0)
            return plain(name, mode, *more, **options)

        monkeypatch.setattr(files, "open", small, raising=False)
    result = invoke(*arguments(command, path, out))
    assert_refused(result, out, before, message="No space left on device")


KILLED = """
import os, signal
from pathlib import Path
from fairjax import files

def half(stream):
    stream.write(b"new" * 100_000)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path({folder!r})
whole = lambda stream: stream.write(b"new")
files.write_whole({{folder / "groups.csv": whole, folder / "fair.csv": half}})
"""


def test_a_killed_run_leaves_older_output_whole(out):
    """No JAX is needed to be killed: the writer of all commands is one function."""
    before = contents(out)
    code = KILLED.format(folder=str(out))
    died = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    after = contents(out)
    assert {name: after[name] for name in before} == before
    # What it was about to write lies aside, under a name that no one reads.
    assert all(name.startswith(".fairjax-") for name in after.keys() - before.keys())


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", '=HYPERLINK("x")']


def test_formulas_are_escaped_in_results_and_kept_in_data(tmp_path):
    """A spreadsheet must not run what an audit writes.

    A repaired table differs from the old one by its new column alone, which holds
    numbers: escaping what was there would change the data, and it is as safe to open
    as it was before.
    """
    path, out = tmp_path / "scores.csv", tmp_path / "out"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["p", "s", "@y"])
        for i in range(24):
            rows.writerow([i / 24, FORMULAS[i % 6], "=A1"])
    assert invoke(*arguments("audit", path, out)).exit_code == 0
    with (out / "groups.csv").open(newline="") as stream:
        names = [row[0] for row in csv.reader(stream)][1:]
    assert sorted(names) == sorted("'" + name for name in FORMULAS)
    result = invoke(*arguments("repair", path, out), "--column", "=fair")
    assert result.exit_code == 0, result.output
    lines, old = (out / "fair.csv").read_text().splitlines(), path.read_text()
    assert [line.rpartition(",")[0] for line in lines] == old.splitlines()
    values = np.array([float(line.rpartition(",")[2]) for line in lines[1:]])
    assert np.isfinite(values).all()


NAMES = ["..%2f..%2fetc.csv", "-rf.csv", "$(touch owned).csv", "a\nb.csv", "[red]x.csv"]


@pytest.mark.parametrize("name", NAMES)
def test_tricks_in_names_stay_names(name, tmp_path):
    path, out = tmp_path / name, tmp_path / "out"
    path.write_text(GOOD)
    result = invoke(*arguments("audit", path, out))
    assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {name, "out"}
    missing = invoke(*arguments("audit", tmp_path / ("no" + name), out))
    assert missing.exit_code == 2
    assert len(missing.stderr.splitlines()) == 1


def test_column_names_are_never_paths(tmp_path, out):
    path = tmp_path / "scores.csv"
    path.write_text(GOOD.replace("p,s,y", "../../p,/etc/passwd,y"))
    words = ["--score", "../../p", "--group", "/etc/passwd"]
    for command in ("audit", "repair"):
        place = out if command == "audit" else out / "fair.csv"
        more = ["--draws", 5] if command == "audit" else ["--column", "../../../x"]
        result = invoke(command, path, *words, *more, "--out", place)
        assert result.exit_code == 0, result.output
    assert {p.name for p in tmp_path.iterdir()} == {"scores.csv", "out"}
