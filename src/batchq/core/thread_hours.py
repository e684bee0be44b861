"""Thread-seconds, hour by hour: how many threads are open, how many are busy, and how many are missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from batchq.core.topology import Topology
from batchq.core.windows import zone

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Hour:
    """The thread-seconds of an hour: open and `busy` ones of each server, all that are `idle`, all that are `missing`.

    `missing` adds up the time that ready tasks wait, each for one thread. A paused group's tasks do not count.
    """

    start: datetime
    end: datetime
    threads: Mapping[str, float]
    busy: Mapping[str, float]
    idle: float
    missing: float


def full_hours(begin: datetime, end: datetime, timezone: str) -> Iterator[datetime]:
    """The instants between `begin` and `end` at which the clock in `timezone` shows a full hour."""
    there = begin.astimezone(zone(timezone))
    hour = begin + HOUR - timedelta(minutes=there.minute, seconds=there.second, microseconds=there.microsecond)
    while hour < end:
        yield hour
        hour += HOUR


def thread_changes(topology: Topology, begin: datetime, end: datetime) -> list[datetime]:
    """The instants after `begin` at which the threads of a server change, the earliest last."""
    starts = {period.start for server in topology.servers for period in server.periods(begin, end)}
    return sorted(starts - {begin}, reverse=True)


class Books:
    """Adds up thread-seconds hour by hour; `edges` are the begin and the end of each hour."""

    def __init__(self, edges: Sequence[datetime]) -> None:
        self.hours: list[Hour] = []
        self._start = self._now = edges[0]
        self._ends = list(reversed(edges[1:]))
        self._clear()

    @property
    def hour_ends(self) -> datetime:
        """The end of the present hour."""
        return self._ends[-1]

    def _clear(self) -> None:
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._idle = self._missing = 0.0

    def add(self, until: datetime, present: Topology, busy: Mapping[int, int], waiting: int) -> None:
        """Book the time since the last call; `until` may not lie beyond the end of the present hour."""
        seconds = (until - self._now).total_seconds()
        for server in present.servers if seconds else ():
            threads = server.threads_now(until)
            used = busy[server.id]
            self._threads[server.name] += threads * seconds
            self._busy[server.name] += used * seconds
            self._idle += max(0, threads - used) * seconds
        self._missing += waiting * seconds
        self._now = until
        if until == self._ends[-1]:
            hour = Hour(self._start, until, self._threads, self._busy, self._idle, self._missing)
            self.hours.append(hour)
            self._start = self._ends.pop()
            self._clear()
