"""How busy servers are and which tickets are out, on each kind of database, against a count of all rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

import pytest
from sqlalchemy import select, update

from batchq import Job
from batchq.store import moves
from batchq.store.columns import TASK
from batchq.store.tables import TaskRow
from play import Clocked, Play

STATUSES = ("ready", "queued", "executing", "executing", "executing", "success")
GROUPS = ("default", "BG1", "BG2")


def scatter(database: Clocked, rng: random.Random, tasks: int) -> list[int]:
    """Tasks of a run in any state, on any server or on none; returns their ids."""
    job = Job("J")
    for number in range(tasks):
        job.task(f"T{number}", "demo.work", group=rng.choice(GROUPS))
    Play(database).submit(job)

    def act(tx) -> list[int]:
        found = list(tx.execute(select(TASK.id)).scalars())
        for task in found:
            status, server = rng.choice(STATUSES), rng.choice([None, 1, 2, 30, 2**40])
            values = {"status": status, "server_id": None if status == "queued" else server}
            tx.execute(update(TaskRow).where(TASK.id == task).values(values))
        return found

    return database.run(act)


def by_hand(database: Clocked, tasks: Collection[int]) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    with database.read() as tx:
        rows = tx.execute(select(TASK.id, TASK.status, TASK.lane, TASK.server_id)).all()
    counted = [row for row in rows if row.id in tasks]
    busy = Counter(row.server_id for row in counted if row.status == "executing" and row.server_id is not None)
    executing, out = (Counter(row.lane for row in counted if row.status == each) for each in ("executing", "queued"))
    return dict(busy), dict(executing), dict(out)


@pytest.mark.parametrize("seed", range(6))
def test_each_executing_task_counts_for_its_server_and_all_for_their_lanes(database: Clocked, seed: int):
    rng = random.Random(seed)
    tasks = scatter(database, rng, 60)
    aside, alone = rng.sample(tasks, 20), rng.sample(tasks, 20)
    with database.read() as tx:
        found = [moves.occupancy(tx), moves.occupancy(tx, aside), moves.counted(moves.occupancy_later(tx, (), alone))]
    asked = [set(tasks), set(tasks) - set(aside), set(alone)]
    assert found == [by_hand(database, each) for each in asked]


def test_nothing_is_busy_where_nothing_is_stored(database: Clocked):
    with database.read() as tx:
        assert moves.occupancy(tx) == ({}, {}, {})
