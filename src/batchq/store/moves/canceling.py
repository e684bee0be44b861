"""Canceling in SQL: executing → canceling, and whatever has not started → canceled (rule 32)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update

from batchq.core.states import NOT_STARTED, RunState, State
from batchq.store.columns import RUN, TASK
from batchq.store.moves.becoming import becomes, run_becomes
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

_CANCELING = run_becomes(RunState.EXECUTING, RunState.CANCELING)
_CANCELED = [becomes(state, State.CANCELED) for state in sorted(NOT_STARTED)]


def begin_cancel(tx: Tx, run: int, now: datetime) -> int:
    """A run → canceling, its tasks that have not started → canceled; returns the number of these tasks."""
    tx.execute(update(Run).where(RUN.id == run, _CANCELING.standing).values(status=_CANCELING.status))
    # Nothing is left to settle: conditions on a canceled task meet nothing, and all their followers are canceled too.
    return tx.execute(
        update(TaskRow)
        .where(TASK.run_id == run, TASK.status.in_([move.before.value for move in _CANCELED]))
        .values(status=State.CANCELED.value, unsettled=False, token=None, claimed_at=None, ended_at=now)
    ).rowcount
