"""Submit: jobs become runs, stored in one transaction or in chunks, and then opened (rule 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from batchq import crash
from batchq.core.states import State
from batchq.engine.settling import close, settle_ends
from batchq.store import moves
from batchq.store import run as runs
from batchq.store.database import Database
from batchq.store.rows import Rows, rows_of
from batchq.store.sql.statement import NoRow, Reply
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec

T = TypeVar("T")

ROWS_PER_TRANSACTION = 5000


class Written(NamedTuple):
    """A job and the rows of a run of it."""

    job: JobSpec
    rows: Rows

    @property
    def size(self) -> int:
        """How many tasks and conditions are to be stored."""
        return len(self.rows.tasks) + len(self.rows.conditions)

    @property
    def opens_gates(self) -> bool:
        """Whether a gate has no conditions, and so succeeds when the run opens (rule 50)."""
        return any("gate" in task and task["gate"] and not task["pending"] for task in self.rows.tasks)


class Opened(NamedTuple):
    """A run that a submit opens, and its job's name."""

    run: int
    job: str


Note = Callable[[Tx, Sequence[Opened], datetime], object]


def unnoted(tx: Tx, opened: Sequence[Opened], now: datetime) -> None:
    """Write nothing about the runs that are opened: no person asked for them."""


def submit(database: Database, job: JobSpec) -> int:
    """Store a run of the job and open it; returns its id. The caller advances next."""
    (run,) = submit_all(database, [job])
    return run


def submit_all(database: Database, jobs: Iterable[JobSpec], note: Note = unnoted) -> list[int]:
    """Store a run of each job and open it; returns the ids, which ascend in the order of the jobs.

    Jobs that fit into one transaction together are stored in one, all of them or none. A large job is stored in chunks,
    so that no other writer waits long. Its run stays `storing` meanwhile, and one guarded move opens it: no task starts
    before the whole job is there. The caller advances next.

    `note` is called in each transaction that opens runs, with these and the instant.

    If a later transaction fails, the runs of earlier ones stay, and the error has a note with their ids.
    """
    stored: list[int] = []
    try:
        for lot in _lots(Written(job, rows_of(job)) for job in jobs):
            stored += _submit(database, lot, note)
    except Exception as error:
        if stored:
            error.add_note(f"Runs {', '.join(map(str, stored))} of earlier jobs are stored.")
        raise
    return stored


def _lots(jobs: Iterable[Written]) -> Iterator[list[Written]]:
    """Yield the jobs in lots of at most ROWS_PER_TRANSACTION rows; a larger job is a lot of its own."""
    lot: list[Written] = []
    room = ROWS_PER_TRANSACTION
    for job in jobs:
        if lot and job.size > room:
            yield lot
            lot, room = [], ROWS_PER_TRANSACTION
        lot.append(job)
        room -= job.size
    if lot:
        yield lot


def _submit(database: Database, lot: Sequence[Written], note: Note) -> list[int]:
    (first, *_) = lot
    if first.size > ROWS_PER_TRANSACTION:
        return [_submit_in_chunks(database, first, note)]
    return database.run(store_at_once, lot, note)


def store_at_once(tx: Tx, jobs: Sequence[Written], note: Note = unnoted) -> list[int]:
    """Store a run of each job and open it in this transaction, as `submit_all` does; returns their ids."""
    numbers, now = runs.open_runs(tx, [job for job, _ in jobs], [len(rows.tasks) for _, rows in jobs])
    numbered = list(zip(numbers, (rows for _, rows in jobs), strict=True))
    runs.add_tasks(tx, [number.task(task) for number, rows in numbered for task in rows.tasks])
    runs.add_conditions(tx, [each for number, rows in numbered for each in number.conditions(rows.conditions)])
    opened = [Opened(number.run, job.name) for number, (job, _) in zip(numbers, jobs, strict=True)]
    _open(tx, [run for run, _ in opened], now, gates=any(each.opens_gates for each in jobs))
    note(tx, opened, now)
    return [run for run, _ in opened]


def _submit_in_chunks(database: Database, written: Written, note: Note) -> int:
    job, rows = written
    number, _ = database.run(runs.open_run, job, len(rows.tasks))
    tasks, conditions = map(number.task, rows.tasks), number.conditions(rows.conditions)
    if _store(database, number.run, runs.add_tasks, tasks) and _store(
        database, number.run, runs.add_conditions, conditions
    ):
        database.run(_open_stored, Opened(number.run, job.name), written.opens_gates, note)
    return number.run


def _open_stored(tx: Tx, opened: Opened, gates: bool, note: Note) -> None:
    """Open a run that was stored in chunks, unless it was canceled meanwhile."""
    now = tx.now()
    if _open(tx, [opened.run], now, gates=gates).count:
        note(tx, [opened], now)


def _open(tx: Tx, opening: Sequence[int], now: datetime, *, gates: bool) -> Reply[NoRow]:
    """Open runs that are stored; with `gates`, those without conditions succeed, and what follows them is settled.

    Counts the runs that were still being stored.
    """
    started = moves.start_runs(tx, opening, now)
    if gates:
        ends = {row.id: State.SUCCESS for row in moves.open_gates(tx, opening, now).rows}
        close(tx, settle_ends(tx, now, ends, held=moves.held_among(tx, opening)).counted, now)
    return started


def _store(database: Database, run: int, add: Callable[[Tx, Sequence[T]], None], rows: Iterable[T]) -> bool:
    """Add rows in chunks to a run that is being stored; False if it was canceled meanwhile."""
    for chunk in _chunks(rows, ROWS_PER_TRANSACTION):
        if not database.run(_add, run, add, chunk):
            return False
        crash.point("chunk-stored")
    return True


def _add(tx: Tx, run: int, add: Callable[[Tx, Sequence[T]], None], rows: Sequence[T]) -> bool:
    """Add rows to a run that is still being stored; False if it was canceled meanwhile."""
    storing = moves.is_storing(tx, run)
    if storing:
        add(tx, rows)
    return storing


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
