"""Runs and tasks again: retry them, accept a task that was done by hand, give a run another priority (33, 52, 54)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sqlalchemy import select

from batchq import aside, crash, engine, user
from batchq.actions.bulk import RunFilter, Verb, act, each, facts, matching, result_of
from batchq.actions.change import Change, Step, perform, record, rehearse
from batchq.actions.job import some
from batchq.core.priority import PRIORITIES
from batchq.core.states import LABELS, RUN_ENDED, RunState
from batchq.engine import Retried, Retry
from batchq.errors import Conflict, InvalidInput
from batchq.store import run as runs
from batchq.store.columns import RUN, run_of
from batchq.store.database import Database
from batchq.store.find import find_run
from batchq.store.moves import lock_run
from batchq.store.transaction import Tx
from batchq.views import RunResult


def retry_run(
    database: Database,
    run: int | str,
    tasks: Sequence[str] = (),
    *,
    all_tasks: bool = False,
    lost: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Reset the failed tasks of a run, or those that are named, or all; and all that follows them (rule 33).

    `lost` allows to run tasks once more that may have done their work (rule 52). With `dry_run` nothing is changed.
    Raises NotFound; Conflict, with the tasks, if one of them executes or could not run, and if nothing failed.
    """
    return act(database, run, retrying(tasks, all_tasks=all_tasks, lost=lost), reason, dry_run=dry_run)


def retry_runs(
    database: Database, chosen: RunFilter, *, lost: bool = False, reason: str | None = None, dry_run: bool = False
) -> list[RunResult]:
    """Retry each run that the filter means, by default of those that ended in error; a refused one tells why."""
    verb = retrying(lost=lost)
    return each(database, matching(database, chosen, verb), verb, reason, dry_run=dry_run)


def retry_task(
    database: Database,
    run: int | str,
    task: str,
    *,
    lost: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Reset a task, and all that follows it, as `retry_run` does."""
    return retry_run(database, run, [task], lost=lost, reason=reason, dry_run=dry_run)


def accept_task(
    database: Database, run: int | str, task: str, *, reason: str, lost: bool = False, dry_run: bool = False
) -> RunResult:
    """Count a task that waits or failed as done without an attempt; what follows it is reset (rule 54).

    Raises NotFound; Conflict as `retry_run` does, and for a task that cannot be accepted as it stands.
    """
    return act(database, run, _accepting(task, lost), reason, dry_run=dry_run)


def set_run_priority(
    database: Database, run: int | str, priority: str, *, reason: str | None = None, dry_run: bool = False
) -> list[str]:
    """Give the run's tasks that have not started another priority; returns the changes (rule 54).

    Many tasks take several transactions. If this is stopped between two of them, do it once more.
    Raises InvalidInput, NotFound, and Conflict for a run that has ended.
    """
    if priority not in PRIORITIES:
        raise InvalidInput(f"priority: {priority!r} is not allowed; use {', '.join(PRIORITIES)}.")
    if dry_run:
        return rehearse(database, lambda tx: _priority(tx, find_run(tx, run), priority, []))
    done: list[int] = []
    changes = perform(database, lambda tx: _locked_priority(tx, run, priority, done), reason=reason)
    while len(done) == runs.PRIORITIES_AT_ONCE:
        crash.point("run-moving")
        done = aside.run(database, _next_priorities, run_of(done[-1]), priority, done[-1] + 1)
    return changes


def _next_priorities(tx: Tx, run: int, priority: str, first: int) -> list[int]:
    lock_run(tx, run)
    return runs.set_priority(tx, run, PRIORITIES[priority], first)


def _locked_priority(tx: Tx, run: int | str, priority: str, done: list[int]) -> Iterator[Step]:
    number = find_run(tx, run)
    lock_run(tx, number)
    return _priority(tx, number, priority, done)


def _priority(tx: Tx, number: int, priority: str, done: list[int]) -> Iterator[Step]:
    """The step that changes the first tasks; `done` gets their ids."""

    def make() -> bool:
        done[:] = runs.set_priority(tx, number, PRIORITIES[priority])
        return bool(done)

    status = tx.execute(select(RUN.status).where(RUN.id == number)).scalar_one()
    if status in RUN_ENDED:
        raise Conflict(f"Run {number} has ended already ({LABELS[status]}): no task of it is still to start.")
    change = Change("run", str(number), "priority", after=priority, said=f"priority {priority}", word="set priority")
    yield Step((change,), make)


# --- the verbs ----------------------------------------------------------------------------------------------


def retrying(tasks: Sequence[str] = (), *, all_tasks: bool = False, lost: bool = False) -> Verb:
    """The action `retry` on a run."""

    def take(database: Database, run: int, reason: str | None, dry_run: bool) -> RunResult:
        asked = Retry(run, tuple(tasks), all_tasks=all_tasks, lost=lost)
        return _take(database, asked, "retry", reason, dry_run)

    return Verb("retry", RUN.status == RunState.ERROR.value, take=take)


def _accepting(task: str, lost: bool) -> Verb:
    def take(database: Database, run: int, reason: str | None, dry_run: bool) -> RunResult:
        asked = Retry(run, (task,), lost=lost, accepted=f"{user.actor().who}: {reason!r}")
        return _take(database, asked, "accept", reason, dry_run)

    return Verb("accept", RUN.status == RunState.ERROR.value, take=take)


def _take(database: Database, asked: Retry, word: str, reason: str | None, dry_run: bool) -> RunResult:
    if dry_run:
        with database.read() as tx:
            return _result(tx, engine.rehearse(tx, asked), word)
    done = engine.retry(database, asked, partial(_note, word, asked, reason))
    with database.read() as tx:
        return _result(tx, done, word)


def _note(word: str, asked: Retry, reason: str | None, tx: Tx, done: Retried) -> None:
    """Write the retry into the audit."""
    kind, name = ("task", f"{done.run} / {asked.tasks[0]}") if word == "accept" else ("run", str(done.run))
    after = f"{RunState.EXECUTING.value}; reset: {some(sorted(done.tasks))}"
    record(tx, [Change(kind, name, "status", done.before.value, after, word=word)], reason)


def _result(tx: Tx, done: Retried, word: str) -> RunResult:
    return result_of(tx, facts(tx, done.run), word, len(done.tasks))
