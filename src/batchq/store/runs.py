"""A job becomes rows: the run, its tasks and its conditions (rules 1-3, 10, 24, 28)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from batchq.core import secrets
from batchq.core.affinity import DEFAULT_GROUP
from batchq.store import moves, servers
from batchq.store.database import Database
from batchq.store.servers import PRIORITIES

if TYPE_CHECKING:
    from batchq.spec import JobSpec, TaskSpec


@dataclass(frozen=True, slots=True)
class Rows:
    """Tasks and conditions by their positions in the job, before the run has a number.

    A condition is the position of its predecessor and of its task, the outcome, and whether it handles it: there are
    far more of them than of anything else, so they are stored as they are.
    """

    tasks: list[dict[str, Any]]
    conditions: list[tuple[int, int, str, bool]]


@dataclass(frozen=True, slots=True)
class Number:
    """Gives rows the ids that belong to a run, and tasks without a priority that of their group."""

    run: int
    priorities: Mapping[str, int]

    def task(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The task's row."""
        priority = row["priority"] if row["own_priority"] else self.priorities[row["group_name"]]
        return {**row, "id": moves.task_id(self.run, row["id"]), "run_id": self.run, "priority": priority}

    def conditions(self, conditions: Iterable[tuple[int, int, str, bool]]) -> Iterator[tuple[int, int, str, bool]]:
        """The conditions' rows."""
        first = moves.task_id(self.run, 0)
        return (
            (first + predecessor, first + task, outcome, handles) for predecessor, task, outcome, handles in conditions
        )


def rows_of(job: JobSpec) -> Rows:
    """The rows of a job."""
    positions = {task.name: position for position, task in enumerate(job.tasks)}
    return Rows(
        [_task(job, task, position) for position, task in enumerate(job.tasks)],
        [
            (positions[condition.task], position, str(condition.outcome), condition.handles)
            for position, task in enumerate(job.tasks)
            for condition in task.after
        ],
    )


def _task(job: JobSpec, task: TaskSpec, position: int) -> dict[str, Any]:
    priority = task.priority or job.priority
    return {
        "id": position,
        "name": task.name,
        "operation": task.run,
        "args": json.dumps(task.args),
        "kwargs": secrets.packed(task.kwargs, task.secret),
        "group_name": task.group or job.group or DEFAULT_GROUP,
        "priority": PRIORITIES[priority] if priority else None,
        "own_priority": priority is not None,
        "retries": task.retries,
        "retry_delay": task.retry_delay,
        "time_limit": task.time_limit,
        "ignore_failure": task.ignore_failure,
        "joined": task.join,
        "pending": len(task.after),
    }


def groups_of(job: JobSpec) -> set[str]:
    """The groups that a job's tasks are in (rule 10)."""
    return {task.group or job.group or DEFAULT_GROUP for task in job.tasks}


def keep_job(tx: Connection, job: JobSpec, now: datetime) -> int:
    """Store the job's newest definition; returns its id."""
    return moves.keep_job(tx, moves.kept_job(tx, job.name), job.name, definition_of(job), now)


def definition_of(job: JobSpec) -> str:
    """The job as it is kept."""
    return job.model_dump_json(exclude_defaults=True)


def open_run(tx: Connection, database: Database, job: JobSpec) -> tuple[Number, datetime]:
    """Insert the run, still `storing`, its groups and the job's newest definition; returns what numbers its rows, and
    the instant.
    """
    kept, groups = moves.kept_job(tx, job.name), servers.named_groups(tx, groups_of(job))
    now = database.now(tx)
    values = {
        "job_id": moves.keep_job(tx, kept, job.name, definition_of(job), now),
        "job": job.name,
        "open_tasks": len(job.tasks),
        "run_by": job.run_by,
        "company": job.company,
        "submitted_at": now,
    }
    return Number(moves.open_run(tx, values), groups.priorities), now
