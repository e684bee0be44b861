"""Failures of attempts, those with the same pattern together: what went wrong, how often, when and where."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from sqlalchemy import func, select

from batchq.core.pattern import LONGEST, pattern
from batchq.store.columns import ATTEMPT, FAILED_ATTEMPT, RUN, TASK, run_of
from batchq.store.tables import AttemptRow, Run, TaskRow
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Query, Selected

# Older failures are left out: a database may hold millions.
MOST = 50_000
EXAMPLES = 3


class FailedAttempt(TypedDict):
    """An attempt that failed, by names."""

    run: int
    job: str
    task: str
    attempt: int


class FailureView(TypedDict):
    """Failures whose errors differ in numbers, ids and quoted texts alone.

    `error` has `…` for these parts, `example` is the newest error as it is. `count` counts attempts, `tasks` the
    tasks that they belong to. `newest` names up to three of the attempts.
    """

    error: str
    error_class: str | None
    reason: str | None
    count: int
    tasks: int
    first_at: str
    last_at: str
    example: str | None
    jobs: list[str]
    newest: list[FailedAttempt]


def failures(
    tx: Tx, *, since: datetime | None = None, job: str | None = None, limit: int | None = None
) -> list[FailureView]:
    """The failures since an instant, grouped by pattern, class and reason: the most frequent first, at most `limit`.

    A failed attempt counts also if a later one succeeded. Only the newest 50,000 failures are read.
    """
    groups: dict[tuple[str, str | None, str | None], list[Selected]] = {}
    for row in tx.execute(_failed(since, job)):
        groups.setdefault((pattern(row.error), row.error_class, row.reason), []).append(row)
    views = [_group(key[0], rows) for key, rows in groups.items()]
    return sorted(views, key=lambda view: view["count"], reverse=True)[:limit]


def _failed(since: datetime | None, job: str | None) -> Query:
    """The failed attempts, the newest first."""
    rows = (
        select(
            ATTEMPT.task_id,
            ATTEMPT.attempt,
            ATTEMPT.reason,
            ATTEMPT.error_class,
            ATTEMPT.ended_at,
            func.substr(ATTEMPT.error, 1, 2 * LONGEST).label("error"),
            TASK.name,
            RUN.job,
        )
        .select_from(AttemptRow)
        .join(TaskRow, TASK.id == ATTEMPT.task_id)
        .join(Run, RUN.id == TASK.run_id)
        .where(FAILED_ATTEMPT)
        .order_by(ATTEMPT.ended_at.desc())
        .limit(MOST)
    )
    if since is not None:
        rows = rows.where(ATTEMPT.ended_at >= since)
    return rows if job is None else rows.where(RUN.job == job)


def _group(error: str, rows: list[Selected]) -> FailureView:
    """The view of failures that are alike, of which the newest comes first."""
    return {
        "error": error,
        "error_class": rows[0].error_class,
        "reason": rows[0].reason,
        "count": len(rows),
        "tasks": len({row.task_id for row in rows}),
        "first_at": iso(rows[-1].ended_at),
        "last_at": iso(rows[0].ended_at),
        "example": rows[0].error,
        "jobs": sorted({row.job for row in rows}),
        "newest": [_attempt(row) for row in rows[:EXAMPLES]],
    }


def _attempt(row: Selected) -> FailedAttempt:
    return {"run": run_of(row.task_id), "job": row.job, "task": row.name, "attempt": row.attempt}
