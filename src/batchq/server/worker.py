"""The batch server's place in a Celery worker: its watch, and what keeps pool and consumer true to SQL."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.signals import worker_process_init
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from batchq import clock, crash, engine
from batchq.config import Settings
from batchq.core.affinity import Server
from batchq.core.windows import next_change
from batchq.engine import Life, Report
from batchq.errors import (
    BatchqError,
    Conflict,
    DatabaseDamaged,
    DatabaseTooNew,
    DatabaseUnreachable,
    InvalidInput,
    NotFound,
)
from batchq.server import bounds, control, intake, logs, options, pool, stop, tickets
from batchq.server.broker import Line, bear, hold_out
from batchq.server.child import lines, restore
from batchq.server.ledger import Arrival, Ledger
from batchq.server.life import Enlistment, enlist
from batchq.server.options import Limits
from batchq.server.publisher import Publisher
from batchq.server.request import Attempt
from batchq.spec.fields import name_fault
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store.database import Database

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
LOOK_SECONDS = 0.25
# A cold stop reads so long what attempts have said already, and has so long to store it.
KNOWN_SECONDS = 0.05
COLD_SECONDS = 2.0
# So long between two looks that are asked for.
LEAST_SECONDS = 0.1
LEAVE_SECONDS = 10.0
HOUR = timedelta(hours=1)


# --- the watch: a thread with its own connection ------------------------------------------------------------


class Watch(threading.Thread):
    """Beats the server's heart, and reads every second what SQL wants of it; never touches the loop's state."""

    def __init__(self, database: Database, settings: Settings, ledger: Ledger) -> None:
        super().__init__(name="batchq-watch", daemon=True)
        self.wanted: tuple[frozenset[str], Server] | None = None
        self.too_new: DatabaseTooNew | None = None
        self._database = Database(str(database.url.render_as_string(hide_password=False)), name=database.name)
        self._settings = settings
        self._ledger = ledger
        self._missing: dict[str, float] = {}
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._looked = time.monotonic()

    def run(self) -> None:
        beat_at = 0.0
        pause = min(WATCH_SECONDS, self._settings.heartbeat_seconds)
        while True:
            try:
                if time.monotonic() >= beat_at:
                    self._beat()
                    beat_at = time.monotonic() + self._settings.heartbeat_seconds - pause / 2
                self._look()
            except DatabaseTooNew as error:
                self.too_new = error
            except (DatabaseUnreachable, SQLAlchemyError) as error:
                logger.debug("the watch waits for the database: %s", error)
            except Exception:  # whatever it was: without this thread the server would count as lost
                logger.exception("the watch failed, and goes on")
            looked = time.monotonic()
            if self._asked.wait(pause):
                self._ended.wait(looked + LEAST_SECONDS - time.monotonic())
                self._asked.clear()
            if self._ended.is_set():
                return

    def look(self) -> None:
        """Have SQL read at once, or as soon after the last time as is good for it; callable from any thread."""
        self._asked.set()

    @property
    def lost(self) -> DatabaseDamaged | None:
        """Why no waiting for the database helps any more."""
        return self._database.lost

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._asked.set()
        self.join(timeout=5)

    def _beat(self) -> None:
        self._database.check_file()
        life = self._ledger.life
        if not self._database.run(lambda tx: servers.beat(tx, life.server, life.epoch, self._database.now(tx))):
            self._ledger.fenced = self._ledger.life == life

    def _look(self) -> None:
        life = self._ledger.life
        with self._database.read() as tx:
            schema.refuse_newer(self._database, tx)
            topology = servers.topology(tx, self._database)
            groups = frozenset(servers.group_priorities(tx))
            executing = moves.executing_on(tx, life.server)
        server = topology.by_id.get(life.server)
        if server is None:
            return  # deleted while it counted as lost: the next heartbeat finds that out
        self.wanted = frozenset(g for g in groups if topology.serves(server, g)), server
        self._look_for_lost(life, {row.token for row in executing if row.epoch == life.epoch})

    def _look_for_lost(self, life: Life, executing: set[str]) -> None:
        """Attempts that our books say run here, and that nobody here has: after a while they are lost (rule 31)."""
        now = time.monotonic()
        if now - self._looked > 5:  # this process stood still: what it saw before says nothing
            self._missing.clear()
        self._looked = now
        # What a commit claims is known here only when the loop, which may stand still, has taken in its end.
        began = self._ledger.began
        gone = {token for token in executing if not self._ledger.has(token)}
        self._missing = {token: self._missing.get(token, now) for token in gone}
        due = [token for token, since in self._missing.items() if now - since > self._settings.lost_attempt_seconds]
        lost = [token for token in due if began is None or began > self._missing[token]]
        if lost:
            logger.error("%d attempts are in the books but not here: they are lost", len(lost))
            self._database.run(lambda tx: engine.recover_missing(tx, life, lost, self._database.now(tx)))


# --- the bootsteps ------------------------------------------------------------------------------------------


class BatchServer(bootsteps.StartStopStep):  # type: ignore[misc]
    """The worker's step that makes it the batch server named by `--batch-server`."""

    requires = ("celery.worker.components:Pool",)
    # Set by BatchQ when it adds the step to an app.
    settings: Settings
    database: Database

    def __init__(self, worker: Any, batch_server: str | None = None, **options: Any) -> None:
        super().__init__(worker, **options)
        worker.batch_server = self if batch_server else None
        self.enabled = bool(batch_server)
        if batch_server:
            self.app: Celery = worker.app
            self.worker = worker
            self.name = batch_server
            try:
                self._prepare(worker)
            except BatchqError as error:
                logger.critical("%s", error)
                raise SystemExit(error.exit_code) from None

    def include_if(self, worker: Any) -> bool:
        return self.enabled

    def _prepare(self, worker: Any) -> None:
        batch = self.app.batchq
        batch.process = f"batchq server {self.name}"
        self.settings, self.database = batch.settings, batch.database_within(patience=0.2)
        kind = pool.kind_of(worker.pool_cls)
        if kind is None:
            raise InvalidInput(
                f"A batch server runs on the prefork or the threads pool, not on {worker.pool_cls.__module__}: "
                "start it with --pool prefork or --pool threads."
            )
        if fault := name_fault(self.name):
            raise InvalidInput(f"--batch-server: {fault}.")
        logs.dress_worker(self.settings.log_format)
        if worker.autoscale:
            raise InvalidInput(options.UNFIT["autoscale"].said(self.name))
        batch.lead_to_broker(writes=False)
        self.kind = kind
        hold_out(self.app, self.name)
        self.limits = Limits.taken_from(worker)
        worker.prefetch_multiplier = 1
        # It begins with one process, or thread, and then follows what is wanted of it.
        worker.concurrency = worker.min_concurrency = 1
        # It needs nothing of what other workers tell: and one of them could have it send any task.
        worker.options |= {"without_gossip": True, "without_mingle": True}
        worker.worker_lost_wait = self.settings.lost_child_seconds
        if kind == "prefork":
            worker_process_init.connect(restore.attend)
        # Only the queues of our groups: on a shared broker any other would lose messages of tasks it does not know.
        self.app.amqp.queues._consume_from = {}
        # Else Celery puts the host's default exchange in the place of the broker's own, and binds our queues to it.
        self.app.amqp.queues.default_exchange = None

    def create(self, worker: Any) -> BatchServer:
        # Here and at the end nobody waits for the loop, so a database that is locked can be waited for.
        self.patient: Database = self.app.batchq.database
        self.patient.name, self.patient.answer = self.database.name, self.database.answer
        try:
            if self.kind == "prefork":
                pool.refuse_without_semaphores()
            self.life = enlist(self.patient, self.settings, self.name, self.kind)
            crash.point("enlisted")
        except BatchqError as error:
            logger.critical("%s", error)
            raise SystemExit(error.exit_code) from None
        finally:
            self.patient.dispose()
        return self

    def start(self, worker: Any) -> None:
        self.publisher = Publisher(self.app, self.settings, patience=0.2)
        self.pool = pool.following(self.kind, worker.pool)
        self._say_what_does_not_hold()
        self.threads = 0
        self._change: tuple[Server, datetime, datetime | None] | None = None
        self._follow_at = 0.0
        self._ends = False
        self.ledger = Ledger(
            self.database,
            self.life,
            self.settings,
            self.publisher,
            worker.hub,
            self._start,
            # No claim once a stop has begun: what starts then would be lost with it.
            pool=lambda: 0 if stop.begun() else self.pool.size,
            beside=not self.database.embedded,
        )
        self.enlistment = Enlistment(self.database, self.settings, self.name, self.kind, anew=True)
        self.watch = Watch(self.database, self.settings, self.ledger)
        self.watch.start()
        # A lost connection makes the consumer forget jobs that a child already has; ours are never redelivered.
        worker.pool.flush = None
        pool.hold(worker.hub, worker.pool)
        # Celery does so once it has a broker; until then the pool would take nothing that this server hands itself.
        worker.pool.register_with_event_loop(worker.hub)
        # Each new child begins with a collection: over what was there from the start it finds nothing, slowly.
        gc.collect()
        gc.freeze()
        worker.hub.call_repeatedly(LOOK_SECONDS, self._look_again)
        stop.heed(worker)
        logger.info("%s is a batch server: epoch %d, %s pool", self.name, self.life.epoch, self.kind)

    def _say_what_does_not_hold(self) -> None:
        if self.kind == "threads" and (said := self.limits.said()):
            logger.warning("On the threads pool these do not hold: %s. No thread can be ended or replaced.", said)
        batch = self.app.batchq
        for said in (*batch.warnings, batch.rate_limits(batch.operations())):
            if said:
                logger.warning("%s", said)

    def _start(self, arrival: Arrival, row: Any) -> None:
        if not self.app.batchq.may_run(row.operation):
            reason = f"not started: {self.name} may not run {row.operation!r} (BATCHQ_ALLOWED_OPERATIONS)"
            lines.ended(row, moves.run_of(row.id), self.worker.hostname, reason)
            self.ledger.report(arrival, Report(row.id, row.token, ok=False, error=reason))
            return
        try:
            Attempt(self, arrival, row, self.worker.consumer).start(self.worker.pool)
        except Exception as error:
            reason = f"not started: the pool of {self.name} did not take it ({type(error).__name__}: {error})"
            lines.broke_off(row, moves.run_of(row.id), self.worker.hostname, reason, error)
            self.ledger.report(arrival, Report(row.id, row.token, ok=False, error=reason))

    def _look_again(self) -> None:
        if (lost := self.database.lost or self.watch.lost) and not self._ends:
            self._give_up(lost)
        if self.ledger.fenced and not self._ends:
            self._begin_anew()
        if self.watch.too_new is not None and not self._ends:
            logger.critical("%s %s lets its tasks end, and stops.", self.watch.too_new, self.name)
            self.ledger.outdated = True
            state.should_stop = self.watch.too_new.exit_code
        if self.ledger.active:
            # Celery hears of a dead child through its pipe, at times before the kernel has its exit status,
            # and then looks again only after 5 s.
            self.pool.bury()
        self._follow()
        self.ledger.look_again()

    def _follow(self) -> None:
        """Be as large as the present window wants; when more may start than before, see to it at once (rule 20)."""
        if self.watch.wanted is None:
            return
        _, seen = self.watch.wanted
        # Only the claim asks the database's clock; to be ready in time this machine's is good enough.
        now = clock.now()
        before, self.threads = self.threads, seen.threads_now(now)
        self.ledger.threads = self.threads
        # What a commit under way may yet claim was counted on the present size.
        least = self.pool.size if self.ledger.commits else len(self.ledger.active)
        if not self.pool.fit(max(self.threads, least)):
            self._follow_soon(LOOK_SECONDS / 5)
        if self.threads > before:
            self.ledger.go_on()
        self._wait_for_change(seen, now)

    def _follow_soon(self, seconds: float) -> None:
        """Follow once more before the next look; one such call is enough, whoever asks for it."""
        now = time.monotonic()
        if now >= self._follow_at:
            self._follow_at = now + seconds
            self.worker.hub.call_later(seconds, self._follow)

    def _wait_for_change(self, seen: Server, now: datetime) -> None:
        """Be there in the instant in which a window opens or closes, if that is before the next look."""
        if self._change is None or self._change[0] != seen or not self._change[1] <= now < self._change[1] + HOUR:
            self._change = seen, now, next_change(seen.windows, seen.threads, now)
        change = self._change[2]
        if change and 0 < (seconds := clock.real_seconds(change - now)) < LOOK_SECONDS:
            self._follow_soon(seconds + 0.001)

    def info(self, worker: Any) -> dict[str, Any]:
        """What `celery inspect stats` and Flower show of the batch server."""
        groups = sorted(self.watch.wanted[0]) if self.watch.wanted else []
        return {
            "batchq": {
                "server": self.name,
                "epoch": self.life.epoch,
                "groups": groups,
                "threads": self.threads,
                "executing": len(self.ledger.active),
                **self.ledger.counts,
            }
        }

    def _begin_anew(self) -> None:
        try:
            life = self.enlistment.ask()
        except (NotFound, Conflict) as error:
            logger.critical("%s", error)
            raise SystemExit(error.exit_code) from None
        except (DatabaseUnreachable, SQLAlchemyError):
            return
        if life is None:
            return
        self.life = life
        logger.warning("%s was declared lost while it ran; it goes on under epoch %d", self.name, self.life.epoch)
        self.ledger.begin_life(self.life)

    def _give_up(self, lost: DatabaseDamaged) -> None:
        """End at once, with all that runs here.

        No outcome can be stored any more; and whoever puts a copy of the file back starts again what it knows as lost,
        which must not run here as well.
        """
        self._ends = True
        logger.critical("%s %s ends, and what runs on it.", lost, self.name)
        self.settings = self.settings.model_copy(update={"shutdown_seconds": 0.0})
        self.worker.exitcode = state.should_terminate = lost.exit_code
        # Threads cannot be ended otherwise.
        last = threading.Timer(LEAVE_SECONDS, os._exit, [lost.exit_code])
        last.daemon = True
        last.start()

    def stop(self, worker: Any) -> None:
        """Let running tasks finish, storing each outcome as it comes, then give the name back."""
        self._ends = True
        with contextlib.suppress(DatabaseUnreachable, SQLAlchemyError):
            self.database.run(lambda tx: engine.retire(tx, self.database, self.life, self.database.now(tx)))
        worker.pool.register_with_event_loop(worker.hub)  # an error that ended the loop may have left it outside
        self._drive(lambda: not self.ledger.active or stop.cold(), None)
        if self.ledger.active:
            self.terminate(worker)
            return
        worker.pool.stop()
        self._settle_up(self.patient, self.settings.shutdown_seconds)

    def terminate(self, worker: Any) -> None:
        """Store what is known, and give the name back at once; what still runs is lost."""
        self._ends = True
        worker.pool.register_with_event_loop(worker.hub)
        self._drive(lambda: not self.ledger.active, KNOWN_SECONDS)
        lost = len(self.ledger.active)
        for attempt in map(state.requests.get, list(self.ledger.active)):
            if isinstance(attempt, Attempt):
                attempt.say_end(engine.STOPPED)
        self.ledger.active.clear()  # what is heard of them from now on is what this stop does to them
        self.pool.tell_to_end()
        self._settle_up(self.database, COLD_SECONDS)
        self.pool.end()
        if lost:
            logger.warning("%s was stopped, and %d attempts with it: they are lost", self.name, lost)
        if lost and self.kind == "threads":
            logging.shutdown()
            os._exit(stop.exit_code())  # no thread can be ended, and Python would wait for each
        worker.pool.terminate()

    def _settle_up(self, database: Database, seconds: float) -> None:
        self._drive(lambda: self.ledger.idle, seconds)
        if not self.ledger.idle:
            logger.error("outcomes could not be stored in time: %s", ", ".join(self.ledger.unstored()))
        self.watch.stop()
        self.ledger.close(wait=self.ledger.idle)
        with contextlib.suppress(DatabaseUnreachable, SQLAlchemyError):
            database.run(lambda tx: engine.stop(tx, self.life, database.now(tx)))
        self.publisher.close()

    def attend(self, seconds: float) -> None:
        """See to what runs here for so long, while no broker is there and Celery's own loop stands still."""
        self._drive(lambda: False, seconds)

    def _drive(self, done: Any, seconds: float | None) -> None:
        """Turn the worker's loop, which nobody else turns any more, until `done` or the time is up."""
        deadline = None if seconds is None else time.monotonic() + seconds
        loop = self.worker.hub.create_loop()
        while not done() and (deadline is None or time.monotonic() < deadline):
            try:
                next(loop)
            except StopIteration:
                loop = self.worker.hub.create_loop()
            except Exception:
                logger.debug("the loop of a stopping server", exc_info=True)
                loop = self.worker.hub.create_loop()


class BatchConsumer(bootsteps.StartStopStep):  # type: ignore[misc]
    """The consumer's step that, on every connection, keeps queues and prefetch what SQL wants (level-triggered)."""

    requires = ("celery.worker.consumer.tasks:Tasks", "celery.worker.consumer.control:Control")

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.timer: Any = None
        self._line: Line | None = None
        coordinates = consumer.app.batchq.settings.coordinator_queue in consumer.app.amqp.queues.consume_from
        if consumer.controller.batch_server is not None or coordinates:
            self._line = bear(consumer)
        # What a worker of ours alone takes; the host's own workers may run what else the host sends them.
        self._takes = tickets.RUN if consumer.controller.batch_server is not None else None
        if coordinates and len(consumer.app.amqp.queues.consume_from) == 1:
            self._takes = tickets.COORDINATE
        if self._takes:
            self._queues = intake.Queues(consumer)
            intake.take_only(self._takes, consumer)
            bounds.bound(consumer, self._queues.drop_refused)
            control.govern(consumer, consumer.app.batchq.settings)

    def start(self, consumer: Any) -> None:
        # Ours is JSON, whatever the host project sends itself.
        if consumer.task_consumer.accept is not None:
            consumer.task_consumer.accept = {*consumer.task_consumer.accept, "application/json"}
        if self._line is not None and consumer.hub is not None:
            self._line.watch()
        if not self._takes or consumer.hub is None:
            return
        self._queues.guard()
        server = consumer.controller.batch_server
        act: Callable[[], object]
        if server is None:
            act = partial(self._queues.fit, {consumer.app.batchq.settings.coordinator_queue})
        else:
            assert self._line is not None
            server.ledger.acknowledge = self._line.acknowledge
            self._counts = not _own_prefetch(consumer.task_consumer.channel, server)
            self._listens = True
            act = partial(self._reconcile, consumer, server)
            server.ledger.has_room = partial(self._has_room, consumer)
        consumer.hub.call_later(0, act)  # not now: nobody could take in what comes at once
        self.timer = consumer.hub.call_repeatedly(LOOK_SECONDS, act)

    def stop(self, consumer: Any) -> None:
        if self._line is not None:
            self._line.hurry()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self._queues.forget()
            if consumer.controller.batch_server is not None:
                consumer.controller.batch_server.ledger.has_room = None

    def _reconcile(self, consumer: Any, server: BatchServer) -> None:
        if server.watch.wanted is None or consumer.task_consumer is None:
            return
        groups, _ = server.watch.wanted
        wanted = {server.settings.queue(group) for group in groups} if server.threads else set()
        self._listens = self._queues.fit(wanted) or self._listens
        self._set_prefetch(consumer, server.threads and server.threads + server.settings.tickets_ahead)
        if self._counts:
            self._listen(consumer, server.ledger.room > 0)

    def _has_room(self, consumer: Any) -> None:
        """A server that was full listens again at once; that it is full can wait for the next look."""
        self._listen(consumer, True)

    def _listen(self, consumer: Any, listens: bool) -> None:
        """Where the broker counts what it has sent, for each queue on its own, a full server must not listen."""
        if listens != self._listens and consumer.task_consumer is not None:
            (consumer.task_consumer.consume if listens else consumer.task_consumer.cancel)()
            self._listens = listens

    def _set_prefetch(self, consumer: Any, wanted: int) -> None:
        if consumer.qos.value == wanted:
            return
        if wanted:  # to the broker 0 would mean no limit: a closed server has no consumers instead
            consumer.qos.set(wanted)
        consumer.qos.value = wanted


def _own_prefetch(channel: Any, server: BatchServer) -> bool:
    """On brokers whose prefetch kombu counts itself (Redis), let it be the free threads at this very moment.

    Returns whether this is such a broker.
    """
    with contextlib.suppress(AttributeError):
        # Messages that a lost connection left unacknowledged are replaced from SQL, never put back by this process.
        channel.do_restore = False
        if channel.qos.can_consume is not None:
            # What was asked for while there was room may be here by now: unread, nobody could have it while this one
            # is full.
            channel.qos.can_consume = lambda: server.ledger.room > 0 or bool(getattr(channel, "_in_poll", None))
            return True
    return False
