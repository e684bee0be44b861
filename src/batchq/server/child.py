"""What happens inside a pool child (or thread): one operation, in the user's own Celery task, with its log kept.

Nothing here touches the database or the broker: a value goes back to the server, which stores it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from json import JSONEncoder, loads
from os import _exit as end_process
from os import getpid
from sys import exc_info, gettrace, settrace
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, current_app, signals, states
from celery._state import _task_stack
from celery.exceptions import Ignore

from batchq import crash
from batchq.core import secrets
from batchq.core.secrets import Veil
from batchq.server import kept, restore

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
    # Whether the process that runs it runs nothing else meanwhile: it is then put back in order.
    alone: bool = False
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


_current: ContextVar[Current] = ContextVar("batchq_current")
# Bound here: an operation may put something else in the place of `json`, or of a builtin.
_encode = JSONEncoder(allow_nan=False).encode
_Anything = BaseException
_Ignored = Ignore


def current() -> Current:
    """The job, run, task, attempt, user and company that the calling operation runs for (rule 38).

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
    try:
        # What it sets in its context, decimal's for one, ends with it.
        done = copy_context().run(_attempted, order, house)
    except _Anything as error:
        _let_a_signal_end(error)
        done = _error(error)
    # After a signal told this process to end, it would take every later error for that end: so it runs nothing more.
    spent = house is not None and (
        house.spent or terminate_handler_fired() or house.is_worn_by(order.most_attempts, order.most_kilobytes)
    )
    return replace(done, spent=True) if spent else done


def _attempted(order: Order, house: restore.House | None) -> Done:
    shown, secret = secrets.unpacked(order.kwargs)
    veil = Veil(secret) if secret else None
    with kept.log(order.log_bytes, veil, order.alone) as log:
        with kept.hidden(veil):
            try:
                done = _found(order, shown | secret, house)
            except _Anything as error:
                _let_a_signal_end(error)
                done = _error(error)
        if house is not None:
            house.put_back()
        return Done(done.ok, done.error, done.result, log.text())


def _found(order: Order, kwargs: dict[str, Any], house: restore.House | None) -> Done:
    process = getpid()
    _current.set(order.current)
    task = current_app.tasks.get(order.operation)
    done = _missing(order) if task is None else _perform(order, task, kwargs, house)
    _end_copy(process)
    crash.point("operation-over")
    return done


def _let_a_signal_end(error: BaseException) -> None:
    """Raise again if a signal is ending this process: the attempt is lost then, and did not fail by itself."""
    if terminate_handler_fired():
        raise error


def _end_copy(process: int) -> None:
    """End a copy of the process that the operation forked: it must neither report nor take another order."""
    if getpid() != process:
        end_process(0)


def _missing(order: Order) -> Done:
    return Done(False, f"No task named {order.operation!r} is registered with the app of {order.hostname}.")


def _perform(order: Order, task: Task, kwargs: dict[str, Any], house: restore.House | None) -> Done:
    args = loads(order.args)
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
        return _with_hooks(order, task, args, kwargs, house)
    finally:
        task.pop_request()
        _task_stack.pop()


def _with_hooks(order: Order, task: Task, args: list[Any], kwargs: dict[str, Any], house: restore.House | None) -> Done:
    token = order.token
    told = {"task_id": token, "task": task, "args": args, "kwargs": kwargs}
    state, value, einfo = states.SUCCESS, None, None
    try:
        signals.task_prerun.send(sender=task, **told)
        task.before_start(token, args, kwargs)
        value = _called(task, args, kwargs, house)
        done = _result(value, order.result_bytes)
        task.on_success(value, token, args, kwargs)
        signals.task_success.send(sender=task, result=value)
    except _Ignored:
        state, done = states.IGNORED, Done(True)
    except _Anything as error:
        _let_a_signal_end(error)
        kept.write(kept.told(error))
        state, value, einfo, done = states.FAILURE, error, _einfo(error), _error(error)
        _quietly(task.on_failure, error, token, args, kwargs, einfo)
        facts = {"exception": error, "traceback": exc_info()[2], "einfo": einfo}
        _quietly(signals.task_failure.send, sender=task, task_id=token, args=args, kwargs=kwargs, **facts)
    _quietly(task.after_return, state, value, token, args, kwargs, einfo)
    _quietly(signals.task_postrun.send, sender=task, retval=value, state=state, **told)
    return done


def _called(task: Task, args: list[Any], kwargs: dict[str, Any], house: restore.House | None) -> Any:
    process, trace = getpid(), gettrace()
    try:
        return task.run(*args, **kwargs)
    finally:
        settrace(trace)  # first of all: one that raises would do so in each call
        _end_copy(process)
        if house is not None:
            house.put_names_back()


def _result(value: Any, limit: int) -> Done:
    if value is None:
        return Done(True)
    try:
        # What hides secrets takes values apart in its own way: only where there are any.
        result = kept.clean(_encode(kept.hide_in(value)))
    except SoftTimeLimitExceeded:
        raise
    except _Anything as error:
        logger.warning("The result is not kept: it is no JSON value (%s).", kept.in_a_line(error)[:ERROR_CHARS])
        return Done(True)
    if len(result) > limit:
        logger.warning("The result is not kept: it measures %d bytes as JSON, at most %d are.", len(result), limit)
        return Done(True)
    return Done(True, result=result)


def _error(error: BaseException) -> Done:
    return Done(False, kept.clean(kept.hide(kept.in_a_line(error)))[:ERROR_CHARS])


def _einfo(error: BaseException) -> ExceptionInfo:
    """What Celery's hooks are given of an exception; of one that cannot be told, its text."""
    try:
        if kept.is_tellable(error):
            return ExceptionInfo()
    except _Anything:
        logger.debug("an exception that cannot be told")
    try:
        raise RuntimeError(kept.in_a_line(error)) from None
    except RuntimeError:
        return ExceptionInfo()


def _quietly(act: Callable[..., object], *args: Any, **named: Any) -> None:
    try:
        act(*args, **named)
    except _Anything as error:  # what fails after the operation does not change how the attempt ended
        _let_a_signal_end(error)
        logger.error("%s raised:\n%s", getattr(act, "__qualname__", act), kept.told(error))
