"""Outcomes in SQL: executing → success, error or ready again, each with a row for the attempt (rules 30-32)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, func, insert, select, update

from batchq.core.states import State
from batchq.store.columns import ATTEMPT, RUN, TASK
from batchq.store.moves.becoming import becomes
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import AttemptRow, Run, TaskRow
from batchq.store.transaction import Tx


class LockedTask(NamedTuple):
    """A task as it stands, locked, with its run's job, state and number of open tasks."""

    id: int
    run_id: int
    status: str
    lane: int
    token: str | None
    attempt: int
    retries: int
    retry_delay: float
    server_id: int | None
    epoch: int | None
    claimed_at: datetime | None
    job: str
    run_status: str
    held: bool
    open_tasks: int


_ENDED = becomes(State.EXECUTING, State.SUCCESS, State.ERROR, State.READY)

_LOCKED = Statement(
    select(
        TASK.id,
        TASK.run_id,
        TASK.status,
        TASK.lane,
        TASK.token,
        TASK.attempt,
        TASK.retries,
        TASK.retry_delay,
        TASK.server_id,
        TASK.epoch,
        TASK.claimed_at,
        RUN.job,
        RUN.status.label("run_status"),
        RUN.held,
        RUN.open_tasks,
    )
    .join(Run, RUN.id == TASK.run_id)
    .where(among(TASK.id, "tasks"))
    .order_by(TASK.id)
    .with_for_update(of=TaskRow.__table__, key_share=True),
    row=LockedTask,
)
_FINISH = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.standing), _ENDED.standing)
        .values(status=given.state, unsettled=given.flag, ready_at=func.coalesce(given.again, TASK.ready_at))
        .values(ended_at=bindparam("now"), error=given.reason, result=given.value)
    ),
    columns={
        "task": TASK.id,
        "standing": TASK.token,
        "state": TASK.status,
        "flag": TASK.unsettled,
        "again": TASK.ready_at,
        "reason": TASK.error,
        "value": TASK.result,
    },
)
_attempt = {
    name: ATTEMPT[name]
    for name in (
        *("task_id", "attempt", "server", "epoch", "status", "reason"),
        *("claimed_at", "ended_at", "error", "log"),
    )
}
_ATTEMPT = Statement(
    lambda given: insert(AttemptRow).from_select(list(_attempt), select(*(getattr(given, name) for name in _attempt))),
    columns=_attempt,
)


def locked(tx: Tx, tasks: Collection[int]) -> Reply[LockedTask]:
    """Lock these tasks in the order of their ids."""
    return _LOCKED.later(tx, tasks=tasks)


def write_outcomes(
    tx: Tx, rows: Sequence[Mapping[str, object]], attempts: Sequence[Mapping[str, object]], now: datetime
) -> None:
    """executing → success, error or ready again, and a row for each attempt."""
    _FINISH.later(tx, rows, now=now)
    _ATTEMPT.later(tx, attempts)
