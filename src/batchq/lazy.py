"""Names that a package imports when they are asked for: a command's `--help` need not wait for SQL and pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Make the package's `__getattr__`: `homes` tells which module has each name."""

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get
