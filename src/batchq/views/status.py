"""How everything stands, in one view."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TypedDict

from sqlalchemy import func, select

from batchq.store.columns import RUN, RUN_IS_OPEN
from batchq.store.transaction import Tx
from batchq.views.group import GroupView, groups
from batchq.views.instants import clock, iso
from batchq.views.server import servers


class StatusView(TypedDict):
    """Open runs and handed-out tasks counted, servers by state, and the groups that wait."""

    now: str
    runs: dict[str, int]
    tasks: dict[str, int]
    servers: dict[str, int]
    threads: int
    busy: int
    waiting: list[GroupView]


def status_view(tx: Tx, now: datetime | None = None, *, timezone: str | None = None) -> StatusView:
    """How everything stands: open runs and handed-out tasks counted, servers by state, groups that wait."""
    now = now or clock(tx)
    all_servers, all_groups = servers(tx, now), groups(tx, now, timezone=timezone)
    open_runs = select(RUN.status, func.count().label("number")).where(RUN_IS_OPEN).group_by(RUN.status)
    running = [server for server in all_servers if server["state"] in ("open", "draining")]
    return {
        "now": iso(now),
        "runs": {row.status: row.number for row in tx.execute(open_runs)},
        "tasks": {
            "ready": sum(group["ready"] for group in all_groups),
            "queued": sum(group["queued"] for group in all_groups),
            "executing": sum(group["executing"] for group in all_groups),
        },
        "servers": dict(Counter(server["state"] for server in all_servers)),
        "threads": sum(server["threads"] for server in running),
        "busy": sum(server["busy"] for server in all_servers),
        "waiting": [group for group in all_groups if group["ready"]],
    }
