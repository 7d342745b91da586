"""Prints pip constraints that pin every direct dependency to its lower bound.

The bounds are read from `pyproject.toml` in the current directory, extras and build
requirements included, so what is promised there is what gets installed and tested.
"""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[[^\]]*\])?\s*>=\s*(?P<version>[\w.]+)")


def constraints(pyproject: Path) -> list[str]:
    """Returns one `name==version` per dependency; its own extras need none."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = table["project"]
    requirements = [*table["build-system"]["requires"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    pins = []
    for requirement in requirements:
        if re.match(rf"{re.escape(project['name'])}\b", requirement):
            continue
        bound = BOUND.fullmatch(requirement.strip())
        if bound is None:
            raise ValueError(
                f"{requirement!r} must read `name>=version`, so that its lower bound "
                f"can be tested."
            )
        pins.append(f"{bound['name']}=={bound['version']}")
    return sorted(set(pins))


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(Path("pyproject.toml"))) + "\n")
