"""The execution of one attempt: the Celery request that hands it to the pool and reports how it ended."""

from __future__ import annotations

import json
import logging
import signal
import time
from typing import Protocol, TypeVar

from billiard.common import TERM_SIGNAL
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from celery.exceptions import Retry
from celery.worker import state
from celery.worker.request import Request

from batchq.config import Settings
from batchq.core import aborting, retries, secrets
from batchq.core.ends import End, Failure, Success
from batchq.core.secrets import Veil
from batchq.core.states import Reason
from batchq.engine import Report
from batchq.errors import Action, Advice
from batchq.server import ends, tickets
from batchq.server.celery_types.pool import Pool
from batchq.server.celery_types.worker import Consumer, Worker
from batchq.server.child import exceptions, lines
from batchq.server.child.executing import Errand
from batchq.server.child.order import ERROR_CHARS, Current, Done
from batchq.server.ledger import Ledger
from batchq.server.options import WorkerLimits
from batchq.server.pool import Following
from batchq.server.surroundings import Arrival
from batchq.store.columns import run_of
from batchq.store.moves import Start

logger = logging.getLogger(__name__)

# From SIGTERM to SIGKILL (rule 32).
KILL_SECONDS = 5.0
INSTEAD = Advice("terminate it, or end its run with {}", Action.CANCEL)


Ended = TypeVar("Ended", bound=End)


class Host(Protocol):
    """The batch server that an execution runs on."""

    name: str
    kind: str
    pool_kind: str
    app: Celery
    worker: Worker
    settings: Settings
    worker_limits: WorkerLimits
    pool: Following
    ledger: Ledger


def begin(host: Host, arrival: Arrival, row: Start) -> None:
    """Start a claimed attempt in the pool, or report why it cannot start."""
    if not host.app.batchq.may_run(row.operation):
        _not_started(host, arrival, row, f"{host.name} may not run {row.operation!r} (BATCHQ_ALLOWED_OPERATIONS)")
        return
    try:
        Execution(host, arrival, row, host.worker.consumer).start(host.worker.pool)
    except Exception as error:
        reason = f"the pool of {host.name} did not take it ({type(error).__name__}: {error})"
        _not_started(host, arrival, row, reason, cause=error)


def _not_started(host: Host, arrival: Arrival, row: Start, reason: str, cause: Exception | None = None) -> None:
    end = ends.not_started(reason)
    if cause is None:
        lines.ended(row, run_of(row.id), host.worker.hostname, end.error)
    else:
        lines.broke_off(row, run_of(row.id), host.worker.hostname, end.error, cause)
    host.ledger.report(arrival, Report(row.id, row.token, end))


def _is_repeatable(task: object) -> bool:
    return getattr(task, "repeatable", False) is True


class Execution(Request):
    """One claimed attempt in the pool; however it ends, exactly one report reaches the ledger."""

    # When its process was told to end, as an operator aborts the task (monotonic seconds).
    abort_began: float | None = None

    def __init__(self, server: Host, arrival: Arrival, row: Start, consumer: Consumer) -> None:
        operations = server.app.tasks  # once: Celery takes a lock for each look
        super().__init__(
            arrival.message,
            app=server.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=operations[tickets.RUN],
            connection_errors=consumer.connection_errors,
            body=((), {}, {}),
            # Not the message's own, which nobody has signed: Flower would show whatever somebody wrote there.
            headers=tickets.headers(row.token, row.job, row.name, run_of(row.id), row.attempt),
            decoded=True,
        )
        self.server = server
        self.arrival = arrival
        self.row = row
        self.soft_limit, self.hard_limit = server.worker_limits.of(operations.get(row.operation), row.time_limit)

    def start(self, pool: Pool) -> None:
        """Hand the attempt to the pool."""
        state.task_reserved(self)
        if signals.task_received.receivers:
            signals.task_received.send(sender=self.server.worker.consumer, request=self._of_operation())
        facts = {"name": self.name, "args": self.argsrepr, "kwargs": self.kwargsrepr, "root_id": self.root_id}
        self.send_event("task-received", **facts, parent_id=None, retries=self.row.attempt - 1, eta=None, expires=None)
        self._hand_to(pool)

    def _of_operation(self) -> Request:
        """Celery's request for the operation itself, as a message of its own would have made one."""
        row = self.row
        args, kwargs = self._arguments()
        headers = {"lang": "py", "task": row.operation, "id": row.token, "root_id": row.token, "ignore_result": True}
        return Request(
            self.arrival.message,
            app=self.app,
            hostname=self.hostname,
            task=self.app.tasks.get(row.operation),
            body=(args, kwargs, {}),
            headers=headers | {"retries": row.attempt - 1, "timelimit": [self.hard_limit, self.soft_limit]},
            decoded=True,
        )

    def _arguments(self) -> tuple[list[object], dict[str, object]]:
        """The operation's arguments, with its secrets."""
        shown, secret = secrets.unpacked(self.row.kwargs)
        return json.loads(self.row.args), shown | secret

    def _hand_to(self, pool: Pool) -> object:
        """Give the order to the pool; None if that is closed."""
        # Not by way of the worker's semaphore: the ledger admits no more attempts than the pool has processes.
        taken = pool.apply_async(
            self._order(),
            args=(),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=self.soft_limit,
            timeout=self.hard_limit,
            correlation_id=self.id,
        )
        self.server.pool.write()
        return taken

    def _order(self) -> Errand:
        row, settings = self.row, self.server.settings
        current = Current(row.job, run_of(row.id), row.name, row.attempt, row.run_by, row.company)
        return Errand(
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
            last=self._is_last,
            policy=row.policy,
            time_limits=(self.hard_limit, self.soft_limit),
            most_attempts=self.server.worker_limits.attempts,
            most_kilobytes=self.server.worker_limits.kilobytes,
        )

    @property
    def _is_last(self) -> bool:
        return self.abort_began is not None or bool(self.row.attempt > self.row.retries)

    def __str__(self) -> str:
        return f"{self.row.job} / {self.row.name} (run {run_of(self.row.id)}, attempt {self.row.attempt})"

    # --- an operator's wishes -------------------------------------------------------------------------------

    def not_aborted(self, terminate: bool) -> str | None:
        """The reason why it goes on although it was revoked, in one sentence; None if it can be aborted."""
        if not terminate:
            return f"{self} executes, and is not revoked: {INSTEAD.told()}"
        if unfit := aborting.unfit_pool(self.server.pool_kind, self.server.name):
            return f"{self} cannot be aborted: {unfit}"
        return None

    def abort(self) -> None:
        """Stop its process, if one has it, by SIGTERM; by SIGKILL in a later call, once KILL_SECONDS have passed.

        An operation that succeeds all the same stays a success. No other attempt is hurt: a process has one at a time,
        and the pool gives it no other before the loop has read how this one ended.
        """
        if self.time_start is None or self.not_aborted(terminate=True):
            return
        now = time.monotonic()
        if self.abort_began is None:
            self.abort_began = now
            self.server.pool.stop_child(self.worker_pid, TERM_SIGNAL)
            self._tell_abort()
        elif now - self.abort_began >= KILL_SECONDS:
            self.server.pool.stop_child(self.worker_pid, signal.SIGKILL)

    def _tell_abort(self) -> None:
        logger.warning("%s is aborted by an operator", self)
        task, request = self.app.tasks.get(self.row.operation), Context(self._request_dict, task=self.row.operation)
        signals.task_revoked.send(sender=task, request=request, terminated=True, signum=TERM_SIGNAL, expired=False)

    # --- called by the pool; on the threads pool from its threads -------------------------------------------

    def on_success(self, values: tuple[object, ...], **_: object) -> None:
        """The child came back, with a success or with an error of the operation.

        Events carry no result and no log: not everybody who sees Flower may see those.
        """
        if not isinstance(values, tuple):  # the threads pool hands a failure in here
            self.on_failure(values)
            return
        done = Done._make(values)
        if done.spent or self.abort_began is not None:  # told to end, it must be given nothing more
            self.server.pool.replace(self.worker_pid)
        if done.returned:
            self._start_again()
            return
        end = self._seen(done.end)
        self._report(end, done.log)
        if isinstance(end, Success):
            self.send_event("task-succeeded", result=None, runtime=time.time() - (self.time_start or 0))
        else:
            self.send_event("task-failed", exception=end.error, traceback="")

    def _start_again(self) -> None:
        """Give the order, which came back untouched, to another process."""
        if self.abort_began is not None:
            self._fail(ends.aborted())
            return
        self.time_start = None
        if self._hand_to(self.server.worker.pool) is None:
            self._fail(ends.not_started("its process was spoiled, and the server takes no other while it stops"))

    def on_failure(self, einfo: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The child did not come back: it died, or could not be reached."""
        error = einfo.exception
        # By its type, since an exception may lie about its class.
        if issubclass(type(error), ExceptionWithTraceback):
            error = error.exc
        if issubclass(type(error), TimeLimitExceeded):
            self.on_timeout(soft=False, timeout=self.hard_limit)
        elif issubclass(type(error), WorkerLostError | Terminated):
            self._fail(ends.lost(error) if self.abort_began is None else ends.aborted(), error)
        else:
            if self.abort_began is not None:
                self.server.pool.replace(self.worker_pid)
            # Veiled here too: an error of sending may show the arguments that could not be sent.
            hide = Veil(secrets.unpacked(self.row.kwargs)[1]).hide
            text = exceptions.clean(hide(exceptions.in_a_line(error)))[:ERROR_CHARS]
            self._fail(Failure(Reason.ERROR, text, classes=exceptions.classes(error, hide)))

    def on_timeout(self, soft: bool, timeout: float | None) -> None:
        """A time limit passed; the soft one raises inside the operation, the hard one ends its process (rule 34)."""
        if soft:
            return
        # Not now: billiard kills the process after this call, and the ledger would give its slot away before.
        self.server.worker.hub.call_later(0, self._timed_out, timeout)

    def _timed_out(self, timeout: float) -> None:
        self._fail(ends.timed_out(timeout), TimeLimitExceeded(timeout))

    def say_end(self, failure: Failure, cause: Exception | None = None) -> None:
        """Log an end that no child can tell, and tell receivers its cause; only once, if Celery reports it twice."""
        if self.id in self.server.ledger.active:
            seconds = time.time() - self.time_start if self.time_start else None
            again = not self._is_last and retries.is_tried_again(retries.read(self.row.policy), failure)
            lines.ended(self.row, run_of(self.row.id), self.hostname, failure.error, seconds, again=again)
            if cause is not None:
                self._tell(cause, again)

    def _fail(self, failure: Failure, cause: Exception | None = None) -> None:
        failure = self._seen(failure)
        self.say_end(failure, cause)
        self._report(failure)
        self.send_event("task-failed", exception=failure.error, traceback="")

    def _tell(self, error: Exception, again: bool) -> None:
        """Tell receivers of Celery's signals of an end, as the operation's process cannot do it any more."""
        task, row = self.app.tasks.get(self.row.operation), self.row
        if task is None or not (signals.task_retry if again else signals.task_failure).receivers:
            return
        args, kwargs = self._arguments()
        try:
            raise error
        except Exception:
            einfo = ExceptionInfo()
        if not again:
            facts = {"exception": error, "traceback": einfo.traceback, "einfo": einfo}
            signals.task_failure.send(sender=task, task_id=row.token, args=args, kwargs=kwargs, **facts)
        else:
            request = Context(
                id=row.token, root_id=row.token, task=row.operation, args=args, kwargs=kwargs, retries=row.attempt - 1
            )
            signals.task_retry.send(sender=task, request=request, reason=Retry(exc=error), einfo=einfo)

    def _seen(self, end: Ended) -> Ended | Failure:
        """An end in the light of an abort: what its process reports after SIGTERM is no failure of its own."""
        if self.abort_began is None or not isinstance(end, Failure) or end.reason is Reason.ABORTED:
            return end
        return ends.aborted(end.error)

    def _report(self, end: End, log: str | None = None) -> None:
        state.task_ready(self, successful=isinstance(end, Success))
        # Asked of failures alone: Celery takes a lock for each look at its tasks.
        repeatable = isinstance(end, Failure) and _is_repeatable(self.app.tasks.get(self.row.operation))
        self.server.ledger.report(self.arrival, Report(self.row.id, self.row.token, end, log, repeatable))

    def acknowledge(self) -> None:
        """Left to the ledger, which acknowledges after the commit."""

    def reject(self, requeue: bool = False) -> None:
        """A claimed ticket goes nowhere else."""
