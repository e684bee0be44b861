"""A run in SQL: a job becomes the rows of a run, its tasks and its conditions (rules 1-3, 10, 24, 28)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from sqlalchemy import insert, literal, select
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from batchq.core import secrets
from batchq.core.conditions import Join
from batchq.core.limits import named, of_job, of_run, written
from batchq.core.priority import PRIORITIES
from batchq.core.states import RunState
from batchq.core.topology import DEFAULT_GROUP
from batchq.store import job as jobs
from batchq.store import schema
from batchq.store import topology as topologies
from batchq.store.columns import CONDITION, RUN, TASK, task_id
from batchq.store.group import NamedGroup, named_groups
from batchq.store.lane import lanes_for
from batchq.store.limit import require_limits
from batchq.store.sql.dialect import dialect
from batchq.store.sql.statement import Statement
from batchq.store.tables import Run, TaskCondition, TaskRow
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec, TaskSpec

# The most tasks that share their conditions: they all move in one transaction, which would get too long.
MOST_ALIKE = 250
# The fewest conditions that sharing must save: it costs one more statement.
WORTH_SHARING = 4
# How a task's conditions are joined, and each one's position, outcome and whether it handles a failure.
Node = tuple[Join, tuple[tuple[int, str, bool], ...]]


class TaskValues(TypedDict):
    """The columns of a task before its run has a number; `id` is its position in the job.

    `limits` are the named limits of the task and of its job, sorted.
    """

    id: int
    name: str
    operation: str
    args: str
    kwargs: str
    group_name: str
    own_class: int | None
    own_priority: bool
    retries: int
    retry_delay: float
    time_limit: float | None
    ignore_failure: bool
    joined: str
    pending: int
    waits_with: int | None
    sharing: int
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Tasks and conditions by their positions in the job, before the run has a number.

    A condition is the position of its predecessor and of its task, the outcome, and whether it handles a failure. It is
    a tuple, as a job may have far more conditions than anything else. Shared conditions are there once.
    """

    tasks: list[TaskValues]
    conditions: list[tuple[int, int, str, bool]]


@dataclass(frozen=True, slots=True)
class Number:
    """Gives rows the ids that belong to a run, and tasks their lanes; those without a priority get that of their group.

    `lanes` are by group and by the named limits of a task.
    """

    run: int
    groups: Mapping[str, NamedGroup]
    lanes: Mapping[tuple[str, tuple[str, ...]], int]

    def task(self, row: TaskValues) -> dict[str, object]:
        """The task's row."""
        group = row["group_name"]
        priority = row["own_class"] if row["own_priority"] else self.groups[group].priority
        first, leader = task_id(self.run, 0), row["waits_with"]
        return {
            **row,
            "id": first + row["id"],
            "run_id": self.run,
            "own_class": priority,
            "lane": self.lanes[group, row["limits"]],
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
    # By the conditions' identity: tasks that follow the same ones mostly have them as one tuple.
    nodes: dict[tuple[int, Join], Node] = {}
    for task in job.tasks:
        if (key := (id(task.after), task.join)) not in nodes:
            after = tuple((positions[each.task], str(each.outcome), each.handles) for each in task.after)
            nodes[key] = task.join, after
    return Rows(tasks, list(_share(tasks, [nodes[id(task.after), task.join] for task in job.tasks])))


def _share(tasks: list[TaskValues], nodes: list[Node]) -> Iterator[tuple[int, int, str, bool]]:
    """Let tasks share the conditions that they have in common; yields the conditions to store."""
    alike = Counter(nodes)
    leaders: dict[Node, TaskValues] = {}
    for task, node in zip(tasks, nodes, strict=True):
        leader = leaders.get(node)
        if leader and leader["sharing"] + 1 < MOST_ALIKE:
            leader["sharing"] += 1
            task["waits_with"] = leader["id"]
            continue
        _, conditions = node
        # A task that handles a failure keeps its conditions: the verdict asks the task itself (rule 7), not its leader.
        if (alike[node] - 1) * len(conditions) >= WORTH_SHARING and not any(handles for _, _, handles in conditions):
            leaders[node] = task
        yield from ((before, task["id"], outcome, handles) for before, outcome, handles in conditions)


def _task(job: JobSpec, task: TaskSpec, position: int) -> TaskValues:
    priority = task.priority or job.priority
    return {
        "id": position,
        "name": task.name,
        "operation": task.run,
        "args": json.dumps(task.args),
        "kwargs": secrets.packed(task.kwargs, task.secret),
        "group_name": task.group or job.group or DEFAULT_GROUP,
        "own_class": PRIORITIES[priority] if priority else None,
        "own_priority": priority is not None,
        "retries": task.retries,
        "retry_delay": task.retry_delay,
        "time_limit": task.time_limit,
        "ignore_failure": task.ignore_failure,
        "joined": task.join,
        "pending": len(task.after),
        "waits_with": None,
        "sharing": 0,
        "limits": _limits(job, task),
    }


def _limits(job: JobSpec, task: TaskSpec) -> tuple[str, ...]:
    return tuple(sorted({*job.limits, *task.limits})) if job.limits or task.limits else ()


def groups_of(job: JobSpec) -> set[str]:
    """The groups that a job's tasks are in (rule 10)."""
    return {task.group or job.group or DEFAULT_GROUP for task in job.tasks}


# --- storing ------------------------------------------------------------------------------------------------

_opened = {name: RUN[name] for name in ("id", "job_id", "job", "open_tasks", "run_by", "company", "submitted_at")}
_OPEN_RUNS = Statement(
    lambda given: insert(Run).from_select(
        [*_opened, "status"],
        select(*(getattr(given, name) for name in _opened), literal(RunState.STORING.value, RUN.status.type)),
        include_defaults=False,
    ),
    columns=_opened,
)


def open_run(tx: Tx, job: JobSpec) -> tuple[Number, datetime]:
    """Insert a run, as `open_runs` does."""
    (number,), now = open_runs(tx, [job])
    return number, now


def open_runs(tx: Tx, specs: Sequence[JobSpec]) -> tuple[list[Number], datetime]:
    """Insert a run of each job, still `storing`, its groups and the jobs' newest definitions.

    Returns the numbers that give the runs' rows their ids, in the order of the jobs, and the instant. Raises
    DatabaseOutdated or DatabaseTooNew unless the schema is the newest one; Conflict for a job that is withheld, or one
    that runs one at a time while a run of it is open; NotFound for a limit that does not exist.
    """
    revision, kept = schema.asked(tx), jobs.stored(tx, {job.name for job in specs})
    groups = named_groups(tx, set().union(*map(groups_of, specs)))
    reserved = dialect(tx).reserve(tx, RUN.id, len(specs))
    now = tx.now()
    schema.require_newest(tx, revision)
    jobs.refuse_withheld(kept)
    ids, found = jobs.keep(tx, kept, specs, now), groups.rows
    jobs.refuse_second_run(tx, specs, ids)
    numbered = list(zip(reserved(), specs, strict=True))
    require_limits(tx, limits_named(specs))
    _OPEN_RUNS.later(tx, [_run(run, ids[job.name], job, now) for run, job in numbered])
    opened = [Number(run, found, _lanes(tx, job, found, ids[job.name], run)) for run, job in numbered]
    if jobs.limit_tasks(tx, kept, specs, ids):
        topologies.changed(tx)  # last, as it takes the dispatch lock
    return opened, now


def _lanes(
    tx: Tx, job: JobSpec, groups: Mapping[str, NamedGroup], job_id: int, run: int
) -> dict[tuple[str, tuple[str, ...]], int]:
    """The lanes of a job's tasks, by group and by named limits; makes those that lack."""
    kinds = {(task.group or job.group or DEFAULT_GROUP, _limits(job, task)) for task in job.tasks}
    common = [] if job.tasks_at_once is None else [of_job(job_id)]
    found, wanted = {}, {}
    for group, limits in kinds:
        per_run = groups[group].per_run is not None
        keys = [*map(named, limits), *common, *([of_run(run)] if per_run else [])]
        if keys:
            wanted[group, limits] = (group, written(keys), run if per_run else None)
        elif (lane := groups[group].lane) is not None:
            found[group, limits] = lane
    if wanted:
        made = lanes_for(tx, list(wanted.values()))
        found |= {kind: made[group, keys] for kind, (group, keys, _) in wanted.items()}
    return found


def limits_named(specs: Iterable[JobSpec]) -> set[str]:
    """The named limits of jobs and their tasks."""
    return {limit for job in specs for task in job.tasks for limit in _limits(job, task)}


def _run(number: int, job_id: int, job: JobSpec, now: datetime) -> dict[str, object]:
    return {
        "id": number,
        "job_id": job_id,
        "job": job.name,
        "open_tasks": len(job.tasks),
        "run_by": job.run_by,
        "company": job.company,
        "submitted_at": now,
    }


# The columns that a task is stored with; all others begin with the column's default.
_stored = {
    name: TASK[name]
    for name in (
        *("id", "run_id", "name", "operation", "args", "kwargs", "group_name", "own_class", "own_priority", "lane"),
        *("retries", "retry_delay", "time_limit", "ignore_failure", "joined", "pending", "waits_with", "sharing"),
    )
}
_at_first = {
    column.name: column.default.arg
    for column in TASK
    if isinstance(column.default, ScalarElementColumnDefault) and column.name not in _stored
}
_ADD_TASKS = Statement(
    lambda given: insert(TaskRow).from_select(
        [*_stored, *_at_first],
        select(
            *(getattr(given, name) for name in _stored),
            *(literal(value, TASK[name].type) for name, value in _at_first.items()),
        ),
        include_defaults=False,
    ),
    columns=_stored,
)


def add_tasks(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert tasks."""
    if rows:
        _ADD_TASKS.later(tx, rows)


_condition = {name: CONDITION[name] for name in ("predecessor_id", "task_id", "outcome", "handles")}
_ADD_CONDITIONS = Statement(
    lambda given: insert(TaskCondition).from_select(
        list(_condition), select(*(getattr(given, name) for name in _condition))
    ),
    plain=True,
    columns=_condition,
)


def add_conditions(tx: Tx, rows: Sequence[tuple[int, int, str, bool]]) -> None:
    """Insert conditions: predecessor, task, outcome, and whether it handles a failure."""
    if rows:
        _ADD_CONDITIONS.later(tx, rows)
