"""Failures that no pool process can tell of: the server words them itself, each with its reason (rules 30-32, 34)."""

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
    """An attempt whose process an operator sent this signal; `error` is what its operation still said, if anything."""
    names = {each.value: each.name for each in signal.Signals}
    said = TERMINATED.format(signal=names.get(number, f"signal {number}"))
    return Failure(Reason.ABORTED, f"{said} {UNKNOWN}" if error is None else f"{said}: {error}"[:ERROR_CHARS])


def lost(error: BaseException) -> Failure:
    """An attempt whose process ended with this error of the pool (rule 31)."""
    if issubclass(type(error), Terminated):  # Celery's word for any end of a process that was once sent a signal
        how = human_status(-error.args[0])
    else:
        how = str(error).removeprefix("Worker exited prematurely: ").partition(" Job: ")[0].rstrip(".")
    if stop.begun() and "SIGTERM" in how:
        return Failure(Reason.LOST, STOPPED)  # whoever stopped the server told its processes as well
    return Failure(Reason.LOST, f"lost: its process ended ({how}) {UNKNOWN}")
