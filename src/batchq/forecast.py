"""What a plan is made of, and what it says: a file, servers and durations in, a plain dict with stable keys out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import count
from typing import Any, cast

from sqlalchemy import Connection

from batchq import views
from batchq.core import plan, secrets
from batchq.core.affinity import DEFAULT_GROUP, Server, Topology
from batchq.core.conditions import Condition, Join, Node, waits_for, why_not
from batchq.core.plan import Forecast, Found, Hour, Planned
from batchq.core.states import TERMINAL, Outcome, RunState, State
from batchq.errors import InvalidInput, closest
from batchq.spec import Document, JobSpec, Priority, TaskSpec
from batchq.spec.fields import YEAR_SECONDS
from batchq.store import past
from batchq.store import server as servers
from batchq.store.open_runs import OpenRun, open_runs
from batchq.store.server import PRIORITIES
from batchq.views import PRIORITY_NAMES, View, iso

# Where a duration comes from, the first that has one; what the command line calls them stands beside it.
SOURCES = {
    "option": "by --duration",
    "file": "from the file",
    "argument": "from their arguments",
    "past_task": "as before",
    "past_operation": "as their operation before",
    "default": "by --default-duration",
}
NOWHERE = Topology(())
LONGEST = 10
DEMO = "demo.work"  # says itself how long it takes


@dataclass(frozen=True, slots=True)
class Past:
    """Seconds that were usual before: of (job, task), and of operations."""

    tasks: Mapping[tuple[str, str], float] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """How long tasks take and which of them fail, as far as somebody said it; seconds.

    The names in `durations` are those of a task, `JOB / TASK` or an operation, those `failing` of a task or
    `JOB / TASK`.
    """

    durations: Mapping[str, float] = field(default_factory=dict)
    failing: Collection[str] = ()
    default: float = 60.0
    past: Past = Past()

    def said(self, job: JobSpec, task: TaskSpec) -> tuple[float, str] | None:
        """The seconds that somebody said, and where: an option, the file, or the arguments of the demo operation."""
        for name in (f"{job.name} / {task.name}", task.name, task.run):
            if name in self.durations:
                return self.durations[name], "option"
        if task.duration is not None:
            return task.duration, "file"
        own = _own_seconds(task) if task.run == DEMO else None
        return (own, "argument") if own is not None else None

    def seconds(self, job: JobSpec, task: TaskSpec) -> tuple[float, str]:
        """How long an attempt takes, and where that comes from: a key of SOURCES."""
        if said := self.said(job, task):
            return said
        if (job.name, task.name) in self.past.tasks:
            return self.past.tasks[job.name, task.name], "past_task"
        if task.run in self.past.operations:
            return self.past.operations[task.run], "past_operation"
        return self.default, "default"

    def fails(self, job: JobSpec, task: TaskSpec) -> bool:
        """Whether its attempts fail: somebody says so, or the demo operation is told to."""
        named = task.name in self.failing or f"{job.name} / {task.name}" in self.failing
        return named or (task.run == DEMO and task.kwargs.get("fail") is True)


def _own_seconds(task: TaskSpec) -> float | None:
    """The seconds that the demo operation is told to take; None if they are no number."""
    value: Any = task.kwargs.get("seconds", task.args[0] if task.args else 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= YEAR_SECONDS else None


@dataclass(frozen=True)
class Subject:
    """A job whose course is to be foreseen, or the `run` of one that is under way, its tasks as they are `found`."""

    job: JobSpec
    run: int | None = None
    found: Mapping[str, Found] = field(default_factory=dict)
    canceling: bool = False


def check_names(jobs: Collection[JobSpec], names: Iterable[str], option: str, *, operations: bool = False) -> None:
    """Raise InvalidInput for a name that none of the jobs knows, with the closest."""
    tasks = [(job.name, task) for job in jobs for task in job.tasks]
    known = {task.name for _, task in tasks} | {f"{job} / {task.name}" for job, task in tasks}
    allowed = "a task, or JOB / TASK"
    if operations:
        known |= {task.run for _, task in tasks}
        allowed = "a task, JOB / TASK, or an operation"
    for name in names:
        if name not in known:
            raise InvalidInput(f"{option}: the plan has no {name[:200]!r}{closest(name, known)}. Name {allowed}.")


# --- what goes in -------------------------------------------------------------------------------------------


def topology_of(document: Document) -> Topology:
    """The servers of a file, as `batchq apply` would make them."""
    found = (
        Server(number, name, spec.threads, frozenset(spec.groups), tuple(each.window for each in spec.windows))
        for number, (name, spec) in enumerate(sorted(document.servers.items()), 1)
    )
    return Topology(tuple(found))


def set_over(topology: Topology, document: Document) -> Topology:
    """The servers of a database, as they were if the file were applied to it."""
    present = {server.name: server for server in topology.servers}
    unused = count(max((server.id for server in topology.servers), default=0) + 1)
    for server in topology_of(document).servers:
        known = present.get(server.name) or Server(next(unused), server.name)
        said = {"threads": server.threads, "groups": server.groups, "windows": server.windows}
        present[server.name] = replace(known, **said)  # type: ignore[arg-type]
    return replace(topology, servers=tuple(present[name] for name in sorted(present)))


def with_pools(topology: Topology, processes: int) -> Topology:
    """The same servers, each with the pool that a worker of its would have, whatever runs now."""
    return replace(topology, servers=tuple(replace(server, pool=processes) for server in topology.servers))


def needs_past(jobs: Iterable[JobSpec], guess: Guess) -> bool:
    """Whether it matters how long tasks took before."""
    return any(guess.said(job, task) is None for job in jobs for task in job.tasks)


@dataclass(frozen=True)
class Seen:
    """What a database knows that a plan asks for; `priorities` are those of the groups, `queue` is what is open."""

    topology: Topology = NOWHERE
    priorities: Mapping[str, int] = field(default_factory=dict)
    past: Past = Past()
    queue: tuple[Subject, ...] = ()


def see(tx: Connection, jobs: Sequence[JobSpec], *, queue: bool = False) -> Seen:
    """The servers and groups as they stand, and how long the tasks of these jobs and their operations took before.

    With `queue` also the runs that are open, the oldest first, and how long their tasks took.
    """
    subjects = tuple(_subject(tx, run) for run in open_runs(tx)) if queue else ()
    jobs = [*jobs, *(subject.job for subject in subjects)]
    operations = {task.run for job in jobs for task in job.tasks}
    took = Past(past.of_tasks(tx, {job.name for job in jobs}), past.of_operations(tx, operations))
    return Seen(servers.seen(tx), servers.group_priorities(tx), took, subjects)


def _subject(tx: Connection, run: OpenRun) -> Subject:
    """A run as a job whose tasks are found somewhere on their way."""
    newest = json.loads(views.definition(tx, run.row.job))
    expected = {task["name"]: task.get("duration") for task in newest["tasks"]}
    tasks = tuple(_stored(row, run, expected.get(row.name)) for row in run.tasks.values())
    return Subject(
        JobSpec.model_construct(name=run.row.job, tasks=tasks),
        run.row.id,
        {row.name: _found(row) for row in run.tasks.values()},
        run.row.status == RunState.CANCELING,
    )


def _stored(row: Any, run: OpenRun, duration: float | None) -> TaskSpec:
    """A task as it was stored; only its expected duration comes from the job's newest definition."""
    after = (
        Condition(run.tasks[each.predecessor_id].name, Outcome(each.outcome), each.handles) for each in run.after(row)
    )
    return TaskSpec.model_construct(
        name=row.name,
        run=row.operation,
        args=json.loads(row.args),
        kwargs=secrets.unpacked(row.kwargs)[0],
        after=tuple(after),
        join=Join(row.joined),
        group=row.group_name,
        priority=cast(Priority, PRIORITY_NAMES[row.priority]),
        retries=row.retries,
        retry_delay=row.retry_delay,
        time_limit=row.time_limit,
        duration=duration,
        ignore_failure=row.ignore_failure,
    )


def _found(row: Any) -> Found:
    state = State(row.status)
    since = row.ended_at if state in TERMINAL else row.claimed_at if state is State.EXECUTING else row.ready_at
    aborted = state is State.CANCELED and row.claimed_at is not None
    return Found(state, since, row.server_id if state is State.EXECUTING else None, row.attempt, aborted)


def priorities_of(document: Document) -> dict[str, int]:
    """The priorities of the groups in a file."""
    return {name: PRIORITIES[group.priority] for name, group in document.groups.items()}


def simulated(subject: Subject, guess: Guess, priorities: Mapping[str, int]) -> plan.Job:
    """The run as the simulation takes it; `priorities` are those of the groups (rule 28)."""
    job = subject.job
    tasks = (
        replace(_simulated(job, task, guess, priorities), found=subject.found.get(task.name, Found()))
        for task in job.tasks
    )
    return plan.Job(job.name, tuple(tasks), subject.canceling)


def _simulated(job: JobSpec, task: TaskSpec, guess: Guess, priorities: Mapping[str, int]) -> plan.Task:
    seconds, _ = guess.seconds(job, task)
    late = task.time_limit is not None and seconds > task.time_limit
    group = task.group or job.group or DEFAULT_GROUP
    priority = task.priority or job.priority
    return plan.Task(
        name=task.name,
        seconds=task.time_limit if late and task.time_limit is not None else seconds,
        after=task.after,
        join=task.join,
        group=group,
        priority=PRIORITIES[priority] if priority else priorities.get(group, PRIORITIES["normal"]),
        fails=late or guess.fails(job, task),
        ignore_failure=task.ignore_failure,
        retries=task.retries,
        retry_delay=task.retry_delay,
    )


# --- what comes out -----------------------------------------------------------------------------------------


def view(
    forecast: Forecast, subjects: Sequence[Subject], guess: Guess, timezone: str, servers_from: str = "file"
) -> View:
    """The forecast of these runs as a dict, which is also what `batchq plan -o json` prints.

    Times are ISO 8601 in UTC, durations seconds, `threads`, `busy`, `idle` and `missing` thread-seconds.
    `timezone` is the zone in which sentences tell the time, `servers_from` is `file`, `database`, `both` or
    `default`. What does not happen within the horizon is null.

        {"from", "to", "timezone", "servers_from",
         "jobs":  [{"job", "run", "status", "ends_at", "seconds", "tasks": {STATUS: how many}}],
         "tasks": [{"job", "run", "task", "status", "server", "group", "attempts", "ready_at", "started_at", "ended_at",
                    "waited_seconds", "duration", "duration_from", "why"}],
         "hours": [{"start", "end", "servers": {NAME: {"threads", "busy"}}, "idle", "missing"}],
         "longest_waits": [{"job", "run", "task", "group", "ready_at", "started_at", "waited_seconds", "why"}],
         "totals": {"threads", "busy", "idle", "missing"},
         "durations": {SOURCE: how many tasks}}

    `status` of a job is `success`, `error`, `canceled` or, if it is not through, `executing`; of a task one of
    `waiting`, `ready`, `executing`, `success`, `error`, `didnt_run`, `canceled`. `duration_from` is a key of
    SOURCES. `run` is the number of a run that is under way, null for what the plan would submit.
    """
    specs = [(subject.job, task) for subject in subjects for task in subject.job.tasks]
    sources = [guess.seconds(job, task)[1] for job, task in specs]
    states = [{task.task: task.state for task in tasks} for tasks in _by_job(forecast)]
    names = [{"job": subject.job.name, "run": subject.run} for subject in subjects]
    reasons = _Reasons(forecast, [task for _, task in specs], states, timezone)
    return {
        "from": iso(forecast.begin),
        "to": iso(forecast.end),
        "timezone": timezone,
        "servers_from": servers_from,
        "jobs": list(_jobs(forecast, names)),
        "tasks": [
            names[planned.job] | _task(planned, source, reasons.of(number))
            for number, (planned, source) in enumerate(zip(forecast.tasks, sources, strict=True))
        ],
        "hours": [_hour(forecast, hour) for hour in forecast.hours],
        "longest_waits": _longest_waits(forecast, names, reasons),
        "totals": _totals(forecast),
        "durations": {source: sources.count(source) for source in SOURCES},
    }


def _by_job(forecast: Forecast) -> list[list[Planned]]:
    tasks: list[list[Planned]] = [[] for _ in forecast.jobs]
    for planned in forecast.tasks:
        tasks[planned.job].append(planned)
    return tasks


def _jobs(forecast: Forecast, names: Sequence[View]) -> Iterator[View]:
    for name, close, tasks in zip(names, forecast.jobs, _by_job(forecast), strict=True):
        states = Counter(task.state for task in tasks)
        yield name | {
            "status": (close.verdict or RunState.EXECUTING).value,
            "ends_at": iso(close.ended_at),
            "seconds": _seconds(close.ended_at - forecast.begin) if close.ended_at else None,
            "tasks": {state.value: states[state] for state in State if states[state]},
        }


def _task(planned: Planned, source: str, why: str | None) -> View:
    return {
        "task": planned.task,
        "status": planned.state.value,
        "server": planned.server,
        "group": planned.group,
        "attempts": planned.attempts,
        "ready_at": iso(planned.ready_at),
        "started_at": iso(planned.started_at),
        "ended_at": iso(planned.ended_at),
        "waited_seconds": _seconds(planned.waited),
        "duration": round(planned.seconds, 3),
        "duration_from": source,
        "why": why,
    }


def _seconds(time: timedelta) -> float:
    return round(time.total_seconds(), 3)


def _hour(forecast: Forecast, hour: Hour) -> View:
    return {
        "start": iso(hour.start),
        "end": iso(hour.end),
        "servers": {
            server.name: {
                "threads": round(hour.threads[server.name], 3),
                "busy": round(hour.busy[server.name], 3),
            }
            for server in forecast.topology.servers
        },
        "idle": round(hour.idle, 3),
        "missing": round(hour.missing, 3),
    }


def _totals(forecast: Forecast) -> View:
    return {
        "threads": round(sum(sum(hour.threads.values()) for hour in forecast.hours), 3),
        "busy": round(sum(sum(hour.busy.values()) for hour in forecast.hours), 3),
        "idle": round(sum(hour.idle for hour in forecast.hours), 3),
        "missing": round(sum(hour.missing for hour in forecast.hours), 3),
    }


def _longest_waits(forecast: Forecast, names: Sequence[View], reasons: _Reasons) -> list[View]:
    waited = [number for number, planned in enumerate(forecast.tasks) if planned.waited]
    longest = nsmallest(LONGEST, waited, key=lambda number: (-forecast.tasks[number].waited, number))
    tasks = [forecast.tasks[number] for number in longest]
    return [names[task.job] | _wait(forecast, task, reasons) for task in tasks]


def _wait(forecast: Forecast, planned: Planned, reasons: _Reasons) -> View:
    return {
        "task": planned.task,
        "group": planned.group,
        "ready_at": iso(planned.ready_at),
        "started_at": iso(planned.started_at),
        "waited_seconds": _seconds(planned.waited),
        "why": reasons.of_group(planned.group, max(planned.ready_at or forecast.begin, forecast.begin)),
    }


class _Reasons:
    """Says why tasks failed, didn't run, or have not started at the horizon (rule 40)."""

    def __init__(
        self, forecast: Forecast, specs: Sequence[TaskSpec], states: Sequence[Mapping[str, State]], timezone: str
    ) -> None:
        self._forecast = forecast
        self._specs = specs
        self._states = states
        self._timezone = timezone
        self._known: dict[tuple[str, datetime], str] = {}

    def of(self, number: int) -> str | None:
        """The reason of the task at this place, in one clause; None for one that executes or succeeded."""
        planned, spec = self._forecast.tasks[number], self._specs[number]
        node, states = Node(spec.after, spec.join), self._states[planned.job]
        if planned.state is State.WAITING:
            return waits_for(node, states)
        if planned.state is State.DIDNT_RUN:
            return why_not(node, states)
        if planned.state is State.ERROR:
            return _why_error(planned, spec, self._forecast.begin)
        return self.of_group(planned.group, self._forecast.end) if planned.state is State.READY else None

    def of_group(self, group: str, instant: datetime) -> str:
        """Why ready tasks of the group do not start at this instant, in one clause."""
        if (group, instant) not in self._known:
            self._known[group, instant] = self._forecast.why(group, instant, self._timezone)
        return self._known[group, instant]


def _why_error(planned: Planned, spec: TaskSpec, begin: datetime) -> str:
    if planned.ended_at is not None and planned.ended_at < begin:
        return "failed before"
    timed_out = spec.time_limit is not None and spec.time_limit == planned.seconds
    return f"is ended by its time limit of {spec.time_limit:g} s" if timed_out else "told to fail"
