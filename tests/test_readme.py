"""The README, executed: its examples as one program, its commands by their help."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return [body for name, body in FENCE.findall(text) if name == language]


def program() -> str:
    """All Python blocks in one namespace, each on its own lines of the README."""
    text = README.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for match in FENCE.finditer(text):
        if match[1] == "python":
            body = match[2].splitlines()
            start = text.count("\n", 0, match.start(2))
            lines[start : start + len(body)] = body
    return "\n".join(lines)


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


def test_examples_run_as_they_stand(tmp_path):
    script = tmp_path / "README.py"
    script.write_text(program(), encoding="utf-8")
    assert script.read_text(encoding="utf-8").strip(), "no ```python block"
    call(str(script), folder=tmp_path)


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
