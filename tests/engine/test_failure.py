"""What a failure leads to: further attempts (rule 30), and what it means for the verdict (rule 7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import Report
from batchq.spec import Job

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def one_task(**facts) -> Job:
    job = Job("ONE")
    job.task("A", "demo.work", **facts)
    return job


# --- attempts (rules 30, 31) --------------------------------------------------------------------------------


def test_a_task_that_fails_twice_succeeds_at_its_third_attempt_as_rule_30_says(batch):
    run = batch.play(one_task(retries=2), failing={"A": 2})
    assert run.states == {"A": "success"}
    assert run.verdict == "success"
    assert [start.attempt for start in run.starts] == [1, 2, 3]


def test_every_attempt_is_kept_with_its_server_times_error_and_log_as_rule_30_says(batch):
    batch.database.instant = NOON
    batch.server("AOS1")
    run = batch.submit(one_task(retries=1))
    batch.deliver()
    batch.database.later(seconds=3)
    batch.finish("A", ok=False, error="ValueError: no", log="first")
    batch.database.later(seconds=4)
    batch.finish("A", log="second", result="[1]")
    first, second = batch.attempts(run, "A")
    assert (first.attempt, first.server, first.status, first.error, first.log) == (
        1, "AOS1", "error", "ValueError: no", "first",
    )  # fmt: skip
    assert (second.attempt, second.server, second.status, second.error, second.log) == (
        2, "AOS1", "success", None, "second",
    )  # fmt: skip
    assert [(each.claimed_at, each.ended_at) for each in (first, second)] == [
        (NOON, NOON + timedelta(seconds=3)),
        (NOON + timedelta(seconds=3), NOON + timedelta(seconds=7)),
    ]
    task = batch.task(run, "A")
    assert (task.status, task.error, task.result, task.attempt) == ("success", None, "[1]", 2)


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_task_that_always_fails_starts_n_plus_1_times_and_is_an_error_as_rule_30_says(batch, retries):
    run = batch.play(one_task(retries=retries), failing={"A"})
    assert run.states == {"A": "error"}
    assert run.verdict == "error"
    assert [start.attempt for start in run.starts] == list(range(1, retries + 2))


def test_an_error_that_the_operation_called_final_has_no_further_attempt_as_rule_30_says(batch):
    batch.server("AOS1")
    run = batch.submit(one_task(retries=5))
    batch.deliver()
    batch.finish("A", ok=False, final=True)
    assert batch.states(run) == {"A": "error"}
    assert batch.verdict(run) == "error"


def test_a_retry_waits_for_its_delay_and_is_a_new_ticket_as_rule_30_says(batch):
    batch.database.instant = NOON
    batch.server("AOS1")
    run = batch.submit(one_task(retries=1, retry_delay=60.0))
    batch.deliver()
    _, first = batch.at("A")
    served = batch.finish("A", ok=False)
    assert not served.granted
    task = batch.task(run, "A")
    assert (task.status, task.ready_at) == ("ready", NOON + timedelta(seconds=60))
    batch.database.later(seconds=59)
    batch.forward()
    assert not batch.mail
    batch.database.later(seconds=1)
    batch.forward()
    (ticket,) = batch.mail
    assert (ticket.attempt, ticket.token != first.token) == (2, True)


def test_a_task_that_waits_for_its_retry_does_not_hold_up_one_behind_it(batch):
    batch.database.instant = NOON
    batch.server("AOS1")
    job = Job("TWO")
    job.task("A", "demo.work", retries=1, retry_delay=60.0, priority="critical")
    job.task("B", "demo.work")
    batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    assert batch.executing() == ["B"]


def test_successors_of_a_task_that_is_tried_again_wait_for_its_last_attempt(batch):
    batch.server("AOS1")
    job = Job("TWO")
    first = job.task("A", "demo.work", retries=1)
    job.task("B", "demo.work", after=first.error)
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    assert batch.states(run)["B"] == "waiting"
    batch.finish("A", ok=False)
    assert batch.executing() == ["B"]


# --- the verdict (rule 7) -----------------------------------------------------------------------------------


def test_ignore_failure_changes_the_verdict_only_and_success_edges_do_not_fire_as_rule_7_says(batch):
    job = Job("IGNORED")
    first = job.task("A", "demo.work", ignore_failure=True)
    job.task("B", "demo.work", after=first.success)
    job.task("C", "demo.work", after=first.error)
    run = batch.play(job, failing={"A"})
    assert run.states == {"A": "error", "B": "didnt_run", "C": "success"}
    assert run.verdict == "success"


def handled(outcome: str = "error", *, handles: bool = True) -> Job:
    job = Job("HANDLED")
    first = job.task("A", "demo.work")
    condition = getattr(first, outcome)
    handler = job.task("HANDLER", "demo.work", after=condition.handles if handles else condition)
    job.task("LAST", "demo.work", after=handler)
    return job


@pytest.mark.parametrize("outcome", ["error", "finished"])
def test_a_failure_is_handled_when_a_task_with_such_a_condition_succeeded_as_rule_7_says(batch, outcome):
    run = batch.play(handled(outcome), failing={"A"})
    assert run.states == {"A": "error", "HANDLER": "success", "LAST": "success"}
    assert run.verdict == "success"


def test_a_task_after_the_error_does_not_clear_it_unless_its_condition_says_so_as_rule_7_says(batch):
    assert batch.play(handled(handles=False), failing={"A"}).verdict == "error"


def test_a_handler_that_fails_itself_handles_nothing_and_its_own_failure_counts_as_rule_7_says(batch):
    run = batch.play(handled(), failing={"A", "HANDLER"})
    assert run.states == {"A": "error", "HANDLER": "error", "LAST": "didnt_run"}
    assert run.verdict == "error"


def test_one_handler_that_succeeded_is_enough_as_rule_7_says(batch):
    job = Job("TWO HANDLERS")
    first = job.task("A", "demo.work")
    job.task("GOOD", "demo.work", after=first.error.handles)
    job.task("BAD", "demo.work", after=first.error.handles, ignore_failure=True)
    assert batch.play(job, failing={"A", "BAD"}).verdict == "success"


def test_a_handler_handles_the_task_that_its_condition_names_and_no_other_as_rule_7_says(batch):
    job = Job("TWO ERRORS")
    first = job.task("A", "demo.work")
    job.task("B", "demo.work")
    job.task("HANDLER", "demo.work", after=first.error.handles)
    assert batch.play(job, failing={"A", "B"}).verdict == "error"
    assert batch.play(job, failing={"A"}).verdict == "success"


# --- any (rule 5) -------------------------------------------------------------------------------------------


def test_any_starts_once_on_the_first_met_condition_and_later_ones_only_change_the_count_as_rule_5_says(
    batch,
):
    batch.server("AOS1", 4)
    job = Job("ANY")
    first, second, third = (job.task(name, "demo.work") for name in "ABC")
    job.task("D", "demo.work", after=first.success | second.success | third.success)
    run = batch.submit(job)
    batch.deliver()
    numbers = []
    for task, ok in (("A", False), ("B", True), ("C", True)):
        batch.finish(task, ok=ok)
        row = batch.task(run, "D")
        numbers.append((row.status, row.pending, row.met, row.impossible))
    assert numbers == [
        ("waiting", 2, 0, 1),
        ("executing", 1, 1, 1),
        ("executing", 0, 2, 1),
    ]
    batch.finish("D")
    assert [start.task for start in batch.starts] == ["A", "B", "C", "D"]
    assert batch.verdict(run) == "error"


def test_a_condition_that_is_resolved_after_its_task_ended_does_not_start_it_again_as_rule_5_says(batch):
    batch.server("AOS1", 4)
    job = Job("ANY")
    first, second = (job.task(name, "demo.work") for name in "AB")
    job.task("C", "demo.work", after=first.success | second.success)
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A")
    batch.finish("C")
    assert batch.verdict(run) == "executing"
    batch.finish("B")
    assert batch.verdict(run) == "success"
    assert batch.task(run, "C").attempt == 1


# --- reports ------------------------------------------------------------------------------------------------


def test_a_report_with_another_token_is_refused_and_counted(batch):
    batch.server("AOS1")
    run = batch.submit(one_task())
    batch.deliver()
    name, row = batch.at("A")
    served = batch.serve(name, [Report(row.id, "forged", Success())])
    assert served.stale == 1
    assert batch.states(run) == {"A": "executing"}


def test_a_report_of_a_task_that_is_not_there_is_refused_and_counted(batch):
    batch.server("AOS1")
    assert batch.serve("AOS1", [Report(7 << 20, "forged", Success())]).stale == 1


def test_a_report_repeated_after_a_lost_reply_counts_as_stored_and_changes_nothing(batch):
    batch.server("AOS1")
    run = batch.submit(one_task())
    batch.deliver()
    name, row = batch.at("A")
    report = Report(row.id, row.token, Success('"once"'))
    assert batch.serve(name, [report]).stale == 0
    assert batch.serve(name, [report]).stale == 0
    assert len(batch.attempts(run, "A")) == 1
    assert batch.task(run, "A").result == '"once"'


def test_a_failure_reported_twice_costs_one_attempt_only(batch):
    batch.database.instant = NOON
    batch.server("AOS1")
    run = batch.submit(one_task(retries=3, retry_delay=5.0))
    batch.deliver()
    name, row = batch.at("A")
    report = Report(row.id, row.token, Failure(Reason.ERROR, "no"))
    assert [batch.serve(name, [report]).stale for _ in range(2)] == [0, 0]
    assert len(batch.attempts(run, "A")) == 1
    batch.database.later(seconds=5)
    batch.forward()
    batch.deliver()
    assert batch.at("A")[1].attempt == 2


def test_the_report_of_a_former_attempt_is_refused_while_the_next_one_runs(batch):
    batch.server("AOS1")
    run = batch.submit(one_task(retries=1))
    batch.deliver()
    name, row = batch.at("A")
    batch.finish("A", ok=False)
    assert batch.at("A")[1].attempt == 2
    assert batch.serve(name, [Report(row.id, row.token, Success())]).stale == 1
    assert batch.states(run) == {"A": "executing"}


def test_the_report_of_a_former_attempt_in_one_commit_with_that_of_the_present_one_hides_nothing(batch):
    batch.server("AOS1")
    run = batch.submit(one_task(retries=1))
    batch.deliver()
    name, first = batch.at("A")
    batch.finish("A", ok=False)
    _, second = batch.at("A")
    reports = [Report(row.id, row.token, Success()) for row in (second, first)]
    assert batch.serve(name, reports).stale == 1
    assert batch.states(run) == {"A": "success"}
