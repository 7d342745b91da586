"""`fairjax sweep --scheduler`: points on the workers of Dask, real processes all."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import distributed
import numpy as np
import pytest

MAIN = "import sys; from fairjax.cli import main; sys.argv[0] = 'fairjax'; main()"
LINEAR = ["--strengths", "0:2:7", "--folds", "4", "--notion", "equal-opportunity"]
KERNEL = ["--model", "kernel-svm", "--rows", "200", "--strengths", "0:1:4"]
KERNEL += ["--folds", "2", "--notion", "equal-opportunity"]
NETWORK = ["--model", "mlp", "--widths", "4", "--epochs", "40", "--penalty", "mean-gap"]
NETWORK += ["--strengths", "0,1,10", "--notion", "demographic-parity"]
MODELS = {"linear": LINEAR, "kernel": KERNEL, "network": NETWORK}


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def sweep(*words):
    return start("-c", MAIN, "sweep", *words, "--no-compilation-cache", "--quiet")


def ended(job, seconds=300):
    """Status, output and errors of a command, within the time."""
    try:
        said, told = job.communicate(timeout=seconds)
    finally:
        job.kill()
    return job.returncode, said, told


def soon(found, seconds=60):
    """What a function finds, once it finds anything."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing was found in time"
        time.sleep(0.01)
    return value


class Cluster:
    """A scheduler and two workers, by whose names their processes are known."""

    def __init__(self, folder):
        self.jobs = []
        place = folder / "scheduler.json"
        self.scheduler = self.run(
            folder, "scheduler", "--host", "127.0.0.1", "--port", 0,
            "--no-dashboard", "--scheduler-file", place,
        )  # fmt: skip

        def address():
            # The file is there before it is whole.
            text = place.read_text() if place.exists() else ""
            return json.loads(text)["address"] if text.rstrip().endswith("}") else ""

        self.address = soon(address)
        # Without a nanny, which would start a worker that was killed again.
        self.workers = {
            name: self.run(
                folder, "worker", self.address, "--name", name, "--nthreads", 1,
                "--no-nanny", "--no-dashboard",
            )
            for name in ("first", "second")
        }  # fmt: skip

    def run(self, folder, *words):
        log = (folder / f"{words[0]}-{len(self.jobs)}.log").open("w")
        with log:
            job = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, words)],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.jobs.append(job)
        return job

    def busy(self, client):
        """Names of the workers that have something to do."""
        names = {
            address: worker["name"]
            for address, worker in client.scheduler_info()["workers"].items()
        }
        return [names[a] for a, tasks in client.processing().items() if tasks]


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = None
    try:
        made = Cluster(folder)
        yield made
    finally:
        for job in made.jobs if made else ():
            job.kill()
            job.wait()


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


def table(folder):
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def check_same_results(one, other, *, apart):
    """Equal texts, and numbers up to the rounding of batches of another size."""
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


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_killed_in_mid_sweep_changes_nothing(model, cluster, client, tmp_path):
    options, out, alone = MODELS[model], tmp_path / "out", tmp_path / "alone"
    job = sweep(*options, "--scheduler", cluster.address, "--out", out)

    def victim():
        assert job.poll() is None, job.communicate()
        return cluster.busy(client)

    killed = cluster.workers[soon(victim, seconds=120)[0]]
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    assert job.poll() is None, "the sweep had ended before"
    status, said, told = ended(job)
    assert (status, told) == (0, "")
    assert said.startswith("Selected strength")
    assert said.splitlines()[-1].startswith("Wrote results.csv")
    status, expected, told = ended(sweep(*options, "--out", alone))
    assert (status, told) == (0, "")
    assert said.replace(str(out), str(alone)) == expected
    # Optimality gaps of about 1e-6 are the last steps' rounding.
    check_same_results(table(out), table(alone), apart=("iterations", "gap"))


def test_double_precision_reaches_the_workers(cluster, client, tmp_path):
    out = tmp_path / "out"
    job = sweep(*LINEAR, "--float64", "--scheduler", cluster.address, "--out", out)
    status, _, told = ended(job)
    assert (status, told) == (0, "")
    assert all(float(row["gap"]) <= 1e-10 for row in table(out))


def test_finished_batches_are_kept_for_a_later_run(cluster, client, tmp_path):
    kept, out = tmp_path / "kept", tmp_path / "out"
    options = [*NETWORK, "--checkpoint", kept, "--out", out]
    assert ended(sweep(*options, "--scheduler", cluster.address))[0] == 0
    saved = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    first = (out / "results.csv").read_text()
    assert saved
    assert ended(sweep(*options, "--scheduler", cluster.address))[0] == 0
    assert saved == {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    assert (out / "results.csv").read_text() == first


def test_the_end_of_the_scheduler_is_told_in_one_line(cluster, client, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("older")
    job = sweep(*NETWORK, "--scheduler", cluster.address, "--out", out)

    def working():
        assert job.poll() is None, job.communicate()
        return cluster.busy(client)

    soon(working, seconds=120)
    client.close()
    cluster.scheduler.send_signal(signal.SIGKILL)
    status, said, told = ended(job, seconds=120)
    assert (status, said) == (2, "")
    assert told.splitlines()[-1].startswith("fairjax: ")
    assert "`--checkpoint`" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert (out / "results.csv").read_text() == "older"


def test_a_scheduler_that_is_not_there_is_one_line_in_ten_seconds(tmp_path):
    begun = time.monotonic()
    out = tmp_path / "out"
    status, said, told = ended(
        sweep("--scheduler", "tcp://127.0.0.1:1", "--out", out), seconds=60
    )
    # To start and to import takes its time on a busy machine.
    assert time.monotonic() - begun < 10 + 20
    assert (status, said) == (2, "")
    assert told.startswith("fairjax: no Dask scheduler answered at `--scheduler`")
    assert len(told.splitlines()) == 1
    assert os.listdir(tmp_path) == []
