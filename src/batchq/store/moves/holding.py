"""Holding in SQL: a run's flag stops its tasks at once, and its ready tasks leave the order of dispatch (rule 33)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import RunState, State
from batchq.store.columns import MOVING, OUT, RUN, TASK, status_in_index, status_is, task_id
from batchq.store.moves.becoming import becomes
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

# Rows that one transaction moves: where others write meanwhile, they wait for it.
ROWS_BESIDE_OTHERS = 5_000
ROWS_ALONE = 25_000

# The columns of a run that is not held.
FREE: dict[str, object] = {"held": False, "held_by": None, "held_at": None, "held_why": None}

_TAKEN_BACK = becomes(State.QUEUED, State.READY)
_MAY_BE_HELD = (RunState.STORING, RunState.EXECUTING)

# SQLite uses a partial index only for a query that repeats the index's own words.
_ASIDE: ColumnElement[bool] = literal_column("batchq_task.aside")
# Whether a task's run is held; for a task that becomes ready where nobody has read its run.
RUN_IS_HELD = select(RUN.held).where(RUN.id == TASK.run_id).correlate(TaskRow.__table__).scalar_subquery()


class Moving(NamedTuple):
    """A run of which rows are left to be moved: by a cancel, or else by a hold or a release, as `held` says."""

    id: int
    status: str
    held: bool
    moving_from: int


_PUT_ASIDE = Statement(update(TaskRow).where(among(TASK.id, "tasks"), status_is(State.READY)).values(aside=True))
_BRING_BACK = Statement(update(TaskRow).where(among(TASK.id, "tasks"), TASK.aside).values(aside=False))
_TAKE_BACK = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), _TAKEN_BACK.standing)
    .values(status=_TAKEN_BACK.status, token=None, queued_at=None, aside=True)
)
_HELD = Statement(select(RUN.id).where(among(RUN.id, "runs"), RUN.held), row=Id)
_LOCK_TICKETS = Statement(
    select(TASK.id).where(among(TASK.id, "tasks")).order_by(TASK.id).with_for_update(key_share=True, nowait=True),
    row=Id,
)


def rows_at_once(tx: Tx) -> int:
    """The number of rows that one transaction moves."""
    return ROWS_BESIDE_OTHERS if dialect(tx).locks_rows else ROWS_ALONE


def put_aside(tx: Tx, tasks: Collection[int]) -> None:
    """Take tasks of held runs, which have become ready, out of the order of dispatch."""
    if tasks:
        _PUT_ASIDE.later(tx, tasks=tasks)


# --- the run ------------------------------------------------------------------------------------------------


def lock_run(tx: Tx, run: int) -> None:
    """Lock a run for an operator's action: it waits for whoever settles the run, or moves its rows in pieces."""
    tx.execute(select(RUN.id).where(RUN.id == run).with_for_update())


def held_among(tx: Tx, runs: Collection[int]) -> set[int]:
    """The held ones among these runs, which the caller has locked."""
    return {row.id for row in _HELD(tx, runs=runs)}


def hold_run(tx: Tx, run: int, by: str, why: str | None, now: datetime) -> bool:
    """Set the flag of a run that is not held; False if it cannot be held, or is held already."""
    may = RUN.status.in_([state.value for state in _MAY_BE_HELD])
    held = {"held": True, "held_by": by, "held_at": now, "held_why": why, "moving_from": task_id(run, 0)}
    return bool(tx.execute(update(Run).where(RUN.id == run, ~RUN.held, may).values(**held)).rowcount)


def release_run(tx: Tx, run: int) -> bool:
    """Clear the flag of a held run; False if it is not held."""
    free = update(Run).where(RUN.id == run, RUN.held).values(**FREE, moving_from=task_id(run, 0))
    return bool(tx.execute(free).rowcount)


def tickets_of(tx: Tx, run: int) -> list[int]:
    """The run's tasks whose tickets are out, locked; call it under the dispatch lock, after `lock_out`.

    A ticket that is being claimed is not waited for: the transaction is broken off and begins again (`Database.run`).
    """
    queued = select(TASK.id).where(OUT, status_in_index(State.QUEUED), TASK.run_id == run)
    tasks = sorted(tx.execute(queued).scalars())
    if tasks and dialect(tx).locks_rows:
        _LOCK_TICKETS(tx, tasks=tasks)
    return tasks


def take_tickets_back(tx: Tx, tasks: Collection[int]) -> None:
    """queued → ready, and aside, for these tasks of a held run."""
    if tasks:
        _TAKE_BACK.later(tx, tasks=tasks)


# --- its rows, in pieces ------------------------------------------------------------------------------------


def moving_runs(tx: Tx, limit: int | None = None) -> list[int]:
    """Runs of which rows are left to be moved, the first ones if there is a `limit`."""
    return list(tx.execute(select(RUN.id).where(MOVING).order_by(RUN.id).limit(limit)).scalars())


def moving(tx: Tx, run: int, *, settles: bool = False) -> Moving | None:
    """The run as it stands, if rows of it are left to be moved and nobody else has it locked now.

    Until the commit its flag stays as it is. Servers go on with it meanwhile, unless this transaction `settles` it.
    """
    found = select(RUN.id, RUN.status, RUN.held, RUN.moving_from).where(RUN.id == run, RUN.moving_from.is_not(None))
    row = tx.execute(found.with_for_update(read=not settles, key_share=True, skip_locked=True)).one_or_none()
    return None if row is None else Moving._make(row)


def put_aside_from(tx: Tx, run: int, first: int, limit: int) -> list[int]:
    """Put the run's first ready tasks aside, from this id on; rows that others have locked are left out."""
    ready = (TASK.id >= first, TASK.id < task_id(run + 1, 0), status_is(State.READY), ~TASK.aside)
    tasks = _locked(tx, select(TASK.id).where(*ready), limit)
    put_aside(tx, tasks)
    return tasks


def bring_back(tx: Tx, run: int, limit: int) -> list[int]:
    """Bring the run's first tasks that are aside back into the order; rows that others have locked are left out."""
    tasks = _locked(tx, select(TASK.id).where(_ASIDE, TASK.run_id == run), limit)
    if tasks:
        _BRING_BACK.later(tx, tasks=tasks)
    return tasks


def _locked(tx: Tx, tasks: Select[int], limit: int) -> list[int]:
    locked = tasks.order_by(TASK.id).limit(limit).with_for_update(key_share=True, skip_locked=True)
    return list(tx.execute(locked).scalars())


def end_moving(tx: Tx, run: int) -> bool:
    """Note that all rows of the run have been moved; False if one is left, or somebody else has the run locked."""
    row = moving(tx, run, settles=True)
    if row is None:
        return False
    ready = (TASK.id >= task_id(run, 0), TASK.id < task_id(run + 1, 0), status_is(State.READY), ~TASK.aside)
    left = ready if row.held else (_ASIDE, TASK.run_id == run)
    if tx.execute(select(TASK.id).where(*left).limit(1)).scalar() is not None:
        return False
    moved_up_to(tx, run, None)
    return True


def moved_up_to(tx: Tx, run: int, first: int | None) -> None:
    """Note the first task of a run, locked by the caller, whose row is left to be moved; None if there is none."""
    tx.execute(update(Run).where(RUN.id == run).values(moving_from=first))
