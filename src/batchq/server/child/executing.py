"""One attempt inside a pool process: the operation runs in the user's own Celery task, and its log is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from decimal import Decimal
from json import loads
from os import getpid
from time import perf_counter
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
from batchq.server.child import exceptions, lines, restore, trace
from batchq.server.child.log import kept, listening, veils
from batchq.server.child.order import ERROR_CHARS, Current, Done, Order, running
from batchq.server.child.trial import Trial, let_a_signal_end

REPR_CHARS = 1024
RETRY_WANTED = "Retry: the operation asked for it"

logger = logging.getLogger(__name__)


class _Encoder(JSONEncoder):
    """Writes everything that Celery's JSON can write, as plain values: a time as text, without a mark of its type."""

    def default(self, o: object) -> object:
        if isinstance(o, Decimal | UUID):
            return str(o)
        made = super().default(o)
        return made["__value__"] if isinstance(made, dict) and made.keys() == {"__type__", "__value__"} else made


# Bound here: an operation may replace what `json` or `builtins` hold.
_encode = _Encoder(allow_nan=False).encode
_Anything = BaseException
_NOTHING = nullcontext()


class Errand(Order):
    """An order on its way: the pool calls it where it arrives, and it answers with the values of a `Done`.

    Both ways plain values travel, since pickle takes longer for each class that it has to name than for all of them.
    """

    def __call__(self) -> tuple[object, ...]:
        """Run the attempt."""
        return execute(self)[:]

    def __reduce__(self) -> tuple[Callable[..., Errand], tuple[object, ...]]:
        values = vars(self) | {"current": (*vars(self.current).values(),)}
        return _arrived, (*values.values(),)


def _arrived(
    operation: str, args: str, kwargs: str, token: str, current: tuple[str, int, str, int], *facts: object
) -> Errand:
    return Errand(operation, args, kwargs, token, Current(*current), *facts)  # type: ignore[arg-type]  # as they left


def execute(order: Order) -> Done:
    """Run one attempt. A `Done` comes back whatever the operation does, unless the process ends."""
    listening.listen()
    house = restore.house() if order.alone else None
    if house is not None and house.spent:
        return Done(False, spent=True, returned=True)
    try:
        # A copy: a changed context, decimal's for one, must not reach the next attempt.
        done = copy_context().run(_attempted, order, house)
    except _Anything as error:
        let_a_signal_end(error)
        lines.failed(order, 0.0, error)
        done = _error(error)
    # Once a signal has told the process to end, every later error would be taken for that end.
    spent = house is not None and (
        house.spent or terminate_handler_fired() or house.is_worn_by(order.most_attempts, order.most_kilobytes)
    )
    return done._replace(spent=True) if spent else done


def _attempted(order: Order, house: restore.House | None) -> Done:
    shown, secret = secrets.unpacked(order.kwargs)
    veil = Veil(secret) if secret else None
    with kept.log(order.log_bytes, veil, order.alone) as log:
        with listening.hidden(veil) if veil is not None else _NOTHING:
            try:
                done = _found(order, shown | secret, house)
            except _Anything as error:
                let_a_signal_end(error)
                lines.failed(order, 0.0, error)
                done = _error(error)
        if house is not None:
            house.put_back(order.current)
        return done._replace(log=log.text())


def _found(order: Order, kwargs: dict[str, object], house: restore.House | None) -> Done:
    process = getpid()
    running.set(order.current)
    task = current_app.tasks.get(order.operation)
    done = _missing(order) if task is None else _perform(order, task, kwargs, house)
    trace.end_copy(process)
    crash.point("operation-over")
    return done


def _missing(order: Order) -> Done:
    error = f"No task named {order.operation!r} is registered with the app of {order.hostname}."
    lines.not_found(order, error)
    return Done(False, error)


def _perform(order: Order, task: Task, kwargs: dict[str, object], house: restore.House | None) -> Done:
    crash.point("operation-ahead")
    request = _request(order, loads(order.args), kwargs)
    lines.started(order)
    began = perf_counter()
    trial = trace.run(task, Trial(order.token, order.last, house, order.policy), request)
    seconds, state, value = perf_counter() - began, trial.state, trial.value
    if state in (states.SUCCESS, states.IGNORED):
        lines.succeeded(order, seconds)
        return _result(value, order.result_bytes) if state == states.SUCCESS else Done(True)
    error = exceptions.cause(value)
    lines.failed(order, seconds, error, trial.told, again=not trial.is_last_after(error))
    return _error(error, RETRY_WANTED if type(error) is Retry else None)


def _request(order: Order, args: list[object], kwargs: dict[str, object]) -> dict[str, object]:
    """Celery's request fields, as a message would have brought them."""
    token = order.token
    return {
        "lang": "py",
        "task": order.operation,
        "id": token,
        "root_id": token,
        "correlation_id": token,
        "args": args,
        "kwargs": kwargs,
        # Hidden before the cut: half a secret would not be recognised.
        "argsrepr": saferepr(veils.hide_in(args), REPR_CHARS) if args else "[]",
        "kwargsrepr": saferepr(veils.hide_in(kwargs), REPR_CHARS) if kwargs else "{}",
        "retries": order.current.attempt - 1,
        "timelimit": list(order.time_limits),
        "hostname": order.hostname,
        "origin": order.hostname,
        "delivery_info": {"exchange": "", "routing_key": order.group, "priority": None, "redelivered": False},
        "properties": {},
        "stamps": {},
        "ignore_result": True,
    }


def _result(value: object, most_bytes: int) -> Done:
    if value is None:
        return Done(True)
    try:
        result = exceptions.clean(_without_secrets(_encode(value)))
    except SoftTimeLimitExceeded:
        raise
    except _Anything as error:
        logger.warning("The result is not kept: it is no JSON value (%s).", exceptions.in_a_line(error)[:ERROR_CHARS])
        return Done(True)
    if len(result) > most_bytes:
        logger.warning("The result is not kept: it measures %d bytes as JSON, at most %d are.", len(result), most_bytes)
        return Done(True)
    return Done(True, result=result)


def _without_secrets(text: str) -> str:
    """Hide secrets in the JSON text; a secret in bytes shows only once the bytes have become text."""
    return _encode(veils.hide_in(loads(text))) if veils.hides() else text


def _error(error: BaseException, said: str | None = None) -> Done:
    text = exceptions.clean(veils.hide(exceptions.in_a_line(error)))[:ERROR_CHARS] if said is None else said
    return Done(False, text, classes=exceptions.classes(error, veils.hide))
