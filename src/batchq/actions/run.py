"""Runs: hold, release and cancel them (rules 32, 33); each of these also for all runs that a filter means."""

from __future__ import annotations

from sqlalchemy import and_

from batchq import crash, engine, user
from batchq.actions.bulk import RunFacts, RunFilter, Verb, act, each, matching, number_of
from batchq.core.states import LABELS, NOT_STARTED, RUN_ENDED, RUN_OPEN, RunState
from batchq.errors import Conflict
from batchq.store.columns import RUN
from batchq.store.database import Database
from batchq.store.transaction import Tx
from batchq.views import RunResult

# The pieces of a large run that a hold or a cancel moves at once; a coordinator goes on with the rest.
PIECES_AT_ONCE = 1
MOST_PIECES = 1_000_000
MAY_BE_HELD = (RunState.STORING, RunState.EXECUTING)


def hold_run(database: Database, run: int | str, *, reason: str | None = None, dry_run: bool = False) -> RunResult:
    """Hold a run: once this has returned nothing of it starts; what executes finishes, and retries wait (rule 33).

    With `dry_run` nothing is changed. Raises NotFound; Conflict for a run that is held, or canceling, or has ended.
    """
    return act(database, run, HOLD, reason, dry_run=dry_run)


def release_run(database: Database, run: int | str, *, reason: str | None = None, dry_run: bool = False) -> RunResult:
    """Let a held run go on; its tasks are as old as they were (rule 33).

    With `dry_run` nothing is changed. Raises NotFound, and Conflict for a run that is not held.
    """
    return act(database, run, RELEASE, reason, dry_run=dry_run)


def cancel_run(database: Database, run: int | str, *, reason: str | None = None, dry_run: bool = False) -> RunResult:
    """Cancel a run: what has not started never starts, what executes finishes (rule 32).

    With `dry_run` nothing is changed. Raises NotFound, and Conflict for a run that has ended.
    """
    return act(database, run, CANCEL, reason, dry_run=dry_run)


def hold_runs(
    database: Database, chosen: RunFilter, *, reason: str | None = None, dry_run: bool = False
) -> list[RunResult]:
    """Hold each run that the filter means, by default of those that execute; a refused one tells why."""
    return each(database, matching(database, chosen, HOLD), HOLD, reason, dry_run=dry_run)


def release_runs(
    database: Database, chosen: RunFilter, *, reason: str | None = None, dry_run: bool = False
) -> list[RunResult]:
    """Release each run that the filter means, by default of those that are held; a refused one tells why."""
    return each(database, matching(database, chosen, RELEASE), RELEASE, reason, dry_run=dry_run)


def cancel_runs(
    database: Database, chosen: RunFilter, *, reason: str | None = None, dry_run: bool = False
) -> list[RunResult]:
    """Cancel each run that the filter means, by default of those that are open; a refused one tells why."""
    return each(database, matching(database, chosen, CANCEL), CANCEL, reason, dry_run=dry_run)


# --- what each of them does ---------------------------------------------------------------------------------


def _may_hold(tx: Tx, run: RunFacts) -> int:
    if run.held:
        raise Conflict(f"Run {run.id} is held already{user.by_whom(run.held_by, run.held_why)}.")
    if run.status not in MAY_BE_HELD:
        raise Conflict(f"Run {run.id} cannot be held: it {_standing(run)}.")
    return number_of(tx, run.id, *NOT_STARTED)


def _may_release(tx: Tx, run: RunFacts) -> int:
    if not run.held:
        raise Conflict(f"Run {run.id} is not held: it {_standing(run)}.")
    return number_of(tx, run.id, *NOT_STARTED)


def _may_cancel(tx: Tx, run: RunFacts) -> int:
    if run.status in RUN_ENDED:
        raise Conflict(f"Run {run.id} has ended already ({LABELS[run.status]}): there is nothing left to cancel.")
    return number_of(tx, run.id, *NOT_STARTED)


def _standing(run: RunFacts) -> str:
    if run.status in RUN_ENDED:
        return f"has ended ({LABELS[run.status]})"
    return {"canceling": "is being canceled", "storing": "is being stored"}.get(run.status, "executes")


def _move_on(database: Database, run: int, pieces: int) -> None:
    """Move the rows of a run that is held, released or canceled, in transactions of their own."""
    first: int | None = 0
    while first is not None and pieces:
        crash.point("run-moving")
        first = database.run(lambda tx, at: engine.move_on(tx, run, tx.now(), at), first)
        pieces -= 1


def _a_piece(database: Database, run: int) -> None:
    _move_on(database, run, PIECES_AT_ONCE)


def _all_pieces(database: Database, run: int) -> None:
    _move_on(database, run, MOST_PIECES)


HOLD = Verb(
    "hold",
    and_(~RUN.held, RUN.status.in_([state.value for state in MAY_BE_HELD])),
    _may_hold,
    lambda tx, run, reason: engine.hold(tx, run.id, tx.now(), user.actor().who, reason),
    _a_piece,
)
RELEASE = Verb("release", RUN.held, _may_release, lambda tx, run, reason: engine.release(tx, run.id), _all_pieces)
CANCEL = Verb(
    "cancel",
    RUN.status.in_([state.value for state in RUN_OPEN]),
    _may_cancel,
    lambda tx, run, reason: engine.cancel(tx, run.id, tx.now()),
    _a_piece,
)
# Each action on runs by its word.
VERBS = {verb.word: verb for verb in (HOLD, RELEASE, CANCEL)}
