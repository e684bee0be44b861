"""Which tasks handled which failures, in SQL (rule 7)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, literal_column, select

from batchq.core.conditions import Join, took_over
from batchq.core.states import State
from batchq.store.columns import CONDITION, TASK, status_is
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import TaskCondition, TaskRow
from batchq.store.transaction import Tx


class Handler(NamedTuple):
    """A task that handles a failure and succeeded; `behind`, it could not start before its conditions were met."""

    failed: int
    failed_at: datetime
    name: str
    behind: bool
    claimed_at: datetime | None
    ended_at: datetime


_way = (
    select(
        CONDITION.predecessor_id.label("failed"),
        CONDITION.task_id.label("at"),
        (TASK.joined == Join.ALL.value).label("behind"),
    )
    .join(TaskRow, TASK.id == CONDITION.task_id)
    .where(among(CONDITION.predecessor_id, "tasks"), literal_column("handles"))
    .cte("way", recursive=True)
)
_gate = TaskRow.__table__.alias("gate_on_the_way")
_failed = TaskRow.__table__.alias("failed_task")
# The condition of a task may stand in joins, which are gates without a name on the way to it.
_ways = _way.union(
    select(_way.c.failed, CONDITION.task_id, and_(_way.c.behind, TASK.joined == Join.ALL.value))
    .join(_gate, _gate.c.id == _way.c.at)
    .join(TaskCondition, CONDITION.predecessor_id == _gate.c.id)
    .join(TaskRow, TASK.id == CONDITION.task_id)
    .where(_gate.c.unnamed)
)
_HANDLERS = Statement(
    select(
        _ways.c.failed,
        _failed.c.ended_at.label("failed_at"),
        TASK.name,
        _ways.c.behind,
        TASK.claimed_at,
        TASK.ended_at,
    )
    .join(_failed, _failed.c.id == _ways.c.failed)
    .join(TaskRow, TASK.id == _ways.c.at)
    .where(~TASK.gate, status_is(State.SUCCESS))
    .order_by(TASK.id.desc()),
    row=Handler,
)


def handlers(tx: Tx, failed: Collection[int]) -> dict[int, str]:
    """Per failed task that another one handled, the name of the first that did so."""
    rows = _HANDLERS(tx, tasks=failed) if failed else []
    # A task that somebody accepted has succeeded without a start.
    started = ((row, row.claimed_at or row.ended_at) for row in rows)
    return {row.failed: row.name for row, at in started if took_over(row.failed_at, at, behind=row.behind)}
