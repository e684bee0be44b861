"""Tasks: abort one that executes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batchq import engine
from batchq.actions.change import Change, Step, perform, rehearse
from batchq.core import aborting
from batchq.core.states import LABELS, NOT_STARTED, State
from batchq.errors import Action, Advice, Conflict
from batchq.store import moves
from batchq.store.columns import run_of
from batchq.store.database import Database
from batchq.store.find import find_run, find_task, no_run
from batchq.store.moves import LastAttempt
from batchq.store.transaction import Tx

INSTEAD = Advice("{} cancels what has not started of its run.", Action.CANCEL)


def abort_task(
    database: Database, run: str | int, task: str, *, reason: str | None = None, dry_run: bool = False
) -> list[str]:
    """Have a task that executes stopped, within about a second: it is canceled, and not tried again (rule 32).

    Returns the differences, none if its abort was asked for already. With `dry_run` nothing is changed. If the
    operation succeeds before it is stopped, the task is a success. Raises NotFound; Conflict if the task does not
    execute, or its server's pool cannot stop it.
    """

    def steps(tx: Tx) -> Iterator[Step]:
        number = find_run(tx, run)
        return _aborting(tx, find_task(tx, number, task), reason=reason)

    return _done(database, steps, dry_run=dry_run)


def abort_attempt(database: Database, task: int, token: str) -> list[str]:
    """Have one attempt stopped, by its task's id and its token, as `abort_task` does."""
    return _done(database, lambda tx: _aborting(tx, task, token))


def _done(database: Database, steps: Callable[[Tx], Iterator[Step]], *, dry_run: bool = False) -> list[str]:
    return rehearse(database, steps) if dry_run else perform(database, steps)


def _aborting(tx: Tx, task: int, token: str | None = None, reason: str | None = None) -> Iterator[Step]:
    found = _executing(tx, task, token)
    if found.abort:
        return
    said = f"is being aborted on {found.server} (attempt {found.attempt}){f': {reason}' if reason else ''}"

    def make() -> None:
        if not engine.abort(tx, task, str(found.token)):
            _executing(tx, task, found.token)

    yield Step((Change("task", f"{found.name} of run {found.run_id}", "abort", "no", "yes", said=said),), make)


def _executing(tx: Tx, task: int, token: str | None) -> LastAttempt:
    """The task's attempt; raises Conflict if it does not execute, under this token if one is given."""
    found = moves.last_attempt(tx, task)
    if found is None:
        raise no_run(tx, run_of(task))
    if found.status != State.EXECUTING or token not in (None, found.token):
        raise _not_executing(found)
    if unfit := aborting.unfit_pool(found.pool_kind, found.server or ""):
        raise Conflict(f"{found.name} cannot be aborted: {unfit}.")
    return found


def _not_executing(found: LastAttempt) -> Conflict:
    task, label = f"{found.name} of run {found.run_id}", LABELS[found.status]
    if State(found.status) in NOT_STARTED:
        return Conflict(f"{task} does not execute ({label}).", advice=INSTEAD)
    what = "that attempt of it" if found.status == State.EXECUTING else f"it ({label})"
    return Conflict(f"{task} is not aborted: {what} has ended already.")
