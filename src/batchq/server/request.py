"""How a ticket becomes a Celery request: the strategy that takes it in, and the request that runs one attempt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, Task
from celery.worker import state
from celery.worker.request import Request

from batchq import crash
from batchq.core import secrets
from batchq.core.secrets import Veil
from batchq.engine import Report
from batchq.server import child, kept, tickets
from batchq.server.child import Current, Done, Order
from batchq.server.ledger import Arrival
from batchq.store.moves import run_of

if TYPE_CHECKING:
    from batchq.server.worker import BatchServer

logger = logging.getLogger(__name__)


def strategy(task: Task, app: Celery, consumer: Any) -> Callable[..., None]:
    """Celery's entry for a message of `batchq.run`: nothing is shown or started before the claim."""
    server: BatchServer | None = getattr(consumer.controller, "batch_server", None)

    def take_in(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        offer = tickets.read(message, server.settings) if server is not None else None
        if server is None or offer is None:
            # Without a server nobody may run it, and its row will be offered again.
            refuse(message, consumer)
            return
        crash.point("ticket-arrived")
        server.ledger.offer(Arrival(offer, message, time.monotonic()))

    return take_in


def refuse(message: Any, consumer: Any) -> None:
    """Drop a message that is no ticket for this worker, and count it; its body is told as it came, and cut."""
    count_refused(consumer)
    body = message.body[:200] if isinstance(message.body, str | bytes) else type(message.body).__name__
    logger.warning("dropped a message that is no ticket for this worker: %r", body)
    message.ack_log_error(logger, consumer.connection_errors)


def count_refused(consumer: Any) -> None:
    """Count a message that was no ticket; a coordinator keeps no such count."""
    server: BatchServer | None = getattr(consumer.controller, "batch_server", None)
    if server is not None:
        server.ledger.counts["refused"] += 1


class Attempt(Request):  # type: ignore[misc]
    """One claimed attempt in the pool; however it ends, exactly one report reaches the ledger."""

    def __init__(self, server: BatchServer, arrival: Arrival, row: Any, consumer: Any) -> None:
        super().__init__(
            arrival.message,
            app=server.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=server.app.tasks[tickets.RUN],
            connection_errors=consumer.connection_errors,
            body=((), {}, {}),
            # Not the message's own: nobody has signed those.
            headers=tickets.headers(row.token, row.job, row.name, run_of(row.id), row.attempt),
            decoded=True,
        )
        self.server = server
        self.arrival = arrival
        self.row = row
        operation = self.app.tasks.get(row.operation)
        self.soft_limit, self.hard_limit = server.limits.of(operation, row.time_limit)

    def start(self, pool: Any) -> None:
        """Hand the attempt to the pool."""
        state.task_reserved(self)
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=None,
            retries=self.row.attempt - 1,
            eta=None,
            expires=None,
        )
        # The ledger admits no more than the pool has processes, so the worker's own semaphore is left aside.
        pool.apply_async(
            child.execute,
            args=(self._order(),),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=self.soft_limit,
            timeout=self.hard_limit,
            correlation_id=self.id,
        )

    def _order(self) -> Order:
        row, settings = self.row, self.server.settings
        current = Current(row.job, run_of(row.id), row.name, row.attempt, row.run_by, row.company)
        return Order(
            row.operation,
            row.args,
            row.kwargs,
            row.token,
            current,
            self.hostname,
            row.group_name,
            settings.log_bytes,
            settings.result_bytes,
            alone=self.server.kind == "prefork",
            most_attempts=self.server.limits.attempts,
            most_kilobytes=self.server.limits.kilobytes,
        )

    # --- what the pool calls; on the threads pool from its threads -------------------------------------------

    def on_success(self, done: Done, **_: Any) -> None:
        """The child came back, with a success or with an error of the operation.

        Results and logs stay in SQL: whoever sees Flower need not see them.
        """
        if not isinstance(done, Done):  # the threads pool hands a failure in here
            self.on_failure(done)
            return
        if done.spent:
            self.server.pool.replace(self.worker_pid)
        if done.ok:
            self._report(True, done)
            self.send_event("task-succeeded", result=None, runtime=time.time() - (self.time_start or 0))
        else:
            self._report(False, done)
            self.send_event("task-failed", exception=done.error, traceback="")

    def on_failure(self, einfo: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The child did not come back: it died, or could not be reached."""
        error = einfo.exception
        # By its type: it may lie about its class.
        if issubclass(type(error), ExceptionWithTraceback):
            error = error.exc
        if issubclass(type(error), TimeLimitExceeded):
            self.on_timeout(soft=False, timeout=self.hard_limit)
        elif issubclass(type(error), WorkerLostError):
            how = str(error).removeprefix("Worker exited prematurely: ").partition(" Job: ")[0].rstrip(".")
            self._fail(f"lost: its process ended ({how}) during this attempt; what it did is not known")
        else:
            # Veiled here too: it may be about what could not be sent.
            text = Veil(secrets.unpacked(self.row.kwargs)[1]).hide(kept.in_a_line(error))
            self._fail(kept.clean(text)[: child.ERROR_CHARS])

    def on_timeout(self, soft: bool, timeout: float | None) -> None:
        """A time limit passed; the soft one raises inside the operation, the hard one ends its process (rule 34)."""
        if soft:
            return
        # The pool kills the process after this call: only then may its slot be given to another attempt.
        self.server.worker.hub.call_later(0, self._timed_out, timeout)

    def _timed_out(self, timeout: float) -> None:
        self._fail(f"timed out: still running after {timeout:g} s")

    def _fail(self, error: str) -> None:
        self._report(False, Done(False, error))
        self.send_event("task-failed", exception=error, traceback="")

    def _report(self, ok: bool, done: Done) -> None:
        state.task_ready(self, successful=ok)
        report = Report(self.row.id, self.row.token, ok, done.error, done.result, done.log)
        self.server.ledger.report(self.arrival, report)

    def acknowledge(self) -> None:
        """Left to the ledger, which acknowledges after the commit."""

    def reject(self, requeue: bool = False) -> None:
        """A claimed ticket goes nowhere else."""
