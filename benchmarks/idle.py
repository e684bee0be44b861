"""What processes cost that have nothing to do: ours, and the same Celery workers without us."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click
import psutil

from benchmarks import site
from benchmarks.compare import running, spread, usual
from benchmarks.meter import clock, cpu_seconds
from benchmarks.sides import SHARED, worker

STRETCH_SECONDS = 10.0
# What is measured, and what it is held against.
AGAINST = {
    "server": "worker",
    "server's pool": "worker's pool",
    "coordinator": "solo worker",
    "coordinator's beat": "Celery's beat",
}

Spent = Callable[[], float]  # CPU seconds so far


def idle(threads: int, seconds: float, postgresql: bool) -> dict[str, Any]:
    """Per cent of a core that each process takes, in stretches of ten seconds that follow upon one another."""
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = stack.enter_context(site.database(postgresql, folder))
        bare, ours = stack.enter_context(running(folder, usual(store, canvas=False, quiet=False), threads))
        beats = worker("bare", "idle", 1, "-B", "-s", str(folder / "schedule"), pool="solo")
        solo = stack.enter_context(site.process("solo", beats, folder))
        site.wait(lambda: bool(solo.children()), site.START_SECONDS, "Celery's beat")
        watched = {
            **_both("worker", "worker's pool", bare.processes["main"]),
            **_both("server", "server's pool", ours.processes["main"]),
            **_both("solo worker", "Celery's beat", solo),
            **_both("coordinator", "coordinator's beat", ours.processes["coordinator"]),
            **{f"{part}, for all": _whole(ours.processes[part]) for part in SHARED if part in ours.processes},
        }
        return {name: spread(values) for name, values in _shares(watched, seconds).items()}


def _both(name: str, name_of_children: str, process: psutil.Process) -> dict[str, Spent]:
    """A process and the children that it keeps, each for itself."""
    children = process.children(recursive=True)
    return {
        name: lambda: clock(process.pid),
        name_of_children: lambda: sum(clock(child.pid) for child in children),
    }


def _whole(process: psutil.Process) -> Spent:
    """A process with its children, which come and go."""
    return lambda: sum(cpu_seconds({"all": process}).values())


def _shares(watched: dict[str, Spent], seconds: float) -> dict[str, list[float]]:
    shares: dict[str, list[float]] = {name: [] for name in watched}
    stretch = min(STRETCH_SECONDS, seconds)
    time.sleep(stretch)  # what they did before comes to rest
    for number in range(max(1, round(seconds / STRETCH_SECONDS))):
        before = {name: (time.monotonic(), spent()) for name, spent in watched.items()}
        time.sleep(stretch)
        for name, spent in watched.items():
            began, spent_before = before[name]
            shares[name].append((spent() - spent_before) / (time.monotonic() - began) * 100)
        click.echo(f"idle: {(number + 1) * stretch:g} s", err=True)
    return shares
