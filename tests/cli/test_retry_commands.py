"""The commands that run tasks again, or take them for done (rules 33, 52, 54)."""

from __future__ import annotations

import pytest

from batchq.store import moves


@pytest.fixture(autouse=True)
def olav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHQ_USER", "olav")


def play(stage, *failing: str) -> None:
    """Let all that can start do so, and end: the `failing` with an error."""
    stage.advance()
    stage.play(failing)


@pytest.fixture
def failed(stage):
    """A run of JOB 1 in which TASK 3 failed."""
    stage.server("Batch1")
    run = stage.submit()
    play(stage, "TASK 3")
    return run


# --- retry --------------------------------------------------------------------------------------------------


def test_the_failed_tasks_of_a_run_are_retried(batchq, batchq_json, stage, failed):
    told = batchq("runs", "retry", "last", "--dry-run").stdout
    assert told == "Run 1 of JOB 1: would retry; tasks reset: 3.\n"
    assert stage.view()["status"] == "error"
    said = batchq("runs", "retry", "1", "--reason", "the disk is larger").stdout
    assert said == "Run 1 of JOB 1: Executing; tasks reset: 3.\n"
    play(stage)
    assert stage.view()["status"] == "success"
    (line,) = batchq_json("audit", "list")
    facts = {key: line[key] for key in ("who", "what", "kind", "name", "before", "after", "why")}
    assert facts == {
        "who": "olav",
        "what": "retry",
        "kind": "run",
        "name": "1",
        "before": "error",
        "after": "executing; reset: TASK 3, TASK 6, TASK 7",
        "why": "the disk is larger",
    }


def test_named_tasks_are_retried_or_all(batchq, batchq_json, stage, failed):
    assert batchq_json("runs", "retry", "1", "--task", "TASK 4", "--task", "TASK 6")["tasks"] == 3
    play(stage)
    assert batchq_json("runs", "retry", "1", "--all", "--dry-run")["tasks"] == 7
    assert batchq_json("task", "retry", "1", "TASK 2")["tasks"] == 6
    play(stage)
    assert stage.view()["status"] == "success"
    assert "No task of run 1 has failed" in batchq("runs", "retry", "1", code=5).stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["runs", "retry", "1", "--task", "TASK 5"], 5, "TASK 5 waits for TASK 2 to fail; retry TASK 2."),
        (["task", "retry", "1", "TASK 5"], 5, "TASK 5 waits for TASK 2 to fail; retry TASK 2."),
        (["task", "retry", "1", "TASK 9"], 3, "No task 'TASK 9'"),
        (["runs", "retry", "9"], 3, "No run 9."),
        (["runs", "retry"], 2, "Name one RUN"),
        (["runs", "retry", "1", "--task", "TASK 3", "--all"], 2, "--task or --all"),
        (["runs", "retry", "--job", "JOB 1", "--all"], 2, "are for one RUN"),
        (["task", "accept", "1", "TASK 3"], 2, "Say why by --reason"),
        (["task", "accept", "1", "TASK 5", "--reason", "done"], 5, "TASK 5 is Didn't run"),
        (["runs", "set", "1", "--priority", "high"], 5, "has ended already (Error)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(batchq, failed, words, code, said):
    assert said in batchq(*words, code=code).stderr


def test_each_run_that_a_filter_means_is_retried_and_a_refused_one_is_named(batchq, batchq_json, stage, failed):
    stage.submit()
    play(stage)
    stage.submit()
    play(stage, "TASK 4")
    assert [each["run"] for each in batchq_json("runs", "retry", "--job", "JOB 1", "--dry-run")] == [1, 3]
    done = batchq("runs", "retry", "--status", "error", "--status", "success", "--yes", code=5)
    assert done.stdout.splitlines() == [
        "Run 1 of JOB 1: Executing; tasks reset: 3.",
        "Run 3 of JOB 1: Executing; tasks reset: 2.",
    ]
    assert "No task of run 2 has failed" in done.stderr
    assert "Add --yes" in batchq("runs", "retry", "--status", "success", code=2).stderr


def test_a_lost_task_runs_again_only_if_that_is_said(batchq, stage):
    stage.server("Batch1")
    stage.submit()
    stage.advance()
    stage.start("Batch1")
    stage.lose_attempts("Batch1", list(stage.workers["Batch1"].active))
    play(stage)
    assert "Nobody knows whether these tasks did their work" in batchq("runs", "retry", "1", code=5).stderr
    assert "tasks reset: 7" in batchq("runs", "retry", "1", "--lost").stdout


# --- by hand ------------------------------------------------------------------------------------------------


def test_an_accepted_task_counts_as_done_and_shows_by_whom(batchq, batchq_json, stage, failed):
    said = batchq("task", "accept", "1", "TASK 3", "--reason", "printed by hand").stdout
    assert said == "Run 1 of JOB 1: Executing; tasks reset: 3.\n"
    play(stage)
    assert stage.states() == {
        **dict.fromkeys(["TASK 1", "TASK 2", "TASK 3", "TASK 4", "TASK 7"], "success"),
        **dict.fromkeys(["TASK 5", "TASK 6"], "didnt_run"),
    }
    assert stage.view()["status"] == "success"
    view = batchq_json("task", "show", "1", "TASK 3")
    assert (view["accepted"], view["error"], view["result"]) == ("olav: 'printed by hand'", None, None)
    assert len(view["history"]) == 1
    assert "Ended, accepted by olav: 'printed by hand'" in batchq("task", "show", "1", "TASK 3").stdout
    assert "accepted by olav: 'printed by hand'" in batchq("runs", "show", "1").stdout
    (line,) = batchq_json("audit", "list")
    told = (line["what"], line["kind"], line["name"], line["why"])
    assert told == ("accept", "task", "1 / TASK 3", "printed by hand")


def test_a_run_that_is_retried_in_pieces_says_so(batchq, stage, failed):
    stage.database.run(lambda tx: moves.mark(tx, failed, '{"number": 0}'))
    assert "Error, being retried" in batchq("runs", "list").stdout
    assert "Error, being retried" in batchq("runs", "show", "1").stdout


def test_the_tasks_of_a_run_that_have_not_started_get_another_priority(batchq, batchq_json, stage):
    stage.server("Batch1")
    stage.submit()
    stage.advance()
    stage.start("Batch1")
    told = batchq("runs", "set", "last", "--priority", "critical", "--dry-run").stdout
    assert told == "run 1: priority critical (not done: --dry-run)\n"
    assert batchq_json("task", "show", "1", "TASK 2")["priority"] == "normal"
    assert batchq("runs", "set", "1", "--priority", "critical").stdout == "run 1: priority critical\n"
    assert batchq_json("task", "show", "1", "TASK 1")["priority"] == "normal"
    assert batchq_json("task", "show", "1", "TASK 2")["priority"] == "critical"
    (line,) = batchq_json("audit", "list")
    assert (line["what"], line["name"]) == ("set priority", "1")
