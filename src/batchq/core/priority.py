"""Priority: the classes, and how a task's class rises while it waits (rule 28)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol, TypeVar

PRIORITIES = {"low": 0, "normal": 1, "high": 2, "critical": 3}
PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
CRITICAL = PRIORITIES["critical"]
# Seconds in which a task that waits rises by one class.
AGING = 3600.0


class InLine(Protocol):
    """A ready task's place in the order of dispatch."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def own_class(self) -> int:
        """Its own class."""

    @property
    def ready_at(self) -> datetime:
        """The instant at which it became ready."""


Task = TypeVar("Task", bound=InLine)


def class_now(own: int, ready_at: datetime, now: datetime, aging: float) -> int:
    """The class after waiting: its own, and one more for each whole `aging` seconds, at most critical; 0 = no aging."""
    if aging <= 0 or own >= CRITICAL:
        return own
    return min(CRITICAL, own + max(0, int((now - ready_at).total_seconds() // aging)))


def in_order(tasks: Iterable[Task], now: datetime, aging: float) -> list[Task]:
    """Ready tasks, the best first: by class now, then by the time they became ready, then by number (rule 28)."""
    return sorted(
        tasks, key=lambda task: (-class_now(task.own_class, task.ready_at, now, aging), task.ready_at, task.id)
    )
