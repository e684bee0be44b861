"""The sides of the comparison: the processes they run, and what is measured of one run."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from benchmarks.meter import PARTS, Meter, Resident
from benchmarks.site import wait
from benchmarks.workloads import LAYERS, Stamps, Workload

SERVER = "Bench"
SHARED = ("broker", "database")


# --- the sides ----------------------------------------------------------------------------------------------


class Side(Protocol):
    """What runs no-ops: its processes stay up, and are idle between its runs."""

    name: str
    follows: frozenset[str]  # the workloads in which a task follows others, into a thread that is free
    stores: bool  # whether it uses the database
    stamps: Stamps
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
    stores = False

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
    """A batch server with as many threads, and a coordinator."""

    name = "batchq"
    follows = frozenset({"wide", "drain", "chain", "layers"})
    stores = True

    def __init__(self, folder: Path, threads: int) -> None:
        self.stamps = Stamps(folder / "batchq.stamps")
        self.processes: dict[str, psutil.Process] = {}
        self.runs: list[int] = []
        self.batch = join()
        schema.upgrade(self.batch.database)
        actions.ensure_server(self.batch.database, SERVER, threads)

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        argv = [sys.executable, "-m", "batchq", "-A", "benchmarks.joined:batch"]
        yield "coordinator", [*argv, "coordinator"]
        yield "main", [*argv, "server", "start", SERVER, "--loglevel", "WARNING"]

    def close(self) -> None:
        actions.pause_group(self.batch.database, DEFAULT_GROUP)

    def open(self) -> None:
        actions.resume_group(self.batch.database, DEFAULT_GROUP)
        self.batch.forward()

    def begin(self, work: Workload) -> None:
        self.runs = [self.batch.submit(job) for job in work.write()]

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


def both_sides(folder: Path, threads: int) -> list[Side]:
    """Bare Celery and batchq."""
    return [Bare(folder), Batchq(folder, threads)]


def all_sides(folder: Path, threads: int) -> list[Side]:
    """And Celery's canvas."""
    return [*both_sides(folder, threads), Canvas(folder)]


# --- one run of one side ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one run of one side came to.

    `seconds` run from the first act of handing over (of gated work: of letting it start) to the end of the last
    operation, `submit_seconds` from the first to the last act of handing over. `stored_ms` is how much later it was in
    the books. `cpu_ms` is CPU time per task by part, the client's until all is handed over and not while it waits;
    `others_cpu` is how much of a core the waiting sides took meanwhile; `resident_mib` the memory of main processes.
    """

    seconds: float
    submit_seconds: float
    stored_ms: float | None
    tasks_per_second: float
    cpu_ms: dict[str, float]
    cpu_ms_per_task: float
    others_cpu: float
    peak_mib: float
    resident_mib: dict[str, Resident]
    hops_ms: list[float]


def measure(side: Side, work: Workload, timeout: float, others: Sequence[Side] = ()) -> Figures:
    """Have the side do the work, while the others wait; raises TimeoutError."""
    count = len(work.marks)
    side.stamps.clear()
    if work.gated:
        side.close()
    with Meter(side.processes) as meter, Meter(_own(others)) as others_meter:
        handing_over = Timed(lambda: side.begin(work))
        opening = Timed(side.open if work.gated else nothing)
        wait(lambda: side.stamps.count() >= count and side.through(), timeout, f"{side.name}, {work.name}")
    side.tidy()
    stamps = dict(written := side.stamps.read())
    assert stamps.keys() == set(work.marks), "an operation ran that should not have"
    assert len(written) == count, "an operation ran twice"
    start = (opening if work.gated else handing_over).start
    end = max(stamp.ended for stamp in stamps.values())
    cpu = {**meter.cpu_seconds, "client": handing_over.cpu_seconds + opening.cpu_seconds}
    cpu_ms = {part: cpu[part] * 1000 / count for part in PARTS if part in cpu}
    return Figures(
        seconds=(end - start) / 1e9,
        submit_seconds=handing_over.seconds,
        stored_ms=_later_ms(side.stored_at(), end),
        tasks_per_second=count * 1e9 / (end - start),
        cpu_ms=cpu_ms,
        cpu_ms_per_task=sum(cpu_ms.values()),
        others_cpu=sum(others_meter.cpu_seconds.values()) / others_meter.seconds,
        peak_mib=meter.peak_bytes / 2**20,
        resident_mib=meter.resident_mib,
        hops_ms=work.hops(stamps) if work.name in side.follows else [],
    )


class Timed:
    """An act of this thread, done and timed: its start in ns of the monotonic clock, and its wall and CPU seconds."""

    def __init__(self, act: Callable[[], None]) -> None:
        cpu, self.start = time.thread_time(), time.monotonic_ns()
        act()
        self.seconds = (time.monotonic_ns() - self.start) / 1e9
        self.cpu_seconds = time.thread_time() - cpu


def nothing() -> None:
    """Do nothing."""


def _own(sides: Sequence[Side]) -> dict[str, psutil.Process]:
    """The processes that are these sides' own, by whatever name."""
    return {
        f"{side.name} {part}": process
        for side in sides
        for part, process in side.processes.items()
        if part not in SHARED
    }


def _later_ms(stored_at: float | None, end: int) -> float | None:
    """How much later than `end`, of the monotonic clock, that was."""
    if stored_at is None:
        return None
    return (stored_at - (time.time() - time.monotonic()) - end / 1e9) * 1000
