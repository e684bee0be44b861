"""What happens inside a pool child (or thread): one operation, in the user's own Celery task, with its log kept.

Nothing here touches the database or the broker: a value goes back to the server, which stores it.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Task, current_app, signals, states
from celery._state import _task_stack
from celery.exceptions import Ignore

from batchq import crash
from batchq.core import secrets
from batchq.core.secrets import Veil

ERROR_CHARS = 2000

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


@dataclass(frozen=True)
class Done:
    """How an attempt ended, in values that survive the way back; `result` is JSON."""

    ok: bool
    error: str | None = None
    result: str | None = None
    log: str | None = None


_current: ContextVar[Current] = ContextVar("batchq_current")
_log: ContextVar[deque[str] | None] = ContextVar("batchq_log", default=None)
_veil: ContextVar[Veil | None] = ContextVar("batchq_veil", default=None)


def current() -> Current:
    """The job, run, task, attempt, user and company that the calling operation runs for (rule 38).

    Raises LookupError outside of an operation that a batch server runs.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("batchq.current() works only inside an operation that a batch server runs.") from None


def execute(order: Order) -> Done:
    """Run one attempt; whatever the operation does, a `Done` comes back."""
    shown, secret = secrets.unpacked(order.kwargs)
    with _hidden(secret), _kept_log() as lines:
        reset = _current.set(order.current)
        try:
            task = current_app.tasks.get(order.operation)
            done = _missing(order) if task is None else _perform(order, task, shown | secret)
        finally:
            _current.reset(reset)
        crash.point("operation-over")
        # In here, where the secrets are known.
        return Done(done.ok, done.error, done.result, _tail(lines, order.log_bytes))


def _missing(order: Order) -> Done:
    return Done(False, f"No task named {order.operation!r} is registered with the app of {order.hostname}.")


def _perform(order: Order, task: Task, kwargs: dict[str, Any]) -> Done:
    args = json.loads(order.args)
    # The tracer is left out on purpose: through it, self.retry() and autoretry_for would send a message
    # of their own. Called like this they only raise, so that retries stay in our hands.
    _task_stack.push(task)
    task.push_request(
        id=order.token,
        root_id=order.token,
        task=order.operation,
        args=args,
        kwargs=kwargs,
        retries=order.current.attempt - 1,
        hostname=order.hostname,
        delivery_info={"exchange": "", "routing_key": order.group, "priority": None, "redelivered": False},
        ignore_result=True,
    )
    try:
        crash.point("operation-ahead")
        return _with_hooks(order, task, args, kwargs)
    finally:
        task.pop_request()
        _task_stack.pop()


def _with_hooks(order: Order, task: Task, args: list[Any], kwargs: dict[str, Any]) -> Done:
    token = order.token
    told = {"task_id": token, "task": task, "args": args, "kwargs": kwargs}
    signals.task_prerun.send(sender=task, **told)
    state, value, einfo = states.SUCCESS, None, None
    try:
        task.before_start(token, args, kwargs)
        value = task.run(*args, **kwargs)
        done = _result(value, order.result_bytes)
        task.on_success(value, token, args, kwargs)
        signals.task_success.send(sender=task, result=value)
    except Ignore:
        state, done = states.IGNORED, Done(True)
    except (Exception, SystemExit) as error:
        state, value, einfo = states.FAILURE, error, ExceptionInfo()
        done = _failure(error)
        _quietly(task.on_failure, error, token, args, kwargs, einfo)
        facts = {"exception": error, "traceback": error.__traceback__, "einfo": einfo}
        signals.task_failure.send(sender=task, task_id=token, args=args, kwargs=kwargs, **facts)
    _quietly(task.after_return, state, value, token, args, kwargs, einfo)
    signals.task_postrun.send(sender=task, retval=value, state=state, **told)
    return done


def _result(value: Any, limit: int) -> Done:
    if value is None:
        return Done(True)
    veil = _veil.get()
    try:
        result = clean(json.dumps(veil.hide_in(value) if veil else value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        logger.warning("The result is not kept: it is no JSON value (%s).", error)
        return Done(True)
    if len(result) > limit:
        logger.warning("The result is not kept: it measures %d bytes as JSON, at most %d are.", len(result), limit)
        return Done(True)
    return Done(True, result=result)


def _failure(error: BaseException) -> Done:
    _write("".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Done(False, clean(_hide(text))[:ERROR_CHARS])


def _quietly(hook: Callable[..., object], *args: Any) -> None:
    try:
        hook(*args)
    except Exception:  # the hook's own failure does not change how the attempt ended
        logger.exception("%s raised", getattr(hook, "__qualname__", hook))


def clean(text: str) -> str:
    """The text without what a database refuses: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


# --- secrets ------------------------------------------------------------------------------------------------


@contextmanager
def _hidden(secret: dict[str, Any]) -> Iterator[None]:
    """Keep the values of secret arguments out of what is logged meanwhile, by whomever and wherever to."""
    if secret and not isinstance(make := logging.getLogRecordFactory(), Veiled):
        logging.setLogRecordFactory(Veiled(make))
    reset = _veil.set(Veil(secret) if secret else None)
    try:
        yield
    finally:
        _veil.reset(reset)


def _hide(text: str) -> str:
    veil = _veil.get()
    return veil.hide(text) if veil else text


@dataclass(frozen=True, slots=True)
class Veiled:
    """Makes log records as `make` does, but without the secrets of the attempt that runs here."""

    make: Callable[..., logging.LogRecord]

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record = self.make(*args, **named)
        if _veil.get() is not None:
            record.msg, record.args = _hide(_said(record)), ()
            if record.exc_info and record.exc_info[1]:
                record.exc_text = _hide("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
        return record


def _said(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the handler would print the arguments instead
        return f"a message that cannot be formatted, of {record.pathname}:{record.lineno}"


# --- the log ------------------------------------------------------------------------------------------------


class Keeper(logging.Handler):
    """Keeps what an operation logs, or prints (Celery sends prints to the log), beside the worker's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        if _log.get() is not None:
            _write(self.format(record) + "\n")


def _write(text: str) -> None:
    lines = _log.get()
    if lines is not None:
        lines.append(text)


@contextmanager
def _kept_log() -> Iterator[deque[str]]:
    # A worker's `celery.task`, the parent of what get_task_logger gives, hands nothing on to the root.
    for logger in (logging.getLogger(), logging.getLogger("celery.task")):
        if not any(isinstance(handler, Keeper) for handler in logger.handlers) and _is_top(logger):
            keeper = Keeper()
            keeper.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(keeper)
    lines: deque[str] = deque(maxlen=10_000)
    reset = _log.set(lines)
    try:
        yield lines
    finally:
        _log.reset(reset)


def _is_top(logger: logging.Logger) -> bool:
    return logger.parent is None or not logger.propagate


def _tail(lines: deque[str], limit: int) -> str | None:
    if not lines:
        return None
    text = clean(_hide("".join(lines)))
    if len(text) > limit:
        text = f"[… {len(text) - limit} characters left out …]\n{text[-limit:]}"
    return text
