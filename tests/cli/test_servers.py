"""`batchq server` and `batchq group`: what is shown, and what may be set."""

from __future__ import annotations

import re
from datetime import time
from pathlib import Path

import pytest

from batchq import actions, engine, views
from batchq.core.windows import Window
from batchq.store import server as servers


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
    assert shown.startswith("AOS1: ")
    assert re.search(r"^1 +08:00-18:00=2 Europe/Oslo \[mon,tue\]", shown, re.M)
    assert re.search(r"^next change  \d threads? from .* Europe/Oslo$", shown, re.M)


def test_threads_groups_windows_and_enabled_are_set_and_the_changes_printed(batchq, stage):
    stage.server("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    said = batchq("server", "set", "AOS1", "--threads", 3, "--group", "BG1", "--group", "default", "--disable").stdout
    assert said.splitlines() == [
        "server AOS1: threads 1 → 3",
        "server AOS1: enabled yes → no",
        "server AOS1: groups none → BG1, default",
        "AOS1: disabled, 0 of 3 threads busy",
    ]
    said = batchq("server", "set", "AOS1", "--window", "18:00-07:30=20 Europe/Oslo [tue, mon]", "--enable").stdout
    assert "server AOS1: window 18:00-07:30=20 Europe/Oslo [mon,tue] added" in said
    assert states(stage)["AOS1"]["windows"][0]["days"] == ["mon", "tue"]
    batchq("server", "set", "AOS1", "--no-windows", "--no-groups")
    server = states(stage)["AOS1"]
    assert (server["windows"], server["groups"], server["threads"], server["enabled"]) == ([], [], 3, True)


def test_what_is_so_already_is_said_and_changes_nothing(batchq, stage):
    stage.server("AOS1", threads=2)
    assert batchq("server", "set", "AOS1", "--threads", 2).stdout.splitlines() == [
        "Server AOS1 is so already.",
        "AOS1: open, 0 of 2 threads busy",
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--threads", "-1"], 2, "Invalid value for '--threads': -1 is not in the range x>=0."),
        (["--threads", "many"], 2, "'many' is not a valid integer range."),
        (["--group", "BG2"], 2, "groups: no group 'BG2' (closest: 'BG1')."),
        (["--threads", "100001"], 2, "threads: 100001 is not allowed; use 0 to 100,000."),
        (["--window", "18:00"], 2, "Write it as \"18:00-07:30=20 Europe/Oslo [mon-fri]\""),
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


# --- states -------------------------------------------------------------------------------------------------


def in_every_state(stage):
    """A server in each of the states of rule 20, named after it."""
    never = Window(time(0), time(0), 0, "UTC")
    stage.server("stopped", runs=False)
    stage.server("open", groups=["none"])
    stage.server("closed", windows=[never])
    stage.server("disabled", groups=["none"])
    actions.disable(stage.database, "disabled")
    lost = stage.server("lost", groups=["none"])
    stage.server("draining")
    stage.submit()
    stage.start("draining")
    actions.add_window(stage.database, "draining", never)
    with stage.database.write() as tx:
        assert engine.lose(tx, lost.server, "lost", servers.find(tx, "lost").beat, tx.now())


def test_every_state_of_a_server_is_visible(batchq, batchq_json, stage):
    in_every_state(stage)
    names = ["closed", "disabled", "draining", "lost", "open", "stopped"]
    rows = [re.split(r"\s{2,}", line)[:2] for line in batchq("server", "list").stdout.splitlines()[1:]]
    assert rows == [[name, name] for name in names]
    assert [server["state"] for server in batchq_json("server", "list")] == names
    for name in names:
        assert batchq("server", "show", name).stdout.startswith(f"{name}: {name}, ")
    batchq("server", "disable", "stopped")
    assert batchq("server", "show", "stopped").stdout.startswith("stopped: stopped and disabled, ")


# --- groups of a server -------------------------------------------------------------------------------------


def test_a_server_is_bound_to_groups_and_no_longer(batchq, stage):
    stage.server("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work, group: BG2}}}")
    said = batchq("server", "groups", "add", "AOS1", "BG1", "BG2").stdout.splitlines()
    assert said[0] == "server AOS1: groups none → BG1, BG2"
    assert said[-1] == "AOS1 takes BG1 and BG2"
    assert "groups BG1, BG2 → BG1\n" in batchq("server", "groups", "remove", "AOS1", "BG2").stdout
    assert "groups BG1 → BG2, default\n" in batchq("server", "groups", "set", "AOS1", "default", "BG2").stdout
    assert states(stage)["AOS1"]["groups"] == ["BG2", "default"]
    assert "is so already" in batchq("server", "groups", "remove", "AOS1", "BG1").stdout
    said = batchq("server", "groups", "remove", "AOS1", "BG2", "default").stdout
    assert "AOS1 takes the default group and those to which no server is bound" in said


def test_a_binding_takes_back_the_tickets_of_other_groups(batchq, stage):
    stage.server("AOS1")
    stage.submit()
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    assert stage.states(1)["TASK 1"] == "queued"
    batchq("server", "groups", "set", "AOS1", "BG1")
    assert stage.states(1)["TASK 1"] == "ready"


@pytest.mark.parametrize("word", ["add", "remove", "set"])
def test_an_unknown_group_is_a_wrong_value_and_an_unknown_server_not_found(batchq, stage, word):
    stage.server("AOS1", groups=["BG1"])
    error = batchq("server", "groups", word, "AOS1", "BG1", "BG9", code=2).stderr
    assert error.startswith("Error: groups: no group 'BG9' (closest: 'BG1').")
    assert "No server 'AOS9'" in batchq("server", "groups", word, "AOS9", "BG1", code=3).stderr
    assert "Missing argument 'GROUP...'" in batchq("server", "groups", word, "AOS1", code=2).stderr
    assert states(stage)["AOS1"]["groups"] == ["BG1"]


# --- enable, disable, drain, delete -------------------------------------------------------------------------


def test_a_server_is_disabled_and_enabled(batchq, stage):
    stage.server("AOS1")
    stage.submit()
    assert batchq("server", "disable", "AOS1").stdout.splitlines() == [
        "server AOS1: enabled yes → no",
        "AOS1: disabled, 0 of 1 thread busy",
    ]
    assert stage.states()["TASK 1"] == "ready"
    assert "enabled no → yes" in batchq("server", "enable", "AOS1").stdout
    assert "is so already" in batchq("server", "enable", "AOS1").stdout
    for word in ("enable", "disable", "drain", "delete"):
        assert "No server 'AOS2' (closest: 'AOS1')." in batchq("server", word, "AOS2", code=3).stderr


def test_to_drain_a_server_is_to_disable_it_and_wait_until_nothing_runs_on_it(batchq, stage, monkeypatch):
    stage.server("AOS1")
    stage.submit()
    stage.start("AOS1")
    monkeypatch.setattr("time.sleep", lambda _: stage.end("TASK 1"))
    said = batchq("server", "drain", "AOS1").stdout.splitlines()
    assert said[0] == "server AOS1: enabled yes → no"
    assert said[1] == "AOS1: disabled, 1 of 1 thread busy"
    assert re.fullmatch(r"waits for JOB 1 run 1 / TASK 1 since \d\d:\d\d:\d\d", said[2])
    assert said[3] == "AOS1 is idle."
    assert states(stage)["AOS1"]["state"] == "disabled"


def test_a_server_that_is_not_idle_in_time_stays_disabled_with_exit_code_124(batchq, stage):
    stage.server("AOS1", threads=7)
    stage.submit("{job: J, tasks: {" + ", ".join(f"T{n}: {{run: demo.work}}" for n in range(7)) + "}}")
    stage.start("AOS1")
    result = batchq("server", "drain", "AOS1", "--timeout", 0, code=124)
    assert "J run 1 / T0 since " in result.stdout
    assert result.stdout.splitlines()[2].endswith(", 3 more")
    assert result.stderr == "7 tasks still executing on AOS1; it stays disabled.\n"
    assert states(stage)["AOS1"]["state"] == "disabled"


def test_an_interrupted_drain_leaves_the_server_disabled_and_says_so(batchq, stage, monkeypatch):
    stage.server("AOS1")
    stage.submit()
    stage.start("AOS1")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    said = batchq("server", "drain", "AOS1", code=130).stderr
    assert "AOS1 stays disabled. `batchq server enable AOS1` lets it start tasks again." in said
    assert states(stage)["AOS1"]["state"] == "disabled"


def test_a_server_that_is_stopped_or_lost_can_be_deleted_and_one_that_runs_cannot(batchq, stage):
    in_every_state(stage)
    for name in ("closed", "disabled", "draining", "open"):
        error = batchq("server", "delete", name, code=5).stderr
        assert error.startswith(f"Error: Server {name} runs, as pid 412 on host h. Stop it first")
    assert batchq("server", "delete", "lost").stdout == "server lost: removed\n"
    batchq("server", "delete", "stopped")
    assert list(states(stage)) == ["closed", "disabled", "draining", "open"]


# --- groups -------------------------------------------------------------------------------------------------


def test_groups_say_what_waits_and_why(batchq, stage):
    stage.server("AOS1", groups=["BG1"], runs=False)
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    lines = batchq("group", "list").stdout.splitlines()
    assert re.split(r"\s{2,}", lines[1])[:7] == ["BG1", "normal", "–", "–", "1", "0", "0"]
    assert lines[1].endswith("AOS1     BG1: AOS1 does not run")


def test_a_groups_priority_moves_its_waiting_tasks(batchq, batchq_json, stage):
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    assert batchq("group", "set", "BG1", "--priority", "high").stdout.splitlines() == [
        "group BG1: priority normal → high",
        "BG1: 1 ready, 0 queued, 0 executing",
    ]
    assert batchq_json("task", "show", 1, "A")["priority"] == "high"
    assert batchq("group", "set", "BG1", "--priority", "high").stdout.startswith("Group BG1 is so already.\n")
    assert "No group 'BG2' (closest: 'BG1')." in batchq("group", "set", "BG2", "--priority", "low", code=3).stderr


def test_a_paused_group_starts_nothing_until_it_is_resumed(batchq, batchq_json, stage):
    stage.server("AOS1")
    stage.submit()
    assert batchq("group", "pause", "default").stdout.splitlines() == [
        "group default: paused",
        "default: paused, 1 ready, 0 queued, 0 executing",
    ]
    assert "is so already" in batchq("group", "pause", "default").stdout
    stage.advance()
    assert stage.start("AOS1") == []
    row = re.split(r"\s{2,}", batchq("group", "list").stdout.splitlines()[1])
    assert (row[0], row[3], row[-1]) == ("default", "paused", "default is paused")
    assert [group["paused"] for group in batchq_json("group", "list")] == [True]
    assert "default is paused" in batchq("status").stdout
    assert batchq("task", "why", "last", "TASK 1").stdout == "TASK 1: Ready, default is paused.\n"
    assert "group default: resumed" in batchq("group", "resume", "default").stdout
    stage.advance()
    assert stage.start("AOS1") == ["TASK 1"]


def test_what_a_resumed_group_has_ready_is_handed_out_at_once(batchq, stage, monkeypatch):
    stage.server("AOS1")
    batchq("group", "pause", "default")
    stage.submit()
    monkeypatch.setenv("BATCHQ_FAST_PATH", "1")
    assert "default: 0 ready, 1 queued, 0 executing" in batchq("group", "resume", "default").stdout


@pytest.mark.parametrize("word", ["pause", "resume", "delete"])
def test_an_unknown_group_is_not_found(batchq, stage, word):
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    assert "No group 'BG9' (closest: 'BG1')." in batchq("group", word, "BG9", code=3).stderr


def test_a_group_that_nothing_uses_any_more_is_deleted(batchq, batchq_json, stage):
    stage.server("AOS1", groups=["BG1"])
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    use = "Error: Group BG1 is in use and cannot be deleted; "
    both = f"{use}bound to it: AOS1; tasks of it that have not ended: 1.\n"
    assert batchq("group", "delete", "BG1", code=5).stderr == both
    stage.play()
    assert batchq("group", "delete", "BG1", code=5).stderr == f"{use}bound to it: AOS1.\n"
    batchq("server", "groups", "remove", "AOS1", "BG1")
    assert batchq("group", "delete", "BG1").stdout == "group BG1: removed\n"
    assert [group["group"] for group in batchq_json("group", "list")] == ["default"]
    assert stage.view()["tasks"][0]["group"] == "BG1"
    assert "The group default cannot be deleted" in batchq("group", "delete", "default", code=5).stderr


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


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0"], ids=["no broker", "a broker that is away"])
def test_what_is_set_where_nothing_runs_is_stored_and_in_force_later(batchq, batchq_json, monkeypatch, url):
    # Rule 23.
    monkeypatch.setenv("BATCHQ_FAST_PATH", "1")
    monkeypatch.delenv("CELERY_BROKER_URL")
    if url:
        monkeypatch.setenv("BATCHQ_BROKER_URL", url)
        monkeypatch.setenv("CELERY_BROKER_URL", url)
    Path("servers.yaml").write_text("servers: {AOS1: {threads: 1}}\n", encoding="utf-8")
    batchq("apply", "servers.yaml")
    batchq("server", "set", "AOS1", "--threads", 3)
    batchq("server", "window", "add", "AOS1", "08:00-18:00=2 UTC")
    assert [server["windows"][0]["threads"] for server in batchq_json("server", "list")] == [2]


def test_a_group_that_is_named_twice_is_bound_once(batchq, batchq_json):
    batchq("apply", write_servers("servers: {AOS1: {groups: [BG1]}, AOS2: {}}"))
    batchq("server", "set", "AOS2", "--group", "BG1", "--group", "BG1")
    batchq("server", "groups", "set", "AOS1", "BG1", "BG1")
    assert [server["groups"] for server in batchq_json("server", "list")] == [["BG1"], ["BG1"]]


@pytest.mark.parametrize("threads", ["100001", "10000000000000000000"])
def test_a_server_is_not_started_with_more_threads_than_any_may_have(batchq, batchq_json, threads):
    assert "threads: " in batchq("server", "start", "AOS1", "--threads", threads, code=2).stderr
    assert batchq_json("server", "list") == []


def write_servers(text: str) -> str:
    Path("more.yaml").write_text(text, encoding="utf-8")
    return "more.yaml"
