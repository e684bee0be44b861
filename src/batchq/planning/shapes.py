"""The shape of a plan as people and programs read it.

Times are ISO 8601 in UTC, durations seconds; `threads`, `busy`, `idle` and `missing` are thread-seconds. An event
beyond the horizon is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from batchq.views import OverrideView


class JobName(TypedDict):
    """A job of the plan; `run` is the number of an open run, or null for a job that is not submitted yet."""

    job: str
    run: int | None


class PlannedJob(JobName):
    """A job with its end; `status` is `success`, `error`, `canceled`, or `executing` if the job is still open."""

    status: str
    ends_at: str | None
    seconds: float | None
    tasks: dict[str, int]


class TaskName(JobName):
    """A task of the plan."""

    task: str


class PlannedTask(TaskName):
    """A task with its instants; `duration_from` is a key of SOURCES, or `gate`.

    `status` is one of `waiting`, `ready`, `executing`, `success`, `error`, `didnt_run`, `canceled`.
    """

    status: str
    server: str | None
    group: str
    attempts: int
    ready_at: str | None
    started_at: str | None
    ended_at: str | None
    waited_seconds: float
    duration: float
    duration_from: str
    why: str | None


class ServerHour(TypedDict):
    """A server's thread-seconds within an hour: open ones and busy ones."""

    threads: float
    busy: float


class PlannedHour(TypedDict):
    """An hour of the plan."""

    start: str
    end: str
    servers: dict[str, ServerHour]
    idle: float
    missing: float


class Wait(TaskName):
    """A ready task that waited for a thread, and why."""

    group: str
    ready_at: str | None
    started_at: str | None
    waited_seconds: float
    why: str


class Totals(TypedDict):
    """The sums over all hours."""

    threads: float
    busy: float
    idle: float
    missing: float


# `from` is a keyword of Python.
_Span = TypedDict("_Span", {"from": str, "to": str})


class PlanView(_Span):
    """A plan; `servers_from` is `file`, `database`, `both` or `default`, `durations` counts the tasks by source.

    `overrides` are those with which it begins, by server (rule 51).
    """

    timezone: str
    servers_from: str
    overrides: dict[str, OverrideView]
    jobs: list[PlannedJob]
    tasks: list[PlannedTask]
    hours: list[PlannedHour]
    longest_waits: list[Wait]
    totals: Totals
    durations: Mapping[str, int]
