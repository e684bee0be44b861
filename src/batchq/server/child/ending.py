"""The end of an operation as Celery's tracer tells of it: to its log, and to the project's hooks and signals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from sys import exc_info

from billiard.einfo import ExceptionInfo
from celery import Task, signals, states
from celery.app import trace as celerys
from celery.app.task import Context
from celery.exceptions import Retry

from batchq.server.child import exceptions
from batchq.server.child.log import kept
from batchq.server.child.trial import let_a_signal_end, under_way

logger = logging.getLogger(__name__)

_Anything = BaseException


class Ending(celerys.TraceInfo):
    """Celery's record of an operation that failed, retries, rejects or ignores; this one sends and stores nothing."""

    state: str
    retval: BaseException

    def handle_error_state(
        self, task: Task, req: Context, eager: bool = False, call_errbacks: bool = True
    ) -> ExceptionInfo:
        """Tell log, hooks and signals once in each trial: of a retry if another attempt follows, else of a failure.

        Celery's tracer calls it a second time if the tracer itself raises afterwards.
        """
        trial = under_way.get()
        assert trial is not None
        if trial.state:
            self.state, self.retval = trial.state, trial.value
            return trial.einfo
        error = exceptions.cause(self.retval)
        trial.told = exceptions.told(error)
        kept.write(trial.told)
        if self.state == states.FAILURE and not trial.is_last_after(error):
            self.state, self.retval = states.RETRY, _retry_for(self.retval)
        elif self.state == states.RETRY and not trial.last and trial.is_last_after(error):
            self.state, self.retval = states.FAILURE, error
        trial.state, trial.value, trial.einfo = self.state, self.retval, _einfo(self.retval)
        if self.state == states.RETRY:
            self._tell_retry(task, req, trial.einfo)
        else:
            self._tell_failure(task, req, trial.einfo)
        return trial.einfo

    def _tell_retry(self, task: Task, req: Context, einfo: ExceptionInfo) -> None:
        reason: Retry = self.retval
        _quietly(task.on_retry, reason.exc, req.id, req.args, req.kwargs, einfo)
        _quietly(signals.task_retry.send, sender=task, request=req, reason=reason, einfo=einfo)

    def _tell_failure(self, task: Task, req: Context, einfo: ExceptionInfo) -> None:
        error = self.retval
        facts = {"exception": error, "traceback": exc_info()[2], "einfo": einfo}
        _quietly(task.on_failure, error, req.id, req.args, req.kwargs, einfo)
        _quietly(signals.task_failure.send, sender=task, task_id=req.id, args=req.args, kwargs=req.kwargs, **facts)

    def handle_reject(self, task: Task, req: Context, **_: object) -> None:
        """Keep in the log why the operation rejected its task."""
        kept.write(exceptions.told(self.retval))

    def handle_ignore(self, task: Task, req: Context, **_: object) -> None:
        """Tell nothing, as the operation wants its end ignored."""


def _retry_for(error: BaseException) -> Retry:
    """The retry that the job grants after this exception. It is built by hand: Celery would pickle the exception."""
    reason = Retry()
    reason.exc, reason.excs = error, exceptions.in_a_line(error)
    return reason.with_traceback(exc_info()[2])


def _einfo(error: BaseException) -> ExceptionInfo:
    """The exception as Celery's hooks get it; only its text if it cannot be formatted."""
    try:
        if exceptions.is_tellable(error):
            return ExceptionInfo((type(error), error, exc_info()[2]))
    except _Anything:
        logger.debug("an exception that cannot be told")
    try:
        raise RuntimeError(exceptions.in_a_line(error)) from None
    except RuntimeError:
        return ExceptionInfo()


def _quietly(act: Callable[..., object], *args: object, **named: object) -> None:
    """Call a hook after an operation. Its failure is logged, and does not change how the attempt ended."""
    try:
        act(*args, **named)
    except _Anything as error:
        let_a_signal_end(error)
        logger.error("%s raised:\n%s", getattr(act, "__qualname__", act), exceptions.told(error))
