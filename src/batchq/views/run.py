"""A run as people read it: a line in a list, and one with all its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypedDict

from sqlalchemy import func, literal, select

from batchq.core.priority import AGING
from batchq.core.states import State
from batchq.store.columns import RUN, TASK
from batchq.store.find import RUN_ROWS, RunRow, run_row
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Selected
from batchq.views.task import SERVER_NAME, TaskLine, handlers, task_line, with_server
from batchq.views.why import Reasons, why_of_tasks

_TASK_COLUMNS = (
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
    SERVER_NAME,
)


class RunLine(TypedDict):
    """A run without its tasks; `started_at` is the instant of its first claim (rule 20)."""

    run: int
    job: str
    status: str
    run_by: str | None
    company: str | None
    submitted_at: str | None
    started_at: str | None
    ended_at: str | None


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
    columns = (*_TASK_COLUMNS, TASK.result if results else literal(None).label("result"))
    tasks = tx.execute(with_server(columns).where(TASK.run_id == run).order_by(TASK.id)).all()
    why = why_of_tasks(tx, run, tasks, Reasons(tx, now, timezone, aging=aging, job=found.job))
    handled = handlers(tx, run) if any(task.status == State.ERROR for task in tasks) else {}
    lines = [task_line(task, why.get(task.id), handled.get(task.id)) for task in tasks]
    return {**run_line(found), "tasks": lines}


def runs(tx: Tx, *, job: str | None = None, statuses: Iterable[str] = (), limit: int | None = None) -> list[RunCounts]:
    """The newest runs first, each as `run_view` gives it but with `tasks` counted by status."""
    chosen = RUN_ROWS.order_by(RUN.id.desc()).limit(limit)
    if job is not None:
        chosen = chosen.where(RUN.job == job)
    if wanted := list(statuses):
        chosen = chosen.where(RUN.status.in_(wanted))
    rows = [RunRow._make(row) for row in tx.execute(chosen)]
    counts: dict[int, dict[str, int]] = {row.id: {} for row in rows}
    counted = select(TASK.run_id, TASK.status, func.count()).where(TASK.run_id.in_(list(counts)))
    for run, status, number in tx.execute(counted.group_by(TASK.run_id, TASK.status)):
        counts[run][status] = number
    return [{**run_line(row), "tasks": _in_order(counts[row.id])} for row in rows]


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
    }


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {state.value: counts[state.value] for state in State if state.value in counts}
