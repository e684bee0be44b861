"""The servers as they stand: their threads, their bindings, and which group each of them serves (rules 10-13)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from batchq.core.windows import Window, threads_at

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


@dataclass(frozen=True)
class Topology:
    """All servers, their bindings, the paused groups and the set-aside work at one moment.

    Two topologies of the same `version` are equal.
    """

    servers: tuple[Server, ...]
    version: int = 0
    paused: frozenset[str] = frozenset()
    aside: Aside = Aside()

    @cached_property
    def by_id(self) -> dict[int, Server]:
        """Every server by its id."""
        return {server.id: server for server in self.servers}

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
