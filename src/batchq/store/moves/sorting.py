"""Sorting in SQL: tasks of a group that got a limit for each run move to the lanes of their runs (rule 29)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from batchq.core.states import NOT_STARTED
from batchq.store.columns import IN_LINE, OUT, RUN, RUN_IS_OPEN, TASK, task_id
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx


class Unsorted(NamedTuple):
    """A task in a lane that is not of its run."""

    id: int
    run_id: int
    lane: int


_ROW = tuple(TASK[field] for field in Unsorted._fields)
_WAITING = TASK.status.in_([state.value for state in NOT_STARTED])
_MOVE = Statement(update(TaskRow).where(among(TASK.id, "tasks")).values(lane=bindparam("to", type_=TASK.lane.type)))


def unsorted_now(tx: Tx, lanes: Collection[int], limit: int) -> list[Unsorted]:
    """Lock tasks of these lanes that are ready or out, as far as nobody else has them locked."""
    found = [select(*_ROW).where(test, TASK.lane.in_(sorted(lanes))).limit(limit) for test in (OUT, IN_LINE)]
    rows = [row for each in found for row in tx.execute(each.with_for_update(key_share=True, skip_locked=True))]
    return [Unsorted._make(row) for row in rows]


def unsorted_of_run(tx: Tx, run: int, lanes: Collection[int], first: int, limit: int) -> list[Unsorted]:
    """Tasks of a run, locked by the caller, that have not started, from this id on."""
    its = (TASK.id >= max(first, task_id(run, 0)), TASK.id < task_id(run + 1, 0), TASK.lane.in_(sorted(lanes)))
    rows = select(*_ROW).where(*its, _WAITING).order_by(TASK.id).limit(limit)
    return [Unsorted._make(row) for row in tx.execute(rows.with_for_update(key_share=True))]


def unsorted_runs(tx: Tx, lanes: Collection[int]) -> list[int]:
    """Open runs with tasks in these lanes that have not started."""
    tasks = select(TASK.run_id).join(Run, RUN.id == TASK.run_id)
    tasks = tasks.where(RUN_IS_OPEN, _WAITING, TASK.lane.in_(sorted(lanes)))
    return list(tx.execute(tasks.distinct().order_by(TASK.run_id)).scalars())


def move_to_lane(tx: Tx, tasks: Iterable[int], lane: int) -> None:
    """Move locked tasks to another lane of their group."""
    _MOVE.later(tx, tasks=sorted(tasks), to=lane)
