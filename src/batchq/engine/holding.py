"""Hold and release: a run's flag stops its tasks at once, and its rows follow in pieces (rules 32, 33)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from itertools import islice

from batchq.core.states import RunState
from batchq.engine.canceling import cancel_more
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.transaction import Tx

# Runs with rows left to be moved that one transaction of a tick goes on with.
RUNS_AT_ONCE = 5


def hold(tx: Tx, run: int, now: datetime, by: str, why: str | None = None) -> bool:
    """Hold a run: nothing of it starts after the commit, what executes may finish, retries wait; False if it cannot be.

    Its ready tasks stay in the order of dispatch until `move_on` has put them aside; that only costs time.
    """
    moves.lock_run(tx, run)
    if not moves.hold_run(tx, run, by, why, now):
        return False
    moves.lock_out(tx)
    # Who had the lock before has handed out tickets of it; who gets it afterwards sees that the run is held.
    topologies.lock_dispatch(tx)
    moves.take_tickets_back(tx, moves.tickets_of(tx, run))
    return True


def release(tx: Tx, run: int) -> bool:
    """Let a held run go on; False if it is not held. `move_on` brings its ready tasks back, as old as they are."""
    moves.lock_run(tx, run)
    return moves.release_run(tx, run)


def move_on(tx: Tx, run: int, now: datetime, first: int = 0) -> int | None:
    """Move the next rows of a run that was held, released or canceled.

    Returns the id to go on from, or None if no more rows can be moved now.
    """
    row = moves.moving(tx, run)
    if row is None:
        return None
    limit = moves.rows_at_once(tx)
    if row.status == RunState.CANCELING:
        return first if cancel_more(tx, run, now) == limit else None
    if row.held:
        moved = moves.put_aside_from(tx, run, max(first, row.moving_from), limit)
    else:
        moved = moves.bring_back(tx, run, limit)
    if moved:
        return moved[-1] + 1
    # Not along with rows: servers would wait for the run until all of these are written.
    moves.end_moving(tx, run)
    return None


def go_on(tx: Tx, now: datetime, aside: Collection[int] = ()) -> bool:
    """Go on with holds, releases and cancels that were left halfway, except of the runs `aside`; True if more is left.

    It waits for nobody: a run that another process has locked is left to that one.
    """
    more = False
    found = (run for run in moves.moving_runs(tx, RUNS_AT_ONCE + len(aside)) if run not in aside)
    for run in islice(found, RUNS_AT_ONCE):
        more = move_on(tx, run, now) is not None or more
    return more
