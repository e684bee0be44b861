"""Runs: cancel one."""

from __future__ import annotations

from sqlalchemy import select

from batchq import aside, engine
from batchq.core.states import LABELS, RUN_ENDED
from batchq.errors import Conflict
from batchq.store import moves
from batchq.store.columns import RUN
from batchq.store.database import Database
from batchq.store.find import find_run
from batchq.store.transaction import Tx


def cancel_run(database: Database, run: int) -> int:
    """Cancel a run: what has not started never starts, what executes finishes (rule 32).

    Returns how many tasks are canceled. Raises NotFound, and Conflict for a run that has ended.
    """
    return aside.run(database, _cancel_run, run)


def _cancel_run(tx: Tx, run: int) -> int:
    number = find_run(tx, run)
    moves.lock_runs(tx, [number])
    state = tx.execute(select(RUN.status).where(RUN.id == number)).scalar_one()
    if state in RUN_ENDED:
        raise Conflict(f"Run {run} has ended already ({LABELS[state]}): there is nothing left to cancel.")
    return engine.cancel(tx, number, tx.now())
