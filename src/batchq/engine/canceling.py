"""Cancel: a run ends early, and its executing tasks may finish (rule 32)."""

from __future__ import annotations

from datetime import datetime

from batchq.engine.settling import close
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.columns import task_id
from batchq.store.transaction import Tx


def cancel(tx: Tx, run: int, now: datetime) -> int:
    """Cancel a run: nothing of it starts any more, what executes may finish; returns how many tasks were canceled.

    A large run has tasks left that wait or are ready; `move_on` cancels them.
    """
    moves.lock_run(tx, run)
    if moves.give_up(tx, run, now) or not moves.begin_cancel(tx, run):
        return 0
    canceled, end = _cancel_piece(tx, run, task_id(run, 0), now)
    moves.lock_out(tx)
    topologies.lock_dispatch(tx)
    # Tickets that dispatch handed out until now; from here on it sees that the run is being canceled. And those that
    # went back meanwhile: no later piece would look at their tasks.
    late = [*moves.tickets_of(tx, run), *moves.came_back(tx, run, end)]
    canceled += moves.cancel_tasks(tx, late, now)
    close(tx, moves.count_off(tx, {run: canceled}), now)
    return canceled


def cancel_more(tx: Tx, run: int, now: datetime) -> int:
    """Cancel the next tasks of a run that is being canceled; returns their number."""
    row = moves.moving(tx, run, settles=True)
    if row is None:
        return 0
    canceled, _ = _cancel_piece(tx, run, row.moving_from, now)
    close(tx, moves.count_off(tx, {run: canceled}), now)
    return canceled


def _cancel_piece(tx: Tx, run: int, first: int, now: datetime) -> tuple[int, int]:
    """Cancel the next tasks, from this id on; returns their number, and the id up to which none is left."""
    limit = moves.rows_at_once(tx)
    tasks = moves.not_started(tx, run, first, limit)
    end = tasks[-1] + 1 if len(tasks) == limit else None
    moves.moved_up_to(tx, run, end)
    return moves.cancel_tasks(tx, tasks, now), end or task_id(run + 1, 0)
