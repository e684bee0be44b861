"""Which server serves which group, and which ready tasks get a ticket now (rules 10-13, 16, 19, 20, 40)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from batchq.core.windows import Window, covering, format_time, next_opening, threads_at, zone

DEFAULT_GROUP = "default"

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Server:
    """A batch server as dispatch sees it; `pool` is the most its worker can run: None = unknown, 0 = it stops."""

    id: int
    name: str
    threads: int = 1
    groups: frozenset[str] = frozenset()
    windows: tuple[Window, ...] = ()
    enabled: bool = True
    alive: bool = True
    epoch: int = 0
    pool: int | None = None

    def threads_now(self, now: datetime) -> int:
        """Tasks it may run at once at this instant; 0 when closed, disabled or not running (rules 16, 19)."""
        if not (self.enabled and self.alive):
            return 0
        threads = threads_at(self.windows, self.threads, now)
        return threads if self.pool is None else min(threads, self.pool)


@dataclass(frozen=True, slots=True)
class Aside:
    """What always fails, and is left out of all that is done for many at once: tasks and runs, by their numbers."""

    tasks: frozenset[int] = frozenset()
    runs: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Topology:
    """All servers, their bindings, the paused groups and what is set aside at one moment; `version` tells two of them
    apart.
    """

    servers: tuple[Server, ...]
    version: int = 0
    paused: frozenset[str] = frozenset()
    aside: Aside = Aside()

    @cached_property
    def by_id(self) -> dict[int, Server]:
        return {server.id: server for server in self.servers}

    @cached_property
    def bound(self) -> frozenset[str]:
        """The groups that at least one server is bound to, whatever that server's state (rule 12)."""
        return frozenset(group for server in self.servers for group in server.groups)

    def serves(self, server: Server, group: str) -> bool:
        """Whether the server may run tasks of the group (rules 11, 12)."""
        if server.groups:
            return group in server.groups
        return group == DEFAULT_GROUP or group not in self.bound

    def takes(self, server: Server, group: str) -> bool:
        """Whether the server may start tasks of the group now, if it has a thread (rules 11, 12, 29)."""
        return group not in self.paused and self.serves(server, group)

    def serving(self, group: str) -> list[Server]:
        """The servers that may run the group's tasks, in whatever state they are."""
        return [server for server in self.servers if self.serves(server, group)]


class Matching:
    """Tickets placed on free threads, one each, moved aside for each other where that makes room.

    A ticket is only good if it and all others out can be matched to distinct free threads: then no
    server is ever offered more than it can run, whichever of them takes which.
    """

    def __init__(self, topology: Topology, free: Mapping[int, int]) -> None:
        self._servers = [server for server in topology.servers if free.get(server.id, 0) > 0]
        self._takes = topology.takes
        self._free = {server.id: free[server.id] for server in self._servers}
        self.placed: dict[int, Counter[str]] = {server.id: Counter() for server in self._servers}
        self._hopeless: set[str] = set()

    def place(self, group: str) -> bool:
        """Find a thread for one more ticket of the group; False if there is none even after moving others."""
        if group in self._hopeless:
            return False
        came: dict[int, tuple[int | None, str]] = {}
        queue: deque[int] = deque()
        self._reach(group, None, came, queue)
        while queue:
            server = queue.popleft()
            if self._free[server] > 0:
                self._shift(server, came)
                return True
            for other in [other for other, count in self.placed[server].items() if count]:
                self._reach(other, server, came, queue)
        # Room only ever shrinks: what found none will find none later.
        self._hopeless.add(group)
        return False

    def _reach(
        self, group: str, source: int | None, came: dict[int, tuple[int | None, str]], queue: deque[int]
    ) -> None:
        for server in self._servers:
            if server.id not in came and self._takes(server, group):
                came[server.id] = (source, group)
                queue.append(server.id)

    def _shift(self, server: int, came: Mapping[int, tuple[int | None, str]]) -> None:
        self._free[server] -= 1
        source, group = came[server]
        while source is not None:
            self.placed[server][group] += 1
            self.placed[source][group] -= 1
            server = source
            source, group = came[server]
        self.placed[server][group] += 1


def free_threads(topology: Topology, busy: Mapping[int, int], now: datetime, ahead: int = 0) -> dict[int, int]:
    """Threads of each server that could take a ticket now: threads − executing, plus `ahead` if it is open at all."""
    free = {}
    for server in topology.servers:
        threads = server.threads_now(now)
        if threads:
            free[server.id] = max(0, threads + ahead - busy.get(server.id, 0))
    return free


def room(group: str, topology: Topology, free: Mapping[int, int]) -> int:
    """How many tickets of the group could be out at most, were it alone."""
    return sum(count for server, count in free.items() if topology.takes(topology.by_id[server], group))


@dataclass(frozen=True, slots=True)
class Admitted:
    """The candidates that get a ticket, best first, and how many of each group each server's threads answer."""

    chosen: list[Any]
    shares: Mapping[int, Mapping[str, int]]


def admit(
    candidates: Iterable[tuple[Any, str]], out: Mapping[str, int], topology: Topology, free: Mapping[int, int]
) -> Admitted:
    """Which candidates (key, group), best first, get a ticket now, given the tickets already `out` per group."""
    matching = Matching(topology, free)
    for group, count in out.items():
        for _ in range(count):
            matching.place(group)
    return Admitted([key for key, group in candidates if matching.place(group)], matching.placed)


def open_threads(out: Mapping[str, int], topology: Topology, free: Mapping[int, int]) -> int:
    """How many threads are left over once the tickets out have theirs; one that finds none keeps none."""
    matching = Matching(topology, free)
    answered = sum(matching.place(group) for group, count in out.items() for _ in range(count))
    return sum(free.values()) - answered


def candidates_wanted(
    ready: Iterable[str], out: Mapping[str, int], topology: Topology, free: Mapping[int, int]
) -> dict[str, int]:
    """How many candidates of each group dispatch looks at: at most its room, and at most the threads that are left."""
    most = open_threads(out, topology, free) if any(free.values()) else 0
    rooms = {group: min(room(group, topology, free), most) for group in ready} if most else {}
    return {group: wanted for group, wanted in rooms.items() if wanted}


def surplus(out: Iterable[tuple[Key, str]], topology: Topology, free: Mapping[int, int]) -> list[Key]:
    """The tickets out (key, group), oldest first, that no free thread answers any more: they go back (rule 20)."""
    matching = Matching(topology, free)
    return [key for key, group in out if not matching.place(group)]


def why_ready(
    group: str, topology: Topology, busy: Mapping[int, int], now: datetime, timezone: str | None = None
) -> str:
    """Why a ready task of the group does not start, as one clause, with the next instant if time decides (rule 40).

    The instant is told in `timezone`, an IANA name; without one, in the zone of the window that opens.
    """
    for reason in _reasons(group, topology, busy, now, timezone):
        return reason
    return "is being handed out"


def _reasons(
    group: str, topology: Topology, busy: Mapping[int, int], now: datetime, timezone: str | None
) -> Iterator[str]:
    serving = topology.serving(group)
    if group in topology.paused:
        yield f"{group} is paused"
    if not serving:
        yield f"{group}: no server serves this group"
    enabled = [server for server in serving if server.enabled]
    if not enabled:
        yield f"{group}: {names(serving)} {'are' if len(serving) > 1 else 'is'} disabled"
    alive = [server for server in enabled if server.alive]
    if not alive:
        yield f"{group}: {names(enabled)} {'do' if len(enabled) > 1 else 'does'} not run"
    staying = [server for server in alive if server.pool != 0]
    if not staying:
        yield f"{group}: {names(alive)} {'are' if len(alive) > 1 else 'is'} stopping"
    opened = [server for server in staying if server.threads_now(now)]
    if not opened:
        yield f"{group}: {_closed(staying, now, timezone)}"
    full = [server for server in opened if busy.get(server.id, 0) >= server.threads_now(now)]
    if len(full) == len(opened):
        counts = ", ".join(f"{s.name} {busy[s.id]}/{s.threads_now(now)}" for s in full[:4])
        yield f"{counts}{', …' if len(full) > 4 else ''} threads busy"


def _closed(servers: Sequence[Server], now: datetime, timezone: str | None) -> str:
    openings = [
        (opening, server)
        for server in servers
        if (opening := next_opening(server.windows, server.threads, now)) is not None
    ]
    if not openings:
        lacks = "window that opens" if all(server.windows for server in servers) else "threads"
        return f"{names(servers)} {'have' if len(servers) > 1 else 'has'} no {lacks}"
    opening, server = min(openings, key=lambda pair: pair[0])
    window = max(covering(server.windows, opening), key=lambda window: window.threads, default=None)
    shown = timezone or (window or next(each for each in server.windows if not each.vanished)).timezone
    return f"no server has an open window until {local(opening, shown, now)} ({_which(server, window, shown)})"


def _which(server: Server, window: Window | None, timezone: str) -> str:
    if window is None:  # a day off has ended for a server that has no other windows
        return f"{server.name} with {_threads(server.threads)}"
    zoned = "" if window.timezone == timezone else f" {window.timezone}"
    return f"{server.name}, {window.span}{zoned} with {_threads(window.threads)}"


def _threads(number: int) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def local(instant: datetime, timezone: str, now: datetime) -> str:
    """`18:00 Europe/Oslo`, or on another day than `now` there `Tue 24 Nov 18:00 Europe/Oslo`."""
    there, here = instant.astimezone(zone(timezone)), now.astimezone(zone(timezone))
    day = "" if there.date() == here.date() else f"{there:%a %d %b} "
    return f"{day}{format_time(there.time().replace(microsecond=0))} {timezone}"


def names(servers: Sequence[Server]) -> str:
    """`AOS2`, `AOS2 and AOS3`, `AOS1, AOS2 and 3 more`."""
    shown = [server.name for server in servers]
    if len(shown) > 3:
        shown = [*shown[:2], f"{len(shown) - 2} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
