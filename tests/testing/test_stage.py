"""A rehearsal step by step: submit, end tasks, let time pass, and look in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from batchq import Job, actions, views
from batchq.errors import Conflict, InvalidInput, NotFound
from batchq.testing import START, Stage

OSLO = ZoneInfo("Europe/Oslo")
NIGHT = """
servers:
  AOS1: {windows: [{start: "18:00", end: "07:30", threads: 2, timezone: Europe/Oslo}]}
job: J
tasks: {A: app.a, B: app.b, C: app.c, D: {run: app.d, after: C}}
"""
CHAIN = "job: CHAIN\ntasks: {A: app.a, B: {run: app.b, after: A}, C: {run: app.c, after: {B: error}}}"


@pytest.fixture
def night():
    with Stage(NIGHT, at=datetime(2026, 6, 1, 17, tzinfo=OSLO)) as stage:
        yield stage


@pytest.fixture
def stage():
    with Stage(1) as stage:
        yield stage


def test_what_can_start_starts_at_once_and_the_rest_says_why_it_waits(stage: Stage):
    run = stage.submit(CHAIN)
    assert (run, stage.executing) == (1, ["A"])
    assert stage.why("B") == "waits for A to succeed"
    stage.end("A")
    assert stage.executing == ["B"]
    stage.end("B", "error")
    stage.end("C")
    assert stage.states() == {"A": "success", "B": "error", "C": "success"}
    assert stage.verdict() == "error"
    assert stage.played().order == [start.task for start in stage.starts] == ["A", "B", "C"]


def test_time_stands_still_until_it_is_moved(night: Stage):
    night.submit(NIGHT)
    assert night.executing == []
    assert (
        night.why("A")
        == "default: no server has an open window until 18:00 Europe/Oslo (AOS1, 18:00-07:30 with 2 threads)"
    )
    night.at("18:00")
    assert night.executing == ["A", "B"]
    night.later(hours=13, minutes=30)
    assert night.now == datetime(2026, 6, 2, 7, 30, tzinfo=OSLO)
    night.end("A")
    assert night.executing == ["B"]
    assert "until 18:00" in night.why("C")
    night.at("07:30")
    assert night.now == datetime(2026, 6, 3, 7, 30, tzinfo=OSLO)


def test_a_window_that_opens_and_closes_while_time_passes_counts(night: Stage):
    night.submit(NIGHT, durations=3600)
    night.at(datetime(2026, 6, 2, 12, tzinfo=OSLO))
    assert [f"{start.at:%H:%M}" for start in night.starts] == ["18:00", "18:00", "19:00", "20:00"]
    assert night.verdict() == "success"


def test_tasks_run_until_they_are_ended_unless_a_duration_was_given(stage: Stage):
    stage.submit(CHAIN, durations={"A": 60}, failing=["A"])
    stage.later(seconds=59)
    assert stage.executing == ["A"]
    stage.later(seconds=1)
    assert stage.states() == {"A": "error", "B": "didnt_run", "C": "didnt_run"}


def test_the_rest_of_a_rehearsal_can_be_played(stage: Stage):
    stage.submit(CHAIN, failing=["B"])
    stage.later(minutes=5)
    stage.play()
    played = stage.played()
    assert played.states == {"A": "success", "B": "error", "C": "success"}
    assert [(start.at - START).total_seconds() / 60 for start in played.starts] == [0, 5, 6]
    assert stage.now == played.ended_at


def test_a_task_that_is_tried_again_waits_for_its_delay(stage: Stage):
    stage.submit("job: J\ntasks: {A: {run: app.a, retries: 1, retry_delay: 90}}")
    stage.end("A", "lost")
    assert (stage.executing, stage.why("A")) == ([], "attempt 1 failed; the next one not before 12:01:30 UTC")
    stage.later(seconds=90)
    assert stage.executing == ["A"]


def test_a_canceled_run_starts_nothing_more_and_its_last_task_may_finish(stage: Stage):
    stage.submit(CHAIN)
    assert stage.cancel() == 2
    assert (stage.verdict(), stage.why("B")) == ("canceling", None)
    stage.end("A")
    assert stage.states() == {"A": "success", "B": "canceled", "C": "canceled"}
    assert stage.verdict() == "canceled"


def test_operators_may_act_in_between(stage: Stage):
    actions.pause_group(stage.database, "default")
    stage.submit(CHAIN)
    assert stage.why("A") == "default is paused"
    with pytest.raises(Conflict, match=r"^CHAIN never ends\. A cannot start: default is paused\.$"):
        stage.play()
    actions.resume_group(stage.database, "default")
    stage.later()
    assert stage.executing == ["A"]


@pytest.mark.parametrize("go_on", [Stage.later, Stage.play])
def test_a_server_that_an_operator_adds_runs_from_then_on(go_on: Callable[[Stage], None]):
    with Stage(0) as stage:
        stage.submit(CHAIN)
        actions.ensure_server(stage.database, "New", 1)
        go_on(stage)
        assert [start.server for start in stage.starts[:1]] == ["New"]


def test_the_rest_can_be_played_right_after_an_operator_acted(stage: Stage):
    actions.pause_group(stage.database, "default")
    stage.submit(CHAIN)
    actions.resume_group(stage.database, "default")
    stage.play()
    assert stage.verdict() == "success"


def test_views_of_a_stage_go_by_its_clock():
    servers = "servers: {AOS1: {windows: [{start: '18:00', end: '07:30', threads: 20, timezone: UTC}]}}\n"
    with Stage(servers) as stage, stage.database.read() as tx:
        assert views.clock(tx) == START
        assert [server["state"] for server in views.servers(tx)] == ["closed"]


def test_two_runs_are_told_apart_by_their_numbers():
    with Stage(2) as stage:
        first, second = stage.submit(CHAIN), stage.submit(CHAIN)
        with pytest.raises(Conflict, match=r"^A executes in the runs 1 and 2\. Say which one by `run`\.$"):
            stage.end("A")
        stage.end("A", run=first)
        assert stage.states(first)["A"] == "success"
        assert stage.states(second) == stage.states() == {"A": "executing", "B": "waiting", "C": "waiting"}


def test_only_a_task_that_executes_can_end(stage: Stage):
    with pytest.raises(Conflict, match=r"^No job has been submitted to this stage\.$"):
        stage.states()
    stage.submit(CHAIN)
    with pytest.raises(Conflict, match=r"^B does not execute: Waiting, waits for A to succeed\.$"):
        stage.end("B")
    with pytest.raises(NotFound, match=r"^No task 'Z'"):
        stage.end("Z")
    stage.end("A")
    stage.end("B")
    with pytest.raises(Conflict, match=r"^C does not execute: Didn't run, B did not fail\.$"):
        stage.end("C")
    with pytest.raises(Conflict, match=r"^A does not execute: Ended\.$"):
        stage.end("A")


def test_a_task_fails_in_a_way_that_it_can(stage: Stage):
    stage.submit(CHAIN)
    with pytest.raises(InvalidInput, match=r"^A cannot fail by 'crash'\. Use error, lost, timed out\.$"):
        stage.end("A", "crash")
    with pytest.raises(InvalidInput, match=r"^A has no time limit, so it cannot be timed out\. Give it one\.$"):
        stage.end("A", "timed out")
    assert stage.executing == ["A"]


def test_time_goes_on_only(stage: Stage):
    with pytest.raises(InvalidInput, match=r"^Time does not go back: it is 2026-06-01 12:00:00"):
        stage.later(hours=-1)
    with pytest.raises(InvalidInput, match=r"^at: '25:00' is not a time of day\."):
        stage.at("25:00")
    with pytest.raises(InvalidInput, match=r"^at: .* has no time zone\."):
        stage.at(datetime(2027, 1, 1))
    assert stage.now == START


def test_a_time_that_the_clock_shows_twice_is_reached_twice():
    with Stage(at=datetime(2027, 10, 31, 1, tzinfo=OSLO)) as stage:
        reached = []
        for _ in range(3):
            stage.at("02:30")
            reached.append(stage.now.astimezone(UTC))
    assert [f"{each:%d %H:%M}" for each in reached] == ["31 00:30", "31 01:30", "01 01:30"]


def test_a_large_job_is_played_too(stage: Stage):
    job = Job("LARGE")
    for number in range(300):
        job.task(f"T{number}", "app.t", after=f"T{number - 10}" if number >= 10 else None)
    stage.submit(job)
    stage.play()
    assert stage.verdict() == "success"
    assert len(stage.starts) == 300
