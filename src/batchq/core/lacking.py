"""The sentences for a ready task that lacks a unit of a limit, or stands behind others (rules 28, 29, 40)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchq.core.limits import named

HOLDERS = 3  # that a sentence names


@dataclass(frozen=True, slots=True)
class Full:
    """A limit that has no free unit; `holders` are the tasks that have one, and `run` and `job` those of the waiter."""

    key: str
    group: str
    units: int
    in_use: int
    holders: Sequence[str]
    run: int
    job: str


def lacks(full: Full, kept: Sequence[str] = ()) -> str:
    """A clause for a task that lacks a unit; `kept` are its other limits whose units are kept for it (rule 29e)."""
    return "; ".join([_lacks(full), *(f"{limit} is kept for it" for limit in kept)])


def _lacks(full: Full) -> str:
    numbers = f"{full.in_use} of {full.units}"
    if full.key.startswith("run:"):
        return f"run {full.run} has {numbers} in {full.group}"
    if full.key.startswith("job:"):
        return f"{full.job} has {numbers}"
    name = limit_name(full.key)
    if not full.units:
        return f"waits for {name}, which has no units"
    shown = list(full.holders[:HOLDERS])
    if len(full.holders) > HOLDERS:
        shown.append(f"{len(full.holders) - HOLDERS} more")
    return f"waits for {name} ({numbers}{': ' if shown else ''}{', '.join(shown)})"


def holder(job: str, task: str, server: str | None) -> str:
    """`JOB 1 / TASK 3 on AOS1`, or that its ticket is out."""
    return f"{job} / {task} on {server}" if server else f"{job} / {task}, which is handed out"


def kept_for(key: str, job: str, task: str) -> str:
    """A clause for a task whose unit is kept for another one: `a is kept for JOB 9 / X`."""
    return f"{limit_name(key)} is kept for {job} / {task}"


def limit_name(key: str) -> str:
    """The name of a limit, for people."""
    if key.startswith("run:"):
        return "a place in the run"
    return "a place in the job" if key.startswith("job:") else key.removeprefix(named(""))


def behind(tasks: int) -> str:
    """A clause for a task that never rises, as aging is off (rule 28)."""
    return f"behind {tasks:,} task{'' if tasks == 1 else 's'} of a higher class; aging is off"
