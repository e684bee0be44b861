"""A grid of text, and the words and figures that all grids have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
# What the side of Celery's canvas does, by workload.
CANVASES = {
    "wide": "Celery's chord",
    "drain": "Celery's chord",
    "chain": "Celery's chain",
    "job1": "Celery's canvas",
    "layers": "Celery's chords, by hand",
}

Saved = dict[str, Any]  # a report, as its JSON has it


@dataclass(frozen=True)
class Grid:
    """Rows of text under headings; the first so many columns say what a row is about."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    names: int = 1


def spread(values: dict[str, float], digits: int) -> str:
    """The median and the range."""
    median, low, high = (f"{values[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({low}–{high})" if low != high else median
