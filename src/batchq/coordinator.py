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
from typing import Any

from celery import Celery, Task
from celery.beat import Scheduler as BeatScheduler
from celery.platforms import set_pdeathsig
from celery.worker import state
from sqlalchemy import Connection

from batchq import aside, crash, engine
from batchq.aside import STORING
from batchq.config import Settings
from batchq.engine import Advance
from batchq.errors import BrokerUnreachable, DatabaseDamaged, DatabaseTooNew, QueueRefused, Unreachable
from batchq.server.publisher import Publisher
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store.database import Database

logger = logging.getLogger(__name__)


@dataclass
class Silence:
    """How long each server's heartbeat has stood still, by this process's own monotonic clock (rule 31)."""

    seconds: float
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    looked: float = 0.0

    def of(self, running: list[tuple[int, str, int, int]], clock: float, read: float) -> list[tuple[int, str, int]]:
        """The running servers (id, name, epoch, beat) that were silent too long, as (id, name, beat).

        `clock` was asked before they were read, and `read` afterwards: what lies between counts as silence of nobody.
        After a pause of its own, or of the database, it counts afresh: an outage kills no healthy server.
        """
        if clock - self.looked > max(5.0, self.seconds / 3):
            self.heard.clear()
        self.looked = clock
        self.heard = {
            id_: before if (before := self.heard.get(id_)) and before[0] == beat else (beat, read)
            for id_, _, _, beat in running
        }
        return [(id_, name, beat) for id_, name, _, beat in running if clock - self.heard[id_][1] > self.seconds]


class Coordinator:
    """One coordinator's tick, with what it remembers between two of them."""

    def __init__(self, database: Database, settings: Settings, publisher: Publisher) -> None:
        self._database = database
        self._settings = settings
        self._publisher = publisher
        self._silence = Silence(settings.lost_seconds)

    def tick(self, clock: float) -> None:
        """One tick at `clock` (monotonic seconds); raises DatabaseUnreachable, DatabaseTooNew or BrokerUnreachable."""
        self._database.check_file()
        if not self._work_to_do(clock):
            return
        aside.try_again(self._database)
        again = True
        while again:
            step = aside.run(self._database, self._step)
            crash.point("tick-committed")
            refused = self._publisher.publish(step.tickets)
            if refused:
                self._database.run(moves.take_back, [(ticket.task, ticket.token) for ticket in refused])
            # What was taken back held threads that others can have now.
            again = step.more or bool(refused)

    def _work_to_do(self, clock: float) -> bool:
        began = time.monotonic()
        with self._database.read() as tx:
            schema.refuse_newer(self._database, tx)
            running = servers.running(tx)
            silent = self._silence.of(running, clock, clock + time.monotonic() - began)
            work = moves.anything_open(tx)
        for server, name, beat in silent:
            aside.lose(self._database, server, partial(self._lose, name=name, beat=beat))
        return work or bool(silent)

    def _lose(self, server: int, *, name: str, beat: int) -> None:
        if self._database.run(lambda tx: engine.lose(tx, server, name, beat, self._database.now(tx))):
            logger.warning("%s gave no sign for %g s: it counts as lost", name, self._settings.lost_seconds)

    def _step(self, tx: Connection) -> Advance:
        database, settings = self._database, self._settings
        now = database.now(tx)
        apart = servers.aside(tx, database)
        moves.discard_unstored(tx, now - STORING, now, apart.runs)
        more = engine.settle(tx, now, aside=apart.runs)
        engine.follow_clock(tx, now, apart.tasks)
        # From here on under the dispatch lock: who holds it waits for no run and no task.
        engine.take_back(tx, database, now, settings.tickets_ahead, skip=True)
        tickets = engine.offer_again(tx, database, now, settings.lost_ticket_seconds)
        tickets += engine.dispatch(tx, database, settings.tickets_ahead, self._publisher.unsendable)
        crash.point("ticking")
        return Advance(tickets, more)


def strategy(task: Task, app: Celery, consumer: Any) -> Callable[..., None]:
    """Celery's entry for a message of `batchq.coordinate`: the tick is done here and now, unless it is stale."""

    def take_in(message: Any, *_: Any, **__: Any) -> None:
        consumer.line.acknowledge(message)
        try:
            if _in_time(message.headers):
                app.batchq.coordinator.tick(time.monotonic())
        except (DatabaseTooNew, DatabaseDamaged) as error:
            logger.critical("%s This coordinator stops.", error)
            state.should_stop = error.exit_code
        except Unreachable as error:
            logger.warning("%s", error)
        except Exception:  # whatever it was, the next tick tries again
            logger.exception("the tick failed")

    return take_in


def _in_time(headers: Mapping[str, Any]) -> bool:
    """Whether the tick is still good; one that does not say so in a way that can be read is not."""
    try:
        return datetime.fromisoformat(headers["expires"]) > datetime.now(UTC)
    except (KeyError, TypeError, ValueError):
        return False


# --- the beat -----------------------------------------------------------------------------------------------


class Scheduler(BeatScheduler):  # type: ignore[misc]
    """Celery's beat with one entry, the tick: nothing of the host's schedule, no file, and it ends with its parent."""

    def __init__(self, app: Celery, lazy: bool = False, **options: Any) -> None:
        super().__init__(app, lazy=lazy, **options)
        self._settings: Settings = app.batchq.settings
        self._due = 0.0
        self._announced = False
        if not lazy:
            self._parent = os.getppid()
            set_pdeathsig("SIGKILL")
            self._publisher = Publisher(app, self._settings)

    def setup_schedule(self) -> None:
        """The host's own schedule is its own beat's to fire."""

    def tick(self, **_: Any) -> float:
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
