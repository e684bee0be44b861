"""Dispatch in SQL: how busy servers are, which tasks are ready, and ready → queued (rules 10-13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update

from batchq.core.states import State
from batchq.store.columns import RUN, TASK, status_in_index, status_is
from batchq.store.moves.becoming import becomes
from batchq.store.moves.listing import Listing
from batchq.store.moves.ticketing import Ticket, new_token
from batchq.store.sql.lists import Listed
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Run, TaskRow
from batchq.store.transaction import Tx

# All that a server must know of an attempt to start it.
TO_START = (
    *(TASK.id, TASK.name, TASK.group_name, TASK.attempt, TASK.retries),
    *(TASK.operation, TASK.args, TASK.kwargs, TASK.time_limit),
    *(RUN.job, RUN.run_by, RUN.company),
)


class Start(NamedTuple):
    """An attempt with its token, and all that a server must know to start it."""

    id: int
    name: str
    group_name: str
    attempt: int
    retries: int
    operation: str
    args: str
    kwargs: str
    time_limit: float | None
    job: str
    run_by: str | None
    company: str | None
    token: str


# --- how busy servers are -----------------------------------------------------------------------------------


class Occupied(NamedTuple):
    """The number of a group's queued or executing tasks, and for each executing one the server's id, as one text."""

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
    """A ready task: all that a server must know to start it, and its place in the order of dispatch."""

    id: int
    name: str
    group_name: str
    attempt: int
    retries: int
    operation: str
    args: str
    kwargs: str
    time_limit: float | None
    job: str
    run_by: str | None
    company: str | None
    token: str | None
    priority: int
    ready_at: datetime

    def start(self, token: str) -> Start:
        """The task's next attempt, under this token."""
        return Start(*self[:12], token)


_READY = Listing(
    select(*TO_START, TASK.token, TASK.priority, TASK.ready_at)
    .join(Run, RUN.id == TASK.run_id)
    .where(status_in_index(State.READY), TASK.group_name == bindparam("group"), TASK.ready_at <= bindparam("now"))
    .order_by(TASK.priority.desc(), TASK.ready_at, TASK.id)
    .limit(bindparam("limit"))
    .with_for_update(of=TaskRow.__table__, skip_locked=True, key_share=True),
    TASK.id,
    Ready,
)


@dataclass(frozen=True, slots=True)
class Peeked:
    """The answer to `peek` for one group: its best ready tasks, at most `limit`."""

    limit: int
    rows: Reply[Ready]

    def reaches(self, limit: int) -> bool:
        """Whether it shows the best `limit` tasks: it asked for that many, or found all that there are."""
        return limit <= self.limit or len(self.rows.rows) < self.limit


def peek(
    tx: Tx,
    wanted: Mapping[str, int],
    now: datetime,
    aside: Collection[int] = (),
    alone: Collection[int] | None = None,
) -> dict[str, Peeked]:
    """Ask for the best ready tasks of each group, at most as many as `wanted`, and lock them; returns at once."""
    return {
        group: Peeked(limit, _READY.later(tx, aside, alone, group=group, limit=limit, now=now))
        for group, limit in wanted.items()
    }


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
    short = {group: limit for group, limit in wanted.items() if not (group in peeked and peeked[group].reaches(limit))}
    peeked = {**peeked, **peek(tx, short, now, aside)}
    rows = [row for group, limit in wanted.items() for row in peeked[group].rows.rows[:limit]]
    return in_order(rows) if len(wanted) > 1 else rows


def in_order(rows: Iterable[Ready]) -> list[Ready]:
    """Ready tasks, the best first: priority, then waiting time."""
    return sorted(rows, key=lambda row: (-row.priority, row.ready_at, row.id))


def numbers_ready(tx: Tx, group: str, limit: int) -> list[int]:
    """The ids of a group's first ready tasks in the order of dispatch, broken rows among them."""
    order = (TASK.priority.desc(), TASK.ready_at, TASK.id)
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


def ticket(start: Start) -> Ticket:
    """The ticket of a task that was handed out, to be published after the commit."""
    return Ticket(start.id, start.token, start.attempt + 1, start.group_name, start.job, start.name)


def hand_out(tx: Tx, rows: Iterable[Ready], now: datetime) -> list[Start]:
    """ready → queued; returns the attempt that each ticket lets a server start."""
    queued = [row.start(new_token()) for row in rows]
    if queued:
        _QUEUE.later(tx, [{"task": row.id, "renewed": row.token} for row in queued], now=now)
    return queued


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
