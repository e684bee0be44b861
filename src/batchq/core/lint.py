"""What starves work silently: groups nobody serves, windows that never open or overlap (rule 15)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import combinations

from batchq.core.affinity import DEFAULT_GROUP, Server, Topology, names
from batchq.core.windows import Window, format_time, next_opening, zone

DAY = timedelta(days=1)
YEAR_DAYS = 370  # two zones may change their clocks in different weeks


def lint(topology: Topology, groups: Iterable[str], now: datetime) -> list[str]:
    """Every problem of the servers and groups as they are set up, a sentence each (rule 15)."""
    found = [problem for group in groups if (problem := _unserved(topology, group, now))]
    for server in topology.servers:
        found += _of_server(server, now)
    return found


def _unserved(topology: Topology, group: str, now: datetime) -> str | None:
    serving = topology.serving(group)
    enabled = [server for server in serving if server.enabled]
    name = "The default group" if group == DEFAULT_GROUP else f"Group {group}"
    if not serving:
        return f"{name} is served by no server: its tasks wait for ever."
    if not enabled:
        are = "are" if len(serving) > 1 else "is"
        return f"{name} is served by no enabled server ({names(serving)} {are} disabled): its tasks wait."
    if not any(_opens(server, now) for server in enabled):
        return f"{name} is served by {names(enabled)} only, with no open window within 24 h: its tasks wait."
    return None


def _of_server(server: Server, now: datetime) -> Iterator[str]:
    if server.enabled and not _opens(server, now):
        yield f"Server {server.name} has no threads within 24 h: it starts nothing."
    for one, other in combinations(server.windows, 2):
        if one.timezone != other.timezone and _overlap(one, other, now):
            yield (
                f"Server {server.name} has overlapping windows, {_words(one)} and {_words(other)}: "
                "where both are open, the larger number of threads counts."
            )


def _opens(server: Server, now: datetime) -> bool:
    return next_opening(server.windows, server.threads, now, DAY) is not None


def _overlap(one: Window, other: Window, now: datetime) -> bool:
    """Whether, within a year, a period of one window starts inside a period of the other (rule 18)."""
    return any(other.covers(start) for start in _starts(one, now)) or any(
        one.covers(start) for start in _starts(other, now)
    )


def _starts(window: Window, now: datetime) -> Iterator[datetime]:
    tz = zone(window.timezone)
    today = now.astimezone(tz).date()
    for day in range(YEAR_DAYS):
        start = datetime.combine(today + DAY * day, window.start, tz)
        if window.covers(start):
            yield start


def _words(window: Window) -> str:
    return f"{format_time(window.start)}-{format_time(window.end)} {window.timezone}"
