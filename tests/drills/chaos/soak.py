"""The soak: half the peak rate, without faults, and nothing may grow: memory, open files, keys in the broker."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

import psutil

from drills.chaos.faults import no_ops
from drills.chaos.installation import OPEN_TASKS, Installation
from support.brokers import Valkey

PEAK_TASKS = 600
BATCH = 50
SAMPLE_SECONDS = 2.0
# By how much the last third of the time may be above the first, in parts of it and at least: the heap of a process
# breathes, and a coordinator opens its connections for tickets only when it has the first to send.
MOST = {"memory": (0.10, 2.0), "files": (0.02, 4.0), "keys": (0.02, 4.0)}


def peak(site: Installation) -> float:
    """Tasks a second with all that is there."""
    began = time.monotonic()
    run = site.submit(no_ops("PEAK", PEAK_TASKS))
    site.wait_end(run, 300)
    return PEAK_TASKS / (time.monotonic() - began)


def samples(site: Installation) -> Iterator[tuple[str, str, float]]:
    """What, of whom, and how much now: memory in MB, open files, keys."""
    for name, process in site.processes.items():
        with suppress(psutil.Error):
            main = psutil.Process(process.pid)
            yield "memory", name, main.memory_info().rss / 2**20
            yield "files", name, main.num_fds()
    if isinstance(site._broker, Valkey):
        yield "keys", "broker", float(site.broker("DBSIZE").strip(b":\r\n"))
    else:
        yield "keys", "broker", sum(site.queues().values())


def soak(site: Installation, minutes: float, rng: random.Random) -> int:
    """Play it for so long; prints what each measure was, and its slope; returns 1 if one grew."""
    rate = peak(site) / 2
    print(f"half the peak is {rate:.0f} tasks a second", flush=True)
    series: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    began = time.monotonic()
    sampled, submitted = began, 0
    while (now := time.monotonic()) < began + 60 * minutes:
        rows = site.rows(OPEN_TASKS)
        if submitted < rate * (now - began) and rows and rows[0][0] < 20 * BATCH:
            site.submit(no_ops(f"SOAK {rng.randrange(10)}", BATCH))
            submitted += BATCH
        if now >= sampled:
            sampled += SAMPLE_SECONDS
            for what, whom, number in samples(site):
                series[what, whom].append((now - began, number))
        time.sleep(min(0.05, BATCH / rate / 2))
    print(f"{submitted} tasks in {minutes:g} min", flush=True)
    return int(sum(_told(what, whom, points, minutes) for (what, whom), points in sorted(series.items())) > 0)


def _told(what: str, whom: str, points: list[tuple[float, float]], minutes: float) -> bool:
    """Print one measure; returns whether it grew: the first fifth of the time is its warming up."""
    steady = [point for point in points if point[0] >= 12 * minutes] or points
    times, numbers = zip(*steady, strict=True)
    slope = statistics.linear_regression(times, numbers).slope * 3600 if len(steady) > 1 else 0.0
    third = max(len(numbers) // 3, 1)
    first, last = statistics.median(numbers[:third]), statistics.median(numbers[-third:])
    part, least = MOST[what]
    grew = last > first + max(first * part, least)
    unit = {"memory": "MB", "files": "open files", "keys": "keys"}[what]
    print(f"{whom:14} {first:8.1f} → {last:8.1f} {unit:10} {slope:+9.2f} an hour{'   GREW' if grew else ''}")
    return grew
