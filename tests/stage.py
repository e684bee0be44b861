"""A stage for tests: real engine, store and database; servers are lives without processes, tickets a list."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from batchq import engine, views
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.core.windows import Window
from batchq.engine import Flush, Life, Offer, Report
from batchq.spec import loads
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database

JOB_1 = """
job: JOB 1
tasks:
  TASK 1: {run: demo.work}
  TASK 2: {run: demo.work, after: {TASK 1: finished}}
  TASK 3: {run: demo.work, after: TASK 2}
  TASK 4: {run: demo.work, after: TASK 2}
  TASK 5: {run: demo.work, after: {TASK 2: error}}
  TASK 6: {run: demo.work, after: {TASK 3: error}}
  TASK 7: {run: demo.work, after: [TASK 3, TASK 4]}
"""


class Stage:
    """Plays jobs: `submit`, then `start` and `end` tasks one by one, or `play` them all."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.lives: dict[str, Life] = {}
        self.executing: dict[str, tuple[Life, Any]] = {}
        self.tickets: dict[int, Any] = {}

    def server(
        self,
        name: str,
        threads: int = 1,
        *,
        groups: Collection[str] = (),
        windows: Collection[Window] = (),
        runs: bool = True,
    ) -> Life | None:
        """Make a server exist, and run if it `runs`."""

        def make(tx: Any) -> Life | None:
            servers.create(tx, name)
            row = servers.find(tx, name)
            servers.set_server(tx, row.id, threads=threads, groups=groups, windows=windows)
            topologies.changed(tx)
            life = {"host": "h", "pid": 412, "life": "life", "pool": 100, "pool_kind": "prefork"}
            return engine.take_over(tx, row.id, name, life, self.database.now(tx)) if runs else None

        life = self.database.run(make)
        if life is not None:
            self.lives[name] = life
        return life

    def submit(self, text: str = JOB_1) -> int:
        """Store a run of the only job in the text, and advance."""
        (job,) = loads(text).jobs.values()
        run = engine.submit(self.database, job)
        self.advance()
        return run

    def advance(self) -> None:
        """Settle and hand out until there is no more; the tickets stay here."""
        again = True
        while again:
            step = self.database.run(lambda tx: engine.advance(tx, self.database))
            self.tickets |= {ticket.task: ticket for ticket in step.tickets}
            again = step.more

    def start(self, server: str) -> list[str]:
        """Let a server claim what it may of the tickets out; returns the names of the tasks it starts."""
        life = self.lives[server]
        offers = [Offer(ticket.task, ticket.token, ticket.group) for ticket in self.tickets.values()]
        active = sum(holder == life for holder, _ in self.executing.values())
        with self.database.read() as tx:
            seen = topologies.current(tx, self.database)
        mine = [offer for offer in offers if seen.serves(seen.by_id[life.server], offer.group)]
        flush = Flush(offers=mine, active=active, pool=1000, may_advance=False)
        served = self.database.run(engine.serve, self.database, life, flush)
        for row in served.granted:
            self.executing[row.name] = (life, row)
            del self.tickets[row.id]
        return [row.name for row in served.granted]

    def end(self, task: str, error: str | None = None, *, result: str | None = None, log: str | None = None) -> None:
        """Let an executing task end, in error if one is given, and advance."""
        life, row = self.executing.pop(task)
        end = Success(result) if error is None else Failure(Reason.ERROR, error)
        report = Report(row.id, row.token, end, log)
        flush = Flush(reports=[report], active=0, pool=1000, may_advance=False)
        self.database.run(engine.serve, self.database, life, flush)
        self.advance()

    def play(self, failing: Collection[str] = ()) -> None:
        """Start and end whatever can start, until nothing can; tasks `failing` fail at every attempt."""
        while started := [name for server in self.lives for name in self.start(server)]:
            for name in started:
                self.end(name, f"RuntimeError: {name} was told to fail" if name in failing else None)

    def view(self, run: int = 1) -> dict[str, Any]:
        with self.database.read() as tx:
            return views.run_view(tx, run)

    def states(self, run: int = 1) -> dict[str, str]:
        return {task["name"]: task["status"] for task in self.view(run)["tasks"]}
