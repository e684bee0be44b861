"""Abort: an operator stops one executing task, and however its attempt then fails, the task is canceled (rule 32)."""

from __future__ import annotations

from dataclasses import replace

from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.engine.flush import Report
from batchq.store import moves
from batchq.store.transaction import Tx

ABORTED = "aborted by an operator"
UNKNOWN = "during this attempt; what it did is not known"


def abort(tx: Tx, task: int, token: str) -> bool:
    """Ask for the abort of a task's attempt, by its token; False if that attempt does not execute any more.

    Its server sees the mark and stops the attempt's process.
    """
    return moves.mark_for_abort(tx, task, token)


def aborted(error: str | None = None) -> Failure:
    """The failure of an attempt that an operator stopped; `error` is what else is said about its end."""
    return Failure(Reason.ABORTED, f"{ABORTED} {UNKNOWN}" if error is None else f"{ABORTED}: {error}")


def as_aborted(report: Report) -> Report:
    """The report of an attempt whose abort was asked for: a success stays one, every failure becomes an abort."""
    end = report.end
    if not isinstance(end, Failure) or end.reason is Reason.ABORTED:
        return report
    return replace(report, end=aborted(end.error))
