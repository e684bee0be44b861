"""Finish: how attempts ended is stored, and tasks succeed, fail or become ready again (rules 30-32)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from batchq.core.ends import Failure, Success
from batchq.core.states import RunState, State, after_attempt
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
    rows, attempts, held, found = [], [], [], Finished()
    standing = {row.id: row for row in locked.rows}
    for report in reports:
        row = standing.get(report.task)
        if row is None or (row.token, row.server_id, row.epoch) != (report.token, life.server, life.epoch):
            found.stale += 1
        elif row.status == State.EXECUTING:
            state = _state_after(report, row)
            standing[report.task] = row._replace(status=state)
            if state is State.READY:
                found.again += 1
                held += [report.task] if row.held else []
            else:
                found.ends[report.task] = state
            rows.append(_outcome(report, state, row, now, flag=report.task in found.ends and not settling))
            attempts.append(_attempt(report, life, row, now))
    if rows:
        moves.write_outcomes(tx, rows, attempts, now)
        moves.put_aside(tx, held)
    return found


def _state_after(report: Report, row: LockedTask) -> State:
    end = report.end
    return after_attempt(
        ok=isinstance(end, Success),
        attempt=row.attempt,
        retries=row.retries,
        canceling=row.run_status == RunState.CANCELING,
        final=isinstance(end, Failure) and end.final,
    )


def _outcome(report: Report, state: State, row: LockedTask, now: datetime, *, flag: bool) -> dict[str, object]:
    """The task's row after this report, as `moves.write_outcomes` takes it."""
    end = report.end
    return {
        "task": report.task,
        "standing": report.token,
        "state": state.value,
        "flag": flag,
        "again": now + timedelta(seconds=row.retry_delay) if state is State.READY else None,
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
