"""Aborts in SQL: the mark on an executing task that tells its server to stop it (rule 32)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from batchq.core.states import State
from batchq.store.columns import RUN, SERVER, TASK, status_is
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import Run, Server, TaskRow
from batchq.store.transaction import Tx


class LastAttempt(NamedTuple):
    """A task's newest attempt: where it stands, whether its abort is asked for, its server and the kind of its pool."""

    id: int
    run_id: int
    job: str
    name: str
    status: str
    token: str | None
    attempt: int
    abort: bool
    server: str | None
    pool_kind: str | None


_MARK = Statement(
    update(TaskRow)
    .where(TASK.id == bindparam("task"), TASK.token == bindparam("standing"), status_is(State.EXECUTING))
    .values(abort=True)
)
_CLEAR = Statement(update(TaskRow).where(among(TASK.id, "tasks")).values(abort=False))


def last_attempt(tx: Tx, task: int) -> LastAttempt | None:
    """The newest attempt of the task of this id; None if there is no such task."""
    columns = (TASK.id, TASK.run_id, RUN.job, TASK.name, TASK.status, TASK.token, TASK.attempt, TASK.abort)
    statement = select(*columns, SERVER.name.label("server"), SERVER.pool_kind)
    joined = statement.join(Run, RUN.id == TASK.run_id).outerjoin(Server, SERVER.id == TASK.server_id)
    found = tx.execute(joined.where(TASK.id == task)).one_or_none()
    return None if found is None else LastAttempt._make(found)


def mark_for_abort(tx: Tx, task: int, token: str) -> bool:
    """Mark the task for abort; False unless it executes under this token."""
    return bool(_MARK.count(tx, task=task, standing=token))


def clear_aborts(tx: Tx, tasks: Collection[int]) -> None:
    """Take the mark off these tasks, whose attempts have ended."""
    if tasks:
        _CLEAR.later(tx, tasks=tasks)
