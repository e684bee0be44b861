"""`batchq server` and `batchq group`: what is shown, and what may be set."""

from __future__ import annotations

import re
from datetime import time

import pytest

from batchq import actions
from batchq.core.windows import Window
from batchq.store import views


def states(stage):
    with stage.database.read() as tx:
        return {server["name"]: server for server in views.servers(tx)}


def test_without_servers_the_list_tells_the_first_command(batchq):
    assert "batchq server start NAME" in batchq("server", "list").stdout


def test_the_list_shows_state_threads_and_groups(batchq, batchq_json, stage):
    stage.server("AOS1", threads=2)
    stage.server("AOS2", groups=["BG1", "default"], runs=False)
    head, first, second = batchq("server", "list").stdout.splitlines()
    assert re.split(r"\s{2,}", head) == ["SERVER", "STATE", "BUSY", "GROUPS", "NEXT CHANGE", "PROCESS"]
    assert re.split(r"\s{2,}", first) == ["AOS1", "open", "0/2", "–", "–", "h:412"]
    assert re.split(r"\s{2,}", second) == ["AOS2", "stopped", "0/1", "BG1, default", "–", "–"]
    keys = ("name", "state", "threads", "busy", "groups", "windows")
    assert [server[key] for server in batchq_json("server", "list") for key in keys] == [
        *("AOS1", "open", 2, 0, [], []),
        *("AOS2", "stopped", 1, 0, ["BG1", "default"], []),
    ]


def test_a_server_is_shown_with_its_windows(batchq, stage):
    stage.server("AOS1", windows=[Window(time(8), time(18), 2, "Europe/Oslo", frozenset({0, 1}))])
    shown = batchq("server", "show", "AOS1").stdout
    assert "AOS1: " in shown
    assert re.search(r"08:00\s+18:00\s+2\s+Europe/Oslo\s+mon,tue", shown)


def test_threads_groups_windows_and_enabled_are_set_and_the_changes_printed(batchq, stage):
    stage.server("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    said = batchq("server", "set", "AOS1", "--threads", 3, "--group", "BG1", "--group", "default", "--disable").stdout
    assert said.splitlines() == [
        "server AOS1: threads 1 → 3",
        "server AOS1: enabled yes → no",
        "server AOS1: groups none → BG1, default",
    ]
    said = batchq("server", "set", "AOS1", "--window", "18:00-07:30=20 Europe/Oslo [tue, mon]", "--enable").stdout
    assert "server AOS1: windows none → 18:00-07:30=20 Europe/Oslo [mon,tue]" in said
    assert states(stage)["AOS1"]["windows"][0]["days"] == ["mon", "tue"]
    batchq("server", "set", "AOS1", "--no-windows", "--no-groups")
    server = states(stage)["AOS1"]
    assert (server["windows"], server["groups"], server["threads"], server["enabled"]) == ([], [], 3, True)


def test_what_is_so_already_is_said_and_changes_nothing(batchq, stage):
    stage.server("AOS1", threads=2)
    assert batchq("server", "set", "AOS1", "--threads", 2).stdout == "Server AOS1 is so already.\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--threads", "-1"], 2, "Invalid value for '--threads': -1 is not in the range x>=0."),
        (["--threads", "many"], 2, "'many' is not a valid integer range."),
        (["--group", "BG2"], 3, "No group 'BG2' (closest: 'BG1')."),
        (["--window", "18:00"], 2, "Write it as \"18:00-07:30=20 Europe/Oslo\""),
        (["--window", "18:00-07:30=20 Europe/Osl"], 2, "closest: 'Europe/Oslo'"),
        (["--window", "18:00-25:00=20 UTC"], 2, "'25:00' is not a time of day"),
        (["--window", "18:00-07:30=-1 UTC"], 2, "0 threads or more, not -1"),
        (["--window", "18:00-07:30=1 UTC [noday]"], 2, "is not a day"),
        (["--window", "08:00-12:00=1 UTC", "--window", "11:00-13:00=1 UTC"], 2, "overlap"),
        (["--group", "BG1", "--no-groups"], 2, "goes without"),
        ([], 2, "Nothing to set."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_the_field_and_the_allowed_form(batchq, stage, words, code, said):
    stage.server("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    before = states(stage)
    assert said in " ".join(batchq("server", "set", "AOS1", *words, code=code).stderr.split())
    assert states(stage) == before


def test_an_unknown_server_is_refused_with_the_closest(batchq, stage):
    stage.server("AOS1")
    for words in (["show", "AOS2"], ["set", "AOS2", "--threads", "1"]):
        assert "No server 'AOS2' (closest: 'AOS1')." in batchq("server", *words, code=3).stderr


def test_a_server_that_is_disabled_gives_its_tickets_back(batchq, stage):
    stage.server("AOS1")
    stage.submit()
    assert stage.states()["TASK 1"] == "queued"
    batchq("server", "set", "AOS1", "--disable")
    assert stage.states()["TASK 1"] == "ready"
    assert stage.start("AOS1") == []


def test_what_a_change_frees_is_handed_out_at_once(batchq, stage, monkeypatch):
    stage.server("AOS1", threads=0)
    stage.submit()
    monkeypatch.setenv("BATCHQ_FAST_PATH", "1")
    batchq("server", "set", "AOS1", "--threads", 1)
    assert stage.states()["TASK 1"] == "queued"


def test_a_change_by_bad_values_is_refused_below_the_command_line_too(stage):
    stage.server("AOS1")
    from batchq.errors import InvalidInput

    with pytest.raises(InvalidInput, match="threads: -1 is not allowed"):
        actions.set_server(stage.database, "AOS1", threads=-1)
    with pytest.raises(InvalidInput, match="priority: 'urgent' is not allowed"):
        actions.set_group(stage.database, "default", priority="urgent")


# --- groups -------------------------------------------------------------------------------------------------


def test_groups_say_what_waits_and_why(batchq, stage):
    stage.server("AOS1", groups=["BG1"], runs=False)
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    lines = batchq("group", "list").stdout.splitlines()
    assert re.split(r"\s{2,}", lines[1])[:5] == ["BG1", "normal", "1", "0", "0"]
    assert lines[1].endswith("AOS1     BG1: AOS1 does not run")


def test_a_groups_priority_moves_its_waiting_tasks(batchq, batchq_json, stage):
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    assert batchq("group", "set", "BG1", "--priority", "high").stdout == "group BG1: priority normal → high\n"
    assert batchq_json("task", "show", 1, "A")["priority"] == "high"
    assert batchq("group", "set", "BG1", "--priority", "high").stdout == "Group BG1 is so already.\n"
    assert "No group 'BG2' (closest: 'BG1')." in batchq("group", "set", "BG2", "--priority", "low", code=3).stderr


def test_the_status_is_one_page(batchq, batchq_json, stage):
    stage.server("AOS1", threads=2)
    stage.submit()
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    lines = batchq("status").stdout.splitlines()
    assert lines[:3] == [
        "Runs     2 Executing",
        "Tasks    1 ready, 2 queued, 0 executing",
        "Servers  1 open; 0 of 2 threads busy",
    ]
    assert any(line.startswith("BG1") for line in lines)
    assert batchq_json("status")["tasks"] == {"ready": 1, "queued": 2, "executing": 0}
