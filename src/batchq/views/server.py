"""A server as people read it: its state, its threads now and to come, and what it executes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict, TypeVar

from sqlalchemy import select

from batchq.core import topology as core
from batchq.core import windows
from batchq.core.override import Override
from batchq.core.states import State
from batchq.core.windows import format_days, format_time
from batchq.store import topology
from batchq.store.columns import OUT, RUN, SERVER, TASK, status_in_index
from batchq.store.find import no_such
from batchq.store.tables import Liveness, Run, Server
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Selected
from batchq.views.why import Reasons

T = TypeVar("T")


class WindowView(TypedDict):
    """A window of a server, numbered from 1; `window` is its text."""

    number: int
    start: str
    end: str
    threads: int
    timezone: str
    days: list[str] | None
    date: str | None
    window: str
    in_force: bool


class OverrideView(TypedDict):
    """An override of a server's windows, by whom and why; `until` is null if its row cannot be read (rule 51)."""

    threads: int
    until: str | None
    by: str
    why: str


class NextChange(TypedDict):
    """When a server's threads change, to how many, and the zone of the window that decides; UTC if none does."""

    at: str
    threads: int
    timezone: str


class ServerView(TypedDict):
    """A server; `threads` is what its override, its windows, or its own number, allow now (rules 16-20, 51)."""

    name: str
    state: str
    threads: int
    busy: int
    groups: list[str]
    windows: list[WindowView]
    override: OverrideView | None
    next_change: NextChange | None
    threads_without_windows: int
    enabled: bool
    host: str | None
    pid: int | None
    pool: int | None
    pool_kind: str | None
    started_at: str | None
    beat_at: str | None


class PeriodView(TypedDict):
    """How many threads a server has from `start` to `end`, and the override that says so, if one does."""

    server: str
    start: str
    end: str
    threads: int
    override: OverrideView | None


class ExecutingView(TypedDict):
    """A task that a server executes."""

    run: int
    job: str
    task: str
    started_at: str | None


def servers(tx: Tx, now: datetime | None = None) -> list[ServerView]:
    """All servers by name. `threads` is what may run there now (rules 16-20, 51)."""
    reasons = Reasons(tx, now)
    rows = tx.execute(select(*_SHOWN).order_by(SERVER.name)).all()
    return [_view(row, reasons.topology.by_id[row.id], reasons.busy.get(row.id, 0), reasons.now) for row in rows]


def server_view(tx: Tx, name: str, now: datetime | None = None) -> ServerView:
    """One server as `servers` gives it; raises NotFound, with the closest name."""
    return _named({view["name"]: view for view in servers(tx, now)}, name)


def periods(tx: Tx, name: str, begin: datetime, end: datetime) -> list[PeriodView]:
    """How many threads a server has from `begin` to `end` by its override and windows, without holes (rules 17-21, 51).

    It does not matter whether the server is disabled, or runs at all. Raises NotFound.
    """
    server = _named({server.name: server for server in topology.read(tx).servers}, name)
    return [
        {
            "server": name,
            "start": iso(one.start),
            "end": iso(one.end),
            "threads": one.threads,
            "override": override_view(server.overridden(one.start)),
        }
        for one in server.periods(begin, end)
    ]


# The topology has the override: an unreadable one must not keep the other servers from being shown.
_SHOWN = [column for column in SERVER if not column.name.startswith("override_")]


def override_view(override: Override | None) -> OverrideView | None:
    """The override for people, if there is one."""
    if override is None:
        return None
    until = iso(override.until) if override.readable else None
    return {"threads": override.threads, "until": until, "by": override.by, "why": override.why}


def _named(servers: Mapping[str, T], name: str) -> T:
    if name not in servers:
        raise no_such("server", name, servers)
    return servers[name]


def executing(tx: Tx, server: str) -> list[ExecutingView]:
    """The tasks that the server executes now, the longest first."""
    columns = (RUN.id.label("run"), RUN.job, TASK.name, TASK.claimed_at)
    joined = select(*columns).join(Run, RUN.id == TASK.run_id).join(Server, SERVER.id == TASK.server_id)
    found = joined.where(OUT, status_in_index(State.EXECUTING), SERVER.name == server).order_by(
        TASK.claimed_at, TASK.id
    )
    return [
        {"run": row.run, "job": row.job, "task": row.name, "started_at": iso(row.claimed_at)}
        for row in tx.execute(found)
    ]


def _view(row: Selected, server: core.Server, busy: int, now: datetime) -> ServerView:
    threads = server.threads_at(now)
    if row.liveness == Liveness.RUNNING and row.pool is not None:
        threads = min(threads, row.pool)  # its worker can run no more, and none once it stops
    return {
        "name": row.name,
        "state": server_state(row.liveness, row.enabled, threads, busy),
        "threads": threads,
        "busy": busy,
        "groups": sorted(server.groups),
        "windows": _windows(server, now),
        "override": override_view(server.overridden(now)),
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


def _next_change(server: core.Server, now: datetime) -> NextChange | None:
    """When its threads change, to how many, and the zone of the window that decides."""
    change = server.next_change(now)
    if change is None:
        return None
    readable = [window for window in server.windows if not window.vanished]
    deciding = windows.covering(readable, change) or windows.covering(readable, change - windows.SECOND) or readable
    return {
        "at": iso(change),
        "threads": server.threads_at(change),
        "timezone": max(deciding, key=lambda window: window.threads).timezone if deciding else "UTC",
    }


def _windows(server: core.Server, now: datetime) -> list[WindowView]:
    """Its windows, numbered from 1, each with its text and whether it is in force: none beside an override."""
    covering = windows.covering(server.windows, now) if server.overridden(now) is None else []
    return [
        {
            "number": number,
            "start": format_time(window.start),
            "end": format_time(window.end),
            "threads": window.threads,
            "timezone": window.timezone,
            "days": format_days(window.days) if window.days is not None else None,
            "date": window.only.isoformat() if window.only else None,
            "window": str(window),
            "in_force": window in covering,
        }
        for number, window in enumerate(server.windows, 1)
    ]
