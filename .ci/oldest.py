#!/usr/bin/env python
"""Print the constraints under which pip installs the oldest versions that pyproject.toml admits."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# What tests alone need may be as new as it likes.
RUN_TIME_EXTRAS = ("postgres",)


def oldest() -> Iterator[str]:
    """A line for each requirement; ValueError for one without a lower bound."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = (line for extra in RUN_TIME_EXTRAS for line in project["optional-dependencies"][extra])
    for line in (*project["dependencies"], *extras):
        wanted = Requirement(line)
        lowest = [bound.version for bound in wanted.specifier if bound.operator in (">=", "==", "~=")]
        if len(lowest) != 1:
            raise ValueError(f"{line} has no lower bound")
        yield f"{wanted.name}=={lowest[0]}"


if __name__ == "__main__":
    print(*oldest(), sep="\n")
