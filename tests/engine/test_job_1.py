"""The article's JOB 1: its acceptance table, and what its two servers do when."""

from __future__ import annotations

import pytest

from batchq.spec import Job
from play import Play

JOB_1 = Job("JOB 1")
t1 = JOB_1.task("TASK 1", "demo.work")
t2 = JOB_1.task("TASK 2", "demo.work", after=t1.finished)
t3 = JOB_1.task("TASK 3", "demo.work", after=t2.success)
t4 = JOB_1.task("TASK 4", "demo.work", after=t2.success)
t5 = JOB_1.task("TASK 5", "demo.work", after=t2.error)
t6 = JOB_1.task("TASK 6", "demo.work", after=t3.error)
t7 = JOB_1.task("TASK 7", "demo.work", after=t3.success & t4.success)

# What fails | success | error | didn't run | verdict
ACCEPTANCE = """
    -   | 1 2 3 4 7 |     | 5 6     | success
    1   | 2 3 4 7   | 1   | 5 6     | error
    2   | 1 5       | 2   | 3 4 6 7 | error
    3   | 1 2 4 6   | 3   | 5 7     | error
    4   | 1 2 3     | 4   | 5 6 7   | error
    3 4 | 1 2 6     | 3 4 | 5 7     | error
    2 5 | 1         | 2 5 | 3 4 6 7 | error
"""


def tasks(numbers: str) -> list[str]:
    return [f"TASK {number}" for number in numbers.split()]


@pytest.fixture
def batch(database):
    return Play(database)


@pytest.mark.parametrize("row", ACCEPTANCE.strip().splitlines(), ids=lambda row: row.split("|")[0].strip())
def test_job_1_ends_as_the_acceptance_table_says(batch, row):
    fails, success, error, didnt_run, verdict = row.strip().split("|")
    run = batch.play(JOB_1, failing=tasks(fails.replace("-", "")))
    assert run.states == {
        **dict.fromkeys(tasks(success), "success"),
        **dict.fromkeys(tasks(error), "error"),
        **dict.fromkeys(tasks(didnt_run), "didnt_run"),
    }
    assert run.verdict == verdict.strip()
    assert sorted(run.order) == sorted(tasks(success) + tasks(error))


def test_task_2_never_starts_before_task_1_ends_although_a_thread_is_free(batch):
    batch.server("AOS1")
    batch.server("AOS2")
    batch.submit(JOB_1)
    batch.deliver()
    batch.forward()
    assert not batch.mail
    assert batch.executing() == ["TASK 1"]
    batch.finish("TASK 1", ok=False)
    assert batch.executing() == ["TASK 2"]


def test_tasks_3_and_4_run_on_different_servers_at_the_same_time(batch):
    batch.server("AOS1")
    batch.server("AOS2")
    batch.submit(JOB_1)
    batch.deliver()
    batch.finish("TASK 1")
    batch.deliver()
    batch.finish("TASK 2")
    batch.deliver()
    assert {batch.at("TASK 3")[0], batch.at("TASK 4")[0]} == {"AOS1", "AOS2"}


def test_task_6_starts_as_soon_as_task_3_fails_without_waiting_for_task_4(batch):
    batch.server("AOS1")
    batch.server("AOS2")
    run = batch.submit(JOB_1)
    batch.deliver()
    batch.finish("TASK 1")
    batch.finish("TASK 2")
    batch.deliver()
    batch.finish("TASK 3", ok=False)
    assert sorted(batch.executing()) == ["TASK 4", "TASK 6"]
    assert batch.states(run)["TASK 7"] == "didnt_run"


def test_either_server_may_run_any_task(database):
    seen = set()
    for first, second in (("AOS1", "AOS2"), ("AOS2", "AOS1")):
        batch = Play(database)
        batch.server(first)
        batch.server(second)
        seen |= {(start.task, start.server) for start in batch.play(JOB_1).starts if start.task == "TASK 1"}
    assert seen == {("TASK 1", "AOS1"), ("TASK 1", "AOS2")}


def test_a_successor_starts_in_the_transaction_that_stored_the_end_of_its_predecessor(batch):
    batch.server("AOS1")
    batch.submit(JOB_1)
    batch.deliver()
    served = batch.finish("TASK 1")
    assert [row.name for row in served.granted] == ["TASK 2"]
    assert [ticket.name for ticket in served.own] == ["TASK 2"]
    assert not served.advance.tickets
