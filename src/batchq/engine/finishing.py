"""Finish: how attempts ended is stored, and tasks succeed, fail, are canceled or become ready again (rules 30-32)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from batchq.core import retries
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason, RunState, State, after_attempt
from batchq.engine.aborting import as_aborted
from batchq.engine.flush import Life, Report
from batchq.store import moves
from batchq.store.moves import LockedTask
from batchq.store.sql.statement import Reply
from batchq.store.transaction import Tx


@dataclass(slots=True)
class Finished:
    """The fate of reports: which tasks ended, how many are to be repeated, and how many reports were stale."""

    ends: dict[int, State] = field(default_factory=dict)
    again: int = 0
    stale: int = 0


def finish(
    tx: Tx, life: Life, reports: Iterable[Report], locked: Reply[LockedTask], now: datetime, *, settling: bool = False
) -> Finished:
    """Store how attempts ended, each guarded by its token and epoch.

    The caller locked the runs and then the tasks (`moves.locked`). Ended tasks are marked as unsettled, unless the
    caller is `settling` them in this transaction. A report repeated after a commit whose reply was lost finds its own
    work done; it is not stale.
    """
    held, marked, outcomes, found = [], [], moves.Outcomes(), Finished()
    standing = {row.id: row for row in locked.rows}
    for report in reports:
        row = standing.get(report.task)
        if row is None or (row.token, row.server_id, row.epoch) != (report.token, life.server, life.epoch):
            found.stale += 1
        elif row.status == State.EXECUTING:
            if row.abort:
                report = as_aborted(report)
                marked.append(report.task)
            state = _state_after(report, row)
            standing[report.task] = row._replace(status=state)
            if state is State.READY:
                found.again += 1
                held += [report.task] if row.held else []
                outcomes.again.append(_again(report, row, now))
            else:
                found.ends[report.task] = state
            outcomes.tasks.append(_outcome(report, state, flag=report.task in found.ends and not settling))
            if isinstance(report.end, Failure):
                outcomes.failed.append(_attempt(report, life, row, now) | _failure(report, report.end))
            else:
                outcomes.succeeded.append(_attempt(report, life, row, now))
    if outcomes.tasks:
        moves.write_outcomes(tx, outcomes, now)
        moves.put_aside(tx, held)
    moves.clear_aborts(tx, marked)
    return found


def _state_after(report: Report, row: LockedTask) -> State:
    end = report.end
    return after_attempt(
        ok=isinstance(end, Success),
        attempt=row.attempt - row.retried_at,
        retries=row.retries,
        canceling=row.run_status == RunState.CANCELING,
        final=isinstance(end, Failure) and not retries.is_tried_again(retries.read(row.policy), end),
        aborted=isinstance(end, Failure) and end.reason is Reason.ABORTED,
    )


def _again(report: Report, row: LockedTask, now: datetime) -> dict[str, object]:
    """When the task is tried again: the wait is stored with it, as nobody else can tell it from a clock set back."""
    retry, policy = row.attempt - row.retried_at, retries.read(row.policy)
    wait = retries.wait(retry, row.retry_delay, policy, report.token)
    return {"task": report.task, "standing": report.token, "due": now + timedelta(seconds=wait), "wait": wait}


def _outcome(report: Report, state: State, *, flag: bool) -> dict[str, object]:
    """The task's row after this report, as `moves.write_outcomes` takes it."""
    end = report.end
    return {
        "task": report.task,
        "standing": report.token,
        "state": state.value,
        "flag": flag,
        "reason": end.error if isinstance(end, Failure) else None,
        "value": end.result if isinstance(end, Success) else None,
    }


def _attempt(report: Report, life: Life, row: LockedTask, now: datetime) -> dict[str, object]:
    failure = report.end if isinstance(report.end, Failure) else None
    return {
        "task_id": report.task,
        "attempt": row.attempt,
        "server": life.name,
        "epoch": life.epoch,
        "status": State.ERROR.value if failure else State.SUCCESS.value,
        "reason": failure.reason.value if failure else None,
        "claimed_at": row.claimed_at,
        "ended_at": now,
        "error": failure.error if failure else None,
        "log": report.log,
    }


def _failure(report: Report, failure: Failure) -> dict[str, object]:
    """The part of an attempt's row that only a failure has."""
    classes = retries.classes_of(failure)
    return {"error_class": classes[0] if classes else None, "repeatable": report.repeatable}
