"""The guess at a plan: how long tasks take, by option, file, arguments or past, and which of them fail."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from batchq.errors import InvalidInput, closest
from batchq.spec import JobSpec, TaskSpec
from batchq.spec.fields import YEAR_SECONDS

# The sources of a duration in the order in which they are asked, each with its words on the command line.
SOURCES = {
    "option": "by --duration",
    "file": "from the file",
    "argument": "from their arguments",
    "past_task": "as before",
    "past_operation": "as their operation before",
    "default": "by --default-duration",
}
DEMO = "demo.work"  # the operation whose arguments say how long it takes


@dataclass(frozen=True, slots=True)
class Past:
    """Usual seconds of tasks, by job and task, and of operations."""

    tasks: Mapping[tuple[str, str], float] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """Durations in seconds, and the tasks that fail.

    `durations` names a task, `JOB / TASK` or an operation; `failing` names a task or `JOB / TASK`.
    """

    durations: Mapping[str, float] = field(default_factory=dict)
    failing: Collection[str] = ()
    default: float = 60.0
    past: Past = Past()

    def said(self, job: JobSpec, task: TaskSpec) -> tuple[float, str] | None:
        """The seconds that an option, the file or the arguments of the demo operation say, with their source."""
        if task.run is None:
            return 0.0, "gate"
        for name in (f"{job.name} / {task.name}", task.name, task.run):
            if name in self.durations:
                return self.durations[name], "option"
        if task.duration is not None:
            return task.duration, "file"
        own = _own_seconds(task) if task.run == DEMO else None
        return (own, "argument") if own is not None else None

    def seconds(self, job: JobSpec, task: TaskSpec) -> tuple[float, str]:
        """The seconds that an attempt takes, with their source: a key of SOURCES."""
        if said := self.said(job, task):
            return said
        if (job.name, task.name) in self.past.tasks:
            return self.past.tasks[job.name, task.name], "past_task"
        if task.run is not None and task.run in self.past.operations:
            return self.past.operations[task.run], "past_operation"
        return self.default, "default"

    def fails(self, job: JobSpec, task: TaskSpec) -> bool:
        """Whether the attempts of a task fail: an option says so, or the demo operation is told to."""
        named = task.name in self.failing or f"{job.name} / {task.name}" in self.failing
        return named or (task.run == DEMO and task.kwargs.get("fail") is True)


def _own_seconds(task: TaskSpec) -> float | None:
    """The seconds that the demo operation is told to take; None if they are no number."""
    value: object = task.kwargs.get("seconds", task.args[0] if task.args else 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= YEAR_SECONDS else None


def check_names(jobs: Collection[JobSpec], names: Iterable[str], option: str, *, operations: bool = False) -> None:
    """Raise InvalidInput for a name that none of the jobs knows, with the closest."""
    tasks = [(job.name, task) for job in jobs for task in job.tasks]
    known = {task.name for _, task in tasks} | {f"{job} / {task.name}" for job, task in tasks}
    allowed = "a task, or JOB / TASK"
    if operations:
        known |= {operation for job in jobs for operation in job.operations}
        allowed = "a task, JOB / TASK, or an operation"
    for name in names:
        if name not in known:
            raise InvalidInput(f"{option}: the plan has no {name[:200]!r}{closest(name, known)}. Name {allowed}.")


def needs_past(jobs: Iterable[JobSpec], guess: Guess) -> bool:
    """Whether a duration depends on the past: neither option, file nor arguments say it."""
    return any(guess.said(job, task) is None for job in jobs for task in job.tasks)
