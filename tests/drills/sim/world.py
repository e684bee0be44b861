"""The world: processes that die, stand still and come back, people who change their minds, clocks that jump.

One seeded random.Random decides everything; nothing sleeps, there is one thread, and time is a number. What happens
in the world happens at the boundaries of transactions: there others get their turn, there a process may die.
"""

from __future__ import annotations

import json
import logging
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from itertools import count
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from batchq import actions, aside, engine
from batchq.config import Settings
from batchq.coordinator import Coordinator
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.core.windows import Window, parse_time
from batchq.engine import Report, settling, submitting
from batchq.errors import BatchqError, BrokerUnreachable, Conflict, NotFound, Unreachable
from batchq.server.ledger import Ledger
from batchq.server.life import Enlistment, Machine, enlist
from batchq.server.surroundings import Arrival, Surroundings
from batchq.server.watch import Watch
from batchq.spec import JobSpec, TaskSpec
from batchq.store import moves
from batchq.store import run as runs
from batchq.store.database import Database
from batchq.store.group import name_groups
from drills.sim.books import POISON, Books, driver, emptied
from drills.sim.broker import SERVER_PATIENCE, Broker, Link
from support import rules

# On some days clocks change an hour after these; on the others they do not.
DAYS = [
    datetime(2026, 6, 1, 12, tzinfo=UTC),
    datetime(2026, 6, 1, 21, 59, 40, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 59, 45, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 59, 45, tzinfo=UTC),
]
ZONES = ["UTC", "Europe/Oslo", "America/New_York", "Asia/Kathmandu"]
GROUPS = ["default", "BG1", "BG2"]
# Where a second life of a server's name may begin; a container has its host's name, and pids of its own.
SECOND_PLACES = ["here", "there", "elsewhere", "here/in a container", "here/in a container"]
FAULTY_SECONDS = 20.0
LONGEST = 400.0
DEEPEST = 3

# How likely each thing is where it may happen, when the seed lets it happen at all.
CHANCES = {
    "refused": 0.04,
    "fails": 0.04,
    "deadlock": 0.04,
    "reply lost": 0.05,
    "dies before": 0.01,
    "dies after": 0.02,
    "stall": 0.03,
    "lose": 0.15,
    "double": 0.2,
    "delay": 0.2,
    "misdeliver": 0.1,
    "child dies": 0.08,
    "pool refuses": 0.03,
    "report doubled": 0.1,
    "tick lost": 0.2,
    "poisoned": 0.1,
}
# What happens to a commit, of which only one thing can.
FATES = ("refused", "fails", "deadlock", "reply lost", "dies before", "dies after")
# What people and machines do in the faulty time, and how often it is drawn.
EVENTS = {
    "cancel": 1,
    "pause": 3,
    "resume": 3,
    "threads": 2,
    "windows": 3,
    "override": 2,
    "bindings": 2,
    "disable": 2,
    "enable": 3,
    "priority": 1,
    "delete": 1,
    "submit": 2,
    "kill": 2,
    "stop": 1,
    "freeze": 2,
    "second life": 2,
    "kill coordinator": 1,
    "freeze coordinator": 1,
    "clock": 3,
    "broker emptied": 1,
    "broker away": 1,
    "broker hangs": 1,
    "queue refused": 2,
    "replay": 3,
}


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


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator did, and when that was acknowledged: at an instant, after so many commits.

    Of a process that died, when that was.
    """

    what: str
    subject: str | int
    at: float
    commits: int


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

    def write(self, word: str, ok: bool | None = None, **facts: bool) -> None:
        """Write a line, as the operations of the long runs do."""
        world, row, server = self.server.world, self.row, self.server
        self.over = word != "start"
        who = row.id, row.attempt, row.token, server.name, server.pid
        world.lines.append(Line(word, *who, world.mono, world.commits, ok, **facts))

    def _end(self) -> None:
        world, row = self.server.world, self.row
        ok = world.rng.random() < world.luck
        poisoned = world.happens("poisoned")
        final = not ok and world.rng.random() < 0.1
        self.write("end", ok, poisoned=poisoned, final=final)
        failed = Failure(Reason.ERROR, "told to fail", final=final)
        report = Report(row.id, row.token, Success(json.dumps(row.attempt)) if ok else failed)
        self._tell(_poisoned(report, world.rng) if poisoned else report)

    def _die(self) -> None:
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
        self.watch = Watch(books, world.settings, self.ledger, monotonic=world.monotonic)
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
            step = aside.run(database, engine.advance, ahead=world.ahead, unsendable=link.unsendable)
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


# --- the world ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """All that the checker gets: the operations' own lines, the acknowledged actions, and the database."""

    seed: int
    lines: list[Line]
    asked: list[tuple[str, str | int]]
    actions: list[Action]
    surprises: list[str]
    plans: dict[str, rules.Plan]
    retries: dict[str, dict[str, int]]
    calm_at: float
    refused_until: dict[str, float]
    lost_seconds: float
    database: Database = field(repr=False)

    def fingerprint(self) -> list[Any]:
        """What two runs of one seed have in common, if they replay."""
        journal = driver(self.database).execute("SELECT * FROM journal ORDER BY number").fetchall()
        return [self.lines, self.actions, self.surprises, journal]


class World:
    """One installation and its bad luck, all of it from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.mono = 1000.0
        self.commits = 0
        self.calm = False
        self.over = False
        self.pids = count(1)
        self.numbers = count(1)
        self.processes: dict[int, Process] = {}
        self.lines: list[Line] = []
        self.asked: list[tuple[str, str | int]] = []
        self.actions: list[Action] = []
        self.surprises: list[str] = []
        self.plans: dict[str, rules.Plan] = {}
        self.retries: dict[str, dict[str, int]] = {}
        self.shared = emptied(self.wall)
        self.machine = Kernel(self)
        self._depth = 0
        self._order = count()
        self._events: list[tuple[float, int, Actor, Callable[[], object]]] = []
        self._current: Process | None = None
        self._day = rng.choice(DAYS)
        self._choose()
        self.broker = Broker(self)

    def _choose(self) -> None:
        """What this seed is about: some faults often, others never."""
        rng = self.rng
        self.chances = {name: rng.choice([0.0, 1.0, 2.0]) * chance for name, chance in CHANCES.items()}
        weather = rng.random()
        if weather < 0.2:
            self.chances = dict.fromkeys(self.chances, 0.0)
        elif weather > 0.9:
            self.chances[rng.choice(list(self.chances))] = 0.3
        self.beside = rng.random() < 0.5
        self.luck = rng.choice([1.0, 0.8, 0.6])
        self.ahead = rng.choice([0, 0, 0, 1, 2])
        self.fast_path = rng.random() < 0.8
        self.settings = settings(self.ahead, self.fast_path)
        self.small = rng.choice([None, None, 1, 2, 3])
        self.names = [f"AOS{number}" for number in range(1, rng.randint(1, 3) + 1)]

    # --- time and turns -------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """What every machine's monotonic clock shows."""
        return self.mono

    def wall(self) -> datetime:
        """What the database's clock shows."""
        return self._day + timedelta(seconds=self.mono - 1000.0)

    def after(self, actor: Actor, delay: float, act: Callable[[], object]) -> None:
        """Let the actor do something so many seconds from now, unless it is dead by then."""
        heappush(self._events, (self.mono + delay, next(self._order), actor, act))

    def _run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until and not (self.over and not self._depth):
            at, order, actor, act = heappop(self._events)
            self.mono = max(self.mono, at)
            if actor.process.dead:
                continue
            if actor.busy or actor.stopped_until > self.mono:
                later = max(actor.stopped_until, self.mono + 0.1)
                heappush(self._events, (later, order, actor, act))
            else:
                self._do(actor, act)
        if not self.over or self._depth:  # whoever waits for a time of his own must see it come
            self.mono = max(self.mono, until)

    def _do(self, actor: Actor, act: Callable[[], object]) -> None:
        before, self._current, actor.busy = self._current, actor.process, True
        try:
            act()
        except Killed:
            assert actor.process.dead
        except Exception as error:
            self.surprise(actor, error)
        finally:
            self._current, actor.busy = before, False

    def sleep(self, seconds: float) -> None:
        """Let the others go on while the present actor waits."""
        process = self._current
        assert process is not None
        self._depth += 1
        self._run(self.mono + seconds)
        self._depth -= 1
        if process.dead:
            raise Killed

    def wait(self, actor: Actor, seconds: float) -> None:
        """Let the actor wait for somebody who does not answer; the others go on."""
        if self._depth < DEEPEST:
            current, self._current = self._current, actor.process
            self.sleep(seconds)
            self._current = current

    # --- what happens around a transaction ------------------------------------------------------------------

    def happens(self, name: str) -> bool:
        """Whether this goes wrong now."""
        chance = self.chances[name]
        return not self.calm and chance > 0 and self.rng.random() < chance

    def fate(self, actor: Actor) -> str | None:
        """What becomes of a commit."""
        return next((fate for fate in FATES if self.happens(fate)), None)

    def boundary(self, actor: Actor) -> None:
        """Between two transactions anything may happen to others, and this one may stand still, or die."""
        if self._depth < DEEPEST and self.happens("stall"):
            seconds = self.rng.choice([0.02, 0.3, 1.0, 15.0]) * self.rng.random()
            if seconds > 1:
                actor.process.freeze(seconds)
            self.wait(actor, seconds)
        if actor.process.dead:
            raise Killed

    def die(self, actor: Actor) -> None:
        """End the process in the middle of what it does."""
        actor.process.kill()
        raise Killed

    def surprise(self, actor: Actor, error: BaseException) -> None:
        """Write down an error that no fault explains; nothing good can come after it."""
        self.surprises.append(f"{actor}: {type(error).__name__}: {error}")
        self.over = True

    # --- processes ------------------------------------------------------------------------------------------

    def outside(self, name: str) -> Actor:
        """A thread of control that belongs to no process of ours."""
        return Process(self, name).main

    def servers(self) -> list[ServerProcess]:
        """The servers that run."""
        return [each for each in self.processes.values() if isinstance(each, ServerProcess) and each.serves]

    def number(self, place: tuple[str, str]) -> int:
        """What a new process is called there; a number that is free again may be taken again."""
        taken = {each.number for each in self.processes.values() if each.place == place and not each.dead}
        return self.rng.choice([number for number in range(1, len(taken) + 4) if number not in taken])

    @property
    def here(self) -> Process:
        """The process whose turn it is."""
        assert self._current is not None
        return self._current

    def _supervise(self) -> None:
        """Once a second: whatever died is started again, after a while, here or elsewhere."""
        self.after(self._clockwork, 1.0, self._supervise)
        alive = {each.name for each in self.processes.values() if not each.dead}
        for name in self.names:
            if name not in alive and (self.calm or self.rng.random() < 0.3):
                ServerProcess(self, name, self.rng.choice(["here", "here", "there"]))
        for name in ("coordinator 1", "coordinator 2"):
            if name not in alive and (self.calm or self.rng.random() < 0.3):
                CoordinatorProcess(self, name)

    # --- people ---------------------------------------------------------------------------------------------

    def _ask(self, what: str, subject: str | int, act: Callable[[Database], object]) -> None:
        """Let an operator do something, and note when it was acknowledged."""

        def acknowledged(database: Database) -> None:
            act(database)
            self.actions.append(Action(what, subject, self.mono, self.commits))
            if self.rng.random() < 0.5:
                client.forward()

        self.asked.append((what, subject))
        client = Client(self, f"{what} {subject}", acknowledged)

    def _submit(self) -> None:
        rng, name = self.rng, f"JOB {len(self.plans) + 1}"
        self.plans[name] = plan = rules.random_plan(
            rng.randint(1, 6), rng, most=3, levels=rng.choice([0, 0, 2]), gates=rng.choice([0, 0, 0.2])
        )
        job, self.retries[name] = job_of(name, plan, rng)

        def act(database: Database) -> None:
            engine.submit(database, job)
            client.forward()

        client = Client(self, f"submit {name}", act, insists=rng.random() < 0.5)

    def _window(self) -> Window:
        """A daily window that opens or closes about now, or is open, or is not."""
        rng, zone = self.rng, self.rng.choice(ZONES)
        first, last = sorted(rng.sample([-7200, -40, -5, 3, 10, 20, 35, 60, 9000], 2))
        if rng.random() < 0.15:
            first, last = last, first
        start, end = (_clock(self.wall() + timedelta(seconds=each), zone) for each in (first, last))
        return Window(parse_time(start), parse_time(end), rng.randint(0, 3), zone)

    def _happen(self) -> None:
        """One event of the faulty time, and the next one after a while."""
        if self.calm:
            return
        self.after(self._clockwork, self.rng.random() * self.pace, self._happen)
        (what,) = self.rng.choices(list(EVENTS), list(EVENTS.values()))
        getattr(self, "_on_" + what.replace(" ", "_"))()

    def _on_cancel(self) -> None:
        runs = driver(self.shared).execute("SELECT id FROM batchq_run").fetchall()
        if runs:
            (run,) = self.rng.choice(runs)
            self._ask("cancel", run, lambda database: actions.cancel_run(database, run))

    def _on_pause(self) -> None:
        group = self.rng.choice(GROUPS)
        self._ask("pause", group, lambda database: actions.pause_group(database, group))

    def _on_resume(self) -> None:
        group = self.rng.choice(GROUPS)
        self._ask("resume", group, lambda database: actions.resume_group(database, group))

    def _set(self, what: str, **values: Any) -> None:
        name = self.rng.choice(self.names)
        self._ask(what, name, lambda database: actions.set_server(database, name, ahead=self.ahead, **values))

    def _on_threads(self) -> None:
        self._set("threads", threads=self.rng.randint(0, 3))

    def _on_windows(self) -> None:
        self._set("windows", windows=[self._window() for _ in range(self.rng.randint(0, 2))])

    def _on_override(self) -> None:
        name, threads = self.rng.choice(self.names), self.rng.randint(0, 3)
        until = self.wall() + timedelta(seconds=self.rng.choice([3, 10, 20, 60]))
        facts: dict[str, Any] = {"timezone": "UTC", "ahead": self.ahead}
        if self.rng.random() < 0.3:
            self._ask("override", name, lambda database: actions.end_override(database, name, **facts))
        else:  # refused where the clock jumped beyond its end meanwhile
            facts |= {"by": "sim"}
            self._ask(
                "override", name, lambda database: actions.override_server(database, name, threads, until, **facts)
            )

    def _on_bindings(self) -> None:
        self._set("bindings", groups=self.rng.sample(GROUPS, self.rng.randint(0, 2)))

    def _on_disable(self) -> None:
        self._set("disable", enabled=False)

    def _on_enable(self) -> None:
        self._set("enable", enabled=True)

    def _on_priority(self) -> None:
        group, priority = self.rng.choice(GROUPS), self.rng.choice(["low", "high", "critical"])
        self._ask("priority", group, lambda database: actions.set_group(database, group, priority=priority))

    def _on_delete(self) -> None:
        name = self.rng.choice(self.names)
        self._ask("delete", name, lambda database: actions.delete_server(database, name, ahead=self.ahead))

    def _on_submit(self) -> None:
        if len(self.plans) < 4:
            self._submit()

    # --- machines -------------------------------------------------------------------------------------------

    def _any(self, kind: type[Process]) -> Process | None:
        found = [each for each in self.processes.values() if isinstance(each, kind) and not each.dead]
        return self.rng.choice(found) if found else None

    def _on_kill(self) -> None:
        if server := self._any(ServerProcess):
            server.kill()

    def _on_stop(self) -> None:
        if servers := self.servers():
            self.rng.choice(servers).stopping = True

    def _on_freeze(self) -> None:
        if server := self._any(ServerProcess):
            server.freeze(self.rng.choice([1.0, 6.0, 25.0]) * self.rng.random())

    def _on_second_life(self) -> None:
        ServerProcess(self, self.rng.choice(self.names), self.rng.choice(SECOND_PLACES))

    def _on_kill_coordinator(self) -> None:
        if one := self._any(CoordinatorProcess):
            one.kill()

    def _on_freeze_coordinator(self) -> None:
        if one := self._any(CoordinatorProcess):
            one.freeze(self.rng.choice([1.0, 6.0, 25.0]) * self.rng.random())

    def _on_clock(self) -> None:
        sign, size = self.rng.choice([-1, 1]), self.rng.choice([1, 10, 60, 3600, 86400])
        self._day += timedelta(seconds=sign * size * self.rng.random())

    def _on_broker_emptied(self) -> None:
        self.broker.empty()

    def _on_broker_away(self) -> None:
        self.broker.away = True
        self.after(self._clockwork, 6.0 * self.rng.random(), self._broker_back)

    def _broker_back(self) -> None:
        self.broker.away = False

    def _on_broker_hangs(self) -> None:
        self.broker.hang(self.rng.choice([1.0, 6.0, 15.0]) * self.rng.random())

    def _on_queue_refused(self) -> None:
        self.broker.refused_until[self.rng.choice(GROUPS)] = self.mono + self.rng.choice([3.0, 200.0])

    def _on_replay(self) -> None:
        self.broker.replay()

    # --- from the beginning to the end ----------------------------------------------------------------------

    def play(self) -> History:
        """Live through the faulty time, then through a calm one until everything has ended."""
        with self._virtual():
            self._clockwork = self.outside("clockwork")
            self.pace = self.rng.choice([2.0, 3.5, 6.0])
            self._make()
            self._run(self.mono + FAULTY_SECONDS)
            calm_at = self._calm_down()
            self._run(self.mono + LONGEST)
        return History(
            self.seed,
            self.lines,
            self.asked,
            self.actions,
            self.surprises,
            self.plans,
            self.retries,
            calm_at,
            self.broker.refused_until,
            self.settings.lost_seconds,
            self.shared,
        )

    def _make(self) -> None:
        rng = self.rng
        groups: dict[str, list[str]] = {}
        with self.shared.write() as tx:
            name_groups(tx, GROUPS)
        for name in self.names:
            actions.ensure_server(self.shared, name, rng.randint(1, 3))
            groups[name] = rng.sample(GROUPS, rng.choice([0, 0, 1, 2]))
            windows = [self._window()] if rng.random() < 0.2 else []
            actions.set_server(self.shared, name, groups=groups[name], windows=windows)
            ServerProcess(self, name, "here")
        self._supervise()
        for _ in range(rng.randint(1, 2)):
            self._submit()
        self.after(self._clockwork, rng.random() * self.pace, self._happen)

    def _calm_down(self) -> float:
        """End all faults, and let operators and machines mend what they did; returns when."""
        self.calm, self.broker.away, self.broker.hung_until = True, False, 0.0
        for process in self.processes.values():
            process.stopped_until = process.children_stopped_until = 0.0
            if isinstance(process, Client):
                process.kill()
        for group in GROUPS:
            actions.resume_group(self.shared, group)
        for name in self.names:
            actions.ensure_server(self.shared, name)
            actions.set_server(self.shared, name, enabled=True, threads=self.rng.randint(1, 3), windows=())
            actions.end_override(self.shared, name, timezone="UTC")
        actions.set_groups(self.shared, self.names[0], [])
        self._inspect()
        return self.mono

    def _inspect(self) -> None:
        """Once a second in the calm: whether everything has ended, and what only the passing of an hour ends."""
        self.after(self._clockwork, 1.0, self._inspect)
        query = "SELECT status FROM batchq_run WHERE status IN ('storing', 'executing', 'canceling')"
        open_ = [status for (status,) in driver(self.shared).execute(query)]
        self._take_queues_again()
        if open_ and set(open_) == {"storing"}:
            self._day += timedelta(hours=2)
        self.over = self.over or not open_

    def _take_queues_again(self) -> None:
        """Once nothing waits but for queues that are refused: all else must go on beside them."""
        query = "SELECT DISTINCT group_name FROM batchq_task WHERE status IN ('ready', 'queued', 'executing')"
        waiting = {group for (group,) in driver(self.shared).execute(query)}
        if waiting and all(map(self.broker.refuses, waiting)):
            for group in waiting:
                self.broker.refused_until[group] = self.mono

    @contextmanager
    def _virtual(self) -> Iterator[None]:
        """Number the tokens instead of drawing them, do little in a transaction if the seed says so, and be quiet."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(uuid, "uuid4", lambda: f"token-{next(self.numbers)}"))
            if self.small:
                for module, name in (
                    (submitting, "ROWS_PER_TRANSACTION"),
                    (settling, "CONDITIONS_PER_TRANSACTION"),
                    (settling, "ROUNDS_PER_TRANSACTION"),
                ):
                    stack.enter_context(patch.object(module, name, self.small))
                for name, value in (("MOST_ALIKE", self.small), ("WORTH_SHARING", 1)):
                    stack.enter_context(patch.object(runs, name, value))
            stack.enter_context(patch.object(logging.getLogger("batchq"), "disabled", True))
            stack.enter_context(_quiet())
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """No logging: in a world like this one there would be much to say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@cache
def settings(ahead: int, fast_path: bool) -> Settings:
    """The settings of the simulated installation: as by default, but a little faster where that saves time."""
    return Settings(
        tickets_ahead=ahead,
        fast_path=fast_path,
        tick_seconds=1.5,
        lost_seconds=10.0,
        lost_attempt_seconds=6.0,
        lost_ticket_seconds=4.0,
    )


def job_of(
    name: str, plan: rules.Plan, rng: random.Random, retried: Sequence[int] = (0, 0, 0, 1, 2)
) -> tuple[JobSpec, dict[str, int]]:
    """The plan as a job, and how often each of its tasks may be tried again: one of `retried`."""
    retries = {task: rng.choice(retried) for task in plan.after}
    tasks = [
        TaskSpec(name=task, after=in_a_file(conditions), join=plan.joins[task])
        if task in plan.gates
        else TaskSpec(
            name=task,
            run="demo.work",
            after=in_a_file(conditions),
            join=plan.joins[task],
            ignore_failure=task in plan.ignored,
            group=rng.choice(GROUPS),
            priority=rng.choice([None, "low", "high"]),
            retries=retries[task],
            retry_delay=rng.choice([0, 0, 3]) if retries[task] else 0,
        )
        for task, conditions in plan.after.items()
    ]
    return JobSpec(name=name, tasks=tuple(tasks)), retries


def in_a_file(conditions: Sequence[Any]) -> list[Any]:
    """The conditions of a plan as a file says them."""
    return [
        {each[0]: in_a_file(each[1])} if len(each) == 2 else {each[0]: {"outcome": each[1], "handles": each[2]}}
        for each in conditions
    ]


def _clock(instant: datetime, zone: str) -> str:
    return f"{instant.astimezone(ZoneInfo(zone)):%H:%M:%S}"
