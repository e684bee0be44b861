"""Submit: a job becomes a run, stored in one transaction or in chunks, and then opened (rule 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from batchq import crash
from batchq.store import moves
from batchq.store import run as runs
from batchq.store.database import Database
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec

T = TypeVar("T")

ROWS_PER_TRANSACTION = 5000


def submit(database: Database, job: JobSpec) -> int:
    """Store a run of the job and open it; returns its id. The caller advances next.

    A large job is stored in chunks, so that no other writer waits long. Its run stays `storing` meanwhile, and one
    guarded move opens it: no task starts before the whole job is there.
    """
    rows = runs.rows_of(job)
    if len(rows.tasks) + len(rows.conditions) <= ROWS_PER_TRANSACTION:
        return database.run(store_at_once, job, rows)
    number, _ = database.run(runs.open_run, job)
    tasks, conditions = map(number.task, rows.tasks), number.conditions(rows.conditions)
    if _store(database, number.run, runs.add_tasks, tasks) and _store(
        database, number.run, runs.add_conditions, conditions
    ):
        database.run(lambda tx: moves.start_run(tx, number.run, tx.now()))
    return number.run


def store_at_once(tx: Tx, job: JobSpec, rows: runs.Rows) -> int:
    """Store a run of the job and open it in this transaction; returns its id."""
    number, now = runs.open_run(tx, job)
    runs.add_tasks(tx, list(map(number.task, rows.tasks)))
    runs.add_conditions(tx, list(number.conditions(rows.conditions)))
    moves.start_run(tx, number.run, now)
    return number.run


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
