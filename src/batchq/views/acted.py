"""The results of actions, as people and programs read them."""

from __future__ import annotations

from typing import TypedDict


class RunResult(TypedDict):
    """The result of an action on a run, or of its rehearsal: how the run stands, and how many tasks it concerns.

    `tasks` have not started, and `executing` ones finish. `refused` says why the action was not taken; else it is null.
    """

    run: int
    job: str
    action: str
    status: str
    held: bool
    tasks: int
    executing: int
    refused: str | None


class JobResult(TypedDict):
    """The result of an action on a job, or of its rehearsal; `open_runs` go on."""

    job: str
    action: str
    withheld: bool
    open_runs: int
