"""The servers as they stand: their threads, their bindings, and which group each of them serves (rules 10-13)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

from batchq.core import windows as hours
from batchq.core.override import Override
from batchq.core.windows import Period, Window

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
    override: Override | None = None

    @property
    def most_threads(self) -> int:
        """The most tasks that it may run at once at any instant."""
        overriding = self.override.threads if self.override is not None else 0
        return max(self.threads, *(window.threads for window in self.windows), overriding)

    def threads_now(self, now: datetime) -> int:
        """Tasks it may run at once at this instant; 0 when closed, disabled or not running (rules 16, 19)."""
        if not (self.enabled and self.alive):
            return 0
        threads = self.threads_at(now)
        return threads if self.pool is None else min(threads, self.pool)

    def overridden(self, instant: datetime) -> Override | None:
        """The override that counts at the aware `instant`; None if its windows do (rule 51)."""
        override = self.override
        return override if override is not None and override.holds(instant) else None

    def threads_at(self, instant: datetime) -> int:
        """The threads that its override, else its windows, give it at the aware `instant` (rules 18, 19, 21, 51)."""
        override = self.override
        if override is not None and override.holds(instant):
            return override.threads
        return hours.threads_at(self.windows, self.threads, instant)

    def next_change(self, after: datetime, horizon: timedelta | None = None) -> datetime | None:
        """The first instant later than `after` at which `threads_at` differs; in all else as for windows."""
        override = self.overridden(after)
        if override is None:
            return hours.next_change(self.windows, self.threads, after, horizon)
        until = override.until.astimezone(UTC)
        left = None if horizon is None else after + horizon - until
        if left is not None and left < timedelta():
            return None
        if hours.threads_at(self.windows, self.threads, until) != override.threads:
            return until
        return hours.next_change(self.windows, self.threads, until, left)

    def next_edge(self, after: datetime) -> datetime:
        """An instant later than `after`, in UTC, up to which `threads_at` stays as it is at `after`."""
        override = self.overridden(after)
        return hours.next_edge(self.windows, after) if override is None else override.until.astimezone(UTC)

    def next_opening(self, after: datetime, horizon: timedelta | None = None) -> datetime | None:
        """The first instant, in UTC, at or later than `after` with a thread; None up to `after` + `horizon`."""
        return after.astimezone(UTC) if self.threads_at(after) else self.next_change(after, horizon)

    def periods(self, begin: datetime, end: datetime) -> Iterator[Period]:
        """The time from `begin` to `end`, both aware, without holes; the end of an override parts two periods."""
        override = self.overridden(begin)
        if override is not None and begin < end:
            until = min(override.until, end).astimezone(UTC)
            yield Period(begin.astimezone(UTC), until, override.threads)
            begin = until
        yield from hours.periods(self.windows, self.threads, begin, end)


@dataclass(frozen=True, slots=True)
class Aside:
    """Tasks and runs, by id, that always fail: work done for many at once leaves them out."""

    tasks: frozenset[int] = frozenset()
    runs: frozenset[int] = frozenset()


class OpenServers:
    """The servers that are open, with their threads; windows are judged again only when one may open or close."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = [server for server in servers if server.enabled and server.alive]
        # One server for each set of hours: many share theirs.
        self._timed = list(
            {(each.windows, each.override): each for each in self._servers if each.windows or each.override}.values()
        )
        self._known: tuple[datetime, datetime, dict[int, int]] | None = None

    def threads(self, now: datetime) -> Mapping[int, int]:
        """The threads of each server that has any at the aware instant `now`, by id."""
        known = self._known  # another thread may replace it at any moment
        if known is None or (self._timed and not known[0] <= now < known[1]):
            until = min((server.next_edge(now) for server in self._timed), default=now)
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
