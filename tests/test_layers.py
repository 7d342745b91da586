"""Who may import whom (declared in pyproject.toml), and what `import fairjax` costs."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fairjax

ROOT = Path(fairjax.__file__).parents[1]


def lint(config: Path) -> tuple[int, str]:
    """Exit status and output of import-linter, without colours."""
    program = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", str(config), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)


def test_imports_keep_to_the_contracts():
    status, text = lint(ROOT / "pyproject.toml")
    assert status == 0, text


def test_a_wrong_import_is_seen(tmp_path):
    """Two floors the wrong way round: the same contracts must fail."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"arrays | files"' in text
    swapped = text.replace('"cli"', "TOP").replace('"arrays | files"', '"cli"', 1)
    swapped = swapped.replace("TOP", '"arrays | files"', 1).replace("TOP", '"cli"')
    config = tmp_path / "pyproject.toml"
    config.write_text(swapped, encoding="utf-8")
    status, text = lint(config)
    assert status == 1
    assert "Imports go down BROKEN" in text


def test_every_package_shows_only_what_it_exports():
    """Each package has a contract that protects its inner modules."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    protected = {
        name for c in contracts for name in c.get("protected_modules", [])
    }  # fmt: skip
    packages = {p.parent.name for p in (ROOT / "fairjax").glob("*/__init__.py")}
    assert protected == {f"fairjax.{name}.*" for name in packages - {"arrays"}}


def in_fresh_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_are_loaded_when_they_are_used():
    loaded = in_fresh_python(
        "import fairjax, json, sys; names = dir(fairjax); fairjax.notions;"
        "own = [n for n in sys.modules if n.startswith('fairjax.')];"
        "print(json.dumps([names, sorted(own)]))"
    )
    names, own = json.loads(loaded)
    rooms = {name.split(".")[1] for name in own}
    assert rooms == {"arrays", "notions"}
    assert set(fairjax.__all__) <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fairjax.nothing


def test_no_module_loads_what_is_heavy():
    loaded = in_fresh_python(
        "import json, sys; from fairjax import *; print(json.dumps([*sys.modules]))"
    )
    own = {f"fairjax.{name}" for name in fairjax.__all__}
    assert own <= set(json.loads(loaded))
    heavy = {"ott", "flax", "orbax", "matplotlib", "pandas", "rich", "typer", "pooch"}
    assert heavy & set(json.loads(loaded)) == set()


@pytest.mark.parametrize(
    ("program", "most"),
    [
        ("import fairjax", 0.1),
        ("from fairjax import divergences, kernels, notions, penalties, training", 0.5),
    ],
)
def test_import_is_within_half_a_second_of_jax(program, most):
    # Time on the processor: that of the clock depends on who else is running.
    program = (
        "import time; start = time.process_time(); import jax;"
        f"middle = time.process_time(); {program};"
        "print(middle - start, time.process_time() - middle)"
    )
    laps = [tuple(map(float, in_fresh_python(program).split())) for _ in range(3)]
    jax_seconds, more_seconds = (min(lap) for lap in zip(*laps, strict=True))
    assert more_seconds < most, f"after {jax_seconds:.2f} s for `import jax`"
