"""Sorting: tasks of a group that got a limit for each run move to the lanes of their runs, in pieces (rule 29)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence

from batchq.core.limits import of_run, written
from batchq.store import lane as lanes
from batchq.store import moves
from batchq.store.lane import StoredLane
from batchq.store.moves.sorting import Unsorted, move_to_lane, unsorted_now, unsorted_of_run, unsorted_runs
from batchq.store.transaction import Tx

# Tasks that one transaction moves, and runs whose lanes it closes.
TASKS_AT_ONCE = 2_000
RUNS_AT_ONCE = 100


def sort_now(tx: Tx, groups: Collection[str]) -> bool:
    """Move tasks of these groups that are ready or out to the lanes of their runs; True if more may be left.

    Nothing ready starts before that. A task that another transaction has locked is left for the next tick.
    """
    standing = lanes.lanes_of_no_run(tx, groups) if groups else []
    if not standing:
        return False
    rows = unsorted_now(tx, [row.id for row in standing], TASKS_AT_ONCE)
    _move(tx, rows, standing)
    return len(rows) >= TASKS_AT_ONCE


def runs_to_sort(tx: Tx, groups: Collection[str]) -> list[int]:
    """The runs with tasks of these groups that have not started, and are in no lane of their run."""
    standing = lanes.lanes_of_no_run(tx, groups)
    return unsorted_runs(tx, [row.id for row in standing]) if standing else []


def sort_run(tx: Tx, run: int, groups: Collection[str], first: int = 0) -> int | None:
    """Move the next tasks of a run that have not started; returns the id to go on from, or None at its end."""
    moves.lock_runs(tx, [run])
    standing = lanes.lanes_of_no_run(tx, groups)
    rows = unsorted_of_run(tx, run, [row.id for row in standing], first, TASKS_AT_ONCE)
    _move(tx, rows, standing)
    return rows[-1].id + 1 if len(rows) == TASKS_AT_ONCE else None


def _move(tx: Tx, rows: Sequence[Unsorted], standing: Sequence[StoredLane]) -> None:
    """Move tasks to lanes that have the limits of theirs, and that of their run."""
    before = {row.id: row for row in standing}
    tasks: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)
    for row in rows:
        lane = before[row.lane]
        keys = written([*json.loads(lane.limits), of_run(row.run_id)])
        tasks[lane.group_name, keys, row.run_id].append(row.id)
    made = lanes.lanes_for(tx, list(tasks)) if tasks else {}
    for (group, keys, _), numbers in tasks.items():
        move_to_lane(tx, numbers, made[group, keys])


def close_lanes(tx: Tx) -> None:
    """Close the lanes of runs that have ended, so that dispatch looks at them no more."""
    if runs := lanes.runs_to_close(tx, RUNS_AT_ONCE):
        moves.lock_runs(tx, runs)
        if ended := lanes.runs_to_close(tx, RUNS_AT_ONCE, runs):  # one may have been opened again
            lanes.close_lanes(tx, ended)
