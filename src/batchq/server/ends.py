"""Failures that no pool process can report: the server words each and gives its reason (rules 30-32, 34)."""

from __future__ import annotations

from dataclasses import replace

from billiard.common import human_status
from billiard.exceptions import Terminated

from batchq import engine
from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.server import stop
from batchq.server.child.order import ERROR_CHARS

UNKNOWN = "during this attempt; what it did is not known"


def not_started(why: str) -> Failure:
    """A claimed attempt whose operation never began."""
    return Failure(Reason.NOT_STARTED, f"not started: {why}")


def timed_out(seconds: float) -> Failure:
    """An attempt that the server ended after its time limit (rule 34)."""
    return Failure(Reason.TIMED_OUT, f"timed out: still running after {seconds:g} s")


def aborted(error: str | None = None) -> Failure:
    """An attempt that an operator aborted (rule 32); `error` is what else is said about its end."""
    failure = engine.aborted(error)
    return replace(failure, error=failure.error[:ERROR_CHARS])


def lost(error: BaseException) -> Failure:
    """An attempt whose process died; `error` is the pool's (rule 31)."""
    if issubclass(type(error), Terminated):  # so Celery calls any end of a process that was sent a signal
        how = human_status(-error.args[0])
    else:
        how = str(error).removeprefix("Worker exited prematurely: ").partition(" Job: ")[0].rstrip(".")
    if stop.begun() and "SIGTERM" in how:
        return Failure(Reason.LOST, engine.STOPPED)  # the signal that stopped the server reached its processes too
    return Failure(Reason.LOST, f"lost: its process ended ({how}) {UNKNOWN}")
