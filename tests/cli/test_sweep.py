import csv
import os
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import cli, datasets, frontiers
from fairjax.cli import guarantee, sweep, terminal
from fairjax.plots import canvas

SMALL = ["--strengths", "0,1,1.5", "--folds", "2", "--notion", "equal-opportunity"]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["sweep", *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "new" / "out"
    return invoke(*SMALL, "--notion", "demographic-parity", "--out", out), out


@pytest.fixture
def loans(tmp_path):
    """A file whose names are hostile to markup, Markdown, formulas and mathtext."""
    path = tmp_path / "=loans $x$.csv"
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, delimiter=";")
        rows.writerow(["income [k]", "sex|[red]", "city", "repaid"])
        for i in range(240):
            sex, income = i % 2, rng.normal()
            repaid = ["no", "yes"][int(income + sex + rng.normal() > 0.5)]
            rows.writerow(
                [f"{income:.3f}", ["[/b]F", "$M$"][sex], "ABC"[i % 3], repaid]
            )
    return path


def test_toy_writes_all_and_says_what_it_found(done):
    result, out = done
    assert result.exit_code == 0, result.output
    assert sorted(contents(out)) == ["frontier.png", "report.md", "results.csv"]
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "toy: 1,600 training and 1,600 test rows" in result.stdout
    sentence = re.search(
        r"Selected strength ([\d.]+): test accuracy ([\d.]+) \(without fairness "
        r"([\d.]+)\), difference of equal opportunity ([\d.]+) \(without fairness "
        r"([\d.]+)\)\.",
        result.stdout,
    )
    assert sentence
    with (out / "results.csv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["notion"] == "equal-opportunity"]
    assert len(rows) == 3
    (chosen,) = (row for row in rows if row["selected"] == "1")
    (free,) = (row for row in rows if row["unconstrained"] == "1")
    numbers = [
        chosen["strength"],
        chosen["test_accuracy"],
        free["test_accuracy"],
        chosen["test_unfairness"],
        free["test_unfairness"],
    ]
    for said, stored in zip(sentence.groups(), numbers, strict=True):
        assert float(said) == pytest.approx(float(stored), abs=6e-4)
    report = (out / "report.md").read_text()
    assert sentence[0] in report
    assert "![accuracy against unfairness](frontier.png)" in report


def test_it_says_what_the_data_can_tell(done):
    result, out = done
    said = re.search(
        r"of the selected point lies between ([\d.]+) and ([\d.]+), without fairness "
        r"between ([\d.]+) and ([\d.]+) \(95% confidence for each\)\.(.*?) The least "
        r"is known of (group \w+ with label 1): with its (\d+) test samples the gap is "
        r"known to \+-([\d.]+)\.",
        result.stdout,
    )
    assert said, result.stdout
    toy = datasets.toy()
    test = toy.test
    counts = [int(((test.labels == 1) & (test.groups == g)).sum()) for g in (0, 1)]
    assert int(said[7]) == min(counts)
    assert said[6].split()[1] == toy.group_names[int(np.argmin(counts))]
    low, high, free_low, free_high = map(float, said.groups()[:4])
    assert 0 <= low < high < free_high
    assert ("cannot tell it from 0" in said[5]) == (low == 0)
    assert ("The two overlap" in said[5]) == (high >= free_low)
    with (out / "results.csv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["notion"] == "equal-opportunity"]
    seen = [float(r["test_unfairness"]) for r in rows if r["selected"] == "1"][0]
    assert low <= seen <= high
    np.testing.assert_allclose(float(said[8]), max(high - seen, seen - low), atol=2e-3)
    report = (out / "report.md").read_text()
    assert "true gap, 95%" in report
    assert f"{low:.3f}-{high:.3f}" in report


def test_table_has_few_rows_and_marks_the_selected_one(tmp_path):
    result = invoke("--folds", "2", "--notion", "demographic-parity", "--out", tmp_path)
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert 5 <= len(rows) <= 20
    assert sum("*" in row for row in rows) == 1
    assert sum(" o" in row or "o " in row for row in rows) == 1
    assert max(map(len, rows)) <= 80


def test_quiet_prints_only_sentences(tmp_path):
    result = invoke(*SMALL, "--quiet", "--out", tmp_path / "out")
    selected, true, wrote = result.stdout.splitlines()
    assert selected.startswith("Selected strength")
    assert true.startswith("The true difference of equal opportunity")
    assert wrote.startswith("Wrote")


def test_csv_of_ones_own_with_hostile_names(loans, tmp_path):
    result = invoke(
        *SMALL, "--csv", loans, "--sep", ";", "--target", "repaid", "--positive", "yes",
        "--sensitive", "sex|[red]", "--seeds", "0,3", "--ridges", "1e-3,1e-2",
        "--favourable", "pays *back*", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Groups: $M$, [/b]F" in result.stdout
    assert "+-" in result.stdout
    assert "Warning: the test part has only" in result.stdout
    # Means over seeds have no limits.
    assert "confidence" not in result.stdout
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 3
    assert {row["seed"] for row in rows} == {"0", "3"}
    assert {row["dataset"] for row in rows} == {"'=loans $x$"}
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[0] in "=+@"]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert r"\[/b\]F" in report
    assert "true gap" not in report
    assert r"pays \*back\*" in report


@pytest.mark.parametrize("method", ["penalty", "projection", "elimination"])
def test_methods_have_their_own_strengths(method, tmp_path):
    strengths = ["--strengths", "0,1"] if method == "penalty" else []
    result = invoke(
        "--method", method, *strengths, "--folds", "0", "--loss", "squared",
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 2


def test_float64_is_for_this_run_only(tmp_path):
    import jax

    result = invoke(*SMALL, "--float64", "--folds", "0", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert not jax.config.jax_enable_x64
    with (tmp_path / "results.csv").open(newline="") as stream:
        assert all(float(row["gap"]) <= 1e-10 for row in csv.DictReader(stream))


BAD = [
    (["--dataset", "adlt"], "Did you mean adult?"),
    (["--loss", "log"], "`--loss` must be one of logistic, hinge"),
    (["--method", "x"], "`--method` must be one of"),
    (["--notion", "equal-oportunity"], "Did you mean equal-opportunity?"),
    (["--strengths", "a"], "`--strengths` must be numbers"),
    (["--strengths", "0:1:0"], "`--strengths` must be numbers"),
    (["--strengths", "-1"], "`--strengths` must be at least 0"),
    (["--strengths", "nan"], "must be finite"),
    (["--ridges", "0"], "`--ridges` must be above 0"),
    (["--seeds", "0.5"], "`--seeds` must be how many"),
    (["--seeds", "0"], "`--seeds` must be how many"),
    (["--folds", "1"], "`--folds` must be at least 2"),
    (["--folds", "3000"], "`--folds` must be an integer of at least 2 and at"),
    (["--method", "projection", "--strengths", "0.5"], "pre-processing method"),
    (["--sensitive", "x1"], "`--sensitive` has no use with `--dataset toy`"),
    (["--without-sensitive"], "`--without-sensitive` has no use"),
    (["--target", "x1"], "`--target` has no use with `--dataset toy`"),
    (["--model", "mlp", "--widths", "inf"], "`--widths` must be whole numbers from 1"),
    (["--model", "mlp", "--widths", "nan"], "`--widths` must be whole numbers from 1"),
    (["--model", "mlp", "--widths", "1e18"], "`--widths` must be whole numbers from 1"),
    (["--ridges", "1e60"], "Rescale it, or set `--float64`"),
    (["--sep", ";"], "`--sep` has no use with `--dataset toy`"),
    (
        ["--dataset", "adult", "--target", "income", "--target", "occupation"],
        "several `--target` make tasks of the same rows, which needs `--model shared`",
    ),
    (["--dataset", "adult", "--data-dir", "no/such"], "is not a folder with"),
    (["--csv", "no.csv", "--target", "a", "--sensitive", "b"], "cannot read 'no.csv'"),
    (["--csv", "no.csv"], "`--csv` needs `--target COLUMN`"),
    (["--csv", "no.csv", "--dataset", "toy"], "not both"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_options_get_one_line_and_status_2(arguments, message, tmp_path):
    result = invoke(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fairjax: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", [], "different column names"),
        ("a,s,y\n", [], "has no rows"),
        ("a,s,y\n1,F,0\n2,M\n", [], "line 3 has 2 entries"),
        ("a,s,y\n" + "1,F,1\n2,M,1\n" * 9, [], "nothing to learn"),
        ("a,s,y\n" + "1,F,0\n2,F,1\n" * 9, [], "at least two groups"),
        ("a,s,y\n" + "1,F,0\n2,M,1\n" * 9, [], "group 0 has no member"),
        ("a,s,y\n" + "1,F,0\n2,M,1\n" * 9, ["--target", "yy"], "Nearest: 'y'"),
        ("a,s,y\n" + "1,F,0\n2,M,1\n" * 9, ["--target", "s"], "both name 's'"),
        ("a,s,y\n" + "1,F,no\n2,M,yes\n" * 9, [], "`--positive` must name"),
        ("a,s,y\n" + "inf,F,0\n2,M,1\n" * 9, [], "must hold finite numbers"),
        ("a,s,y\n" + ",F,0\n2,M,1\n" * 9, [], "pass `--drop-missing` if entries"),
        ("a;s;y\n", ["--sep", ";;"], "`--sep` must be one character"),
        ("a;s;y\n", ["--sep", ""], "`--sep` must be one character"),
        ("a;s;y\n", ["--encoding", "utf-99"], "unknown encoding: utf-99"),
        ("a,s,y\n" + "1,F,0\n2,M,1\n3,F,1\n" * 1, [], "all 3 rows"),
    ],
)
def test_bad_tables_get_one_line_and_status_2(text, options, message, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(text)
    target = [] if "--target" in options else ["--target", "y"]
    result = invoke(
        "--csv", path, *target, "--sensitive", "s", *options, "--out", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_arguments_of_the_package_become_options():
    told = "Pass `n_folds=0` or `drop_missing=True`: `target` = 'target', not `keep=1`."
    assert terminal.as_options(told) == (
        "Pass `--folds 0` or `--drop-missing`: `--target` = 'target', not `keep=1`."
    )


def test_altered_file_is_refused(tmp_path):
    for name in ("adult.data", "adult.test"):
        (tmp_path / name).write_text("altered")
    result = invoke("--dataset", "adult", "--data-dir", tmp_path, "--out", tmp_path)
    assert result.exit_code == 2
    assert "SHA-256" in result.stderr


def test_unwritable_output_is_found_before_the_work(tmp_path, monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("work began")

    monkeypatch.setattr(frontiers, "linear", work)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "taken" / "results.csv").mkdir(parents=True)
    for out in (tmp_path / "file", tmp_path / "file" / "deep", tmp_path / "taken"):
        result = invoke(*SMALL, "--out", out)
        assert result.exit_code == 2
        assert re.fullmatch(
            r"fairjax: `--out` .* cannot be written: .*\n", result.stderr
        )
    assert (tmp_path / "file").read_text() == "kept"


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(sweep, "CONNECT", 0.5)
    out = tmp_path / "out"
    result = invoke(*SMALL, "--scheduler", "tcp://127.0.0.1:1", "--out", out)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(
        r"fairjax: no Dask scheduler answered at `--scheduler` 'tcp://127.0.0.1:1' "
        r"within 0.5 s: .*\n",
        result.stderr,
    )
    assert not out.exists()


@pytest.mark.parametrize("address", ["", "host", "localhost:99999", "http://host:1"])
def test_an_address_that_cannot_be_one_is_refused(address, tmp_path):
    result = invoke("--scheduler", address, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("fairjax: `--scheduler` must be HOST:PORT")
    assert len(result.stderr.splitlines()) == 1


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = invoke("--scheduler", "localhost:8786", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == (
        "fairjax: `--scheduler` needs distributed: install it with `pip install "
        '"fairjax[cluster]"`.\n'
    )


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_run_leaves_older_output_as_it_was(
    done, error, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    out.mkdir()
    for name, data in contents(done[1]).items():
        (out / name).write_bytes(data)

    def fail(*arguments, **options):
        raise error

    # The picture is written last, when the other two are already complete.
    monkeypatch.setattr(canvas, "write", fail)
    before = contents(out)
    result = invoke(*SMALL, "--out", out)
    assert result.exit_code != 0
    assert contents(out) == before


def test_public_data(tmp_path):
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    result = invoke(
        *SMALL, "--dataset", "compas", "--without-sensitive", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    assert "compas: " in result.stdout


def test_a_guarantee_is_kept_or_refused_with_the_reason(tmp_path):
    """On rows set aside: the models have not seen them, nor has the selection."""
    results, said = {}, {}
    for limit in ("0.25", "0.02"):
        out = tmp_path / limit
        result = invoke(*SMALL, "--guarantee", limit, "--out", out)
        assert result.exit_code == 0, result.output
        with (out / "results.csv").open(newline="") as stream:
            results[limit] = list(csv.DictReader(stream))
        said[limit] = result.stdout
        report = (out / "report.md").read_text()
        assert "480 further training rows were set aside" in report
        assert f"above {limit} with a probability of at most 5 %." in report
    assert "1,120 training and 1,600 test rows" in said["0.25"]
    (chosen,) = (row for row in results["0.25"] if row["selected"] == "1")
    assert chosen["safety_tested"] == chosen["safety_passed"] == "1"
    assert float(chosen["safety_unfairness"]) < float(chosen["safety_high"]) <= 0.25
    passed = [row for row in results["0.25"] if row["safety_passed"] == "1"]
    assert chosen["cv_accuracy"] == max(row["cv_accuracy"] for row in passed)
    assert "Equal opportunity: Point" in said["0.25"]
    assert "Selected strength" in said["0.25"]
    for row, other in zip(*results.values(), strict=True):
        assert row["safety_high"] == other["safety_high"]
        assert other["selected"] == other["safety_passed"] == "0"
    assert "Equal opportunity: No point can be promised" in said["0.02"]
    assert "Selected strength" not in said["0.02"]
    assert "* selected" not in said["0.02"]


def test_the_safety_set_leaves_no_trace_in_the_features():
    rng = np.random.default_rng(0)
    data = datasets.toy(n=200)
    kinds = rng.integers(3, size=(400, 1)) == np.arange(3)
    features = np.concatenate([data.features, kinds], axis=1).astype(np.float32)
    data = data._replace(features=features)
    learn, safety = guarantee.set_aside(data, 3)
    # Whatever scale the numbers had, they get that of the rows that are learned from.
    moved = data._replace(features=features * [2, 5, 1, 1, 1] + [9, -1, 0, 0, 0])
    again, other = guarantee.set_aside(moved, 3)
    np.testing.assert_allclose(again.features, learn.features, atol=1e-5)
    np.testing.assert_allclose(other.features, safety.features, atol=1e-5)
    np.testing.assert_allclose(learn.train.features[:, :2].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(learn.train.features[:, :2].std(0), 1, atol=1e-6)
    assert len(safety.labels) == 60
    assert int(learn.is_train.sum()) == 140
    np.testing.assert_array_equal(learn.test.labels, data.test.labels)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([learn.train.labels, safety.labels])),
        np.sort(data.train.labels),
    )


NETWORK = ["--model", "mlp", "--widths", "8", "--epochs", "2", "--strengths", "0,1"]


def test_networks_write_the_same_files(tmp_path):
    penalty = "mmd"
    result = invoke(
        *NETWORK,
        "--penalty",
        penalty,
        "--notion",
        "demographic-parity",
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0, result.output
    assert sorted(contents(tmp_path)) == ["frontier.png", "report.md", "results.csv"]
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["strength"] for row in rows] == ["0", "1"]
    assert {(row["model"], row["penalty"]) for row in rows} == {("mlp", penalty)}
    report = (tmp_path / "report.md").read_text()
    assert f"hidden layers of 8 tanh units, 2 epochs, penalty {penalty}" in report
    assert "a fifth of the training part that was held out" in report


def test_kernel_machines_write_the_same_files(tmp_path):
    result = invoke(
        "--model", "kernel-svm", "--kernel", "laplacian", "--bandwidths", "1,2",
        "--rows", "120", "--strengths", "1", "--folds", "2", "--seeds", "2",
        "--notion", "equal-opportunity", "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    words = (
        "Support vector machines, laplacian kernel, learned from 120 of 1,600 training "
        "rows, bandwidth 1, 2"
    )
    assert words in result.stdout
    assert words in (tmp_path / "report.md").read_text()
    assert re.search(r"Selected strength [01], bandwidth [12]: test", result.stdout)
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["bandwidth"] for row in rows] == ["1", "1", "2", "2"] * 2
    assert {row["kernel"] for row in rows} == {"laplacian"}
    assert all(float(row["gap"]) <= 1e-8 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "forest"], "--model"),
        (["--model", "mlp", "--penalty", "none"], "--penalty"),
        (
            ["--model", "mlp", "--loss", "hinge"],
            "`--loss` has no use with `--model mlp`",
        ),
        (["--model", "mlp", "--folds", "3"], "`--folds` has no use with `--model mlp`"),
        (["--epochs", "3"], "`--epochs` has no use with `--model linear`"),
        (["--kernel", "rbf"], "`--kernel` has no use with `--model linear`"),
        (["--model", "kernel-svm", "--kernel", "rfb"], "Did you mean rbf?"),
        (
            ["--model", "kernel-svm", "--kernel", "linear", "--bandwidths", "1"],
            "`--bandwidths` has no use with `--kernel linear`",
        ),
        (
            ["--model", "kernel-svm", "--bandwidths", "0", "--rows", "100"],
            "`--bandwidths` must be above 0",
        ),
        (
            ["--model", "kernel-svm", "--strengths", "2", "--rows", "100"],
            "`--strengths` of kernel machines must be in [0, 1]",
        ),
        (["--model", "mlp", "--widths", "0.5"], "`--widths` must be whole numbers"),
        (["--confidence", "0.9"], "`--confidence` has no use without `--guarantee`"),
        (["--guarantee", "0"], "`--guarantee` must lie in (0, 1)"),
        (["--guarantee", "0.1", "--confidence", "95"], "`--confidence` must lie in"),
        (["--guarantee", "0.1", "--seeds", "2"], "`--guarantee` is for one model"),
        (["--guarantee", "0.1", "--model", "shared"], "`--guarantee` has no use with"),
        (["--model", "shared"], "`--model shared` is for data with several tasks"),
    ],
)
def test_options_of_another_model_are_refused(options, message, tmp_path):
    out = tmp_path / "out"
    result = invoke(*options, "--out", out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_a_checkpoint_of_another_grid_is_told(tmp_path):
    kept = ["--checkpoint", tmp_path / "kept", "--out", tmp_path / "out"]
    assert invoke(*SMALL, *kept).exit_code == 0
    result = invoke(*SMALL, *kept, "--strengths", "0,1,1.25")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "holds another sweep: " in result.stderr
    assert len(result.stderr.splitlines()) == 1
