"""The rows that a job becomes, before its run has a number (rules 1-3, 10, 28, 29)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict

from batchq.core import retries, secrets
from batchq.core.conditions import Condition, Join, Joined, flat, gate_nodes, handling
from batchq.core.priority import PRIORITIES
from batchq.core.topology import DEFAULT_GROUP
from batchq.store.columns import task_id
from batchq.store.group import NamedGroup

if TYPE_CHECKING:
    from batchq.spec import JobSpec, TaskSpec

# The most tasks that share their conditions: they all move in one transaction, which would get too long.
MOST_ALIKE = 250
# The fewest conditions that sharing must save: it costs one more statement.
WORTH_SHARING = 4
# How a task's conditions are joined, each one's position, outcome and whether it handles a failure; and whether it is a
# gate, which moves in another way than a task with the same conditions.
Node = tuple[Join, tuple[tuple[int, str, bool], ...], bool]
# A task's group and its named limits, sorted: together they are its lane.
Kind = tuple[str, tuple[str, ...]]


class TaskValues(TypedDict):
    """The columns of a task before its run has a number; `id` is its position in the job.

    `limits` are the named limits of the task and of its job, sorted. Only tasks that use them have the last columns.
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
    gate: NotRequired[bool]
    unnamed: NotRequired[bool]
    stage: NotRequired[str | None]
    policy: NotRequired[str]
    repeatable: NotRequired[bool]


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

    `lanes` are by the kind of a task.
    """

    run: int
    groups: Mapping[str, NamedGroup]
    lanes: Mapping[Kind, int]

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
            "lane": 0 if row.get("gate") else self.lanes[group, row["limits"]],
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
    group, limits = kind_of(job, task.group, task.limits)
    row: TaskValues = {
        "id": position,
        "name": task.name,
        "operation": task.run,
        "args": json.dumps(task.args),
        "kwargs": secrets.packed(task.kwargs, task.secret),
        "group_name": group,
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
        "limits": limits,
    }
    if task.stage:
        row["stage"] = task.stage
    if policy := retries.written(task.policy):
        row["policy"] = policy
    if task.repeatable:
        row["repeatable"] = True
    return row


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
        "limits": (),
        "gate": True,
        "unnamed": True,
        "stage": None,
    }


def kind_of(job: JobSpec, group: str | None, limits: tuple[str, ...]) -> Kind:
    """The kind of a task with this group and these limits; those of its job are added to them (rules 10, 29)."""
    every = tuple(sorted({*job.limits, *limits})) if job.limits or limits else ()
    return group or job.group or DEFAULT_GROUP, every


def kinds_of(job: JobSpec) -> set[Kind]:
    """The kinds of a job's tasks; a gate is of none."""
    own = {(task.group, task.limits) for task in job.tasks if task.run is not None}
    return {kind_of(job, group, limits) for group, limits in own}
