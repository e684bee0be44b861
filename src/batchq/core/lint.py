"""Set-ups that starve work silently: groups nobody serves, windows that never open or overlap (rule 15)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from batchq.core.topology import DEFAULT_GROUP, Server, Topology
from batchq.core.why import names, of_override
from batchq.core.windows import UNREADABLE, Window, covering, zone

DAY = timedelta(days=1)
YEAR_DAYS = 370  # two zones may change their clocks in different weeks


def lint(topology: Topology, groups: Iterable[str], now: datetime, timezone: str = "UTC") -> list[str]:
    """Every problem of the servers and groups as they are set up, a sentence each (rule 15).

    The end of an override is told in `timezone`.
    """
    found = [problem for group in groups if (problem := _unserved(topology, group, now))]
    for server in topology.servers:
        found += [*_of_server(server, now), *_of_override(server, now, timezone)]
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
    vanished = sorted({window.timezone for window in server.windows if window.vanished})
    for name in vanished:
        if name.endswith(UNREADABLE.partition("{}")[2]):
            yield f"Server {server.name} has a window that cannot be read ({name}): it never opens."
            continue
        yield f"Server {server.name} has windows in {name}, no time zone that this machine knows: they never open."
    unreadable = (override := server.overridden(now)) is not None and not override.readable
    if server.enabled and not unreadable and not _opens(server, now):
        if server.next_opening(now) is not None:
            yield f"Server {server.name} has no threads within 24 h: it starts nothing."
        elif not vanished:  # the sentence above would say it twice
            lacks = "window that ever opens" if server.windows else "threads"
            yield f"Server {server.name} has no {lacks}: it starts nothing."
    yield from _beyond_the_pool(server, now)
    for one, other in _overlaps(server, now):
        yield (
            f"Server {server.name} has overlapping windows, {_words(one)} and {_words(other)}: "
            "where both are open, the larger number of threads counts."
        )


def _opens(server: Server, now: datetime) -> bool:
    return server.next_opening(now, DAY) is not None


def _of_override(server: Server, now: datetime, timezone: str) -> Iterator[str]:
    """A sentence if its override asks for more threads than its worker's pool holds, or cannot be read (rule 51)."""
    override = server.overridden(now)
    if override is None:
        return
    if not override.readable:
        yield f"Server {server.name} has an override that cannot be read: it starts nothing. Set another one, or none."
    elif server.alive and server.pool and override.threads > server.pool:
        said = of_override(override, timezone, now)
        yield (
            f"Server {server.name} has {override.threads} threads by {said}, but its worker's pool holds "
            f"{server.pool} at most: it never runs more at once."
        )


def _beyond_the_pool(server: Server, now: datetime) -> Iterator[str]:
    """A sentence if windows ask for more threads than the running worker's pool holds (rule 16)."""
    wanted = [(window.threads, f" in {_words(window)}") for window in server.windows if _may_open(window, now)]
    if all(window.only is not None for window in server.windows):
        wanted.append((server.threads, ""))
    threads, when = max(wanted, default=(0, ""))
    if server.alive and server.pool and threads > server.pool:
        yield (
            f"Server {server.name} has {threads} threads{when}, but its worker's pool holds {server.pool} at most: "
            "it never runs more at once."
        )


def _may_open(window: Window, now: datetime) -> bool:
    """Whether the window can still open: its zone is known, and its date is not over."""
    return not window.vanished and (window.only is None or window.only >= now.astimezone(zone(window.timezone)).date())


def _overlaps(server: Server, now: datetime) -> list[tuple[Window, Window]]:
    """Pairs of windows in different zones: one starts within a year while the other is open (rules 18, 21)."""
    if len({window.timezone for window in server.windows}) < 2:
        return []
    found = {
        tuple(sorted((number, server.windows.index(other))))
        for number, window in enumerate(server.windows)
        for start in _starts(window, now)
        if window in (opened := covering(server.windows, start))
        for other in opened
        if other.timezone != window.timezone and not _day_off(window) and not _day_off(other)
    }
    return [(server.windows[one], server.windows[other]) for one, other in sorted(found)]


def _starts(window: Window, now: datetime) -> Iterator[datetime]:
    """The starts of the window to come, in UTC: on its date, or on every day of a year."""
    if window.vanished:
        return
    tz = zone(window.timezone)
    today = now.astimezone(tz).date()
    days = [today + DAY * day for day in range(YEAR_DAYS)] if window.only is None else [window.only]
    for day in days:
        if day >= today:
            yield datetime.combine(day, window.start, tz).astimezone(UTC)


def _day_off(window: Window) -> bool:
    return window.only is not None and not window.threads


def _words(window: Window) -> str:
    return f"{window.span} {window.timezone}"
