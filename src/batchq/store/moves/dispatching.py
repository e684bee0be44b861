"""Dispatch in SQL: how busy servers are, which tasks are ready, and ready → queued (rules 10-13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update

from batchq.core.states import RunState, State
from batchq.store.columns import RUN, TASK, status_in_index, status_is
from batchq.store.moves.becoming import becomes
from batchq.store.moves.listing import Listing
from batchq.store.moves.ticketing import Ticket, new_token
from batchq.store.sql.lists import Listed
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

# --- how busy servers are -----------------------------------------------------------------------------------


class Occupied(NamedTuple):
    """The number of a group's tasks that are queued, or executing; of these also their servers' ids, as one text."""

    status: str
    group_name: str
    number: int
    servers: str | None


# One text: hundreds of servers would be as many rows, and to read these takes longer than to count.
_OCCUPANCY = Listing(
    select(TASK.status, TASK.group_name, func.count(), Listed(TASK.server_id))
    .where(status_in_index(State.QUEUED, State.EXECUTING))
    .group_by(TASK.status, TASK.group_name),
    TASK.id,
    Occupied,
)


def occupancy(tx: Tx, aside: Collection[int] = ()) -> tuple[dict[int, int], dict[str, int]]:
    """Count the tasks that each server executes, and the tickets out of each group; tasks `aside` do not count."""
    return counted(occupancy_later(tx, aside))


def occupancy_later(tx: Tx, aside: Collection[int] = (), alone: Collection[int] | None = None) -> Reply[Occupied]:
    """The rows for `counted`, asked for without waiting for them."""
    return _OCCUPANCY.later(tx, aside, alone)


def counted(occupancy: Reply[Occupied]) -> tuple[dict[int, int], dict[str, int]]:
    """Count the tasks that each server executes, and the tickets out of each group, by `occupancy_later`."""
    executing: Counter[str] = Counter()
    out: dict[str, int] = {}
    for row in occupancy.rows:
        if row.status != State.EXECUTING.value:
            out[row.group_name] = row.number
        elif row.servers is not None:
            executing.update(row.servers.split(","))
    # Somebody may have written into a row by hand: a server whose id is no number has no threads.
    return {int(server): number for server, number in executing.items() if server.isdecimal()}, out


# --- which tasks are ready ----------------------------------------------------------------------------------


class Ready(NamedTuple):
    """A ready task: its place in the order of dispatch, and what its ticket says."""

    id: int
    name: str
    group_name: str
    attempt: int
    own_class: int
    ready_at: datetime
    job: str

    def ticket(self, token: str) -> Ticket:
        """The ticket of its next attempt, under this token."""
        return Ticket(self.id, token, self.attempt + 1, self.group_name, self.job, self.name)


_of_group = (
    select(TASK.id, TASK.name, TASK.group_name, TASK.attempt, TASK.own_class, TASK.ready_at, RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(status_in_index(State.READY), TASK.group_name == bindparam("group"))
    # Rows follow a hold or a cancel in pieces: the run itself says that nothing of it may start.
    .where(~RUN.held, RUN.status == RunState.EXECUTING.value)
    .order_by(TASK.own_class.desc(), TASK.ready_at, TASK.id)
    .limit(bindparam("limit"))
    .with_for_update(of=TaskRow.__table__, skip_locked=True, key_share=True)
)
_READY = Listing(_of_group.where(TASK.ready_at <= bindparam("now")), TASK.id, Ready)
_AT_ANY_TIME = Listing(_of_group.where(TASK.ready_at.is_not(None)), TASK.id, Ready)


@dataclass(frozen=True, slots=True)
class Peeked:
    """The answer to `peek` for one group: its best ready tasks, at most `limit`; and others that are ready since."""

    limit: int
    rows: Reply[Ready]
    since: Sequence[Ready] = ()

    def best(self, limit: int, now: datetime) -> list[Ready] | None:
        """The best `limit` tasks that may start now; None if it has fewer, and the database may have more."""
        rows = self.rows.rows
        found = [row for row in rows if row.ready_at <= now]
        if len(found) < limit and len(rows) == self.limit:
            return None
        return in_order([*found, *self.since])[:limit] if self.since else found[:limit]


def peek(
    tx: Tx,
    wanted: Mapping[str, int],
    now: datetime | None,
    aside: Collection[int] = (),
    alone: Collection[int] | None = None,
) -> dict[str, Peeked]:
    """Ask for the best ready tasks of each group, at most as many as `wanted`, and lock them; returns at once.

    Without `now` those come too that may not start yet.
    """
    if now is None:
        asked = {group: _AT_ANY_TIME.later(tx, aside, alone, group=group, limit=wanted[group]) for group in wanted}
    else:
        asked = {group: _READY.later(tx, aside, alone, group=group, limit=wanted[group], now=now) for group in wanted}
    return {group: Peeked(wanted[group], reply) for group, reply in asked.items()}


def ready(
    tx: Tx,
    wanted: Mapping[str, int],
    peeked: Mapping[str, Peeked],
    now: datetime,
    aside: Collection[int] = (),
) -> list[Ready]:
    """The best ready tasks of each group, at most as many as `wanted`, best first: priority, then waiting time.

    A group that was `peeked` at far enough is not asked for again.
    """
    found = {group: peeked[group].best(limit, now) if group in peeked else None for group, limit in wanted.items()}
    asked = peek(tx, {group: wanted[group] for group, rows in found.items() if rows is None}, now, aside)
    rows = [row for group, rows in found.items() for row in (asked[group].rows.rows if rows is None else rows)]
    return in_order(rows) if len(wanted) > 1 else rows


def in_order(rows: Iterable[Ready]) -> list[Ready]:
    """Ready tasks, the best first: priority, then waiting time."""
    return sorted(rows, key=lambda row: (-row.own_class, row.ready_at, row.id))


def numbers_ready(tx: Tx, group: str, limit: int) -> list[int]:
    """The ids of a group's first ready tasks in the order of dispatch, broken rows among them."""
    order = (TASK.own_class.desc(), TASK.ready_at, TASK.id)
    ready = select(TASK.id).where(status_in_index(State.READY), TASK.group_name == group).order_by(*order)
    return list(tx.execute(ready.limit(limit)).scalars())


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


_NOT_BEFORE = Listing(
    select(TASK.id, TASK.attempt, TASK.ready_at, TASK.retry_delay).where(
        status_in_index(State.READY), TASK.ready_at > bindparam("now")
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
    later = select(TASK.id).where(status_in_index(State.READY), TASK.ready_at > now)
    return list(tx.execute(later.order_by(TASK.id)).scalars())


def hasten(tx: Tx, rows: Sequence[Mapping[str, object]]) -> int:
    """Let ready tasks start from `due` on; returns how many still had the `ready_at` given as `standing`."""
    return _HASTEN.count(tx, rows) if rows else 0
