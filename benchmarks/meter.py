"""What processes cost while something is measured: CPU time by the part they play, and memory."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.25
# A worker's children are its pool; the children of any other process play its own part.
PARTS = ("main", "pool", "coordinator", "client", "broker", "database")

Processes = Mapping[str, psutil.Process]  # by the part each plays


@dataclass
class Resident:
    """The resident memory of one process, in MiB: at the beginning, the most, at the end."""

    begin: float
    most: float
    end: float

    def add(self, mib: float) -> None:
        self.most, self.end = max(self.most, mib), mib


@dataclass
class Meter:
    """CPU seconds of some processes with their children, and the memory of a side's own, while entered.

    `peak_bytes` is the peak of the sum over all its own processes, `resident_mib` that of each main process alone.
    """

    processes: Processes
    own: Collection[str] = ("main", "coordinator")  # the parts whose memory counts
    peak_bytes: int = 0
    resident_mib: dict[str, Resident] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Meter:
        # Looked up once: a search through all processes of the machine costs more than the rest of a sample.
        self._roots = {part: process for part, process in self.processes.items() if part in self.own}
        pids = [pid for process in self._roots.values() for pid in descendants(process.pid)]
        self._children = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        self._look()
        self._before = cpu_seconds(self.processes)
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
        self._ended.set()
        self._thread.join()
        after = cpu_seconds(self.processes)
        self.cpu_seconds = {part: spent - self._before[part] for part, spent in after.items()}
        self._look()

    def _sample(self) -> None:
        while self._roots and not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        resident = {part: resident_bytes(process) for part, process in self._roots.items()}
        self.peak_bytes = max(self.peak_bytes, sum(resident.values()) + sum(map(resident_bytes, self._children)))
        for part, size in resident.items():
            mib = size / 2**20
            self.resident_mib.setdefault(part, Resident(mib, mib, mib)).add(mib)


def cpu_seconds(processes: Processes) -> dict[str, float]:
    """CPU seconds so far, by part: of the processes, of their children, and of children that have ended."""
    spent: dict[str, float] = defaultdict(float)
    for part, process in processes.items():
        spent[part] += clock(process.pid)
        childrens = "pool" if part == "main" else part
        ended = process.cpu_times()
        spent[childrens] += ended.children_user + ended.children_system
        for child in descendants(process.pid):
            with suppress(OSError):
                spent[childrens] += clock(child)
    return spent


def descendants(pid: int) -> Iterator[int]:
    """The numbers of a process's children, and of theirs; the kernel lists them, so no search is needed."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def clock(pid: int) -> float:
    """CPU seconds of a process with all its threads, to the nanosecond: /proc counts in hundredths of a second."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory; none of a process that has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0
