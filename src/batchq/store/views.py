"""What people read: plain dicts with stable keys, each made by a few set-wise statements.

Times are ISO 8601 in UTC with microseconds (`2026-01-31T12:00:00.123456Z`), durations are seconds, what is
not known is null. Statuses are the words of rule 6. The CLI prints these dicts with `-o json` as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, and_, case, func, literal, select, text

from batchq import clock as world
from batchq.core import secrets, topology, windows
from batchq.core.conditions import Condition, Join, Node, resolution
from batchq.core.lint import lint
from batchq.core.states import NOT_STARTED, RUN_ENDED, RUN_OPEN, TERMINAL, Outcome, State
from batchq.core.topology import Topology
from batchq.core.why import local, waits_for, why_not, why_ready
from batchq.core.windows import format_days, format_time
from batchq.errors import NotFound, unknown
from batchq.store import moves
from batchq.store.columns import (
    CONDITION,
    CONDITIONS_AT,
    GROUP,
    JOB,
    OUT,
    RUN,
    RUN_IS_OPEN,
    SERVER,
    TASK,
    status_in_index,
)
from batchq.store.server import PRIORITIES, seen
from batchq.store.tables import Attempt, Job, Liveness, Run, Server, Task, TaskCondition

T = TypeVar("T")
View = dict[str, Any]

ATTEMPT = Attempt.__table__.c  # type: ignore[attr-defined]
PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}


def iso(instant: datetime | None) -> str | None:
    """`2026-01-31T12:00:00.123456Z`, or None."""
    if instant is None:
        return None
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clock(tx: Connection) -> datetime:
    """The database's clock (rule 20)."""
    instant = tx.execute(_CLOCKS[tx.dialect.name]).scalar_one()
    real = instant if isinstance(instant, datetime) else datetime.fromisoformat(instant)
    return world.clock().show(real.astimezone(UTC))


_CLOCKS = {
    "postgresql": text("SELECT clock_timestamp()"),
    "sqlite": text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')"),
}


# --- why something waits ------------------------------------------------------------------------------------


class Reasons:
    """Says why ready tasks do not start; reads servers and their load once, and only if asked (rule 40).

    Instants are told in the user's `timezone`; without one, in the zone of the window that decides.
    """

    def __init__(self, tx: Connection, now: datetime | None, timezone: str | None = None) -> None:
        self._tx = tx
        self._now = now
        self._timezone = timezone
        self._known: dict[str, str] = {}

    @cached_property
    def now(self) -> datetime:
        return self._now or clock(self._tx)

    @cached_property
    def topology(self) -> Topology:
        return seen(self._tx)

    @cached_property
    def busy(self) -> dict[int, int]:
        """How many tasks each server executes."""
        return moves.occupancy(self._tx)[0]

    def of_group(self, group: str) -> str:
        """Why ready tasks of the group do not start, in one clause."""
        if group not in self._known:
            self._known[group] = why_ready(group, self.topology, self.busy, self.now, self._timezone)
        return self._known[group]

    def of_task(self, task: Any) -> str:
        """Why this ready or queued task does not start, in one clause."""
        if task.attempt and task.ready_at > self.now:
            return f"tries again at {local(task.ready_at, self._timezone or 'UTC', self.now)}"
        return self.of_group(task.group_name)


# --- runs ---------------------------------------------------------------------------------------------------

# What has ended says where itself: its server may be deleted, and another one have its number.
SERVER_NAME = func.coalesce(ATTEMPT.server, SERVER.name).label("server")
_TASK_COLUMNS = (
    TASK.id,
    TASK.name,
    TASK.status,
    TASK.group_name,
    TASK.operation,
    TASK.attempt,
    TASK.joined,
    TASK.ready_at,
    TASK.claimed_at,
    TASK.ended_at,
    TASK.error,
    SERVER_NAME,
)
_BLOCKED = (State.WAITING.value, State.DIDNT_RUN.value)
_EXPLAINED = frozenset({*NOT_STARTED, State.DIDNT_RUN})


def run_view(
    tx: Connection, run: int, now: datetime | None = None, *, timezone: str | None = None, results: bool = True
) -> View:
    """A run with all its tasks in the order of the job; raises NotFound.

    Without `results`, which may be large, they are null. `started_at` is the instant of the claim (rule 20).
    """
    found = _run(tx, run)
    columns = (*_TASK_COLUMNS, TASK.result if results else literal(None).label("result"))
    tasks = tx.execute(_with_server(columns).where(TASK.run_id == run).order_by(TASK.id)).all()
    why = _why(tx, run, tasks, Reasons(tx, now, timezone))
    handled = _handled(tx, run) if any(task.status == State.ERROR for task in tasks) else {}
    return _run_line(found) | {"tasks": [_task(task, why.get(task.id), handled.get(task.id)) for task in tasks]}


def _with_server(columns: Iterable[Any]) -> Select[Any]:
    """Tasks with the server of their last attempt."""
    last = and_(ATTEMPT.task_id == TASK.id, ATTEMPT.attempt == TASK.attempt)
    return select(*columns).select_from(Task).outerjoin(Attempt, last).outerjoin(Server, SERVER.id == TASK.server_id)


def runs(
    tx: Connection, *, job: str | None = None, statuses: Iterable[str] = (), limit: int | None = None
) -> list[View]:
    """The newest runs first, each as `run_view` gives it but with `tasks` counted by status."""
    chosen = select(Run.__table__).order_by(RUN.id.desc()).limit(limit)  # type: ignore[attr-defined]
    if job is not None:
        chosen = chosen.where(RUN.job == job)
    if wanted := list(statuses):
        chosen = chosen.where(RUN.status.in_(wanted))
    rows = tx.execute(chosen).all()
    counts: dict[int, dict[str, int]] = {row.id: {} for row in rows}
    counted = select(TASK.run_id, TASK.status, func.count()).where(TASK.run_id.in_(list(counts)))
    for run, status, number in tx.execute(counted.group_by(TASK.run_id, TASK.status)):
        counts[run][status] = number
    return [_run_line(row) | {"tasks": _in_order(counts[row.id])} for row in rows]


def newest_run(tx: Connection) -> int | None:
    """The number of the newest run."""
    return tx.execute(select(func.max(RUN.id))).scalar()


def _run(tx: Connection, run: int) -> Any:
    found = tx.execute(select(Run.__table__).where(RUN.id == run)).one_or_none()  # type: ignore[attr-defined]
    if found is not None:
        return found
    newest = newest_run(tx)
    raise NotFound(f"No run {run}. " + (f"The newest is {newest}." if newest else "There is no run yet."))


def _run_line(row: Any) -> View:
    return {
        "run": row.id,
        "job": row.job,
        "status": row.status,
        "run_by": row.run_by,
        "company": row.company,
        "submitted_at": iso(row.submitted_at),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
    }


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {state.value: counts[state.value] for state in State if state.value in counts}


def _task(row: Any, why: str | None, handled_by: str | None) -> View:
    state = State(row.status)
    started = state not in NOT_STARTED and row.claimed_at is not None
    return {
        "name": row.name,
        "status": state.value,
        "group": row.group_name,
        "server": row.server if started else None,
        "attempts": row.attempt,
        "operation": row.operation,
        "ready_at": iso(row.ready_at),
        "started_at": iso(row.claimed_at) if started else None,
        "ended_at": iso(row.ended_at) if state in TERMINAL else None,
        "error": row.error,
        "handled_by": handled_by if state is State.ERROR else None,
        "why": why,
        "result": json.loads(row.result) if row.result is not None else None,
    }


def _why(tx: Connection, run: int, tasks: Sequence[Any], reasons: Reasons) -> dict[int, str]:
    """Per task that has not started or didn't run, its reason; linear in tasks and conditions (rule 40)."""
    explained = [task for task in tasks if State(task.status) in _EXPLAINED]
    if not explained:
        return {}
    states = {task.name: State(task.status) for task in tasks}
    names = {task.id: task.name for task in tasks}
    after: dict[int, list[Condition]] = {}
    for row in tx.execute(_conditions(run).where(TASK.status.in_(_BLOCKED))):
        condition = Condition(names[row.predecessor_id], Outcome(row.outcome), row.handles)
        after.setdefault(row.id, []).append(condition)
    found = {}
    for task in explained:
        node = Node(tuple(after.get(task.id, ())), Join(task.joined))
        state = states[task.name]
        if state is State.WAITING:
            found[task.id] = waits_for(node, states)
        elif state is State.DIDNT_RUN:
            found[task.id] = why_not(node, states)
        else:
            found[task.id] = reasons.of_task(task)
    return found


def _conditions(run: int) -> Select[Any]:
    columns = (TASK.id, CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome, CONDITION.handles)
    return (
        select(*columns)
        .select_from(Task)
        .join(TaskCondition, CONDITION.task_id == CONDITIONS_AT)
        .where(TASK.run_id == run)
        .order_by(TASK.id, CONDITION.predecessor_id, CONDITION.outcome)
    )


def _handled(tx: Connection, run: int) -> dict[int, str]:
    """Per task whose failure another one handles, the name of the first that did so with success (rule 7)."""
    rows = tx.execute(
        select(CONDITION.predecessor_id, TASK.name)
        .join(Task, TASK.id == CONDITION.task_id)
        .where(TASK.run_id == run, CONDITION.handles, TASK.status == State.SUCCESS.value)
        .order_by(TASK.id.desc())
    )
    return {row.predecessor_id: row.name for row in rows}


# --- one task -----------------------------------------------------------------------------------------------


def task_view(tx: Connection, run: int, name: str, now: datetime | None = None, *, timezone: str | None = None) -> View:
    """A task as `run_view` gives it, with its run, arguments, conditions and ended attempts with their logs.

    Raises NotFound, with the closest name.
    """
    found = _run(tx, run)
    row = _task_row(tx, run, name)
    after = _after(tx, run, row)
    handled = _handled(tx, run) if row.status == State.ERROR else {}
    return {
        "run": run,
        "job": found.job,
        **_task(row, _why_task(row, after, Reasons(tx, now, timezone)), handled.get(row.id)),
        "args": json.loads(row.args),
        "kwargs": secrets.masked(row.kwargs),
        "priority": PRIORITY_NAMES.get(row.priority, str(row.priority)),
        "retries": row.retries,
        "retry_delay": row.retry_delay,
        "time_limit": row.time_limit,
        "ignore_failure": row.ignore_failure,
        "join": row.joined,
        "after": after,
        "history": [_attempt(attempt) for attempt in _attempts(tx, row.id)],
    }


def _task_row(tx: Connection, run: int, name: str) -> Any:
    statement = _with_server((*Task.__table__.c, SERVER_NAME))  # type: ignore[attr-defined]
    row = tx.execute(statement.where(TASK.run_id == run, TASK.name == name)).one_or_none()
    if row is None:
        known = tx.execute(select(TASK.name).where(TASK.run_id == run).order_by(TASK.id)).scalars()
        raise unknown("task", name, known, advice=f"`batchq task list {run}` shows the tasks of run {run}.")
    return row


def _after(tx: Connection, run: int, row: Any) -> list[View]:
    before = Task.__table__.alias("before")  # type: ignore[attr-defined]
    end = (before.c.status, before.c.claimed_at, before.c.unsettled, before.c.settled_up_to)
    conditions = _conditions(run).add_columns(before.c.name, *end)
    joined = conditions.join(before, before.c.id == CONDITION.predecessor_id).where(TASK.id == row.id)
    return [
        {
            "task": condition.name,
            "outcome": condition.outcome,
            "handles": condition.handles,
            "met": _met(condition),
            "status": condition.status,
        }
        for condition in tx.execute(joined)
    ]


def _met(condition: Any) -> bool | None:
    """Whether the condition came true, by how its predecessor stands; None while it is not resolved."""
    state = State(condition.status)
    if condition.unsettled and condition.task_id > (condition.settled_up_to or 0):
        return None
    # Nothing that waits for a task canceled before it started is looked at any more: it is canceled as well.
    return (
        None
        if state is State.CANCELED and condition.claimed_at is None
        else resolution(Outcome(condition.outcome), state)
    )


def _why_task(row: Any, after: Iterable[View], reasons: Reasons) -> str | None:
    after = list(after)
    node = Node(tuple(Condition(one["task"], Outcome(one["outcome"])) for one in after), Join(row.joined))
    states = {one["task"]: State(one["status"]) for one in after}
    if row.status == State.WAITING:
        return waits_for(node, states)
    if row.status == State.DIDNT_RUN:
        return why_not(node, states)
    return reasons.of_task(row) if row.status in NOT_STARTED else None


def _attempts(tx: Connection, task: int) -> Sequence[Any]:
    statement = select(Attempt.__table__).where(ATTEMPT.task_id == task)  # type: ignore[attr-defined]
    return tx.execute(statement.order_by(ATTEMPT.attempt)).all()


def _attempt(row: Any) -> View:
    return {
        "attempt": row.attempt,
        "server": row.server,
        "status": row.status,
        "started_at": iso(row.claimed_at),
        "ended_at": iso(row.ended_at),
        "error": row.error,
        "log": row.log,
    }


# --- jobs ---------------------------------------------------------------------------------------------------


def jobs(tx: Connection) -> list[View]:
    """All jobs by name: `status` as rule 6 has it (null before the first run), and the newest run."""
    latest = select(RUN.job_id, func.count().label("runs"), func.max(RUN.id).label("run"), _OPEN_RUNS)
    newest = latest.group_by(RUN.job_id).subquery()
    statement = (
        select(JOB.name, JOB.updated_at, newest.c.runs, newest.c.open, _VERDICT, Run.__table__)  # type: ignore[attr-defined]
        .select_from(Job)
        .outerjoin(newest, newest.c.job_id == JOB.id)
        .outerjoin(Run, RUN.id == newest.c.run)
        .order_by(JOB.name)
    )
    return [_job_line(row) for row in tx.execute(statement)]


_OPEN_RUNS = func.sum(case((RUN.status.in_([state.value for state in RUN_OPEN]), 1), else_=0)).label("open")
_ENDED = Run.__table__.alias("ended")  # type: ignore[attr-defined]
_VERDICT = (
    select(_ENDED.c.status)
    .where(_ENDED.c.job_id == JOB.id, _ENDED.c.status.in_([state.value for state in RUN_ENDED]))
    .order_by(_ENDED.c.ended_at.desc(), _ENDED.c.id.desc())
    .limit(1)
    .scalar_subquery()
    .label("verdict")
)


def job_view(tx: Connection, name: str, newest: int = 10) -> View:
    """A job with its newest definition and its `newest` runs; raises NotFound, with the closest name."""
    lines = {line["job"]: line for line in jobs(tx)}
    if name not in lines:
        raise unknown("job", name, lines, advice="`batchq job list` shows all jobs.")
    return lines[name] | {
        "definition": secrets.masked_definition(json.loads(definition(tx, name))),
        "runs": runs(tx, job=name, limit=newest),
    }


def definition(tx: Connection, name: str) -> str:
    """The job's newest definition as JSON; raises NotFound, with the closest name."""
    found = tx.execute(select(JOB.definition).where(JOB.name == name)).scalar()
    if found is None:
        known = tx.execute(select(JOB.name).order_by(JOB.name)).scalars()
        raise unknown("job", name, known, advice="`batchq job list` shows all jobs.")
    return str(found)


def _job_line(row: Any) -> View:
    return {
        "job": row.name,
        "status": "executing" if row.open else row.verdict,
        "updated_at": iso(row.updated_at),
        "run_count": row.runs or 0,
        "last_run": _run_line(row) if row.id is not None else None,
    }


# --- servers and groups -------------------------------------------------------------------------------------


def servers(tx: Connection, now: datetime | None = None) -> list[View]:
    """All servers by name. `threads` is what its windows, or its own number, allow now (rules 16-20)."""
    reasons = Reasons(tx, now)
    rows = tx.execute(select(Server.__table__).order_by(SERVER.name)).all()  # type: ignore[attr-defined]
    return [_server(row, reasons.topology.by_id[row.id], reasons.busy.get(row.id, 0), reasons.now) for row in rows]


def server(tx: Connection, name: str, now: datetime | None = None) -> View:
    """One server as `servers` gives it; raises NotFound, with the closest name."""
    return _named({view["name"]: view for view in servers(tx, now)}, name)


def periods(tx: Connection, name: str, begin: datetime, end: datetime) -> list[View]:
    """How many threads the server's windows give it from `begin` to `end`, without holes (rules 17-21).

    Whether it is disabled, or runs at all, is left aside. Raises NotFound.
    """
    server = _named({server.name: server for server in seen(tx).servers}, name)
    return [
        {"server": name, "start": iso(one.start), "end": iso(one.end), "threads": one.threads}
        for one in windows.periods(server.windows, server.threads, begin, end)
    ]


def _named(servers: Mapping[str, T], name: str) -> T:
    if name not in servers:
        raise unknown("server", name, servers, advice="`batchq server list` shows all servers.")
    return servers[name]


def executing(tx: Connection, server: str) -> list[View]:
    """What runs on the server now, the longest first."""
    columns = (RUN.id.label("run"), RUN.job, TASK.name, TASK.claimed_at)
    joined = select(*columns).join(Run, RUN.id == TASK.run_id).join(Server, SERVER.id == TASK.server_id)
    found = joined.where(OUT, status_in_index(State.EXECUTING), SERVER.name == server).order_by(
        TASK.claimed_at, TASK.id
    )
    return [
        {"run": row.run, "job": row.job, "task": row.name, "started_at": iso(row.claimed_at)}
        for row in tx.execute(found)
    ]


def _server(row: Any, server: topology.Server, busy: int, now: datetime) -> View:
    threads = windows.threads_at(server.windows, server.threads, now)
    if row.liveness == Liveness.RUNNING and row.pool is not None:
        threads = min(threads, row.pool)  # more its worker cannot; and none once it stops
    return {
        "name": row.name,
        "state": server_state(row.liveness, row.enabled, threads, busy),
        "threads": threads,
        "busy": busy,
        "groups": sorted(server.groups),
        "windows": _windows(server, now),
        "next_change": _next_change(server, now),
        "threads_without_windows": row.threads,
        "enabled": row.enabled,
        "host": row.host,
        "pid": row.pid,
        "pool": row.pool,
        "pool_kind": row.pool_kind,
        "started_at": iso(row.started_at),
        "beat_at": iso(row.beat_at),
    }


def _next_change(server: topology.Server, now: datetime) -> View | None:
    """When its threads change, to how many, and the zone of the window that opens then, or closes."""
    change = windows.next_change(server.windows, server.threads, now)
    if change is None:
        return None
    known = [window for window in server.windows if not window.vanished]
    deciding = windows.covering(known, change) or windows.covering(known, change - windows.SECOND) or known
    return {
        "at": iso(change),
        "threads": windows.threads_at(server.windows, server.threads, change),
        "timezone": max(deciding, key=lambda window: window.threads).timezone,
    }


def server_state(liveness: str, enabled: bool, threads: int, busy: int) -> str:
    """`stopped`, `lost`, `disabled`, `draining`, `closed` or `open`: the first that fits (rule 20)."""
    fits = {
        "stopped": liveness == Liveness.STOPPED,
        "lost": liveness == Liveness.LOST,
        "disabled": not enabled,
        "draining": busy > threads,
        "closed": threads == 0,
        "open": True,
    }
    return next(state for state, holds in fits.items() if holds)


def _windows(server: topology.Server, now: datetime) -> list[View]:
    """Its windows, numbered from 1, each with its text and whether it is in force."""
    covering = windows.covering(server.windows, now)
    return [
        {
            "number": number,
            "start": format_time(window.start),
            "end": format_time(window.end),
            "threads": window.threads,
            "timezone": window.timezone,
            "days": format_days(window.days) if window.days is not None else None,
            "date": window.only and window.only.isoformat(),
            "window": str(window),
            "in_force": window in covering,
        }
        for number, window in enumerate(server.windows, 1)
    ]


def groups(tx: Connection, now: datetime | None = None, *, timezone: str | None = None) -> list[View]:
    """All groups by name: what is ready, queued and executing, since when, who may take it, and why not."""
    reasons = Reasons(tx, now, timezone)
    ready = {row.group_name: row for row in tx.execute(_READY)}
    out = {(row.group_name, row.status): row.number for row in tx.execute(_OUT)}
    return [
        {
            "group": row.name,
            "priority": PRIORITY_NAMES.get(row.priority, str(row.priority)),
            "paused": row.paused,
            "ready": ready[row.name].number if row.name in ready else 0,
            "queued": out.get((row.name, State.QUEUED.value), 0),
            "executing": out.get((row.name, State.EXECUTING.value), 0),
            "oldest_ready_at": iso(ready[row.name].oldest) if row.name in ready else None,
            "servers": [server.name for server in reasons.topology.serving(row.name)],
            "why": reasons.of_group(row.name) if row.name in ready else None,
        }
        for row in tx.execute(select(GROUP.name, GROUP.priority, GROUP.paused).order_by(GROUP.name))
    ]


# Two statements, because each has a partial index that holds just these rows.
_READY = (
    select(TASK.group_name, func.count().label("number"), func.min(TASK.ready_at).label("oldest"))
    .where(status_in_index(State.READY))
    .group_by(TASK.group_name)
)
_OUT = (
    select(TASK.group_name, TASK.status, func.count().label("number"))
    .where(status_in_index(State.QUEUED, State.EXECUTING))
    .group_by(TASK.group_name, TASK.status)
)


def status_view(tx: Connection, now: datetime | None = None, *, timezone: str | None = None) -> View:
    """How everything stands: open runs and handed-out tasks counted, servers by state, groups that wait."""
    now = now or clock(tx)
    all_servers, all_groups = servers(tx, now), groups(tx, now, timezone=timezone)
    open_runs = select(RUN.status, func.count().label("number")).where(RUN_IS_OPEN).group_by(RUN.status)
    running = [server for server in all_servers if server["state"] in ("open", "draining")]
    return {
        "now": iso(now),
        "runs": {row.status: row.number for row in tx.execute(open_runs)},
        "tasks": {key: sum(group[key] for group in all_groups) for key in ("ready", "queued", "executing")},
        "servers": dict(Counter(server["state"] for server in all_servers)),
        "threads": sum(server["threads"] for server in running),
        "busy": sum(server["busy"] for server in all_servers),
        "waiting": [group for group in all_groups if group["ready"]],
    }


def problems(tx: Connection, now: datetime | None = None) -> list[str]:
    """What in the set-up of servers and groups starves work silently, a sentence each (rule 15)."""
    names = tx.execute(select(GROUP.name).order_by(GROUP.name)).scalars()
    return lint(seen(tx), names, now or clock(tx))
