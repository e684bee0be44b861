"""Plays jobs as `batchq.testing` does, on any database, with lives that end, forged reports and stale tickets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, select

from batchq import engine
from batchq.core.ends import Failure, Success
from batchq.core.states import TERMINAL, Reason
from batchq.core.windows import Window
from batchq.engine import Flush, Life, Served
from batchq.spec import Job, JobSpec
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.columns import CONDITION, RUN, TASK
from batchq.store.database import Database
from batchq.store.tables import AttemptRow, Server
from batchq.testing.cast import Cast, Start, found
from batchq.testing.clocked import Clocked
from support.rules import is_met
from support.servers import make_server

GIVEN_UP = "given up"  # of a condition on a task that was canceled with its run
ATTEMPT = AttemptRow.__table__.c  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Played:
    """How a run went: the end of each task, the verdict, and all starts in their order."""

    run: int
    states: dict[str, str]
    verdict: str
    starts: list[Start]

    @property
    def order(self) -> list[str]:
        return [start.task for start in self.starts]


class Play(Cast):
    """Submit jobs, then `deliver` tickets and `finish` tasks one by one, or `play` a job to its end.

    `watch` is called at the end of every transaction that moves work, still inside it.
    """

    def __init__(
        self,
        database: Clocked,
        watch: Callable[[Connection], None] | None = None,
        *,
        fast_path: bool = True,
    ) -> None:
        super().__init__(database, fast_path=fast_path)
        self.watch = watch or (lambda _: None)

    # --- servers --------------------------------------------------------------------------------------------

    def server(
        self,
        name: str,
        threads: int = 1,
        *,
        groups: Collection[str] = (),
        windows: Collection[Window] = (),
        pool: int | None = None,
    ) -> Life:
        """Make a server exist, and begin a life of it."""

        self.database.run(partial(make_server, name=name, threads=threads, groups=groups, windows=windows))
        return self.live(name, pool=pool)

    def stop(self, name: str) -> bool:
        """End the life of the server cleanly."""
        life = self.workers.pop(name).life
        return self.database.run(lambda tx: engine.stop(tx, life, tx.now()))

    def lose(self, name: str, beat: int | None = None) -> bool:
        """Declare the server lost that was last seen at this heartbeat, by default at its newest."""
        server = self.workers[name].life.server

        def act(tx: Connection) -> bool:
            seen = tx.execute(select(servers.SERVER.beat).where(servers.SERVER.id == server)).scalar_one()
            now = tx.now()
            return engine.lose(tx, server, name, seen if beat is None else beat, now)

        return self.database.run(act)

    def change(self, name: str, **values: Any) -> int:
        """Set a server as an operator does; returns how many tickets were taken back."""

        def act(tx: Connection) -> int:
            servers.set_server(tx, found(tx, name), **values)
            topologies.changed(tx)
            return engine.take_back(tx, tx.now())

        return self.database.run(act)

    # --- jobs -----------------------------------------------------------------------------------------------

    def submit(self, job: Job | JobSpec) -> int:
        """Store a run of the job and hand out what is ready; returns the run's number."""
        return super().submit(job.spec() if isinstance(job, Job) else job)

    def _step(self, tx: Connection) -> engine.Advance:
        step = super()._step(tx)
        self.watch(tx)
        return step

    def _serve(self, tx: Connection, life: Life, flush: Flush) -> Served:
        served = super()._serve(tx, life, flush)
        self.watch(tx)
        return served

    def cancel(self, run: int) -> int:
        """Cancel the run; returns how many tasks are canceled now."""
        return self.database.run(lambda tx: engine.cancel(tx, run, tx.now()))

    def abort(self, task: str, run: int | None = None) -> None:
        """Abort a running task, and let its server report that its process was stopped (rule 32)."""
        name, row = self.at(task, run)
        assert self.database.run(lambda tx: engine.abort(tx, row.id, row.token))
        self.report(name, row, engine.aborted())
        self.forward()

    def executing(self) -> list[str]:
        """The names of the tasks that run now, in the order of their starts."""
        return [row.name for _, row in self.running()]

    def finish(
        self, task: str, *, ok: bool = True, run: int | None = None, log: str | None = None, **facts: Any
    ) -> Served:
        """Let a running task end, and its server report it; `facts` are those of its `Success` or `Failure`."""
        name, row = self.at(task, run)
        failed = {"reason": Reason.ERROR, "error": "told to fail"}
        return self.report(name, row, Success(**facts) if ok else Failure(**failed | facts), log)

    def at(self, task: str, run: int | None = None) -> tuple[str, Any]:
        """The server that runs the task, and the row it was granted."""
        ((name, row),) = [
            (name, row) for name, row in self.running() if row.name == task and (run is None or row.id >> 20 == run)
        ]
        return name, row

    # --- a whole job ----------------------------------------------------------------------------------------

    def play(
        self,
        job: Job | JobSpec,
        failing: Collection[str] | Mapping[str, int] = (),
        choose: Callable[[list[Any]], Any] | None = None,
    ) -> Played:
        """Play the job to its end; `failing` tasks fail at every attempt, or at so many of their first ones.

        `choose` says which of the running tasks (rows, in the order of their starts) ends next; without it the first.
        Without servers of its own it gets two of one thread each.
        """
        if not self.workers:
            for name in ("Batch1", "Batch2"):
                self.server(name)
        run = self.submit(job)
        first = len(self.starts)
        self.deliver()
        while running := [row for _, row in self.running()]:
            row = choose(running) if choose else running[0]
            most = failing.get(row.name, 0) if isinstance(failing, Mapping) else 99
            ok = row.name not in failing or row.attempt > most
            self.finish(row.name, ok=ok, run=row.id >> 20)
            if not self.fast_path:
                self.forward()
            self.deliver()
        assert not self.mail
        check_counters(self.database)
        return Played(run, self.states(run), self.verdict(run), self.starts[first:])

    # --- what the database says -----------------------------------------------------------------------------

    def states(self, run: int) -> dict[str, str]:
        with self.database.read() as tx:
            rows = tx.execute(select(TASK.name, TASK.status).where(TASK.run_id == run, ~TASK.unnamed).order_by(TASK.id))
            return {row.name: row.status for row in rows}

    def verdict(self, run: int) -> str:
        """The status of the run."""
        with self.database.read() as tx:
            return str(tx.execute(select(RUN.status).where(RUN.id == run)).scalar_one())

    def task(self, run: int, name: str) -> Any:
        """The row of the task."""
        with self.database.read() as tx:
            return tx.execute(select(*TASK).where(TASK.run_id == run, TASK.name == name)).one()

    def attempts(self, run: int, name: str) -> list[Any]:
        """The attempts of the task that have ended."""
        statement = select(*ATTEMPT).where(ATTEMPT.task_id == self.task(run, name).id)
        with self.database.read() as tx:
            return list(tx.execute(statement.order_by(ATTEMPT.attempt)))


# --- what must hold in the database -------------------------------------------------------------------------


def check_counters(database: Database) -> None:
    """Counters in rows equal what they count (invariant 14 of the reliability rules)."""
    with database.read() as tx:
        tasks = {row.id: row for row in tx.execute(select(*TASK))}
        conditions = tx.execute(select(CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome))
        counted = Counter((row.task_id, counts_as(row, tasks[row.predecessor_id])) for row in conditions)
        still_open: Counter[int] = Counter()
        sharing = Counter(row.waits_with for row in tasks.values())
        for row in tasks.values():
            still_open[row.run_id] += row.unsettled or row.status not in TERMINAL
            assert row.sharing == sharing[row.id], row.name
            if row.waits_with:
                continue
            numbers = {None: row.pending, True: row.met, False: row.impossible}
            # A retry takes what was canceled with its run for impossible (rule 33f); until then it is open.
            either = counted[row.id, GIVEN_UP]
            found = {met: counted[row.id, met] for met in numbers} | {None: row.pending}
            assert sum(numbers.values()) == sum(counted[row.id, met] for met in (*numbers, GIVEN_UP)), row.name
            assert row.met == counted[row.id, True], f"{row.name}: {numbers} against {found}"
            assert 0 <= row.impossible - counted[row.id, False] <= either, f"{row.name}: {numbers} against {found}"
        runs = {row.id: row for row in tx.execute(select(*RUN))}
        for row in tasks.values():
            run = runs[row.run_id]
            assert not row.aside or row.status == "ready", row.name
            assert row.status != "ready" or run.moving_from is not None or row.aside == run.held, row.name
        for row in runs.values():
            assert row.open_tasks == still_open[row.id], f"run {row.id}: {row.status}"
            assert (row.ended_at is not None) == (row.open_tasks == 0)


def came_true(condition: Any, end: Any) -> bool | None:
    """Whether a condition came true, by the row of the task it waits for; None while it is open."""
    started = end.status not in ("canceled",) or end.claimed_at is not None
    if end.status not in TERMINAL or not started or (end.unsettled and condition.task_id > (end.settled_up_to or 0)):
        return None
    return is_met(condition.outcome, end.status)


def counts_as(condition: Any, end: Any) -> bool | str | None:
    """Whether a condition came true, or that it asks for a task that was canceled with its run."""
    given_up = end.status == "canceled" and end.claimed_at is None
    return GIVEN_UP if given_up else came_true(condition, end)


def busy(tx: Connection) -> tuple[int, dict[str, int]]:
    """How many tickets are out and attempts executing, and how many of these each server executes."""
    rows = tx.execute(
        select(TASK.status, servers.SERVER.name, func.count())
        .outerjoin(Server, servers.SERVER.id == TASK.server_id)
        .where(TASK.status.in_(["queued", "executing"]))
        .group_by(TASK.status, servers.SERVER.name)
    ).all()
    executing = {name: number for status, name, number in rows if status == "executing"}
    return sum(row[2] for row in rows), executing
