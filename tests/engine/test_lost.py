"""A server that went away: its attempts are lost, never silently run again, its old life is fenced off (rule 31)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batchq import engine
from batchq.core.ends import Success
from batchq.engine import Report
from batchq.spec import Job
from batchq.store import server as servers
from play import Play, check_counters

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def pair(retries: int = 0, **facts) -> Job:
    job = Job("PAIR")
    first = job.task("A", "demo.work", retries=retries, **facts)
    job.task("B", "demo.work", after=first.error)
    return job


@pytest.fixture
def batch(database):
    database.instant = NOON
    batch = Play(database)
    batch.server("AOS1")
    return batch


def executing(batch, job) -> int:
    """A run whose task A executes on AOS1."""
    run = batch.submit(job)
    batch.deliver()
    assert batch.at("A")[0] == "AOS1"
    return run


# --- lost, taken over, stopped ------------------------------------------------------------------------------


def test_an_attempt_of_a_lost_server_is_an_error_without_retries_as_rule_31_says(batch):
    run = executing(batch, pair())
    batch.database.later(seconds=30)
    assert batch.lose("AOS1")
    row = batch.task(run, "A")
    assert row.status == "error"
    assert row.error.startswith("lost: server AOS1 ")
    (attempt,) = batch.attempts(run, "A")
    assert (attempt.status, attempt.server, attempt.claimed_at) == ("error", "AOS1", NOON)
    assert attempt.ended_at == NOON + timedelta(seconds=30)


def test_what_follows_the_lost_attempt_goes_on_elsewhere(batch):
    run = executing(batch, pair())
    batch.server("AOS2")
    batch.lose("AOS1")
    batch.forward()
    batch.deliver()
    assert batch.at("B")[0] == "AOS2"
    batch.finish("B")
    assert batch.states(run) == {"A": "error", "B": "success"}
    assert batch.verdict(run) == "error"
    check_counters(batch.database)


def test_an_attempt_of_a_lost_server_is_tried_again_while_there_are_retries_as_rule_31_says(batch):
    run = executing(batch, pair(retries=1))
    batch.server("AOS2")
    batch.lose("AOS1")
    assert batch.states(run)["A"] == "ready"
    batch.forward()
    batch.deliver()
    name, row = "AOS2", batch.workers["AOS2"].active
    assert [each.attempt for each in row.values()] == [2]
    batch.workers["AOS1"].active.clear()
    batch.finish("A", ok=False)
    assert batch.states(run)["A"] == "error"
    assert [(each.server, each.status) for each in batch.attempts(run, "A")] == [
        ("AOS1", "error"),
        (name, "error"),
    ]


def test_a_lost_attempt_waits_for_its_retry_delay_too(batch):
    run = executing(batch, pair(retries=1, retry_delay=20.0))
    batch.lose("AOS1")
    assert batch.task(run, "A").ready_at == NOON + timedelta(seconds=20)


def test_a_lost_attempt_in_a_run_that_is_being_canceled_has_no_further_one_as_rule_32_says(batch):
    run = executing(batch, pair(retries=5))
    batch.cancel(run)
    batch.lose("AOS1")
    batch.forward()
    assert batch.states(run) == {"A": "error", "B": "canceled"}
    assert batch.verdict(run) == "canceled"


def test_a_server_whose_heart_beat_since_it_was_looked_at_is_not_lost(batch):
    run = executing(batch, pair())
    life = batch.workers["AOS1"].life
    assert batch.database.run(lambda tx: servers.beat(tx, life.server, life.epoch, NOON))
    assert not batch.lose("AOS1", beat=1)
    assert batch.states(run)["A"] == "executing"


def test_a_server_is_lost_once(batch):
    executing(batch, pair())
    assert batch.lose("AOS1")
    assert not batch.lose("AOS1")


@pytest.mark.parametrize(("retries", "state"), [(0, "error"), (1, "ready")])
def test_a_new_life_of_a_server_takes_over_and_what_the_former_one_ran_is_lost_as_rule_31_says(batch, retries, state):
    run = executing(batch, pair(retries=retries))
    before = batch.workers["AOS1"].life
    after = batch.live("AOS1")
    assert after.epoch == before.epoch + 1
    assert batch.states(run)["A"] == state
    assert "lost: " in batch.attempts(run, "A")[0].error


def test_a_server_that_stopped_cleanly_is_no_longer_handed_anything(batch):
    run = executing(batch, pair())
    assert batch.stop("AOS1")
    assert batch.states(run)["A"] == "error"
    batch.forward()
    assert not batch.mail


def test_a_stopping_server_starts_nothing_more_and_what_it_executes_goes_on(batch):
    batch.change("AOS1", threads=2)
    first = executing(batch, pair())
    second = batch.submit(pair())
    (ticket,) = batch.mail
    life = batch.workers["AOS1"].life
    batch.database.run(lambda tx: engine.retire(tx, life, NOON))
    assert batch.states(second)["A"] == "ready"
    assert not batch.serve("AOS1", offers=[ticket]).granted
    served = batch.finish("A", run=first)
    assert (list(served.granted), served.advance.tickets) == ([], [])
    assert batch.verdict(first) == "success"
    batch.live("AOS1")
    batch.forward()
    assert [ticket.run for ticket in batch.mail][-1] == second


def test_a_life_that_was_fenced_off_cannot_stop_the_one_after_it(batch):
    old = batch.workers["AOS1"].life
    new = batch.live("AOS1")
    assert not batch.database.run(lambda tx: engine.stop(tx, old, NOON))
    assert batch.database.run(lambda tx: engine.stop(tx, new, NOON))


def test_a_server_without_work_is_lost_and_comes_back_without_trouble(batch):
    assert batch.lose("AOS1")
    batch.live("AOS1")
    assert batch.play(pair()).states == {"A": "success", "B": "didnt_run"}


# --- what the old life still says ---------------------------------------------------------------------------


def test_a_life_that_was_declared_lost_is_told_so_and_its_outcome_is_not_taken_as_rule_31_says(batch):
    run = executing(batch, pair())
    name, row = batch.at("A")
    batch.lose("AOS1")
    served = batch.serve(name, [Report(row.id, row.token, Success())])
    assert served.fenced
    assert batch.states(run)["A"] == "error"
    assert not batch.database.run(
        lambda tx: servers.beat(tx, batch.workers[name].life.server, batch.workers[name].life.epoch, NOON)
    )


def test_an_outcome_of_the_former_life_told_by_the_new_one_is_refused_and_counted_as_rule_31_says(batch):
    run = executing(batch, pair(retries=1))
    _, row = batch.at("A")
    batch.live("AOS1")
    assert batch.serve("AOS1", [Report(row.id, row.token, Success())]).stale == 1
    assert batch.states(run)["A"] in ("ready", "queued", "executing")
    assert batch.task(run, "A").result is None


def test_a_claim_of_the_former_life_is_not_that_of_the_new_one(batch):
    batch.submit(pair(retries=1))
    (ticket,) = batch.mail
    batch.serve("AOS1", offers=[ticket])
    batch.live("AOS1")
    served = batch.serve("AOS1", offers=[ticket])
    assert (list(served.granted), served.stale) == ([], 1)


# --- attempts that a living server no longer has ------------------------------------------------------------


def test_an_attempt_that_its_living_server_does_not_have_is_lost_as_rule_31_says(batch):
    run = executing(batch, pair())
    name, row = batch.at("A")
    life = batch.workers[name].life
    lose = engine.recover_missing
    assert batch.database.run(lambda tx: lose(tx, life, {"another"}, NOON)) == 0
    assert batch.states(run)["A"] == "executing"
    assert batch.database.run(lambda tx: lose(tx, life, {row.token}, NOON)) == 1
    assert batch.task(run, "A").error.startswith("lost: server AOS1 no longer has this attempt")
    batch.workers[name].active.clear()
    batch.forward()
    batch.deliver()
    assert batch.executing() == ["B"]


def test_every_attempt_of_a_lost_server_is_recovered_whatever_epoch_claimed_it(batch):
    batch.change("AOS1", threads=3)
    job = Job("MANY")
    for name in "ABC":
        job.task(name, "demo.work")
    run = batch.submit(job)
    batch.deliver()
    batch.lose("AOS1")
    assert set(batch.states(run).values()) == {"error"}
    batch.forward()
    assert batch.verdict(run) == "error"
