"""An operation in Celery's own tracer: it raises and tells as under `celery worker`, but sends and stores nothing.

Tools that instrument the tracer, wrap a task, or listen to its hooks and signals work as usual. Only the job decides
whether an attempt is repeated, and its result goes to SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from os import _exit as end_process
from os import getpid
from sys import gettrace, settrace

from celery import Task, states
from celery._state import _task_stack
from celery.app import trace as celerys
from celery.app.task import Context

from batchq.server.child import exceptions, stand_ins
from batchq.server.child.ending import Ending
from batchq.server.child.trial import Trial, let_a_signal_end, nothing_ran, under_way

logger = logging.getLogger(__name__)

_Anything = BaseException
# Celery's tracer of a task returns its result, or how else it ended, and more.
Tracer = Callable[..., tuple[object, Ending, *tuple[object, ...]]]


def run(task: Task, trial: Trial, request: Mapping[str, object]) -> Trial:
    """Run the task in Celery's tracer, with a request of these fields; returns the trial, with its end.

    It raises only while a signal ends this process.
    """
    stand_ins.install()
    under_way.set(trial)
    args, kwargs = request["args"], request["kwargs"]
    try:
        _, info, *_ = _tracer(task, request["hostname"])(trial.token, args, kwargs, request)
        if not trial.state:
            trial.state, trial.value = info.state, info.retval
    except _Anything as error:
        let_a_signal_end(error)
        _raised(task, trial, request, error)
    return trial


_tracers: dict[str, tuple[object, Tracer]] = {}


def _tracer(task: Task, hostname: object) -> Tracer:
    """Celery's tracer of this task: made once in each process, and again when a tool has replaced `build_tracer`."""
    build = celerys.build_tracer
    found = _tracers.get(task.name)
    if found is None or found[0] is not build:
        _guard(task)
        traced = build(task.name, task, task.app.loader, hostname, app=task.app, Info=Ending)
        found = _tracers[task.name] = build, traced
    return found[1]


def _raised(task: Task, trial: Trial, request: Mapping[str, object], error: BaseException) -> None:
    """Tell of an exception that Celery's tracer does not catch, such as SystemExit."""
    if trial.state:
        logger.error("after the operation had ended:\n%s", exceptions.told(error))
        return
    context = Context(request, called_directly=False)
    _task_stack.push(task)
    task.request_stack.push(context)
    try:
        Ending(states.FAILURE, error).handle_error_state(task, context)
    finally:
        task.request_stack.pop()
        _task_stack.pop()


def _guard(task: Task) -> None:
    """Wrap the task's `run`: names that it replaced are put back before Celery's tracer needs them."""
    operation = task.run
    if getattr(operation, "guarded_by_batchq", False):
        return
    # With its own `__call__`, a task class may itself run the coroutine that `run` returns.
    called = celerys.task_has_custom(task, "__call__")

    @wraps(operation)
    def guarded(*args: object, **kwargs: object) -> object:
        trial = under_way.get()
        if trial is None or trial.inside:
            return operation(*args, **kwargs)
        trial.inside = True
        process, tracing = getpid(), gettrace()
        try:
            value = operation(*args, **kwargs)
        finally:
            settrace(tracing)  # first of all: a trace function that raises would do so in every call below
            end_copy(process)
            trial.inside = False
            if trial.house is not None:
                trial.house.put_names_back()
        if not called and (fault := nothing_ran(value)) is not None:
            raise fault
        return value

    vars(guarded)["guarded_by_batchq"] = True
    task.run = guarded


def end_copy(process: int) -> None:
    """End a copy of the process that the operation forked: the copy must not report, nor take another order."""
    if getpid() != process:
        end_process(0)
