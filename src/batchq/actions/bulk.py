"""The frame of actions on runs: each run in a transaction of its own, one by its number, or many by a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.sql.elements import ColumnElement

from batchq import aside
from batchq.actions.change import Change, check_reason, record
from batchq.core.states import State
from batchq.errors import Conflict
from batchq.store import moves
from batchq.store.columns import RUN, TASK, task_id
from batchq.store.database import Database
from batchq.store.find import find_job, find_run, no_run
from batchq.store.transaction import Tx
from batchq.views import RunResult


class RunFacts(NamedTuple):
    """A run as an action finds it."""

    id: int
    job: str
    status: str
    held: bool
    held_by: str | None
    held_why: str | None


@dataclass(frozen=True, slots=True)
class Verb:
    """An action on one run.

    `look` returns how many tasks it concerns, and raises Conflict if the run does not allow it. `make` takes it in the
    transaction that holds the run's lock; with it go the person's reason. `go_on` does the rest after the commit.
    In bulk without a status it is taken on the runs that it `suits`. An action that needs several transactions has
    `take` instead: it gets the reason, and whether it is only to tell what it would do.
    """

    word: str
    suits: ColumnElement[bool]
    look: Callable[[Tx, RunFacts], int] = lambda tx, run: 0
    make: Callable[[Tx, RunFacts, str | None], object] = lambda tx, run, reason: None
    go_on: Callable[[Database, int], object] = lambda database, run: None
    take: Callable[[Database, int, str | None, bool], RunResult] | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are meant: those of a job, in these states, that began or ended since an instant, or before one.

    The instant of a run is that of its end; while it is open, that of its submit.
    """

    job: str | None = None
    statuses: Sequence[str] = ()
    since: datetime | None = None
    before: datetime | None = None


def act(
    database: Database, run: int | str, verb: Verb, reason: str | None = None, *, dry_run: bool = False
) -> RunResult:
    """Take an action on a run, by its number or `last`; with `dry_run` only tell what it would do.

    Raises NotFound; Conflict if the run does not allow it; InvalidInput for a reason of several lines.
    """
    check_reason(reason)
    if verb.take is not None:
        with database.read() as tx:
            number = find_run(tx, run)
        return verb.take(database, number, reason, dry_run)
    if dry_run:
        with database.read() as tx:
            return _look(tx, find_run(tx, run), verb)
    result = aside.run(database, _make, run, verb, reason)
    verb.go_on(database, result["run"])
    return result


def each(
    database: Database, runs: Sequence[int], verb: Verb, reason: str | None = None, *, dry_run: bool = False
) -> list[RunResult]:
    """Take an action on each of these runs, one after the other; a run that does not allow it tells why."""
    return [_or_refused(database, run, verb, reason, dry_run) for run in runs]


def matching(database: Database, chosen: RunFilter, verb: Verb) -> list[int]:
    """The numbers of the runs that a filter means, the oldest first; raises NotFound for an unknown job."""
    at = func.coalesce(RUN.ended_at, RUN.submitted_at)
    tests = [RUN.status.in_(list(chosen.statuses)) if chosen.statuses else verb.suits]
    if chosen.job is not None:
        tests.append(RUN.job == chosen.job)
    if chosen.since is not None:
        tests.append(at >= chosen.since)
    if chosen.before is not None:
        tests.append(at < chosen.before)
    with database.read() as tx:
        if chosen.job is not None:
            find_job(tx, chosen.job)
        return list(tx.execute(select(RUN.id).where(*tests).order_by(RUN.id)).scalars())


def _or_refused(database: Database, run: int, verb: Verb, reason: str | None, dry_run: bool) -> RunResult:
    try:
        return act(database, run, verb, reason, dry_run=dry_run)
    except Conflict as error:
        with database.read() as tx:
            return result_of(tx, facts(tx, run), verb.word, 0, refused=str(error))


def _make(tx: Tx, run: int | str, verb: Verb, reason: str | None) -> RunResult:
    number = find_run(tx, run)
    moves.lock_run(tx, number)
    before = facts(tx, number)
    result = result_of(tx, before, verb.word, verb.look(tx, before))
    verb.make(tx, before, reason)
    after = facts(tx, number)
    change = Change("run", str(number), "status", _standing(before), _standing(after), word=verb.word)
    record(tx, [change], reason)
    return {**result, "status": after.status, "held": after.held}


def _look(tx: Tx, run: int, verb: Verb) -> RunResult:
    found = facts(tx, run)
    return result_of(tx, found, verb.word, verb.look(tx, found))


def facts(tx: Tx, run: int) -> RunFacts:
    """The run as it stands; raises NotFound."""
    row = tx.execute(select(*(RUN[field] for field in RunFacts._fields)).where(RUN.id == run)).one_or_none()
    if row is None:
        raise no_run(tx, run)
    return RunFacts._make(row)


def number_of(tx: Tx, run: int, *states: State) -> int:
    """How many tasks of the run are in these states."""
    its = (
        TASK.id >= task_id(run, 0),
        TASK.id < task_id(run + 1, 0),
        TASK.status.in_([state.value for state in states]),
        ~TASK.unnamed,
    )
    return int(tx.execute(select(func.count()).select_from(TASK.id.table).where(*its)).scalar_one())


def result_of(tx: Tx, run: RunFacts, word: str, tasks: int, refused: str | None = None) -> RunResult:
    """The result of the action of this word on a run."""
    return {
        "run": run.id,
        "job": run.job,
        "action": word,
        "status": run.status,
        "held": run.held,
        "tasks": tasks,
        "executing": number_of(tx, run.id, State.EXECUTING),
        "refused": refused,
    }


def _standing(run: RunFacts) -> str:
    """How a run stands, in the words of the audit."""
    return f"{run.status}, held" if run.held else run.status
