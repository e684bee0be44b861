"""A run in SQL: a job becomes the rows of a run, its tasks and its conditions (rules 1-3, 10, 24, 28)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from sqlalchemy import Column, insert, literal, select
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from batchq.core import secrets
from batchq.core.conditions import Condition, Join, Joined, flat, gate_nodes, handling
from batchq.core.states import RunState
from batchq.core.topology import DEFAULT_GROUP
from batchq.store import job as jobs
from batchq.store import schema
from batchq.store.columns import CONDITION, RUN, TASK, task_id
from batchq.store.group import PRIORITIES, named_groups
from batchq.store.sql.dialect import dialect
from batchq.store.sql.statement import NoRow, Statement
from batchq.store.tables import Run, TaskCondition, TaskRow
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec, TaskSpec

# The most tasks that share their conditions: they all move in one transaction, which would get too long.
MOST_ALIKE = 250
# The fewest conditions that sharing must save: it costs one more statement.
WORTH_SHARING = 4
# How a task's conditions are joined, each one's position, outcome and whether it handles a failure; and whether it is a
# gate, which moves in another way than a task with the same conditions.
Node = tuple[Join, tuple[tuple[int, str, bool], ...], bool]


class TaskValues(TypedDict):
    """The columns of a task before its run has a number; `id` is its position in the job.

    Most tasks have none of the last three.
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
    gate: NotRequired[bool]
    unnamed: NotRequired[bool]
    stage: NotRequired[str | None]


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
    """Gives rows the ids that belong to a run, and tasks without a priority that of their group."""

    run: int
    priorities: Mapping[str, int]

    def task(self, row: TaskValues) -> dict[str, object]:
        """The task's row."""
        priority = row["own_class"] if row["own_priority"] else self.priorities[row["group_name"]]
        first, leader = task_id(self.run, 0), row["waits_with"]
        return {
            **row,
            "id": first + row["id"],
            "run_id": self.run,
            "own_class": priority,
            "waits_with": None if leader is None else first + leader,
        }

    def conditions(self, conditions: Iterable[tuple[int, int, str, bool]]) -> Iterator[tuple[int, int, str, bool]]:
        """The conditions' rows."""
        first = task_id(self.run, 0)
        return (
            (first + predecessor, first + task, outcome, handles) for predecessor, task, outcome, handles in conditions
        )


def rows_of(job: JobSpec) -> Rows:
    """The rows of a job; the gates of joins within joins come after its tasks (rule 50)."""
    gates: dict[Joined, str] = {}
    # By the conditions' identity: tasks that follow the same ones mostly have them as one tuple.
    keys = [(id(task.after), task.join, task.run is None) for task in job.tasks]
    plain = {key: flat(task.after, task.join, gates) for key, task in dict(zip(keys, job.tasks, strict=True)).items()}
    inner = list(gate_nodes(gates))
    positions = {task.name: position for position, task in enumerate(job.tasks)}
    positions |= {name: position for position, (name, _, _) in enumerate(inner, len(positions))}
    nodes = {key: _node(*conditions, positions, gate=key[-1]) for key, conditions in plain.items()}
    each = [nodes[key] for key in keys] + [_node(after, join, positions, gate=True) for _, after, join in inner]
    tasks = [_task(job, task, position, each[position]) for position, task in enumerate(job.tasks)]
    tasks += [_gate(name, positions[name], each[positions[name]]) for name, _, _ in inner]
    leading = {positions[name] for joined, name in gates.items() if any(handling((joined,), Join.ALL))}
    return Rows(tasks, list(_share(tasks, each, leading)))


def _node(after: Iterable[Condition], join: Join, positions: Mapping[str, int], *, gate: bool) -> Node:
    return join, tuple((positions[each.task], str(each.outcome), each.handles) for each in after), gate


def _share(
    tasks: list[TaskValues], nodes: list[Node], leading: Collection[int]
) -> Iterator[tuple[int, int, str, bool]]:
    """Let tasks share the conditions that they have in common; yields the conditions to store.

    `leading` gates lead from a failure to a task that handles it.
    """
    alike = Counter(nodes)
    leaders: dict[Node, TaskValues] = {}
    for task, node in zip(tasks, nodes, strict=True):
        leader = leaders.get(node)
        if leader and leader["sharing"] + 1 < MOST_ALIKE:
            leader["sharing"] += 1
            task["waits_with"] = leader["id"]
            continue
        _, conditions, _ = node
        # A task that handles a failure keeps its conditions: the verdict asks the task itself (rule 7), not its leader.
        if (alike[node] - 1) * len(conditions) >= WORTH_SHARING and not any(
            handles or before in leading for before, _, handles in conditions
        ):
            leaders[node] = task
        yield from ((before, task["id"], outcome, handles) for before, outcome, handles in conditions)


def _task(job: JobSpec, task: TaskSpec, position: int, node: Node) -> TaskValues:
    join, conditions, _ = node
    if task.run is None:
        return {**_gate(task.name, position, node), "unnamed": False, "stage": task.stage}
    priority = task.priority or job.priority
    row: TaskValues = {
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
        "joined": join,
        "pending": len(conditions),
        "waits_with": None,
        "sharing": 0,
    }
    return {**row, "gate": False, "unnamed": False, "stage": task.stage} if task.stage else row


def _gate(name: str, position: int, node: Node) -> TaskValues:
    """The row of a gate: it runs nothing, anywhere; its priority is its own, so that no group is asked for one."""
    join, conditions, _ = node
    return {
        "id": position,
        "name": name,
        "operation": "",
        "args": "[]",
        "kwargs": "{}",
        "group_name": DEFAULT_GROUP,
        "own_class": PRIORITIES["normal"],
        "own_priority": True,
        "retries": 0,
        "retry_delay": 0,
        "time_limit": None,
        "ignore_failure": False,
        "joined": join,
        "pending": len(conditions),
        "waits_with": None,
        "sharing": 0,
        "gate": True,
        "unnamed": True,
        "stage": None,
    }


def groups_of(job: JobSpec) -> set[str]:
    """The groups that a job's tasks are in (rule 10); a gate is in none."""
    return {task.group or job.group or DEFAULT_GROUP for task in job.tasks if task.run is not None}


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


def open_run(tx: Tx, job: JobSpec, tasks: int | None = None) -> tuple[Number, datetime]:
    """Insert a run, as `open_runs` does."""
    (number,), now = open_runs(tx, [job], None if tasks is None else [tasks])
    return number, now


def open_runs(tx: Tx, specs: Sequence[JobSpec], tasks: Sequence[int] | None = None) -> tuple[list[Number], datetime]:
    """Insert a run of each job, still `storing`, its groups and the jobs' newest definitions.

    `tasks` counts each run's tasks with the gates of its inner joins; without it no job has such joins.

    Returns the numbers that give the runs' rows their ids, in the order of the jobs, and the instant. Raises
    DatabaseOutdated or DatabaseTooNew unless the schema is the newest one.
    """
    revision, kept = schema.asked(tx), jobs.stored(tx, {job.name for job in specs})
    groups = named_groups(tx, set().union(*map(groups_of, specs)))
    reserved = dialect(tx).reserve(tx, RUN.id, len(specs))
    now = tx.now()
    schema.require_newest(tx, revision)
    ids, priorities = jobs.keep(tx, kept, specs, now), groups.priorities
    numbers = reserved()
    counts = [len(job.tasks) for job in specs] if tasks is None else tasks
    each = zip(numbers, specs, counts, strict=True)
    _OPEN_RUNS.later(tx, [_run(run, ids[job.name], job, count, now) for run, job, count in each])
    return [Number(run, priorities) for run in numbers], now


def _run(number: int, job_id: int, job: JobSpec, tasks: int, now: datetime) -> dict[str, object]:
    return {
        "id": number,
        "job_id": job_id,
        "job": job.name,
        "open_tasks": tasks,
        "run_by": job.run_by,
        "company": job.company,
        "submitted_at": now,
    }


# The columns that a task is stored with; all others begin with the column's default.
_stored = {
    name: TASK[name]
    for name in (
        *("id", "run_id", "name", "operation", "args", "kwargs", "group_name", "own_class", "own_priority"),
        *("retries", "retry_delay", "time_limit", "ignore_failure", "joined", "pending", "waits_with", "sharing"),
    )
}
_at_first = {
    column.name: column.default.arg
    for column in TASK
    if isinstance(column.default, ScalarElementColumnDefault) and column.name not in _stored
}
# Few tasks have these; a statement of their own keeps that of the others as short as it is.
_marked = _stored | {name: TASK[name] for name in ("gate", "unnamed", "stage")}


def _adding(columns: Mapping[str, Column[Any]]) -> Statement[NoRow]:
    return Statement(
        lambda given: insert(TaskRow).from_select(
            [*columns, *_at_first],
            select(
                *(getattr(given, name) for name in columns),
                *(literal(value, TASK[name].type) for name, value in _at_first.items()),
            ),
            include_defaults=False,
        ),
        columns=columns,
    )


_ADD_TASKS, _ADD_MARKED = _adding(_stored), _adding(_marked)


def add_tasks(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert tasks."""
    marked = [row for row in rows if "gate" in row]
    if len(marked) < len(rows):
        _ADD_TASKS.later(tx, [row for row in rows if "gate" not in row] if marked else rows)
    if marked:
        _ADD_MARKED.later(tx, marked)


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
