"""The admission of ready tasks to free threads: who gets a ticket now, and which tickets go back (rules 16-20, 29)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from batchq.core.limits import Lane, Units
from batchq.core.topology import Topology

Key = TypeVar("Key")
NONE: Mapping[str, int] = {}


class Matching:
    """A matching of tickets to free threads, one thread each; placing one may move others to another server.

    A ticket may go out only if it and all others that are out find distinct free threads. Without that a
    server would be offered more than it can run. It begins with the tickets that are `out`, counted by group; one that
    finds no thread keeps none.
    """

    def __init__(self, topology: Topology, free: Mapping[int, int], out: Mapping[str, int] = NONE) -> None:
        places = topology.places
        order = sorted((server for server in free if free[server] > 0 and server in places), key=places.__getitem__)
        self.topology = topology
        self._free = {server: free[server] for server in order}
        self._taking: dict[str, list[int]] = {}
        self._unlooked: dict[str, list[int]] = {}
        self.placed: dict[int, dict[str, int]] = {server: {} for server in order}
        self._hopeless: set[str] = set()
        self._threads = free
        for group, number in out.items():
            self.place_all(group, number)

    @property
    def open(self) -> int:
        """The threads that no ticket has."""
        return sum(self._free.values())

    def room(self, group: str) -> int:
        """The most tickets of the group that could be out if no other group had any."""
        return room(group, self.topology, self._threads)

    def place(self, group: str) -> bool:
        """Find a thread for one more ticket of the group; False if there is none even after moving others."""
        return self.place_all(group, 1) == 1

    def place_all(self, group: str, tickets: int) -> int:
        """Find a thread for each of these tickets of the group; returns how many found one."""
        left = tickets
        while left and (server := self._first_free(group)) is not None:
            number = min(left, self._free[server])
            self._free[server] -= number
            self._count(server, group, number)
            left -= number
        while left and self._move_others(group):
            left -= 1
        return tickets - left

    def _first_free(self, group: str) -> int | None:
        """The first server that takes the group and has a free thread; one without is not looked at again."""
        if group not in self._taking:
            takers = self.topology.taking(group)
            self._taking[group] = [server for server in self._free if server in takers]
            self._unlooked[group] = self._taking[group][::-1]
        unlooked = self._unlooked[group]
        while unlooked and not self._free[unlooked[-1]]:
            unlooked.pop()
        return unlooked[-1] if unlooked else None

    def _move_others(self, group: str) -> bool:
        """Place one ticket of the group, none of whose servers has a free thread, by moving others from there."""
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
        for server in self._taking[group]:
            if server not in came:
                came[server] = (source, group)
                queue.append(server)

    def _shift(self, server: int, came: Mapping[int, tuple[int | None, str]]) -> None:
        self._free[server] -= 1
        source, group = came[server]
        while source is not None:
            self._count(server, group, 1)
            self._count(source, group, -1)
            server = source
            source, group = came[server]
        self._count(server, group, 1)

    def _count(self, server: int, group: str, number: int) -> None:
        self.placed[server][group] = self.placed[server].get(group, 0) + number


def free_threads(topology: Topology, busy: Mapping[int, int], now: datetime, ahead: int = 0) -> dict[int, int]:
    """Tickets that each server could take now, if any: threads − executing, plus `ahead` if it is open at all."""
    threads = topology.threads_now(now)
    return {server: free for server in threads if (free := threads[server] + ahead - busy.get(server, 0)) > 0}


def room(group: str, topology: Topology, free: Mapping[int, int]) -> int:
    """The most tickets of the group that could be out if no other group had any."""
    taking = topology.taking(group)
    few, many = (taking, free) if len(taking) < len(free) else (free, taking)
    return sum(free[server] for server in few if server in many)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[Key]):
    """The candidates that get a ticket, best first; `shares` counts, by server and group, the threads for tickets."""

    chosen: list[Key]
    shares: Mapping[int, Mapping[str, int]]


def choose(candidates: Iterable[tuple[Key, Lane, bool]], matching: Matching, units: Units) -> Admitted[Key]:
    """Choose which candidates (key, lane, whether it waited long), best first, get a ticket now.

    They are placed in the `matching`. Who lacks a unit of a limit is passed over; if it waited long, it keeps the free
    units of its limits from those behind it (rule 29e).
    """
    chosen = []
    for key, lane, waited_long in candidates:
        if lane.keys and not units.take(lane):
            if waited_long:
                units.keep(lane)
        elif matching.place(lane.group):
            chosen.append(key)
        elif lane.keys:
            units.give_back(lane)
    return Admitted(chosen, matching.placed)


def lanes_wanted(ready: Iterable[Lane], matching: Matching, units: Units, now: datetime) -> dict[Lane, int]:
    """Candidates worth reading, per ready lane: at most its group's room, the threads left, and the units that it has.

    Of a lane that lacks a unit of one of several limits the first is read: it may keep the units of the others
    (rule 29).
    """
    most, topology = matching.open, matching.topology
    if not most:
        return {}
    wanted = {}
    for lane in ready:
        number = min(matching.room(lane.group), most)
        if topology.has_limits:
            number = _limited(lane, number, topology, units, now)
        if number > 0:
            wanted[lane] = number
    return wanted


def _limited(lane: Lane, number: int, topology: Topology, units: Units, now: datetime) -> int:
    """The candidates to read by the lane's units, at most `number`; 1 if its first task may keep units (rule 29e)."""
    free = units.room(lane)
    if free > 0 or len(lane.keys) < 2 or units.is_unsorted(lane):
        return min(number, free)
    opened = topology.threads_now(now)
    return int(any(server in opened for server in topology.taking(lane.group)))


def surplus(out: Iterable[tuple[Key, Lane]], topology: Topology, free: Mapping[int, int], units: Units) -> list[Key]:
    """The tickets out (key, lane), oldest first, that no free thread or unit answers any more; they go back (rule 20).

    `units` know the attempts that execute.
    """
    matching = Matching(topology, free)
    gone = []
    for key, lane in out:
        if lane.keys and not units.take(lane):
            gone.append(key)
        elif not matching.place(lane.group):
            units.give_back(lane)
            gone.append(key)
    return gone
