"""Stand-ins for four functions of Celery, which would send a message or tell of a success twice.

Each acts for a trial of ours, and calls Celery's own function for everything else.
"""

from __future__ import annotations

from functools import wraps
from inspect import signature

from celery import Task
from celery.app import trace as celerys
from celery.app.task import Task as Base
from celery.exceptions import Retry

from batchq.server.child.trial import Trial, under_way


class CannotReplace(Exception):
    """An operation wanted another task to take its place (`self.replace`)."""


_retry_as_ever, _replace_as_ever = Base.retry, Base.replace
_repr_as_ever, _info_as_ever = celerys.saferepr, celerys.info
_RETRY = signature(Base.retry)


def install() -> None:
    """Replace Celery's functions by the stand-ins, unless that is done."""
    if Base.retry is not _retry:
        Base.retry, Base.replace = _retry, _replace
        celerys.saferepr, celerys.info = _repr, _info


def _repr(value: object, *args: object, **options: object) -> str:
    """Note that a trial has succeeded: Celery's tracer asks for the repr of a result at that point, before any hook.

    A later failure changes nothing. No repr is made, as nobody reads it.
    """
    trial = under_way.get()
    if trial is None or trial.inside or trial.state:
        return str(_repr_as_ever(value, *args, **options))
    trial.succeed(value)
    return ""


def _info(*args: object) -> None:
    """Drop Celery's line about a trial that succeeded: `lines` writes batchq's own."""
    trial = under_way.get()
    if trial is None or trial.inside:
        _info_as_ever(*args)


def _trial_of(task: Task) -> Trial | None:
    trial, request = under_way.get(), task.request
    return trial if trial is not None and request.id == trial.token and not request.is_eager else None


@wraps(Base.retry)
def _retry(self: Task, *given: object, **named: object) -> object:
    trial = _trial_of(self)
    if trial is None:
        return _retry_as_ever(self, *given, **named)
    request = self.request
    call = _RETRY.bind(self, *given, **named)
    if trial.last:
        call.arguments["max_retries"] = request.retries  # no attempt is left: Celery then raises as at its own limit
    override = vars(self).get("override_max_retries")
    # An eager request: for any other Celery would send a message.
    request.is_eager = True
    try:
        trial.retry = _retry_as_ever(*call.args, **call.kwargs)
        return _as_if_sent(trial.retry)
    except Retry as reason:
        _as_if_sent(reason)
        raise
    finally:
        request.is_eager = False
        if trial.last:
            _set_back(self, override)


def _as_if_sent(reason: Retry) -> Retry:
    reason.is_eager, reason.sig = False, None
    return reason


def _set_back(task: Task, override: int | None) -> None:
    """Undo Celery's note on the task, which would hold for the next attempt of any run."""
    if override is None:
        vars(task).pop("override_max_retries", None)
    else:
        task.override_max_retries = override


@wraps(Base.replace)
def _replace(self: Task, sig: object) -> object:
    if _trial_of(self) is None:
        return _replace_as_ever(self, sig)
    name = getattr(sig, "task", sig)
    raise CannotReplace(
        f"self.replace() would run {name!r} outside of the job: make it a task of the job, after this one."
    )
