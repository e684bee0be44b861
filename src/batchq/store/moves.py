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
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import NOT_STARTED, RUN_OPEN, Outcome, RunState, State
from batchq.store.prepared import Prepared, among
from batchq.tables import Attempt, Dispatch, Job, Run, Task, TaskCondition

JOB = Job.__table__.c  # type: ignore[attr-defined]
RUN = Run.__table__.c  # type: ignore[attr-defined]
TASK = Task.__table__.c  # type: ignore[attr-defined]
CONDITION = TaskCondition.__table__.c  # type: ignore[attr-defined]

TASKS_PER_RUN = 20  # bits of a task's id that hold its position in its run


def task_id(run: int, position: int) -> int:
    """The id of the task at `position` (from 0) of the run."""
    return run << TASKS_PER_RUN | position


def run_of(task: int) -> int:
    """The run that a task belongs to."""
    return task >> TASKS_PER_RUN


def is_(*states: State) -> ColumnElement[bool]:
    """`status` is one of `states`, written as words: only so can a partial index serve the query."""
    words = ", ".join(f"'{state.value}'" for state in states)
    test = f"IN ({words})" if len(states) > 1 else f"= {words}"
    # Without a type: as a Boolean it would be written `(…) = 1`, and serve no index either.
    return literal_column(f"batchq_task.status {test}")


# SQLite uses a partial index only where the query holds the index's own words.
OUT = is_(State.QUEUED, State.EXECUTING)
STORING = and_(
    literal_column("batchq_run.status IN ('storing', 'executing', 'canceling')"),
    RUN.status == literal_column("'storing'"),
)


# --- storing a run ------------------------------------------------------------------------------------------


def keep_job(tx: Connection, name: str, definition: str, now: datetime) -> int:
    """Store the job's newest definition; returns the job's id."""
    found = tx.execute(select(JOB.id).where(JOB.name == name).with_for_update()).scalar()
    if found is None:
        values = {"name": name, "definition": definition, "updated_at": now}
        return int(tx.execute(insert(Job).values(**values).returning(JOB.id)).scalar_one())
    tx.execute(update(Job).where(JOB.id == found).values(definition=definition, updated_at=now))
    return int(found)


def open_run(tx: Connection, values: Mapping[str, Any]) -> int:
    """Insert a run that is still `storing`; returns its id."""
    statement = insert(Run).values(status=RunState.STORING.value, **values).returning(RUN.id)
    return int(tx.execute(statement).scalar_one())


def add_tasks(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert tasks; all rows have the same keys."""
    if rows:
        tx.execute(insert(Task), rows)


def add_conditions(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert conditions; all rows have the same keys."""
    if rows:
        tx.execute(insert(TaskCondition), rows)


_START = Prepared(
    update(Run)
    .where(RUN.id == bindparam("run"), RUN.status == RunState.STORING.value)
    .values(status=RunState.EXECUTING.value, started_at=bindparam("now"))
)
_START_TASKS = Prepared(
    update(Task)
    .where(TASK.run_id == bindparam("run"), TASK.pending == 0, is_(State.WAITING))
    .values(status=State.READY.value, ready_at=bindparam("now"))
)


def start_run(tx: Connection, run: int, now: datetime) -> bool:
    """storing → executing; its tasks without conditions become ready (rule 2). False if it was no longer storing."""
    if not _START.count(tx, run=run, now=now):
        return False
    _START_TASKS.count(tx, run=run, now=now)
    return True


# --- settling what has ended --------------------------------------------------------------------------------

_UNSETTLED_RUNS = Prepared(select(TASK.run_id).where(literal_column("unsettled")).distinct().limit(bindparam("limit")))
_LOCK_RUNS = Prepared(select(RUN.id).where(among(RUN.id, "runs")).order_by(RUN.id).with_for_update(key_share=True))
_UNSETTLED = Prepared(
    select(TASK.id, TASK.status)
    .where(literal_column("unsettled"), among(TASK.run_id, "runs"))
    .order_by(TASK.run_id, TASK.id)
    .limit(bindparam("limit"))
)
_OPEN_CONDITIONS = Prepared(
    select(CONDITION.id, CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome)
    .where(CONDITION.met.is_(None), among(CONDITION.predecessor_id, "tasks"))
    .order_by(CONDITION.predecessor_id, CONDITION.id)
    .limit(bindparam("limit"))
)
_RESOLVE = Prepared(
    update(TaskCondition).where(among(CONDITION.id, "ids"), CONDITION.met.is_(None)).values(met=bindparam("resolved"))
)
_COUNTS = Prepared(
    select(TASK.id, TASK.run_id, TASK.status, TASK.joined, TASK.pending, TASK.met, TASK.impossible)
    .where(among(TASK.id, "tasks"))
    .order_by(TASK.id)
    .with_for_update(key_share=True)
)
_counting = (
    update(Task)
    .where(TASK.id == bindparam("task"))
    .values(
        pending=bindparam("pending"),
        met=bindparam("met"),
        impossible=bindparam("impossible"),
    )
)
_COUNT = Prepared(_counting)
_COUNT_AND_MOVE = Prepared(
    _counting.where(is_(State.WAITING)).values(
        status=bindparam("status_"),
        ready_at=bindparam("ready_at"),
        ended_at=bindparam("ended_at"),
    )
)
_FLAG = Prepared(update(Task).where(among(TASK.id, "tasks")).values(unsettled=bindparam("flag")))
_COUNT_OFF = Prepared(
    update(Run)
    .where(RUN.id == bindparam("run"))
    .values(open_tasks=RUN.open_tasks - bindparam("ended"))
    .returning(RUN.open_tasks, RUN.status)
)
_CLOSE = Prepared(
    update(Run)
    .where(RUN.id == bindparam("run"), RUN.open_tasks == 0, RUN.status == bindparam("was"))
    .values(status=bindparam("verdict"), ended_at=bindparam("now"))
)


def unsettled_runs(tx: Connection, limit: int) -> list[int]:
    """Runs in which a task has ended whose conditions are not all resolved."""
    return [row.run_id for row in _UNSETTLED_RUNS(tx, limit=limit)]


def lock_runs(tx: Connection, runs: Collection[int]) -> None:
    """Make settling of these runs serial until the commit; on SQLite every writing transaction already is."""
    if runs and tx.dialect.name != "sqlite":
        _LOCK_RUNS(tx, runs=runs)


def unsettled(tx: Connection, runs: Collection[int], limit: int) -> dict[int, State]:
    """Ended tasks of the runs, with their states, whose conditions are not all resolved."""
    return {row.id: State(row.status) for row in _UNSETTLED(tx, runs=runs, limit=limit)}


def open_conditions(tx: Connection, tasks: Collection[int], limit: int) -> list[tuple[int, int, int, Outcome]]:
    """Unresolved conditions (id, task, predecessor, outcome) on these predecessors."""
    rows = _OPEN_CONDITIONS(tx, tasks=tasks, limit=limit)
    return [(row.id, row.task_id, row.predecessor_id, Outcome(row.outcome)) for row in rows]


def resolve(tx: Connection, met: Sequence[int], impossible: Sequence[int]) -> None:
    """Write down which conditions came true and which no longer can."""
    for ids, value in ((met, True), (impossible, False)):
        if ids:
            _RESOLVE.count(tx, ids=ids, resolved=value)


def counts(tx: Connection, tasks: Collection[int]) -> Sequence[Any]:
    """The tasks with their numbers of open, met and impossible conditions, locked in the order of their ids."""
    return _COUNTS(tx, tasks=tasks) if tasks else []


def count(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new numbers of conditions; nothing else changes."""
    _COUNT.many(tx, rows)


def count_and_move(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new numbers of conditions and move the waiting tasks to ready or didn't run."""
    _COUNT_AND_MOVE.many(tx, rows)


def flag(tx: Connection, tasks: Collection[int], unsettled: bool) -> None:
    """Mark ended tasks whose conditions are not all resolved yet, or clear the mark."""
    if tasks:
        _FLAG.count(tx, tasks=tasks, flag=unsettled)


def count_off(tx: Connection, run: int, ended: int) -> RunState | None:
    """Count settled tasks off their run; returns the run's state if nothing is open in it any more."""
    (row,) = _COUNT_OFF(tx, run=run, ended=ended)
    state = RunState(row.status)
    return state if row.open_tasks == 0 and state in RUN_OPEN else None


_handler = Task.__table__.alias("handler")  # type: ignore[attr-defined]
_handled = exists(
    select(literal_column("1"))
    .select_from(TaskCondition)
    .join(_handler, _handler.c.id == CONDITION.task_id)
    .where(CONDITION.predecessor_id == TASK.id, literal_column("handles"), _handler.c.status == State.SUCCESS.value)
)
_FAILURES = Prepared(
    select(
        TASK.status,
        TASK.ignore_failure,
        _handled.label("handled"),
        (TASK.status == State.CANCELED.value).label("aborted"),
    ).where(
        TASK.run_id == bindparam("run"),
        is_(State.ERROR, State.CANCELED),
        or_(TASK.status == State.ERROR.value, TASK.claimed_at.is_not(None)),
    )
)


def failures(tx: Connection, run: int) -> Sequence[Any]:
    """The run's tasks that ended in error or were aborted, each with whether a task handled it (rule 7)."""
    return _FAILURES(tx, run=run)


def close_run(tx: Connection, run: int, was: RunState, verdict: RunState, now: datetime) -> bool:
    """Give an empty run its verdict."""
    return bool(_CLOSE.count(tx, run=run, was=was.value, verdict=verdict.value, now=now))


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


_OCCUPANCY = Prepared(
    select(TASK.status, TASK.group_name, TASK.server_id, func.count())
    .where(is_(State.QUEUED, State.EXECUTING))
    .group_by(TASK.status, TASK.group_name, TASK.server_id)
)
_READY = Prepared(
    select(TASK.id, TASK.name, TASK.attempt, TASK.priority, TASK.ready_at, TASK.group_name, RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(is_(State.READY), TASK.group_name == bindparam("group"), TASK.ready_at <= bindparam("now"))
    .order_by(TASK.priority.desc(), TASK.ready_at, TASK.id)
    .limit(bindparam("limit"))
    .with_for_update(of=Task.__table__, skip_locked=True, key_share=True)  # type: ignore[attr-defined]
)
_QUEUE = Prepared(
    update(Task)
    .where(TASK.id == bindparam("task"), is_(State.READY))
    .values(
        status=State.QUEUED.value,
        token=bindparam("token_"),
        queued_at=bindparam("now"),
        server_id=None,
        epoch=None,
        offers=0,
    )
)
_OUT = Prepared(
    select(TASK.id, TASK.token, TASK.group_name, TASK.attempt, TASK.queued_at, TASK.offers, TASK.name, RUN.job)
    .join(Run, RUN.id == TASK.run_id)
    .where(OUT, is_(State.QUEUED))
    .order_by(TASK.queued_at, TASK.id)
)
_TAKE_BACK = Prepared(
    update(Task)
    .where(TASK.id == bindparam("task"), TASK.token == bindparam("held"), is_(State.QUEUED))
    .values(status=State.READY.value, token=None, queued_at=None)
)
_OFFER_AGAIN = Prepared(
    update(Task)
    .where(TASK.id == bindparam("task"), TASK.token == bindparam("held"), is_(State.QUEUED))
    .values(token=bindparam("token_"), queued_at=bindparam("now"), offers=TASK.offers + 1)
)

_NOT_BEFORE = Prepared(
    select(TASK.id, TASK.attempt, TASK.ready_at, TASK.retry_delay).where(
        is_(State.READY), TASK.ready_at > bindparam("now")
    )
)
_HASTEN = Prepared(
    update(Task)
    .where(TASK.id == bindparam("task"), TASK.ready_at == bindparam("held"), is_(State.READY))
    .values(ready_at=bindparam("due"))
)


def occupancy(tx: Connection) -> tuple[dict[int, int], dict[str, int]]:
    """How many tasks each server executes, and how many tickets of each group are out."""
    busy: dict[int, int] = {}
    out: dict[str, int] = {}
    for status, group, server, number in _OCCUPANCY(tx):
        if status == State.EXECUTING.value:
            busy[server] = busy.get(server, 0) + number
        else:
            out[group] = out.get(group, 0) + number
    return busy, out


def ready(tx: Connection, limits: Mapping[str, int], now: datetime) -> list[Any]:
    """The best ready tasks of each group, at most so many of each, best first: priority, then waiting time."""
    rows = [row for group, limit in limits.items() for row in _READY(tx, group=group, limit=limit, now=now)]
    if len(limits) > 1:
        rows.sort(key=lambda row: (-row.priority, row.ready_at, row.id))
    return rows


def queue(tx: Connection, rows: Iterable[Any], now: datetime) -> list[Ticket]:
    """ready → queued, each under a new token; returns the tickets to publish after the commit."""
    tickets = [Ticket(row.id, str(uuid.uuid4()), row.attempt + 1, row.group_name, row.job, row.name) for row in rows]
    _QUEUE.many(tx, [{"task": ticket.task, "token_": ticket.token, "now": now} for ticket in tickets])
    return tickets


def tickets_out(tx: Connection) -> Sequence[Any]:
    """Every ticket that is out, oldest first, with its token, age and how often it was offered."""
    return _OUT(tx)


def take_back(tx: Connection, tickets: Iterable[tuple[int, str]]) -> int:
    """queued → ready for these (task, token); returns how many still were queued."""
    return _TAKE_BACK.many(tx, [{"task": task, "held": token} for task, token in sorted(tickets)])


def offer_again(tx: Connection, rows: Iterable[Any], now: datetime) -> list[Ticket]:
    """Give tickets that seem lost a new token; returns what to publish after the commit."""
    tickets, values = [], []
    for row in rows:
        ticket = Ticket(row.id, str(uuid.uuid4()), row.attempt + 1, row.group_name, row.job, row.name)
        tickets.append(ticket)
        values.append({"task": row.id, "held": row.token, "token_": ticket.token, "now": now})
    _OFFER_AGAIN.many(tx, values)
    return tickets


def not_before(tx: Connection, now: datetime) -> Sequence[Any]:
    """The ready tasks whose instant is still to come, with what that depends on, in the order of their ids."""
    return sorted(_NOT_BEFORE(tx, now=now))


def hasten(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Give ready tasks another instant from which they may start; returns how many still had the one `held`."""
    return _HASTEN.many(tx, rows)


# --- claiming and finishing ---------------------------------------------------------------------------------

_mine = and_(TASK.server_id == bindparam("server"), TASK.epoch == bindparam("epoch_"))
_claimable: Select[Any] = (
    select(TASK.id)
    .where(is_(State.QUEUED), among(TASK.id, "tasks"))
    .where(among(TASK.token, "tokens"))
    .order_by(TASK.id)
    .with_for_update(key_share=True)
)
_DISPATCH = Dispatch.__table__.c  # type: ignore[attr-defined]
_unchanged = select(_DISPATCH.topology).scalar_subquery() == bindparam("version")
_LOCK_TICKETS = Prepared(
    select(TASK.id).where(is_(State.QUEUED), among(TASK.id, "tasks")).order_by(TASK.id).with_for_update(key_share=True)
)
_CLAIM = Prepared(
    update(Task)
    .where(TASK.id.in_(_claimable.scalar_subquery()), is_(State.QUEUED), _unchanged)
    .values(
        status=State.EXECUTING.value,
        attempt=TASK.attempt + 1,
        server_id=bindparam("server"),
        epoch=bindparam("epoch_"),
        claimed_at=bindparam("now"),
        ended_at=None,
        error=None,
    )
)
_CLAIMED = Prepared(
    select(
        TASK.id,
        TASK.token,
        TASK.attempt,
        TASK.operation,
        TASK.args,
        TASK.kwargs,
        TASK.time_limit,
        TASK.name,
        TASK.group_name,
        RUN.job,
        RUN.run_by,
        RUN.company,
    )
    .join(Run, RUN.id == TASK.run_id)
    .where(among(TASK.token, "tokens"), among(TASK.id, "tasks"))
    .where(is_(State.EXECUTING), _mine)
)


def lock_tickets(tx: Connection, tasks: Collection[int]) -> None:
    """Wait until nobody else holds these queued tasks, and hold them; on SQLite a writer is alone anyway."""
    if tx.dialect.name != "sqlite":
        _LOCK_TICKETS(tx, tasks=tasks)


def claim(
    tx: Connection, tickets: Sequence[tuple[int, str]], server: int, epoch: int, version: int, now: datetime
) -> Sequence[Any]:
    """queued → executing on this server for these (task, token); returns the rows that are ours now.

    None is claimed when servers or groups are no longer those of this `version` of the topology. A claim repeated
    after a commit whose reply was lost finds its rows executing under its own tokens: they count.
    """
    tasks, tokens = zip(*tickets, strict=True)
    _CLAIM.count(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch, version=version, now=now)
    return claimed(tx, tickets, server, epoch)


def claimed(tx: Connection, tickets: Sequence[tuple[int, str]], server: int, epoch: int) -> Sequence[Any]:
    """Those of these (task, token) that execute on this server, with all that is needed to start them."""
    tasks, tokens = zip(*tickets, strict=True)
    return _CLAIMED(tx, tasks=tasks, tokens=tokens, server=server, epoch_=epoch)


_HELD = Prepared(
    select(
        TASK.id,
        TASK.run_id,
        TASK.status,
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
_FINISH = Prepared(
    update(Task)
    .where(TASK.id == bindparam("task"), TASK.token == bindparam("held"), is_(State.EXECUTING))
    .values(
        status=bindparam("status_"),
        unsettled=bindparam("flag"),
        ready_at=func.coalesce(bindparam("again_at", type_=TASK.ready_at.type), TASK.ready_at),
        ended_at=bindparam("now"),
        error=bindparam("error_"),
        result=bindparam("result_"),
    )
)
_ATTEMPT = Prepared(
    insert(Attempt).values({column.name: bindparam(column.name) for column in Attempt.__table__.columns})  # type: ignore[attr-defined]
)
_EXECUTING_ON = Prepared(
    select(TASK.id, TASK.token, TASK.attempt, TASK.epoch, TASK.claimed_at)
    .where(OUT, is_(State.EXECUTING), TASK.server_id == bindparam("server"))
    .order_by(TASK.id)
)


def held(tx: Connection, tasks: Collection[int]) -> dict[int, Any]:
    """These tasks as they stand, locked in the order of their ids."""
    return {row.id: row for row in _HELD(tx, tasks=tasks)}


def finish(tx: Connection, rows: Sequence[Mapping[str, Any]], attempts: Sequence[Mapping[str, Any]]) -> None:
    """executing → success, error or ready again, and a row for each attempt."""
    _FINISH.many(tx, rows)
    _ATTEMPT.many(tx, attempts)


def executing_on(tx: Connection, server: int) -> Sequence[Any]:
    """What the server executes, by our books."""
    return _EXECUTING_ON(tx, server=server)


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


# --- the coordinator's questions ----------------------------------------------------------------------------

_ANYTHING_OPEN = Prepared(
    select(
        or_(
            exists(select(TASK.id).where(literal_column("unsettled"))),
            exists(select(TASK.id).where(is_(State.READY))),
            exists(select(TASK.id).where(OUT, is_(State.QUEUED))),
            exists(select(RUN.id).where(STORING)),
        )
    )
)


def anything_open(tx: Connection) -> bool:
    """Whether a tick has anything to move: an end to settle, a task to hand out, a ticket out, a run being stored."""
    ((open_,),) = _ANYTHING_OPEN(tx)
    return bool(open_)


def discard_unstored(tx: Connection, before: datetime, now: datetime) -> list[int]:
    """storing → canceled for runs submitted earlier, whose submit died half-way; returns them."""
    storing = select(RUN.id).where(STORING, RUN.submitted_at < before)
    return [run for run in tx.execute(storing.order_by(RUN.id)).scalars().all() if give_up(tx, run, now)]


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
