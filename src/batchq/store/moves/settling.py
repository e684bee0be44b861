"""Settling in SQL: conditions counted off, waiting tasks moved on, empty runs closed (rules 3-7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, exists, func, literal_column, or_, select, update

from batchq.core.states import RUN_OPEN, RunState, State
from batchq.store.columns import CONDITION, RUN, TASK, status_in_index
from batchq.store.moves.becoming import becomes
from batchq.store.moves.listing import Listing
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, NoRow, Reply, Statement
from batchq.store.tables import Run, TaskCondition, TaskRow
from batchq.store.transaction import Tx

# --- what is to be settled ----------------------------------------------------------------------------------


class UnsettledRun(NamedTuple):
    """A run with an ended task whose conditions are not all resolved."""

    run_id: int


class UnsettledEnd(NamedTuple):
    """An ended task whose conditions are not all resolved, and whether its run is held."""

    id: int
    status: str
    run_id: int
    held: bool


class Follower(NamedTuple):
    """An unresolved condition on an ended task, with the task that waits.

    The waiting task comes with its status, its join, its numbers of open, met and impossible conditions, the number of
    tasks that share these, and what tells its place in the order of dispatch.
    """

    predecessor_id: int
    task_id: int
    outcome: str
    status: str
    joined: str
    pending: int
    met: int
    impossible: int
    sharing: int
    name: str
    group_name: str
    lane: int
    attempt: int
    own_class: int


_UNSETTLED_RUNS = Listing(
    select(TASK.run_id).where(literal_column("unsettled")).distinct().limit(bindparam("limit")),
    TASK.run_id,
    UnsettledRun,
)
_LOCK_RUNS = Statement(select(RUN.id).where(among(RUN.id, "runs")).order_by(RUN.id).with_for_update(key_share=True))
_UNSETTLED = Statement(
    select(TASK.id, TASK.status, TASK.run_id, RUN.held)
    .join(Run, RUN.id == TASK.run_id)
    .where(literal_column("unsettled"), among(TASK.run_id, "runs"))
    .order_by(TASK.run_id, TASK.id)
    .limit(bindparam("limit")),
    row=UnsettledEnd,
)
_before = TaskRow.__table__.alias("before")
_FOLLOWERS = Statement(
    select(CONDITION.predecessor_id, CONDITION.task_id, CONDITION.outcome)
    .add_columns(TASK.status, TASK.joined, TASK.pending, TASK.met, TASK.impossible, TASK.sharing)
    .add_columns(TASK.name, TASK.group_name, TASK.lane, TASK.attempt, TASK.own_class)
    .join(_before, _before.c.id == CONDITION.predecessor_id)
    .join(TaskRow, TASK.id == CONDITION.task_id)
    .where(among(CONDITION.predecessor_id, "tasks"), CONDITION.task_id > func.coalesce(_before.c.settled_up_to, 0))
    .order_by(CONDITION.predecessor_id, CONDITION.task_id)
    .limit(bindparam("limit")),
    row=Follower,
)


def unsettled_runs(tx: Tx, limit: int, aside: Collection[int] = ()) -> Reply[UnsettledRun]:
    """Runs with an ended task whose conditions are not all resolved, except those `aside`."""
    return _UNSETTLED_RUNS.later(tx, aside, limit=limit)


def lock_runs(tx: Tx, runs: Collection[int]) -> None:
    """Lock these runs until the commit, so that nobody else settles them."""
    if runs and dialect(tx).locks_rows:
        _LOCK_RUNS.later(tx, runs=runs)


def unsettled_ends(tx: Tx, runs: Collection[int], limit: int) -> list[UnsettledEnd]:
    """Ended tasks of the runs whose conditions are not all resolved."""
    return _UNSETTLED(tx, runs=runs, limit=limit)


def followers(tx: Tx, tasks: Collection[int], limit: int) -> Reply[Follower]:
    """Unresolved conditions on these ended tasks, in the order of predecessor and task.

    The rows stay true until the commit: the caller locked the runs (`lock_runs`).
    """
    return _FOLLOWERS.later(tx, tasks=tasks, limit=limit)


# --- tasks move on ------------------------------------------------------------------------------------------

_MOVED_ON = becomes(State.WAITING, State.READY, State.DIDNT_RUN)

_numbers = {"task": TASK.id, "pending": TASK.pending, "met": TASK.met, "impossible": TASK.impossible}
_COUNT = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task)
        .values(pending=given.pending, met=given.met, impossible=given.impossible)
    ),
    plain=True,
    columns=_numbers,
)
_COUNT_AND_MOVE = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, _MOVED_ON.standing)
        .values(pending=given.pending, met=given.met, impossible=given.impossible)
        .values(status=given.state, ready_at=given.ready, ended_at=given.ended)
    ),
    columns={**_numbers, "state": TASK.status, "ready": TASK.ready_at, "ended": TASK.ended_at},
)
_MOVE_SHARING = Statement(
    update(TaskRow)
    .where(among(TASK.waits_with, "tasks"), _MOVED_ON.standing)
    .values(status=bindparam("state"), ready_at=bindparam("ready"), ended_at=bindparam("ended"))
    .returning(TASK.id),
    row=Id,
)
_LEAVE = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task)
        .values(unsettled=True, settled_up_to=func.coalesce(given.reached, TASK.settled_up_to))
    ),
    columns={"task": TASK.id, "reached": TASK.settled_up_to},
)
_SETTLED = Statement(update(TaskRow).where(among(TASK.id, "tasks")).values(unsettled=False, settled_up_to=None))


def count(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Store new counts of conditions; the tasks stay in their states."""
    if rows:
        _COUNT.later(tx, rows)


def count_and_move(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Store new counts of conditions and move the waiting tasks to ready or didn't run."""
    if rows:
        _COUNT_AND_MOVE.later(tx, rows)


def move_sharing(tx: Tx, tasks: Collection[int], state: State, now: datetime) -> Reply[Id]:
    """Move the waiting tasks that share the conditions of these to the same `state`; returns their ids."""
    ready = state is State.READY
    return _MOVE_SHARING.later(
        tx, tasks=tasks, state=state.value, ready=now if ready else None, ended=None if ready else now
    )


def mark_unsettled(tx: Tx, tasks: Collection[int], reached: Mapping[int, int]) -> None:
    """Mark ended tasks whose conditions are not all resolved; `reached` is the last follower that was."""
    if tasks:
        _LEAVE.later(tx, [{"task": task, "reached": reached.get(task)} for task in tasks])


def clear_unsettled(tx: Tx, tasks: Collection[int]) -> None:
    """Clear the mark of `mark_unsettled`: all conditions on these tasks are resolved."""
    if tasks:
        _SETTLED.later(tx, tasks=tasks)


# --- runs close ---------------------------------------------------------------------------------------------


class CountedRun(NamedTuple):
    """A run whose settled tasks were counted off, with its number of open tasks."""

    id: int
    open_tasks: int
    status: str


class FailedTask(NamedTuple):
    """A task that ended in error or was aborted, and whether a task handled it."""

    run_id: int
    status: str
    ignore_failure: bool
    handled: bool
    aborted: bool


_COUNT_OFF = Statement(
    lambda given: (
        update(Run)
        .where(RUN.id == given.run)
        .values(open_tasks=RUN.open_tasks - given.tasks)
        .returning(RUN.id, RUN.open_tasks, RUN.status)
    ),
    columns={"run": RUN.id, "tasks": RUN.open_tasks},
    row=CountedRun,
)
_CLOSE = Statement(
    lambda given: (
        update(Run)
        .where(RUN.id == given.run, RUN.open_tasks == 0, RUN.status == given.was)
        .values(status=given.verdict, ended_at=bindparam("now"))
    ),
    columns={"run": RUN.id, "was": RUN.status, "verdict": RUN.status},
)
_handler = TaskRow.__table__.alias("handler")
_handled = exists(
    select(literal_column("1"))
    .select_from(TaskCondition)
    .join(_handler, _handler.c.id == CONDITION.task_id)
    .where(CONDITION.predecessor_id == TASK.id, literal_column("handles"), _handler.c.status == State.SUCCESS.value)
)
_FAILURES = Statement(
    select(
        TASK.run_id,
        TASK.status,
        TASK.ignore_failure,
        _handled.label("handled"),
        (TASK.status == State.CANCELED.value).label("aborted"),
    ).where(
        among(TASK.run_id, "runs"),
        status_in_index(State.ERROR, State.CANCELED),
        or_(TASK.status == State.ERROR.value, TASK.claimed_at.is_not(None)),
    ),
    row=FailedTask,
)


def count_off(tx: Tx, ended: Mapping[int, int]) -> Reply[CountedRun]:
    """Subtract each run's settled tasks from its open ones; `emptied` reads the answer."""
    return _COUNT_OFF.later(tx, [{"run": run, "tasks": tasks} for run, tasks in sorted(ended.items())])


def emptied(counted: Reply[CountedRun]) -> dict[int, RunState]:
    """The open runs, with their states, in which `count_off` left no task open."""
    runs = {row.id: RunState(row.status) for row in counted.rows if row.open_tasks == 0}
    return {run: state for run, state in runs.items() if state in RUN_OPEN}


def failures(tx: Tx, runs: Collection[int]) -> list[FailedTask]:
    """The runs' tasks that ended in error or were aborted (rule 7)."""
    return _FAILURES(tx, runs=runs)


def close_runs(tx: Tx, runs: Sequence[Mapping[str, object]], now: datetime) -> Reply[NoRow]:
    """Give empty runs (`run`, in the state `was`) their `verdict`."""
    return _CLOSE.later(tx, runs, now=now)
