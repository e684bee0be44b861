"""Tickets in SQL: which are out, and how they are taken back, or offered again under a new token (rule 20)."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, select, update

from batchq.core.states import State
from batchq.store.columns import OUT, RUN, TASK, run_of, status_in_index, status_is
from batchq.store.moves.becoming import becomes
from batchq.store.moves.holding import RUN_IS_HELD
from batchq.store.moves.listing import Listing
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx


class TicketOut(NamedTuple):
    """A ticket that is out, with its age and how often it was offered again."""

    id: int
    token: str | None
    group_name: str
    lane: int
    attempt: int
    queued_at: datetime
    offers: int
    name: str
    job: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """The offer of one attempt of one task to the servers of its group."""

    task: int
    token: str
    attempt: int
    group: str
    job: str
    name: str

    @property
    def run(self) -> int:
        """The run of its task."""
        return run_of(self.task)


def new_token() -> str:
    """A token that no other ticket carries."""
    return str(uuid.uuid4())


# --- which are out ------------------------------------------------------------------------------------------

_OUT = Listing(
    select(TASK.id, TASK.token, TASK.group_name, TASK.lane, TASK.attempt, TASK.queued_at, TASK.offers, TASK.name)
    .add_columns(RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(OUT, status_in_index(State.QUEUED))
    .order_by(TASK.queued_at, TASK.id),
    TASK.id,
    TicketOut,
)
_LOCK_OUT = Statement(
    select(TASK.id).where(OUT, status_in_index(State.QUEUED)).order_by(TASK.id).with_for_update(key_share=True),
    row=Id,
)
_by_id = select(TASK.id).where(among(TASK.id, "tasks")).order_by(TASK.id)
_LOCK_FREE = Statement(_by_id.with_for_update(key_share=True, skip_locked=True), row=Id)
_LOCK_ALL = Statement(_by_id.with_for_update(key_share=True, nowait=True), row=Id)


def tickets_out(tx: Tx, aside: Collection[int] = (), alone: Collection[int] | None = None) -> list[TicketOut]:
    """Every ticket that is out, oldest first."""
    return _OUT.later(tx, aside, alone).rows


def numbers_out(tx: Tx, *states: State) -> list[int]:
    """The ids of the tasks in these states (queued, executing), broken rows among them."""
    return list(tx.execute(select(TASK.id).where(OUT, status_in_index(*states)).order_by(TASK.id)).scalars())


def lock_out(tx: Tx) -> None:
    """Lock all tickets that are out. Call it before the dispatch lock: its holder must never wait for a task."""
    if dialect(tx).locks_rows:
        _LOCK_OUT(tx)


def lock_now(tx: Tx, tasks: Collection[int], *, skip: bool) -> Collection[int]:
    """Lock these tasks without waiting; returns the locked ones.

    A task that another transaction has locked is left out with `skip`; without it the transaction is broken off and
    begins again (`Database.run`).
    """
    if not tasks or not dialect(tx).locks_rows:
        return tasks
    return {row.id for row in (_LOCK_FREE if skip else _LOCK_ALL)(tx, tasks=tasks)}


# --- taken back, or offered again ---------------------------------------------------------------------------

_TAKEN_BACK = becomes(State.QUEUED, State.READY)

_TAKE_BACK = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.standing), _TAKEN_BACK.standing)
        .values(status=_TAKEN_BACK.status, token=None, queued_at=None, aside=RUN_IS_HELD)
    ),
    columns={"task": TASK.id, "standing": TASK.token},
)
_OFFER_AGAIN = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.standing), status_is(State.QUEUED))
        .values(token=given.renewed, queued_at=bindparam("now"), offers=TASK.offers + 1)
    ),
    columns={"task": TASK.id, "standing": TASK.token, "renewed": TASK.token},
)


def unqueue(tx: Tx, tickets: Iterable[tuple[int, str | None]]) -> int:
    """queued → ready for these (task, token); returns how many were still queued under that token."""
    standing = [{"task": task, "standing": token} for task, token in sorted(tickets)]
    return _TAKE_BACK.count(tx, standing) if standing else 0


def requeue(tx: Tx, rows: Iterable[TicketOut], now: datetime) -> list[Ticket]:
    """Give queued tasks a new token, as their tickets seem lost; returns the tickets to publish after the commit."""
    tickets, values = [], []
    for row in rows:
        ticket = Ticket(row.id, new_token(), row.attempt + 1, row.group_name, row.job, row.name)
        tickets.append(ticket)
        values.append({"task": row.id, "standing": row.token, "renewed": ticket.token})
    if values:
        _OFFER_AGAIN.later(tx, values, now=now)
    return tickets
