"""The admission of ready tasks to free threads: who gets a ticket now, and which tickets go back (rules 16, 19, 20)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from batchq.core.topology import Topology

Key = TypeVar("Key")


class Matching:
    """A matching of tickets to free threads, one thread each; placing one may move others to another server.

    A ticket may go out only if it and all others that are out find distinct free threads. Without that a
    server would be offered more than it can run.
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
        # Room only shrinks. Without this note every further ticket of the group would repeat the whole search.
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
    """The most tickets of the group that could be out if no other group had any."""
    return sum(count for server, count in free.items() if topology.takes(topology.by_id[server], group))


@dataclass(frozen=True, slots=True)
class Admitted(Generic[Key]):
    """The candidates that get a ticket, best first; `shares` counts, by server and group, the threads for tickets."""

    chosen: list[Key]
    shares: Mapping[int, Mapping[str, int]]


def admit(
    candidates: Iterable[tuple[Key, str]], out: Mapping[str, int], topology: Topology, free: Mapping[int, int]
) -> Admitted[Key]:
    """Choose which candidates (key, group), best first, get a ticket now; `out` counts the tickets out per group."""
    matching = Matching(topology, free)
    for group, count in out.items():
        for _ in range(count):
            matching.place(group)
    return Admitted([key for key, group in candidates if matching.place(group)], matching.placed)


def open_threads(out: Mapping[str, int], topology: Topology, free: Mapping[int, int]) -> int:
    """Threads that remain once each ticket out has one; a ticket that finds no thread keeps none."""
    matching = Matching(topology, free)
    answered = sum(matching.place(group) for group, count in out.items() for _ in range(count))
    return sum(free.values()) - answered


def candidates_wanted(
    ready: Iterable[str], out: Mapping[str, int], topology: Topology, free: Mapping[int, int]
) -> dict[str, int]:
    """Candidates worth reading, per ready group: at most its room, and at most the threads left for all."""
    most = open_threads(out, topology, free) if any(free.values()) else 0
    rooms = {group: min(room(group, topology, free), most) for group in ready} if most else {}
    return {group: number for group, number in rooms.items() if number}


def surplus(out: Iterable[tuple[Key, str]], topology: Topology, free: Mapping[int, int]) -> list[Key]:
    """The tickets out (key, group), oldest first, that no free thread answers any more; they go back (rule 20)."""
    matching = Matching(topology, free)
    return [key for key, group in out if not matching.place(group)]
