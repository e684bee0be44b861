"""An operation in Celery's own tracer: it raises and tells as under `celery worker`, but sends and stores nothing.

Tools that instrument the tracer, wrap a task, or listen to its hooks and signals find what they know. The job decides
whether an attempt is repeated; its result goes to SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import isasyncgen, iscoroutine, isgenerator
from os import _exit as end_process
from os import getpid
from sys import exc_info, gettrace, settrace
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery import Task, signals, states
from celery._state import _task_stack
from celery.app import trace as celerys
from celery.app.task import Context
from celery.app.task import Task as Base
from celery.exceptions import Retry

from batchq.server import kept, restore

logger = logging.getLogger(__name__)

_Anything = BaseException


class CannotReplace(Exception):
    """An operation wanted another task to take its place (`self.replace`)."""


class NothingRan(Exception):
    """An operation returned a coroutine or a generator, which nobody runs."""


@dataclass
class Trial:
    """One attempt at an operation while it is traced; `state` is Celery's, once the attempt has ended."""

    token: str
    # Whether no further attempt follows if this one fails.
    last: bool
    house: restore.House | None
    inside: bool = False
    # What the operation asked for without raising it.
    asked: Retry | None = None
    state: str = ""
    # The result, or the exception that ended it.
    value: Any = None
    # The exception with its traceback, as text.
    told: str | None = None
    einfo: ExceptionInfo | None = None


_trial: ContextVar[Trial | None] = ContextVar("batchq_trial", default=None)


# --- the tracer ---------------------------------------------------------------------------------------------


def run(task: Task, trial: Trial, request: Mapping[str, Any]) -> Trial:
    """Run the task in Celery's tracer, with a request of its fields; returns the trial, with its end.

    Raises only what a signal that ends this process raised in the operation.
    """
    _install()
    _trial.set(trial)
    args, kwargs = request["args"], request["kwargs"]
    try:
        _, info, *_ = _tracer(task, request["hostname"])(trial.token, args, kwargs, request)
        if not trial.state:
            trial.state, trial.value = info.state, info.retval
    except _Anything as error:
        let_a_signal_end(error)
        _raised(task, trial, request, error)
    return trial


_tracers: dict[str, tuple[Any, Callable[..., Any]]] = {}


def _tracer(task: Task, hostname: str) -> Callable[..., Any]:
    """Celery's tracer of this task, made once in each process, and anew when a tool has replaced `build_tracer`."""
    build = celerys.build_tracer
    found = _tracers.get(task.name)
    if found is None or found[0] is not build:
        _guard(task)
        traced = build(task.name, task, task.app.loader, hostname, app=task.app, Info=Ending)
        found = _tracers[task.name] = build, traced
    return found[1]


def _succeeded(trial: Trial, value: Any) -> None:
    trial.state, trial.value = states.SUCCESS, value
    if trial.asked is not None:
        trial.state, trial.value = states.RETRY, trial.asked
    elif (fault := _nothing_ran(value)) is not None:
        trial.state, trial.value = states.FAILURE, fault


def _raised(task: Task, trial: Trial, request: Mapping[str, Any], error: BaseException) -> None:
    """Tell of an exception that Celery's tracer does not catch: SystemExit, and others beside Exception."""
    if trial.state:
        logger.error("after the operation had ended:\n%s", kept.told(error))
        return
    context = Context(request, called_directly=False)
    _task_stack.push(task)
    task.request_stack.push(context)
    try:
        Ending(states.FAILURE, error).handle_error_state(task, context)
    finally:
        task.request_stack.pop()
        _task_stack.pop()


class Ending(celerys.TraceInfo):  # type: ignore[misc]
    """Celery's record of an operation that did not end well; this one sends and stores nothing."""

    state: str
    retval: Any

    def handle_error_state(self, task: Task, req: Any, eager: bool = False, call_errbacks: bool = True) -> Any:
        """Tell log, hooks and signals: of a retry if another attempt follows, else of a failure; once for each trial.

        Celery's tracer comes here again with what it raises itself, after it has told of the operation.
        """
        trial = _trial.get()
        assert trial is not None
        if trial.state:
            self.state, self.retval = trial.state, trial.value
            return trial.einfo
        trial.told = kept.told(cause(self.retval))
        kept.write(trial.told)
        if self.state == states.FAILURE and not trial.last:
            self.state, self.retval = states.RETRY, _retry_for(self.retval)
        trial.state, trial.value, trial.einfo = self.state, self.retval, _einfo(self.retval)
        if self.state == states.RETRY:
            self._tell_retry(task, req, trial.einfo)
        else:
            self._tell_failure(task, req, trial.einfo)
        return trial.einfo

    def _tell_retry(self, task: Task, req: Any, einfo: ExceptionInfo) -> None:
        reason = self.retval
        _quietly(task.on_retry, reason.exc, req.id, req.args, req.kwargs, einfo)
        _quietly(signals.task_retry.send, sender=task, request=req, reason=reason, einfo=einfo)

    def _tell_failure(self, task: Task, req: Any, einfo: ExceptionInfo) -> None:
        error = self.retval
        facts = {"exception": error, "traceback": exc_info()[2], "einfo": einfo}
        _quietly(task.on_failure, error, req.id, req.args, req.kwargs, einfo)
        _quietly(signals.task_failure.send, sender=task, task_id=req.id, args=req.args, kwargs=req.kwargs, **facts)

    def handle_reject(self, task: Task, req: Any, **_: Any) -> None:
        """Keep why the operation rejected its task."""
        kept.write(kept.told(self.retval))

    def handle_ignore(self, task: Task, req: Any, **_: Any) -> None:
        """An operation that ignores its end tells nothing of it."""


def cause(error: BaseException) -> BaseException:
    """The exception behind a retry; an exception that is no retry, or one without a reason, itself."""
    reason: BaseException | None = error.exc if issubclass(type(error), Retry) else None  # type: ignore[attr-defined]
    return error if reason is None else reason


def _retry_for(error: BaseException) -> Retry:
    """The retry that the job grants after this exception; built by hand, as Celery would pickle the exception."""
    reason = Retry()
    reason.exc, reason.excs = error, kept.in_a_line(error)
    return reason.with_traceback(exc_info()[2])


def _einfo(error: BaseException) -> ExceptionInfo:
    """What Celery's hooks are given of an exception; of one that cannot be told, its text."""
    try:
        if kept.is_tellable(error):
            return ExceptionInfo((type(error), error, exc_info()[2]))
    except _Anything:
        logger.debug("an exception that cannot be told")
    try:
        raise RuntimeError(kept.in_a_line(error)) from None
    except RuntimeError:
        return ExceptionInfo()


def _quietly(act: Callable[..., object], *args: Any, **named: Any) -> None:
    """Do what follows an operation: if it fails, that is logged, and does not change how the attempt ended."""
    try:
        act(*args, **named)
    except _Anything as error:
        let_a_signal_end(error)
        logger.error("%s raised:\n%s", getattr(act, "__qualname__", act), kept.told(error))


def let_a_signal_end(error: BaseException) -> None:
    """Raise again if a signal is ending this process: the attempt is lost then, and did not fail by itself."""
    if terminate_handler_fired():
        raise error


def end_copy(process: int) -> None:
    """End a copy of the process that the operation forked: it must neither report nor take another order."""
    if getpid() != process:
        end_process(0)


# --- the operation itself -----------------------------------------------------------------------------------


def _guard(task: Task) -> None:
    """Wrap the task's `run`, so that replaced names are put back before Celery's tracer goes on: it needs them too."""
    operation = task.run
    if getattr(operation, "guarded_by_batchq", False):
        return
    # A class with its own `__call__` may run the coroutine that `run` returns.
    called = celerys.task_has_custom(task, "__call__")

    @wraps(operation)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        trial = _trial.get()
        if trial is None or trial.inside:
            return operation(*args, **kwargs)
        trial.inside = True
        process, tracing = getpid(), gettrace()
        try:
            value = operation(*args, **kwargs)
        finally:
            settrace(tracing)  # first of all: one that raises would do so in each call
            end_copy(process)
            trial.inside = False
            if trial.house is not None:
                trial.house.put_names_back()
        if not called and (fault := _nothing_ran(value)) is not None:
            raise fault
        return value

    guarded.guarded_by_batchq = True  # type: ignore[attr-defined]
    task.run = guarded


def _nothing_ran(value: Any) -> NothingRan | None:
    """The error of an operation that returned work instead of doing it; None for any other value."""
    kind = type(value)
    if iscoroutine(value):
        value.close()  # else Python warns of it, some time later
        return NothingRan("The operation returned a coroutine, which nobody awaits: nothing of it ran.")
    if isgenerator(value) or isasyncgen(value):
        return NothingRan(f"The operation returned a {kind.__name__}, which nobody goes through: nothing of it ran.")
    return None


# --- what would send, or tell twice -------------------------------------------------------------------------

_retry_as_ever, _replace_as_ever = Base.retry, Base.replace
_repr_as_ever, _info_as_ever = celerys.saferepr, celerys.info


def _install() -> None:
    """Replace four functions of Celery by ours, which act for a trial and call Celery's for everything else."""
    if Base.retry is not _retry:
        Base.retry, Base.replace = _retry, _replace
        celerys.saferepr, celerys.info = _repr, _info


def _repr(value: Any, *args: Any, **options: Any) -> str:
    """Note that a trial has succeeded: at that point Celery's tracer asks for the repr of the result, before any hook.

    What fails after this changes nothing. No repr is made, as nobody reads it.
    """
    trial = _trial.get()
    if trial is None or trial.inside or trial.state:
        return str(_repr_as_ever(value, *args, **options))
    _succeeded(trial, value)
    return ""


def _info(*args: Any) -> None:
    """Drop the line that Celery logs when a trial succeeds: `lines` writes ours."""
    trial = _trial.get()
    if trial is None or trial.inside:
        _info_as_ever(*args)


def _trial_of(task: Task) -> Trial | None:
    trial, request = _trial.get(), task.request
    return trial if trial is not None and request.id == trial.token and not request.is_eager else None


@wraps(Base.retry)
def _retry(
    self: Task,
    args: Any = None,
    kwargs: Any = None,
    exc: Any = None,
    throw: bool = True,
    eta: Any = None,
    countdown: Any = None,
    max_retries: int | None = None,
    **options: Any,
) -> Any:
    trial = _trial_of(self)
    if trial is None:
        return _retry_as_ever(self, args, kwargs, exc, throw, eta, countdown, max_retries, **options)
    request = self.request
    if trial.last:
        max_retries = request.retries  # there is no further attempt: Celery says so as it does of its own limit
    override = vars(self).get("override_max_retries")
    # Celery sends nothing for an eager request.
    request.is_eager = True
    try:
        trial.asked = _retry_as_ever(self, args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        return _as_if_sent(trial.asked)
    except Retry as reason:
        _as_if_sent(reason)
        raise
    finally:
        request.is_eager = False
        if trial.last:
            _set_back(self, override)


def _as_if_sent(reason: Any) -> Any:
    reason.is_eager, reason.sig = False, None
    return reason


def _set_back(task: Task, override: int | None) -> None:
    """Undo what Celery noted on the task, where it would hold for the next attempt of any run."""
    if override is None:
        vars(task).pop("override_max_retries", None)
    else:
        task.override_max_retries = override


@wraps(Base.replace)
def _replace(self: Task, sig: Any) -> Any:
    if _trial_of(self) is None:
        return _replace_as_ever(self, sig)
    name = getattr(sig, "task", sig)
    raise CannotReplace(
        f"self.replace() would run {name!r} outside of the job: make it a task of the job, after this one."
    )
