"""A run being stored: opened once all of it is there, or given up."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, delete, select, update

from batchq.core.states import RunState, State
from batchq.store.columns import RUN, STORING, TASK
from batchq.store.moves.becoming import becomes, run_becomes
from batchq.store.moves.holding import FREE
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, NoRow, Reply, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

_OPENS = run_becomes(RunState.STORING, RunState.EXECUTING)
_GIVEN_UP = run_becomes(RunState.STORING, RunState.CANCELED)
_READIED = becomes(State.WAITING, State.READY)
_SUCCEEDED = becomes(State.WAITING, State.SUCCESS)

_START = Statement(
    update(Run).where(among(RUN.id, "runs"), _OPENS.standing).values(status=_OPENS.status, started_at=bindparam("now"))
)
_started = select(RUN.id).where(among(RUN.id, "runs"), RUN.started_at == bindparam("now"))
_START_TASKS = Statement(
    update(TaskRow)
    .where(TASK.run_id.in_(_started), TASK.pending == 0, ~TASK.gate, _READIED.in_index)
    .values(status=_READIED.status, ready_at=bindparam("now"), aside=TASK.run_id.in_(_started.where(RUN.held)))
)
_OPEN_GATES = Statement(
    update(TaskRow)
    .where(TASK.run_id.in_(_started), TASK.pending == 0, TASK.gate, _SUCCEEDED.in_index)
    .values(status=_SUCCEEDED.status, ended_at=bindparam("now"))
    .returning(TASK.id),
    row=Id,
)


def start_runs(tx: Tx, runs: Collection[int], now: datetime) -> Reply[NoRow]:
    """storing → executing; their tasks without conditions become ready (rule 2). Counts those that were storing."""
    started = _START.later(tx, runs=runs, now=now)
    _START_TASKS.later(tx, runs=runs, now=now)
    return started


def open_gates(tx: Tx, runs: Collection[int], now: datetime) -> Reply[Id]:
    """waiting → success for the gates without conditions of runs that `start_runs` opened at this instant (rule 50).

    Returns their ids; the caller settles them.
    """
    return _OPEN_GATES.later(tx, runs=runs, now=now)


def is_storing(tx: Tx, run: int) -> bool:
    """Whether the run is still being stored; a shared lock keeps it so until the commit."""
    found = select(RUN.id).where(RUN.id == run, STORING).with_for_update(read=True)
    return tx.execute(found).scalar() is not None


def numbers_storing(tx: Tx, before: datetime) -> list[int]:
    """The runs submitted before that instant that are still being stored."""
    storing = select(RUN.id).where(STORING, RUN.submitted_at < before)
    return list(tx.execute(storing.order_by(RUN.id)).scalars())


def discard_unstored(tx: Tx, before: datetime, now: datetime, aside: Collection[int] = ()) -> list[int]:
    """storing → canceled for runs submitted before that instant, as their submit died half-way; returns them."""
    return [run for run in numbers_storing(tx, before) if run not in aside and give_up(tx, run, now)]


def give_up(tx: Tx, run: int, now: datetime) -> bool:
    """storing → canceled; its tasks are deleted, as half of a job misleads, and a hold ends with it.

    False if it was not storing.
    """
    statement = update(Run).where(RUN.id == run, _GIVEN_UP.standing).values(open_tasks=0, moving_from=None, **FREE)
    if not tx.execute(statement.values(status=_GIVEN_UP.status, ended_at=now)).rowcount:
        return False
    tx.execute(delete(TaskRow).where(TASK.run_id == run))
    return True
