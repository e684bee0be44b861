"""`batchq task abort` (rule 32), and what `batchq check` says of servers on which it is refused."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from batchq.core.aborting import FAST, THREADS
from batchq.store.columns import TASK


@pytest.fixture
def run(stage):
    """JOB 1, whose TASK 1 executes on AOS1."""
    stage.server("AOS1")
    run = stage.submit()
    assert stage.start("AOS1") == ["TASK 1"]
    return run


def is_marked(stage) -> bool:
    with stage.database.read() as tx:
        return bool(tx.execute(select(TASK.abort).where(TASK.name == "TASK 1")).scalar_one())


def test_an_abort_says_what_happens_and_where(batchq, stage, run):
    said = batchq("task", "abort", run, "TASK 1", "--reason", "wrong month", "--yes").stdout
    assert said == f"TASK 1 of run {run} is being aborted: attempt 1 on AOS1.\n"
    assert is_marked(stage)
    assert batchq("task", "abort", "last", "TASK 1").stdout == said


def test_a_dry_run_says_it_and_changes_nothing(batchq, batchq_json, stage, run):
    said = batchq("task", "abort", run, "TASK 1", "--dry-run").stdout
    assert said == f"TASK 1 of run {run} would be aborted: attempt 1 on AOS1.\n"
    result = {"run": run, "job": "JOB 1", "name": "TASK 1", "action": "abort", "status": "executing"}
    result |= {"attempt": 1, "server": "AOS1"}
    assert batchq_json("task", "abort", run, "TASK 1", "--dry-run") == result
    assert not is_marked(stage)
    assert batchq_json("task", "abort", run, "TASK 1") == result
    assert is_marked(stage)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["1", "TASK 2"], 5, "TASK 2 of run 1 does not execute (Waiting). `batchq runs cancel` cancels "),
        (["1", "TASK 9"], 3, "No task 'TASK 9' (closest: "),
        (["7", "TASK 1"], 3, "No run 7. The newest is 1."),
        (["x", "TASK 1"], 2, "'x' is no run."),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_an_abort_of_what_does_not_execute_is_refused(batchq, run, words, code, error, options):
    assert batchq("task", "abort", *words, *options, code=code).stderr.startswith(f"Error: {error}")


def test_an_abort_of_a_task_that_has_ended_says_so(batchq, stage, run):
    stage.end("TASK 1")
    assert (
        "TASK 1 of run 1 is not aborted: it (Ended) has ended already."
        in batchq("task", "abort", run, "TASK 1", code=5).stderr
    )


@pytest.mark.parametrize(
    ("kind", "refusal", "note"),
    [
        (
            THREADS,
            "AOS1 runs tasks in threads, and no thread",
            "Server AOS1 runs tasks in threads: they can",
        ),
        (
            FAST,
            "AOS1 was started with -O fast, so that",
            "Tasks of server AOS1 cannot be aborted: AOS1",
        ),
    ],
)
def test_where_tasks_cannot_be_aborted_the_command_and_check_say_so(batchq, batchq_json, stage, kind, refusal, note):
    stage.server("AOS1", runs=False)
    stage.live("AOS1", pool_kind=kind)
    run = stage.submit()
    stage.start("AOS1")
    error = batchq("task", "abort", run, "TASK 1", code=5).stderr
    assert error.startswith(f"Error: TASK 1 cannot be aborted: {refusal}")
    assert any(said.startswith(note) for said in batchq_json("check", code=1)["notes"])
    assert not is_marked(stage)
