"""Dispatch in SQL: how busy servers are, which tasks are ready, and ready → queued (rules 10-13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.priority import PRIORITY_NAMES
from batchq.core.states import State
from batchq.store.columns import IN_LINE, MAY_START, RUN, TASK, status_in_index, status_is
from batchq.store.moves.becoming import becomes
from batchq.store.moves.listing import Listing
from batchq.store.moves.ticketing import Ticket, new_token
from batchq.store.sql.lists import Listed, among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

# --- how busy servers are -----------------------------------------------------------------------------------


class Occupied(NamedTuple):
    """The number of a lane's tasks that are queued, or executing; of these also their servers' ids, as one text."""

    status: str
    lane: int
    number: int
    servers: str | None


# One text: hundreds of servers would be as many rows, and to read these takes longer than to count.
_OCCUPANCY = Listing(
    select(TASK.status, TASK.lane, func.count(), Listed(TASK.server_id))
    .where(status_in_index(State.QUEUED, State.EXECUTING))
    .group_by(TASK.status, TASK.lane),
    TASK.id,
    Occupied,
)


class Occupancy(NamedTuple):
    """How many tasks each server executes, and how many tasks of each lane execute, or have tickets out."""

    busy: dict[int, int]
    executing: dict[int, int]
    out: dict[int, int]


def occupancy(tx: Tx, aside: Collection[int] = ()) -> Occupancy:
    """Count the tasks that execute, and the tickets that are out; tasks `aside` do not count."""
    return counted(occupancy_later(tx, aside))


def occupancy_later(tx: Tx, aside: Collection[int] = (), alone: Collection[int] | None = None) -> Reply[Occupied]:
    """The rows for `counted`, asked for without waiting for them."""
    return _OCCUPANCY.later(tx, aside, alone)


def counted(occupancy: Reply[Occupied]) -> Occupancy:
    """Count the tasks that execute, and the tickets that are out, by `occupancy_later`."""
    busy: Counter[str] = Counter()
    executing: dict[int, int] = {}
    out: dict[int, int] = {}
    for row in occupancy.rows:
        if row.status != State.EXECUTING.value:
            out[row.lane] = row.number
        else:
            executing[row.lane] = row.number
            busy.update((row.servers or "").split(","))
    # Somebody may have written into a row by hand: a server whose id is no number has no threads.
    return Occupancy({int(server): number for server, number in busy.items() if server.isdecimal()}, executing, out)


# --- which tasks are ready ----------------------------------------------------------------------------------


class Pile(NamedTuple):
    """The ready tasks of one lane that have the same class of their own; the oldest goes first."""

    lane: int
    own_class: int


class Ready(NamedTuple):
    """A ready task: its place in the order of dispatch, and what its ticket says."""

    id: int
    name: str
    group_name: str
    lane: int
    attempt: int
    own_class: int
    ready_at: datetime
    job: str

    @property
    def pile(self) -> Pile:
        """The pile that it lies in."""
        return Pile(self.lane, self.own_class)

    def ticket(self, token: str) -> Ticket:
        """The ticket of its next attempt, under this token."""
        return Ticket(self.id, token, self.attempt + 1, self.group_name, self.job, self.name)


_of_ready = (
    select(TASK.id, TASK.name, TASK.group_name, TASK.lane, TASK.attempt, TASK.own_class, TASK.ready_at, RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(IN_LINE, MAY_START)
    .with_for_update(of=TaskRow.__table__, skip_locked=True, key_share=True)
)
_of_pile = (
    _of_ready.where(TASK.lane == bindparam("lane"), TASK.own_class == bindparam("own_class"))
    .order_by(TASK.ready_at, TASK.id)
    .limit(bindparam("limit"))
)
_READY = Listing(_of_pile.where(TASK.ready_at <= bindparam("now")), TASK.id, Ready)
_AT_ANY_TIME = Listing(_of_pile.where(TASK.ready_at.is_not(None)), TASK.id, Ready)
_READY_ALONE = Statement(
    _of_ready.where(TASK.ready_at <= bindparam("now"), among(TASK.id, "alone")).order_by(TASK.id), row=Ready
)


class Odd(NamedTuple):
    """A ready task whose priority is none."""

    id: int
    own_class: object


_no_class: ColumnElement[bool] = literal_column(f"batchq_task.own_class NOT IN ({', '.join(map(str, PRIORITY_NAMES))})")
_ODD = Listing(select(TASK.id, TASK.own_class).where(IN_LINE, TASK.lane == bindparam("lane"), _no_class), TASK.id, Odd)


@dataclass(frozen=True, slots=True)
class Peeked:
    """The answer to `peek` for one pile: its oldest tasks, at most `limit`; and others that are ready since."""

    limit: int
    rows: Reply[Ready]
    since: Sequence[Ready] = ()

    def best(self, limit: int, now: datetime) -> list[Ready] | None:
        """The oldest `limit` tasks that may start now; None if it has fewer, and the database may have more."""
        rows = self.rows.rows
        found = [row for row in rows if row.ready_at <= now]
        if len(found) < limit and len(rows) == self.limit:
            return None
        if not self.since:
            return found[:limit]
        return sorted([*found, *self.since], key=lambda row: (row.ready_at, row.id))[:limit]


def peek(tx: Tx, wanted: Mapping[Pile, int], now: datetime | None, aside: Collection[int] = ()) -> dict[Pile, Peeked]:
    """Ask for the oldest ready tasks of each pile, at most as many as `wanted`, and lock them; returns at once.

    Without `now` those come too that may not start yet.
    """
    asked: dict[Pile, Peeked] = {}
    for pile, limit in wanted.items():
        values: dict[str, Any] = {"lane": pile.lane, "own_class": pile.own_class, "limit": limit}
        reply = _AT_ANY_TIME.later(tx, aside, **values) if now is None else _READY.later(tx, aside, **values, now=now)
        asked[pile] = Peeked(limit, reply)
    return asked


def ready(
    tx: Tx,
    wanted: Mapping[Pile, int],
    peeked: Mapping[Pile, Peeked],
    now: datetime,
    aside: Collection[int] = (),
) -> list[Ready]:
    """The oldest ready tasks of each pile, at most as many as `wanted`.

    A pile that was `peeked` at far enough is not asked for again.
    """
    found = {pile: peeked[pile].best(limit, now) if pile in peeked else None for pile, limit in wanted.items()}
    asked = peek(tx, {pile: wanted[pile] for pile, rows in found.items() if rows is None}, now, aside)
    return [row for pile, rows in found.items() for row in (asked[pile].rows.rows if rows is None else rows)]


def ready_alone(tx: Tx, tasks: Collection[int], now: datetime) -> list[Ready]:
    """These of the ready tasks that may start now; raises ValueError for one whose priority is none."""
    rows = _READY_ALONE(tx, alone=tasks, now=now)
    for row in rows:
        if row.own_class not in PRIORITY_NAMES:
            raise ValueError(f"its priority is {row.own_class!r}")
    return rows


def refuse_odd(tx: Tx, lane: int, aside: Collection[int]) -> None:
    """Raise ValueError for a ready task of the lane whose priority is none; those `aside` do not count."""
    for row in _ODD.later(tx, aside, lane=lane).rows:
        raise ValueError(f"the priority of task {row.id} is {row.own_class!r}")


def numbers_ready(tx: Tx, lane: int, limit: int) -> list[int]:
    """The ids of a lane's first ready tasks in the order of their own classes, broken rows among them."""
    order = (TASK.own_class.desc(), TASK.ready_at, TASK.id)
    return list(tx.execute(select(TASK.id).where(IN_LINE, TASK.lane == lane).order_by(*order).limit(limit)).scalars())


# --- ready → queued -----------------------------------------------------------------------------------------

_QUEUED = becomes(State.READY, State.QUEUED)

_QUEUE = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, _QUEUED.standing)
        .values(status=_QUEUED.status, token=given.renewed, queued_at=bindparam("now"))
        .values(server_id=None, epoch=None, offers=0)
    ),
    columns={"task": TASK.id, "renewed": TASK.token},
)


def hand_out(tx: Tx, rows: Iterable[Ready], now: datetime) -> list[Ticket]:
    """ready → queued; returns the tickets, to be published after the commit."""
    tickets = [row.ticket(new_token()) for row in rows]
    if tickets:
        _QUEUE.later(tx, [{"task": ticket.task, "renewed": ticket.token} for ticket in tickets], now=now)
    return tickets


# --- ready tasks that wait for an instant -------------------------------------------------------------------


class Early(NamedTuple):
    """A ready task that may not start yet."""

    id: int
    attempt: int
    ready_at: datetime
    retry_delay: float
    retry_after: float | None


_NOT_BEFORE = Listing(
    select(TASK.id, TASK.attempt, TASK.ready_at, TASK.retry_delay, TASK.retry_after).where(
        IN_LINE, TASK.ready_at > bindparam("now")
    ),
    TASK.id,
    Early,
)
_HASTEN = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, TASK.ready_at == given.standing, status_is(State.READY))
        .values(ready_at=given.due)
    ),
    columns={"task": TASK.id, "standing": TASK.ready_at, "due": TASK.ready_at},
)


def not_before(tx: Tx, now: datetime, aside: Collection[int] = (), alone: Collection[int] | None = None) -> list[Early]:
    """The ready tasks that may not start yet, by id."""
    return sorted(_NOT_BEFORE.later(tx, aside, alone, now=now).rows)


def numbers_not_before(tx: Tx, now: datetime) -> list[int]:
    """The ids of the ready tasks that may not start yet, broken rows among them."""
    later = select(TASK.id).where(IN_LINE, TASK.ready_at > now)
    return list(tx.execute(later.order_by(TASK.id)).scalars())


def hasten(tx: Tx, rows: Sequence[Mapping[str, object]]) -> int:
    """Let ready tasks start from `due` on; returns how many still had the `ready_at` given as `standing`."""
    return _HASTEN.count(tx, rows) if rows else 0
