"""What happens inside a pool child (or thread): one operation, in the user's own Celery task, with its log kept.

Nothing here touches the database or the broker: a value goes back to the server, which stores it.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from decimal import Decimal
from json import loads
from os import getpid
from time import perf_counter
from typing import Any
from uuid import UUID

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, current_app, states
from celery.exceptions import Retry
from celery.utils.saferepr import saferepr
from kombu.utils.json import JSONEncoder

from batchq import crash
from batchq.core import secrets
from batchq.core.secrets import Veil
from batchq.server import kept, lines, restore, trace

ERROR_CHARS = 2000
REPR_CHARS = 1024
ASKED = "Retry: the operation asked for it"

logger = logging.getLogger(__name__)


# What crosses to a child and back has no slots: pickle would ask each time which fields there are.
@dataclass(frozen=True)
class Current:
    """Who and what a running operation works for (rule 38)."""

    job: str
    run: int
    task: str
    attempt: int
    run_by: str | None = None
    company: str | None = None


@dataclass(frozen=True)
class Order:
    """Everything a child needs to run one attempt; `args` is JSON, `kwargs` what `core.secrets` packs."""

    operation: str
    args: str = field(repr=False)
    kwargs: str = field(repr=False)
    token: str
    current: Current
    hostname: str
    group: str
    log_bytes: int
    result_bytes: int
    # Whether the process that runs it runs nothing else meanwhile: it is then put back in order.
    alone: bool = False
    # Whether no further attempt follows if this one fails.
    last: bool = True
    # The hard and the soft time limit, in seconds.
    limits: tuple[float | None, float | None] = (None, None)
    # After so many attempts, or with more memory than so many KiB, that process is replaced.
    most_attempts: int | None = None
    most_kilobytes: int | None = None


@dataclass(frozen=True)
class Done:
    """How an attempt ended, in values that survive the way back; `result` is JSON."""

    ok: bool
    error: str | None = None
    result: str | None = None
    log: str | None = None
    # Whether the process that ran it must run nothing more.
    spent: bool = False
    # Whether the order comes back untouched: after its last report its process turned out to be spent.
    returned: bool = False


_current: ContextVar[Current] = ContextVar("batchq_current")
# Bound here: an operation may put something else in the place of `json`, or of a builtin.


class _Encoder(JSONEncoder):  # type: ignore[misc]
    """JSON of all that Celery's JSON takes, as plain values: a time is a text, without Celery's mark of its type."""

    def default(self, o: Any) -> Any:
        if isinstance(o, Decimal | UUID):
            return str(o)
        made = super().default(o)
        return made["__value__"] if isinstance(made, dict) and made.keys() == {"__type__", "__value__"} else made


_encode = _Encoder(allow_nan=False).encode
_Anything = BaseException
_NOTHING = nullcontext()


def current() -> Current:
    """The job, run, task and attempt that the calling operation is, and the job's `run_by` and `company` (rule 38).

    Raises LookupError outside of an operation that a batch server runs.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("batchq.current() works only inside an operation that a batch server runs.") from None


def execute(order: Order) -> Done:
    """Run one attempt; whatever the operation does, a `Done` comes back, or this process ends."""
    kept.listen()
    house = restore.house() if order.alone else None
    if house is not None and house.spent:
        return Done(False, spent=True, returned=True)
    try:
        # What it sets in its context, decimal's for one, ends with it.
        done = copy_context().run(_attempted, order, house)
    except _Anything as error:
        trace.let_a_signal_end(error)
        lines.failed(order, 0.0, error)
        done = _error(error)
    # A process that a signal told to end takes every later error for that end, so it runs nothing more.
    spent = house is not None and (
        house.spent or terminate_handler_fired() or house.is_worn_by(order.most_attempts, order.most_kilobytes)
    )
    return replace(done, spent=True) if spent else done


def _attempted(order: Order, house: restore.House | None) -> Done:
    shown, secret = secrets.unpacked(order.kwargs)
    veil = Veil(secret) if secret else None
    with kept.log(order.log_bytes, veil, order.alone) as log:
        with kept.hidden(veil) if veil is not None else _NOTHING:
            try:
                done = _found(order, shown | secret, house)
            except _Anything as error:
                trace.let_a_signal_end(error)
                lines.failed(order, 0.0, error)
                done = _error(error)
        if house is not None:
            house.put_back(order.current)
        return Done(done.ok, done.error, done.result, log.text())


def _found(order: Order, kwargs: dict[str, Any], house: restore.House | None) -> Done:
    process = getpid()
    _current.set(order.current)
    task = current_app.tasks.get(order.operation)
    done = _missing(order) if task is None else _perform(order, task, kwargs, house)
    trace.end_copy(process)
    crash.point("operation-over")
    return done


def _missing(order: Order) -> Done:
    error = f"No task named {order.operation!r} is registered with the app of {order.hostname}."
    lines.not_found(order, error)
    return Done(False, error)


def _perform(order: Order, task: Task, kwargs: dict[str, Any], house: restore.House | None) -> Done:
    crash.point("operation-ahead")
    request = _request(order, loads(order.args), kwargs)
    lines.started(order)
    began = perf_counter()
    trial = trace.run(task, trace.Trial(order.token, order.last, house), request)
    seconds, state, value = perf_counter() - began, trial.state, trial.value
    if state in (states.SUCCESS, states.IGNORED):
        lines.succeeded(order, seconds)
        return _result(value, order.result_bytes) if state == states.SUCCESS else Done(True)
    error = trace.cause(value)
    lines.failed(order, seconds, error, trial.told, again=not order.last)
    return Done(False, ASKED) if type(error) is Retry else _error(error)


def _request(order: Order, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The fields of Celery's request, as a message would have brought them."""
    token = order.token
    return {
        "lang": "py",
        "task": order.operation,
        "id": token,
        "root_id": token,
        "correlation_id": token,
        "args": args,
        "kwargs": kwargs,
        # Hidden before it is cut: half a secret would not be recognised.
        "argsrepr": saferepr(kept.hide_in(args), REPR_CHARS) if args else "[]",
        "kwargsrepr": saferepr(kept.hide_in(kwargs), REPR_CHARS) if kwargs else "{}",
        "retries": order.current.attempt - 1,
        "timelimit": list(order.limits),
        "hostname": order.hostname,
        "origin": order.hostname,
        "delivery_info": {"exchange": "", "routing_key": order.group, "priority": None, "redelivered": False},
        "properties": {},
        "stamps": {},
        "ignore_result": True,
    }


def _result(value: Any, limit: int) -> Done:
    if value is None:
        return Done(True)
    try:
        result = kept.clean(_without_secrets(_encode(value)))
    except SoftTimeLimitExceeded:
        raise
    except _Anything as error:
        logger.warning("The result is not kept: it is no JSON value (%s).", kept.in_a_line(error)[:ERROR_CHARS])
        return Done(True)
    if len(result) > limit:
        logger.warning("The result is not kept: it measures %d bytes as JSON, at most %d are.", len(result), limit)
        return Done(True)
    return Done(True, result=result)


def _without_secrets(text: str) -> str:
    """Hide secrets in the JSON text: some show only there, as bytes that became text."""
    return _encode(kept.hide_in(loads(text))) if kept.hides() else text


def _error(error: BaseException) -> Done:
    return Done(False, kept.clean(kept.hide(kept.in_a_line(error)))[:ERROR_CHARS])
