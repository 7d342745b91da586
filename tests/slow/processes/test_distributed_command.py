"""`fairjax sweep` in several processes, and what it is built on."""

import contextlib
import csv
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import chex
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import cli, datasets, frontiers, notions, penalties
from fairjax.cli import compilation_cache, rendezvous

MAIN = "import sys; from fairjax.cli import main; sys.argv[0] = 'fairjax'; main()"
LINEAR = ["--strengths", "0:2:7", "--folds", "2", "--notion", "equal-opportunity"]
NETWORK = ["--model", "mlp", "--widths", "4", "--epochs", "40", "--penalty", "mean-gap"]
NETWORK += ["--strengths", "0,1,10", "--notion", "demographic-parity"]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["sweep", *map(str, arguments)])


def start(*arguments, cluster=None, **options):
    # Not in the home of whoever tests.
    programs = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir
        or "/dev/null",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "sweep", *map(str, arguments)],
        env=os.environ | programs | (cluster or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def pair(tmp_path, *arguments, wait=60, others=((), ())):
    """The same command in two processes; process 1 writes nothing, and nowhere."""
    where = ["--coordinator", f"localhost:{free_port()}", "--processes", 2]
    where += ["--wait", wait]
    return [
        start(
            *arguments, *where, "--process-id", own, "--out", tmp_path / f"out{own}",
            *others[own], cwd=tmp_path,
        )
        for own in (0, 1)
    ]  # fmt: skip


def ended(jobs, seconds=150):
    """Status, output and errors of each, all within the time."""
    try:
        found = [job.communicate(timeout=seconds) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    return [(job.returncode, *text) for job, text in zip(jobs, found, strict=True)]


def table(folder):
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def check_same_results(one, other, *, apart=("iterations",)):
    assert len(one) == len(other) > 0
    for row, expected in zip(one, other, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - set(apart):
            try:
                value = float(expected[name])
            except ValueError:
                assert row[name] == expected[name], name
            else:
                np.testing.assert_allclose(
                    float(row[name]), value, rtol=1e-5, atol=1e-5, err_msg=name
                )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process writes, and says."""
    folder = tmp_path_factory.mktemp("one") / "alone"
    found = invoke(*LINEAR, "--out", folder)
    assert found.exit_code == 0, found.output
    return folder, found.stdout


def test_two_processes_write_once_what_one_writes(alone, tmp_path):
    jobs = pair(tmp_path, *LINEAR)
    folder, expected = alone
    (status, said, waited), (status1, said1, waited1) = ended(jobs)
    assert (status, status1) == (0, 0), (waited, waited1)
    assert said.replace(str(tmp_path / "out0"), str(folder)) == expected
    assert said1 == ""
    assert re.fullmatch(
        r"fairjax: Waiting for process 1 at localhost:\d+, at most 60 s\.\n", waited
    )
    assert "fairjax: Waiting for the other processes at localhost:" in waited1
    assert len(waited1.splitlines()) == 1
    assert not (tmp_path / "out1").exists()
    check_same_results(
        table(tmp_path / "out0"),
        table(folder),
        # Optimality gaps of about 1e-6 are the last steps' rounding.
        apart=("iterations", "gap"),
    )


def free_job():
    """A job of Slurm's, by whose number JAX chooses a port that is free."""
    for job in range(2**12):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("", 2**16 - 2**12 + job))
            return job
    raise OSError("no port is free")


def test_processes_of_slurm_find_one_another(alone, tmp_path):
    """By the variables that it sets."""
    common = {
        "SLURM_JOB_ID": free_job(), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": 2,
    }  # fmt: skip
    jobs = []
    for own in (0, 1):
        cluster = common | {"SLURM_PROCID": own, "SLURM_LOCALID": own}
        where = ["--coordinator", "auto", "--out", tmp_path / f"out{own}"]
        jobs.append(
            start(*LINEAR, *where, cluster={k: str(v) for k, v in cluster.items()})
        )
    for own, (status, said, told) in enumerate(ended(jobs)):
        assert status == 0, told
        assert told == (
            "fairjax: Waiting for the processes that JAX finds, at most 60 s.\n"
        )
        assert (said != "") == (own == 0)
    assert not (tmp_path / "out1").exists()
    apart = ("iterations", "gap")
    check_same_results(table(tmp_path / "out0"), table(alone[0]), apart=apart)


@pytest.mark.parametrize("killed", [0, 1])
def test_the_end_of_a_process_is_told_at_once(killed, tmp_path):
    """In mid-training, long before heartbeats are missed; nothing is half written."""
    kept = tmp_path / "kept"
    jobs = pair(tmp_path, *NETWORK, "--checkpoint", kept, wait=100)
    told, status = kill(jobs, killed, kept)
    ours = r"^fairjax: another process has ended, or no longer answers: .*\n\Z"
    if killed == 1:
        assert status == 2, told
        assert re.search(ours, told, re.M), told
        assert len(told.splitlines()) == 2, told
    else:
        # It served the others: JAX notices as early, and may be first to end them.
        assert status != 0, told
        assert re.search(rf"{ours}|another task died", told, re.M), told
    assert not any((tmp_path / "out0").rglob("*"))


def test_a_line_that_breaks_is_noticed_at_once():
    (mine, theirs), (other, kept) = socket.socketpair(), socket.socketpair()
    noticed = threading.Event()
    with mine, other, kept:
        rendezvous.watch([mine, other], noticed.set)
        assert not noticed.wait(0.2)
        theirs.close()
        assert noticed.wait(5)


LEFT_ALONE = """
import socket, sys, time
from pathlib import Path
from fairjax import _files, _rendezvous, _runtime

mine, theirs = socket.socketpair()
_rendezvous.meet = lambda place: [mine]
_runtime._start = lambda place: None

def write(stream):
    theirs.close()
    time.sleep(0.5)
    stream.write(b"whole")

with _runtime.joined(_rendezvous.Place("localhost", 1, 2, 0, 5.0)):
    _files.write_whole({Path(sys.argv[1]): write})
    time.sleep(60)
"""


@pytest.mark.parametrize("heard", [True, False])
def test_whoever_is_left_alone_finishes_its_files_and_ends(heard, tmp_path):
    """Also where nobody reads what it says."""
    reader, writer = os.pipe()
    if not heard:
        os.close(reader)
    job = subprocess.Popen(
        [sys.executable, "-c", LEFT_ALONE, str(tmp_path / "file")], stderr=writer
    )
    os.close(writer)
    try:
        assert job.wait(30) == 2
    finally:
        job.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"
    if heard:
        with open(reader) as stream:
            told = stream.read()
        assert told.startswith("fairjax: another process has ended")
        assert told.count("\n") == 1


def kill(jobs, killed, kept):
    """Ends one of two once a checkpoint is there; what the other said, and how."""
    try:
        while not sorted(kept.rglob("epochs-*.json")):
            assert jobs[killed].poll() is None, jobs[killed].communicate()
            time.sleep(0.01)
        jobs[killed].send_signal(signal.SIGKILL)
    finally:
        found = ended(jobs, seconds=60)
    assert found[killed][0] == -9
    status, said, told = found[1 - killed]
    assert said == ""
    return told, status


def test_a_killed_process_costs_what_was_not_saved(tmp_path):
    kept = tmp_path / "kept"
    jobs = pair(tmp_path, *NETWORK, "--checkpoint", kept)
    kill(jobs, 1, kept)
    assert not any((tmp_path / "out0").rglob("*"))
    saved = {
        path: path.stat().st_mtime_ns for path in sorted(kept.rglob("epochs-*.json"))
    }
    jobs = pair(tmp_path, *NETWORK, "--checkpoint", kept, "--quiet")
    alone = invoke(*NETWORK, "--out", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    (status, said, told), (status1, _, told1) = ended(jobs)
    assert (status, status1) == (0, 0), (told, told1)
    assert said.count("\n") == 3
    after = {
        path: path.stat().st_mtime_ns for path in sorted(kept.rglob("epochs-*.json"))
    }
    assert saved.items() <= after.items()
    assert len(after) == 20
    check_same_results(table(tmp_path / "out0"), table(tmp_path / "alone"))


def test_processes_with_other_data_are_told(tmp_path):
    rng, others = np.random.default_rng(0), []
    for own in (0, 1):
        rows = [f"{rng.normal():.3f},{i % 2},{i // 2 % 2}" for i in range(80)]
        (tmp_path / f"{own}.csv").write_text("\n".join(["x,y,s", *rows]))
        others.append(["--csv", f"{own}.csv", "--target", "y", "--sensitive", "s"])
    for status, said, told in ended(pair(tmp_path, *LINEAR, others=others)):
        assert status == 2
        assert said == ""
        assert len(told.splitlines()) == 2
        assert "must be the same in all processes, but differ between process 0" in told


def test_the_failure_of_one_process_is_told_by_all(tmp_path):
    (tmp_path / "0.csv").write_text("x,y,s\n" + "1,0,F\n2,1,F\n1,0,M\n2,1,M\n" * 9)
    others = [
        ["--csv", f"{own}.csv", "--target", "y", "--sensitive", "s"] for own in (0, 1)
    ]
    for own, (status, said, told) in enumerate(
        ended(pair(tmp_path, *LINEAR, others=others))
    ):
        assert (status, said) == (2, "")
        assert len(told.splitlines()) == 2
        assert "cannot read '1.csv'" in told
        assert ("process 1 ended: " in told) == (own == 0)
    assert not (tmp_path / "out0").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "h:1"], "`--processes` and `--process-id` are missing"),
        (["--coordinator", "h:1", "--processes", 2], "but `--process-id` is missing"),
        (["--processes", 2, "--process-id", 0], "but `--coordinator` is missing"),
        (["--wait", 3], "`--wait` has no use without `--coordinator`"),
        (["--wait", 0, "--coordinator", "auto"], "`--wait` must be seconds above 0"),
        (
            ["--wait", 1e10, "--coordinator", "auto"],
            "`--wait` must be seconds above 0, at most 604800, a week, but is 1e+10.",
        ),
        (["--coordinator", "auto", "--processes", 2], "by itself. Leave them out"),
    ],
)
def test_options_that_do_not_belong_together(arguments, message, tmp_path):
    check_one_line(invoke(*arguments, "--out", tmp_path / "out"), message)


@pytest.mark.parametrize(
    ("address", "own", "message"),
    [
        ("localhost", 0, "must be HOST:PORT"),
        (":99", 0, "must be HOST:PORT"),
        ("localhost:99999", 0, "must be HOST:PORT"),
        ("localhost:x", 0, "must be HOST:PORT"),
        ("localhost:99", 2, "`--process-id` must be from 0 to 1"),
        ("localhost:99", -1, "`--process-id` must be from 0 to 1"),
    ],
)
def test_addresses_and_numbers_that_cannot_be(address, own, message):
    where = ["--coordinator", address, "--processes", 2, "--process-id", own]
    check_one_line(invoke(*where), message)


def check_one_line(result, message, *, lines=1):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == lines


def test_a_process_that_does_not_come_is_named_within_the_limit(tmp_path):
    begun = time.monotonic()
    where = ["--coordinator", f"localhost:{free_port()}", "--processes", 3]
    where += ["--out", tmp_path / "out", "--wait", 0.5]
    first = invoke(*where, "--process-id", 0)
    check_one_line(first, "processes 1, 2 did not come to localhost:", lines=2)
    assert "Waiting for processes 1, 2 at localhost:" in first.stderr
    other = invoke(*where, "--process-id", 2)
    check_one_line(other, "process 0 was not to be reached at localhost:", lines=2)
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_is_told():
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        where = ["--coordinator", address, "--processes", 2, "--process-id", 0]
        result = invoke(*where, "--wait", 5)
    check_one_line(result, "cannot be used here: Address already in use")


def hang_up(lines):
    for line in lines:
        line.close()


def meet(*places):
    """What each process is told when they meet; nothing where it goes on."""
    told = ["" for _ in places]

    def go(number):
        try:
            hang_up(rendezvous.meet(places[number]))
        except (OSError, ValueError) as error:
            told[number] = str(error)

    threads = [threading.Thread(target=go, args=[i]) for i in range(len(places))]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return told


def test_processes_meet_and_strangers_do_not_matter(capsys):
    port = free_port()
    place = rendezvous.Place("localhost", port, 3, 0, 20.0)

    def knock():
        time.sleep(0.3)
        for words in (b"GET / HTTP/1.1\n", b"fairjax 3 x\n", b"fairjax 3 -1\n", b""):
            with socket.create_connection(("localhost", port)) as line:
                line.sendall(words)

    stranger = threading.Thread(target=knock)
    stranger.start()

    # The second one comes after the stranger.
    def late():
        time.sleep(0.8)
        hang_up(rendezvous.meet(place._replace(own=2)))

    last = threading.Thread(target=late)
    last.start()
    assert meet(place, place._replace(own=1)) == ["", ""]
    stranger.join()
    last.join()
    assert "Waiting for processes 1, 2 at localhost" in capsys.readouterr().err


def test_processes_that_were_started_differently_are_told():
    place = rendezvous.Place("localhost", free_port(), 2, 0, 5.0)
    told = meet(place, place._replace(processes=3, own=1))
    assert told[0] == told[1]
    assert "is 2 in process 0 and 3 in process 1" in told[0]
    place = rendezvous.Place("localhost", free_port(), 3, 0, 5.0)
    told = meet(place, place._replace(own=1), place._replace(own=1))
    assert told[0] == told[1] == told[2]
    assert "another one in each process, but 1 is there twice" in told[0]


def two_devices():
    return jax.make_mesh((2,), ("points",), devices=jax.devices()[:2])


def check_frontier(found, expected):
    for name in found._fields:
        if name not in ("iterations", "gap"):
            trees = jax.tree.map(
                np.asarray, (getattr(found, name), getattr(expected, name))
            )
            chex.assert_trees_all_close(*trees, rtol=2e-5, atol=2e-5)
            chex.assert_trees_all_equal_dtypes(*trees)


@pytest.mark.parametrize("model", ["linear", "kernel", "network"])
def test_devices_and_directories_change_no_number(model, tmp_path):
    data = datasets.toy(n=80)
    options = {"notion": notions.demographic_parity}
    if model == "network":
        options |= {"on_scores": penalties.mean_gap_info, "epochs": 2, "widths": [3]}
    else:
        options |= {"ridges": [1e-2], "n_folds": 2}
    trace = getattr(frontiers, model)
    expected = trace(data, strengths=[0.0, 0.5, 1.0], **options)
    options |= {"mesh": two_devices(), "checkpoint": tmp_path}
    found = trace(data, strengths=[0.0, 0.5, 1.0], **options)
    check_frontier(found, expected)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = trace(data, strengths=[0.0, 0.5, 1.0], **options)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="`checkpoint` .* holds another"):
        trace(data, strengths=[0.0, 0.25, 1.0], **options)
    if model == "network":
        other = options | {"learning_rate": 0.1}
        with pytest.raises(ValueError, match="holds another sweep: .*tag is"):
            trace(data, strengths=[0.0, 0.5, 1.0], **other)
    with pytest.raises(ValueError, match="must be at least as many as the 2 devices"):
        trace(data, strengths=[0.0], **options)


def test_a_checkpoint_of_another_grid_is_told(tmp_path):
    few = ["--folds", "0", "--notion", "equal-opportunity", "--loss", "squared"]
    few += ["--checkpoint", tmp_path / "kept", "--out", tmp_path / "out"]
    assert invoke(*few, "--strengths", "0,1").exit_code == 0
    result = invoke(*few, "--strengths", "0,1,1.5")
    check_one_line(result, "holds another sweep: ")


def test_programs_are_kept_where_the_user_keeps_such_things(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache.programs_kept(True):
        # The user's own directory comes first.
        assert jax.config.jax_compilation_cache_dir == before
    with compilation_cache.programs_kept(False):
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        with compilation_cache.programs_kept(True), warnings.catch_warnings():
            warnings.simplefilter("error")
            inside = jax.config.jax_compilation_cache_dir
        assert jax.config.jax_compilation_cache_dir is None
        (tmp_path / "file").touch()
        monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "file" / name)
        with compilation_cache.programs_kept(True):
            assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    if jax.__version_info__ < (0, 11):
        assert inside is None
    else:
        assert inside.startswith(str(tmp_path / "fairjax" / "programs"))
