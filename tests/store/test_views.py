"""What people read: each view after a story that the engine played."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

import pytest
from sqlalchemy import event

from batchq import actions, engine, views
from batchq.core.windows import Window
from batchq.errors import NotFound
from batchq.store import server as servers
from batchq.testing.clocked import Clocked
from stage import JOB_1, Stage

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
RUN_KEYS = [
    "run", "job", "status", "run_by", "company", "submitted_at", "started_at", "ended_at",
    "retrying", "held", "held_by", "held_at", "held_why", "tasks",
]  # fmt: skip
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
NIGHT = Window(clock(18), clock(7, 30), 20, "Europe/Oslo")


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request):
    """A stage on each kind of database."""
    database = Clocked(request.getfixturevalue(f"{request.param}_url"))
    yield Stage(database)
    database.dispose()


def read(stage: Stage, view, *args, **kwargs):
    with stage.database.read() as tx:
        return view(tx, *args, **kwargs)


def of(view, name):
    return next(task for task in view["tasks"] if task["name"] == name)


# --- a run --------------------------------------------------------------------------------------------------


def test_a_run_shows_exactly_these_keys(stage):
    stage.server("Batch1")
    stage.submit()
    stage.play()
    view = stage.view()
    assert list(view) == RUN_KEYS
    assert list(view["tasks"][0]) == [
        "name", "status", "group", "server", "attempts", "operation", "ready_at", "started_at", "ended_at",
        "error", "reason", "handled_by", "accepted", "why", "result", "stage",
    ]  # fmt: skip
    assert json.loads(json.dumps(view)) == view


def test_a_run_that_ended_well_shows_when_where_and_how_often_each_task_ran(stage):
    stage.server("Batch1")
    run = stage.submit()
    stage.play()
    view = stage.view(run)
    assert (view["run"], view["job"], view["status"]) == (run, "JOB 1", "success")
    first = view["tasks"][0]
    assert (first["name"], first["server"], first["attempts"]) == ("TASK 1", "Batch1", 1)
    assert (first["group"], first["operation"], first["error"], first["why"]) == (
        "default",
        "demo.work",
        None,
        None,
    )
    for key in ("ready_at", "started_at", "ended_at"):
        assert INSTANT.fullmatch(first[key])
    assert first["ready_at"] <= first["started_at"] <= first["ended_at"] <= view["ended_at"]
    assert INSTANT.fullmatch(view["submitted_at"])
    assert INSTANT.fullmatch(view["started_at"])


def test_tasks_stand_in_the_order_of_the_job(stage):
    stage.submit()
    assert [task["name"] for task in stage.view()["tasks"]] == [f"TASK {number}" for number in range(1, 8)]


def test_what_waits_says_for_which_tasks_and_outcomes(stage):
    stage.submit()
    view = stage.view()
    assert of(view, "TASK 2")["why"] == "waits for TASK 1 to finish"
    assert of(view, "TASK 5")["why"] == "waits for TASK 2 to fail"
    assert of(view, "TASK 7")["why"] == "waits for TASK 3 to succeed and TASK 4 to succeed"


def test_what_is_ready_says_which_servers_keep_it_waiting(stage):
    stage.submit()
    assert of(stage.view(), "TASK 1")["why"] == "default: no server serves this group"
    stage.server("Batch1", runs=False)
    assert of(stage.view(), "TASK 1")["why"] == "default: Batch1 does not run"
    stage.server("Batch1", windows=[NIGHT])
    noon = read(stage, views.run_view, 1, NOON)
    until = "default: no server has an open window until {} (Batch1, 18:00-07:30{} with 20 threads)"
    assert of(noon, "TASK 1")["why"] == until.format("18:00 Europe/Oslo", "")
    elsewhere = read(stage, views.run_view, 1, NOON, timezone="America/New_York")
    assert of(elsewhere, "TASK 1")["why"] == until.format("12:00 America/New_York", " Europe/Oslo")
    assert read(stage, views.task_view, 1, "TASK 1", NOON, timezone="America/New_York")["why"] == until.format(
        "12:00 America/New_York", " Europe/Oslo"
    )
    (waiting,) = read(stage, views.status_view, NOON, timezone="America/New_York")["waiting"]
    assert "until 12:00 America/New_York" in waiting["why"]


def test_what_is_ready_behind_busy_threads_says_which(stage):
    stage.server("Batch1")
    stage.submit()
    stage.start("Batch1")
    stage.submit()
    waiting = of(stage.view(2), "TASK 1")
    assert (waiting["status"], waiting["why"]) == ("ready", "Batch1 1/1 threads busy")
    assert of(stage.view(1), "TASK 1")["why"] is None


def test_what_is_queued_has_no_server_yet(stage):
    stage.server("Batch1")
    stage.submit()
    queued = of(stage.view(), "TASK 1")
    assert (queued["status"], queued["server"], queued["started_at"]) == ("queued", None, None)
    assert queued["why"] == "is being handed out"


def test_what_executes_names_its_server_and_has_no_end(stage):
    stage.server("Batch1")
    stage.submit()
    stage.start("Batch1")
    task = of(stage.view(), "TASK 1")
    assert (task["status"], task["server"], task["attempts"], task["ended_at"]) == (
        "executing",
        "Batch1",
        1,
        None,
    )


def test_what_didnt_run_says_why_not(stage):
    stage.server("Batch1")
    stage.submit()
    stage.play(failing={"TASK 2"})
    view = stage.view()
    assert view["status"] == "error"
    assert of(view, "TASK 3")["why"] == "TASK 2 failed"
    assert of(view, "TASK 6")["why"] == "TASK 3 didn't run"
    assert of(view, "TASK 2")["error"] == "RuntimeError: TASK 2 was told to fail"


def test_a_result_is_shown_as_the_value_that_it_is(stage):
    stage.server("Batch1")
    stage.submit()
    stage.start("Batch1")
    stage.end("TASK 1", result='{"rows": [1, 2]}')
    assert of(stage.view(), "TASK 1")["result"] == {"rows": [1, 2]}
    assert of(read(stage, views.run_view, 1, results=False), "TASK 1")["result"] is None


def test_a_failure_that_was_handled_names_the_task_that_did(stage):
    stage.server("Batch1")
    stage.submit(JOB_1.replace("after: {TASK 3: error}", "after: {TASK 3: {outcome: error, handles: true}}"))
    stage.play(failing={"TASK 3"})
    view = stage.view()
    assert view["status"] == "success"
    assert (of(view, "TASK 3")["status"], of(view, "TASK 3")["handled_by"]) == ("error", "TASK 6")
    assert of(view, "TASK 2")["handled_by"] is None


def test_a_task_that_tries_again_says_when_and_keeps_its_error(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work, retries: 1, retry_delay: 600}}}")
    stage.start("Batch1")
    stage.end("A", "OSError: away")
    task = of(stage.view(), "A")
    assert (task["status"], task["attempts"], task["error"]) == ("ready", 1, "OSError: away")
    assert re.fullmatch(
        r"attempt 1 failed; the next one not before (\w{3} \d\d \w{3} )?\d\d:\d\d(:\d\d)? UTC", task["why"]
    )
    local = of(read(stage, views.run_view, 1, timezone="Asia/Tokyo"), "A")
    assert re.fullmatch(r"attempt 1 failed; the next one not before .* Asia/Tokyo", local["why"])
    assert (task["server"], task["started_at"], task["ended_at"]) == (None, None, None)


def test_a_canceled_run_shows_what_never_started(stage):
    stage.server("Batch1")
    run = stage.submit()
    stage.start("Batch1")
    actions.cancel_run(stage.database, run)
    assert stage.view()["status"] == "canceling"
    stage.end("TASK 1")
    assert stage.view()["status"] == "canceled"
    assert stage.states()["TASK 2"] == "canceled"
    assert of(stage.view(), "TASK 2")["why"] is None


def test_an_unknown_run_names_the_newest(stage):
    with pytest.raises(NotFound, match=r"No run 7\. There is no run yet\."):
        stage.view(7)
    stage.submit()
    with pytest.raises(NotFound, match=r"No run 7\. The newest is 1\."):
        stage.view(7)


def chain(tasks: int) -> str:
    lines = [f'"T{at}": {{run: demo.work{f", after: T{at - 1}" if at else ""}}}' for at in range(tasks)]
    return f"{{job: J, tasks: {{{', '.join(lines)}}}}}"


def test_a_run_is_read_with_as_many_statements_however_large_it_is(stage):
    statements = []

    @event.listens_for(stage.database.engine, "before_cursor_execute")
    def note(*facts):
        statements.append(facts[2])

    counts = []
    for tasks in (2, 200):
        run = stage.submit(chain(tasks))
        statements.clear()
        stage.view(run)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 14


def test_the_reasons_of_a_large_run_cost_time_in_proportion_to_its_size(stage):
    def seconds(tasks: int) -> float:
        run = stage.submit(chain(tasks))
        times = []
        for _ in range(3):
            began = time.perf_counter()
            view = stage.view(run)
            times.append(time.perf_counter() - began)
        assert view["tasks"][-1]["why"] == f"waits for T{tasks - 2} to succeed"
        return min(times)

    small, large = seconds(300), seconds(3000)
    assert large < 5 * 10 * small


# --- lists of runs and jobs ---------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_their_tasks_counted(stage):
    stage.server("Batch1")
    stage.submit()
    stage.play(failing={"TASK 2"})
    stage.submit("{job: J, tasks: {A: {run: demo.work}}}")
    newest, first = read(stage, views.runs)
    assert (newest["run"], newest["job"], newest["status"]) == (2, "J", "executing")
    assert newest["tasks"] == {"queued": 1}
    assert first["tasks"] == {"success": 2, "error": 1, "didnt_run": 4}
    assert list(first) == RUN_KEYS


def test_runs_can_be_chosen_by_job_status_and_number(stage):
    stage.server("Batch1")
    stage.submit()
    stage.play()
    stage.submit()
    stage.submit("{job: J, tasks: {A: {run: demo.work}}}")
    assert [run["run"] for run in read(stage, views.runs, job="JOB 1")] == [2, 1]
    assert [run["run"] for run in read(stage, views.runs, statuses=["executing"])] == [3, 2]
    assert [run["run"] for run in read(stage, views.runs, limit=1)] == [3]


def test_a_jobs_status_is_that_of_an_open_run_else_of_the_one_that_ended_last(stage):
    stage.server("Batch1")
    stage.submit()
    assert read(stage, views.jobs)[0]["status"] == "executing"
    stage.play(failing={"TASK 2"})
    (job,) = read(stage, views.jobs)
    assert (job["job"], job["status"], job["run_count"]) == ("JOB 1", "error", 1)
    assert (job["last_run"]["run"], job["last_run"]["status"]) == (1, "error")
    stage.submit()
    stage.play()
    assert read(stage, views.jobs)[0]["status"] == "success"


def test_a_job_shows_its_definition_and_its_newest_runs(stage):
    stage.submit()
    stage.submit()
    view = read(stage, views.job_view, "JOB 1", newest=1)
    assert [task["name"] for task in view["definition"]["tasks"]][:2] == ["TASK 1", "TASK 2"]
    assert [run["run"] for run in view["runs"]] == [2]
    with pytest.raises(NotFound, match="closest: 'JOB 1'"):
        read(stage, views.job_view, "JOB 2")


def test_a_job_that_changes_leaves_its_earlier_runs_as_they_were_as_rule_24_says(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work}, B: {run: demo.work, after: A}}}")
    stage.submit("{job: J, tasks: {A: {run: demo.echo}, C: {run: demo.work, after: {A: error}}}}")
    stage.play()
    operations = [{task["name"]: task["operation"] for task in stage.view(run)["tasks"]} for run in (1, 2)]
    assert operations == [{"A": "demo.work", "B": "demo.work"}, {"A": "demo.echo", "C": "demo.work"}]
    assert stage.states(1) == {"A": "success", "B": "success"}
    assert stage.states(2) == {"A": "success", "C": "didnt_run"}


def test_an_ended_run_keeps_all_there_is_to_know_of_it_as_rule_35_says(stage):
    life = stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work, retries: 1}, B: {run: demo.work, after: A}}}")
    for error, result, log in (("OSError: away", None, "one\n"), (None, '{"rows": 3}', "two\n")):
        stage.start("Batch1")
        stage.end("A", error, result=result, log=log)
    stage.play()
    assert stage.database.run(lambda tx: engine.stop(tx, life, tx.now()))
    actions.delete_server(stage.database, "Batch1")
    assert stage.view()["status"] == "success"
    task = read(stage, views.task_view, 1, "A")
    assert (task["status"], task["server"], task["result"]) == ("success", "Batch1", {"rows": 3})
    assert [(one["server"], one["error"], one["log"]) for one in task["history"]] == [
        ("Batch1", "OSError: away", "one\n"),
        ("Batch1", None, "two\n"),
    ]
    assert [one["task"] for one in read(stage, views.task_view, 1, "B")["after"]] == ["A"]


# --- a task -------------------------------------------------------------------------------------------------


def test_a_task_shows_its_conditions_and_every_attempt_with_its_log(stage):
    stage.server("Batch1")
    stage.submit(
        "{job: J, tasks: {A: {run: demo.work, args: [1], kwargs: {x: y}, retries: 1}, B: {run: demo.work, after: A}}}"
    )
    stage.start("Batch1")
    stage.end("A", "OSError: away", log="one\n")
    stage.start("Batch1")
    stage.end("A", log="two\n")
    task = read(stage, views.task_view, 1, "A")
    assert (task["run"], task["job"], task["status"], task["attempts"]) == (1, "J", "success", 2)
    assert (task["args"], task["kwargs"], task["retries"], task["priority"]) == ([1], {"x": "y"}, 1, "normal")
    assert [(one["attempt"], one["status"], one["error"], one["log"], one["server"]) for one in task["history"]] == [
        (1, "error", "OSError: away", "one\n", "Batch1"),
        (2, "success", None, "two\n", "Batch1"),
    ]
    after = read(stage, views.task_view, 1, "B")["after"]
    assert after == [{"task": "A", "outcome": "success", "handles": False, "met": True, "status": "success"}]


def test_a_task_says_the_same_reason_alone_as_in_its_run(stage):
    stage.server("Batch1")
    stage.submit()
    stage.play(failing={"TASK 2"})
    stage.submit()
    for run in (1, 2):
        for task in stage.view(run)["tasks"]:
            assert read(stage, views.task_view, run, task["name"])["why"] == task["why"]


def test_an_unknown_task_names_the_closest(stage):
    stage.submit()
    with pytest.raises(NotFound, match=r"No task 'TASK1' \(closest: 'TASK 1'\)\."):
        read(stage, views.task_view, 1, "TASK1")


# --- servers and groups -------------------------------------------------------------------------------------

STATES = [
    ("stopped", True, 1, 0, "stopped"),
    ("lost", False, 0, 0, "lost"),
    ("running", False, 1, 2, "disabled"),
    ("running", True, 1, 2, "draining"),
    ("running", True, 0, 1, "draining"),
    ("running", True, 0, 0, "closed"),
    ("running", True, 1, 1, "open"),
]


@pytest.mark.parametrize(("liveness", "enabled", "threads", "busy", "state"), STATES)
def test_a_servers_state_is_the_first_that_fits(liveness, enabled, threads, busy, state):
    assert views.server_state(liveness, enabled, threads, busy) == state


def test_a_server_shows_its_threads_now_and_the_next_change(stage):
    stage.server("AOS1", groups=["BG1", "default"], windows=[NIGHT])
    (server,) = read(stage, views.servers, NOON)
    assert {key: server[key] for key in ("name", "state", "threads", "busy", "groups", "windows")} == {
        "name": "AOS1",
        "state": "closed",
        "threads": 0,
        "busy": 0,
        "groups": ["BG1", "default"],
        "windows": [
            {
                "number": 1,
                "start": "18:00",
                "end": "07:30",
                "threads": 20,
                "timezone": "Europe/Oslo",
                "days": None,
                "date": None,
                "window": "18:00-07:30=20 Europe/Oslo",
                "in_force": False,
            }
        ],
    }
    change = {"at": "2026-01-31T17:00:00.000000Z", "threads": 20, "timezone": "Europe/Oslo"}
    assert server["next_change"] == change
    assert read(stage, views.server_view, "AOS1", NOON) == server
    assert (server["host"], server["pid"], server["pool"]) == ("h", 412, 100)


def test_a_server_without_windows_has_its_threads_and_no_next_change(stage):
    stage.server("AOS1", threads=4)
    stage.submit()
    stage.start("AOS1")
    (server,) = read(stage, views.servers, NOON)
    assert (server["state"], server["threads"], server["busy"], server["next_change"]) == ("open", 4, 1, None)


def test_a_server_that_ended_is_stopped_and_one_that_fell_silent_lost(stage):
    stage.server("AOS1", runs=False)
    silent = stage.server("AOS2")
    with stage.database.write() as tx:
        assert engine.lose(tx, silent.server, "AOS2", servers.find(tx, "AOS2").beat, tx.now())
    assert {server["name"]: server["state"] for server in read(stage, views.servers)} == {
        "AOS1": "stopped",
        "AOS2": "lost",
    }


def test_a_group_shows_what_waits_who_may_take_it_and_why_it_waits(stage):
    stage.server("AOS1")
    stage.server("AOS2", groups=["BG1"], runs=False)
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    stage.submit("{job: K, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    bound, default = read(stage, views.groups)
    assert (bound["group"], bound["ready"], bound["servers"]) == ("BG1", 2, ["AOS2"])
    assert bound["why"] == "BG1: AOS2 does not run"
    assert INSTANT.fullmatch(bound["oldest_ready_at"])
    assert (default["group"], default["ready"], default["queued"], default["servers"]) == (
        "default",
        1,
        1,
        ["AOS1"],
    )
    stage.start("AOS1")
    default = read(stage, views.groups)[1]
    assert (default["queued"], default["executing"], default["priority"]) == (0, 1, "normal")


def test_the_next_change_is_told_in_the_zone_of_the_window_that_opens_then_or_closes(stage):
    day = Window(clock(8), clock(16), 2, "UTC")
    stage.server("AOS1", windows=[NIGHT, day])
    for hour, zone in ((12, "UTC"), (16, "Europe/Oslo"), (20, "Europe/Oslo"), (7, "UTC")):
        (server,) = read(stage, views.servers, NOON.replace(hour=hour))
        assert server["next_change"]["timezone"] == zone
    stage.server("AOS1", threads=3, windows=[Window(clock(0), clock(0), 0, "Asia/Tokyo", None, date(2026, 2, 1))])
    (server,) = read(stage, views.servers, NOON)
    assert server["next_change"] == {"at": "2026-01-31T15:00:00.000000Z", "threads": 0, "timezone": "Asia/Tokyo"}


def test_periods_cover_the_time_without_holes_and_gaps_have_no_threads(stage):
    stage.server("AOS1", windows=[NIGHT])
    found = read(stage, views.periods, "AOS1", NOON, NOON + timedelta(days=1))
    assert found == [
        {"server": "AOS1", "start": start, "end": end, "threads": threads, "override": None}
        for start, end, threads in [
            ("2026-01-31T12:00:00.000000Z", "2026-01-31T17:00:00.000000Z", 0),
            ("2026-01-31T17:00:00.000000Z", "2026-02-01T06:30:00.000000Z", 20),
            ("2026-02-01T06:30:00.000000Z", "2026-02-01T12:00:00.000000Z", 0),
        ]
    ]
    with pytest.raises(NotFound, match="closest: 'AOS1'"):
        read(stage, views.periods, "AOS2", NOON, NOON + timedelta(days=1))


def test_what_executes_on_a_server_is_told_with_run_and_start(stage):
    stage.server("AOS1")
    stage.submit()
    assert read(stage, views.executing, "AOS1") == []
    stage.start("AOS1")
    (one,) = read(stage, views.executing, "AOS1")
    assert (one["run"], one["job"], one["task"]) == (1, "JOB 1", "TASK 1")
    assert INSTANT.fullmatch(one["started_at"])


def test_a_paused_group_says_so_and_that_is_why_its_tasks_wait(stage):
    stage.server("AOS1")
    stage.submit()
    actions.pause_group(stage.database, "default")
    (group,) = read(stage, views.groups)
    assert (group["paused"], group["ready"], group["why"]) == (True, 1, "default is paused")
    assert read(stage, views.status_view)["waiting"] == [group]


def test_what_a_deleted_server_ran_keeps_its_name_even_if_another_one_gets_its_number(stage):
    old = stage.server("AOS1")
    stage.submit()
    stage.play()
    stage.database.run(lambda tx: engine.stop(tx, old, tx.now()))
    actions.delete_server(stage.database, "AOS1")
    stage.server("AOS2")
    stage.submit()
    stage.start("AOS2")
    assert {task["server"] for task in stage.view(1)["tasks"]} == {"AOS1", None}
    assert read(stage, views.task_view, 1, "TASK 1")["server"] == "AOS1"
    assert stage.view(2)["tasks"][0]["server"] == "AOS2"


def test_the_status_counts_runs_tasks_and_servers(stage):
    stage.server("AOS1", threads=2)
    stage.server("AOS2", runs=False)
    stage.submit()
    stage.start("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    status = read(stage, views.status_view)
    assert status["runs"] == {"executing": 2}
    assert status["tasks"] == {"ready": 1, "queued": 1, "executing": 1}
    assert status["servers"] == {"open": 1, "stopped": 1}
    assert (status["threads"], status["busy"]) == (2, 1)
    assert [group["group"] for group in status["waiting"]] == ["BG1"]


def test_the_databases_clock_is_utc(stage):
    now = read(stage, views.clock)
    assert now.tzinfo is UTC
    assert abs((now - datetime.now(UTC)).total_seconds()) < 60
