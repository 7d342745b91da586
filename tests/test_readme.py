"""The README, executed: its examples as one program, its commands by their help."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

README = Path(__file__).parents[1] / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return [body for name, body in FENCE.findall(text) if name == language]


def programs() -> list[str]:
    """The Python blocks, each on its own lines of the README."""
    text = README.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, match.start(2)) + match[2]
        for match in FENCE.finditer(text)
        if match[1] == "python"
    ]


def commands() -> list[list[str]]:
    """The words after `fairjax` of every command shown, without its redirections."""
    found = []
    for block in blocks("sh"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.split(r"&&|\||;", line):
                words = shlex.split(part, comments=True)
                while words and "=" in words[0]:  # FAIRJAX_DATA_DIR=... fairjax ...
                    words = words[1:]
                if words and Path(words[0]).name == "fairjax":
                    found.append(words[1:])
    return found


def call(*words: str, folder: Path) -> str:
    wide = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "MPLBACKEND": "agg"}
    forced = {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"}
    plain = {k: v for k, v in os.environ.items() if k not in forced}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=plain | wide,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def help_of(*subcommand: str) -> str:
    """Asked once, however many commands are shown: a process costs seconds."""
    program = ["-c", "from fairjax.cli import main; main()"]
    return call(*program, *subcommand, "--help", folder=README.parent)


@pytest.fixture(scope="module")
def namespace():
    """Names that the blocks share, and those blocks that have run, in order."""
    return {"__name__": "readme"}, []


@pytest.mark.parametrize("index", range(len(programs())))
def test_examples_run_as_they_stand(index, namespace, tmp_path, monkeypatch):
    """In JAX as it comes: users have no strict promotion."""
    monkeypatch.chdir(tmp_path)
    names, ran = namespace
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for later in range(len(ran), index + 1):
            exec(compile(programs()[later], str(README), "exec"), names)
            ran.append(later)
    assert index in ran


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("name", ["job", "test"])
def test_marked_commands_are_there(name):
    pattern = rf"^<!-- {name} command -->\n```sh\n.+\n```$"
    assert len(re.findall(pattern, README.read_text(encoding="utf-8"), re.M)) == 1


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_shown_exist(words):
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    subcommand = [words[0]] if words and not words[0].startswith("-") else []
    text = help_of(*subcommand)
    missing = [o for o in options if not re.search(rf"(?<!\S){re.escape(o)}\b", text)]
    assert missing == []
