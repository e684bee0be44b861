"""A clock that was set back delays nothing for longer than the plan says (rules 22, 30)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batchq import engine
from batchq.spec import Job
from play import Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def one(**facts) -> Job:
    job = Job("ONE")
    job.task("A", "demo.work", **facts)
    return job


def follow(batch: Play) -> int:
    return batch.database.run(lambda tx: engine.follow_clock(tx, tx.now()))


@pytest.fixture
def batch(database):
    database.instant = NOON
    return Play(database)


def test_what_was_ready_before_the_clock_was_set_back_a_day_is_handed_out_by_the_next_tick(batch):
    run = batch.submit(one())
    batch.server("AOS1")
    batch.database.later(days=-1)
    batch.forward()
    assert not batch.mail

    assert follow(batch) == 1
    batch.forward()
    batch.deliver()

    assert batch.states(run) == {"A": "executing"}


def test_after_the_clock_was_set_back_another_attempt_waits_for_its_delay_and_no_longer(batch):
    batch.server("AOS1")
    run = batch.submit(one(retries=1, retry_delay=20.0))
    batch.deliver()
    batch.finish("A", ok=False)
    batch.database.later(hours=-1)

    assert follow(batch) == 1
    assert batch.task(run, "A").ready_at == batch.database.instant + timedelta(seconds=20)


def test_a_clock_that_goes_on_hastens_nothing(batch):
    batch.server("AOS1")
    batch.submit(one(retries=1, retry_delay=20.0))
    batch.deliver()
    batch.finish("A", ok=False)
    assert follow(batch) == 0
    batch.database.later(seconds=5)
    assert follow(batch) == 0


def test_a_ticket_that_was_lost_before_the_clock_was_set_back_is_offered_again(batch):
    batch.server("AOS1")
    batch.submit(one())
    batch.mail.clear()
    batch.database.later(days=-1)

    batch.tick()
    assert len(batch.mail) == 1
    batch.mail.clear()
    batch.tick()
    assert not batch.mail
    batch.database.later(seconds=10)
    batch.tick()
    assert len(batch.mail) == 1
