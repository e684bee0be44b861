"""Further attempts in the engine: when they come, after which errors, and what is kept of each (rule 30)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from batchq.core import retries
from batchq.core.ends import Failure
from batchq.core.retries import Policy
from batchq.core.states import Reason
from batchq.engine import Report
from batchq.spec import Job
from batchq.store.tables import TaskRow
from play import Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
GROWING = {"retries": 5, "retry_delay": 10, "retry_backoff": 2, "retry_delay_max": 30}


@pytest.fixture
def batch(database: Any) -> Play:
    database.instant = NOON
    play = Play(database)
    play.server("AOS1")
    return play


def one(**facts: Any) -> Job:
    job = Job("ONE")
    job.task("A", "demo.work", **facts)
    return job


def started(batch: Play, **facts: Any) -> int:
    run = batch.submit(one(**facts))
    batch.deliver()
    return run


def fail(batch: Play, kind: type = ValueError) -> None:
    batch.finish("A", ok=False, classes=retries.lineage(kind))


def wait(batch: Play, run: int) -> float:
    """The seconds that the task waits for its next attempt, which then starts."""
    row = batch.task(run, "A")
    assert row.status == "ready"
    seconds = (row.ready_at - batch.database.instant).total_seconds()
    assert row.retry_after == pytest.approx(seconds, abs=1e-6)
    batch.database.later(seconds=seconds)
    batch.tick()
    batch.deliver()
    assert batch.executing() == ["A"]
    return seconds


# --- how long they wait -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "waits"),
    [
        (GROWING, [10, 20, 30, 30, 30]),
        ({"retries": 5, "retry_delay": 10}, [10, 10, 10, 10, 10]),
        ({"retries": 3, "retry_delay": 1, "retry_backoff": 600}, [1, 600, 360_000]),
    ],
)
def test_attempts_follow_after_the_waits_of_rule_30_and_then_no_more(
    batch: Play, facts: dict[str, Any], waits: list[float]
) -> None:
    run = started(batch, **facts)
    found = []
    for _ in waits:
        fail(batch)
        found.append(wait(batch, run))
    fail(batch)

    assert found == waits
    assert batch.states(run) == {"A": "error"}


def test_the_token_of_the_attempt_that_failed_decides_on_the_jitter(batch: Play) -> None:
    run = started(batch, **GROWING, retry_jitter=0.2)
    for retry, plain in enumerate([10, 20, 30, 30, 30], 1):
        token = batch.task(run, "A").token
        fail(batch)
        seconds = wait(batch, run)
        assert seconds == pytest.approx(retries.wait(retry, 10, Policy(2, 30, 0.2), token), abs=1e-6)
        assert abs(seconds - plain) <= 0.2 * plain


def test_a_wait_of_ten_minutes_is_untouched_by_thirty_ticks(batch: Play) -> None:
    run = started(batch, retries=2, retry_delay=1, retry_backoff=600)
    fail(batch)
    assert wait(batch, run) == 1
    fail(batch)
    due = batch.task(run, "A").ready_at
    for _ in range(30):
        batch.tick()
        batch.database.later(seconds=1)

    assert batch.task(run, "A").ready_at == due
    assert batch.states(run) == {"A": "ready"}


def test_a_clock_that_goes_back_an_hour_starts_the_wait_anew_with_the_tick_that_sees_it(batch: Play) -> None:
    run = started(batch, retries=2, retry_delay=1, retry_backoff=600)
    fail(batch)
    assert wait(batch, run) == 1
    fail(batch)
    batch.database.later(seconds=100)
    batch.database.later(hours=-1)
    batch.tick()

    assert batch.task(run, "A").ready_at == batch.database.instant + timedelta(seconds=600)
    batch.database.later(seconds=599)
    batch.tick()
    assert batch.states(run) == {"A": "ready"}
    batch.database.later(seconds=1)
    batch.tick()
    batch.deliver()
    assert batch.states(run) == {"A": "executing"}


def test_what_an_older_process_put_off_waits_for_the_tasks_own_delay_at_most(batch: Play) -> None:
    run = started(batch, retries=1, retry_delay=20)
    fail(batch)
    batch.database.run(lambda tx: tx.execute(update(TaskRow).values(retry_after=None)))
    batch.tick()
    assert batch.task(run, "A").ready_at == NOON + timedelta(seconds=20)
    batch.database.later(hours=-1)
    batch.tick()
    assert batch.task(run, "A").ready_at == batch.database.instant + timedelta(seconds=20)


def test_after_an_operators_retry_the_count_begins_afresh(batch: Play) -> None:
    run = started(batch, **GROWING | {"retries": 2})
    fail(batch)
    assert wait(batch, run) == 10
    batch.database.run(lambda tx: tx.execute(update(TaskRow).values(retried_at=1)))  # as that retry does
    fail(batch)
    assert wait(batch, run) == 10
    fail(batch)
    assert wait(batch, run) == 20
    ((_, row),) = batch.running()
    assert (row.attempt, row.retries) == (4, 3)
    fail(batch)

    assert batch.states(run) == {"A": "error"}
    assert [attempt.attempt for attempt in batch.attempts(run, "A")] == [1, 2, 3, 4]


def test_no_attempt_follows_in_a_run_that_is_canceled(batch: Play) -> None:
    run = started(batch, **GROWING)
    batch.cancel(run)
    fail(batch)

    assert (batch.states(run), batch.verdict(run)) == ({"A": "error"}, "canceled")


# --- after which errors -------------------------------------------------------------------------------------

ERRORS = [
    ({}, ValueError, True),
    ({"retry_on": [ConnectionError]}, BrokenPipeError, True),
    ({"retry_on": ["ConnectionError"]}, ValueError, False),
    ({"retry_never_on": ["builtins.ValueError"]}, UnicodeError, False),
    ({"retry_on": [OSError], "retry_never_on": [BrokenPipeError]}, BrokenPipeError, False),
    ({"retry_on": [OSError], "retry_never_on": [BrokenPipeError]}, ConnectionError, True),
    ({}, retries.Final, False),
]


@pytest.mark.parametrize(("facts", "kind", "again"), ERRORS)
def test_an_error_is_tried_again_if_the_task_says_so_as_rule_30c_says(
    batch: Play, facts: dict[str, Any], kind: type, again: bool
) -> None:
    run = started(batch, retries=1, **facts)
    fail(batch, kind)

    (attempt,) = batch.attempts(run, "A")
    assert attempt.error_class == retries.full_name(kind)
    assert batch.states(run) == {"A": "executing" if again else "error"}


@pytest.mark.parametrize(
    ("names", "again"), [(None, True), (["ConnectionError"], False), (["ConnectionError", "batchq.Lost"], True)]
)
def test_a_lost_server_is_an_error_that_has_a_name(batch: Play, names: list[str] | None, again: bool) -> None:
    run = started(batch, retries=1, retry_on=names)
    assert batch.lose("AOS1")

    (attempt,) = batch.attempts(run, "A")
    assert (attempt.reason, attempt.error_class) == ("lost", "batchq.Lost")
    assert batch.states(run) == {"A": "ready" if again else "error"}


@pytest.mark.parametrize(
    ("reason", "name", "again"),
    [
        (Reason.TIMED_OUT, "batchq.TimedOut", True),
        (Reason.NOT_STARTED, None, False),
        (Reason.LOST, "batchq.Lost", False),
    ],
)
def test_what_no_operation_raised_has_a_name_of_batchq_or_none(
    batch: Play, reason: Reason, name: str | None, again: bool
) -> None:
    run = started(batch, retries=1, retry_delay=5, retry_on=["batchq.TimedOut"])
    batch.finish("A", ok=False, reason=reason)

    (attempt,) = batch.attempts(run, "A")
    assert attempt.error_class == name
    assert batch.states(run) == {"A": "ready" if again else "error"}


def test_after_a_policy_that_somebody_broke_nothing_is_tried_again(batch: Play) -> None:
    run = started(batch, retries=3, retry_backoff=2)
    batch.database.run(lambda tx: tx.execute(update(TaskRow).values(policy="{")))
    fail(batch)

    assert batch.states(run) == {"A": "error"}


# --- what is kept -------------------------------------------------------------------------------------------


def test_each_attempt_that_failed_keeps_since_when_it_could_have_started(batch: Play) -> None:
    run = started(batch, **GROWING)
    fail(batch)
    wait(batch, run)
    fail(batch, KeyError)
    wait(batch, run)
    batch.finish("A")

    attempts = batch.attempts(run, "A")
    assert [(each.ready_at, each.error_class) for each in attempts] == [
        (NOON, "ValueError"),
        (NOON + timedelta(seconds=10), "KeyError"),
        (None, None),  # the task's own row has it
    ]
    assert batch.task(run, "A").ready_at == NOON + timedelta(seconds=30)


def test_only_a_task_that_has_a_policy_stores_one(batch: Play) -> None:
    job = Job("SEVERAL")
    job.task("plain", "demo.work", retries=2, retry_delay=1)
    job.task("growing", "demo.work", after="plain", retries=2, retry_backoff=2)
    job.task("repeatable", "demo.work", after="plain", repeatable=True)
    job.task("last", "demo.work", after=["growing", "repeatable"])
    run = batch.submit(job)
    rows = {name: batch.task(run, name) for name in ("plain", "growing", "repeatable", "last")}

    assert [row.id - rows["plain"].id for row in rows.values()] == [0, 1, 2, 3]
    assert [row.policy and json.loads(row.policy) for row in rows.values()] == [None, {"retry_backoff": 2}, None, None]
    assert [row.repeatable for row in rows.values()] == [False, False, True, False]
    for name in ("plain", "growing", "repeatable", "last"):
        batch.deliver()
        batch.finish(name)
    assert batch.verdict(run) == "success"


def test_an_attempt_keeps_that_its_operation_may_run_once_more(batch: Play) -> None:
    run = started(batch, retries=1)
    name, row = batch.at("A")
    batch.serve(name, [Report(row.id, row.token, Failure(Reason.TIMED_OUT, "timed out"), repeatable=True)])
    batch.deliver()
    fail(batch)

    assert [attempt.repeatable for attempt in batch.attempts(run, "A")] == [True, False]


@pytest.mark.parametrize(
    ("life", "repeatable"),
    [('{"repeatable": ["demo.work"]}', True), ('{"repeatable": ["other"]}', False), ("life", False), ("[7]", False)],
)
def test_a_lost_attempt_is_repeatable_if_the_life_of_its_server_said_so(
    batch: Play, life: str, repeatable: bool
) -> None:
    batch.live("AOS1", life=life)
    run = started(batch)
    batch.lose("AOS1")

    (attempt,) = batch.attempts(run, "A")
    assert attempt.repeatable is repeatable
