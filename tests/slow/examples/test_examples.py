"""The examples, run as a reader would: each must end well and say something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairjax import datasets

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.py"))
FILES = [f"datasets.{name}" for name in datasets.LOADERS if name != "toy"]


def options(script: Path) -> list[str]:
    """`--smoke` where the example has it; others are quick as they are."""
    return ["--smoke"] if '"--smoke"' in script.read_text(encoding="utf-8") else []


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_runs(script, tmp_path):
    folder = os.environ.get("FAIRJAX_DATA_DIR")
    text = script.read_text(encoding="utf-8")
    if not folder and any(loader in text for loader in FILES):
        pytest.skip("FAIRJAX_DATA_DIR is not set")
    # They compile far longer than they run, so that few optimisations are quicker. Each
    # runs in a folder of its own, where its output goes.
    quick = {"MPLBACKEND": "agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    places = {"FAIRJAX_DATA_DIR": str(Path(folder).absolute())} if folder else {}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *options(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | places | quick,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_there_are_examples():
    known = {"fair_regression", "ferm", "precomputed_kernel", "training_loop"}
    assert known <= {script.stem for script in EXAMPLES}
    assert any(options(script) for script in EXAMPLES)
