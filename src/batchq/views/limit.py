"""A named limit as people read it: its units, how many are in use, and what waits for one (rule 29)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import TypedDict

from sqlalchemy import func, select

from batchq.core.json import JSON
from batchq.core.limits import named
from batchq.store import moves
from batchq.store.columns import IN_LINE, JOB, TASK
from batchq.store.lane import lanes_of
from batchq.store.limit import limits as stored_limits
from batchq.store.transaction import Tx
from batchq.views.instants import iso


class LimitView(TypedDict):
    """A limit; `waiting` are ready tasks that take a unit, `jobs` those whose newest definition names it."""

    limit: str
    units: int
    in_use: int
    waiting: int
    oldest_ready_at: str | None
    jobs: list[str]


def limits(tx: Tx) -> list[LimitView]:
    """All named limits by name: their units, tasks that have one or wait for one, and the jobs that name them."""
    _, executing, out = moves.occupancy(tx)
    ready = {row.lane: row for row in tx.execute(_READY)}
    lanes = lanes_of(tx, {*executing, *out, *ready})
    in_use: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    oldest: dict[str, datetime] = {}
    for lane in {*executing, *out, *ready}:
        for key in lanes[lane].keys:
            in_use[key] += executing.get(lane, 0) + out.get(lane, 0)
            if lane in ready:
                waiting[key] += ready[lane].number
                oldest[key] = min(oldest.get(key, ready[lane].oldest), ready[lane].oldest)
    jobs = _jobs(tx)
    return [
        {
            "limit": name,
            "units": units,
            "in_use": in_use[named(name)],
            "waiting": waiting[named(name)],
            "oldest_ready_at": iso(oldest.get(named(name))),
            "jobs": sorted(jobs[name]),
        }
        for name, units in stored_limits(tx).items()
    ]


_READY = (
    select(TASK.lane, func.count().label("number"), func.min(TASK.ready_at).label("oldest"))
    .where(IN_LINE)
    .group_by(TASK.lane)
)


def limit_names(lane_keys: Iterable[str]) -> list[str]:
    """The named limits among the keys of a lane."""
    prefix = named("")
    return sorted(key.removeprefix(prefix) for key in lane_keys if key.startswith(prefix))


def _jobs(tx: Tx) -> defaultdict[str, set[str]]:
    """The jobs whose newest definition names a limit, by limit."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in tx.execute(select(JOB.name, JOB.definition).where(JOB.definition.contains('"limits"'))):
        for limit in _named_in(json.loads(row.definition)):
            found[limit].add(row.name)
    return found


def _named_in(definition: dict[str, JSON]) -> Iterable[str]:
    tasks = definition.get("tasks")
    for part in [definition, *(tasks if isinstance(tasks, list) else [])]:
        named_here = part.get("limits") if isinstance(part, dict) else None
        yield from map(str, named_here if isinstance(named_here, list) else [])
