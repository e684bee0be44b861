"""A group as people read it: its ready and handed-out tasks, who may take them, and why nobody does."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from sqlalchemy import func, select

from batchq.core.priority import PRIORITY_NAMES
from batchq.core.states import State
from batchq.store.columns import GROUP, IN_LINE, LANE, TASK, status_in_index
from batchq.store.tables import Lane
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.why import Reasons


class GroupView(TypedDict):
    """A group; `per_run` is the most of its tasks that a run may have at once, `why` is null if none of it is ready."""

    group: str
    priority: str
    per_run: int | None
    paused: bool
    ready: int
    queued: int
    executing: int
    oldest_ready_at: str | None
    servers: list[str]
    why: str | None


def groups(tx: Tx, now: datetime | None = None, *, timezone: str | None = None) -> list[GroupView]:
    """All groups by name: tasks ready, queued and executing, since when, who may take them, and why nobody does."""
    reasons = Reasons(tx, now, timezone)
    ready = {row.group_name: row for row in tx.execute(_READY)}
    out = {(row.group_name, row.status): row.number for row in tx.execute(_OUT)}
    return [
        {
            "group": row.name,
            "priority": PRIORITY_NAMES.get(row.priority, str(row.priority)),
            "per_run": row.per_run,
            "paused": row.paused,
            "ready": ready[row.name].number if row.name in ready else 0,
            "queued": out.get((row.name, State.QUEUED.value), 0),
            "executing": out.get((row.name, State.EXECUTING.value), 0),
            "oldest_ready_at": iso(ready[row.name].oldest) if row.name in ready else None,
            "servers": [server.name for server in reasons.topology.serving(row.name)],
            "why": reasons.of_group(row.name) if row.name in ready else None,
        }
        for row in tx.execute(select(GROUP.name, GROUP.priority, GROUP.per_run, GROUP.paused).order_by(GROUP.name))
    ]


# Two statements, because each has a partial index that holds just these rows.
_READY = (
    select(LANE.group_name, func.count().label("number"), func.min(TASK.ready_at).label("oldest"))
    .join(Lane, LANE.id == TASK.lane)
    .where(IN_LINE)
    .group_by(LANE.group_name)
)
_OUT = (
    select(LANE.group_name, TASK.status, func.count().label("number"))
    .join(Lane, LANE.id == TASK.lane)
    .where(status_in_index(State.QUEUED, State.EXECUTING))
    .group_by(LANE.group_name, TASK.status)
)
