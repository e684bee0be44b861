"""What was in force when: holds every claim of a run against the windows, threads, groups and pauses of its instant.

A change of the set-up comes true at some instant between its beginning and its return; a claim in that time may
go by the old set-up or by the new one. All instants are the database's clock's (rule 20).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import func, select

from batchq.core.affinity import Server, Topology
from batchq.store import servers
from batchq.tables import Attempt, Task
from e2e.site import Entry, Site
from rules import DAY, openings

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """One attempt by the books: `end` is None while it executes."""

    run: int
    task: str
    attempt: int
    group: str
    server: str
    at: datetime
    end: datetime | None


@dataclass(frozen=True)
class State:
    """A set-up that came true between `begun` and `done`."""

    begun: datetime
    done: datetime
    topology: Topology

    def server(self, name: str) -> Server:
        return next(server for server in self.topology.servers if server.name == name)


@dataclass
class Timeline:
    """The set-ups of a site, one after the other."""

    site: Site
    states: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        now = self.now()
        self.states.append(State(now, now, self._seen()))

    def now(self) -> datetime:
        """The database's clock."""
        with self.site.database.read() as tx:
            return self.site.database.now(tx)

    def _seen(self) -> Topology:
        with self.site.database.read() as tx:
            return servers.seen(tx)

    def change(self, act: Callable[[], T]) -> T:
        """Do `act`, which changes the set-up, and remember when."""
        begun = self.now()
        result = act()
        done = self.now()
        self.states.append(State(begun, done, self._seen()))
        return result

    def in_force(self, begin: datetime, end: datetime | None = None) -> list[State]:
        """The set-ups that may have been in force at the instant, or at some time between two."""
        last = end or begin
        began = [state for state in self.states if state.begun <= last]
        over = [state.done for state in self.states[1:]]
        return [state for state, ended in zip(began, [*over, None], strict=False) if ended is None or ended >= begin]

    def judge(self, runs: Iterable[int]) -> list[Claim]:
        """Fail with every claim that the set-up of its instant forbade; returns all claims, oldest first."""
        runs = list(runs)
        claims = sorted((claim for run in runs for claim in claims_of(self.site, run)), key=lambda claim: claim.at)
        entries = [entry for run in runs for entry in self.site.ledger(run)]
        found = [*_forbidden(self, claims), *_crowded(self, claims, entries)]
        assert not found, "\n".join(found[:20])
        return claims


def claims_of(site: Site, run: int) -> Iterator[Claim]:
    """All attempts of the run, those that execute among them."""
    names = {server.id: server.name for server in _servers(site)}
    with site.database.read() as tx:
        rows = tx.execute(select(Task.__table__).where(Task.run_id == run)).all()
        ended = select(Attempt.__table__, Task.name, Task.group_name).join(Task).where(Task.run_id == run)
        for row in tx.execute(ended):
            yield Claim(run, row.name, row.attempt, row.group_name, row.server, row.claimed_at, row.ended_at)
    for row in rows:
        if row.status == "executing":
            yield Claim(run, row.name, row.attempt, row.group_name, names[row.server_id], row.claimed_at, None)


def _servers(site: Site) -> Sequence[Server]:
    with site.database.read() as tx:
        return servers.seen(tx).servers


def executing(site: Site) -> dict[str, int]:
    """How many tasks each server executes now, by the books."""
    names = {server.id: server.name for server in _servers(site)}
    counted = select(Task.server_id, func.count()).where(Task.status == "executing").group_by(Task.server_id)
    with site.database.read() as tx:
        return {names[server]: number for server, number in tx.execute(counted)}


def _forbidden(timeline: Timeline, claims: Sequence[Claim]) -> Iterator[str]:
    """Claims outside a window, above the threads, in a foreign or a paused group (rules 12, 16, 19, 29)."""
    busy: defaultdict[str, list[Claim]] = defaultdict(list)
    together: defaultdict[tuple[str, datetime], list[Claim]] = defaultdict(list)
    for claim in claims:
        together[claim.server, claim.at].append(claim)
    for (server, at), group in together.items():
        busy[server] = [each for each in busy[server] if each.end is None or each.end > at] + group
        for claim in group:
            reasons = [_why_not(state, claim, len(busy[server])) for state in timeline.in_force(at)]
            if all(reasons):
                yield f"{claim} although {' and '.join(str(reason) for reason in reasons)}"


def _why_not(state: State, claim: Claim, running: int) -> str | None:
    server, topology = state.server(claim.server), state.topology
    bound = {group for each in topology.servers for group in each.groups}
    threads = threads_of(server, claim.at) if server.enabled else 0
    if running > threads:
        return f"{running} run and {threads} threads are in force"
    if claim.group in topology.paused:
        return f"{claim.group} is paused"
    takes = claim.group in server.groups if server.groups else claim.group == "default" or claim.group not in bound
    return None if takes else f"{server.name} takes {sorted(server.groups)}"


def _crowded(timeline: Timeline, claims: Sequence[Claim], entries: Sequence[Entry]) -> Iterator[str]:
    """Starts, by the operations' own clocks, beside more others than threads were in force from its claim on."""
    claimed = {(claim.run, claim.task, claim.attempt): claim.at for claim in claims}
    by_server: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_server[entry.server].append(entry)
    for server, own in by_server.items():
        for entry in own:
            at = claimed[entry.run, entry.task, entry.attempt]
            started = datetime.fromtimestamp(entry.start + _OFFSET, UTC) + timedelta(seconds=0.05)
            running = [each for each in own if each.start <= entry.start < (each.end or float("inf"))]
            most = max(
                threads_of(state.server(server), instant)
                for state in timeline.in_force(at, started)
                for instant in (at, max(at, started))
            )
            if len(running) > most:
                yield f"{entry} began beside {len(running) - 1} others on {most} threads"


def threads_of(server: Server, at: datetime) -> int:
    """How many threads the server had at the instant, by the wall clocks of its windows (rules 18, 19)."""
    if not server.windows:
        return server.threads
    open_now = [0]
    for zone in {window.timezone for window in server.windows}:
        wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        there = (
            each for each in openings(server.windows, wall.date() - DAY, wall.date()) if each.start <= wall < each.end
        )
        open_now += [opening.window.threads for opening in there if opening.window.timezone == zone]
    return max(open_now)


_OFFSET = time.time() - time.monotonic()
