"""`batchq runs` and `batchq task`, after stories that the engine played."""

from __future__ import annotations

import json
import re

import pytest

from batchq import views


@pytest.fixture
def failed(stage):
    """JOB 1 with TASK 2 failing."""
    stage.server("Batch1")
    run = stage.submit()
    stage.start("Batch1")
    stage.end("TASK 1", log="one line\n")
    stage.play(failing={"TASK 2"})
    return run


def test_without_runs_the_list_tells_the_first_command(batchq, batchq_json):
    assert batchq("runs", "list").stdout == "No runs. `batchq submit FILE` starts one.\n"
    assert batchq_json("runs", "list") == []


def test_the_list_names_each_run_with_its_status_and_tasks(batchq, failed):
    head, row = batchq("runs", "list").stdout.splitlines()
    assert head.split() == ["RUN", "JOB", "STATUS", "SUBMITTED", "TIME", "TASKS"]
    assert re.split(r"\s{2,}", row)[:3] == ["1", "JOB 1", "Error"]
    assert row.endswith("2 Ended, 1 Error, 4 Didn't run")


def test_the_json_of_a_run_is_the_view_itself(batchq_json, stage, failed):
    assert batchq_json("runs", "show", failed) == stage.view(failed)
    assert batchq_json("runs", "list") == _read(stage, views.runs)


def _read(stage, view):
    with stage.database.read() as tx:
        return view(tx)


def test_a_run_shows_its_tasks_with_their_reasons_and_errors(batchq, failed):
    lines = batchq("runs", "show", "last").stdout.splitlines()
    assert lines[0].startswith("JOB 1 run 1: Error, submitted ")
    rows = {line[:6]: line for line in lines[2:]}
    assert "RuntimeError: TASK 2 was told to fail" in rows["TASK 2"]
    assert rows["TASK 3"].endswith("TASK 2 failed")
    assert max(map(len, lines)) <= 110


def test_a_run_shows_for_whom_and_in_which_company_it_runs(batchq, batchq_json, stage):
    whose = [(None, None), ("anna", None), (None, "NO01"), ("anna", "NO01")]
    said = ["", "; run by anna", "; company NO01", "; run by anna, company NO01"]
    for (run_by, company), end in zip(whose, said, strict=True):
        run = stage.submit(json.dumps({"job": "J", "run_by": run_by, "company": company, "tasks": {"A": {"run": "x"}}}))
        view = batchq_json("runs", "show", run)
        assert (view["run_by"], view["company"]) == (run_by, company)
        assert batchq("runs", "show", run).stdout.splitlines()[0].partition(";")[1:] == (end[:1], end[1:])


def test_to_show_a_failed_run_is_no_failure(batchq, failed):
    batchq("runs", "show", failed, code=0)


def test_runs_are_chosen_by_job_and_status(batchq_json, stage, failed):
    stage.submit("{job: J, tasks: {A: {run: demo.work}}}")
    assert [run["run"] for run in batchq_json("runs", "list", "--job", "J")] == [2]
    assert [run["run"] for run in batchq_json("runs", "list", "--status", "error")] == [1]
    assert [run["run"] for run in batchq_json("runs", "list", "--limit", "1")] == [2]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["runs", "show", "7"], 3, "Error: No run 7. The newest is 1.\n"),
        (["runs", "show", "9" * 30], 3, f"Error: No run {'9' * 20}. The newest is 1.\n"),
        (
            ["runs", "show", "first"],
            2,
            "Error: 'first' is no run. A run is named by its number, or by `last` for the newest one.\n",
        ),
        (
            ["runs", "list", "--job", "JOB 2"],
            3,
            "Error: No job 'JOB 2' (closest: 'JOB 1'). `batchq job list` shows all jobs.\n",
        ),
        (["runs", "cancel", "1"], 5, "Error: Run 1 has ended already (Error): there is nothing left to cancel.\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_on_stderr_with_its_own_exit_code(batchq, failed, words, code, error):
    result = batchq(*words, code=code)
    assert (result.stdout, result.stderr) == ("", error)


def test_last_without_any_run_is_not_found(batchq):
    assert "There is no run yet" in batchq("runs", "show", "last", code=3).stderr


def test_to_cancel_a_run_lets_its_executing_task_finish(batchq, stage):
    stage.server("Batch1")
    stage.submit()
    stage.start("Batch1")
    said = batchq("runs", "cancel", "last").stdout
    assert said == "Run 1 of JOB 1: Canceling; tasks canceled: 6, 1 executing finishes first.\n"
    stage.end("TASK 1")
    assert stage.view()["status"] == "canceled"


def test_watching_a_run_that_ended_says_how(batchq, batchq_json, stage, failed):
    lines = batchq("runs", "watch", failed, code=1).stdout.splitlines()
    assert "JOB 1 run 1: Error after" in lines[-3]
    assert lines[-1] == "  batchq task log 1 'TASK 2'"
    assert batchq_json("runs", "watch", failed, code=1)["status"] == "error"
    stage.submit()
    stage.play()
    batchq("runs", "watch", "last", code=0)


def test_watching_too_long_is_exit_code_124(batchq, stage):
    stage.submit()
    result = batchq("runs", "watch", "last", "--timeout", "0", code=124)
    assert "JOB 1 run 1: still Executing after" in result.stdout


def test_watch_redraws_a_terminal_only(batchq):
    assert "without one" in batchq("runs", "list", "--watch", code=2).stderr


# --- tasks --------------------------------------------------------------------------------------------------


def test_tasks_are_listed_by_status(batchq_json, failed):
    assert [task["name"] for task in batchq_json("task", "list", "last", "--status", "error")] == ["TASK 2"]
    assert len(batchq_json("task", "list", failed)) == 7


def test_a_task_shows_what_it_runs_its_conditions_and_attempts(batchq, stage, failed):
    shown = batchq("task", "show", failed, "TASK 2").stdout
    assert "JOB 1 run 1 / TASK 2: Error, RuntimeError: TASK 2 was told to fail" in shown
    assert "demo.work(), group default, priority normal" in shown
    assert re.search(r"TASK 1\s+finished\s+Ended\s+yes", shown)
    assert re.search(r"1\s+Batch1\s+Error", shown)


def test_a_log_is_that_of_the_last_attempt_or_of_the_one_asked_for(batchq, batchq_json, stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work, retries: 1}}}")
    stage.start("Batch1")
    stage.end("A", "OSError: away", log="first\n")
    stage.start("Batch1")
    stage.end("A", log="second\n\x1b[31mred")
    assert batchq("task", "log", "last", "A").stdout == "second\n\\x1b[31mred\n"
    assert batchq("task", "log", "last", "A", "--attempt", "1").stdout == "first\n"
    assert [one["log"] for one in batchq_json("task", "log", 1, "A")] == ["first\n", "second\n\x1b[31mred"]
    assert "Attempts that ended: 1, 2." in batchq("task", "log", 1, "A", "--attempt", "3", code=3).stderr


def test_a_task_shows_how_it_is_tried_again_and_the_wait_and_class_of_each_attempt(batchq, batchq_json, stage):
    stage.server("Batch1")
    stage.submit(
        "{job: J, tasks: {A: {run: demo.work, retries: 2, retry_delay: 10, retry_backoff: 2, retry_delay_max: 30, "
        "retry_jitter: 0.2, retry_on: [OSError], retry_never_on: [batchq.Lost], repeatable: true}}}"
    )
    stage.start("Batch1")
    stage.end("A", "BrokenPipeError: away", classes=("BrokenPipeError", "OSError"))
    shown = batchq("task", "show", 1, "A").stdout

    said = "retries 2, after 10.0 s × 2 each time, at most 30.0 s, ± 20%; only on OSError; never on batchq.Lost"
    assert said in shown.splitlines()
    assert "repeatable: to run it once more does no harm" in shown.splitlines()
    assert "  0.0 s  " in shown
    assert "  BrokenPipeError  " in shown
    view = batchq_json("task", "show", 1, "A")
    assert (view["retry_backoff"], view["retry_delay_max"], view["retry_jitter"]) == (2, 30, 0.2)
    assert (view["retry_on"], view["retry_never_on"], view["repeatable"]) == (["OSError"], ["batchq.Lost"], True)
    (attempt,) = view["history"]
    assert attempt["error_class"] == "BrokenPipeError"
    assert attempt["ready_at"] is not None
    assert view["ready_at"] != attempt["ready_at"]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("TASK 1", "TASK 1: Ended."),
        ("TASK 2", "TASK 2: Error, RuntimeError: TASK 2 was told to fail."),
        ("TASK 3", "TASK 3: Didn't run, TASK 2 failed."),
    ],
)
def test_why_says_one_sentence(batchq, failed, task, sentence):
    assert batchq("task", "why", "last", task).stdout == f"{sentence}\n"


def test_why_of_what_waits_is_the_reason(batchq, batchq_json, stage):
    stage.submit()
    assert batchq("task", "why", "last", "TASK 2").stdout == "TASK 2: Waiting, waits for TASK 1 to finish.\n"
    assert batchq_json("task", "why", "last", "TASK 1") == {
        "run": 1,
        "job": "JOB 1",
        "name": "TASK 1",
        "status": "ready",
        "why": "default: no server serves this group",
    }


def test_an_unknown_task_is_not_found_with_the_closest(batchq, failed):
    error = batchq("task", "show", failed, "Task 22", code=3).stderr
    assert "No task 'Task 22' (closest: 'TASK 2')." in error
