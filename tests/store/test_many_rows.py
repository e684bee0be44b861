"""Statements with many rows: PostgreSQL takes those of an update in pieces, and nobody can tell (rule 6)."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import insert, select, update

from batchq import engine
from batchq.spec import JobSpec, TaskSpec
from batchq.store import moves
from batchq.store.columns import TASK, task_id
from batchq.store.sql.statement import Id, Statement
from batchq.store.sql.together import MOST_ROWS
from batchq.store.tables import TaskRow
from batchq.testing.clocked import Clocked

FEW, MANY = 1000, 25_000
# How much longer a row may take among many. Looked up among all of them, each would take 17 times as long.
MOST_TIMES = 6.0


def wide(database: Clocked, tasks: int) -> int:
    """A run of so many tasks."""
    specs = tuple(TaskSpec(name=f"T{number}", run="demo.work") for number in range(tasks))
    return engine.submit(database, JobSpec(name="WIDE", tasks=specs))


def seconds_a_row(database: Clocked, run: int, rows: int) -> float:
    """The shortest of three times that `count` takes for a row, among so many."""
    counted = [{"task": task_id(run, number), "pending": 1, "met": 0, "impossible": 0} for number in range(rows)]
    times = []
    for _ in range(3):
        with database.write() as tx:
            began = time.perf_counter()
            moves.count(tx, counted)
            assert moves.unsettled_runs(tx, 1).rows == []  # by now they have arrived
            times.append(time.perf_counter() - began)
    return min(times) / rows


@pytest.mark.slow
def test_a_row_among_many_takes_no_longer_than_one_among_few(database):
    run = wide(database, MANY)
    few, many = (seconds_a_row(database, run, rows) for rows in (FEW, MANY))
    print(f"{database.kind}: {few * 1e6:.0f} and {many * 1e6:.0f} microseconds a row")
    assert many < MOST_TIMES * few


_RAISE = Statement(
    lambda given: update(TaskRow).where(TASK.id == given.task).values(retries=given.retries).returning(TASK.id),
    columns={"task": TASK.id, "retries": TASK.retries},
    row=Id,
)


def test_the_answers_to_all_pieces_are_one_answer(database):
    number = 2 * MOST_ROWS + 1
    run = wide(database, number)
    rows = [{"task": task_id(run, each), "retries": each % 5} for each in range(number)]
    unknown = {"task": task_id(run + 1, 0), "retries": 1}
    with database.write() as tx:
        reply = _RAISE.later(tx, [*rows, unknown])
        assert sorted(row.id for row in reply.rows) == [row["task"] for row in rows]
        assert reply.count == number
        stored = tx.execute(select(TASK.id, TASK.retries)).all()
    assert sorted(stored) == [(row["task"], row["retries"]) for row in rows]


def test_an_insert_looks_nothing_up_and_stays_whole(postgresql):
    insertion = Statement(
        lambda given: insert(TaskRow).from_select(["id"], select(given.id), include_defaults=False),
        columns={"id": TASK.id},
    )
    with postgresql.write() as tx:
        assert insertion.form(tx).most_rows > MANY
        assert _RAISE.form(tx).most_rows == MOST_ROWS
