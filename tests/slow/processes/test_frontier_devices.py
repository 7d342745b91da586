"""Frontiers whose points two devices share, and which a directory keeps."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import chex
import jax
import numpy as np
import pytest

from fairjax import datasets, frontiers, notions, penalties


def two_devices():
    return jax.make_mesh((2,), ("points",), devices=jax.devices()[:2])


def check_frontier(found, expected):
    inexact = {"iterations", "gap", "epochs"}
    pairs = [(found._asdict(), expected._asdict())]
    pairs.append(tuple(trees.pop("fit")._asdict() for trees in pairs[0]))
    for trees in pairs:
        trees = [{k: v for k, v in t.items() if k not in inexact} for t in trees]
        trees = jax.tree.map(np.asarray, trees)
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
        with pytest.raises(ValueError, match="holds another sweep: "):
            trace(data, strengths=[0.0, 0.5, 1.0], **other)
    with pytest.raises(ValueError, match="must be at least as many as the 2 devices"):
        trace(data, strengths=[0.0], **options)


@pytest.mark.parametrize("model", ["linear", "kernel"])
def test_processes_of_an_executor_change_no_number(model):
    data = datasets.toy(n=80)
    options = {"notion": notions.demographic_parity, "ridges": [1e-2], "n_folds": 2}
    trace = getattr(frontiers, model)
    expected = trace(data, strengths=[0.0, 0.5, 1.0], **options)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        found = trace(data, strengths=[0.0, 0.5, 1.0], executor=executor, **options)
    check_frontier(found, expected)
