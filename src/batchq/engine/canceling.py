"""Cancel: a run ends early, and its executing tasks may finish (rule 32)."""

from __future__ import annotations

from datetime import datetime

from batchq.engine.settling import close
from batchq.store import moves
from batchq.store.transaction import Tx


def cancel(tx: Tx, run: int, now: datetime) -> int:
    """Cancel a run: tasks that have not started are canceled now, others may finish; returns how many were canceled."""
    moves.lock_runs(tx, [run])
    if moves.give_up(tx, run, now):
        return 0
    moves.lock_out(tx)
    canceled = moves.begin_cancel(tx, run, now)
    close(tx, moves.count_off(tx, {run: canceled}), now)
    return canceled
