"""Rows that always fail by their content: set aside with the reason, and tried again alone.

A new version of the topology tells all processes of each row that is set aside, or goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from batchq.core.topology import Aside
from batchq.store.columns import TROUBLE
from batchq.store.failures import of_content, why
from batchq.store.sql.statement import forget as drop_waiting
from batchq.store.sql.statement import send
from batchq.store.tables import Dispatch, Trouble
from batchq.store.transaction import Tx

LONGEST_SECONDS = 60.0


class What(StrEnum):
    """The kind of work that fails, and the table that its number belongs to."""

    TASK = "task"  # cannot be handed out, claimed or taken back: a task
    LOST = "lost"  # its attempt cannot be ended as lost: a task
    REPORT = "report"  # its outcome cannot be stored, and is kept by its server: a task
    RUN = "run"  # cannot be settled, closed, discarded or moved: a run
    RETRY = "retry"  # its large retry cannot go on: a run
    SERVER = "server"  # cannot be declared lost: a server


Key = tuple[What, int]


class SetAside(NamedTuple):
    """A row that is set aside, with the reason and the number of its failures."""

    what: str
    number: int
    reason: str
    told_by: str
    since: datetime
    tries: int
    again_at: datetime


_CASES = select(*(TROUBLE[field] for field in SetAside._fields))


def tried(tx: Tx, act: Callable[[], object], *, keep: bool) -> Exception | None:
    """Do `act` in a savepoint, and keep its work if `keep`; returns the error if some content made it fail.

    Nothing of a failed act stays. Raises an error that has another cause than content.
    """
    nested = tx.begin_nested()
    try:
        act()
        send(tx)
    except Exception as error:
        drop_waiting(tx)
        if not of_content(error):
            with suppress(SQLAlchemyError):  # a second error, of this savepoint, would hide the first one
                nested.rollback()
            raise
        nested.rollback()
        return error
    if keep:
        nested.commit()
    else:
        nested.rollback()
    return None


def culprits(tx: Tx, numbers: Sequence[int], act: Callable[[Sequence[int]], object]) -> dict[int, str]:
    """The numbers with which `act` fails even alone, each with the reason; nothing of its work stays."""
    error = tried(tx, lambda: act(numbers), keep=False) if numbers else None
    if error is None:
        return {}
    if len(numbers) == 1:
        return {numbers[0]: why(error)}
    half = len(numbers) // 2
    return culprits(tx, numbers[:half], act) | culprits(tx, numbers[half:], act)


def aside(tx: Tx) -> Aside:
    """The tasks and runs to leave out of work that is done for many at once."""
    found = [(row.what, row.number) for row in tx.execute(select(TROUBLE.what, TROUBLE.number))]
    tasks = frozenset(number for what, number in found if what in (What.TASK, What.LOST, What.REPORT))
    return Aside(tasks, frozenset(number for what, number in found if what == What.RUN))


def note(tx: Tx, found: Mapping[Key, str], told_by: str, now: datetime) -> bool:
    """Set rows aside, each with its reason, for a second and then twice as long each time; False if there are none."""
    for (what, number), reason in sorted(found.items()):
        tries = tx.execute(select(TROUBLE.tries).where(*_its(what, number))).scalar()
        again = now + timedelta(seconds=min(2.0 ** min(tries or 0, 10), LONGEST_SECONDS))
        values = {"reason": reason, "told_by": told_by[:200], "tries": (tries or 0) + 1, "again_at": again}
        if tries is None:
            tx.execute(insert(Trouble).values(what=what.value, number=number, since=now, **values))
        else:
            tx.execute(update(Trouble).where(*_its(what, number)).values(**values))
    if found:
        _tell(tx)
    return bool(found)


def forget(tx: Tx, what: What, number: int) -> bool:
    """Let a row go on; False if it was not set aside."""
    gone = tx.execute(delete(Trouble).where(*_its(what, number))).rowcount
    if gone:
        _tell(tx)
    return bool(gone)


def due(tx: Tx, now: datetime) -> list[SetAside]:
    """The rows that are to be tried again."""
    rows = _CASES.where(TROUBLE.again_at <= now).order_by(TROUBLE.what, TROUBLE.number)
    return [SetAside._make(row) for row in tx.execute(rows)]


def pauses(tx: Tx, what: What, number: int, now: datetime) -> bool:
    """Whether a row is set aside, and not to be tried again yet."""
    pausing = select(TROUBLE.tries).where(*_its(what, number), TROUBLE.again_at > now)
    return tx.execute(pausing).scalar() is not None


def lock_due(tx: Tx, what: What, number: int, now: datetime) -> bool:
    """Lock a row that is due; False if another process has it."""
    due = select(TROUBLE.tries).where(*_its(what, number), TROUBLE.again_at <= now)
    return tx.execute(due.with_for_update(skip_locked=True)).scalar() is not None


def every(tx: Tx) -> list[SetAside]:
    """All rows set aside, the oldest first."""
    rows = _CASES.order_by(TROUBLE.since, TROUBLE.what, TROUBLE.number)
    return [SetAside._make(row) for row in tx.execute(rows)]


def _its(what: What, number: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return TROUBLE.what == what.value, TROUBLE.number == number


def _tell(tx: Tx) -> None:
    tx.execute(update(Dispatch).values(topology=Dispatch.__table__.c.topology + 1))
