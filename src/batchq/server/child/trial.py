"""One attempt at an operation on its way through Celery's tracer, and how it ended."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isasyncgen, iscoroutine, isgenerator
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery import states
from celery.exceptions import Retry

from batchq.core import retries
from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.server.child import exceptions
from batchq.server.child.restore import House


class NothingRan(Exception):
    """An operation returned a coroutine or a generator, which nobody runs."""


@dataclass
class Trial:
    """One attempt at an operation while it is traced; `state` is Celery's, once the attempt has ended."""

    token: str
    # Whether no further attempt follows if this one fails.
    last: bool
    house: House | None
    # After which errors no further attempt follows, as `core.retries` reads it.
    policy: str | None = None
    # Whether the operation's own code runs at this moment.
    inside: bool = False
    # The retry that the operation wanted without raising it.
    retry: Retry | None = None
    state: str = ""
    # The result, or the exception that ended it.
    value: Any = None
    # The exception with its traceback, as text.
    told: str | None = None
    einfo: ExceptionInfo | None = None

    def is_last_after(self, error: BaseException) -> bool:
        """Whether no further attempt follows this error: none is left, or its class forbids it (rule 30c)."""
        failure = Failure(Reason.ERROR, "", classes=exceptions.classes(error))
        return self.last or not retries.is_tried_again(retries.read(self.policy), failure)

    def succeed(self, value: object) -> None:
        """End with this value, unless the operation wanted a retry, or returned work instead of doing it."""
        self.state, self.value = states.SUCCESS, value
        if self.retry is not None:
            self.state, self.value = states.RETRY, self.retry
        elif (fault := nothing_ran(value)) is not None:
            self.state, self.value = states.FAILURE, fault


# The trial that the calling context is in.
under_way: ContextVar[Trial | None] = ContextVar("batchq_trial", default=None)


def nothing_ran(value: object) -> NothingRan | None:
    """The error of an operation that returned work instead of doing it; None for any other value."""
    kind = type(value)
    if iscoroutine(value):
        value.close()  # an open one would warn "was never awaited" at some later time
        return NothingRan("The operation returned a coroutine, which nobody awaits: nothing of it ran.")
    if isgenerator(value) or isasyncgen(value):
        return NothingRan(f"The operation returned a {kind.__name__}, which nobody goes through: nothing of it ran.")
    return None


def let_a_signal_end(error: BaseException) -> None:
    """Raise again if a signal is ending this process: the attempt is lost then, and did not fail by itself."""
    if terminate_handler_fired():
        raise error
