"""How long it took before, on each kind of database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from batchq import Job
from batchq.planning import past
from batchq.store.database import Database
from batchq.store.tables import AttemptRow
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def job(name: str, *tasks: str, run: str = "app.load") -> Job:
    made = Job(name)
    for task in tasks:
        made.task(task, run)
    return made


def took(database: Database, run: int, seconds: float, day: int) -> None:
    """Make all attempts of the run last so long, on that day."""
    began = NOON + timedelta(days=day)
    values = {"claimed_at": began, "ended_at": began + timedelta(seconds=seconds)}
    with database.write() as tx:
        tx.execute(
            update(AttemptRow).where(AttemptRow.task_id.between(run << 20, (run + 1 << 20) - 1)).values(**values)
        )


@pytest.fixture
def play(database: Clocked) -> Play:
    return Play(database)


def test_it_is_the_median_of_the_newest_ten_successes(play: Play):
    for day, seconds in enumerate([1000, 1000, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]):
        took(play.database, play.play(job("J", "A")).run, seconds, day)
    with play.database.read() as tx:
        assert past.of_tasks(tx, ["J", "K"]) == {("J", "A"): 55}
        assert past.of_operations(tx, ["app.load", "app.post"]) == {"app.load": 55}
        assert past.of_tasks(tx, []) == {}


def test_failures_say_nothing_and_an_operation_is_the_same_in_every_job(play: Play):
    took(play.database, play.play(job("J", "A", "B"), failing=["B"]).run, 10, 1)
    took(play.database, play.play(job("K", "A")).run, 30, 2)
    took(play.database, play.play(job("K", "C", run="app.post"), failing=["C"]).run, 5, 3)
    with play.database.read() as tx:
        assert past.of_tasks(tx, ["J", "K"]) == {("J", "A"): 10, ("K", "A"): 30}
        assert past.of_operations(tx, ["app.load", "app.post"]) == {"app.load": 20}
