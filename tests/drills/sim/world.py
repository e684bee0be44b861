"""The world: processes that die, stand still and come back, people who change their minds, clocks that jump.

One seeded random.Random decides everything; nothing sleeps, there is one thread, and time is a number. What happens
in the world happens at the boundaries of transactions: there others get their turn, there a process may die.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from itertools import count
from typing import Any
from unittest.mock import patch

from batchq import actions, clock
from batchq.config import Settings
from batchq.engine import reopening, retrying, settling, submitting
from batchq.spec import JobSpec
from batchq.store import rows
from batchq.store.database import Database
from batchq.store.group import name_groups
from batchq.store.moves import holding
from drills.sim.books import driver, emptied
from drills.sim.broker import Broker
from drills.sim.events import Events
from drills.sim.jobs import GROUPS, LIMITS
from drills.sim.processes import (
    Action,
    Actor,
    Client,
    CoordinatorProcess,
    Kernel,
    Killed,
    Line,
    Process,
    ServerProcess,
)
from support import rules

# On some days clocks change an hour after these; on the others they do not.
DAYS = [
    datetime(2026, 6, 1, 12, tzinfo=UTC),
    datetime(2026, 6, 1, 21, 59, 40, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 59, 45, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 59, 45, tzinfo=UTC),
]
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
    jobs: dict[str, JobSpec]
    settings: Settings
    bounded: bool
    calm_at: float
    refused_until: dict[str, float]
    lost_seconds: float
    database: Database = field(repr=False)

    def fingerprint(self) -> list[Any]:
        """What two runs of one seed have in common, if they replay."""
        journal = driver(self.database).execute("SELECT * FROM journal ORDER BY number").fetchall()
        return [self.lines, self.actions, self.surprises, journal]


class World(Events):
    """One installation and its bad luck, all of it from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.mono = 1000.0
        self.commits = 0
        self.calm = False
        self.at_a_dispatch: list[tuple[str, Callable[[Database, int], object]]] = []
        self.over = False
        self.pids = count(1)
        self.numbers = count(1)
        self.processes: dict[int, Process] = {}
        self.lines: list[Line] = []
        self.asked: list[tuple[str, str | int]] = []
        self.actions: list[Action] = []
        self.surprises: list[str] = []
        self.plans: dict[str, rules.Plan] = {}
        self.jobs: dict[str, JobSpec] = {}
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
        self.aging = rng.choice([0.0, 4.0, 3600.0, 3600.0])
        self.limited = rng.random() < 0.5
        self.encore = rng.random() < 0.5
        self.settings = settings(self.ahead, self.fast_path, self.aging)
        self.small = rng.choice([None, None, 1, 2, 3])
        self.twins = rng.random() < 0.5
        self.at_once = rng.choice([1, 3, 5000])
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
            self.jobs,
            self.settings,
            self.small is not None,
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
        for name in LIMITS if self.limited else ():
            actions.set_limit(self.shared, name, rng.choice([1, 1, 2]))
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
        for (run,) in driver(self.shared).execute("SELECT id FROM batchq_run WHERE held").fetchall():
            actions.release_run(self.shared, run)
        for group in GROUPS:
            actions.resume_group(self.shared, group)
        for name in self.names:
            actions.ensure_server(self.shared, name)
            actions.set_server(self.shared, name, enabled=True, threads=self.rng.randint(1, 3), windows=())
            actions.end_override(self.shared, name, timezone="UTC")
        actions.set_groups(self.shared, self.names[0], [])
        for name in LIMITS if self.limited else ():
            actions.set_limit(self.shared, name, 1)
        self._inspect()
        return self.mono

    def _inspect(self) -> None:
        """Once a second in the calm: whether everything has ended, and what only the passing of an hour ends."""
        self.after(self._clockwork, 1.0, self._inspect)
        query = (
            "SELECT status FROM batchq_run WHERE status IN ('storing', 'executing', 'canceling') OR retry IS NOT NULL"
        )
        open_ = [status for (status,) in driver(self.shared).execute(query)]
        self._take_queues_again()
        if open_ and set(open_) == {"storing"}:
            self._day += timedelta(hours=2)
        if not open_ and self.encore:
            self.encore = False
            self._retry_all()
        else:
            self.over = self.over or not open_

    def _retry_all(self) -> None:
        """Retry in every run what failed, or all: as the last thing that people do."""
        whole = self.rng.random() < 0.3
        for (run,) in driver(self.shared).execute("SELECT id FROM batchq_run ORDER BY id").fetchall():
            self._retry(run, [], whole=whole, lost=True)

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
            stack.enter_context(patch.object(clock, "now", lambda: self.wall() + self.here.skew))
            stack.enter_context(patch.object(uuid, "uuid4", lambda: f"token-{next(self.numbers)}"))
            if self.small:
                for module, name in (
                    (submitting, "ROWS_PER_TRANSACTION"),
                    (settling, "CONDITIONS_PER_TRANSACTION"),
                    (settling, "ROUNDS_PER_TRANSACTION"),
                    (holding, "ROWS_ALONE"),
                    (reopening, "PIECE"),
                ):
                    stack.enter_context(patch.object(module, name, self.small))
                stack.enter_context(patch.object(retrying, "AT_ONCE", self.at_once))
                stack.enter_context(patch.object(rows, "MOST_ALIKE", self.small + 1))
            if self.twins:
                stack.enter_context(patch.object(rows, "WORTH_SHARING", 1))
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
def settings(ahead: int, fast_path: bool, aging: float) -> Settings:
    """The settings of the simulated installation: as by default, but a little faster where that saves time."""
    return Settings(
        tickets_ahead=ahead,
        fast_path=fast_path,
        priority_aging_seconds=aging,
        tick_seconds=1.5,
        lost_seconds=10.0,
        lost_attempt_seconds=6.0,
        lost_ticket_seconds=4.0,
    )
