"""One run of one side, measured: how long it took, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.meter import PARTS, Meter, Resident
from benchmarks.sides import SHARED, Side
from benchmarks.site import wait
from benchmarks.workloads import Workload


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
