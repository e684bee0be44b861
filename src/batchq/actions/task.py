"""Tasks: abort one that executes."""

from __future__ import annotations

from batchq import aside, engine
from batchq.actions.change import Change, Step, check_reason, take
from batchq.core import aborting
from batchq.core.states import LABELS, NOT_STARTED, State
from batchq.errors import Action, Advice, Conflict
from batchq.store import moves
from batchq.store.columns import run_of
from batchq.store.database import Database
from batchq.store.find import find_run, find_task, no_run
from batchq.store.moves import LastAttempt
from batchq.store.transaction import Tx
from batchq.views import TaskResult

INSTEAD = Advice("{} cancels what has not started of its run.", Action.CANCEL)


def abort_task(
    database: Database, run: str | int, task: str, *, reason: str | None = None, dry_run: bool = False
) -> TaskResult:
    """Have a task that executes stopped, within about a second: it is canceled, and not tried again (rule 32).

    An operation that succeeds before it is stopped stays a success. With `dry_run` nothing is changed. Raises NotFound;
    Conflict if the task does not execute, or its server's pool cannot stop it.
    """
    check_reason(reason)
    if dry_run:
        with database.read() as tx:
            return _result(_executing(tx, _number(tx, run, task)))
    return aside.run(database, lambda tx: _abort(tx, _number(tx, run, task), None, reason))


def abort_attempt(database: Database, task: int, token: str, *, reason: str | None = None) -> TaskResult:
    """Have one attempt stopped, by its task's id and its token, as `abort_task` does."""
    return aside.run(database, _abort, task, token, reason)


def _number(tx: Tx, run: str | int, task: str) -> int:
    return find_task(tx, find_run(tx, run), task)


def _abort(tx: Tx, task: int, token: str | None, reason: str | None) -> TaskResult:
    found = _executing(tx, task, token)
    if found.abort:
        return _result(found)  # asked for before, and told in the audit then

    def make() -> None:
        if not engine.abort(tx, task, str(found.token)):
            _executing(tx, task, found.token)

    name = f"{found.run_id} / {found.name}"
    take(tx, [Step((Change("task", name, "abort", "no", "yes", word="abort"),), make)], 0, reason)
    return _result(found)


def _executing(tx: Tx, task: int, token: str | None = None) -> LastAttempt:
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


def _result(found: LastAttempt) -> TaskResult:
    return {
        "run": found.run_id,
        "job": found.job,
        "name": found.name,
        "action": "abort",
        "status": found.status,
        "attempt": found.attempt,
        "server": found.server,
    }
