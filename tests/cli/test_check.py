"""`batchq check`: every problem at once."""

from __future__ import annotations

from batchq import actions


def test_check_prints_every_problem_at_once(batchq, batchq_json, stage):
    stage.server("AOS1", groups=["BG1"], runs=False)
    view = batchq_json("check", code=1)
    assert view["problems"] == [
        "None of the batch servers runs: AOS1.",
        "The default group is served by no server: its tasks wait for ever.",
        "No coordinator runs: what is lost stays lost. `batchq coordinator` starts one.",
    ]
    text = batchq("check", code=1).stdout.splitlines()
    assert text[0] == "problem: None of the batch servers runs: AOS1."
    assert text[-1] == "Problems: 3."


def test_a_broker_and_a_database_that_are_away_are_two_problems(batchq, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    monkeypatch.setenv("BATCHQ_DATABASE_URL", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    text = batchq("check", code=1).stdout
    assert "problem: The database postgresql+psycopg://me:***@127.0.0.1:1/none does not answer" in text
    assert "problem: The broker redis://:**@127.0.0.1:1/0 does not answer" in text
    assert "secret" not in text


def test_unsigned_tickets_the_shell_and_pools_of_threads_are_notes(batchq_json, stage, monkeypatch):
    assert any("not signed" in note for note in batchq_json("check", code=1)["notes"])
    monkeypatch.setenv("BATCHQ_TICKET_KEY", "0123456789abcdef")
    monkeypatch.setenv("BATCHQ_ALLOW_SHELL", "1")
    assert [note[:9] for note in batchq_json("check", code=1)["notes"]] == ["Whoever r", "shell.run"]


def test_what_whoever_reaches_the_broker_can_do_is_a_note(batchq_json, stage, monkeypatch):
    def told() -> str:
        (note,) = (note for note in batchq_json("check", code=1)["notes"] if note.startswith("Whoever reaches"))
        return note

    assert "can stop servers" in told()
    monkeypatch.setenv("BATCHQ_TICKET_KEY", "0123456789abcdef")
    assert "neither start nor stop anything" in told()
    monkeypatch.setenv("BATCHQ_REMOTE_CONTROL", "off")
    assert "in vain" in told()
    monkeypatch.setenv("BATCHQ_REMOTE_CONTROL", "all")
    assert "can stop servers" in told()


def test_a_clock_that_is_not_the_worlds_and_paused_groups_are_notes(batchq_json, stage, monkeypatch):
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    actions.pause_group(stage.database, "BG1")
    monkeypatch.setenv("BATCHQ_CLOCK", "0,1")
    notes = batchq_json("check", code=1)["notes"]
    assert "Group BG1 is paused: nothing of it starts. `batchq group resume BG1` lets it go on." in notes
    (note,) = (note for note in notes if "BATCHQ_CLOCK" in note)
    assert note.startswith("The clock is not the world's, as BATCHQ_CLOCK is set: it shows 20")
