"""What tickets ahead of free threads are worth: the same work on several servers, with none and with more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from batchq import actions
from benchmarks import site
from benchmarks.compare import hop_ms, running, spread
from benchmarks.measure import Figures, measure
from benchmarks.sides import Batchq
from benchmarks.workloads import WORKLOADS

SETTING = "BATCHQ_TICKETS_AHEAD"
TICKETS = (0, 1, 2, 4, 8)
USUAL = ("wide", "layers", "job1")
OTHERS = 2


class Several(Batchq):
    """Three batch servers with as many threads each, and a coordinator."""

    def __init__(self, folder: Path, threads: int, store: site.Store) -> None:
        super().__init__(folder, threads, store)
        for number in range(OTHERS):
            actions.ensure_server(self.batch.database, f"{self.name} {number}", threads)

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        for part, argv in super().commands(threads):
            yield part, argv
            if self.name in argv:
                for number in range(OTHERS):
                    other = f"{self.name} {number}"
                    yield other, [other if word == self.name else word for word in argv]


def ahead(names: tuple[str, ...], tasks: int, turns: int, threads: int, postgresql: bool, timeout: float) -> Any:
    """Tasks per second and hops of each workload, by tickets ahead; processes and database are new in each turn."""
    found: dict[str, dict[int, list[Figures]]] = {name: {tickets: [] for tickets in TICKETS} for name in names}
    for turn in range(turns):
        for tickets in TICKETS if turn % 2 else reversed(TICKETS):
            os.environ[SETTING] = str(tickets)
            for name, figures in _turn(names, tasks, threads, postgresql, timeout):
                found[name][tickets].append(figures)
        click.echo(f"turn {turn + 1} of {turns}", err=True)
    return {name: {str(tickets): _told(runs) for tickets, runs in by.items()} for name, by in found.items()}


def _turn(
    names: tuple[str, ...], tasks: int, threads: int, postgresql: bool, timeout: float
) -> Iterator[tuple[str, Figures]]:
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = stack.enter_context(site.database(postgresql, folder))
        (side,) = stack.enter_context(running(folder, lambda at, width: [Several(at, width, store)], threads))
        for name in names:
            yield name, measure(side, WORKLOADS[name](tasks, side.stamps.path), timeout)


def _told(runs: list[Figures]) -> dict[str, Any]:
    return {"tasks_per_second": spread([run.tasks_per_second for run in runs]), "hop_ms": hop_ms(runs)}
