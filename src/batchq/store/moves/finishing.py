"""Outcomes in SQL: executing → success, error, canceled or ready again, with a row for the attempt (rules 30-32).

A failure costs more statements than a success: its attempt keeps more, and another attempt may have to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, insert, select, update

from batchq.core.states import State
from batchq.store.columns import ATTEMPT, RUN, TASK, status_is
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
    retried_at: int
    policy: str | None
    server_id: int | None
    epoch: int | None
    claimed_at: datetime | None
    abort: bool
    job: str
    run_status: str
    held: bool
    open_tasks: int


@dataclass(slots=True)
class Outcomes:
    """The rows of some outcomes: of tasks, of attempts that succeeded or failed, and of tasks that are tried again."""

    tasks: list[Mapping[str, object]] = field(default_factory=list)
    succeeded: list[Mapping[str, object]] = field(default_factory=list)
    failed: list[Mapping[str, object]] = field(default_factory=list)
    again: list[Mapping[str, object]] = field(default_factory=list)


_ENDED = becomes(State.EXECUTING, State.SUCCESS, State.ERROR, State.CANCELED, State.READY)

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
        TASK.retried_at,
        TASK.policy,
        TASK.server_id,
        TASK.epoch,
        TASK.claimed_at,
        TASK.abort,
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
        .values(status=given.state, unsettled=given.flag)
        .values(ended_at=bindparam("now"), error=given.reason, result=given.value)
    ),
    columns={
        "task": TASK.id,
        "standing": TASK.token,
        "state": TASK.status,
        "flag": TASK.unsettled,
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
_failed = {**_attempt, "error_class": ATTEMPT.error_class, "repeatable": ATTEMPT.repeatable}
_FAILED = Statement(
    lambda given: insert(AttemptRow).from_select(
        [*_failed, "ready_at"],
        select(
            *(getattr(given, name) for name in _failed),
            select(TASK.ready_at).where(TASK.id == given.task_id).scalar_subquery(),
        ),
    ),
    columns=_failed,
)
_AGAIN = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.standing), status_is(State.READY))
        .values(ready_at=given.due, retry_after=given.wait)
    ),
    columns={"task": TASK.id, "standing": TASK.token, "due": TASK.ready_at, "wait": TASK.retry_after},
)


def locked(tx: Tx, tasks: Collection[int]) -> Reply[LockedTask]:
    """Lock these tasks in the order of their ids."""
    return _LOCKED.later(tx, tasks=tasks)


def write_outcomes(tx: Tx, outcomes: Outcomes, now: datetime) -> None:
    """executing → success, error, canceled or ready again, and a row for each attempt."""
    _FINISH.later(tx, outcomes.tasks, now=now)
    if outcomes.succeeded:
        _ATTEMPT.later(tx, outcomes.succeeded)
    if outcomes.failed:
        # Before the task becomes ready anew: the row keeps since when it was ready for this attempt.
        _FAILED.later(tx, outcomes.failed)
    if outcomes.again:
        _AGAIN.later(tx, outcomes.again)
