"""A run as people read it: a line in a list, and one with all its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypedDict

from sqlalchemy import ColumnElement, func, literal, or_, select

from batchq.core.priority import AGING
from batchq.core.states import RUN_OPEN, State
from batchq.store import moves
from batchq.store.columns import ATTEMPT, RUN, RUN_IS_OPEN, TASK
from batchq.store.find import RUN_ROWS, RunRow, run_row
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Selected
from batchq.views.task import FAILED, SERVER_NAME, TaskLine, task_line, with_server
from batchq.views.why import Reasons, why_of_tasks

TASK_COLUMNS = (
    TASK.id,
    TASK.name,
    TASK.status,
    TASK.group_name,
    TASK.lane,
    TASK.own_class,
    TASK.operation,
    TASK.attempt,
    TASK.joined,
    TASK.ready_at,
    TASK.claimed_at,
    TASK.ended_at,
    TASK.error,
    TASK.accepted,
    TASK.stage,
    ATTEMPT.reason,
    SERVER_NAME,
)


class RunLine(TypedDict):
    """A run without its tasks; `started_at` is the instant of its first claim (rule 20).

    `retrying` is true while a large retry is under way: the run has its old verdict until all its tasks are reset.
    Nothing of a `held` run starts; who held it, when and why is told while it is held.
    """

    run: int
    job: str
    status: str
    run_by: str | None
    company: str | None
    submitted_at: str | None
    started_at: str | None
    ended_at: str | None
    retrying: bool
    held: bool
    held_by: str | None
    held_at: str | None
    held_why: str | None


class RunCounts(RunLine):
    """A run with its tasks counted by status."""

    tasks: dict[str, int]


class RunView(RunLine):
    """A run with all its tasks, in the order of the job."""

    tasks: list[TaskLine]


def run_view(
    tx: Tx,
    run: int,
    now: datetime | None = None,
    *,
    timezone: str | None = None,
    results: bool = True,
    aging: float = AGING,
) -> RunView:
    """A run with all its tasks in the order of the job; raises NotFound.

    Without `results`, which may be large, they are null. `started_at` is the instant of the claim (rule 20). A task
    that waits rises by a class each `aging` seconds.
    """
    found = run_row(tx, run)
    columns = (*TASK_COLUMNS, TASK.result if results else literal(None).label("result"))
    tasks = tx.execute(with_server(columns).where(TASK.run_id == run, ~TASK.unnamed).order_by(TASK.id)).all()
    why = why_of_tasks(tx, run, tasks, Reasons(tx, now, timezone, aging=aging, job=found.job))
    handled = moves.handlers(tx, [task.id for task in tasks if task.status in FAILED])
    lines = [task_line(task, why.get(task.id), handled.get(task.id)) for task in tasks]
    return {**run_line(found), "tasks": lines}


def runs(
    tx: Tx,
    *,
    job: str | None = None,
    statuses: Iterable[str] = (),
    since: datetime | None = None,
    limit: int | None = None,
) -> list[RunCounts]:
    """The newest runs first, each as `run_view` gives it but with `tasks` counted by status.

    With `since` only runs that had not ended before that instant.
    """
    chosen = RUN_ROWS.order_by(RUN.id.desc()).limit(limit)
    if job is not None:
        chosen = chosen.where(RUN.job == job)
    if wanted := list(statuses):
        chosen = chosen.where(RUN.status.in_(wanted))
        if RUN_OPEN.issuperset(wanted):
            chosen = chosen.where(RUN_IS_OPEN)  # by its index, for most runs have ended
    if since is not None:
        chosen = chosen.where(ended_since(since))
    rows = [RunRow._make(row) for row in tx.execute(chosen)]
    counts: dict[int, dict[str, int]] = {row.id: {} for row in rows}
    counted = select(TASK.run_id, TASK.status, func.count()).where(TASK.run_id.in_(list(counts)), ~TASK.unnamed)
    for run, status, number in tx.execute(counted.group_by(TASK.run_id, TASK.status)):
        counts[run][status] = number
    return [{**run_line(row), "tasks": _in_order(counts[row.id])} for row in rows]


def ended_since(since: datetime) -> ColumnElement[bool]:
    """A run ended at that instant or later, or has not ended."""
    return or_(RUN.ended_at.is_(None), RUN.ended_at >= since)


def run_line(row: RunRow | Selected) -> RunLine:
    """The line of a run's row."""
    return {
        "run": row.id,
        "job": row.job,
        "status": row.status,
        "run_by": row.run_by,
        "company": row.company,
        "submitted_at": iso(row.submitted_at),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "retrying": row.retry is not None,
        "held": row.held,
        "held_by": row.held_by if row.held else None,
        "held_at": iso(row.held_at) if row.held else None,
        "held_why": row.held_why if row.held else None,
    }


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {state.value: counts[state.value] for state in State if state.value in counts}
