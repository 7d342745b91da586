"""The sweep command on more tables, models and promises than the first tier has."""

import csv
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import cli, datasets, frontiers, notions, penalties
from fairjax.cli import guarantee

SMALL = ["--strengths", "0,1,1.5", "--folds", "2", "--notion", "equal-opportunity"]
NETWORK = ["--model", "mlp", "--widths", "8", "--epochs", "2", "--strengths", "0,1"]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["sweep", *map(str, arguments)])


def test_public_data(tmp_path):
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    result = invoke(
        *SMALL, "--dataset", "german", "--without-sensitive", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    assert "german: " in result.stdout


def test_networks_with_a_sinkhorn_penalty_write_the_same_files(tmp_path):
    notion = ["--notion", "demographic-parity"]
    result = invoke(*NETWORK, "--penalty", "sinkhorn", *notion, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["frontier.png", "report.md", "results.csv"]
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["strength"] for row in rows] == ["0", "1"]
    assert {(row["model"], row["penalty"]) for row in rows} == {("mlp", "sinkhorn")}
    report = (tmp_path / "report.md").read_text()
    assert "hidden layers of 8 tanh units, 2 epochs, penalty sinkhorn" in report
    assert "a fifth of the training part that was held out" in report


def test_networks_that_explain_nothing_are_shown_and_none_is_selected(tmp_path):
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    result = invoke(
        "--dataset", "student", "--model", "mlp", "--widths", "2", "--epochs", "1",
        "--strengths", "0", "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "None is selected: no point has a validation explained" in result.stdout
    with (tmp_path / "results.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["cv_accuracy"]) < 0
    assert row["selected"] == "0"


def test_notions_share_the_confidence_of_a_guarantee(tmp_path):
    options = ["--model", "kernel-svm", "--rows", "120", "--strengths", "1"]
    result = invoke(
        *options, "--folds", "0", "--guarantee", "0.3", "--confidence", "0.9",
        "--out", tmp_path, "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count("with 95 % confidence") == 2
    report = (tmp_path / "report.md").read_text()
    assert "at most 10 % for all notions together" in report


def test_networks_are_promised_by_their_decisions_on_rows_set_aside(tmp_path):
    options = [*NETWORK, "--penalty", "mean-gap", "--notion", "demographic-parity"]
    options += ["--guarantee", "0.4", "--out", tmp_path, "--quiet"]
    result = invoke(*options)
    assert result.exit_code == 0, result.output
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    settings = {"widths": [8], "epochs": 2, "strengths": [0.0, 1.0], "seed": 0}
    learn, safety = guarantee.set_aside(datasets.toy(), 0)
    found = frontiers.network(
        learn,
        notion=notions.demographic_parity,
        on_scores=penalties.mean_gap_info,
        **settings,
    )
    decisions = frontiers.decide(found, learn.train, safety)
    for row, own in zip(rows, decisions, strict=True):
        rates = [own[safety.groups == g].mean() for g in range(2)]
        np.testing.assert_allclose(
            float(row["safety_unfairness"]), abs(rates[0] - rates[1]), atol=1e-6
        )
        assert row["safety_passed"] == str(int(float(row["safety_high"]) <= 0.4))
    assert "params" not in rows[0]


def test_school_is_swept_with_one_network_for_all_tasks(tmp_path):
    folder = os.environ.get("FAIRJAX_DATA_DIR")
    if not folder:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    options = ["--dataset", "school", "--data-dir", folder, "--widths", "8"]
    options += ["--epochs", "15", "--strengths", "1", "--penalty", "mean-gap"]
    result = invoke("--model", "shared", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "139 tasks" in result.stdout
    assert "KS distance between groups" in result.stdout
    assert "explained variance" in (tmp_path / "report.md").read_text()
