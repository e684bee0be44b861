"""What was in force when: writes each change of the set-up into the ledger, so that every claim can be judged by it.

A change of the set-up comes true at some instant between its beginning and its return; a claim in that time may
go by the old set-up or by the new one. All instants are the database's clock's (rule 20).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, select

from batchq.core.topology import Server, Topology
from batchq.store import topology as topologies
from batchq.store.tables import TaskRow
from support import checker
from support.checker import Claim as Claim
from support.site import Site

T = TypeVar("T")


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
        self._remember(now, now)

    def now(self) -> datetime:
        """The database's clock."""
        with self.site.database.read() as tx:
            return tx.now()

    def change(self, act: Callable[[], T]) -> T:
        """Do `act`, which changes the set-up, and remember when."""
        begun = self.now()
        result = act()
        self._remember(begun, self.now())
        return result

    def _remember(self, begun: datetime, done: datetime) -> None:
        with self.site.database.read() as tx:
            topology, setup = topologies.read(tx), checker.setup_in(tx)
        self.states.append(State(begun, done, topology))
        self.site.note("setup", begun=begun.isoformat(), done=done.isoformat(), **setup)

    def judge(self, runs: Iterable[int]) -> list[Claim]:
        """Fail with every claim that the set-up of its instant forbade; returns all claims, oldest first."""
        with self.site.database.read() as tx:
            case = checker.Case(self.site.written(), checker.read(tx))
        claims = checker.claims_of(case.books, set(runs))
        found = [*checker.forbidden(case, claims), *checker.crowded(case, claims)]
        assert not found, "\n".join(map(str, found[:20]))
        return claims


def executing(site: Site) -> dict[str, int]:
    """How many tasks each server executes now, by the books."""
    counted = select(TaskRow.server_id, func.count()).where(TaskRow.status == "executing").group_by(TaskRow.server_id)
    with site.database.read() as tx:
        names = {server.id: server.name for server in topologies.read(tx).servers}
        return {names[server]: number for server, number in tx.execute(counted)}


def threads_of(server: Server, at: datetime) -> int:
    """How many threads the server had at the instant, by its override, else by its windows (rules 18, 19, 51)."""
    override = (server.override.threads, server.override.until) if server.override else None
    told = checker.Server(server.threads, True, frozenset(server.groups), tuple(server.windows), override)
    return told.threads_at(at)
