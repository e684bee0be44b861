"""What the database says when all is over: names, plans, rows and conditions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drills.sim.books import driver
from drills.sim.world import History
from support import rules


@dataclass
class Facts:
    """What the database says at the end: names, plans and rows."""

    tasks: dict[int, Any]
    runs: dict[int, Any]
    attempts: dict[tuple[int, int], Any]
    conditions: Counter[tuple[int, bool | None]]
    followers: defaultdict[int, list[int]]


class Row:
    """A row by its columns' names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def facts_of(history: History) -> Facts:
    """What the database holds when all is over."""
    tasks = {row.id: row for row in _rows(history, "batchq_task")}
    runs = {row.id: row for row in _rows(history, "batchq_run")}
    attempts = {(row.task_id, row.attempt): row for row in _rows(history, "batchq_attempt")}
    rows = list(_rows(history, "batchq_condition"))
    conditions = Counter((row.task_id, _came_true(row, tasks[row.predecessor_id])) for row in rows)
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        followers[row.predecessor_id].append(row.task_id)
    return Facts(tasks, runs, attempts, conditions, followers)


def _came_true(condition: Row, end: Row) -> int | None:
    """Whether a condition came true, 1 or 0, by the row of the task it waits for; None while it is open."""
    if end.status not in rules.ENDS or (end.unsettled and condition.task_id > (end.settled_up_to or 0)):
        return None
    if end.status == "canceled" and end.claimed_at is None:
        return None
    return int(rules.is_met(condition.outcome, end.status))


def _rows(history: History, table: str) -> Iterator[Row]:
    cursor = driver(history.database).execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    return (Row(dict(zip(names, row, strict=True))) for row in cursor)
