"""The commands of operators: hold, release, cancel, withhold, and the audit of them (rules 32, 33, 39)."""

from __future__ import annotations

import re

import pytest

from batchq import actions
from batchq.cli import bulk


@pytest.fixture(autouse=True)
def olav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHQ_USER", "olav")


@pytest.fixture
def started(stage):
    """A run of JOB 1 in which TASK 1 executes."""
    stage.server("Batch1")
    run = stage.submit()
    stage.start("Batch1")
    return run


# --- one run ------------------------------------------------------------------------------------------------


def test_a_run_is_held_released_and_canceled(batchq, stage, started):
    said = batchq("runs", "hold", "last", "--reason", "month end").stdout
    assert said == "Run 1 of JOB 1: Executing, held; tasks that wait: 6, 1 executing finishes first.\n"
    stage.end("TASK 1")
    assert stage.start("Batch1") == []
    assert batchq("runs", "hold", "1", code=5).stderr == "Error: Run 1 is held already (by olav: 'month end').\n"
    assert batchq("runs", "release", "1").stdout == "Run 1 of JOB 1: Executing; tasks that go on: 6.\n"
    assert batchq("runs", "release", "1", code=5).stderr == "Error: Run 1 is not held: it executes.\n"
    stage.advance()
    assert stage.start("Batch1") == ["TASK 2"]
    said = batchq("runs", "cancel", "1", "--yes").stdout
    assert said == "Run 1 of JOB 1: Canceling; tasks canceled: 5, 1 executing finishes first.\n"
    assert "cannot be held: it is being canceled" in batchq("runs", "hold", "1", code=5).stderr


@pytest.mark.parametrize("word", ["hold", "cancel"])
def test_a_rehearsal_says_what_would_happen_and_changes_nothing(batchq, batchq_json, stage, started, word):
    before = stage.view()
    tasks = {"hold": "tasks that wait: 6", "cancel": "tasks canceled: 6"}[word]
    said = batchq("runs", word, "1", "--dry-run").stdout
    assert said == f"Run 1 of JOB 1: would {word}; {tasks}, 1 executing finishes first.\n"
    told = batchq_json("runs", word, "1", "--dry-run")
    assert (told["status"], told["held"], told["tasks"]) == ("executing", False, 6)
    assert stage.view() == before
    assert batchq_json("audit", "list") == []
    done = batchq_json("runs", word, "1")
    assert done["tasks"] == told["tasks"]


def test_the_json_of_one_run_is_an_object_and_that_of_many_a_list(batchq_json, started):
    one = {"run": 1, "job": "JOB 1", "tasks": 6, "executing": 1, "refused": None}
    assert batchq_json("runs", "hold", "1") == one | {"action": "hold", "status": "executing", "held": True}
    released = one | {"action": "release", "status": "executing", "held": False}
    assert batchq_json("runs", "release", "--job", "JOB 1", "--yes") == [released]


def test_no_run_is_named_or_both_a_run_and_a_filter(batchq, started):
    for words in ([], ["1", "--job", "JOB 1"]):
        assert "Name one RUN, or choose runs by" in batchq("runs", "hold", *words, code=2).stderr


# --- many runs ----------------------------------------------------------------------------------------------

OTHER = "{job: OTHER, tasks: {A: {run: demo.work}}}"


@pytest.fixture
def four(stage, started):
    """Runs 1 and 2 of JOB 1 and 3 of OTHER are open, and 4 of OTHER is canceled."""
    stage.submit()
    stage.submit(OTHER)
    stage.submit(OTHER)
    actions.cancel_run(stage.database, 4)


@pytest.mark.parametrize(
    ("filters", "runs"),
    [
        (["--job", "JOB 1"], [1, 2]),
        (["--job", "OTHER"], [3]),
        (["--status", "executing"], [1, 2, 3]),
        (["--since", "1h"], [1, 2, 3]),
        (["--since", "2020-01-01T00:00"], [1, 2, 3]),
        (["--older-than", "0"], [1, 2, 3]),
    ],
)
def test_filters_choose_the_runs_that_an_action_suits(batchq_json, four, filters, runs):
    done = batchq_json("runs", "hold", *filters, "--yes")
    assert [result["run"] for result in done if result["held"]] == runs


@pytest.mark.parametrize("filters", [["--status", "error"], ["--since", "0s"], ["--older-than", "1d"]], ids=str)
def test_no_run_matches(batchq, four, filters):
    result = batchq("runs", "hold", *filters, "--yes", code=1)
    assert (result.stdout, result.stderr) == ("", "There is no such run to hold.\n")


def test_what_can_be_done_is_done_and_what_is_refused_is_named(batchq, stage, four):
    actions.hold_run(stage.database, 3, reason="mine")
    result = batchq("runs", "hold", "--status", "executing", "--status", "canceled", "--yes", code=5)
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["Run 1 of JOB 1", "Run 2 of JOB 1"]
    assert result.stderr.splitlines() == [
        "Run 3 is held already (by olav: 'mine').",
        "Run 4 cannot be held: it has ended (Canceled).",
    ]


def test_many_runs_are_not_changed_where_nobody_can_be_asked(batchq, batchq_json, four):
    error = batchq("runs", "cancel", "--job", "JOB 1", code=2).stderr
    assert "This would cancel 2 runs. Add --yes, or try --dry-run first." in error
    assert len(batchq_json("runs", "cancel", "--job", "JOB 1", "--dry-run")) == 2
    assert batchq_json("audit", "list", "--what", "cancel") != []
    assert {run["status"] for run in batchq_json("runs", "list", "--job", "JOB 1")} == {"executing"}


@pytest.mark.parametrize(("answer", "code", "status"), [("y\n", 0, "canceled"), ("n\n", 1, "executing")])
def test_on_a_terminal_it_asks(batchq, batchq_json, stage, monkeypatch, answer, code, status):
    stage.submit(OTHER)
    monkeypatch.setattr(bulk, "may_ask", lambda: True)
    result = batchq("runs", "cancel", "--job", "OTHER", code=code, typed=answer)
    assert "This will cancel 1 run. Go on?" in result.stderr
    assert [run["status"] for run in batchq_json("runs", "list", "--job", "OTHER")] == [status]


def test_an_unknown_job_is_not_found(batchq, four):
    assert "No job 'JOB 2' (closest: 'JOB 1')" in batchq("runs", "hold", "--job", "JOB 2", code=3).stderr


# --- jobs ---------------------------------------------------------------------------------------------------


def test_a_withheld_job_starts_no_run_and_says_by_whom_and_why(batchq, batchq_json, stage, started, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(OTHER)
    batchq("apply", file)
    said = batchq("job", "hold", "OTHER", "--dry-run").stdout
    assert said == "Job OTHER would be withheld: no run of it starts; 0 open runs going on.\n"
    batchq("submit", file)
    said = batchq("job", "hold", "OTHER", "--reason", "broken").stdout
    assert said == "Job OTHER is withheld: no run of it starts; 1 open run going on.\n"
    error = batchq("submit", file, code=5).stderr
    withheld = (
        "Job OTHER is withheld (by olav: 'broken'): no run of it starts. `batchq job release OTHER` lets it go on."
    )
    assert error == f"Error: {withheld}\n"
    (line,) = (job for job in batchq_json("job", "list") if job["job"] == "OTHER")
    assert (line["status"], line["withheld_by"], line["withheld_why"]) == ("withhold", "olav", "broken")
    assert line["why"] == "withheld (by olav: 'broken')"
    assert "\nwithheld (by olav: 'broken')\n" in batchq("job", "show", "OTHER").stdout
    assert "withheld already (by olav: 'broken')" in batchq("job", "hold", "OTHER", code=5).stderr
    assert batchq_json("job", "release", "OTHER") == {
        "job": "OTHER", "action": "release", "withheld": False, "open_runs": 1,
    }  # fmt: skip
    batchq("submit", file)
    assert "is not withheld" in batchq("job", "release", "OTHER", code=5).stderr


# --- the audit ----------------------------------------------------------------------------------------------


def test_the_audit_is_listed_for_people(batchq, started):
    assert batchq("audit", "list").stdout == "Nothing was changed.\n"
    batchq("runs", "hold", "1", "--reason", "month end")
    batchq("group", "pause", "default")
    head, pause, hold = batchq("audit", "list").stdout.splitlines()
    assert head.split() == ["WHEN", "WHO", "BY", "WHAT", "ON", "BEFORE", "AFTER", "WHY"]
    assert (
        hold.split(maxsplit=1)[1].split() == "olav cli hold run 1 Executing Executing, held month end".lower().split()
    )
    assert "set paused" in pause


def test_the_audit_is_chosen_by_time_person_and_action(batchq, batchq_json, started):
    batchq("runs", "hold", "1")
    batchq("group", "pause", "default")
    assert [line["what"] for line in batchq_json("audit", "list")] == ["set paused", "hold"]
    assert [line["what"] for line in batchq_json("audit", "list", "--what", "run")] == ["hold"]
    assert len(batchq_json("audit", "list", "--who", "olav", "--since", "5m")) == 2
    assert batchq_json("audit", "list", "--who", "anna") == []


def test_a_submit_is_in_the_audit_with_the_number_of_its_run_as_rule_39_says(batchq, batchq_json, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(OTHER)
    assert batchq("submit", file).stdout == "Run 1 of OTHER is submitted.\n"
    (line,) = batchq_json("audit", "list", "--what", "submit")
    shown = {"who": "olav", "by": "cli", "kind": "run", "name": "1", "before": None, "after": "OTHER", "why": None}
    assert line == shown | {"what": "submit", "at": line["at"]}
    _, said = batchq("audit", "list").stdout.splitlines()
    assert said.split(maxsplit=1)[1].split() == ["olav", "cli", "submit", "run", "1", "–", "OTHER"]


def test_why_says_first_that_a_run_is_held_or_still_being_stored_as_rule_40_says(batchq, stage, started):
    batchq("runs", "hold", "last", "--reason", "month end")
    said = batchq("task", "why", "last", "TASK 7").stdout
    assert re.fullmatch(r"TASK 7: Waiting, run 1 is held \(by olav, .*\d\d:\d\d(:\d\d)? UTC: 'month end'\)\.\n", said)
    batchq("runs", "release", "last")
    stage.database.run(lambda tx: tx.exec_driver_sql("UPDATE batchq_run SET status = 'storing', open_tasks = 35"))
    said = batchq("task", "why", "last", "TASK 7").stdout
    assert said == "TASK 7: Waiting, is being stored: 7 of 35 tasks.\n"
