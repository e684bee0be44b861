"""Abort of a task that executes (rule 32): the outcome that is stored first counts, and no failure runs it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchq import actions, aside, engine, views
from batchq.actions.task import abort_attempt
from batchq.core.aborting import FAST, THREADS
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import Report, aborted
from batchq.errors import Conflict, NotFound
from batchq.spec import Job
from play import Play, check_counters
from support.ways import missing, reported, set_aside

LOST = Failure(Reason.LOST, "lost: its process ended")


def job(retries: int = 3, **facts: object) -> Job:
    """A, which may be tried again, and what waits for each of its outcomes."""
    made = Job("ABORTED")
    first = made.task("A", "demo.work", retries=retries, **facts)
    made.task("SUCCESS", "demo.work", after=first.success)
    made.task("ERROR", "demo.work", after=first.error)
    made.task("FINISHED", "demo.work", after=first.finished)
    return made


@pytest.fixture
def batch(database) -> Play:
    batch = Play(database)
    batch.server("AOS1")
    batch.live("AOS1", pool_kind="prefork")
    return batch


def executing(batch: Play, made: Job | None = None) -> int:
    """A run whose task A executes on AOS1."""
    run = batch.submit(made or job())
    batch.deliver()
    assert batch.executing() == ["A"]
    return run


def abort(batch: Play) -> bool:
    _, row = batch.at("A")
    return batch.database.run(lambda tx: engine.abort(tx, row.id, row.token))


def refused(batch: Play) -> object:
    """The database refuses the failure that is reported, even without its words."""
    name, row = batch.at("A")
    return batch.serve(name, [aside.refused(Report(row.id, row.token, LOST), "no")])


FAILURES: dict[str, Callable[[Play], object]] = {
    "its process is stopped": reported(aborted()),
    "its operation fails meanwhile": reported(Failure(Reason.ERROR, "ValueError: no")),
    "its operation fails for good": reported(Failure(Reason.ERROR, "ValueError: no", final=True)),
    "its process is lost": reported(LOST),
    "its time is over": reported(Failure(Reason.TIMED_OUT, "timed out: still running")),
    "its server cannot start it": reported(Failure(Reason.NOT_STARTED, "not started: no")),
    "its outcome is refused": refused,
    "its server falls silent": lambda batch: batch.lose("AOS1"),
    "its server begins a new life": lambda batch: batch.live("AOS1"),
    "its server stops": lambda batch: batch.stop("AOS1"),
    "its server no longer has it": missing,
    "its server went, and it was set aside": set_aside,
}


@pytest.mark.parametrize("way", FAILURES)
def test_however_an_aborted_attempt_fails_its_task_is_canceled_and_not_tried_again_as_rule_32_says(
    batch: Play, way: str
) -> None:
    run = executing(batch)
    assert abort(batch)
    FAILURES[way](batch)
    batch.forward()

    row = batch.task(run, "A")
    (attempt,) = batch.attempts(run, "A")
    assert (row.status, row.abort, attempt.reason) == ("canceled", False, "aborted")
    assert row.error == attempt.error
    assert row.error.startswith("aborted by an operator")
    # Rules 4 and 7: an abort meets none of these, and counts as a failure.
    assert batch.states(run) == {"A": "canceled", **dict.fromkeys(("SUCCESS", "ERROR", "FINISHED"), "didnt_run")}
    assert batch.verdict(run) == "error"
    check_counters(batch.database)


def test_a_success_that_comes_after_an_abort_was_asked_for_stays_a_success_as_rule_32_says(batch: Play) -> None:
    run = executing(batch)
    assert abort(batch)
    batch.finish("A", result="[1]")
    row = batch.task(run, "A")
    assert (row.status, row.abort, row.result) == ("success", False, "[1]")
    assert batch.states(run)["ERROR"] == "didnt_run"
    assert batch.attempts(run, "A")[0].reason is None


@pytest.mark.parametrize(
    ("retries", "ok", "state"), [(0, True, "success"), (0, False, "error"), (1, True, "success"), (1, False, "ready")]
)
def test_an_outcome_that_was_stored_first_counts_as_rule_32_says(
    batch: Play, retries: int, ok: bool, state: str
) -> None:
    run = executing(batch, job(retries, retry_delay=60.0))
    _, row = batch.at("A")
    batch.finish("A", ok=ok)
    assert not batch.database.run(lambda tx: engine.abort(tx, row.id, row.token))
    with pytest.raises(Conflict):
        actions.abort_task(batch.database, run, "A")
    assert (batch.task(run, "A").status, batch.task(run, "A").abort) == (state, False)


def test_the_failure_that_no_retry_was_left_for_is_an_abort_all_the_same(batch: Play) -> None:
    run = executing(batch, job(retries=0))
    assert abort(batch)
    batch.finish("A", ok=False)
    assert batch.states(run)["A"] == "canceled"
    assert batch.task(run, "A").error == "aborted by an operator: told to fail"


def test_a_second_report_of_an_aborted_attempt_is_dropped(batch: Play) -> None:
    run = executing(batch)
    name, row = batch.at("A")
    assert abort(batch)
    batch.serve(name, [Report(row.id, row.token, aborted())])
    for end in (LOST, Success("[1]"), aborted()):
        batch.serve(name, [Report(row.id, row.token, end)])
    assert len(batch.attempts(run, "A")) == 1
    assert batch.states(run)["A"] == "canceled"
    check_counters(batch.database)


def test_an_abort_that_a_process_reports_cancels_its_task_even_where_it_was_not_marked(batch: Play) -> None:
    run = executing(batch)
    reported(aborted())(batch)
    assert batch.states(run)["A"] == "canceled"


def test_an_abort_of_an_earlier_attempt_does_not_touch_the_next_one(batch: Play) -> None:
    run = executing(batch)
    _, row = batch.at("A")
    batch.finish("A", ok=False)
    batch.deliver()
    assert batch.at("A")[1].attempt == 2
    assert not batch.database.run(lambda tx: engine.abort(tx, row.id, row.token))
    with pytest.raises(Conflict, match="that attempt of it has ended already"):
        abort_attempt(batch.database, row.id, row.token)
    batch.finish("A", ok=False)
    assert batch.attempts(run, "A")[1].reason == "error"


@pytest.mark.parametrize("own_share", [True, False])
def test_an_attempt_starts_without_a_mark_that_a_process_of_an_older_version_left(batch: Play, own_share: bool) -> None:
    batch.fast_path = own_share
    executing(batch)
    second = batch.submit(job())
    with batch.database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE batchq_task SET abort = true WHERE run_id = {second}")
    batch.finish("A")
    if not own_share:
        batch.forward()
        batch.deliver()
    assert batch.at("A", second)[1].attempt == 1
    assert batch.task(second, "A").abort is False


def test_a_task_of_a_run_that_is_being_canceled_can_be_aborted(batch: Play) -> None:
    run = executing(batch)
    batch.cancel(run)
    assert abort(batch)
    reported(aborted())(batch)
    assert set(batch.states(run).values()) == {"canceled"}
    assert batch.task(run, "A").claimed_at is not None
    assert batch.verdict(run) == "canceled"
    check_counters(batch.database)


def test_a_run_may_be_canceled_after_the_abort_of_a_task(batch: Play) -> None:
    run = executing(batch)
    assert abort(batch)
    assert batch.cancel(run) == 3
    reported(aborted())(batch)
    assert set(batch.states(run).values()) == {"canceled"}
    assert batch.verdict(run) == "canceled"


@pytest.mark.parametrize(("ignore_failure", "verdict"), [(False, "error"), (True, "success")])
def test_an_aborted_task_counts_as_a_failure_as_rule_7_says(batch: Play, ignore_failure: bool, verdict: str) -> None:
    run = executing(batch, job(ignore_failure=ignore_failure))
    assert abort(batch)
    reported(aborted())(batch)
    assert batch.verdict(run) == verdict


@pytest.mark.parametrize(("handles", "verdict"), [(False, "error"), (True, "success")])
def test_over_alone_is_met_by_an_abort_and_may_handle_it_as_rules_4_and_7_say(
    batch: Play, handles: bool, verdict: str
) -> None:
    made = job()
    made.task("OVER", "demo.work", after={"A": {"outcome": "over", "handles": handles}})
    run = executing(batch, made)
    assert abort(batch)
    reported(aborted())(batch)
    batch.deliver()
    batch.finish("OVER")
    assert batch.states(run)["OVER"] == "success"
    assert batch.verdict(run) == verdict
    check_counters(batch.database)


def test_no_other_attempt_is_hurt(batch: Play) -> None:
    batch.change("AOS1", threads=2)
    runs = [batch.submit(job()) for _ in range(2)]
    batch.deliver()
    name, row = batch.at("A", runs[0])
    assert batch.database.run(lambda tx: engine.abort(tx, row.id, row.token))
    _, other = batch.at("A", runs[1])
    batch.serve(
        name, [Report(row.id, row.token, aborted()), Report(other.id, other.token, Failure(Reason.ERROR, "no"))]
    )
    assert batch.states(runs[0])["A"] == "canceled"
    assert batch.task(runs[1], "A").attempt == 2
    check_counters(batch.database)


def test_its_thread_goes_to_the_next_task_with_the_commit_that_stores_the_abort(batch: Play) -> None:
    executing(batch)
    second = batch.submit(job())
    assert abort(batch)
    reported(aborted())(batch)
    assert batch.at("A", second)[0] == "AOS1"


# --- the action ---------------------------------------------------------------------------------------------


def test_the_action_marks_the_attempt_once_and_the_audit_keeps_who_and_why(
    batch: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rule 39.
    monkeypatch.setenv("BATCHQ_USER", "olav")
    run = executing(batch)
    said = {"run": run, "job": "ABORTED", "name": "A", "action": "abort", "status": "executing"}
    said |= {"attempt": 1, "server": "AOS1"}
    assert actions.abort_task(batch.database, run, "A", reason="month end", dry_run=True) == said
    assert batch.task(run, "A").abort is False
    for again in (run, "last", str(run)):
        assert actions.abort_task(batch.database, again, "A", reason="month end") == said
        assert batch.task(run, "A").abort is True
    with batch.database.read() as tx:
        (line,) = views.audit_lines(tx)
    told = [line[key] for key in ("who", "by", "what", "kind", "name", "before", "after", "why")]
    assert told == ["olav", "python", "abort", "task", f"{run} / A", "no", "yes", "month end"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (THREADS, "A cannot be aborted: AOS1 runs tasks in threads, and no thread can be stopped alone."),
        (FAST, "A cannot be aborted: AOS1 was started with -O fast, "),
    ],
)
def test_an_abort_is_refused_where_it_could_hurt_others_as_rule_32_says(batch: Play, kind: str, reason: str) -> None:
    batch.live("AOS1", pool_kind=kind)
    run = executing(batch)
    for dry_run in (True, False):
        with pytest.raises(Conflict) as refusal:
            actions.abort_task(batch.database, run, "A", dry_run=dry_run)
        assert refusal.value.sentence.startswith(reason)
    assert batch.task(run, "A").abort is False


def test_a_task_that_does_not_execute_is_not_aborted_as_rule_32_says(batch: Play) -> None:
    run = batch.submit(job())
    for name, label in (("A", "Ready"), ("ERROR", "Waiting")):
        with pytest.raises(Conflict, match=rf"{name} of run {run} does not execute \({label}\)") as refusal:
            actions.abort_task(batch.database, run, name)
        assert "cancel_run" in str(refusal.value)
    batch.deliver()
    batch.finish("A")
    with pytest.raises(Conflict, match=rf"A of run {run} is not aborted: it \(Ended\) has ended already"):
        actions.abort_task(batch.database, run, "A")


def test_an_unknown_run_or_task_is_not_found(batch: Play) -> None:
    run = batch.submit(job())
    with pytest.raises(NotFound):
        actions.abort_task(batch.database, 99, "A")
    with pytest.raises(NotFound, match="closest: 'ERROR'"):
        actions.abort_task(batch.database, run, "EROR")
