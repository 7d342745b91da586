import os
import re
import subprocess
import sys

import jax
import pytest
from typer.testing import CliRunner

from fairjax import cli
from fairjax.cli import sweep


def shell(*arguments, cwd, **variables):
    program = (
        "import sys; from fairjax.cli import main; sys.argv[0] = 'fairjax'; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        # Programs are kept, but not in the home of whoever tests.
        env=os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fairjax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_help_and_version():
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name in ("sweep", "audit", "repair"):
        assert re.search(rf"^  {name} ", result.stdout, re.M)
    assert re.fullmatch(
        r"\d+\.\d+.*\n", CliRunner().invoke(cli.app, ["--version"]).stdout
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "sweep",
            "--notion --strengths --csv --seeds --float64 --out --dataset adult "
            "--scheduler --checkpoint --no-compilation-cache",
        ),
        ("audit", "SCORES.csv --score --group --label --positive --threshold --out"),
        ("repair", "SCORES.csv --score --group --calibration --jitter --picture --out"),
    ],
)
def test_help_of_a_subcommand(name, words):
    text = CliRunner().invoke(cli.app, [name, "--help"]).stdout
    # Examples stand on lines of their own.
    assert len(re.findall(rf"^    fairjax {name}\b.*$", text, re.M)) >= 3
    assert [word for word in words.split() if word not in text] == []


def test_the_real_command(tmp_path):
    (tmp_path / "scores.csv").write_text("x,s\n1,F\n2,M\n" * 1)
    ran = shell(
        "repair", "scores.csv", "--score", "x", "--group", "s", "--out", "fair.csv",
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Wrote fair.csv: scores.csv with the column 'fair_score'." in ran.stdout
    assert ran.stderr == ""


@pytest.mark.skipif(
    jax.__version_info__ < (0, 11) or not sys.platform.startswith("linux"),
    reason="kept from JAX 0.11 on; where the user's directory lies is the system's",
)
def test_programs_are_kept_and_a_flag_turns_it_off(tmp_path):
    (tmp_path / "scores.csv").write_text("x,s\n1,F\n2,M\n3,F\n5,M\n")
    call = ["repair", "scores.csv", "--score", "x", "--group", "s", "--out", "fair.csv"]
    assert shell(*call, "--no-compilation-cache", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "cache").exists()
    ran = [shell(*call, cwd=tmp_path) for _ in range(2)]
    assert [one.stderr for one in ran] == ["", ""]
    assert ran[0].stdout == ran[1].stdout
    assert list((tmp_path / "cache" / "fairjax" / "programs").glob("*"))
    (tmp_path / "file").touch()
    nowhere = shell(*call, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (nowhere.returncode, nowhere.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["sweep", "--no-such"], "fairjax sweep"),
        (["sweep", "--folds", "x"], "fairjax sweep"),
        (["audit"], "fairjax audit"),
        (["audit", "a.csv", "--score", "x"], "fairjax audit"),
        (["repair", "a.csv", "--repair", "much"], "fairjax repair"),
        (["swep"], "fairjax"),
    ],
)
def test_usage_errors_are_one_line_too(arguments, where, monkeypatch, capsys):
    assert command(arguments, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"fairjax: .* See `{where} --help`\.\n", printed.err)


def test_an_interrupted_run_says_so(monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run", stop)
    assert command(["sweep"], monkeypatch) == 130
    assert capsys.readouterr().err.strip() == "fairjax: stopped; nothing was written."


def test_missing_extras_are_named(tmp_path):
    (tmp_path / "typer.py").write_text("raise ImportError('gone', name='typer')")
    ran = shell("sweep", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 2
    expected = 'fairjax: the command needs typer: install it with `pip install "fairjax'
    assert ran.stderr.startswith(expected)
    assert len(ran.stderr.splitlines()) == 1
