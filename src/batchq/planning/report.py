"""The report of a plan: the result of a simulation as a plain dict with stable keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest

from batchq.core.conditions import Node
from batchq.core.simulated import Planned, Simulation
from batchq.core.states import RunState, State
from batchq.core.thread_hours import Hour
from batchq.core.why import waits_for, why_not
from batchq.planning.guess import SOURCES, Guess
from batchq.planning.scene import Subject
from batchq.planning.shapes import JobName, PlannedHour, PlannedJob, PlannedTask, PlanView, Totals, Wait
from batchq.spec import TaskSpec
from batchq.views import iso, override_view

LONGEST = 10


def report_on(
    simulation: Simulation, subjects: Sequence[Subject], guess: Guess, timezone: str, servers_from: str = "file"
) -> PlanView:
    """The simulation's result as a view, which `-o json` prints.

    `timezone` is the zone for times in sentences.
    """
    specs = [(subject.job, task) for subject in subjects for task in subject.job.tasks]
    sources = [guess.seconds(job, task)[1] for job, task in specs]
    states = [{task.task: task.state for task in tasks} for tasks in _by_job(simulation)]
    names = [JobName(job=subject.job.name, run=subject.run) for subject in subjects]
    reasons = _Reasons(simulation, [task for _, task in specs], states, timezone)
    return {
        "from": iso(simulation.begin),
        "to": iso(simulation.end),
        "timezone": timezone,
        "servers_from": servers_from,
        "overrides": {
            server.name: said
            for server in simulation.topology.servers
            if (said := override_view(server.overridden(simulation.begin))) is not None
        },
        "jobs": list(_jobs(simulation, names)),
        "tasks": [
            _task(names[planned.job], planned, source, reasons.of(number))
            for number, (planned, source) in enumerate(zip(simulation.tasks, sources, strict=True))
        ],
        "hours": [_hour(simulation, hour) for hour in simulation.hours],
        "longest_waits": _longest_waits(simulation, names, reasons),
        "totals": _totals(simulation),
        "durations": {source: sources.count(source) for source in SOURCES},
    }


def _by_job(simulation: Simulation) -> list[list[Planned]]:
    tasks: list[list[Planned]] = [[] for _ in simulation.jobs]
    for planned in simulation.tasks:
        tasks[planned.job].append(planned)
    return tasks


def _jobs(simulation: Simulation, names: Sequence[JobName]) -> Iterator[PlannedJob]:
    for name, close, tasks in zip(names, simulation.jobs, _by_job(simulation), strict=True):
        states = Counter(task.state for task in tasks)
        yield {
            **name,
            "status": (close.verdict or RunState.EXECUTING).value,
            "ends_at": iso(close.ended_at),
            "seconds": _seconds(close.ended_at - simulation.begin) if close.ended_at else None,
            "tasks": {state.value: states[state] for state in State if states[state]},
        }


def _task(name: JobName, planned: Planned, source: str, why: str | None) -> PlannedTask:
    return {
        **name,
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


def _hour(simulation: Simulation, hour: Hour) -> PlannedHour:
    return {
        "start": iso(hour.start),
        "end": iso(hour.end),
        "servers": {
            server.name: {
                "threads": round(hour.threads[server.name], 3),
                "busy": round(hour.busy[server.name], 3),
            }
            for server in simulation.topology.servers
        },
        "idle": round(hour.idle, 3),
        "missing": round(hour.missing, 3),
    }


def _totals(simulation: Simulation) -> Totals:
    return {
        "threads": round(sum(sum(hour.threads.values()) for hour in simulation.hours), 3),
        "busy": round(sum(sum(hour.busy.values()) for hour in simulation.hours), 3),
        "idle": round(sum(hour.idle for hour in simulation.hours), 3),
        "missing": round(sum(hour.missing for hour in simulation.hours), 3),
    }


def _longest_waits(simulation: Simulation, names: Sequence[JobName], reasons: _Reasons) -> list[Wait]:
    waited = [number for number, planned in enumerate(simulation.tasks) if planned.waited]
    longest = nsmallest(LONGEST, waited, key=lambda number: (-simulation.tasks[number].waited, number))
    tasks = [simulation.tasks[number] for number in longest]
    return [_wait(names[task.job], task, simulation.begin, reasons) for task in tasks]


def _wait(name: JobName, planned: Planned, begin: datetime, reasons: _Reasons) -> Wait:
    return {
        **name,
        "task": planned.task,
        "group": planned.group,
        "ready_at": iso(planned.ready_at),
        "started_at": iso(planned.started_at),
        "waited_seconds": _seconds(planned.waited),
        "why": reasons.of_group(planned.group, max(planned.ready_at or begin, begin)),
    }


class _Reasons:
    """Clauses that say why tasks failed, didn't run, or have not started at the horizon (rule 40)."""

    def __init__(
        self, simulation: Simulation, specs: Sequence[TaskSpec], states: Sequence[Mapping[str, State]], timezone: str
    ) -> None:
        self._simulation = simulation
        self._specs = specs
        self._states = states
        self._timezone = timezone
        self._clauses: dict[tuple[str, datetime], str] = {}

    def of(self, number: int) -> str | None:
        """The clause for the task at this place; None for a task that executes or succeeded."""
        planned, spec = self._simulation.tasks[number], self._specs[number]
        node, states = Node(spec.after, spec.join), self._states[planned.job]
        if planned.state is State.WAITING:
            return waits_for(node, states)
        if planned.state is State.DIDNT_RUN:
            return why_not(node, states)
        if planned.state is State.ERROR:
            return _why_error(planned, spec, self._simulation.begin)
        return self.of_group(planned.group, self._simulation.end) if planned.state is State.READY else None

    def of_group(self, group: str, instant: datetime) -> str:
        """The clause for ready tasks of the group that do not start at this instant."""
        if (group, instant) not in self._clauses:
            self._clauses[group, instant] = self._simulation.why(group, instant, self._timezone)
        return self._clauses[group, instant]


def _why_error(planned: Planned, spec: TaskSpec, begin: datetime) -> str:
    if planned.ended_at is not None and planned.ended_at < begin:
        return "failed before"
    timed_out = spec.time_limit is not None and spec.time_limit == planned.seconds
    return f"is ended by its time limit of {spec.time_limit:g} s" if timed_out else "told to fail"
