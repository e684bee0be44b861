"""Canceling in SQL: executing → canceling, and whatever has not started → canceled (rule 32)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, update

from batchq.core.states import NOT_STARTED, RunState, State
from batchq.store.columns import RUN, TASK
from batchq.tables import Run, Task


def begin_cancel(tx: Connection, run: int, now: datetime) -> int:
    """A run → canceling, its tasks that have not started → canceled; returns the number of these tasks."""
    tx.execute(
        update(Run).where(RUN.id == run, RUN.status == RunState.EXECUTING.value).values(status=RunState.CANCELING.value)
    )
    # Nothing is left to settle: conditions on a canceled task meet nothing, and all their followers are canceled too.
    return tx.execute(
        update(Task)
        .where(TASK.run_id == run, TASK.status.in_([state.value for state in NOT_STARTED]))
        .values(status=State.CANCELED.value, unsettled=False, token=None, claimed_at=None, ended_at=now)
    ).rowcount
