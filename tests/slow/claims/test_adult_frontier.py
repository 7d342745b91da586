"""The linear frontier of Adult keeps its accuracy while the gap shrinks."""

import os

import pytest

from fairjax import datasets, frontiers, notions


def test_adult_keeps_its_accuracy_while_the_gap_vanishes():
    if "FAIRJAX_DATA_DIR" not in os.environ:
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    found = frontiers.linear(
        datasets.adult(sensitive=["sex", "race"]),
        notion=notions.demographic_parity,
        strengths=[0.0, 1.0, 1.5],
        n_folds=0,
    )
    assert found.converged.all()
    assert found.counts.shape == (2, 1, 10)
    assert found.test_accuracy[0] > 0.852
    assert found.test_accuracy[1] > 0.81
    assert found.train_unfairness[1] < 0.7 * found.train_unfairness[0]
