"""The sides of the comparison: the processes they run, and how each does its work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
from sqlalchemy import select

from batchq import actions
from batchq.core.states import RUN_OPEN, RunState
from batchq.core.topology import DEFAULT_GROUP
from batchq.store import schema
from batchq.store.columns import RUN
from benchmarks import bare
from benchmarks.joined import join
from benchmarks.site import Store
from benchmarks.workloads import LAYERS, Stamps, Workload

SHARED = ("broker", "database")


# --- the sides ----------------------------------------------------------------------------------------------


class Side(Protocol):
    """What runs no-ops: its processes stay up, and are idle between its runs."""

    name: str
    follows: frozenset[str]  # the workloads in which a task follows others, into a thread that is free
    stamps: Stamps
    environment: Mapping[str, str]  # of its processes, over that of this one
    processes: dict[str, psutil.Process]

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        """Its processes, by the part they play."""

    def close(self) -> None:
        """Let nothing start that is handed over from now on."""

    def open(self) -> None:
        """Let it start."""

    def begin(self, work: Workload) -> None:
        """Hand the whole work over, out of plain values."""

    def through(self) -> bool:
        """Whether nothing is left to do behind the last operation."""

    def stored_at(self) -> float | None:
        """When it was in the books that all is done, in seconds since 1970."""

    def tidy(self) -> None:
        """Leave nothing behind in this process; the clock does not run."""


class Bare:
    """A Celery worker: prefork, early acknowledgement, Celery's own prefetch of 4, no events, no results."""

    name = "bare"
    follows = frozenset({"chain"})
    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self.stamps = Stamps(folder / f"{self.name}.stamps")
        self.processes: dict[str, psutil.Process] = {}

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        yield "main", worker(self.name, self.name, threads)

    def close(self) -> None:
        self.processes["main"].send_signal(signal.SIGSTOP)

    def open(self) -> None:
        self.processes["main"].send_signal(signal.SIGCONT)

    def begin(self, work: Workload) -> None:
        stamps = str(self.stamps.path)
        with bare.app.producer_or_acquire() as producer:
            if work.name == "chain":
                bare.chain.apply_async((stamps, 0, len(work.marks)), producer=producer)
                return
            for mark in work.marks:
                bare.single.apply_async((stamps, mark), producer=producer)

    def through(self) -> bool:
        return True

    def stored_at(self) -> float | None:
        return None

    def tidy(self) -> None:
        """Nothing is left."""


def worker(module: str, queue: str, threads: int, *options: str, pool: str = "prefork") -> list[str]:
    """The command line of a plain Celery worker."""
    argv = [sys.executable, "-m", "celery", "-A", f"benchmarks.{module}", "worker", "-P", pool]
    argv += ["-c", str(threads), "-Q", queue, "-n", f"{queue}@%h", "-l", "WARNING"]
    return [*argv, "--without-gossip", "--without-mingle", *options]


class Canvas(Bare):
    """The same worker, for work written in Celery's own canvas; results are kept where chords need them."""

    name = "canvas"
    follows = frozenset({"wide", "drain", "chain", "layers"})

    def begin(self, work: Workload) -> None:
        self._results = [signature.apply_async() for signature in _signatures(work)]

    def tidy(self) -> None:
        # Celery keeps the results of a chord, here and in the backend, until they are fetched or forgotten.
        for result in self._results:
            result.forget()
        self._results.clear()


def _signatures(work: Workload) -> Iterator[Any]:
    from benchmarks import canvas  # its result backend is beside the broker, which is known only now

    stamps = str(work.stamps)
    if work.name == "job1":
        yield from (canvas.job1(stamps, run) for run in range(len(work.jobs)))
    elif work.name == "layers":
        yield canvas.layer(stamps, 0, len(work.marks) // LAYERS, LAYERS)
    else:
        write = canvas.in_a_row if work.name == "chain" else canvas.wide
        yield write(stamps, work.marks)


class Batchq:
    """A batch server with as many threads, and a coordinator: a deployment of its own, on a database of its own.

    It is started as users start it, with Celery's events, unless `events` is false.
    """

    follows = frozenset({"wide", "drain", "chain", "layers"})

    def __init__(self, folder: Path, threads: int, store: Store, name: str = "batchq", *, events: bool = True) -> None:
        self.name = name
        self.stamps = Stamps(folder / f"{name}.stamps")
        self.processes: dict[str, psutil.Process] = {"database": store.process} if store.process else {}
        self.runs: list[int] = []
        settings = {"database_url": store.url, "home": str(folder / name), "deployment": name}
        self.environment: Mapping[str, str] = {
            f"BATCHQ_{setting.upper()}": value for setting, value in settings.items()
        }
        self.batch = join(**settings)
        self._options = [] if events else ["--no-events"]
        schema.upgrade(self.batch.database)
        actions.ensure_server(self.batch.database, name, threads)

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        argv = [sys.executable, "-m", "batchq", "-A", "benchmarks.joined:batch"]
        yield "coordinator", [*argv, "coordinator"]
        yield "main", [*argv, "server", "start", self.name, *self._options, "--loglevel", "WARNING"]

    def close(self) -> None:
        actions.pause_group(self.batch.database, DEFAULT_GROUP)

    def open(self) -> None:
        actions.resume_group(self.batch.database, DEFAULT_GROUP)
        self.batch.forward()

    def begin(self, work: Workload) -> None:
        self.runs = self.batch.submit_all(work.write())

    def through(self) -> bool:
        with self.batch.database.read() as tx:
            states = set(tx.scalars(select(RUN.status).where(RUN.id.in_(self.runs))))
        assert states <= {*RUN_OPEN, RunState.SUCCESS}, states
        return not states & set(RUN_OPEN)

    def stored_at(self) -> float | None:
        with self.batch.database.read() as tx:
            ends = tx.scalars(select(RUN.ended_at).where(RUN.id.in_(self.runs))).all()
        return float(max(ends).timestamp())

    def tidy(self) -> None:
        """What it did stays in the books, as it does in a night's work."""
