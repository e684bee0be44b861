"""Claims in SQL: queued or ready → executing on one server, under one life (rules 6, 10, 16, 31)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, or_, select, update

from batchq.core.states import State
from batchq.store.columns import DISPATCH, OUT, RUN, SERVER, TASK, status_in_index, status_is
from batchq.store.moves.becoming import becomes
from batchq.store.moves.dispatching import Pile, Ready
from batchq.store.moves.ticketing import new_token
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, Reply, Statement
from batchq.store.tables import Liveness, Run, Server, TaskRow
from batchq.store.transaction import Tx


class Ticketed(NamedTuple):
    """A queued task, and the group whose servers may claim it."""

    id: int
    group_name: str


class Start(NamedTuple):
    """An attempt with its token, and all that a server must know to start it.

    `retries` counts from the first attempt: those before an operator's retry add to it (rule 30).
    """

    id: int
    name: str
    group_name: str
    lane: int
    own_class: int
    attempt: int
    retries: int
    operation: str
    args: str
    kwargs: str
    time_limit: float | None
    policy: str | None
    token: str
    job: str
    run_by: str | None
    company: str | None

    @property
    def pile(self) -> Pile:
        """The pile of ready tasks in which it lay."""
        return Pile(self.lane, self.own_class)


class Executing(NamedTuple):
    """An attempt that a server executes, as the database has it; `abort` if an operator wants it stopped."""

    id: int
    token: str
    epoch: int
    abort: bool = False


class LeftExecuting(NamedTuple):
    """An attempt whose server's life is over."""

    id: int
    token: str
    epoch: int
    server_id: int
    server: str


_CLAIMS = becomes(State.QUEUED, State.EXECUTING)
_OWN = becomes(State.READY, State.EXECUTING)

# What a server must know of an attempt to start it: of its task, and of its run.
_of_task = (
    *(TASK.id, TASK.name, TASK.group_name, TASK.lane, TASK.own_class, TASK.attempt),
    (TASK.retries + TASK.retried_at).label("retries"),
    *(TASK.operation, TASK.args, TASK.kwargs, TASK.time_limit, TASK.policy, TASK.token),
)
_of_run = (RUN.job, RUN.run_by, RUN.company)
_its_run = [
    select(column).where(RUN.id == TASK.run_id).correlate(TaskRow.__table__).scalar_subquery().label(column.name)
    for column in _of_run
]
_mine = and_(TASK.server_id == bindparam("server"), TASK.epoch == bindparam("epoch_"))
_unchanged = select(DISPATCH.topology).scalar_subquery() == bindparam("version")
_LOCK_TICKETS = Statement(
    select(TASK.id, TASK.group_name)
    .where(status_is(State.QUEUED), among(TASK.id, "tasks"))
    .order_by(TASK.id)
    .with_for_update(key_share=True),
    row=Ticketed,
)
_CLAIM = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), among(TASK.token, "tokens"), _CLAIMS.standing, _unchanged)
    .values(
        status=_CLAIMS.status,
        attempt=TASK.attempt + 1,
        server_id=bindparam("server"),
        epoch=bindparam("epoch_"),
        claimed_at=bindparam("now"),
        ended_at=None,
        error=None,
        abort=False,
    )
    .returning(TASK.id),
    row=Id,
)
_START_OWN = Statement(
    lambda given: (
        update(TaskRow)
        .where(TASK.id == given.task, _OWN.standing, _unchanged)
        .values(status=_OWN.status, token=given.renewed, attempt=TASK.attempt + 1, offers=0)
        .values(server_id=bindparam("server"), epoch=bindparam("epoch_"), queued_at=bindparam("now"))
        .values(claimed_at=bindparam("now"), ended_at=None, error=None, abort=False)
        .returning(*_of_task, *_its_run)
    ),
    columns={"task": TASK.id, "renewed": TASK.token},
    row=Start,
)
_CLAIMED = Statement(
    select(*_of_task, *_of_run)
    .join(Run, RUN.id == TASK.run_id)
    .where(among(TASK.token, "tokens"), among(TASK.id, "tasks"))
    .where(status_is(State.EXECUTING), _mine),
    row=Start,
)
_EXECUTING_ON = Statement(
    select(TASK.id, TASK.token, TASK.epoch, TASK.abort)
    .where(OUT, status_in_index(State.EXECUTING), TASK.server_id == bindparam("server"))
    .order_by(TASK.id),
    row=Executing,
)


def lock_tickets(tx: Tx, tasks: Collection[int]) -> Reply[Ticketed]:
    """Lock these queued tasks, waiting for other transactions to release them; returns their groups."""
    return _LOCK_TICKETS.later(tx, tasks=tasks)


def grant(
    tx: Tx, tickets: Sequence[tuple[int, str]], server: int, epoch: int, version: int, now: datetime
) -> Reply[Start]:
    """queued → executing on this server for these (task, token); returns the rows that execute there now.

    A topology newer than `version` grants nothing. A claim repeated after a commit whose reply was lost finds its
    rows executing under its own tokens, and they count.
    """
    tasks, tokens = zip(*tickets, strict=True)
    _CLAIM.later(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch, version=version, now=now)
    return claimed(tx, tickets, server, epoch)


def start_own(tx: Tx, rows: Sequence[Ready], server: int, epoch: int, version: int, now: datetime) -> Reply[Start]:
    """ready → executing on this server for rows that this transaction holds; returns those that execute there now.

    A topology newer than `version` starts nothing.
    """
    given = [{"task": row.id, "renewed": new_token()} for row in rows]
    return _START_OWN.later(tx, given, server=server, epoch_=epoch, version=version, now=now)


def claimed(tx: Tx, tickets: Sequence[tuple[int, str]], server: int, epoch: int) -> Reply[Start]:
    """The tasks of these (task, token) that execute on this server, with all that it needs to start them."""
    tasks, tokens = zip(*tickets, strict=True)
    return _CLAIMED.later(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch)


def executing_on(tx: Tx, server: int) -> list[Executing]:
    """The attempts that the server executes, as the database has it."""
    return _EXECUTING_ON(tx, server=server)


def of_operations(tx: Tx, tasks: Collection[int], operations: Collection[str]) -> set[int]:
    """Pick the tasks that run one of these operations."""
    return set(tx.execute(select(TASK.id).where(TASK.id.in_(tasks), TASK.operation.in_(operations))).scalars())


def left_executing(tx: Tx, task: int) -> LeftExecuting | None:
    """The task's attempt, with its server's name, if it executes under a life that is over; else None."""
    name = func.coalesce(SERVER.name, "?").label("server")
    over = or_(SERVER.id.is_(None), SERVER.epoch != TASK.epoch, SERVER.liveness != Liveness.RUNNING.value)
    statement = select(TASK.id, TASK.token, TASK.epoch, TASK.server_id, name).outerjoin(
        Server, SERVER.id == TASK.server_id
    )
    found = tx.execute(statement.where(TASK.id == task, OUT, status_in_index(State.EXECUTING), over)).one_or_none()
    return None if found is None else LeftExecuting._make(found)
