"""Plays jobs on the real engine and database without Celery: servers are lives without processes, the broker a list."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from batchq import engine
from batchq.core.ends import Failure, Success
from batchq.core.states import TERMINAL, Reason
from batchq.core.windows import Window
from batchq.engine import Flush, Life, Offer, Report, Served
from batchq.spec import Job, JobSpec
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.columns import CONDITION, RUN, TASK
from batchq.store.database import Database
from batchq.store.moves import Ticket
from batchq.store.sql.statement import send
from batchq.store.tables import Attempt, Server

ATTEMPT = Attempt.__table__.c  # type: ignore[attr-defined]


class Clocked(Database):
    """A database whose clock a test may set: it then stands still until the test moves it."""

    instant: datetime | None = None

    def now(self, tx: Connection) -> datetime:
        if self.instant is None:
            return super().now(tx)
        send(tx)  # its own clock, too, is read after what comes before it
        return self.instant

    def later(self, **time: float) -> None:
        """Let so much time pass: `later(seconds=5)`."""
        assert self.instant is not None
        self.instant += timedelta(**time)


@dataclass(frozen=True)
class Start:
    """An attempt that a server started."""

    run: int
    task: str
    attempt: int
    server: str


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


@dataclass
class Worker:
    """A batch server: what it runs, by token, and the tickets that wait there for a thread."""

    life: Life
    active: dict[str, Any] = field(default_factory=dict)
    parked: list[Offer] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    stale: int = 0


class Play:
    """Submit jobs, then `deliver` tickets and `finish` tasks one by one, or `play` a job to its end.

    `watch` is called at the end of every transaction that moves work, still inside it. Without the
    `fast_path` servers only report and claim, and all else is left to the coordinator's step.
    """

    def __init__(
        self,
        database: Clocked,
        watch: Callable[[Connection], None] | None = None,
        *,
        fast_path: bool = True,
    ) -> None:
        self.database = database
        self.fast_path = fast_path
        self.watch = watch or (lambda _: None)
        self.workers: dict[str, Worker] = {}
        self.mail: deque[Ticket] = deque()
        self.starts: list[Start] = []
        self.tokens: list[str] = []

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

        def make(tx: Connection) -> None:
            servers.create(tx, name)
            servers.set_server(tx, found(tx, name), threads=threads, groups=groups, windows=windows)
            topologies.changed(tx)

        self.database.run(make)
        return self.live(name, pool=pool)

    def live(self, name: str, pool: int | None = None) -> Life:
        """Begin a new life of the server, whose former one is forgotten."""
        facts = {"host": "here", "pid": 1, "life": None, "pool": pool, "pool_kind": "threads"}

        def begin(tx: Connection) -> Life:
            return engine.take_over(tx, found(tx, name), name, facts, self.database.now(tx))

        life = self.database.run(begin)
        self.workers[name] = Worker(life)
        return life

    def stop(self, name: str) -> bool:
        """End the life of the server cleanly."""
        life = self.workers.pop(name).life
        return self.database.run(lambda tx: engine.stop(tx, life, self.database.now(tx)))

    def lose(self, name: str, beat: int | None = None) -> bool:
        """Declare the server lost that was last seen at this heartbeat, by default at its newest."""
        server = self.workers[name].life.server

        def act(tx: Connection) -> bool:
            seen = tx.execute(select(servers.SERVER.beat).where(servers.SERVER.id == server)).scalar_one()
            now = self.database.now(tx)
            return engine.lose(tx, server, name, seen if beat is None else beat, now)

        return self.database.run(act)

    def change(self, name: str, **values: Any) -> int:
        """Set a server as an operator does; returns how many tickets were taken back."""

        def act(tx: Connection) -> int:
            servers.set_server(tx, found(tx, name), **values)
            topologies.changed(tx)
            return engine.take_back(tx, self.database, self.database.now(tx))

        return self.database.run(act)

    # --- jobs -----------------------------------------------------------------------------------------------

    def submit(self, job: Job | JobSpec) -> int:
        """Store a run of the job and hand out what is ready; returns the run's number."""
        run = engine.submit(self.database, job.spec() if isinstance(job, Job) else job)
        self.forward()
        return run

    def forward(self) -> int:
        """Settle and hand out until there is no more, as a coordinator does; returns how many transactions it took."""
        for taken in range(1, 100_000):
            step = self.database.run(self._step)
            self.mail.extend(step.tickets)
            if not step.more:
                return taken
        raise AssertionError("it never ends")

    def _step(self, tx: Connection) -> engine.Advance:
        step = engine.advance(tx, self.database)
        self.watch(tx)
        return step

    def tick(self, lost_ticket_seconds: float = 5.0) -> None:
        """What a coordinator does every second."""

        def mend(tx: Connection) -> list[Ticket]:
            now = self.database.now(tx)
            engine.follow_clock(tx, now)
            engine.take_back(tx, self.database, now)
            return engine.offer_again(tx, self.database, now, lost_ticket_seconds)

        self.mail.extend(self.database.run(mend))
        self.forward()

    def cancel(self, run: int) -> int:
        """Cancel the run; returns how many tasks are canceled now."""
        return self.database.run(lambda tx: engine.cancel(tx, run, self.database.now(tx)))

    # --- what a server does ---------------------------------------------------------------------------------

    def serve(
        self,
        name: str,
        reports: Sequence[Report] = (),
        offers: Sequence[Offer | Ticket] = (),
        *,
        active: int | None = None,
        **options: Any,
    ) -> Served:
        """One commit of the server, carried out as its worker does; `active` if it is to be told otherwise."""
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

    def _commit(self, worker: Worker, reports: Sequence[Report], offers: Sequence[Offer], **options: Any) -> Served:
        given = {"pool": 100_000, "may_advance": self.fast_path} | options

        def act(tx: Connection) -> Served:
            served = engine.serve(tx, self.database, worker.life, Flush(reports=reports, offers=offers, **given))
            self.watch(tx)
            return served

        return self.database.run(act)

    def _carry_out(self, name: str, worker: Worker, served: Served) -> None:
        worker.parked = list(served.parked)
        worker.stale += served.stale
        for row in served.granted:
            worker.active[row.token] = row
            worker.known.add(row.token)
            self.tokens.append(row.token)
            self.starts.append(Start(row.id >> 20, row.name, row.attempt, name))
        self.mail.extend(served.advance.tickets)

    def deliver(self) -> None:
        """Bring each ticket to the server of its group with the most free threads; without one it stays in the mail."""
        with self.database.read() as tx:
            seen = topologies.current(tx, self.database)
            now = self.database.now(tx)
        waiting, self.mail = self.mail, deque()
        while waiting:
            ticket = waiting.popleft()
            name = self._room(ticket.group, seen, now)
            if name is None:
                self.mail.append(ticket)
            elif ticket.token not in self.workers[name].known:
                self.workers[name].known.add(ticket.token)
                self.serve(name, offers=[ticket])

    def _room(self, group: str, seen: Any, now: datetime) -> str | None:
        rooms = {
            name: seen.by_id[worker.life.server].threads_now(now) - len(worker.active) - len(worker.parked)
            for name, worker in self.workers.items()
            if seen.serves(seen.by_id[worker.life.server], group)
        }
        best = max(rooms, key=lambda name: rooms[name], default=None)
        return best if best is not None and rooms[best] > 0 else None

    def executing(self) -> list[str]:
        """The names of the tasks that run now, in the order of their starts."""
        return [row.name for _, row in self._running()]

    def _running(self) -> list[tuple[str, Any]]:
        running = [(name, row) for name, worker in self.workers.items() for row in worker.active.values()]
        return sorted(running, key=lambda each: self.tokens.index(each[1].token))

    def finish(
        self, task: str, *, ok: bool = True, run: int | None = None, log: str | None = None, **facts: Any
    ) -> Served:
        """Let a running task end, and its server report it; `facts` are those of its `Success` or `Failure`."""
        name, row = self.at(task, run)
        failed = {"reason": Reason.ERROR, "error": "told to fail"}
        end = Success(**facts) if ok else Failure(**failed | facts)
        return self.serve(name, [Report(row.id, row.token, end, log)])

    def at(self, task: str, run: int | None = None) -> tuple[str, Any]:
        """The server that runs the task, and the row it was granted."""
        ((name, row),) = [
            (name, row) for name, row in self._running() if row.name == task and (run is None or row.id >> 20 == run)
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
        while running := [row for _, row in self._running()]:
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
            rows = tx.execute(select(TASK.name, TASK.status).where(TASK.run_id == run).order_by(TASK.id))
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


def found(tx: Connection, name: str) -> int:
    """The id of the server, whose row is locked until the commit."""
    row = servers.find(tx, name)
    assert row is not None
    return int(row.id)


# --- what must hold in the database -------------------------------------------------------------------------


def check_counters(database: Database) -> None:
    """Counters in rows equal what they count (invariant 14 of the reliability rules)."""
    with database.read() as tx:
        tasks = {row.id: row for row in tx.execute(select(*TASK))}
        conditions = tx.execute(select(CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome))
        counted = Counter((row.task_id, came_true(row, tasks[row.predecessor_id])) for row in conditions)
        still_open: Counter[int] = Counter()
        sharing = Counter(row.waits_with for row in tasks.values())
        for row in tasks.values():
            still_open[row.run_id] += row.unsettled or row.status not in TERMINAL
            assert row.sharing == sharing[row.id], row.name
            if row.waits_with:
                continue
            numbers = {None: row.pending, True: row.met, False: row.impossible}
            for met, number in numbers.items():
                assert number == counted[row.id, met], f"{row.name}: {numbers} against {counted}"
        for row in tx.execute(select(*RUN)):
            assert row.open_tasks == still_open[row.id], f"run {row.id}: {row.status}"
            assert (row.ended_at is not None) == (row.open_tasks == 0)


def came_true(condition: Any, end: Any) -> bool | None:
    """Whether a condition came true, by the row of the task it waits for; None while it is open."""
    started = end.status not in ("canceled",) or end.claimed_at is not None
    if end.status not in TERMINAL or not started or (end.unsettled and condition.task_id > (end.settled_up_to or 0)):
        return None
    return end.status == condition.outcome or (condition.outcome == "finished" and end.status in ("success", "error"))


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
