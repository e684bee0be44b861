"""Lanes in SQL: the tasks of one group that take the same limits; a lane never changes, so it is read once."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import and_, select

from batchq.core.limits import Lane
from batchq.store.columns import IN_LINE, LANE, LANE_IS_OPEN, TASK
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Lane as LaneRow
from batchq.store.transaction import Tx

PLAIN = "[]"  # the limits of a group's own lane: none


class StoredLane(NamedTuple):
    """A lane's row."""

    id: int
    group_name: str
    limits: str


class ReadyLane(NamedTuple):
    """A lane in which a task is ready, and the highest and the lowest own class of these tasks."""

    id: int
    highest: int
    lowest: int


_LANES = Statement(select(LANE.id, LANE.group_name, LANE.limits).where(among(LANE.id, "lanes")), row=StoredLane)
# One look into the index for each lane. For EXISTS, PostgreSQL would read every ready task and then count the lanes.
_class = select(TASK.own_class).where(IN_LINE, TASK.lane == LANE.id).limit(1)
_highest = _class.order_by(TASK.lane, TASK.own_class.desc()).scalar_subquery()
_lowest = _class.order_by(TASK.lane.desc(), TASK.own_class).scalar_subquery()
_READY = Statement(
    select(LANE.id, _highest.label("highest"), _lowest.label("lowest")).where(LANE_IS_OPEN, _highest.is_not(None)),
    row=ReadyLane,
)


def ready_lanes(tx: Tx) -> Reply[ReadyLane]:
    """Ask for the lanes in which a task is ready; the statement travels with the next ones."""
    return _READY.later(tx)


def lanes_of(tx: Tx, numbers: Iterable[int]) -> Mapping[int, Lane]:
    """These lanes, and others, by their numbers; a number that no lane has gives a lane of no group."""
    known = tx.lanes
    if missing := [number for number in numbers if number not in known]:
        known |= {row.id: _read(row) for row in _LANES(tx, lanes=missing)}
        return known | {number: Lane(number, "") for number in missing if number not in known}
    return known


def _read(row: StoredLane) -> Lane:
    """The lane of a row; one that cannot be read is of no group, so that nothing of it starts."""
    try:
        return Lane(row.id, row.group_name, tuple(map(str, json.loads(row.limits))))
    except (TypeError, ValueError):
        return Lane(row.id, "")


def lanes_for(tx: Tx, wanted: Collection[tuple[str, str, int | None]]) -> dict[tuple[str, str], int]:
    """The numbers of lanes, by group and limits, for (group, limits, run that it ends with); makes those that lack."""
    found = _found(tx, wanted)
    missing = sorted(each for each in set(wanted) if each[:2] not in found)
    if not missing:
        return found
    rows = [{"group_name": group, "limits": limits, "run_id": run} for group, limits, run in missing]
    tx.execute(dialect(tx).insert_if_new(LaneRow), rows)
    return found | _found(tx, missing)


def _found(tx: Tx, wanted: Iterable[tuple[str, str, int | None]]) -> dict[tuple[str, str], int]:
    groups, limits = {group for group, _, _ in wanted}, {limits for _, limits, _ in wanted}
    rows = tx.execute(
        select(LANE.id, LANE.group_name, LANE.limits).where(
            and_(LANE.group_name.in_(sorted(groups)), LANE.limits.in_(sorted(limits)))
        )
    )
    return {(row.group_name, row.limits): row.id for row in rows}
