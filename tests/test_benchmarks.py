"""The benchmark runner; the benchmarks themselves are run by `.ci/run`, small."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib.image
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of this checkout's benchmarks, whatever else has that name."""
    if "benchmarks" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "benchmarks",
            PACKAGE / "__init__.py",
            submodule_search_locations=[str(PACKAGE)],
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmarks"])
    return importlib.import_module(f"benchmarks.{name}")


picture, records, report, runner = map(load, ("picture", "records", "report", "runner"))

CEILINGS = {
    "float32 product": {"rate": 1e9, "unit": "operations/s", "size": 64},
    "copy": {"rate": 1e8, "unit": "bytes/s", "size": 64},
}
RATES = {name: ceiling["rate"] for name, ceiling in CEILINGS.items()}
DEVICE = {"kind": "cpu", "platform": "cpu", "count": 1, "cores": 2}


def record(alternative="fairjax", size=100, median=0.5, **rest):
    laps = {"fastest": median / 2, "slowest": median * 2, "repeats": 3}
    place = {"benchmark": "toy", "case": "d = 2", "size": size, "unit": "rows"}
    given = {"first": 2.0, "median": median, "alternative": alternative}
    return records.Record(**place | given | laps | rest)


def script(folder, name, body):
    """A benchmark that needs no JAX and says on standard output what `body` prints."""
    path = folder / f"{name}.py"
    path.write_text(f"import os, signal, sys\n{body}\n", encoding="utf-8")
    return path


def yielding(folder, name, *found):
    lines = "\n".join(f"print({records.to_json(r)!r}, flush=True)" for r in found)
    return script(folder, name, lines)


@pytest.fixture
def ceilings(tmp_path):
    content = {"device": DEVICE, "precision": {"x64": False}, "ceilings": CEILINGS}
    return script(tmp_path, "ceilings", f"print({json.dumps(content)!r})")


def strict(path):
    """The content of a JSON file that holds no NaN and no Infinity."""

    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ({"operations": 1e8}, 0.1 / 0.5),
        ({"traffic": 2e7}, 0.2 / 0.5),
        # The scarcer resource decides.
        ({"operations": 1e8, "traffic": 2e7}, 0.2 / 0.5),
        ({"operations": 4e8, "traffic": 2e7}, 0.4 / 0.5),
        ({}, None),
        ({"operations": 1e8, "precision": "float64"}, None),
        ({"operations": 1e8, "host": True}, 0.1 / 0.5),
    ],
)
def test_share_of_the_ceiling(amounts, expected):
    found = records.share(record(**amounts), RATES, platform="cpu")
    assert found == (None if expected is None else pytest.approx(expected))


def test_what_stays_on_the_host_has_no_share_of_another_device():
    busy = record("torch", operations=1e8, host=True)
    assert records.share(busy, RATES, platform="gpu") is None
    ours = busy._replace(host=False)
    assert records.share(ours, RATES, platform="gpu") == pytest.approx(0.2)


def test_times_ours_compares_at_the_same_case_and_size():
    found = [
        record(median=0.5),
        record("torch", median=1.5),
        record("torch", size=200, median=9.0),
        record("fairjax, other", median=0.25),
    ]
    assert records.times_ours(found) == [1.0, 3.0, None, 0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_words(value):
    text = records.to_json(record(error=value, notes={"gap": value, "text": "x"}))
    again = records.from_json(text)
    assert str(again.error) == str(value)
    assert again.notes == {"gap": str(value), "text": "x"}
    assert f"{value}" in records.line(again)
    found = json.loads(text, parse_constant=lambda token: pytest.fail(token))
    assert found["error"] == str(value)


def test_memory_that_nobody_can_say_is_none():
    assert records.from_json(records.to_json(record(memory=math.nan))).memory is None


@pytest.mark.parametrize(
    ("smoke", "own", "expected"),
    [(True, None, "1"), (True, "0", "0"), (False, None, "unset")],
)
def test_only_smoke_runs_are_compiled_in_a_hurry(
    smoke, own, expected, tmp_path, monkeypatch
):
    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(name, own)
    told = script(tmp_path, "told", f"print(os.environ.get({name!r}, 'unset'))")
    seen = []
    assert not runner.ask(told, smoke=smoke, take=lambda t: seen.append(t) or True)
    assert seen == [f"{expected}\n"]


def test_a_record_survives_its_line():
    given = record(memory=1.5, operations=3e9, notes={"points": 4})
    assert records.from_json(records.to_json(given)) == given
    for other in ("", "3", "[]", "{}", "warming up", '{"benchmark": "toy"}'):
        assert records.from_json(other) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (123.4, "123"),
        (4.2e-5, "4.2e-05"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert records.number(value) == text


def test_table_holds_every_record_and_its_share():
    about = {
        "started": "2026-01-01T00:00:00+00:00",
        "finished": None,
        "smoke": False,
        "load": 0.5,
        "versions": {"jax": "1.2.3"},
        "device": DEVICE,
        "precision": {"x64": False},
    }
    found = [
        record(operations=1e8, error=1e-6, error_is="relative to float64"),
        record("a|b", median=1.0, error=1e-3, error_is="relative to float64"),
        record("c", median=1.0, error=math.nan, error_is="relative to float64"),
    ]
    text = report.table(about, CEILINGS, found, {"other": "ended with status 3"})
    rows = [line for line in text.splitlines() if line.startswith("| d = 2")]
    assert rows == [
        "| d = 2 | 100 rows | fairjax | 2.00 | 0.500 | 0.250 to 1.00 | 3 | 1.00 | 20 % "
        "|  | 1.0e-06 |",
        "| d = 2 | 100 rows | a\\|b | 2.00 | 1.00 | 0.500 to 2.00 | 3 | 2.00 |  "
        "|  | 1.0e-03 |",
        "| d = 2 | 100 rows | c | 2.00 | 1.00 | 0.500 to 2.00 | 3 | 2.00 |  |  | nan |",
    ]
    for part in (
        "jax 1.2.3",
        "(not finished)",
        "1e+09",
        "error of fairjax, a|b, c: relative to float64",
        "- other ended with status 3",
    ):
        assert part in text


def test_picture_has_a_panel_for_each_case_with_alternatives():
    found = [
        record(operations=1e8),
        record(size=400, median=4.0, operations=4e8),
        record("torch", median=1.5),
        record(case="alone"),
        record(benchmark="single", case="only"),
    ]
    assert list(picture.panels(found)) == [("toy", "d = 2"), ("single", "only")]
    figure = picture.draw(found, RATES, platform="cpu")
    panel = figure.axes[0]
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert sorted(names) == ["ceiling of the device", "fairjax", "torch"]
    limit = next(
        drawn
        for drawn in panel.get_lines()
        if drawn.get_label() == "ceiling of the device"
    )
    assert limit.get_xdata().tolist() == [100, 400]
    assert limit.get_ydata().tolist() == pytest.approx([0.1, 0.4])
    assert panel.get_xscale() == panel.get_yscale() == "log"


def test_in_grey_no_two_alternatives_of_a_panel_look_alike():
    looks = [
        (marker, str(line), filled)
        for styles, filled in ((picture.OURS, True), (picture.OTHERS, False))
        for marker, line, _ in styles
    ]
    assert len({marker for marker, _, _ in looks}) == len(looks)


def test_a_failure_does_not_sink_the_others(tmp_path, ceilings, capfd):
    chosen = {
        "fails": script(tmp_path, "fails", "sys.exit('no data')"),
        "killed": script(
            tmp_path,
            "killed",
            f"print({records.to_json(record(benchmark='killed'))!r}, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
        ),
        "silent": script(tmp_path, "silent", "print('hello')"),
        "timeless": yielding(tmp_path, "timeless", record(median=math.nan)),
        "good": yielding(
            tmp_path, "good", record(operations=1e8), record("torch", error=math.nan)
        ),
    }
    folder, run = runner.run_all(
        chosen, smoke=True, output=tmp_path / "out", ceilings=ceilings
    )
    assert run.failures == {
        "fails": "ended with status 1",
        "killed": "killed by signal 9",
        "silent": "yielded no record",
        "timeless": "has no seconds for fairjax, d = 2: 2.0, nan, nan, nan",
    }
    content = strict(folder / "run.json")
    assert content["failures"] == run.failures
    assert content["device"] == DEVICE
    assert content["ceilings"] == CEILINGS
    assert content["finished"] >= content["started"]
    assert content["smoke"] is True
    assert {"python", "fairjax", "jax", "jaxlib", "numpy"} <= set(content["versions"])
    names = [(r["benchmark"], r["alternative"]) for r in content["records"]]
    assert names == [("killed", "fairjax"), ("toy", "fairjax"), ("toy", "torch")]
    assert content["records"][1]["share"] == pytest.approx(0.2)
    assert content["records"][2]["share"] is None
    assert content["records"][2]["error"] == "nan"
    assert "## toy" in (folder / "table.md").read_text(encoding="utf-8")
    assert matplotlib.image.imread(folder / "seconds.png").std() > 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "run.json",
        "seconds.png",
        "table.md",
    ]
    printed = capfd.readouterr()
    assert "hello" in printed.out
    assert "no data" in printed.err


def test_files_are_there_after_each_benchmark(tmp_path, ceilings):
    """The second script reads what the first one left."""
    folder = tmp_path / "out"
    body = (
        "import json\n"
        f"found = json.load(open({str(folder / 'run.json')!r}))\n"
        "ok = len(found['records']) == 1 and found['finished'] is None\n"
        f"assert ok and os.path.exists({str(folder / 'seconds.png')!r})\n"
        f"print({records.to_json(record(benchmark='second'))!r})"
    )
    chosen = {
        "first": yielding(tmp_path, "first", record()),
        "second": script(tmp_path, "second", body),
    }
    _, run = runner.run_all(chosen, output=folder, ceilings=ceilings)
    assert run.failures == {}
    assert len(run.records) == 2


def test_a_stopped_run_keeps_what_it_had(tmp_path, ceilings, monkeypatch):
    chosen = {"endless": yielding(tmp_path, "endless", record(), record("torch"))}
    count = 0

    def stop(_):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(runner, "line", stop)
    with pytest.raises(KeyboardInterrupt):
        runner.run_all(chosen, output=tmp_path / "out", ceilings=ceilings)
    content = strict(tmp_path / "out" / "run.json")
    assert len(content["records"]) == 1
    assert content["finished"] is None
    assert content["failures"] == {"endless": "was stopped"}


def test_without_ceilings_records_are_kept_and_it_is_told(tmp_path):
    broken = script(tmp_path, "ceilings", "sys.exit(1)")
    chosen = {"good": yielding(tmp_path, "good", record(operations=1e8))}
    folder, run = runner.run_all(chosen, output=tmp_path / "out", ceilings=broken)
    assert run.failures == {"ceilings": "ended with status 1"}
    content = strict(folder / "run.json")
    assert content["records"][0]["share"] is None
    assert content["device"]["platform"] == "unknown"


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    status = runner.main([], smoke=True, output=tmp_path / "taken")
    told = capsys.readouterr()
    assert status == 2
    assert "taken" in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_a_pass_over_a_stream_lasts_until_the_next_one(monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(str(PACKAGE))
    script = importlib.import_module("streamed_sweep")
    now = [0.0]

    def passes(stream, **options):
        for work in (1, 10, 100):
            assert list(stream) == ["chunk"]
            now[0] += work

    for module in (script.orthogonality, script.solvers):
        for name in ("directions_stream", "fit_linear_stream"):
            monkeypatch.setattr(module, name, passes, raising=False)
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Stream(list):
        n_groups = 2

    _, laps = script.swept(Stream(["chunk"]), 2, ridge=0.1)
    # The first pass looks at the values only.
    assert laps == [10.0, 100.0]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_unknown_names_are_told_in_one_line_with_those_there_are():
    done = command("mmd", "mmmd")
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    for name in ("'mmmd'", *runner.scripts()):
        assert name in done.stderr


def test_list_names_every_script_and_its_question():
    done = command("--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == sorted(
        runner.scripts()
    )
    assert all(line.endswith("?") for line in done.stdout.splitlines())


def test_no_script_is_forgotten():
    """What can be run by itself is run by the runner."""
    alone = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert alone - {"__main__", "ceilings"} == set(runner.scripts())


def test_ceilings_are_measured():
    done = subprocess.run(
        [sys.executable, str(PACKAGE / "ceilings.py"), "--smoke", "--json"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found) == {"device", "precision", "ceilings"}
    assert found["device"]["platform"] == "cpu"
    assert set(found["ceilings"]) == {"float32 product", "float64 product", "copy"}
    for ceiling in found["ceilings"].values():
        assert math.isfinite(ceiling["rate"])
        # Any machine that runs JAX does a hundred million of either.
        assert ceiling["rate"] > 1e8
