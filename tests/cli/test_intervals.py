"""Limits of the true gaps of a sweep: those of `bounds`, shown where they belong."""

import csv
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from fairjax import bounds, cli, datasets, frontiers, notions
from fairjax.cli import intervals

TOY = datasets.toy(n=400)


@pytest.fixture(scope="module")
def found():
    return frontiers.linear(
        TOY, notion=notions.equalized_odds, strengths=[0.0, 0.5, 1.0], n_folds=0
    )


def on_test(found):
    test = TOY.test
    scores = found.coefficients.astype(float) @ test.features.T.astype(float)
    cond = notions.equalized_odds(
        jnp.asarray(test.groups), jnp.asarray(test.labels), n_groups=2
    )
    return scores + found.intercept.astype(float)[:, None] > 0, cond


def test_rates_of_a_frontier_are_means_of_its_decisions(found):
    decisions, _ = on_test(found)
    test = TOY.test
    for label in range(2):
        for group in range(2):
            cell = (test.labels == label) & (test.groups == group)
            expected = decisions[:, cell].mean(axis=1)
            # A sum of as many float32 weights, in any order.
            np.testing.assert_allclose(
                found.test_rates[:, label, group], expected, rtol=cell.sum() * 2.0**-24
            )
            assert cell.sum() == found.counts[1, label, group]
    gaps = np.abs(found.test_rates[..., 0] - found.test_rates[..., 1]).max(axis=1)
    np.testing.assert_allclose(found.test_unfairness, gaps, atol=2e-6)


def test_limits_are_those_of_the_exact_bounds(found):
    decisions, cond = on_test(found)
    rows = [2, 0]
    ends = intervals.intervals(found, rows)
    for i in rows:
        largest = bounds.binomial(jnp.asarray(decisions[i]), cond).largest
        np.testing.assert_allclose(ends.low[i], largest.low.max(), atol=1e-5)
        np.testing.assert_allclose(ends.high[i], largest.high.max(), atol=1e-5)
        assert ends.low[i] <= found.test_unfairness[i] <= ends.high[i] < 1
    assert np.isnan([ends.low[1], ends.high[1]]).all()


def test_more_rows_than_a_batch_change_nothing(found):
    few = intervals.intervals(found, [0, 1, 2])
    many = jax.tree.map(
        lambda a: np.tile(a, (10,) + (1,) * (a.ndim - 1)) if np.ndim(a) else a,
        found._replace(counts=0),
    )._replace(counts=found.counts)
    ends = intervals.intervals(many, list(range(30)))
    for one, other in zip(few, ends, strict=True):
        np.testing.assert_array_equal(np.tile(one, 10), other)


def test_real_labels_have_the_limits_of_their_distance(found, rng):
    n = 300
    groups = np.arange(n) % 3 // 2
    scores = rng.normal(size=n) + groups
    cond = notions.demographic_parity(jnp.asarray(groups), n_groups=2)
    largest = bounds.dkw(jnp.asarray(scores, jnp.float32), cond).largest
    seen = np.asarray(largest.estimate)
    real = found._replace(
        test_rates=np.full((1, 1, 2), np.nan),
        test_unfairness=seen,
        strength=np.zeros(1),
        counts=np.array([[[200, 100]]] * 2),
    )
    ends = intervals.intervals(real, [0])
    np.testing.assert_allclose(ends.low, largest.low, atol=1e-6)
    np.testing.assert_allclose(ends.high, largest.high, atol=1e-6)


def test_the_command_says_what_the_data_can_tell(tmp_path):
    arguments = ["--strengths", "0,1", "--folds", "0", "--notion", "equal-opportunity"]
    result = CliRunner().invoke(cli.app, ["sweep", *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
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
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    seen = [float(r["test_unfairness"]) for r in rows if r["selected"] == "1"][0]
    assert low <= seen <= high
    np.testing.assert_allclose(float(said[8]), max(high - seen, seen - low), atol=2e-3)
    report = (tmp_path / "report.md").read_text()
    assert "true gap, 95%" in report
    assert f"{low:.3f}-{high:.3f}" in report


def test_means_over_seeds_have_no_limits(tmp_path):
    arguments = ["--strengths", "0,1", "--folds", "0", "--notion", "equal-opportunity"]
    command = ["sweep", *arguments, "--seeds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "confidence" not in result.stdout
    assert "true gap" not in (tmp_path / "report.md").read_text()
