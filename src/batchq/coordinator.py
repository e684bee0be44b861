"""The coordinator: a tick a second that does what only time can trigger, then moves the work forward."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from celery import Celery, Task
from celery.beat import Scheduler as BeatScheduler
from celery.platforms import set_pdeathsig
from celery.worker import state

from batchq import aside, crash, engine
from batchq.aside import STORING
from batchq.config import Settings
from batchq.core.topology import Aside
from batchq.engine import Advance
from batchq.errors import BrokerUnreachable, DatabaseDamaged, DatabaseTooNew, QueueRefused, Unreachable
from batchq.server.celery_types.broker import Message
from batchq.server.celery_types.worker import Consumer
from batchq.server.publisher import Publisher
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.moves import RetryingRun, Ticket
from batchq.store.transaction import Tx
from batchq.store.trouble import What

logger = logging.getLogger(__name__)


@dataclass
class Silence:
    """How long each server's heartbeat has stood still, by this process's own monotonic clock (rule 31)."""

    seconds: float
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    counted_at: float = 0.0

    def of(self, running: list[tuple[int, str, int, int]], clock: float, read: float) -> list[tuple[int, str, int]]:
        """The running servers (id, name, epoch, beat) that were silent too long, as (id, name, beat).

        `clock` was asked before they were read, and `read` afterwards: the time between is nobody's silence. After a
        pause of this process, or of the database, it counts afresh, so that an outage kills no healthy server.
        """
        if clock - self.counted_at > max(5.0, self.seconds / 3):
            self.heard.clear()
        self.counted_at = clock
        self.heard = {
            id_: before if (before := self.heard.get(id_)) and before[0] == beat else (beat, read)
            for id_, _, _, beat in running
        }
        return [(id_, name, beat) for id_, name, _, beat in running if clock - self.heard[id_][1] > self.seconds]


# --- the steps of a tick ------------------------------------------------------------------------------------


@dataclass
class Tick:
    """One transaction of a tick: the work that is set `aside`, and the results of its steps."""

    tx: Tx
    settings: Settings
    publisher: Publisher
    now: datetime
    aside: Aside
    tickets: list[Ticket] = field(default_factory=list)
    more: bool = False
    retrying: list[RetryingRun] = field(default_factory=list)


def discard_unstored(tick: Tick) -> None:
    """Give up runs whose submit stopped halfway."""
    moves.discard_unstored(tick.tx, tick.now - STORING, tick.now, tick.aside.runs)


def settle(tick: Tick) -> None:
    """Carry ended tasks over to their followers and runs, as much as fits in one transaction."""
    tick.more = engine.settle(tick.tx, tick.now, aside=tick.aside.runs)


def go_on(tick: Tick) -> None:
    """Move rows of runs that were held, released or canceled, where a command left some."""
    tick.more = engine.go_on(tick.tx, tick.now, tick.aside.runs) or tick.more


def find_retries(tick: Tick) -> None:
    """Find the runs with a large retry that is under way."""
    tick.retrying = moves.runs_retrying(tick.tx)


def sort(tick: Tick) -> None:
    """Move tasks to the lanes of their runs, and close those of runs that have ended."""
    tick.more = engine.sort_now(tick.tx, topologies.at_hand(tick.tx).per_run) or tick.more
    engine.close_lanes(tick.tx)


def follow_clock(tick: Tick) -> None:
    """Let no task wait for an instant that is far away only because the clock was set back."""
    engine.follow_clock(tick.tx, tick.now, tick.aside.tasks)


def take_back(tick: Tick) -> None:
    """Take tickets back for which no thread is free any more."""
    engine.take_back(tick.tx, tick.now, tick.settings.tickets_ahead, skip=True)


def offer_again(tick: Tick) -> None:
    """Replace tickets that are out for too long."""
    tick.tickets += engine.offer_again(tick.tx, tick.now, tick.settings.lost_ticket_seconds)


def dispatch(tick: Tick) -> None:
    """Hand ready tasks out to servers with free threads."""
    tick.tickets += engine.dispatch(
        tick.tx, tick.settings.tickets_ahead, tick.publisher.unsendable, tick.settings.priority_aging_seconds
    )


# `take_back` takes the dispatch lock: from there on a step must wait for no run and no task, or two could deadlock.
STEPS: tuple[Callable[[Tick], None], ...] = (
    discard_unstored,
    settle,
    go_on,
    find_retries,
    sort,
    follow_clock,
    take_back,
    offer_again,
    dispatch,
)


class Coordinator:
    """One coordinator's ticks, and its memory from one to the next."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        publisher: Publisher,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._settings = settings
        self._publisher = publisher
        self._monotonic = monotonic
        self._silence = Silence(settings.lost_seconds)
        self._unfinished = engine.Unfinished(database, monotonic)
        self._retrying: list[RetryingRun] = []

    def tick(self, clock: float) -> None:
        """One tick at `clock` (monotonic seconds); raises DatabaseUnreachable, DatabaseTooNew or BrokerUnreachable."""
        self._database.check_file()
        if not self._work_to_do(clock):
            return
        aside.try_again(self._database)
        more = True
        while more:
            done = aside.run(self._database, self._advance)
            crash.point("tick-committed")
            refused = self._publisher.publish(done.tickets)
            if refused:
                self._database.run(moves.unqueue, [(ticket.task, ticket.token) for ticket in refused])
            # Tickets that were taken back had threads, which others can have now.
            more = done.more or bool(refused)
        # In transactions of its own, of which none lasts long.
        self._unfinished.go_on(self._retrying, partial(aside.alone, self._database, What.RETRY))

    def _work_to_do(self, clock: float) -> bool:
        began = self._monotonic()
        with self._database.read() as tx:
            schema.refuse_newer(tx)
            running = servers.running(tx)
            silent = self._silence.of(running, clock, clock + self._monotonic() - began)
            work = moves.anything_open(tx)
        for server, name, beat in silent:
            aside.alone(self._database, What.SERVER, server, partial(self._lose, server, name, beat))
        return work or bool(silent)

    def _lose(self, server: int, name: str, beat: int) -> None:
        if self._database.run(lambda tx: engine.lose(tx, server, name, beat, tx.now())):
            logger.warning("%s gave no sign for %g s: it counts as lost", name, self._settings.lost_seconds)

    def _advance(self, tx: Tx) -> Advance:
        tick = Tick(tx, self._settings, self._publisher, tx.now(), topologies.aside(tx))
        for step in STEPS:
            step(tick)
        self._retrying = tick.retrying
        crash.point("ticking")
        return Advance(tick.tickets, tick.more)


def strategy(task: Task, app: Celery, consumer: Consumer) -> Callable[..., None]:
    """Celery's entry for a message of `batchq.coordinate`: the tick is done here and now, unless it is stale."""

    def take_in(message: Message, *_: object, **__: object) -> None:
        consumer.line.acknowledge(message)
        try:
            if _in_time(message.headers):
                app.batchq.coordinator.tick(time.monotonic())
        except (DatabaseTooNew, DatabaseDamaged) as error:
            logger.critical("%s This coordinator stops.", error)
            state.should_stop = error.exit_code
        except Unreachable as error:
            logger.warning("%s", error)
        except Exception:  # the next tick tries again; raised, it would end the coordinator
            logger.exception("the tick failed")

    return take_in


def _in_time(headers: object) -> bool:
    """Whether the tick has not expired. An unreadable expiry counts as expired."""
    try:
        return isinstance(headers, Mapping) and datetime.fromisoformat(headers["expires"]) > datetime.now(UTC)
    except (KeyError, TypeError, ValueError):
        return False


# --- the beat -----------------------------------------------------------------------------------------------


class Scheduler(BeatScheduler):
    """Celery's beat with one entry, the tick: nothing of the host's schedule, no file, and it ends with its parent."""

    def __init__(self, app: Celery, lazy: bool = False, **options: object) -> None:
        super().__init__(app, lazy=lazy, **options)
        self._settings: Settings = app.batchq.settings
        self._due = 0.0
        self._announced = False
        if not lazy:
            self._parent = os.getppid()
            set_pdeathsig("SIGKILL")
            self._publisher = Publisher(app, self._settings)

    def setup_schedule(self) -> None:
        """Load nothing: the host has a beat of its own for its schedule."""

    def tick(self, **_: object) -> float:
        """Send the tick when it is due by the monotonic clock; returns the seconds until the next look."""
        if os.getppid() != self._parent:
            raise SystemExit("the coordinator is gone")
        wait = self._due - time.monotonic()
        if wait > 0:
            return min(wait, 0.5)
        self._send()
        self._due = max(self._due, time.monotonic() - 1) + self._settings.tick_seconds
        return min(max(self._due - time.monotonic(), 0.001), 0.5)

    def _send(self) -> None:
        expires = datetime.now(UTC) + timedelta(seconds=max(10.0, 5 * self._settings.tick_seconds))
        try:
            self._publisher.send_tick(str(uuid.uuid4()), expires.isoformat())
            self._announced = False
        except (BrokerUnreachable, QueueRefused) as error:
            if not self._announced:
                logger.warning("the tick waits for the broker: %s", error)
            self._announced = True
