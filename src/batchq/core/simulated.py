"""The values of a simulation: the runs and tasks that go in, and how they stand when it is over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate, pairwise
from typing import NamedTuple

from batchq.core.conditions import After, Condition, Join, Node, handling, leaves, unfolded
from batchq.core.limits import Lane, of_run
from batchq.core.retries import PLAIN, Policy
from batchq.core.states import RunState, State
from batchq.core.thread_hours import Hour
from batchq.core.topology import DEFAULT_GROUP, Topology
from batchq.core.why import why_ready


@dataclass(frozen=True, slots=True)
class Found:
    """A task as the simulation finds it; `since` is when it became ready, started on `server` (an id), or ended.

    A task that ended before had `started` for the last time then. `retried_at` of its attempts came before an
    operator's retry.
    """

    state: State = State.WAITING
    since: datetime | None = None
    server: int | None = None
    attempts: int = 0
    aborted: bool = False
    started: datetime | None = None
    retried_at: int = 0


@dataclass(frozen=True, slots=True)
class SimTask:
    """A task to simulate: each attempt takes `seconds`, and all of them fail if it `fails`; a `gate` has none.

    `limits` are keys of the topology's units (rule 29).
    """

    name: str
    seconds: float
    after: After = ()
    join: Join = Join.ALL
    group: str = DEFAULT_GROUP
    priority: int = 1
    fails: bool = False
    ignore_failure: bool = False
    retries: int = 0
    retry_delay: float = 0.0
    policy: Policy = PLAIN
    limits: tuple[str, ...] = ()
    found: Found = Found()
    gate: bool = False


@dataclass(frozen=True, slots=True)
class SimRun:
    """A run to simulate; a `canceling` one starts no further attempt and ends as canceled (rule 32)."""

    name: str
    tasks: tuple[SimTask, ...]
    canceling: bool = False


@dataclass(frozen=True, slots=True)
class SimAttempt:
    """One start of a task, named by its place in `Simulation.tasks`; `end` is None beyond the horizon."""

    task: int
    server: str
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Planned:
    """A task as it stands at the horizon; `job` is the place of its run in `Simulation.jobs`.

    The times are those of its last attempt, `waited` is the time that all its attempts waited.
    """

    job: int
    task: str
    group: str
    seconds: float
    state: State
    server: str | None
    attempts: int
    ready_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Close:
    """The verdict of a run and the instant of its end; both are None if it ends beyond the horizon."""

    job: str
    verdict: RunState | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Simulation:
    """The result: tasks in the order of their runs, attempts in the order of their starts."""

    begin: datetime
    end: datetime
    topology: Topology
    jobs: tuple[Close, ...]
    tasks: tuple[Planned, ...]
    attempts: tuple[SimAttempt, ...]
    hours: tuple[Hour, ...]

    def why(self, group: str, instant: datetime, timezone: str | None = None) -> str:
        """A clause that says why a ready task of the group does not start at this instant (rule 40)."""
        ids = {server.name: server.id for server in self.topology.servers}
        busy = Counter(
            ids[attempt.server]
            for attempt in self.attempts
            if attempt.start <= instant and (attempt.end is None or attempt.end > instant)
        )
        return why_ready(group, self.topology, busy, instant, timezone)


@dataclass(slots=True)
class Standing:
    """A task on its way, with the counts of its open, met and impossible conditions."""

    task: SimTask
    job: int
    lane: Lane
    pending: int
    met: int = 0
    impossible: int = 0
    state: State = State.WAITING
    attempts: int = 0
    server: int | None = None
    ready_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    waited: timedelta = timedelta(0)
    start: int = 0  # the places of its last start and of its end among all of these
    end: int = 0


class Entry(NamedTuple):
    """A ready task; of one pile the first is the oldest."""

    ready_at: datetime
    id: int
    own_class: int


def lane_of(task: SimTask, run: int, topology: Topology) -> Lane:
    """The lane of a task; a run is known by its place."""
    own = (of_run(run),) if task.group in topology.per_run else ()
    return Lane(0, task.group, (*task.limits, *own))


def places(jobs: Sequence[SimRun]) -> list[range]:
    """The places of each run's tasks among the tasks of all runs."""
    ends = [0, *accumulate(len(job.tasks) for job in jobs)]
    return [range(*both) for both in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class Graph:
    """The tasks of all runs, then the gates of their inner joins, each with its run's place, and what follows what.

    `followers` has conditions by the place of the task that they name, each with the place of the task that has it;
    `handlers` those that handle a failure, each with whether its task could not start before (rules 7, 50).
    """

    tasks: list[tuple[int, SimTask]]
    followers: Mapping[int, Sequence[tuple[int, Condition]]]
    handlers: Mapping[int, Sequence[tuple[int, bool]]]


def graph(jobs: Sequence[SimRun], ranges: Sequence[range]) -> Graph:
    """The tasks of the runs, whose places are these `ranges`, with their conditions."""
    tasks = [(at, task) for at, job in enumerate(jobs) for task in job.tasks]
    after: defaultdict[int, list[tuple[int, Condition]]] = defaultdict(list)
    handlers: defaultdict[int, list[tuple[int, bool]]] = defaultdict(list)
    for at, (job, own) in enumerate(zip(jobs, ranges, strict=True)):
        number_of = {task.name: number for number, task in zip(own, job.tasks, strict=True)}
        for task in job.tasks:
            for condition, behind in handling(task.after, task.join):
                handlers[number_of[condition.task]].append((number_of[task.name], behind))
        plain = unfolded({task.name: Node(task.after, task.join) for task in job.tasks})
        for name, node in plain.items():
            if name not in number_of:
                number_of[name] = len(tasks)
                tasks.append((at, SimTask(name, 0, node.after, node.join, gate=True)))
            elif node.after is not (task := tasks[number_of[name]][1]).after:
                tasks[number_of[name]] = at, replace(task, after=node.after, join=node.join)
        for name, node in plain.items():
            for condition in leaves(node.after):
                after[number_of[condition.task]].append((number_of[name], condition))
    return Graph(tasks, after, handlers)
