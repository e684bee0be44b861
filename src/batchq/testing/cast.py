"""The cast: servers without processes. They claim and report on the real engine, and the broker is a list."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypedDict, Unpack

from batchq import engine
from batchq.core.ends import End
from batchq.core.topology import Topology
from batchq.engine import Flush, Life, Offer, Report, Served
from batchq.spec import JobSpec
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.columns import run_of
from batchq.store.moves import Pile, Ticket
from batchq.store.moves import Start as Granted
from batchq.store.transaction import Tx
from batchq.testing.clocked import Clocked

MOST_STEPS = 100_000
ANY_POOL = 100_000  # a worker without processes has room for everything


@dataclass(frozen=True, slots=True)
class Start:
    """An attempt that a server started, and when."""

    run: int
    task: str
    server: str
    attempt: int
    at: datetime


@dataclass
class Worker:
    """A server's worker: attempts that execute there, by token, and tickets that wait there for a thread."""

    life: Life
    active: dict[str, Granted] = field(default_factory=dict)
    parked: list[Offer] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    stale: int = 0


class Options(TypedDict, total=False):
    """Optional parts of a flush, besides reports, offers and the number of active attempts."""

    overdue: Sequence[Offer]
    pool: int
    likely: Collection[Pile]
    ahead: int
    unsendable: Collection[str]
    may_advance: bool
    more_to_settle: bool
    tokens_here: Collection[str] | None


class Cast:
    """Servers, and the tickets on their way to them.

    Without the `fast_path` servers only report and claim; `forward` does the rest.
    """

    def __init__(self, database: Clocked, *, fast_path: bool = True) -> None:
        self.database = database
        self.fast_path = fast_path
        self.workers: dict[str, Worker] = {}
        self.mail: deque[Ticket] = deque()
        self.started: dict[str, Start] = {}
        self.places: dict[str, int] = {}  # of each start among all, by token

    @property
    def starts(self) -> list[Start]:
        """All starts, in their order."""
        return list(self.started.values())

    # --- the coordinator ------------------------------------------------------------------------------------

    def submit(self, job: JobSpec) -> int:
        """Store a run of the job and hand out what is ready; returns the run's number."""
        run = engine.submit(self.database, job)
        self.forward()
        return run

    def forward(self) -> int:
        """Settle and hand out until there is no more; returns how many transactions it took."""
        for taken in range(1, MOST_STEPS):
            step = self.database.run(self._step)
            self.mail.extend(step.tickets)
            if not step.more:
                return taken
        raise AssertionError("it never ends")

    def tick(self, lost_ticket_seconds: float = 5.0) -> None:
        """Do a coordinator's work of one second, except to look after lost servers."""

        def mend(tx: Tx) -> list[Ticket]:
            now = tx.now()
            engine.go_on(tx, now)
            engine.sort_now(tx, topologies.at_hand(tx).per_run)
            engine.close_lanes(tx)
            engine.follow_clock(tx, now)
            engine.take_back(tx, now)
            return engine.offer_again(tx, now, lost_ticket_seconds)

        self.mail.extend(self.database.run(mend))
        self.forward()

    def _step(self, tx: Tx) -> engine.Advance:
        return engine.advance(tx)

    # --- a server -------------------------------------------------------------------------------------------

    def live(self, name: str, **facts: object) -> Life:
        """Begin a new life of a server that exists; its former one is forgotten."""
        standing: dict[str, object] = {"host": "here", "pid": 1, "life": None, "pool": None, "pool_kind": "threads"}

        def begin(tx: Tx) -> Life:
            return engine.take_over(tx, found(tx, name), name, standing | facts, tx.now())

        life = self.database.run(begin)
        self.workers[name] = Worker(life)
        return life

    def serve(
        self,
        name: str,
        reports: Sequence[Report] = (),
        offers: Sequence[Offer | Ticket] = (),
        *,
        active: int | None = None,
        **options: Unpack[Options],
    ) -> Served:
        """Commit for the server as its worker does; `active` replaces the number of active attempts."""
        worker = self.workers[name]
        ended = {report.token for report in reports}
        running = len(worker.active.keys() - ended) if active is None else active
        offered = [Offer(each.task, each.token, each.group) for each in offers]
        first = served = self._commit(worker, reports, offered, active=running, **options)
        while not served.fenced:
            for token in ended:
                worker.active.pop(token, None)
            self._carry_out(name, worker, served)
            if not served.advance.more:
                break
            ended = set()
            served = self._commit(worker, [], worker.parked, active=len(worker.active), more_to_settle=True)
        return first

    def _commit(
        self,
        worker: Worker,
        reports: Sequence[Report],
        offers: Sequence[Offer],
        *,
        active: int,
        **options: Unpack[Options],
    ) -> Served:
        likely = {worker.active[report.token].pile for report in reports if report.token in worker.active}
        flush = Flush(reports=reports, offers=offers, active=active, pool=ANY_POOL, likely=likely)
        flush = replace(flush, may_advance=self.fast_path)
        return self.database.run(self._serve, worker.life, replace(flush, **options))

    def _serve(self, tx: Tx, life: Life, flush: Flush) -> Served:
        return engine.serve(tx, life, flush)

    def _carry_out(self, name: str, worker: Worker, served: Served) -> None:
        worker.parked = list(served.parked)
        worker.stale += served.stale
        for row in served.granted:
            worker.active[row.token] = row
            worker.known.add(row.token)
            self.places[row.token] = len(self.started)
            self.started[row.token] = Start(run_of(row.id), row.name, name, row.attempt, self.database.shown)
        self.mail.extend(served.advance.tickets)

    def topology(self, tx: Tx) -> Topology:
        """All servers as they stand."""
        return topologies.current(tx)

    # --- tickets --------------------------------------------------------------------------------------------

    def deliver(self) -> int:
        """Bring each ticket to its group's server with the most free threads; if none is free it stays in the mail.

        Returns how many were brought.
        """
        if not self.mail:
            return 0
        with self.database.read() as tx:
            seen = self.topology(tx)
            now = tx.now()
        waiting, self.mail = self.mail, deque()
        brought = 0
        for ticket in waiting:
            name = self._room(ticket.group, seen, now)
            if name is None:
                self.mail.append(ticket)
            elif ticket.token not in self.workers[name].known:
                self.workers[name].known.add(ticket.token)
                self.serve(name, offers=[ticket])
                brought += 1
        return brought

    def _room(self, group: str, seen: Topology, now: datetime) -> str | None:
        rooms = {
            name: seen.by_id[worker.life.server].threads_now(now) - len(worker.active) - len(worker.parked)
            for name, worker in self.workers.items()
            if seen.serves(seen.by_id[worker.life.server], group)
        }
        best = max(rooms, key=lambda name: rooms[name], default=None)
        return best if best is not None and rooms[best] > 0 else None

    # --- what runs ------------------------------------------------------------------------------------------

    def running(self) -> list[tuple[str, Granted]]:
        """The attempts that execute, each with its server, in the order of their starts."""
        running = [(name, row) for name, worker in self.workers.items() for row in worker.active.values()]
        return sorted(running, key=lambda each: self.places[each[1].token])

    def report(self, server: str, row: Granted, end: End, log: str | None = None) -> Served:
        """Let an attempt end, and its server report it."""
        return self.serve(server, [Report(row.id, row.token, end, log)])

    def lose_attempts(self, server: str, tokens: Collection[str]) -> None:
        """Lose these attempts of a server that lives on: nobody knows what they did."""
        worker = self.workers[server]

        def act(tx: Tx) -> None:
            engine.recover_missing(tx, worker.life, tokens, tx.now())

        self.database.run(act)
        for token in tokens:
            worker.active.pop(token)
        self.forward()


def found(tx: Tx, name: str) -> int:
    """The id of a server that exists; its row is locked until the commit."""
    row = servers.find(tx, name)
    assert row is not None
    return int(row.id)
