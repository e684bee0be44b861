"""Plays jobs by hand on the real engine: `start` lets a server claim the tickets out, and nothing starts before."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from batchq import views
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.core.windows import Window
from batchq.engine import Life
from batchq.spec import loads
from batchq.store import topology as topologies
from batchq.store.moves import Ticket
from batchq.testing.cast import Cast
from batchq.testing.clocked import Clocked
from support.servers import make_server

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


class Stage(Cast):
    """Plays jobs: `submit`, then `start` and `end` tasks one by one, or `play` them all."""

    def __init__(self, database: Clocked) -> None:
        super().__init__(database, fast_path=False)

    @property
    def lives(self) -> dict[str, Life]:
        return {name: worker.life for name, worker in self.workers.items()}

    @property
    def tickets(self) -> dict[int, Ticket]:
        """The newest ticket of each task that has one out."""
        return {ticket.task: ticket for ticket in self.mail}

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

        self.database.run(partial(make_server, name=name, threads=threads, groups=groups, windows=windows))
        return self.live(name, host="h", pid=412, life="life", pool=100, pool_kind="prefork") if runs else None

    def submit(self, text: str = JOB_1) -> int:
        """Store a run of the only job in the text, and advance."""
        (job,) = loads(text).jobs.values()
        return super().submit(job)

    def advance(self) -> None:
        """Settle and hand out until there is no more; the tickets stay here."""
        self.forward()

    def start(self, server: str) -> list[str]:
        """Let a server claim what it may of the tickets out; returns the names of the tasks it starts."""
        with self.database.read() as tx:
            seen = topologies.current(tx)
        own = seen.by_id[self.workers[server].life.server]
        offers = [ticket for ticket in self.tickets.values() if seen.serves(own, ticket.group)]
        granted = self.serve(server, offers=offers, pool=1000).granted
        self.workers[server].parked.clear()  # they stay out, for whoever starts next
        started = {row.id for row in granted}
        self.mail = type(self.mail)(ticket for ticket in self.mail if ticket.task not in started)
        return [row.name for row in granted]

    def end(
        self,
        task: str,
        error: str | None = None,
        *,
        result: str | None = None,
        log: str | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        """Let an executing task end, in error if one is given, and advance."""
        ((server, row),) = [(server, row) for server, row in self.running() if row.name == task]
        self.report(
            server, row, Success(result) if error is None else Failure(Reason.ERROR, error, classes=classes), log
        )
        self.forward()

    def play(self, failing: Collection[str] = ()) -> None:
        """Start and end whatever can start, until nothing can; tasks `failing` fail at every attempt."""
        while started := [name for server in self.workers for name in self.start(server)]:
            for name in started:
                self.end(name, f"RuntimeError: {name} was told to fail" if name in failing else None)

    def view(self, run: int = 1) -> dict[str, Any]:
        with self.database.read() as tx:
            return views.run_view(tx, run)

    def states(self, run: int = 1) -> dict[str, str]:
        return {task["name"]: task["status"] for task in self.view(run)["tasks"]}
