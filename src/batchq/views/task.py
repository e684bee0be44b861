"""A task as people read it: a line in its run, and all there is about one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypedDict

from sqlalchemy import and_, func, select

from batchq.core import retries, secrets
from batchq.core.json import JSON
from batchq.core.priority import AGING, PRIORITY_NAMES
from batchq.core.states import NOT_STARTED, TERMINAL, State
from batchq.store import moves
from batchq.store.columns import ATTEMPT, SERVER, TASK
from batchq.store.find import no_task, run_row
from batchq.store.lane import lanes_of
from batchq.store.tables import AttemptRow, Server, TaskRow
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.limit import limit_names
from batchq.views.rows import Column, Query, Selected
from batchq.views.why import ConditionView, Reasons, conditions_of, why_of_task

# An attempt that ended names its server itself: that server may be deleted, and its id given to another one.
SERVER_NAME = func.coalesce(ATTEMPT.server, SERVER.name).label("server")


# Ends that another task may handle; a canceled task counts if it was aborted (rule 7).
FAILED = (State.ERROR, State.CANCELED)


class TaskLine(TypedDict):
    """A task in its run; `why` is null once it started, `handled_by` names the task that took its failure out.

    `reason` says how its last attempt failed: `error`, `lost`, `timed_out`, `not_started` or `aborted`. A gate has no
    `operation`. `accepted` says by whom and why the task counts as done without an attempt (rule 54).
    """

    name: str
    status: str
    group: str
    server: str | None
    attempts: int
    operation: str | None
    ready_at: str | None
    started_at: str | None
    ended_at: str | None
    error: str | None
    reason: str | None
    handled_by: str | None
    accepted: str | None
    why: str | None
    result: JSON
    stage: str | None


class AttemptView(TypedDict):
    """An attempt that ended, with its log; `ready_at` is when it could have started.

    `reason` says how it failed, and `error_class` is the full name of its exception's class.
    """

    attempt: int
    server: str | None
    status: str
    ready_at: str | None
    started_at: str | None
    ended_at: str | None
    error: str | None
    reason: str | None
    error_class: str | None
    log: str | None


class TaskView(TaskLine):
    """A task with its run, arguments, conditions and ended attempts; without `retry_on` all errors are tried again."""

    run: int
    job: str
    args: list[JSON]
    kwargs: dict[str, JSON]
    limits: list[str]
    priority: str
    retries: int
    retry_delay: float
    retry_backoff: float
    retry_delay_max: float | None
    retry_jitter: float
    retry_on: list[str]
    retry_never_on: list[str]
    repeatable: bool
    time_limit: float | None
    ignore_failure: bool
    join: str
    after: list[ConditionView]
    history: list[AttemptView]


def with_server(columns: Iterable[Column]) -> Query:
    """Tasks with the server of their last attempt."""
    last = and_(ATTEMPT.task_id == TASK.id, ATTEMPT.attempt == TASK.attempt)
    return (
        select(*columns).select_from(TaskRow).outerjoin(AttemptRow, last).outerjoin(Server, SERVER.id == TASK.server_id)
    )


def task_line(row: Selected, why: str | None, handled_by: str | None) -> TaskLine:
    """The line of a task that `with_server` read."""
    state = State(row.status)
    started = state not in NOT_STARTED and row.claimed_at is not None
    return {
        "name": row.name,
        "status": state.value,
        "group": row.group_name,
        "server": row.server if started else None,
        "attempts": row.attempt,
        "operation": row.operation or None,
        "ready_at": iso(row.ready_at),
        "started_at": iso(row.claimed_at) if started else None,
        "ended_at": iso(row.ended_at) if state in TERMINAL else None,
        "error": row.error,
        "reason": row.reason,
        "handled_by": handled_by if state in FAILED else None,
        "accepted": row.accepted,
        "why": why,
        "result": json.loads(row.result) if row.result is not None else None,
        "stage": row.stage,
    }


def task_view(
    tx: Tx,
    run: int,
    name: str,
    now: datetime | None = None,
    *,
    timezone: str | None = None,
    aging: float = AGING,
) -> TaskView:
    """A task as `run_view` gives it, with its run, arguments, conditions and ended attempts with their logs.

    A task that waits rises by a class each `aging` seconds.
    Raises NotFound, with the closest name.
    """
    job = run_row(tx, run).job
    row = _row(tx, run, name)
    policy = retries.read(row.policy)
    after = conditions_of(tx, run, row.id)
    handled = moves.handlers(tx, [row.id] if row.status in FAILED else [])
    reasons = Reasons(tx, now, timezone, aging=aging, job=job)
    line = task_line(row, why_of_task(tx, row, reasons), handled.get(row.id))
    return {
        "run": run,
        "job": job,
        **line,
        "args": json.loads(row.args),
        "kwargs": secrets.masked(row.kwargs),
        "limits": limit_names(lanes_of(tx, [row.lane])[row.lane].keys),
        "priority": PRIORITY_NAMES.get(row.own_class, str(row.own_class)),
        "retries": row.retries,
        "retry_delay": row.retry_delay,
        "retry_backoff": policy.backoff,
        "retry_delay_max": policy.most,
        "retry_jitter": policy.jitter,
        "retry_on": list(policy.on),
        "retry_never_on": list(policy.never),
        "repeatable": row.repeatable,
        "time_limit": row.time_limit,
        "ignore_failure": row.ignore_failure,
        "join": row.joined,
        "after": after,
        "history": [_attempt(attempt, row) for attempt in _attempts(tx, row.id)],
    }


def _row(tx: Tx, run: int, name: str) -> Selected:
    statement = with_server((*TaskRow.__table__.c, ATTEMPT.reason, SERVER_NAME))
    statement = statement.where(TASK.run_id == run, TASK.name == name)
    row = tx.execute(statement.where(~TASK.unnamed)).one_or_none()
    if row is None:
        raise no_task(tx, run, name)
    return row


def _attempts(tx: Tx, task: int) -> Sequence[Selected]:
    statement = select(AttemptRow.__table__).where(ATTEMPT.task_id == task)
    return tx.execute(statement.order_by(ATTEMPT.attempt)).all()


def _attempt(row: Selected, task: Selected) -> AttemptView:
    # The row of a success does not say it: nothing has changed since in the row of its task.
    ready_at = task.ready_at if row.attempt == task.attempt and row.ready_at is None else row.ready_at
    return {
        "attempt": row.attempt,
        "server": row.server,
        "status": row.status,
        "ready_at": iso(ready_at),
        "started_at": iso(row.claimed_at),
        "ended_at": iso(row.ended_at),
        "error": row.error,
        "reason": row.reason,
        "error_class": row.error_class,
        "log": row.log,
    }
