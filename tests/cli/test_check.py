"""`batchq check`: every problem at once."""

from __future__ import annotations

from datetime import UTC, datetime, time

import pytest

from batchq.core.affinity import Server, Topology
from batchq.core.lint import lint
from batchq.core.windows import Window

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)  # a Saturday
OFFICE = Window(time(8), time(18), 2, "Europe/Oslo")


def problems(*servers, groups=("default",)):
    return lint(Topology(servers), groups, NOON)


def test_nothing_is_wrong_with_a_server_that_takes_everything():
    assert problems(Server(1, "AOS1"), groups=["default", "BG1"]) == []


def test_a_group_without_any_server_waits_for_ever():
    bound = Server(1, "AOS1", groups=frozenset({"BG1"}))
    assert problems(bound, groups=["BG1", "default"]) == [
        "The default group is served by no server: its tasks wait for ever."
    ]


def test_a_group_whose_servers_are_all_disabled_waits():
    disabled = Server(1, "AOS1", groups=frozenset({"BG1"}), enabled=False)
    (problem,) = problems(disabled, Server(2, "AOS2"), groups=["BG1", "default"])
    assert problem == "Group BG1 is served by no enabled server (AOS1 is disabled): its tasks wait."


def test_a_server_that_does_not_open_within_a_day_is_named_with_its_groups():
    monday = Window(time(8), time(18), 2, "Europe/Oslo", frozenset({0}))
    found = problems(Server(1, "AOS1", windows=(monday,)))
    assert found == [
        "The default group is served by AOS1 only, with no open window within 24 h: its tasks wait.",
        "Server AOS1 has no threads within 24 h: it starts nothing.",
    ]


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        (Window(time(16), time(20), 4, "UTC"), True),
        (Window(time(17), time(20), 4, "UTC"), False),
        (Window(time(16, 30), time(17), 4, "UTC"), True),
        (Window(time(23), time(7, 30), 4, "America/New_York"), True),
    ],
)
def test_windows_of_two_zones_that_overlap_at_any_time_of_the_year_are_named(other, overlap):
    found = problems(Server(1, "AOS1", windows=(OFFICE, other)))
    assert bool(found) is overlap
    assert all("overlapping windows, 08:00-18:00 Europe/Oslo and" in problem for problem in found)


# --- the command --------------------------------------------------------------------------------------------


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
    monkeypatch.setenv("BATCHQ_SHELL", "1")
    assert [note[:9] for note in batchq_json("check", code=1)["notes"]] == ["shell.run"]
