"""`batchq server set NAME --threads N --until TIME`: set, shown wherever windows are, and ended (rule 51)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from batchq import actions, views
from batchq.core.windows import Window

DAY = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")
FAR = datetime(2100, 1, 2, 11, tzinfo=UTC)  # a Saturday, 12:00 in Oslo
WORDS = "by an override until Sat 02 Jan 2100 12:00 Europe/Oslo (olav: 'licence')"


@pytest.fixture(autouse=True)
def user(monkeypatch):
    monkeypatch.setenv("BATCHQ_USER", "olav")
    monkeypatch.setenv("BATCHQ_TIMEZONE", "Europe/Oslo")


def stored(stage):
    with stage.database.read() as tx:
        return views.server_view(tx, "AOS1")["override"]


def overridden(stage, threads=10):
    actions.override_server(stage.database, "AOS1", threads, FAR, reason="licence")


# --- set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "instant"),
    [
        ("2100-01-02T12:00", "2100-01-02T11:00:00.000000Z"),
        ("2100-01-02T12:00+09:00", "2100-01-02T03:00:00.000000Z"),
        ("2027-03-28T02:30", "2027-03-28T01:30:00.000000Z"),  # not there: an hour later
        ("2100-10-31T02:30", "2100-10-31T00:30:00.000000Z"),  # comes twice: the first
    ],
)
def test_an_override_until_an_instant_is_stored_and_told_as_rule_51_says(batchq, stage, until, instant):
    if datetime.fromisoformat(instant) <= datetime.now(UTC):
        pytest.skip("it has passed")
    stage.server("AOS1", 2)
    said = batchq("server", "set", "AOS1", "--threads", 10, "--until", until, "--reason", "licence").stdout.splitlines()
    assert stored(stage) == {"threads": 10, "until": instant, "by": "olav", "why": "licence"}
    assert re.fullmatch(r"server AOS1: override none → 10 threads until .* Europe/Oslo \(olav: 'licence'\)", said[0])
    assert said[1].startswith("AOS1: open, 0 of 10 threads busy; 2 threads from ")


@pytest.mark.parametrize("clock", ["07:30", "18:00:30"])
def test_an_override_until_a_time_of_day_ends_at_the_next_such_one_of_the_users_as_rule_51_says(batchq, stage, clock):
    stage.server("AOS1", 2)
    batchq("server", "set", "AOS1", "--threads", 0, "--until", clock)
    until = datetime.fromisoformat(stored(stage)["until"])
    there = until.astimezone(ZoneInfo("Europe/Oslo"))
    assert timedelta() < until - datetime.now(UTC) <= timedelta(hours=25)
    assert there.time() == time.fromisoformat(clock) or there.utcoffset() != (there - timedelta(days=1)).utcoffset()


def test_a_second_replaces_it_and_now_ends_it_as_rule_51_says(batchq, stage):
    stage.server("AOS1", 2)
    overridden(stage)
    batchq("server", "set", "AOS1", "--threads", 3, "--until", "2100-01-02T12:00")
    assert stored(stage) == {"threads": 3, "until": "2100-01-02T11:00:00.000000Z", "by": "olav", "why": ""}
    said = batchq("server", "set", "AOS1", "--until", "now").stdout.splitlines()
    assert said[0].endswith("(olav) → none")
    assert said[1] == "AOS1: open, 0 of 2 threads busy"
    assert stored(stage) is None
    assert batchq("server", "set", "AOS1", "--until", "now").stdout.startswith("Server AOS1 is so already.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threads", 10, "--until", "2020-01-01T12:00"], "2020-01-01T12:00 has passed|until: .* has passed"),
        (["--threads", 10, "--until", "tomorrow"], "'tomorrow' is no end of an override. Write 07:30"),
        (["--threads", 10, "--until", "25:00"], "'25:00' is not a time of day"),
        (["--threads", 10, "--until", ""], "'' is no end of an override"),
        (["--until", "07:30"], "--until goes with --threads: how many until then; 0 closes the server"),
        (["--threads", -1, "--until", "07:30"], "Invalid value for '--threads'"),
        (["--threads", 10, "--reason", "licence"], "--reason goes with --until"),
        (["--until", "now", "--threads", 3], "--until now goes alone"),
        (["--until", "now", "--reason", "licence"], "--until now goes alone"),
        (["--threads", 10, "--until", "07:30", "--disable"], "--until goes with --threads and --reason"),
        (["--threads", 10, "--until", "07:30", "--group", "default"], "--until goes with --threads and --reason"),
        (["--threads", 10, "--until", "07:30", "--no-windows"], "--until goes with --threads and --reason"),
        (["--threads", 10, "--until", "07:30", "--reason", "x" * 1001], "reason: it is too long"),
    ],
)
def test_what_is_no_override_is_refused_and_changes_nothing_as_rule_51_says(batchq, stage, words, said):
    stage.server("AOS1", 2)
    assert re.search(said, batchq("server", "set", "AOS1", *words, code=2).stderr)
    assert stored(stage) is None


def test_tickets_that_an_override_leaves_without_a_thread_are_taken_back_at_once(batchq, stage):
    stage.server("AOS1")
    stage.submit()
    assert stage.states()["TASK 1"] == "queued"
    said = batchq("server", "set", "AOS1", "--threads", 0, "--until", "2100-01-01").stdout.splitlines()
    assert said[1].startswith("AOS1: closed, 0 of 0 threads busy; 1 thread from ")
    assert stage.states()["TASK 1"] == "ready"


# --- shown --------------------------------------------------------------------------------------------------


def test_a_preview_draws_it_and_says_who_set_it_and_why(batchq, batchq_json, stage):
    stage.server("AOS1", windows=[DAY, NIGHT])
    overridden(stage)
    words = ("server", "window", "preview", "AOS1", "--hours", 24, "--from", "2100-01-02T06:00+01:00")
    assert batchq(*words).stdout.splitlines() == [
        "AOS1 from Sat 2100-01-02 06:00 to Sun 2100-01-03 06:00, Europe/Oslo",
        f"It has 10 threads {WORDS}.",
        "",
        "                00    03    06    09    12    15    18    21",
        "Sat 2100-01-02              ▄▄▄▄▄▄▄▄▄▄▄▄▁▁▁▁▁▁▁▁▁▁▁▁████████████",
        "Sun 2100-01-03  ████████████",
        "    half hours  ▁ 2 threads  ▄ 10 threads  █ 20 threads  · none",
        "",
        "FROM                  TO                    UTC            LASTS        THREADS  NOTE",
        "Sat 2100-01-02 06:00  Sat 2100-01-02 12:00  05:00 – 11:00  6 h 00 min   10       override",
        "Sat 2100-01-02 12:00  Sat 2100-01-02 18:00  11:00 – 17:00  6 h 00 min   2",
        "Sat 2100-01-02 18:00  Sun 2100-01-03 06:00  17:00 – 05:00  12 h 00 min  20",
    ]
    said = {"threads": 10, "until": "2100-01-02T11:00:00.000000Z", "by": "olav", "why": "licence"}
    assert [(one["threads"], one["override"]) for one in batchq_json(*words)] == [(10, said), (2, None), (20, None)]


def test_a_preview_after_its_end_does_not_know_it(batchq, stage):
    stage.server("AOS1", windows=[DAY, NIGHT])
    overridden(stage)
    assert "override" not in batchq("server", "window", "preview", "AOS1", "--from", "2100-01-02T12:00+01:00").stdout


def test_lists_and_a_server_show_it_with_who_set_it_and_why(batchq, batchq_json, stage):
    stage.server("AOS1", windows=[DAY])
    stage.server("AOS2")
    overridden(stage, 0)
    line = f"AOS1: 0 threads {WORDS}"
    assert batchq("server", "list").stdout.splitlines()[-1] == line
    assert batchq("server", "window", "list", "AOS1").stdout.splitlines()[-1] == line
    shown = batchq("server", "show", "AOS1").stdout
    assert re.search(
        r"^override     0 threads by an override until Sat 02 Jan 2100 12:00 Europe/Oslo \(olav: 'licence'\)$",
        shown,
        re.M,
    )
    assert re.search(r"^next change  2 threads from Sat 02 Jan 2100 12:00 Europe/Oslo$", shown, re.M)
    first, second = batchq_json("server", "list")
    assert (first["state"], first["override"]["by"], second["override"]) == ("closed", "olav", None)
    assert not first["windows"][0]["in_force"]


def test_why_check_and_plan_tell_of_it(batchq, batchq_json, stage, tmp_path):
    stage.server("AOS1", windows=[DAY, NIGHT])
    overridden(stage, 0)
    stage.submit()
    why = "default: AOS1 is closed by an override until Sat 02 Jan 2100 12:00 Europe/Oslo (olav: 'licence')"
    assert why in batchq("task", "why", 1, "TASK 1").stdout
    assert batchq_json("group", "list")[0]["why"] == why
    file = tmp_path / "job.yaml"
    file.write_text("{job: J, tasks: {A: {run: demo.work}}}")
    plan = batchq("plan", file, "--from", "2100-01-02T06:00", "--hours", 12, "--tasks").stdout
    assert f"AOS1 has 0 threads {WORDS}." in plan
    view = batchq_json("plan", file, "--from", "2100-01-02T06:00", "--hours", 12)
    assert view["overrides"] == {"AOS1": stored(stage)}
    assert view["tasks"][0]["started_at"] == "2100-01-02T11:00:00.000000Z"
    overridden(stage, 1000)
    (problem,) = (each for each in batchq_json("check", code=1)["problems"] if "override" in each)
    assert problem == (
        "Server AOS1 has 1000 threads by an override until Sat 02 Jan 2100 12:00 Europe/Oslo (olav: 'licence'), "
        "but its worker's pool holds 100 at most: it never runs more at once."
    )
