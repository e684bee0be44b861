"""The usual duration of tasks and of operations, by their attempts so far; a forecast starts from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from datetime import datetime
from statistics import median
from typing import TypeVar

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import State
from batchq.store.moves import RUN, TASK
from batchq.store.statement import Statement, among
from batchq.tables import Attempt, Run, Task

K = TypeVar("K", bound=Hashable)

ATTEMPT = Attempt.__table__.c  # type: ignore[attr-defined]
NEWEST = 10  # successful attempts that a median is taken of


def _newest(chosen: ColumnElement[bool], *alike: ColumnElement[str]) -> Statement:
    """Start and end of the newest successful attempts for each value of the columns `alike`."""
    place = func.row_number().over(partition_by=alike, order_by=ATTEMPT.ended_at.desc()).label("place")
    ranked = (
        select(*alike, ATTEMPT.claimed_at, ATTEMPT.ended_at, place)
        .join(Task, TASK.id == ATTEMPT.task_id)
        .join(Run, RUN.id == TASK.run_id)
        .where(ATTEMPT.status == State.SUCCESS.value, chosen)
        .subquery()
    )
    columns = [column for column in ranked.c if column.name != "place"]
    return Statement(select(*columns).where(ranked.c.place <= bindparam("newest")))


_OF_TASKS = _newest(among(RUN.job, "jobs"), RUN.job, TASK.name)
_OF_OPERATIONS = _newest(among(TASK.operation, "operations"), TASK.operation)


def of_tasks(tx: Connection, jobs: Collection[str]) -> dict[tuple[str, str], float]:
    """By job and task, the median of the seconds that the newest ten successful attempts took."""
    rows = _OF_TASKS(tx, jobs=list(jobs), newest=NEWEST)
    return _medians(((row.job, row.name), row.claimed_at, row.ended_at) for row in rows)


def of_operations(tx: Connection, operations: Collection[str]) -> dict[str, float]:
    """By operation, the median of the seconds that its newest ten successful attempts took, in whatever job."""
    rows = _OF_OPERATIONS(tx, operations=list(operations), newest=NEWEST)
    return _medians((row.operation, row.claimed_at, row.ended_at) for row in rows)


def _medians(attempts: Iterable[tuple[K, datetime, datetime]]) -> dict[K, float]:
    took: defaultdict[K, list[float]] = defaultdict(list)
    for key, start, end in attempts:
        took[key].append(max((end - start).total_seconds(), 0.0))
    return {key: median(seconds) for key, seconds in took.items()}
