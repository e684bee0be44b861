"""The worker's step: it makes a Celery worker the batch server named by `--batch-server`."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from celery import bootsteps
from celery.signals import worker_process_init
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from batchq import crash, engine
from batchq.config import Settings
from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.errors import (
    BatchqError,
    Conflict,
    DatabaseDamaged,
    DatabaseUnreachable,
    InvalidInput,
    NotFound,
)
from batchq.server import celery_gaps, execution, logs, options, pool, stop
from batchq.server.aborting import Aborts
from batchq.server.broker import hold_out
from batchq.server.celery_types.worker import Worker
from batchq.server.child import restore
from batchq.server.execution import Execution
from batchq.server.ledger import Ledger
from batchq.server.life import Enlistment, enlist
from batchq.server.options import WorkerLimits
from batchq.server.publisher import Publisher
from batchq.server.surroundings import Surroundings
from batchq.server.watch import LOOK_SECONDS, Fitting, Watch, connection_of_its_own
from batchq.spec.fields import name_fault
from batchq.store.database import Database

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

# A cold stop reads the last reports for the first of these times, and stores them within the second.
REPORTS_SECONDS = 0.05
COLD_SECONDS = 2.0
LEAVE_SECONDS = 10.0


class BatchServer(bootsteps.StartStopStep):
    """A batch server: its life under the server's name, its ledger, its watch and its pool."""

    requires = ("celery.worker.components:Pool",)
    # Set by BatchQ when it adds the step to an app.
    settings: Settings
    database: Database

    def __init__(self, worker: Worker, batch_server: str | None = None, **options: object) -> None:
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

    def include_if(self, worker: Worker) -> bool:
        """Whether the worker is a batch server."""
        return self.enabled

    def _prepare(self, worker: Worker) -> None:
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
            raise options.UNFIT["autoscale"].said(self.name)
        batch.lead_to_broker(writes=False)
        self.kind = kind
        self.pool_kind = pool.told(kind, worker.optimization)
        hold_out(self.app, self.name)
        self.worker_limits = WorkerLimits.taken_from(worker)
        worker.prefetch_multiplier = 1
        # It begins with one process, or thread, and grows when the watch has seen how many it may have.
        worker.concurrency = worker.min_concurrency = 1
        # It needs no news of other workers, and any of them could make it send a task.
        worker.options |= {"without_gossip": True, "without_mingle": True}
        worker.worker_lost_wait = self.settings.lost_child_seconds
        if kind == "prefork":
            worker_process_init.connect(restore.attend)
        celery_gaps.forget_the_apps_queues(self.app)

    def create(self, worker: Worker) -> BatchServer:
        """Take the server's name, before there is a pool."""
        # Here and at the end nobody waits for the loop, so a database that is locked can be waited for.
        self.patient: Database = self.app.batchq.database
        self.patient.name, self.patient.answer = self.database.name, self.database.answer
        try:
            if self.kind == "prefork":
                pool.refuse_without_semaphores()
            self.life = enlist(
                Enlistment(self.patient, self.settings, self.name, self.pool_kind, repeatable=self._repeatable)
            )
            crash.point("enlisted")
        except BatchqError as error:
            logger.critical("%s", error)
            raise SystemExit(error.exit_code) from None
        finally:
            self.patient.dispose()
        return self

    @property
    def _repeatable(self) -> list[str]:
        names: list[str] = self.app.batchq.catalogue.repeatable()
        return names

    def start(self, worker: Worker) -> None:
        """Begin to serve: all that the worker's loop does for a batch server starts here."""
        self.publisher = Publisher(self.app, self.settings, patience=0.2)
        self.pool = pool.following(self.kind, worker.pool, worker.hub)
        self._say_what_does_not_hold()
        self._ends = False
        self.ledger = Ledger(self.life, self._surroundings(worker))
        self.enlistment = Enlistment(
            self.database, self.settings, self.name, self.pool_kind, anew=True, repeatable=self._repeatable
        )
        self.aborts = Aborts(worker.hub.call_soon)
        self.watch = Watch(connection_of_its_own(self.database), self.settings, self.ledger, self.aborts)
        self.fitting = Fitting(self.watch, self.ledger, self.pool, worker.hub)
        self.watch.start()
        celery_gaps.forget_no_attempts(worker.pool)
        celery_gaps.keep_in_loop(worker.hub, worker.pool)
        # Celery does so once it has a broker: until then tasks that this server hands to itself would not start.
        worker.pool.register_with_event_loop(worker.hub)
        # Each new child begins with a collection, which would take long over objects that were there from the start.
        gc.collect()
        gc.freeze()
        worker.hub.call_repeatedly(LOOK_SECONDS, self._look_again)
        celery_gaps.note_cold_stops(worker)
        logger.info("%s is a batch server: epoch %d, %s pool", self.name, self.life.epoch, self.kind)

    def _surroundings(self, worker: Worker) -> Surroundings:
        return Surroundings(
            self.database,
            self.settings,
            self.publisher,
            worker.hub,
            partial(execution.begin, self),
            # No claim once a stop has begun: an attempt that starts then would be lost with it.
            pool=lambda: 0 if stop.begun() else self.pool.size,
            beside=ThreadPoolExecutor(1, "batchq-ledger") if self.database.dialect.is_remote else None,
        )

    @property
    def threads(self) -> int:
        """How many threads the present window gives it."""
        return self.fitting.threads

    def _say_what_does_not_hold(self) -> None:
        if self.kind == "threads" and (said := self.worker_limits.said()):
            logger.warning("On the threads pool these do not hold: %s. No thread can be ended or replaced.", said)
        batch = self.app.batchq
        for said in (*batch.warnings, batch.rate_limits(batch.operations())):
            if said:
                logger.warning("%s", said)

    def _look_again(self) -> None:
        if (lost := self.database.lost or self.watch.lost) and not self._ends:
            self._give_up(lost)
        if self.ledger.fenced and not self._ends:
            self._begin_anew()
        if self.watch.too_new is not None and not self._ends:
            logger.critical("%s %s lets its tasks end, and stops.", self.watch.too_new, self.name)
            self.ledger.store_only()
            state.should_stop = self.watch.too_new.exit_code
        if self.ledger.active:
            # asynpool hears of a dead child through its pipe, at times before the kernel has its exit status: then
            # it looks again only after 5 s, and the attempt would take a thread until then.
            self.pool.bury()
        self.aborts.stop()
        self.fitting.fit()
        self.ledger.look_again()

    def info(self, worker: Worker) -> dict[str, object]:
        """The facts that `celery inspect stats` and Flower show of the batch server."""
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

        No outcome can be stored any more. And an attempt must not run on here: once a copy of the file is put back,
        it counts as lost there, and is started again.
        """
        self._ends = True
        logger.critical("%s %s ends, and what runs on it.", lost, self.name)
        self.settings = self.settings.model_copy(update={"shutdown_seconds": 0.0})
        self.worker.exitcode = state.should_terminate = lost.exit_code
        # Python waits for its threads: an operation that runs in one would keep the process alive.
        last = threading.Timer(LEAVE_SECONDS, os._exit, [lost.exit_code])
        last.daemon = True
        last.start()

    def stop(self, worker: Worker) -> None:
        """Let running tasks finish and store each outcome as it comes, then give the name back."""
        self._ends = True
        with contextlib.suppress(DatabaseUnreachable, SQLAlchemyError):
            self.database.run(lambda tx: engine.retire(tx, self.life, tx.now()))
        worker.pool.register_with_event_loop(worker.hub)  # an error that ended the loop may have left it outside
        self._turn(lambda: not self.ledger.active or stop.cold(), None)
        if self.ledger.active:
            self.terminate(worker)
            return
        worker.pool.stop()
        self._settle_up(self.patient, self.settings.shutdown_seconds)

    def terminate(self, worker: Worker) -> None:
        """Store the outcomes that are known, and give the name back at once; attempts that still run are lost."""
        self._ends = True
        worker.pool.register_with_event_loop(worker.hub)
        self._turn(lambda: not self.ledger.active, REPORTS_SECONDS)
        lost = len(self.ledger.active)
        for attempt in map(state.requests.get, list(self.ledger.active)):
            if isinstance(attempt, Execution):
                attempt.say_end(Failure(Reason.LOST, engine.STOPPED))
        self.ledger.active.clear()  # from now on their children report nothing but this stop
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
        self._turn(lambda: self.ledger.idle, seconds)
        if not self.ledger.idle:
            logger.error("outcomes could not be stored in time: %s", ", ".join(self.ledger.unstored()))
        self.watch.stop()
        self.ledger.close(wait=self.ledger.idle)
        with contextlib.suppress(DatabaseUnreachable, SQLAlchemyError):
            database.run(lambda tx: engine.stop(tx, self.life, tx.now()))
        self.publisher.close()

    def attend(self, seconds: float) -> None:
        """Turn the loop for this many seconds: without a broker Celery's own loop stands still."""
        self._turn(lambda: False, seconds)

    def _turn(self, done: Callable[[], bool], seconds: float | None) -> None:
        stop.turn(self.worker.hub, done, seconds)
