"""The servers as they stand: their threads, their bindings, and which group each of them serves (rules 10-13)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from batchq.core.windows import Window, next_edge, threads_at

DEFAULT_GROUP = "default"


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

    @property
    def most_threads(self) -> int:
        """The most tasks that it may run at once at any instant."""
        return max(self.threads, *(window.threads for window in self.windows), 0)

    def threads_now(self, now: datetime) -> int:
        """Tasks it may run at once at this instant; 0 when closed, disabled or not running (rules 16, 19)."""
        if not (self.enabled and self.alive):
            return 0
        threads = threads_at(self.windows, self.threads, now)
        return threads if self.pool is None else min(threads, self.pool)


@dataclass(frozen=True, slots=True)
class Aside:
    """Tasks and runs, by id, that always fail: work done for many at once leaves them out."""

    tasks: frozenset[int] = frozenset()
    runs: frozenset[int] = frozenset()


class OpenServers:
    """The servers that are open, with their threads; windows are judged again only when one may open or close."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = [server for server in servers if server.enabled and server.alive]
        self._windows = {server.windows for server in self._servers if server.windows}
        self._known: tuple[datetime, datetime, dict[int, int]] | None = None

    def threads(self, now: datetime) -> Mapping[int, int]:
        """The threads of each server that has any at the aware instant `now`, by id."""
        known = self._known  # another thread may replace it at any moment
        if known is None or (self._windows and not known[0] <= now < known[1]):
            until = min((next_edge(windows, now) for windows in self._windows), default=now)
            threads = {server.id: server.threads_now(now) for server in self._servers}
            self._known = known = now, until, {server: number for server, number in threads.items() if number}
        return known[2]


@dataclass(frozen=True)
class Topology:
    """All servers, their bindings, the paused groups, the limits and the set-aside work at one moment.

    `units` are those of named limits and of jobs, by key (`core.limits`), and `per_run` those that each run has in a
    group. Two topologies of the same `version` are equal.
    """

    servers: tuple[Server, ...]
    version: int = 0
    paused: frozenset[str] = frozenset()
    aside: Aside = Aside()
    units: Mapping[str, int] = field(default_factory=dict)
    per_run: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[int, Server]:
        """Every server by its id."""
        return {server.id: server for server in self.servers}

    @cached_property
    def has_limits(self) -> bool:
        """Whether any limit is set (rule 29)."""
        return bool(self.units or self.per_run)

    @cached_property
    def places(self) -> dict[int, int]:
        """The place of every server, by its id, in the order of servers."""
        return {server.id: place for place, server in enumerate(self.servers)}

    @cached_property
    def bound(self) -> frozenset[str]:
        """The groups that at least one server, in any state, is bound to (rule 12)."""
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

    def taking(self, group: str) -> Collection[int]:
        """The ids, in order, of the servers that may start tasks of the group now (rules 11, 12, 29)."""
        return () if group in self.paused else self._serving.get(group, self._unbound)

    def threads_now(self, now: datetime) -> Mapping[int, int]:
        """The threads of each server that is open at the aware instant `now`, by id and in order (rules 16, 19)."""
        return self._open.threads(now)

    @cached_property
    def _serving(self) -> dict[str, dict[int, None]]:
        """The servers of each group that is bound, and of the default group."""
        serving: dict[str, dict[int, None]] = {DEFAULT_GROUP: {}}
        for server in self.servers:
            for group in server.groups or (DEFAULT_GROUP,):
                serving.setdefault(group, {})[server.id] = None
        return serving

    @cached_property
    def _unbound(self) -> dict[int, None]:
        """The servers of every other group."""
        return {server.id: None for server in self.servers if not server.groups}

    @cached_property
    def _open(self) -> OpenServers:
        return OpenServers(self.servers)
