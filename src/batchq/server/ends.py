"""Failures that no pool process can report: the server words each and gives its reason (rules 30-32, 34)."""

from __future__ import annotations

import signal

from billiard.common import human_status
from billiard.exceptions import Terminated

from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.engine import STOPPED, TERMINATED
from batchq.server import stop
from batchq.server.child.order import ERROR_CHARS

UNKNOWN = "during this attempt; what it did is not known"


def not_started(why: str) -> Failure:
    """A claimed attempt whose operation never began."""
    return Failure(Reason.NOT_STARTED, f"not started: {why}")


def timed_out(seconds: float) -> Failure:
    """An attempt that the server ended after its time limit (rule 34)."""
    return Failure(Reason.TIMED_OUT, f"timed out: still running after {seconds:g} s")


def aborted(number: int, error: str | None = None) -> Failure:
    """An attempt aborted by an operator's signal to its process; `error` is the operation's own, if it raised one."""
    names = {each.value: each.name for each in signal.Signals}
    said = TERMINATED.format(signal=names.get(number, f"signal {number}"))
    return Failure(Reason.ABORTED, f"{said} {UNKNOWN}" if error is None else f"{said}: {error}"[:ERROR_CHARS])


def lost(error: BaseException) -> Failure:
    """An attempt whose process died; `error` is the pool's (rule 31)."""
    if issubclass(type(error), Terminated):  # so Celery calls any end of a process that was sent a signal
        how = human_status(-error.args[0])
    else:
        how = str(error).removeprefix("Worker exited prematurely: ").partition(" Job: ")[0].rstrip(".")
    if stop.begun() and "SIGTERM" in how:
        return Failure(Reason.LOST, STOPPED)  # the signal that stopped the server reached its processes too
    return Failure(Reason.LOST, f"lost: its process ended ({how}) {UNKNOWN}")
