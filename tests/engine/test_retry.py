"""An operator's retry, played by the engine: the rows of rule 33's tables, and what is refused (rules 33, 52)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from batchq import Job, actions, engine
from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.engine import Retry
from batchq.errors import Conflict, NotFound
from batchq.store import moves
from batchq.store.columns import RUN, TASK
from batchq.store.tables import AttemptRow, TaskRow
from play import Play, check_counters
from support.job1 import job_1


def play_on(batch: Play, failing: Collection[str] = ()) -> list[str]:
    """Play what is open to its end; returns the tasks that were started from here on, in their order."""
    first = len(batch.starts)
    batch.forward()
    batch.deliver()
    while running := [row for _, row in batch.running()]:
        batch.finish(running[0].name, ok=running[0].name not in failing, run=running[0].id >> 20)
        batch.forward()
        batch.deliver()
    check_counters(batch.database)
    return [start.task for start in batch.starts[first:]]


def retry(batch: Play, run: int, *tasks: str, **asked: Any) -> set[str]:
    """Retry; returns the names of the tasks that were reset. A rehearsal foresees the very same."""
    with batch.database.read() as tx:
        foreseen = engine.rehearse(tx, Retry(run, tasks, **asked))
    done = engine.retry(batch.database, Retry(run, tasks, **asked), lambda tx, retried: None)
    assert done == foreseen
    return set(done.tasks)


def names(numbers: str) -> list[str]:
    return [f"TASK {number}" for number in numbers.replace("-", "").split()]


def ends(success: str, error: str, didnt_run: str, canceled: str = "") -> dict[str, str]:
    by_state = {"success": success, "error": error, "didnt_run": didnt_run, "canceled": canceled}
    return {name: state for state, numbers in by_state.items() for name in names(numbers)}


# --- JOB 1 (rule 33, first table) ---------------------------------------------------------------------------

# What failed | named | resets | runs again | fails again | then success | error | didn't run | verdict
JOB_1 = """
    1   |     | 1 2 3 4 5 6 7 | 1 2 3 4 7 |   | 1 2 3 4 7   |   | 5 6     | success
    2   |     | 2 3 4 5 6 7   | 2 3 4 7   |   | 1 2 3 4 7   |   | 5 6     | success
    3   |     | 3 6 7         | 3 7       |   | 1 2 3 4 7   |   | 5 6     | success
    4   |     | 4 7           | 4 7       |   | 1 2 3 4 7   |   | 5 6     | success
    3 4 |     | 3 4 6 7       | 3 4 7     |   | 1 2 3 4 7   |   | 5 6     | success
    2 5 |     | 2 3 4 5 6 7   | 2 3 4 7   |   | 1 2 3 4 7   |   | 5 6     | success
    2   |     | 2 3 4 5 6 7   | 2 5       | 2 | 1 5         | 2 | 3 4 6 7 | error
    -   | 4   | 4 7           | 4 7       |   | 1 2 3 4 7   |   | 5 6     | success
    -   | 2   | 2 3 4 5 6 7   | 2 3 4 7   |   | 1 2 3 4 7   |   | 5 6     | success
    -   | all | 1 2 3 4 5 6 7 | 1 2 3 4 7 |   | 1 2 3 4 7   |   | 5 6     | success
    3   | 6   | 6             | 6         |   | 1 2 4 6     | 3 | 5 7     | error
"""


@pytest.mark.parametrize("row", JOB_1.strip().splitlines(), ids=lambda row: " then ".join(row.split("|")[:2]))
def test_a_retry_of_job_1_resets_and_runs_what_rule_33_says(batch: Play, row: str):
    failed, named, resets, again, fails, success, error, didnt_run, verdict = map(str.strip, row.split("|"))
    run = batch.play(job_1(), failing=names(failed)).run
    asked = {"all_tasks": True} if named == "all" else {}
    assert retry(batch, run, *([] if asked else names(named)), **asked) == set(names(resets))
    assert batch.verdict(run) == "executing"
    assert sorted(play_on(batch, names(fails))) == names(again)
    assert batch.states(run) == ends(success, error, didnt_run)
    assert batch.verdict(run) == verdict


def canceled_while_3_executed(batch: Play) -> int:
    """JOB 1, canceled while TASK 3 executed: it succeeded, 4, 6 and 7 were canceled, and 5 had not run."""
    batch.server("AOS1")
    run = batch.submit(job_1())
    batch.deliver()
    for name in ("TASK 1", "TASK 2"):
        batch.finish(name)
        batch.deliver()
    batch.cancel(run)
    batch.mail.clear()
    batch.finish("TASK 3")
    assert batch.states(run) == ends("1 2 3", "", "5", "4 6 7")
    return run


# Named | resets | runs again | then success | didn't run | canceled | verdict
CANCELED = """
      | 4 6 7 | 4 7 | 1 2 3 4 7 | 5 6 |   | success
    4 | 4 7   | 4 7 | 1 2 3 4 7 | 5   | 6 | canceled
"""


@pytest.mark.parametrize("row", CANCELED.strip("\n").splitlines(), ids=["all of them", "one of them"])
def test_a_canceled_run_stays_so_while_a_task_is_left_that_was_canceled_with_it_as_rule_33_says(batch: Play, row: str):
    named, resets, again, success, didnt_run, canceled, verdict = map(str.strip, row.split("|"))
    run = canceled_while_3_executed(batch)
    assert retry(batch, run, *names(named)) == set(names(resets))
    assert sorted(play_on(batch)) == names(again)
    assert batch.states(run) == ends(success, "", didnt_run, canceled)
    assert batch.verdict(run) == verdict


def abort(batch: Play, name: str) -> None:
    """Let an executing task end as one that an operator aborted."""
    server, row = batch.at(name)
    del batch.workers[server].active[row.token]
    now = batch.database.shown

    def end(tx: Any) -> None:
        tx.execute(update(TaskRow).where(TASK.id == row.id).values(status="canceled", unsettled=True, ended_at=now))
        attempt = {"task_id": row.id, "attempt": 1, "server": server, "epoch": 1, "claimed_at": now, "ended_at": now}
        tx.execute(insert(AttemptRow).values(status="error", reason="aborted", **attempt))

    batch.database.run(end)
    batch.forward()
    batch.deliver()


def with_task_3_aborted(batch: Play, *, repeatable: bool = False) -> int:
    batch.server("AOS1", 2)
    run = batch.submit(job_1())
    batch.deliver()
    for name in ("TASK 1", "TASK 2"):
        batch.finish(name)
        batch.deliver()
    abort(batch, "TASK 3")
    play_on(batch)
    if repeatable:
        batch.database.run(lambda tx: tx.execute(update(TaskRow).where(TASK.run_id == run).values(repeatable=True)))
    assert batch.states(run) == ends("1 2 4", "", "5 6 7", "3")
    assert batch.verdict(run) == "error"
    return run


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "with `lost`"])
def test_a_task_that_was_aborted_runs_again_as_rules_33_and_52_say(batch: Play, repeatable: bool):
    run = with_task_3_aborted(batch, repeatable=repeatable)
    assert retry(batch, run, lost=not repeatable) == set(names("3 6 7"))
    assert sorted(play_on(batch)) == names("3 7")
    assert batch.states(run) == ends("1 2 3 4 7", "", "5 6")
    assert batch.verdict(run) == "success"


# --- joins, shared conditions, handlers (rule 33, second table) -----------------------------------------------


def any_of_two() -> Job:
    """X after A or B, Y after X."""
    job = Job("ANY")
    a, b = job.task("A", "demo.work"), job.task("B", "demo.work")
    x = job.task("X", "demo.work", after=a.success | b.success)
    job.task("Y", "demo.work", after=x)
    return job


def four_alike() -> Job:
    """W1 to W4 share their conditions on A and B, and W1 keeps them; Z after W1 and W2."""
    job = Job("ALIKE")
    a, b = job.task("A", "demo.work"), job.task("B", "demo.work")
    w = [job.task(f"W{number}", "demo.work", after=a.success & b.success) for number in (1, 2, 3, 4)]
    job.task("Z", "demo.work", after=w[0].success & w[1].success)
    return job


def handled() -> Job:
    """FIX handles an error of A; I may fail, B follows it."""
    job = Job("HANDLED")
    a = job.task("A", "demo.work")
    job.task("FIX", "demo.work", after=a.error.handles)
    ignored = job.task("I", "demo.work", ignore_failure=True)
    job.task("B", "demo.work", after=ignored)
    return job


GRAPHS = [
    # what failed, resets, fails again, runs again, verdict
    (any_of_two, "B", "B", "", "B", "success"),
    (any_of_two, "A B", "A B X Y", "", "A B X Y", "success"),
    (four_alike, "W1", "W1 Z", "", "W1 Z", "success"),
    (four_alike, "W3", "W3", "", "W3", "success"),
    (four_alike, "B", "B W1 W2 W3 W4 Z", "", "B W1 W2 W3 W4 Z", "success"),
    (handled, "A I", "A B FIX I", "", "A B I", "success"),
    (handled, "A", "A FIX", "A", "A FIX", "success"),
]


@pytest.mark.parametrize(("job", "failed", "resets", "fails", "again", "verdict"), GRAPHS)
def test_a_retry_resets_and_runs_what_the_second_table_of_rule_33_says(
    batch: Play, job, failed, resets, fails, again, verdict
):
    run = batch.play(job(), failing=failed.split()).run
    assert sorted(retry(batch, run)) == resets.split()
    assert sorted(play_on(batch, fails.split())) == again.split()
    assert batch.verdict(run) == verdict


# --- refused (rules 33g, 52) --------------------------------------------------------------------------------


def refused(batch: Play, run: int, *tasks: str, **asked: Any) -> str:
    """The sentence with which the retry is refused; nothing is changed by it, and a rehearsal says the same."""
    before = batch.states(run)
    with batch.database.read() as tx, pytest.raises(Conflict) as foreseen:
        engine.rehearse(tx, Retry(run, tasks, **asked))
    with pytest.raises(Conflict) as error:
        engine.retry(batch.database, Retry(run, tasks, **asked), lambda tx, retried: None)
    assert str(error.value) == str(foreseen.value)
    assert batch.states(run) == before
    return str(error.value)


def test_a_named_task_that_could_not_run_is_refused_with_what_it_waits_for(batch: Play):
    run = batch.play(job_1(), failing=names("3")).run
    assert refused(batch, run, "TASK 5") == "TASK 5 waits for TASK 2 to fail; retry TASK 2."
    assert batch.verdict(run) == "error"


def test_a_named_task_behind_one_that_was_canceled_is_refused(batch: Play):
    run = canceled_while_3_executed(batch)
    said = "TASK 7 waits for TASK 4 to succeed, which was canceled; retry TASK 4."
    assert refused(batch, run, "TASK 7") == said
    assert batch.verdict(run) == "canceled"


def test_a_run_of_which_nothing_failed_is_refused_unless_tasks_are_named(batch: Play):
    run = batch.play(job_1()).run
    assert "No task of run 1 has failed" in refused(batch, run)


def test_a_set_with_a_task_that_is_queued_or_executing_is_refused(batch: Play):
    batch.server("AOS1")
    run = batch.submit(job_1())
    assert "executing: TASK 1." in refused(batch, run, "TASK 1")
    batch.deliver()
    assert "executing: TASK 1." in refused(batch, run, "TASK 1")
    batch.finish("TASK 1", ok=False)
    batch.deliver()
    assert "executing: TASK 2." in refused(batch, run)
    assert play_on(batch) == names("3 4 7")


def test_a_run_that_is_canceling_is_refused(batch: Play):
    batch.server("AOS1")
    run = batch.submit(job_1())
    batch.deliver()
    batch.cancel(run)
    assert "is canceling" in refused(batch, run)


def test_a_run_that_is_being_retried_is_refused(batch: Play):
    run = batch.play(job_1(), failing=names("3")).run
    batch.database.run(lambda tx: moves.mark(tx, run, "{}"))
    assert "is being retried" in refused(batch, run)


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.TIMED_OUT])
def test_a_task_that_may_have_done_its_work_is_refused_unless_lost_is_said(batch: Play, reason: Reason):
    run = failed_with(batch, reason)
    assert refused(batch, run) == (
        "Nobody knows whether these tasks did their work before they were lost, timed out or aborted: TASK 2. "
        "If it may be done twice, retry them with `lost`."
    )
    assert "TASK 2" in refused(batch, run, "TASK 1")  # as TASK 2 is reset too
    assert retry(batch, run, lost=True) == set(names("2 3 4 5 6 7"))


@pytest.mark.parametrize("reason", [Reason.ERROR, Reason.NOT_STARTED])
def test_a_task_that_surely_did_not_do_its_work_runs_again_unasked(batch: Play, reason: Reason):
    run = failed_with(batch, reason)
    assert retry(batch, run) == set(names("2 3 4 5 6 7"))


def test_an_attempt_of_a_repeatable_operation_runs_again_unasked(batch: Play):
    run = failed_with(batch, Reason.LOST)
    batch.database.run(lambda tx: tx.execute(update(AttemptRow).values(repeatable=True)))
    assert retry(batch, run) == set(names("2 3 4 5 6 7"))


def failed_with(batch: Play, reason: Reason) -> int:
    """JOB 1, in which TASK 2 failed for this reason."""
    batch.server("AOS1", 2)
    run = batch.submit(job_1())
    batch.deliver()
    batch.finish("TASK 1")
    batch.deliver()
    server, row = batch.at("TASK 2")
    batch.report(server, row, Failure(reason, "it failed"))
    batch.deliver()
    play_on(batch)
    return run


def test_an_unknown_task_is_named_with_the_closest(batch: Play):
    run = batch.play(job_1(), failing=names("3")).run
    with pytest.raises(NotFound, match="closest: 'TASK 3'"):
        engine.retry(batch.database, Retry(run, ["TASK3"]), lambda tx, retried: None)


# --- attempts, late reports, executing runs -----------------------------------------------------------------


def test_attempts_go_on_counting_and_retries_start_afresh_as_rule_33_says(batch: Play):
    batch.server("AOS1")
    job = Job("RETRIED")
    job.task("A", "demo.work", retries=1)
    run = batch.play(job, failing={"A"}).run
    retry(batch, run)
    row = batch.task(run, "A")
    assert (row.status, row.attempt, row.retried_at, row.error, row.ended_at) == ("ready", 2, 2, None, None)
    assert play_on(batch, {"A"}) == ["A", "A"]
    assert [attempt.attempt for attempt in batch.attempts(run, "A")] == [1, 2, 3, 4]
    assert batch.verdict(run) == "error"


def test_a_report_of_an_attempt_before_the_retry_is_stale(batch: Play):
    batch.server("AOS1")
    job = Job("LATE")
    job.task("A", "demo.work")
    run = batch.submit(job)
    batch.deliver()
    server, row = batch.at("A")
    batch.finish("A", ok=False)
    retry(batch, run)
    batch.deliver()
    batch.change(server, threads=0)
    batch.report(server, row, Failure(Reason.ERROR, "too late"))
    assert batch.workers[server].stale == 1
    assert batch.states(run) == {"A": "ready"}


def test_a_task_of_an_executing_run_is_reset_while_others_go_on(batch: Play):
    batch.server("AOS1", 3)
    job = Job("WIDE")
    a = job.task("A", "demo.work")
    job.task("B", "demo.work")
    job.task("C", "demo.work", after=a)
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    assert retry(batch, run) == {"A", "C"}
    assert batch.executing() == ["B"]
    assert sorted(play_on(batch)) == ["A", "C"]
    assert batch.verdict(run) == "success"


def test_a_ready_task_that_follows_waits_again(batch: Play):
    batch.server("AOS1", 0)
    job = Job("READY")
    a = job.task("A", "demo.work", group="BG1")
    job.task("B", "demo.work", after=a)
    batch.server("AOS2", 1, groups=["BG1"])
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A")
    assert batch.states(run) == {"A": "success", "B": "ready"}
    assert retry(batch, run, "A") == {"A", "B"}
    assert batch.states(run) == {"A": "ready", "B": "waiting"}
    check_counters(batch.database)


def test_each_retry_of_a_run_is_counted(batch: Play):
    run = batch.play(job_1(), failing=names("3")).run
    for number in (1, 2):
        retry(batch, run)
        play_on(batch, names("3"))
        with batch.database.read() as tx:
            assert tx.execute(select(RUN.verdicts)).scalar() == number


def test_a_task_whose_group_was_deleted_and_that_has_no_lane_runs_again(batch: Play):
    batch.server("AOS1")
    job = Job("OLD")
    job.task("A", "demo.work", group="BG1")
    run = batch.play(job, failing={"A"}).run
    batch.database.run(lambda tx: tx.execute(update(TaskRow).values(lane=0)))
    actions.delete_group(batch.database, "BG1")
    assert retry(batch, run) == {"A"}
    assert play_on(batch) == ["A"]
    assert batch.verdict(run) == "success"


def half_failed(batch: Play) -> int:
    """A run of A, which has failed, and B."""
    job = Job("TWO")
    job.task("A", "demo.work")
    job.task("B", "demo.work")
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    return run


# --- a held run (rule 33b) ----------------------------------------------------------------------------------


def test_the_tasks_of_a_held_run_become_ready_aside_and_start_when_it_is_released(batch: Play):
    batch.server("AOS1")
    run = half_failed(batch)
    actions.hold_run(batch.database, run)
    batch.mail.clear()
    assert retry(batch, run) == {"A"}
    assert play_on(batch) == []
    assert batch.task(run, "A").aside
    actions.release_run(batch.database, run)
    assert play_on(batch) == ["A"]


# --- two at once ---------------------------------------------------------------------------------------------


def act(batch: Play, run: int, word: str) -> None:
    """Take an operator's action."""
    if word == "retry":
        retry(batch, run)
    else:
        {"cancel": actions.cancel_run, "hold": actions.hold_run}[word](batch.database, run)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("retry", "retry", "No task of run 1 has failed"),
        ("cancel", "retry", "is canceling"),
        ("retry", "cancel", None),
        ("hold", "retry", None),
        ("retry", "hold", None),
    ],
)
def test_the_second_of_two_people_finds_what_the_first_has_done(batch: Play, first: str, second: str, said: str | None):
    batch.server("AOS1", 2)
    run = half_failed(batch)
    act(batch, run, first)
    if said is None:
        act(batch, run, second)
        check_counters(batch.database)
    else:
        with pytest.raises(Conflict, match=said):
            act(batch, run, second)


# --- by hand (rule 54) ----------------------------------------------------------------------------------------


def accept(batch: Play, run: int, task: str) -> set[str]:
    return retry(batch, run, task, accepted="olav: 'by hand'")


def test_an_accepted_task_is_a_success_without_an_attempt_and_what_follows_it_runs_as_rule_54_says(batch: Play):
    run = batch.play(job_1(), failing=names("3")).run
    assert accept(batch, run, "TASK 3") == set(names("3 6 7"))
    assert play_on(batch) == names("7")
    assert batch.states(run) == ends("1 2 3 4 7", "", "5 6")
    assert batch.verdict(run) == "success"
    row = batch.task(run, "TASK 3")
    assert (row.accepted, row.attempt, row.error, row.result) == ("olav: 'by hand'", 1, None, None)


def test_a_task_that_waits_for_one_that_failed_can_be_accepted_though_it_could_not_run(batch: Play):
    run = canceled_while_3_executed(batch)
    assert accept(batch, run, "TASK 7") == set(names("7"))
    batch.forward()
    assert batch.states(run) == ends("1 2 3 7", "", "5", "4 6")
    assert batch.verdict(run) == "canceled"  # 4 and 6 were canceled with it


def test_the_task_that_keeps_the_conditions_is_accepted_and_those_that_share_them_go_on(batch: Play):
    batch.server("AOS1", 2)
    run = batch.submit(four_alike())
    batch.deliver()
    assert accept(batch, run, "W1") == {"W1", "Z"}
    assert sorted(play_on(batch)) == ["W2", "W3", "W4", "Z"]
    assert batch.verdict(run) == "success"


def test_a_lost_task_is_accepted_unasked_as_it_does_not_run_again(batch: Play):
    run = failed_with(batch, Reason.LOST)
    assert accept(batch, run, "TASK 2") == set(names("2 3 4 5 6 7"))
    assert sorted(play_on(batch)) == names("3 4 7")


@pytest.mark.parametrize(("task", "said"), [("TASK 1", "is Ended"), ("TASK 5", "is Didn't run")])
def test_only_a_task_that_waits_or_failed_can_be_accepted(batch: Play, task: str, said: str):
    run = batch.play(job_1(), failing=names("3")).run
    assert said in refused(batch, run, task, accepted="olav: 'by hand'")
