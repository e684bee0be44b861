"""An operator's retry in SQL: tasks go back to waiting, and an ended run opens again (rules 33, 52, 54)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, bindparam, case, func, literal_column, or_, select, update

from batchq.core.states import RUN_ENDED, TERMINAL, Reason, RunState, State
from batchq.store.columns import (
    ATTEMPT,
    CONDITION,
    CONDITIONS_AT,
    GROUP,
    JOB,
    LANE,
    RUN,
    TASK,
    status_in_index,
    status_is,
    task_id,
)
from batchq.store.lane import PLAIN
from batchq.store.moves.becoming import becomes, run_becomes
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Id, NoRow, Reply, Statement
from batchq.store.tables import Group, Lane, Run, TaskRow
from batchq.store.transaction import Tx


class RetriedRun(NamedTuple):
    """A run that is to be retried: its state, what a retry left there that is under way, and its retries so far."""

    id: int
    job_id: int
    job: str
    status: str
    retry: str | None
    verdicts: int
    held: bool
    ended_at: datetime | None


class RetriedTask(NamedTuple):
    """A task of such a run. `started` is false for one that was canceled with its run."""

    id: int
    name: str
    status: str
    joined: str
    keeper: int
    gate: bool
    unnamed: bool
    started: bool
    unsure: bool


class RetriedCondition(NamedTuple):
    """A condition of such a run."""

    predecessor_id: int
    task_id: int
    outcome: str


class WaitingTask(NamedTuple):
    """A waiting task, with the numbers of its conditions."""

    id: int
    joined: str
    gate: bool
    pending: int
    met: int
    impossible: int


class RetryingRun(NamedTuple):
    """A run with a retry that is under way, and its mark."""

    id: int
    retry: str


# --- looks --------------------------------------------------------------------------------------------------

_run = select(RUN.id, RUN.job_id, RUN.job, RUN.status, RUN.retry, RUN.verdicts, RUN.held, RUN.ended_at).where(
    RUN.id == bindparam("run")
)
_RUN = Statement(_run, row=RetriedRun)
# As every action of an operator, it waits for whoever moves the run's rows in pieces.
_LOCK_RUN = Statement(_run.with_for_update(), row=RetriedRun)
_LOCK_JOB = Statement(select(JOB.id).where(JOB.id == bindparam("job")).with_for_update(key_share=True))
# Nobody knows whether such an attempt did its work (rule 52).
_DOUBTFUL = (Reason.LOST, Reason.TIMED_OUT, Reason.ABORTED)
# For EXISTS, PostgreSQL would read all attempts once.
_doubtful = (
    select(ATTEMPT.attempt)
    .where(ATTEMPT.task_id == TASK.id, ATTEMPT.attempt == TASK.attempt)
    .where(or_(*(ATTEMPT.reason == reason.value for reason in _DOUBTFUL)), ~ATTEMPT.repeatable)
    .limit(1)
    .correlate(TaskRow.__table__)
    .scalar_subquery()
    .is_not(None)
)
_task = select(
    TASK.id,
    TASK.name,
    TASK.status,
    TASK.joined,
    CONDITIONS_AT.label("keeper"),
    TASK.gate,
    TASK.unnamed,
    TASK.claimed_at.is_not(None).label("started"),
    and_(~TASK.repeatable, _doubtful).label("unsure"),
).order_by(TASK.id)
_TASKS = Statement(_task.where(TASK.run_id == bindparam("run")), row=RetriedTask)
_SOME_TASKS = Statement(_task.where(among(TASK.id, "tasks")), row=RetriedTask)
_LOCK_TASKS = Statement(
    select(TASK.id).where(among(TASK.id, "tasks")).order_by(TASK.id).with_for_update(key_share=True)
)
_CONDITIONS = Statement(
    select(CONDITION.predecessor_id, CONDITION.task_id, CONDITION.outcome).where(
        CONDITION.predecessor_id >= bindparam("first", type_=CONDITION.predecessor_id.type),
        CONDITION.predecessor_id < bindparam("end", type_=CONDITION.predecessor_id.type),
    ),
    row=RetriedCondition,
)
_UNSETTLED = Statement(
    select(TASK.id).where(literal_column("unsettled"), TASK.run_id == bindparam("run")).limit(1), row=Id
)

_RETRYING = Statement(select(RUN.id, RUN.retry).where(RUN.retry.is_not(None)).order_by(RUN.id), row=RetryingRun)


def run_to_retry(tx: Tx, run: int) -> RetriedRun:
    """The run, not locked."""
    (row,) = _RUN(tx, run=run)
    return row


def lock_run_to_retry(tx: Tx, run: RetriedRun) -> RetriedRun:
    """Lock the job and then the run, and read it again; who would start another run of the job waits."""
    _LOCK_JOB.later(tx, job=run.job_id)
    (row,) = _LOCK_RUN(tx, run=run.id)
    return row


def is_unsettled(tx: Tx, run: int) -> bool:
    """Whether an end in the run is not settled yet."""
    return bool(_UNSETTLED(tx, run=run))


def tasks_to_retry(tx: Tx, run: int) -> list[RetriedTask]:
    """All tasks of the run."""
    return _TASKS(tx, run=run)


def tasks_to_reset(tx: Tx, tasks: Collection[int]) -> list[RetriedTask]:
    """These tasks as they are now."""
    return _SOME_TASKS(tx, tasks=tasks)


def lock_to_reset(tx: Tx, tasks: Collection[int]) -> None:
    """Lock these tasks in the order of their ids: dispatch may hand them out without the lock of their run."""
    _LOCK_TASKS.later(tx, tasks=tasks)


def conditions_to_retry(tx: Tx, run: int) -> list[RetriedCondition]:
    """All conditions of the run, each under the task that keeps it."""
    return _CONDITIONS(tx, first=task_id(run, 0), end=task_id(run + 1, 0))


# --- tasks go back ------------------------------------------------------------------------------------------

_RESET = [becomes(state, State.WAITING) for state in (*sorted(TERMINAL), State.READY)]
_READIED = becomes(State.WAITING, State.READY)
_ENDED = becomes(State.WAITING, State.SUCCESS, State.DIDNT_RUN)

_lane_of_group = (
    select(LANE.id)
    .where(LANE.group_name == TASK.group_name, LANE.limits == literal_column(f"'{PLAIN}'"))
    .correlate(TaskRow.__table__)
    .scalar_subquery()
)
_GO_BACK = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), status_in_index(State.WAITING, *(move.before for move in _RESET)))
    .values(status=State.WAITING.value, retried_at=TASK.attempt, retry_after=None)
    .values(unsettled=False, settled_up_to=None, aside=False, abort=False, accepted=None)
    .values(token=None, offers=0, server_id=None, epoch=None, error=None, result=None)
    .values(ready_at=None, queued_at=None, claimed_at=None, ended_at=None)
    # A task that had ended before there were lanes is in none.
    .values(lane=case((TASK.lane == 0, func.coalesce(_lane_of_group, 0)), else_=TASK.lane))
)
_READY = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), _READIED.standing)
    .values(status=_READIED.status, ready_at=bindparam("now"), aside=bindparam("held"))
)
_END = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"), _ENDED.standing)
    .values(status=bindparam("state"), ended_at=bindparam("now"), unsettled=True, accepted=bindparam("said"))
)
_keeper = TaskRow.__table__.alias("keeper")
_WAITING = Statement(
    select(TASK.id, TASK.joined, TASK.gate, _keeper.c.pending, _keeper.c.met, _keeper.c.impossible)
    .join(_keeper, _keeper.c.id == CONDITIONS_AT)
    .where(TASK.run_id == bindparam("run"), status_is(State.WAITING))
    .order_by(TASK.id),
    row=WaitingTask,
)


def go_back(tx: Tx, tasks: Collection[int]) -> Reply[NoRow]:
    """Any state but queued and executing → waiting, as before the first attempt; attempts go on counting.

    A late report of an earlier attempt finds its token gone.
    """
    return _GO_BACK.later(tx, tasks=tasks)


def make_ready(tx: Tx, tasks: Collection[int], held: bool, now: datetime) -> None:
    """waiting → ready for these tasks of a run; aside if it is held."""
    if tasks:
        _READY.later(tx, tasks=tasks, held=held, now=now)


def end_at_once(tx: Tx, tasks: Collection[int], state: State, now: datetime, said: str | None = None) -> None:
    """waiting → success or didn't run, still to be settled; `said` is by whom and why tasks were accepted."""
    if tasks:
        _END.later(tx, tasks=tasks, state=state.value, now=now, said=said)


def waiting(tx: Tx, run: int) -> list[WaitingTask]:
    """The waiting tasks of the run."""
    return _WAITING(tx, run=run)


# --- the run ------------------------------------------------------------------------------------------------

_OPENED = [run_becomes(state, RunState.EXECUTING) for state in sorted(RUN_ENDED)]


def mark(tx: Tx, run: int, retry: str | None) -> None:
    """Note in the run what is left of a retry; None if nothing is."""
    tx.execute(update(Run).where(RUN.id == run).values(retry=retry))


def open_again(tx: Tx, run: int, tasks: int) -> None:
    """An ended run → executing, with so many open tasks; an executing one gets so many more (rule 33h)."""
    states = [RunState.EXECUTING.value, *(move.before.value for move in _OPENED)]
    statement = update(Run).where(RUN.id == run, RUN.status.in_(states))
    tx.execute(update(Lane).where(LANE.run_id == run, LANE.closed).values(closed=False))
    opened = {"status": RunState.EXECUTING.value, "ended_at": None, "verdicts": RUN.verdicts + 1}
    tx.execute(statement.values(open_tasks=RUN.open_tasks + tasks, **opened))


def groups_lacking(tx: Tx, run: int) -> list[str]:
    """The groups of the run's tasks that have been deleted since."""
    names = select(TASK.group_name).where(TASK.run_id == run).distinct()
    lacking = names.outerjoin(Group, GROUP.name == TASK.group_name).where(GROUP.name.is_(None))
    return sorted(tx.execute(lacking).scalars())


def runs_retrying(tx: Tx) -> list[RetryingRun]:
    """The runs with a retry that is under way."""
    return _RETRYING(tx)
