"""From every released schema, with a run half done: after the upgrade the engine brings it to its right end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from batchq import Job
from batchq.store import schema
from batchq.store.database import Database
from play import Clocked, Play, check_counters
from support import older
from support.older import ENDED, HALF_DONE, REVISIONS

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def before(database: Clocked) -> Play:
    """What the older version did, up to the upgrade."""
    database.instant = NOON
    batch = Play(database)
    assert older.half_done(batch) == 1
    return batch


@pytest.fixture(params=REVISIONS)
def old(request: pytest.FixtureRequest, before: Play, tmp_path) -> Clocked:
    """A database of each released schema that holds it."""
    if before.database.kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'old.db'}"
    else:
        url = request.getfixturevalue("fresh_postgresql_url")
    database = Clocked(url)
    older.make(database, request.param, before.database)
    database.instant = NOON
    assert schema.upgrade(database) == (request.param, schema.NEWEST)
    schema.check(database)
    yield database
    database.dispose()


def played_on(batch: Play) -> dict[str, str]:
    """Let the coordinator tick and the servers work until run 1 has ended; returns how its tasks ended."""
    for _ in range(50):
        batch.database.later(seconds=60)  # what was under way to a server is lost with the older version
        batch.tick()
        batch.deliver()
        for name in batch.executing():
            batch.finish(name)
        if batch.verdict(1) != "executing":
            check_counters(batch.database)
            return batch.states(1)
    raise AssertionError(f"it never ends: {batch.states(1)}")


def test_a_run_goes_on_with_servers_started_anew_only_what_they_ran_is_lost_and_new_work_follows(old: Clocked):
    batch = Play(old)
    assert batch.states(1) == HALF_DONE
    for name in ("AOS1", "AOS2"):
        batch.live(name)

    assert played_on(batch) == ENDED | {"ONCE": "error"}
    assert batch.verdict(1) == "error"
    assert [attempt.status for attempt in batch.attempts(1, "AGAIN")] == ["error", "success"]
    assert "server AOS" in batch.task(1, "ONCE").error
    assert batch.task(1, "TICKET").kwargs == '{"result": "\\u00e6\'\\""}'

    job = Job("NEW")
    job.task("A", "demo.work")
    played = batch.play(job)
    assert (played.run, played.verdict) == (2, "success")


def test_a_run_goes_on_with_servers_that_still_run_and_a_second_upgrade_changes_and_loses_nothing(
    old: Clocked, before: Play
):
    stored = contents(old)
    assert schema.upgrade(old) == (schema.NEWEST, schema.NEWEST)
    assert contents(old) == stored
    batch = Play(old)
    batch.workers, batch.started, batch.places = before.workers, before.started, before.places

    assert played_on(batch) == ENDED
    assert [len(batch.attempts(1, name)) for name in ("ONCE", "AGAIN")] == [1, 1]


def contents(database: Database) -> list[tuple[object, ...]]:
    with database.read() as tx:
        return [
            tuple(row)
            for name in ("group", "server", "window", "job", "run", "task", "condition", "attempt", "dispatch")
            for row in tx.execute(text(f"SELECT * FROM batchq_{name} ORDER BY 1, 2"))
        ]
