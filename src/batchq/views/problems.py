"""Faults in the set-up of servers and groups that starve work silently (rule 15)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from batchq.core.lint import lint
from batchq.store import topology
from batchq.store.columns import GROUP
from batchq.store.transaction import Tx
from batchq.views.instants import clock


def setup_problems(tx: Tx, now: datetime | None = None, timezone: str = "UTC") -> list[str]:
    """Each thing in the set-up of servers and groups that starves work silently, a sentence each (rule 15).

    The end of an override is told in `timezone`.
    """
    names = tx.execute(select(GROUP.name).order_by(GROUP.name)).scalars()
    return lint(topology.read(tx), names, now or clock(tx), timezone)
