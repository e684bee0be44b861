"""The script of a rehearsal: its jobs and servers as people write them, which tasks fail, and how long they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

from pydantic import ValidationError

from batchq.core import ends
from batchq.core.states import Reason
from batchq.core.windows import parse_time
from batchq.errors import InvalidInput, unknown
from batchq.spec import Document, Job, JobSpec, ServerSpec, TaskSpec, load, loads, sized
from batchq.spec.faults import faults_in
from batchq.spec.fields import USUAL_SIZES, YEAR_SECONDS

Failure: TypeAlias = Literal["error", "lost", "timed out"]
# Tasks that fail at every attempt; or by task the number of failing attempts, a failure for all, or a list of failures.
Failing: TypeAlias = str | Collection[str] | Mapping[str, int | Failure | Sequence[Failure]]
# Seconds, for all tasks or by task.
Durations: TypeAlias = float | timedelta | Mapping[str, float | timedelta]
# A job; or a file or a text that holds jobs.
Source: TypeAlias = Job | JobSpec | Document | Path | str
# The threads of one server; servers by name, each a number of threads or a spec; or a file or a text.
Servers: TypeAlias = int | Mapping[str, int | ServerSpec] | Document | Path | str

FAILURES: tuple[Failure, ...] = get_args(Failure)
TOLD = "told to fail"
USUAL_SECONDS = 60.0
# `batchq run` has the same servers by default.
USUAL_SERVERS = {"Batch1": ServerSpec(), "Batch2": ServerSpec()}
SOURCES = (Job, JobSpec, Document, Path, str)


V = TypeVar("V")


@dataclass(frozen=True)
class Script:
    """A job with the durations of its tasks and their failures: one for all attempts, or a list for the first ones."""

    job: JobSpec
    durations: Mapping[str, float]
    failing: Mapping[str, Failure | Sequence[Failure]]

    def __post_init__(self) -> None:
        for task, how in self.failing.items():
            for each in (how,) if isinstance(how, str) else how:
                self.check(task, each)

    def check(self, task: str, failure: str) -> None:
        """Raise InvalidInput unless the task can fail like this."""
        if failure not in FAILURES:
            raise InvalidInput(f"{task} cannot fail by {failure!r}. Use {', '.join(FAILURES)}.")
        if failure == "timed out" and self.spec(task).time_limit is None:
            raise InvalidInput(f"{task} has no time limit, so it cannot be timed out. Give it one.")

    def spec(self, task: str) -> TaskSpec:
        """The task of that name."""
        return self._specs[task]

    @cached_property
    def _specs(self) -> dict[str, TaskSpec]:
        return {task.name: task for task in self.job.tasks}

    def end(self, task: str, attempt: int, *, usual: bool) -> tuple[float, Failure | None] | None:
        """The seconds until an attempt ends, and its failure if it fails; None if it does not end by itself.

        With `usual` every task ends: it takes its own `duration`, or a minute. No attempt lasts beyond its time limit.
        """
        spec, failure = self.spec(task), self._failure(task, attempt)
        limit = YEAR_SECONDS if spec.time_limit is None else spec.time_limit
        seconds = self.durations.get(task)
        if seconds is None and usual:
            seconds = min(USUAL_SECONDS, limit) if spec.duration is None else spec.duration
        if seconds is None:
            return None
        if failure == "timed out" or (failure is None and seconds > limit):
            return limit, "timed out"
        return min(seconds, limit), failure

    def report(self, task: str, failure: Failure | None) -> ends.End:
        """The end that a server reports; it cannot report that it lost an attempt."""
        if failure is None:
            return ends.Success()
        if failure == "timed out":
            limit = self.spec(task).time_limit or 0
            return ends.Failure(Reason.TIMED_OUT, f"timed out: still running after {limit:g} s")
        return ends.Failure(Reason.ERROR, TOLD)

    def _failure(self, task: str, attempt: int) -> Failure | None:
        how = self.failing.get(task, ())
        if isinstance(how, str):
            return how
        return how[attempt - 1] if attempt <= len(how) else None


def scripts(jobs: Sequence[JobSpec], failing: Failing, durations: Durations | None) -> list[Script]:
    """A script for each job; raises NotFound for a name that no job knows, InvalidInput for an impossible value."""
    how = _failures(failing)
    if durations is None:
        durations = {}
    named = (
        durations if isinstance(durations, Mapping) else {task.name: durations for job in jobs for task in job.tasks}
    )
    seconds = {name: _seconds(name, value) for name, value in named.items()}
    known = {name for job in jobs for task in job.tasks for name in _names(job, task)}
    for name in (*how, *seconds):
        if name not in known:
            raise unknown("task", name, known)
    return [Script(job, _chosen(job, seconds), _chosen(job, how)) for job in jobs]


def _names(job: JobSpec, task: TaskSpec) -> tuple[str, str, str]:
    """The names that mean a task, the most precise one last."""
    return task.run or task.name, task.name, f"{job.name} / {task.name}"


def _chosen(job: JobSpec, named: Mapping[str, V]) -> dict[str, V]:
    """The values for the job's tasks, by task."""
    return {task.name: named[name] for task in job.tasks for name in _names(job, task) if name in named}


def _failures(failing: Failing) -> dict[str, Failure | Sequence[Failure]]:
    if isinstance(failing, str):
        failing = (failing,)
    if not isinstance(failing, Mapping):
        return dict.fromkeys(failing, "error")
    return {name: _times(name, how) if isinstance(how, int) else _kinds(name, how) for name, how in failing.items()}


def _kinds(name: str, how: Failure | Sequence[Failure]) -> Failure | Sequence[Failure]:
    if isinstance(how, str | Sequence):
        return how
    raise InvalidInput(f"{name} cannot fail by {how!r}. Use a number of attempts, {', '.join(FAILURES)}, or a list.")


def _times(name: str, attempts: int) -> list[Failure]:
    if attempts < 0:
        raise InvalidInput(f"{name} cannot fail {attempts} times. Use 0 or more.")
    return [FAILURES[0]] * attempts


def _seconds(name: str, value: float | timedelta) -> float:
    if not isinstance(value, int | float | timedelta):
        raise InvalidInput(f"durations: {name!r} cannot take {value!r}. Use seconds, or a timedelta.")
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 <= seconds <= YEAR_SECONDS:
        raise InvalidInput(f"durations: {name!r} cannot take {seconds:g} s. Use 0 or more, up to a year.")
    return seconds


# --- as people write it -------------------------------------------------------------------------------------


def document_of(source: Source) -> Document:
    """The document of a source: a job, a file, or a YAML text. A text has a line break or begins with `{`."""
    if isinstance(source, Document):
        return source
    if isinstance(source, Job | JobSpec):
        job = sized(source, USUAL_SIZES)
        return Document(jobs={job.name: job})
    if not isinstance(source, Path | str):
        raise InvalidInput(f"No job can be read from a {type(source).__name__}. Use a Job, a path, or a text.")
    if isinstance(source, str) and ("\n" in source or source.startswith("{")):
        return loads(source)
    return load(source)


def job_of(source: Source) -> JobSpec:
    """The one job of a source; InvalidInput if there are more, or none."""
    jobs = document_of(source).jobs
    if len(jobs) != 1:
        raise InvalidInput(f"There is not one job, but {len(jobs)}. `play_all` plays several.")
    (job,) = jobs.values()
    return job


def set_up(on: Servers | None, documents: Sequence[Document] = ()) -> Document:
    """The servers of `on`, or else those of the documents, with the groups of both.

    Without any there are two servers of one thread each, as for `batchq run`.
    """
    named = _servers_of(on)
    servers = named.servers or {name: spec for each in documents for name, spec in each.servers.items()}
    groups = {name: spec for each in (*documents, named) for name, spec in each.groups.items()}
    return Document(groups=groups, servers=servers or USUAL_SERVERS)


def _servers_of(on: Servers | None) -> Document:
    if on is None:
        return Document()
    if isinstance(on, int):
        return Document(servers={"Batch1": _server("Batch1", on)})
    if isinstance(on, Mapping):
        if not on:
            raise InvalidInput("on: no server is named. Name one, or leave `on` out for two of one thread each.")
        return Document(servers={name: _server(name, spec) for name, spec in on.items()})
    return document_of(on)


def _server(name: str, spec: int | ServerSpec) -> ServerSpec:
    if isinstance(spec, ServerSpec):
        return spec
    try:
        return ServerSpec(threads=spec)
    except ValidationError as error:
        raise InvalidInput("\n".join(f"on: {fault.below((name,))}." for fault in faults_in(error))) from None


def clock_time(clock: str) -> time:
    """The time of day that a text names; raises InvalidInput."""
    try:
        return parse_time(clock)
    except ValueError as error:
        raise InvalidInput(f"at: {error}") from None


def in_utc(name: str, instant: datetime) -> datetime:
    """The instant in UTC: hours added in another zone would be wall-clock hours. Raises InvalidInput without a zone."""
    if instant.tzinfo is None:
        raise InvalidInput(f"{name}: {instant} has no time zone. Write datetime(…, tzinfo=ZoneInfo('Europe/Oslo')).")
    return instant.astimezone(UTC)
