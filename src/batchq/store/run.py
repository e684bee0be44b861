"""A job becomes rows, and is stored: the run, its tasks and its conditions (rules 1-3, 10, 24, 28)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, insert, literal, select, update

from batchq.core import secrets
from batchq.core.conditions import Join
from batchq.core.states import RunState
from batchq.core.topology import DEFAULT_GROUP
from batchq.store import server as servers
from batchq.store.columns import CONDITION, JOB, RUN, TASK, task_id
from batchq.store.database import Database
from batchq.store.server import PRIORITIES
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Job, Run, Task, TaskCondition

if TYPE_CHECKING:
    from batchq.spec import JobSpec, TaskSpec

# So many tasks have their conditions in common at most: they all move in one transaction.
MOST_ALIKE = 250
# That is one more statement, which so many conditions that need not be stored and counted are worth.
WORTH_SHARING = 4
# How a task's conditions are joined, and what they are: position, outcome, and whether it handles it.
Asked = tuple[Join, tuple[tuple[int, str, bool], ...]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Tasks and conditions by their positions in the job, before the run has a number.

    A condition is the position of its predecessor and of its task, the outcome, and whether it handles it: there may be
    far more of them than of anything else, so they are stored as they are. Those that tasks share are there once.
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
        first, leader = task_id(self.run, 0), row["waits_with"]
        return {
            **row,
            "id": first + row["id"],
            "run_id": self.run,
            "priority": priority,
            "waits_with": None if leader is None else first + leader,
        }

    def conditions(self, conditions: Iterable[tuple[int, int, str, bool]]) -> Iterator[tuple[int, int, str, bool]]:
        """The conditions' rows."""
        first = task_id(self.run, 0)
        return (
            (first + predecessor, first + task, outcome, handles) for predecessor, task, outcome, handles in conditions
        )


def rows_of(job: JobSpec) -> Rows:
    """The rows of a job."""
    positions = {task.name: position for position, task in enumerate(job.tasks)}
    tasks = [_task(job, task, position) for position, task in enumerate(job.tasks)]
    asked: list[Asked] = [
        (task.join, tuple((positions[each.task], str(each.outcome), each.handles) for each in task.after))
        for task in job.tasks
    ]
    return Rows(tasks, list(_share(tasks, asked)))


def _share(tasks: list[dict[str, Any]], asked: list[Asked]) -> Iterator[tuple[int, int, str, bool]]:
    """Let tasks share the conditions that they have in common; yields those that are to be stored."""
    alike = Counter(asked)
    leaders: dict[Asked, dict[str, Any]] = {}
    for task, each in zip(tasks, asked, strict=True):
        leader = leaders.get(each)
        if leader and leader["sharing"] + 1 < MOST_ALIKE:
            leader["sharing"] += 1
            task["waits_with"] = leader["id"]
            continue
        _, conditions = each
        # Whose success handles a failure is asked of the task itself (rule 7): such a one has its conditions alone.
        if (alike[each] - 1) * len(conditions) >= WORTH_SHARING and not any(handles for _, _, handles in conditions):
            leaders[each] = task
        yield from ((before, task["id"], outcome, handles) for before, outcome, handles in conditions)


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
        "waits_with": None,
        "sharing": 0,
    }


def groups_of(job: JobSpec) -> set[str]:
    """The groups that a job's tasks are in (rule 10)."""
    return {task.group or job.group or DEFAULT_GROUP for task in job.tasks}


# --- storing ------------------------------------------------------------------------------------------------

_KEPT = Statement(select(JOB.id).where(JOB.name == bindparam("named")).with_for_update())
_KEEP = Statement(
    update(Job)
    .where(JOB.id == bindparam("job"))
    .values(definition=bindparam("definition"), updated_at=bindparam("now"))
)
_OPEN_RUN = Statement(
    insert(Run)
    .values({name: bindparam(name) for name in ("job_id", "job", "open_tasks", "run_by", "company", "submitted_at")})
    .values(status=RunState.STORING.value)
    .returning(RUN.id)
)


def keep_job(tx: Connection, job: JobSpec, now: datetime) -> int:
    """Store the job's newest definition; returns its id."""
    return _keep(tx, _KEPT.later(tx, named=job.name), job, now)


def _keep(tx: Connection, kept: Reply, job: JobSpec, now: datetime) -> int:
    definition = job.model_dump_json(exclude_defaults=True)
    for row in kept.rows:
        _KEEP.later(tx, job=row.id, definition=definition, now=now)
        return int(row.id)
    values = {"name": job.name, "definition": definition, "updated_at": now}
    return int(tx.execute(insert(Job).values(**values).returning(JOB.id)).scalar_one())


def open_run(tx: Connection, database: Database, job: JobSpec) -> tuple[Number, datetime]:
    """Insert the run, still `storing`, its groups and the job's newest definition; returns what numbers its rows, and
    the instant.
    """
    kept, groups = _KEPT.later(tx, named=job.name), servers.named_groups(tx, groups_of(job))
    now = database.now(tx)
    ((run,),) = _OPEN_RUN(
        tx,
        job_id=_keep(tx, kept, job, now),
        job=job.name,
        open_tasks=len(job.tasks),
        run_by=job.run_by,
        company=job.company,
        submitted_at=now,
    )
    return Number(int(run), groups.priorities), now


# What a task is stored with; all else is at first what the column's default says.
_stored = {
    name: TASK[name]
    for name in (
        *("id", "run_id", "name", "operation", "args", "kwargs", "group_name", "priority", "own_priority"),
        *("retries", "retry_delay", "time_limit", "ignore_failure", "joined", "pending", "waits_with", "sharing"),
    )
}
_at_first = {column.name: column.default.arg for column in TASK if column.default and column.name not in _stored}
_ADD_TASKS = Statement(
    lambda given: insert(Task).from_select(
        [*_stored, *_at_first],
        select(
            *(getattr(given, name) for name in _stored),
            *(literal(value, TASK[name].type) for name, value in _at_first.items()),
        ),
        include_defaults=False,
    ),
    **_stored,
)


def add_tasks(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert tasks."""
    if rows:
        _ADD_TASKS.later(tx, rows)


_condition = {name: CONDITION[name] for name in ("predecessor_id", "task_id", "outcome", "handles")}
_ADD_CONDITIONS = Statement(
    lambda given: insert(TaskCondition).from_select(
        list(_condition), select(*(getattr(given, name) for name in _condition))
    ),
    plain=True,
    **_condition,
)


def add_conditions(tx: Connection, rows: Sequence[tuple[int, int, str, bool]]) -> None:
    """Insert conditions: predecessor, task, outcome, and whether that is handled."""
    if rows:
        _ADD_CONDITIONS.later(tx, rows)
