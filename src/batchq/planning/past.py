"""The past: how long tasks and operations usually took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from datetime import datetime
from statistics import median
from typing import NamedTuple, TypeVar

from sqlalchemy import bindparam, func, select
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import State
from batchq.store.columns import ATTEMPT, RUN, TASK
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Row, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

K = TypeVar("K", bound=Hashable)

NEWEST = 10  # successful attempts in a median


class OfTask(NamedTuple):
    """A past attempt of a task, known by its job and name."""

    job: str
    name: str
    claimed_at: datetime
    ended_at: datetime


class OfOperation(NamedTuple):
    """A past attempt of an operation, in any job."""

    operation: str
    claimed_at: datetime
    ended_at: datetime


def _newest(row: type[Row], chosen: ColumnElement[bool], *alike: ColumnElement[str]) -> Statement[Row]:
    """Select start and end of the newest successful attempts, ranked among those with equal columns `alike`."""
    place = func.row_number().over(partition_by=alike, order_by=ATTEMPT.ended_at.desc()).label("place")
    ranked = (
        select(*alike, ATTEMPT.claimed_at, ATTEMPT.ended_at, place)
        .join(TaskRow, TASK.id == ATTEMPT.task_id)
        .join(Run, RUN.id == TASK.run_id)
        .where(ATTEMPT.status == State.SUCCESS.value, chosen)
        .subquery()
    )
    columns = [column for column in ranked.c if column.name != "place"]
    return Statement(select(*columns).where(ranked.c.place <= bindparam("newest")), row=row)


_OF_TASKS = _newest(OfTask, among(RUN.job, "jobs"), RUN.job, TASK.name)
_OF_OPERATIONS = _newest(OfOperation, among(TASK.operation, "operations"), TASK.operation)


def of_tasks(tx: Tx, jobs: Collection[str]) -> dict[tuple[str, str], float]:
    """Median seconds of the newest ten successful attempts, by job and task."""
    rows = _OF_TASKS(tx, jobs=list(jobs), newest=NEWEST)
    return _medians(((row.job, row.name), row.claimed_at, row.ended_at) for row in rows)


def of_operations(tx: Tx, operations: Collection[str]) -> dict[str, float]:
    """Median seconds of the newest ten successful attempts, by operation, over all jobs."""
    rows = _OF_OPERATIONS(tx, operations=list(operations), newest=NEWEST)
    return _medians((row.operation, row.claimed_at, row.ended_at) for row in rows)


def _medians(attempts: Iterable[tuple[K, datetime, datetime]]) -> dict[K, float]:
    took: defaultdict[K, list[float]] = defaultdict(list)
    for key, start, end in attempts:
        took[key].append(max((end - start).total_seconds(), 0.0))
    return {key: median(seconds) for key, seconds in took.items()}
