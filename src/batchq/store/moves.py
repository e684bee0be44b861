"""The guarded moves of runs and tasks: each changes a row only if it still is what the caller holds (rule 6).

Every function takes the transaction first. Rows are locked in the order: server, runs, tasks, dispatch.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import NOT_STARTED, RUN_OPEN, RunState, State
from batchq.store.statement import Reply, Statement, among
from batchq.store.trouble import TROUBLE
from batchq.tables import Attempt, Dispatch, Job, Liveness, Run, Server, Task, TaskCondition

JOB = Job.__table__.c  # type: ignore[attr-defined]
RUN = Run.__table__.c  # type: ignore[attr-defined]
TASK = Task.__table__.c  # type: ignore[attr-defined]
CONDITION = TaskCondition.__table__.c  # type: ignore[attr-defined]
SERVER = Server.__table__.c  # type: ignore[attr-defined]

POSITION_BITS = 20  # bits of a task's id that hold its position in its run


def task_id(run: int, position: int) -> int:
    """The id of the task at `position` (from 0) of the run."""
    return run << POSITION_BITS | position


def run_of(task: int) -> int:
    """The run that a task belongs to."""
    return task >> POSITION_BITS


def status_in_index(*states: State) -> ColumnElement[bool]:
    """`status` is one of `states`, written as words: only so can a partial index serve the query."""
    words = ", ".join(f"'{state.value}'" for state in states)
    test = f"IN ({words})" if len(states) > 1 else f"= {words}"
    # Without a type: as a Boolean it would be written `(…) = 1`, and serve no index either.
    return literal_column(f"batchq_task.status {test}")


class StatusIs(ColumnElement[bool]):
    """Whether `status` is `state`, said so that no partial index can serve the query."""

    inherit_cache = False
    type = Boolean()

    def __init__(self, state: State) -> None:
        self.state = state
        self.bound = TASK.status == state.value

    def self_group(self, against: Any = None) -> StatusIs:
        """Stand as it is: a Boolean would be wrapped as `(…) = 1`."""
        return self


@compiles(StatusIs, "sqlite")
def _status_in_words(element: StatusIs, compiler: Any, **options: Any) -> str:
    # A bound value would make SQLite plan the statement anew for each one, to look for a partial index.
    return f"+batchq_task.status = '{element.state.value}'"


@compiles(StatusIs, "postgresql")
def _status_bound(element: StatusIs, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.bound, **options))


def status_is(state: State) -> StatusIs:
    """`status` is `state`; use it where rows are found by their ids, so that no partial index is taken for it."""
    return StatusIs(state)


# SQLite uses a partial index only where the query holds the index's own words.
OUT = status_in_index(State.QUEUED, State.EXECUTING)
RUN_IS_OPEN: ColumnElement[bool] = literal_column("batchq_run.status IN ('storing', 'executing', 'canceling')")
STORING = and_(RUN_IS_OPEN, RUN.status == literal_column("'storing'"))


class Listing:
    """A statement over many rows, or over all but those that are set `aside`, or over those `alone`, by a column of
    numbers that cannot be broken.
    """

    def __init__(self, statement: Select[Any], key: ColumnElement[Any]) -> None:
        self._all = Statement(statement)
        self._others = Statement(statement.where(~among(key, "aside")))
        self._alone = Statement(statement.where(among(key, "alone")))

    def later(
        self, tx: Connection, aside: Collection[int] = (), alone: Collection[int] | None = None, **values: Any
    ) -> Reply:
        """Ask, as `Statement.later` does."""
        if alone is not None:
            return self._alone.later(tx, alone=alone, **values)
        # Nearly always nothing is set aside, and then it costs nothing.
        return self._others.later(tx, aside=aside, **values) if aside else self._all.later(tx, **values)


# Where a task's conditions are: with the one that it shares them with, or with itself.
CONDITIONS_AT = func.coalesce(TASK.waits_with, TASK.id)


# --- starting a run -----------------------------------------------------------------------------------------

_START = Statement(
    update(Run)
    .where(RUN.id == bindparam("run"), RUN.status == RunState.STORING.value)
    .values(status=RunState.EXECUTING.value, started_at=bindparam("now"))
)
_START_TASKS = Statement(
    update(Task)
    .where(TASK.run_id == bindparam("run"), TASK.pending == 0, status_in_index(State.WAITING))
    .where(exists().where(RUN.id == bindparam("run"), RUN.started_at == bindparam("now")))
    .values(status=State.READY.value, ready_at=bindparam("now"))
)


def start_run(tx: Connection, run: int, now: datetime) -> Reply:
    """storing → executing; its tasks without conditions become ready (rule 2). Counts 0 if it no longer was."""
    started = _START.later(tx, run=run, now=now)
    _START_TASKS.later(tx, run=run, now=now)
    return started


# --- settling what has ended --------------------------------------------------------------------------------

_UNSETTLED_RUNS = Listing(
    select(TASK.run_id).where(literal_column("unsettled")).distinct().limit(bindparam("limit")), TASK.run_id
)
_LOCK_RUNS = Statement(select(RUN.id).where(among(RUN.id, "runs")).order_by(RUN.id).with_for_update(key_share=True))
_UNSETTLED = Statement(
    select(TASK.id, TASK.status)
    .where(literal_column("unsettled"), among(TASK.run_id, "runs"))
    .order_by(TASK.run_id, TASK.id)
    .limit(bindparam("limit"))
)
_before = Task.__table__.alias("before")  # type: ignore[attr-defined]
_FOLLOWERS = Statement(
    select(CONDITION.predecessor_id, CONDITION.task_id, CONDITION.outcome)
    .add_columns(TASK.status, TASK.joined, TASK.pending, TASK.met, TASK.impossible, TASK.sharing)
    .join(_before, _before.c.id == CONDITION.predecessor_id)
    .join(Task, TASK.id == CONDITION.task_id)
    .where(among(CONDITION.predecessor_id, "tasks"), CONDITION.task_id > func.coalesce(_before.c.settled_up_to, 0))
    .order_by(CONDITION.predecessor_id, CONDITION.task_id)
    .limit(bindparam("limit"))
)
_numbers = {"task": TASK.id, "pending": TASK.pending, "met": TASK.met, "impossible": TASK.impossible}
_COUNT = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task)
        .values(pending=given.pending, met=given.met, impossible=given.impossible)
    ),
    plain=True,
    **_numbers,
)
_COUNT_AND_MOVE = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, status_is(State.WAITING))
        .values(pending=given.pending, met=given.met, impossible=given.impossible)
        .values(status=given.state, ready_at=given.ready, ended_at=given.ended)
    ),
    **_numbers,
    state=TASK.status,
    ready=TASK.ready_at,
    ended=TASK.ended_at,
)
_MOVE_SHARING = Statement(
    update(Task)
    .where(among(TASK.waits_with, "tasks"), status_is(State.WAITING))
    .values(status=bindparam("state"), ready_at=bindparam("ready"), ended_at=bindparam("ended"))
    .returning(TASK.id)
)
_LEAVE = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task)
        .values(unsettled=True, settled_up_to=func.coalesce(given.reached, TASK.settled_up_to))
    ),
    task=TASK.id,
    reached=TASK.settled_up_to,
)
_SETTLED = Statement(update(Task).where(among(TASK.id, "tasks")).values(unsettled=False, settled_up_to=None))
_COUNT_OFF = Statement(
    lambda given: (
        update(Run)
        .where(RUN.id == given.run)
        .values(open_tasks=RUN.open_tasks - given.tasks)
        .returning(RUN.id, RUN.open_tasks, RUN.status)
    ),
    run=RUN.id,
    tasks=RUN.open_tasks,
)
_CLOSE = Statement(
    lambda given: (
        update(Run)
        .where(RUN.id == given.run, RUN.open_tasks == 0, RUN.status == given.was)
        .values(status=given.verdict, ended_at=bindparam("now"))
    ),
    run=RUN.id,
    was=RUN.status,
    verdict=RUN.status,
)


def unsettled_runs(tx: Connection, limit: int, aside: Collection[int] = ()) -> Reply:
    """Runs in which a task has ended whose conditions are not all resolved, but those `aside`."""
    return _UNSETTLED_RUNS.later(tx, aside, limit=limit)


def lock_runs(tx: Connection, runs: Collection[int]) -> None:
    """Make settling of these runs serial until the commit; on SQLite every writing transaction already is."""
    if runs and tx.dialect.name != "sqlite":
        _LOCK_RUNS.later(tx, runs=runs)


def unsettled(tx: Connection, runs: Collection[int], limit: int) -> dict[int, State]:
    """Ended tasks of the runs, with their states, whose conditions are not all resolved."""
    return {row.id: State(row.status) for row in _UNSETTLED(tx, runs=runs, limit=limit)}


def followers(tx: Connection, tasks: Collection[int], limit: int) -> Reply:
    """Unresolved conditions on these ended tasks, as (predecessor, task, outcome) in the order of both, each with what
    the task that waits stands at: its status, how its conditions are joined, how many are open, met and impossible,
    and how many tasks share them.

    Nobody else changes these numbers: their run is locked (`lock_runs`).
    """
    return _FOLLOWERS.later(tx, tasks=tasks, limit=limit)


def count(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new numbers of conditions; nothing else changes."""
    if rows:
        _COUNT.later(tx, rows)


def count_and_move(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new numbers of conditions and move the waiting tasks to ready or didn't run."""
    if rows:
        _COUNT_AND_MOVE.later(tx, rows)


def move_sharing(tx: Connection, tasks: Collection[int], state: State, now: datetime) -> Reply:
    """Move what waits with these tasks to ready or didn't run, as these were; returns the ids."""
    ready = state is State.READY
    return _MOVE_SHARING.later(
        tx, tasks=tasks, state=state.value, ready=now if ready else None, ended=None if ready else now
    )


def leave(tx: Connection, tasks: Collection[int], reached: Mapping[int, int]) -> None:
    """Mark ended tasks whose conditions are not all resolved yet, with the last task up to which they are."""
    if tasks:
        _LEAVE.later(tx, [{"task": task, "reached": reached.get(task)} for task in tasks])


def settled(tx: Connection, tasks: Collection[int]) -> None:
    """Clear that mark: all conditions on these tasks are resolved."""
    if tasks:
        _SETTLED.later(tx, tasks=tasks)


def count_off(tx: Connection, ended: Mapping[int, int]) -> Reply:
    """Count settled tasks off their runs; `emptied` reads from the answer which runs have nothing open any more."""
    return _COUNT_OFF.later(tx, [{"run": run, "tasks": tasks} for run, tasks in sorted(ended.items())])


def emptied(counted: Reply) -> dict[int, RunState]:
    """The runs in which nothing is open any more, with their states, by what `count_off` returned."""
    runs = {row.id: RunState(row.status) for row in counted.rows if row.open_tasks == 0}
    return {run: state for run, state in runs.items() if state in RUN_OPEN}


_handler = Task.__table__.alias("handler")  # type: ignore[attr-defined]
_handled = exists(
    select(literal_column("1"))
    .select_from(TaskCondition)
    .join(_handler, _handler.c.id == CONDITION.task_id)
    .where(CONDITION.predecessor_id == TASK.id, literal_column("handles"), _handler.c.status == State.SUCCESS.value)
)
_FAILURES = Statement(
    select(
        TASK.run_id,
        TASK.status,
        TASK.ignore_failure,
        _handled.label("handled"),
        (TASK.status == State.CANCELED.value).label("aborted"),
    ).where(
        among(TASK.run_id, "runs"),
        status_in_index(State.ERROR, State.CANCELED),
        or_(TASK.status == State.ERROR.value, TASK.claimed_at.is_not(None)),
    )
)


def failures(tx: Connection, runs: Collection[int]) -> Sequence[Any]:
    """The runs' tasks that ended in error or were aborted, each with whether a task handled it (rule 7)."""
    return _FAILURES(tx, runs=runs)


def close_runs(tx: Connection, runs: Sequence[Mapping[str, Any]], now: datetime) -> Reply:
    """Give empty runs (`run`, in the state `was`) their `verdict`."""
    return _CLOSE.later(tx, runs, now=now)


# --- handing out what is ready ------------------------------------------------------------------------------


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
        return run_of(self.task)


# What a server needs to know of an attempt to start it.
_TO_START = (
    *(TASK.id, TASK.name, TASK.group_name, TASK.attempt, TASK.retries),
    *(TASK.operation, TASK.args, TASK.kwargs, TASK.time_limit),
    *(RUN.job, RUN.run_by, RUN.company),
)
_OCCUPANCY = Listing(
    select(TASK.status, TASK.group_name, TASK.server_id, func.count())
    .where(status_in_index(State.QUEUED, State.EXECUTING))
    .group_by(TASK.status, TASK.group_name, TASK.server_id),
    TASK.id,
)
_READY = Listing(
    select(*_TO_START, TASK.token, TASK.priority, TASK.ready_at)
    .join(Run, RUN.id == TASK.run_id)
    .where(status_in_index(State.READY), TASK.group_name == bindparam("group"), TASK.ready_at <= bindparam("now"))
    .order_by(TASK.priority.desc(), TASK.ready_at, TASK.id)
    .limit(bindparam("limit"))
    .with_for_update(of=Task.__table__, skip_locked=True, key_share=True),  # type: ignore[attr-defined]
    TASK.id,
)
_QUEUE = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, status_is(State.READY))
        .values(status=State.QUEUED.value, token=given.renewed, queued_at=bindparam("now"))
        .values(server_id=None, epoch=None, offers=0)
    ),
    task=TASK.id,
    renewed=TASK.token,
)
_OUT = Listing(
    select(TASK.id, TASK.token, TASK.group_name, TASK.attempt, TASK.queued_at, TASK.offers, TASK.name, RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(OUT, status_in_index(State.QUEUED))
    .order_by(TASK.queued_at, TASK.id),
    TASK.id,
)
_TAKE_BACK = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.held), status_is(State.QUEUED))
        .values(status=State.READY.value, token=None, queued_at=None)
    ),
    task=TASK.id,
    held=TASK.token,
)
_OFFER_AGAIN = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.held), status_is(State.QUEUED))
        .values(token=given.renewed, queued_at=bindparam("now"), offers=TASK.offers + 1)
    ),
    task=TASK.id,
    held=TASK.token,
    renewed=TASK.token,
)
_LOCK_OUT = Statement(
    select(TASK.id).where(OUT, status_in_index(State.QUEUED)).order_by(TASK.id).with_for_update(key_share=True)
)
_by_id = select(TASK.id).where(among(TASK.id, "tasks")).order_by(TASK.id)
_LOCK_FREE = Statement(_by_id.with_for_update(key_share=True, skip_locked=True))
_LOCK_ALL = Statement(_by_id.with_for_update(key_share=True, nowait=True))
_NOT_BEFORE = Listing(
    select(TASK.id, TASK.attempt, TASK.ready_at, TASK.retry_delay).where(
        status_in_index(State.READY), TASK.ready_at > bindparam("now")
    ),
    TASK.id,
)
_HASTEN = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, TASK.ready_at == given.held, status_is(State.READY))
        .values(ready_at=given.due)
    ),
    task=TASK.id,
    held=TASK.ready_at,
    due=TASK.ready_at,
)


def occupancy(tx: Connection, aside: Collection[int] = ()) -> tuple[dict[int, int], dict[str, int]]:
    """How many tasks each server executes, and how many tickets of each group are out, but for those `aside`."""
    return counted(occupancy_later(tx, aside))


def occupancy_later(tx: Connection, aside: Collection[int] = (), alone: Collection[int] | None = None) -> Reply:
    """The rows that `counted` reads, together with what is asked next."""
    return _OCCUPANCY.later(tx, aside, alone)


def counted(occupancy: Reply) -> tuple[dict[int, int], dict[str, int]]:
    """How many tasks each server executes, and how many tickets of each group are out."""
    busy: dict[int, int] = {}
    out: dict[str, int] = {}
    for status, group, server, number in occupancy.rows:
        if status == State.EXECUTING.value:
            busy[server] = busy.get(server, 0) + number
        else:
            out[group] = out.get(group, 0) + number
    return busy, out


@dataclass(frozen=True, slots=True)
class Looked:
    """A look at the best `limit` ready tasks of a group, which travels with what is asked besides."""

    limit: int
    rows: Reply


def look(
    tx: Connection,
    limits: Mapping[str, int],
    now: datetime,
    aside: Collection[int] = (),
    alone: Collection[int] | None = None,
) -> dict[str, Looked]:
    """Look at the best ready tasks of each group, at most so many of each, and hold them."""
    return {
        group: Looked(limit, _READY.later(tx, aside, alone, group=group, limit=limit, now=now))
        for group, limit in limits.items()
    }


def ready(
    tx: Connection,
    limits: Mapping[str, int],
    looked: Mapping[str, Looked],
    now: datetime,
    aside: Collection[int] = (),
) -> list[Any]:
    """The best ready tasks of each group, at most so many of each, best first: priority, then waiting time.

    Where somebody `looked` far enough already, nothing is asked again.
    """
    short = {group: limit for group, limit in limits.items() if not _saw(looked.get(group), limit)}
    looked = {**looked, **look(tx, short, now, aside)}
    rows = [row for group, limit in limits.items() for row in looked[group].rows.rows[:limit]]
    return in_order(rows) if len(limits) > 1 else rows


def in_order(rows: Iterable[Any]) -> list[Any]:
    """Ready tasks, the best first: priority, then waiting time."""
    return sorted(rows, key=lambda row: (-row.priority, row.ready_at, row.id))


def _saw(looked: Looked | None, limit: int) -> bool:
    return looked is not None and (limit <= looked.limit or len(looked.rows.rows) < looked.limit)


def hand_out(tx: Connection, rows: Iterable[Any], now: datetime) -> list[Any]:
    """ready → queued; returns the rows as they stand then, each under a new token."""
    queued = [row._replace(token=new_token()) for row in rows]
    if queued:
        _QUEUE.later(tx, [{"task": row.id, "renewed": row.token} for row in queued], now=now)
    return queued


def ticket(row: Any) -> Ticket:
    """The ticket of a queued row, to be published after the commit."""
    return Ticket(row.id, row.token, row.attempt + 1, row.group_name, row.job, row.name)


def new_token() -> str:
    """What tells one ticket from all others."""
    return str(uuid.uuid4())


def tickets_out(tx: Connection, aside: Collection[int] = (), alone: Collection[int] | None = None) -> Sequence[Any]:
    """Every ticket that is out, oldest first, with its token, age and how often it was offered."""
    return _OUT.later(tx, aside, alone).rows


def lock_out(tx: Connection) -> None:
    """Hold all tickets that are out, before the dispatch lock: under that one nobody waits for a task."""
    if tx.dialect.name != "sqlite":
        _LOCK_OUT(tx)


def lock_now(tx: Connection, tasks: Collection[int], *, skip: bool) -> Collection[int]:
    """Hold these tasks without waiting; returns them, but `skip` those that somebody else holds.

    Without `skip` such a one breaks the transaction off, to begin again (`Database.run`).
    """
    if not tasks or tx.dialect.name == "sqlite":
        return tasks
    return {row.id for row in (_LOCK_FREE if skip else _LOCK_ALL)(tx, tasks=tasks)}


def take_back(tx: Connection, tickets: Iterable[tuple[int, str]]) -> int:
    """queued → ready for these (task, token); returns how many still were queued."""
    held = [{"task": task, "held": token} for task, token in sorted(tickets)]
    return _TAKE_BACK.count(tx, held) if held else 0


def offer_again(tx: Connection, rows: Iterable[Any], now: datetime) -> list[Ticket]:
    """Give tickets that seem lost a new token; returns what to publish after the commit."""
    tickets, values = [], []
    for row in rows:
        ticket = Ticket(row.id, new_token(), row.attempt + 1, row.group_name, row.job, row.name)
        tickets.append(ticket)
        values.append({"task": row.id, "held": row.token, "renewed": ticket.token})
    if values:
        _OFFER_AGAIN.later(tx, values, now=now)
    return tickets


def not_before(
    tx: Connection, now: datetime, aside: Collection[int] = (), alone: Collection[int] | None = None
) -> Sequence[Any]:
    """The ready tasks whose instant is still to come, with what that depends on, in the order of their ids."""
    return sorted(_NOT_BEFORE.later(tx, aside, alone, now=now).rows)


def hasten(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Give ready tasks another instant from which they may start; returns how many still had the one `held`."""
    return _HASTEN.count(tx, rows) if rows else 0


# --- claiming and finishing ---------------------------------------------------------------------------------

_mine = and_(TASK.server_id == bindparam("server"), TASK.epoch == bindparam("epoch_"))
_DISPATCH = Dispatch.__table__.c  # type: ignore[attr-defined]
_unchanged = select(_DISPATCH.topology).scalar_subquery() == bindparam("version")
_LOCK_TICKETS = Statement(
    select(TASK.id, TASK.group_name)
    .where(status_is(State.QUEUED), among(TASK.id, "tasks"))
    .order_by(TASK.id)
    .with_for_update(key_share=True)
)
_CLAIM = Statement(
    update(Task)
    .where(among(TASK.id, "tasks"), among(TASK.token, "tokens"), status_is(State.QUEUED), _unchanged)
    .values(
        status=State.EXECUTING.value,
        attempt=TASK.attempt + 1,
        server_id=bindparam("server"),
        epoch=bindparam("epoch_"),
        claimed_at=bindparam("now"),
        ended_at=None,
        error=None,
    )
    .returning(TASK.id)
)
_CLAIMED = Statement(
    select(*_TO_START, TASK.token)
    .join(Run, RUN.id == TASK.run_id)
    .where(among(TASK.token, "tokens"), among(TASK.id, "tasks"))
    .where(status_is(State.EXECUTING), _mine)
)


def lock_tickets(tx: Connection, tasks: Collection[int]) -> Reply:
    """Wait until nobody else holds these queued tasks, and hold them; returns their groups."""
    return _LOCK_TICKETS.later(tx, tasks=tasks)


def claim(
    tx: Connection, tickets: Sequence[tuple[int, str]], server: int, epoch: int, version: int, now: datetime
) -> Reply:
    """queued → executing on this server for these (task, token); returns the rows that are ours now.

    None is claimed when servers or groups are no longer those of this `version` of the topology. A claim repeated
    after a commit whose reply was lost finds its rows executing under its own tokens: they count.
    """
    claim_held(tx, tickets, server, epoch, version, now)
    return claimed(tx, tickets, server, epoch)


def claim_held(
    tx: Connection, tickets: Sequence[tuple[int, str]], server: int, epoch: int, version: int, now: datetime
) -> Reply:
    """The same for what this transaction queued itself, whose rows it knows; returns the ids of those that are ours."""
    tasks, tokens = zip(*tickets, strict=True)
    return _CLAIM.later(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch, version=version, now=now)


def claimed(tx: Connection, tickets: Sequence[tuple[int, str]], server: int, epoch: int) -> Reply:
    """Those of these (task, token) that execute on this server, with all that is needed to start them."""
    tasks, tokens = zip(*tickets, strict=True)
    return _CLAIMED.later(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch)


_HELD = Statement(
    select(
        TASK.id,
        TASK.run_id,
        TASK.status,
        TASK.group_name,
        TASK.token,
        TASK.attempt,
        TASK.retries,
        TASK.retry_delay,
        TASK.server_id,
        TASK.epoch,
        TASK.claimed_at,
        RUN.status.label("run_status"),
    )
    .join(Run, RUN.id == TASK.run_id)
    .where(among(TASK.id, "tasks"))
    .order_by(TASK.id)
    .with_for_update(of=Task.__table__, key_share=True)  # type: ignore[attr-defined]
)
_FINISH = Statement(
    lambda given: (
        update(Task)
        .where(TASK.id == given.task, TASK.token.is_not_distinct_from(given.held), status_is(State.EXECUTING))
        .values(status=given.state, unsettled=given.flag, ready_at=func.coalesce(given.again, TASK.ready_at))
        .values(ended_at=bindparam("now"), error=given.reason, result=given.value)
    ),
    task=TASK.id,
    held=TASK.token,
    state=TASK.status,
    flag=TASK.unsettled,
    again=TASK.ready_at,
    reason=TASK.error,
    value=TASK.result,
)
_attempt = {column.name: column for column in Attempt.__table__.columns}  # type: ignore[attr-defined]
_ATTEMPT = Statement(
    lambda given: insert(Attempt).from_select(list(_attempt), select(*(getattr(given, name) for name in _attempt))),
    **_attempt,
)
_EXECUTING_ON = Statement(
    select(TASK.id, TASK.token, TASK.epoch)
    .where(OUT, status_in_index(State.EXECUTING), TASK.server_id == bindparam("server"))
    .order_by(TASK.id)
)


def held(tx: Connection, tasks: Collection[int]) -> Reply:
    """These tasks as they stand, locked in the order of their ids."""
    return _HELD.later(tx, tasks=tasks)


def finish(
    tx: Connection, rows: Sequence[Mapping[str, Any]], attempts: Sequence[Mapping[str, Any]], now: datetime
) -> None:
    """executing → success, error or ready again, and a row for each attempt."""
    _FINISH.later(tx, rows, now=now)
    _ATTEMPT.later(tx, attempts)


def executing_on(tx: Connection, server: int) -> Sequence[Any]:
    """What the server executes, by our books."""
    return _EXECUTING_ON(tx, server=server)


def left_executing(tx: Connection, task: int) -> Any | None:
    """An attempt that the books have executing under a life that is over, with the name of its server; or None."""
    name = func.coalesce(SERVER.name, "?").label("server")
    over = or_(SERVER.id.is_(None), SERVER.epoch != TASK.epoch, SERVER.liveness != Liveness.RUNNING.value)
    statement = select(TASK.id, TASK.token, TASK.epoch, TASK.server_id, name).outerjoin(
        Server, SERVER.id == TASK.server_id
    )
    return tx.execute(statement.where(TASK.id == task, OUT, status_in_index(State.EXECUTING), over)).one_or_none()


# --- canceling ----------------------------------------------------------------------------------------------


def begin_cancel(tx: Connection, run: int, now: datetime) -> int:
    """A run → canceling, its tasks that have not started → canceled (rule 32); returns how many those were."""
    tx.execute(
        update(Run).where(RUN.id == run, RUN.status == RunState.EXECUTING.value).values(status=RunState.CANCELING.value)
    )
    # Conditions on a canceled task meet nothing, and all that could follow is canceled with it.
    return tx.execute(
        update(Task)
        .where(TASK.run_id == run, TASK.status.in_([state.value for state in NOT_STARTED]))
        .values(status=State.CANCELED.value, unsettled=False, token=None, claimed_at=None, ended_at=now)
    ).rowcount


# --- what may be broken, by its numbers alone ---------------------------------------------------------------


def numbers_out(tx: Connection, *states: State) -> list[int]:
    """The tasks that are queued or executing, whatever else stands in their rows."""
    return list(tx.execute(select(TASK.id).where(OUT, status_in_index(*states)).order_by(TASK.id)).scalars())


def numbers_ready(tx: Connection, group: str, limit: int) -> list[int]:
    """The first ready tasks of a group in the order of dispatch, whatever else stands in their rows."""
    order = (TASK.priority.desc(), TASK.ready_at, TASK.id)
    ready = select(TASK.id).where(status_in_index(State.READY), TASK.group_name == group).order_by(*order)
    return list(tx.execute(ready.limit(limit)).scalars())


def numbers_not_before(tx: Connection, now: datetime) -> list[int]:
    """The ready tasks whose instant is still to come, or is none."""
    later = select(TASK.id).where(status_in_index(State.READY), TASK.ready_at > now)
    return list(tx.execute(later.order_by(TASK.id)).scalars())


# --- the coordinator's questions ----------------------------------------------------------------------------

_ANYTHING_OPEN = Statement(
    select(
        or_(
            exists(select(TASK.id).where(literal_column("unsettled"))),
            exists(select(TASK.id).where(status_in_index(State.READY))),
            exists(select(TASK.id).where(OUT, status_in_index(State.QUEUED))),
            exists(select(RUN.id).where(STORING)),
            exists(select(TROUBLE.number)),
        )
    )
)


def anything_open(tx: Connection) -> bool:
    """Whether a tick has anything to move: an end to settle, a task to hand out, a ticket out, a run being stored, or
    what was set aside.
    """
    ((open_,),) = _ANYTHING_OPEN(tx)
    return bool(open_)


def discard_unstored(tx: Connection, before: datetime, now: datetime, aside: Collection[int] = ()) -> list[int]:
    """storing → canceled for runs submitted earlier, whose submit died half-way; returns them."""
    return [run for run in numbers_storing(tx, before) if run not in aside and give_up(tx, run, now)]


def numbers_storing(tx: Connection, before: datetime) -> list[int]:
    """The runs submitted earlier that are still being stored."""
    storing = select(RUN.id).where(STORING, RUN.submitted_at < before)
    return list(tx.execute(storing.order_by(RUN.id)).scalars())


def give_up(tx: Connection, run: int, now: datetime) -> bool:
    """storing → canceled; half of a run says nothing true, so that only the fact of it is kept."""
    statement = (
        update(Run)
        .where(RUN.id == run, RUN.status == RunState.STORING.value)
        .values(open_tasks=0, status=RunState.CANCELED.value, ended_at=now)
    )
    if not tx.execute(statement).rowcount:
        return False
    tx.execute(delete(Task).where(TASK.run_id == run))
    return True


def is_storing(tx: Connection, run: int) -> bool:
    """Whether the run is still being stored; it stays so until the commit."""
    found = select(RUN.id).where(RUN.id == run, STORING).with_for_update(read=True)
    return tx.execute(found).scalar() is not None
