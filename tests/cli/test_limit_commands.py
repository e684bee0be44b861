"""The commands that set limits, and the notes of `check` about them (rule 29)."""

from __future__ import annotations

import pytest

from batchq import actions
from batchq.cli import check

JOB = """
job: INVOICES
limits: [licence]
tasks: {A: {run: demo.work}, B: {run: demo.work}, C: {run: demo.work}}
"""


@pytest.fixture
def licensed(stage):
    """A limit of one unit: task A of run 1 has it, B and C wait."""
    actions.set_limit(stage.database, "licence", 1)
    stage.server("AOS1", 3)
    stage.submit(JOB)
    assert stage.start("AOS1") == ["A"]


# --- limit list ---------------------------------------------------------------------------------------------


def test_without_limits_the_list_says_how_one_is_made(batchq, batchq_json):
    assert batchq("limit", "list").stdout == "No limits. `batchq limit set NAME N` makes one.\n"
    assert batchq_json("limit", "list") == []


def test_limits_are_listed_by_name_with_what_is_in_use_what_waits_and_who_names_them(
    batchq, batchq_json, stage, licensed, tmp_path
):
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    batchq("apply", file)
    actions.set_limit(stage.database, "a", 0)
    head, first, second = batchq("limit", "list").stdout.splitlines()
    assert head.split() == ["LIMIT", "UNITS", "IN", "USE", "WAITING", "OLDEST", "JOBS"]
    assert first.split() == ["a", "0", "0", "0", "–", "–"]
    assert second.split()[:4] == ["licence", "1", "1", "2"]
    assert second.split()[-1] == "INVOICES"
    unused, used = batchq_json("limit", "list")
    assert unused == {"limit": "a", "units": 0, "in_use": 0, "waiting": 0, "oldest_ready_at": None, "jobs": []}
    assert used["oldest_ready_at"] is not None
    shown = {"limit": "licence", "units": 1, "in_use": 1, "waiting": 2, "jobs": ["INVOICES"]}
    assert used == shown | {"oldest_ready_at": used["oldest_ready_at"]}


# --- limit set ----------------------------------------------------------------------------------------------


def test_a_limit_is_made_changed_and_left_as_it_is(batchq):
    stands = "licence: 0 of 2 in use, 0 waiting\n"
    assert batchq("limit", "set", "licence", 2).stdout == f"limit licence: new, units: 2\n{stands}"
    assert batchq("limit", "set", "licence", 2).stdout == f"Limit licence is so already.\n{stands}"
    said = batchq("limit", "set", "licence", 0).stdout
    assert said == "limit licence: units 2 → 0\nlicence: 0 of 0 in use, 0 waiting\n"


def test_more_units_let_tasks_go_on_that_wait_for_one(batchq, stage, licensed):
    assert stage.start("AOS1") == []
    said = batchq("limit", "set", "licence", 2).stdout
    assert said == "limit licence: units 1 → 2\nlicence: 1 of 2 in use, 2 waiting\n"
    stage.advance()
    assert stage.start("AOS1") == ["B"]


def test_fewer_units_than_are_in_use_leave_what_executes(batchq, stage, licensed):
    said = batchq("limit", "set", "licence", 0).stdout
    assert said == "limit licence: units 1 → 0\nlicence: 1 of 0 in use, 2 waiting\n"
    stage.end("A")
    assert stage.start("AOS1") == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["licence", "--", "-1"], "units: must be from 0 to 1,000,000, not -1."),
        (["licence", "1000001"], "units: must be from 0 to 1,000,000, not 1,000,001."),
        ([" licence", "1"], "limit: the name ' licence' begins or ends with a space; leave it out."),
        (["licence", "many"], "Invalid value for 'UNITS': 'many' is not a valid integer."),
    ],
    ids=["negative", "too many", "no name", "no number"],
)
def test_units_and_names_that_no_limit_may_have_are_refused(batchq, batchq_json, words, error):
    assert f"Error: {error}\n" in batchq("limit", "set", *words, code=2).stderr
    assert batchq_json("limit", "list") == []


# --- limit delete -------------------------------------------------------------------------------------------


def test_a_limit_is_deleted_once_no_open_task_names_it(batchq, batchq_json, stage, licensed):
    error = batchq("limit", "delete", "licence", code=5).stderr
    open_ = "INVOICES run 1 / A, INVOICES run 1 / B, INVOICES run 1 / C"
    assert error == f"Error: Limit licence is in use and cannot be deleted; open tasks name it: {open_}.\n"
    batchq("runs", "cancel", "1")
    stage.end("A")
    assert batchq("limit", "delete", "licence").stdout == "limit licence: removed\n"
    assert batchq_json("limit", "list") == []


def test_an_unknown_limit_is_not_found(batchq, licensed):
    error = batchq("limit", "delete", "license", code=3).stderr
    assert error.startswith("Error: No limit 'license' (closest: 'licence').")


def test_each_change_of_a_limit_is_in_the_audit_as_rule_39_says(batchq, batchq_json, monkeypatch):
    monkeypatch.setenv("BATCHQ_USER", "olav")
    batchq("limit", "set", "licence", 1)
    batchq("limit", "set", "licence", 1)
    batchq("limit", "set", "licence", 2)
    batchq("limit", "delete", "licence")
    lines = batchq_json("audit", "list")
    assert {(line["who"], line["by"], line["kind"], line["name"]) for line in lines} == {
        ("olav", "cli", "limit", "licence")
    }
    assert [(line["what"], line["before"], line["after"]) for line in reversed(lines)] == [
        ("create", None, "units: 1"),
        ("set units", "1", "2"),
        ("delete", "licence", None),
    ]


# --- group set --per-run ------------------------------------------------------------------------------------

GROUPED = "{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work}}}"


def test_a_limit_for_each_run_is_set_shown_and_taken_away(batchq, batchq_json, stage):
    stage.server("AOS1", 3, groups=["BG1"])
    stage.submit(GROUPED)
    said = batchq("group", "set", "BG1", "--per-run", 1).stdout
    assert said.splitlines() == ["group BG1: per run none → 1", "BG1: 1 ready, 1 queued, 0 executing"]
    assert stage.start("AOS1") == ["A"]
    said = batchq("group", "set", "BG1", "--per-run", 1).stdout
    assert said.splitlines() == ["Group BG1 is so already.", "BG1: 1 ready, 0 queued, 1 executing"]
    (view,) = (group for group in batchq_json("group", "list") if group["group"] == "BG1")
    assert view["per_run"] == 1
    assert "run 1 has 1 of 1 in BG1" in batchq("task", "why", "last", "B").stdout
    said = batchq("group", "set", "BG1", "--per-run", "none").stdout
    assert said.splitlines()[0] == "group BG1: per run 1 → none"
    stage.advance()
    assert stage.start("AOS1") == ["B"]


def test_the_list_of_groups_has_a_column_for_the_limit_of_each_run(batchq, stage):
    stage.submit(GROUPED)
    batchq("group", "set", "BG1", "--per-run", 4)
    head, *rows = batchq("group", "list").stdout.splitlines()
    assert head.split()[:4] == ["GROUP", "PRIORITY", "PER", "RUN"]
    assert [row.split()[:3] for row in rows] == [["BG1", "normal", "4"], ["default", "normal", "–"]]


def test_both_settings_of_a_group_are_changed_together(batchq, stage):
    stage.submit(GROUPED)
    said = batchq("group", "set", "BG1", "--per-run", 2, "--priority", "high").stdout.splitlines()
    assert set(said[:2]) == {"group BG1: per run none → 2", "group BG1: priority normal → high"}


@pytest.mark.parametrize("value", ["-1", "1000001", "some", ""], ids=str)
def test_a_limit_for_each_run_that_cannot_be_is_refused(batchq, batchq_json, value):
    assert "is neither a number up to 1,000,000 nor `none`." in (
        batchq("group", "set", "default", "--per-run", value, code=2).stderr
    )
    assert batchq_json("audit", "list") == []


def test_a_change_of_nothing_is_refused(batchq):
    assert "Give --priority, --per-run, or both." in batchq("group", "set", "default", code=2).stderr


# --- check --------------------------------------------------------------------------------------------------


def notes(batchq_json) -> list[str]:
    """The notes about limits."""
    said: list[str] = batchq_json("check", code=1)["notes"]
    return [note for note in said if "imit" in note]


def test_a_limit_without_units_and_one_that_nobody_names_are_notes(batchq, batchq_json, stage, licensed):
    stage.server("AOS2")
    assert notes(batchq_json) == []
    batchq("limit", "set", "licence", 0)
    batchq("limit", "set", "printer", 1)
    expected = [
        "Limit licence has no units: nothing that names it starts. `batchq limit set licence 1` lets it go on.",
        "Limit printer is named by no job.",
    ]
    assert notes(batchq_json) == expected
    assert batchq("check", code=1).stdout.splitlines()[-3:-1] == [f"note: {note}" for note in expected]


def test_a_limit_that_a_stored_job_names_is_no_note_though_no_run_of_it_is_open(batchq, batchq_json, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("limits: {licence: 1}\njobs: {J: {limits: [licence], tasks: {A: {run: demo.work}}}}")
    batchq("apply", file)
    assert notes(batchq_json) == []


def test_more_kinds_of_tasks_than_dispatch_looks_at_quickly_are_a_note(batchq_json, stage, monkeypatch):
    stage.server("AOS1", groups=["BG1"])
    actions.set_group(stage.database, "default", per_run=1)
    monkeypatch.setattr(check, "MOST_LANES", 3)
    stage.submit("{job: ONE, tasks: {A: {run: demo.work}}}")
    assert notes(batchq_json) == []
    stage.submit("{job: TWO, tasks: {A: {run: demo.work}}}")
    (note,) = notes(batchq_json)
    assert note == "Open runs and limits make 4 kinds of tasks that dispatch tells apart: each start takes longer."
