"""Canceling in SQL: executing → canceling, and whatever has not started → canceled, in pieces (rule 32)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, select, update

from batchq.core.states import NOT_STARTED, RunState, State
from batchq.store.columns import RUN, TASK, status_in_index, status_is, task_id
from batchq.store.moves.becoming import becomes, run_becomes
from batchq.store.moves.holding import FREE
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

_CANCELING = run_becomes(RunState.EXECUTING, RunState.CANCELING)
_CANCELED = [becomes(state, State.CANCELED) for state in sorted(NOT_STARTED)]
_NOT_STARTED = status_in_index(*(move.before for move in _CANCELED))
_WITHOUT_TICKET = status_in_index(*(move.before for move in _CANCELED if move.before is not State.QUEUED))

# Nothing is left to settle: conditions on a canceled task meet nothing, and all their followers are canceled too.
_CANCEL = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), _NOT_STARTED)
    .values(status=State.CANCELED.value, unsettled=False, aside=False)
    .values(token=None, claimed_at=None, ended_at=bindparam("now"))
)


def begin_cancel(tx: Tx, run: int) -> bool:
    """A run → canceling; a hold ends with it. False if the run was not executing."""
    canceling = update(Run).where(RUN.id == run, _CANCELING.standing)
    return bool(tx.execute(canceling.values(status=_CANCELING.status, moving_from=None, **FREE)).rowcount)


def not_started(tx: Tx, run: int, first: int, limit: int) -> list[int]:
    """The first tasks of the run, from this id on, that wait or are ready; locked by the caller's lock of the run."""
    tasks = select(TASK.id).where(TASK.id >= first, TASK.id < task_id(run + 1, 0), _WITHOUT_TICKET)
    return list(tx.execute(tasks.order_by(TASK.id).limit(limit).with_for_update(key_share=True)).scalars())


def came_back(tx: Tx, run: int, end: int) -> list[int]:
    """The tasks of the run, up to this id, whose tickets went back while the caller waited for `lock_out`.

    The caller has the dispatch lock, and canceled all others of them that were ready. SQLite lets nobody in between.
    """
    if not dialect(tx).locks_rows:
        return []
    ready = select(TASK.id).where(TASK.id >= task_id(run, 0), TASK.id < end, status_is(State.READY))
    return list(tx.execute(ready).scalars())


def cancel_tasks(tx: Tx, tasks: Collection[int], now: datetime) -> int:
    """Tasks that have not started → canceled; returns their number."""
    return _CANCEL.count(tx, tasks=tasks, now=now) if tasks else 0
