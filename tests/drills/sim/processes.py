"""Processes of the world: batch servers, coordinators and clients, which die, stand still, and come back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from batchq import aside, engine
from batchq.coordinator import Coordinator
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import Report
from batchq.errors import BatchqError, BrokerUnreachable, Conflict, NotFound, Unreachable
from batchq.server.ledger import Ledger
from batchq.server.life import Enlistment, Machine, enlist
from batchq.server.surroundings import Arrival, Surroundings
from batchq.server.watch import Watch
from batchq.store import moves
from batchq.store.database import Database
from drills.sim.books import POISON, Books
from drills.sim.broker import SERVER_PATIENCE, Link
from drills.sim.jobs import ERRORS

if TYPE_CHECKING:
    from drills.sim.world import World


class Killed(BaseException):
    """Ends what a process was doing when it died."""


# --- processes and their threads ----------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Actor:
    """A thread of a process, or a child: it does one thing after the other."""

    process: Process
    label: str
    child: bool = False
    busy: bool = False

    def __str__(self) -> str:
        return f"{self.process.name}/{self.label}"

    @property
    def stopped_until(self) -> float:
        return self.process.children_stopped_until if self.child else self.process.stopped_until


class Process:
    """Something that runs until it dies, and may stand still."""

    def __init__(self, world: World, name: str, place: str = "here") -> None:
        self.world = world
        self.name = name
        self.host, _, self.namespace = place.partition("/")
        self.pid = next(world.pids)
        # What it is called where it runs: another process may have been called so before, and one elsewhere may be.
        self.number = world.number(self.place)
        self.dead = False
        self.stopped_until = 0.0
        self.children_stopped_until = 0.0
        self.main = Actor(self, "main")
        # What its machine's clock shows more than the database's.
        self.skew = timedelta(seconds=world.rng.choice([0, 0, 7200, -7200]))
        world.processes[self.pid] = self

    @property
    def place(self) -> tuple[str, str]:
        """Within what its number means something."""
        return self.host, self.namespace

    def kill(self) -> None:
        """End it, with nothing said to anybody."""
        self.dead = True
        self.world.actions.append(Action("died", self.pid, self.world.mono, self.world.commits))

    def freeze(self, seconds: float) -> None:
        """Let it stand still, with or without what it started."""
        until = self.world.mono + seconds
        self.stopped_until = max(self.stopped_until, until)
        if self.world.rng.random() < 0.5:
            self.children_stopped_until = max(self.children_stopped_until, until)


@dataclass(frozen=True, slots=True)
class Line:
    """What a simulated operation wrote down: `word` is start, end or died; `commits` how many there were before.

    The database takes nothing of what a `poisoned` one said; after a `final` failure there is no further attempt.
    `error` names the class of what was raised.
    """

    word: str
    task: int
    attempt: int
    token: str
    server: str
    pid: int
    at: float
    commits: int
    ok: bool | None = None
    poisoned: bool = False
    final: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator did, and when that was acknowledged: at an instant, after so many commits.

    Of a process that died, when that was.
    """

    what: str
    subject: str | int
    at: float
    commits: int


# What an operation makes of the signal that ends it.
TERMINATED = Failure(Reason.ERROR, "SystemExit: terminated")


class Child:
    """One attempt that really runs: it ends well or badly, or its process dies."""

    def __init__(self, server: ServerProcess, arrival: Arrival, row: Any) -> None:
        self.server, self.arrival, self.row = server, arrival, row
        self.actor = Actor(server, f"child {row.token}", child=True)
        self.over = False
        world = server.world
        self.write("start")
        seconds = world.rng.choice([0.01, 0.2, 1.0, 1.0, 3.0, 9.0]) * (0.5 + world.rng.random() / 2)
        act = self._die if world.happens("child dies") else self._end
        world.after(self.actor, seconds, act)

    def write(self, word: str, ok: bool | None = None, **facts: Any) -> None:
        """Write a line, as the operations of the long runs do."""
        world, row, server = self.server.world, self.row, self.server
        self.over = word != "start"
        who = row.id, row.attempt, row.token, server.name, server.pid
        world.lines.append(Line(word, *who, world.mono, world.commits, ok, **facts))

    def abort(self) -> None:
        """End it as an operator wants: it goes at once, or fails by the signal, or is done before that."""
        if not self.over:
            way = self.server.world.rng.random()
            if way < 0.2:
                self._end()
            else:
                self.write("died")
                self._tell(Report(self.row.id, self.row.token, engine.aborted() if way < 0.7 else TERMINATED))

    def _end(self) -> None:
        if self.over:
            return
        world, row = self.server.world, self.row
        ok = world.rng.random() < world.luck
        poisoned = world.happens("poisoned")
        final = not ok and world.rng.random() < 0.1
        error = None if ok else world.rng.choice(list(ERRORS))
        self.write("end", ok, poisoned=poisoned, final=final, error=error)
        failed = Failure(Reason.ERROR, "told to fail", final=final, classes=ERRORS[error or ""])
        report = Report(row.id, row.token, Success(json.dumps(row.attempt)) if ok else failed)
        self._tell(_poisoned(report, world.rng) if poisoned else report)

    def _die(self) -> None:
        if self.over:
            return
        self.write("died")
        reason = "lost: its process ended (signal 9) during this attempt; what it did is not known"
        report = Report(self.row.id, self.row.token, Failure(Reason.LOST, reason))
        self.server.world.after(self.server.main, 2.0, lambda: self._tell(report))

    def _tell(self, report: Report) -> None:
        """To the books: from a thread of the pool at once, from a process by way of the loop."""
        server, world = self.server, self.server.world
        for _ in range(2 if world.happens("report doubled") else 1):
            if server.threaded:
                server.ledger.report(self.arrival, report)
            else:
                world.after(server.main, 0.002, lambda: server.ledger.report(self.arrival, report))


def _poisoned(report: Report, rng: random.Random) -> Report:
    """The same with a word in it that the database refuses."""
    end = report.end
    place = rng.choice(["log", "result" if isinstance(end, Success) else "error"])
    if place == "log":
        return replace(report, log=f"{report.log or ''} {POISON}")
    return replace(report, end=replace(end, **{place: f"{getattr(end, place) or ''} {POISON}"}))


class Beside:
    """Stands for the thread in which a ledger commits where the database is far away: one thing after the other."""

    def __init__(self, server: ServerProcess) -> None:
        self.actor = Actor(server, "commits")
        self._world = server.world
        self._free_at = 0.0

    def submit(self, act: Callable[..., Any], *args: Any) -> Promise:
        promise = Promise()
        self._free_at = max(self._free_at, self._world.mono + self._world.rng.random() * 0.05)
        self._world.after(self.actor, self._free_at - self._world.mono, lambda: promise.keep(act(*args)))
        return promise


class Promise:
    """What comes of something that is done beside the loop."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._callbacks: list[Callable[[Promise], object]] = []

    def keep(self, outcome: Any) -> None:
        """It is done; the callbacks are told."""
        self._kept.append(outcome)
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Promise], object]) -> None:
        self._callbacks.append(callback)

    def done(self) -> bool:
        return bool(self._kept)

    def result(self) -> Any:
        return self._kept[0]


class Aborts:
    """Stops the attempts that the watch found marked, from the server's loop."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def mark(self, database: Database) -> None:
        """Nobody asks by remote control here."""

    def find(self, tokens: Iterable[str]) -> None:
        """Take in the attempts of this server that are marked in SQL."""
        found = frozenset(tokens)
        for child in self._server.children if found else ():
            if child.row.token in found:
                self._server.call_soon(child.abort)


class ServerProcess(Process):
    """A batch server without Celery: its real ledger and its real watch, in a loop that the world turns."""

    def __init__(self, world: World, name: str, host: str) -> None:
        super().__init__(world, name, host)
        self.watcher = Actor(self, "watch")
        self.threaded = world.rng.random() < 0.3
        self.children: list[Child] = []
        self.stopping = False
        self.retired = False
        self.threads = 0
        # Its machine's clock, by which it is ready in time; what counts is the database's.
        self.slow = timedelta(seconds=world.rng.choice([0.0, 0.0, -3.0, 3.0]))
        self.database = Books(world.shared, world, self.main)
        world.after(self.main, 0.0, self._begin)

    # The hub that the ledger wants.

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.world.after(self.main, 0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.world.after(self.main, delay, callback)

    # What a worker does.

    def _begin(self) -> None:
        if not self._enlist():
            self.kill()
            return
        world = self.world
        beside = Beside(self) if world.beside else None
        around = Surroundings(
            Books(world.shared, world, beside.actor) if beside is not None else self.database,
            world.settings,
            Link(world, self.main, SERVER_PATIENCE),
            self,
            self._start,
            pool=lambda: max(self.threads, 1),
            beside=beside,  # type: ignore[arg-type]
            monotonic=world.monotonic,
            uniform=world.rng.uniform,
        )
        self.ledger = Ledger(self.life, around)
        self.enlistment = self._enlistment(anew=True)
        books = Books(world.shared, world, self.watcher)
        aborts: Any = Aborts(self)
        self.watch = Watch(books, world.settings, self.ledger, aborts, monotonic=world.monotonic)
        world.after(self.watcher, 0.0, self._tend)
        world.after(self.main, 0.1, self._look_again)

    def _enlist(self) -> bool:
        try:
            self.life = enlist(self._enlistment())
        except BatchqError:
            return False
        return True

    def _enlistment(self, *, anew: bool = False) -> Enlistment:
        world = self.world
        return Enlistment(self.database, world.settings, self.name, "prefork", anew=anew, machine=world.machine)

    def _start(self, arrival: Arrival, row: Any) -> None:
        if self.world.happens("pool refuses"):
            end = Failure(Reason.NOT_STARTED, f"not started: the pool of {self.name} did not take it")
            self.ledger.report(arrival, Report(row.id, row.token, end))
            return
        self.children.append(Child(self, arrival, row))

    def _tend(self) -> None:
        self.world.after(self.watcher, 2.0, self._tend)
        with suppress(Unreachable):
            self.watch._beat()
            self.watch._look()

    def _look_again(self) -> None:
        self.world.after(self.main, 0.5, self._look_again)
        self.ledger.broker_away = self.world.broker.is_missed
        if self.ledger.fenced and not self.stopping:
            self._begin_anew()
        self._follow()
        self.ledger.look_again()
        if self.stopping:
            self._stop()

    def _begin_anew(self) -> None:
        try:
            own = self.enlistment.ask()
        except (Conflict, NotFound):
            self.kill()
            raise Killed from None
        except Unreachable:
            return
        if own is not None:
            self.life = own
            self.ledger.begin_life(own)

    def _follow(self) -> None:
        if self.watch.wanted is None:
            return
        before, self.threads = self.threads, self.watch.wanted[1].threads_now(self.world.wall() - self.slow)
        self.ledger.threads = self.threads
        if self.threads > before:
            self.ledger.go_on()

    def _stop(self) -> None:
        database = self.database
        with suppress(Unreachable):
            if not self.retired:
                database.run(lambda tx: engine.retire(tx, self.life, tx.now()))
                self.retired = True
            if self.ledger.fenced or (not self.ledger.active and self.ledger.idle):
                database.run(lambda tx: engine.stop(tx, self.life, tx.now()))
                self.kill()

    # What others see of it.

    def listens(self, group: str) -> bool:
        """Whether it consumes the group's queue, by what it last heard, and has room."""
        wanted = self.watch.wanted
        return bool(wanted and group in wanted[0] and self.ledger.threads and self.ledger.room > 0)

    @property
    def serves(self) -> bool:
        return not self.dead and hasattr(self, "watch")

    def kill(self) -> None:
        if not self.dead:
            super().kill()
            for child in self.children:
                if not child.over:
                    child.write("died")
            self.world.broker.orphaned(self)


class CoordinatorProcess(Process):
    """A coordinator, whose tick comes by way of the broker."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        database = Books(world.shared, world, self.main)
        link: Any = Link(world, self.main)
        self._coordinator = Coordinator(database, world.settings, link, monotonic=world.monotonic)
        world.after(self.main, world.rng.random(), self._tick)

    def _tick(self) -> None:
        world = self.world
        world.after(self.main, world.settings.tick_seconds, self._tick)
        if world.broker.away or world.broker.hangs or world.happens("tick lost"):
            return
        with suppress(Unreachable):
            self._coordinator.tick(world.mono)


class Client(Process):
    """A command that somebody gives: it asks until it has an answer, unless it dies first."""

    def __init__(self, world: World, name: str, act: Callable[[Database], object], *, insists: bool = True) -> None:
        super().__init__(world, name)
        self.database = Books(world.shared, world, self.main)
        self._act, self._insists = act, insists
        world.after(self.main, 0.0, self._ask)

    def _ask(self) -> None:
        try:
            self._act(self.database)
        except Unreachable:
            if self._insists and not self.world.calm:
                self.world.after(self.main, 0.3, self._ask)
        except BatchqError:  # refused, with a reason: nothing was done
            return

    def forward(self) -> None:
        """As BatchQ.forward: hand out what an action freed."""
        world, database, link = self.world, self.database, Link(self.world, self.main)
        more = world.settings.fast_path
        while more:
            step = aside.run(database, engine.advance, ahead=world.ahead, unsendable=link.unsendable, aging=world.aging)
            refused: list[moves.Ticket] = []
            with suppress(BrokerUnreachable):
                refused = link.publish(step.tickets)
            if refused:
                database.run(moves.unqueue, [(ticket.task, ticket.token) for ticket in refused])
            more = step.more or bool(refused)


class Kernel(Machine):
    """The machine of the process whose turn it is."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:  # type: ignore[override]
        return self._world.mono

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self._world.sleep(seconds)

    def host(self) -> str:
        return self._world.here.host

    def pid(self) -> int:
        return self._world.here.number

    def boot(self) -> str:
        return f"boot of {self._world.here.host}"

    def namespace(self, kind: str) -> str:
        return f"{kind} {self._world.here.place}"

    def stat(self, pid: int | str) -> list[str]:
        """As the kernel has it in /proc: its state first, and its start time."""
        process = self._world.here if pid == "self" else self._found(int(pid))
        return ["S", *[""] * 18, str(process.pid)] if process else []

    def exists(self, pid: int) -> bool:
        return self._found(pid) is not None

    def _found(self, number: int) -> Process | None:
        """The process of that number which the one whose turn it is can see."""
        place = self._world.here.place
        found = (each for each in self._world.processes.values() if (each.place, each.number) == (place, number))
        return next((each for each in found if not each.dead), None)
