"""`batchq plan`: the night before it comes, from a file, servers, and durations said or seen before."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import update

from batchq.cli import cli
from batchq.clock import Clock, clock
from batchq.store.tables import AttemptRow, TaskRow

EXAMPLES = Path(__file__).parents[2] / "examples"
SUN = EXAMPLES / "follow-the-sun.yaml"
JOB_1 = EXAMPLES / "job1.yaml"
MORNING = "2026-11-23T06:00Z"

TWO = """
groups: {BG1: {priority: high}}
servers:
  AOS1: {windows: [{start: "18:00", end: "19:00", threads: 1, timezone: Europe/Oslo}]}
jobs:
  J: {tasks: {A: {run: app.load, duration: 600}, B: {run: app.load, after: A}}}
  K: {tasks: {A: {run: app.load}, C: {run: app.post, group: BG1}}}
"""


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture
def plan(batchq_json):
    """The plan of a file from the morning on, as JSON."""

    def run(*words: object, begin: str = MORNING):
        return batchq_json("plan", *words, "--from", begin)

    return run


def starts(view) -> dict[str, str | None]:
    return {
        f"{task['job']} / {task['task']}": task["started_at"] and task["started_at"][11:19] for task in view["tasks"]
    }


def durations(view) -> dict[str, tuple[float, str]]:
    return {task["task"]: (task["duration"], task["duration_from"]) for task in view["tasks"]}


# --- what it says -------------------------------------------------------------------------------------------


def test_follow_the_sun_is_through_within_a_day_and_runs_in_all_three_places(plan):
    view = plan(SUN)
    (job,) = view["jobs"]
    assert (job["status"], job["ends_at"], job["seconds"]) == ("success", "2026-11-24T01:00:00.000000Z", 68400)
    assert job["tasks"] == {"success": 89}
    assert {task["server"] for task in view["tasks"]} == {"Auckland", "Los Angeles", "Oslo"}
    assert max(task["started_at"] for task in view["tasks"] if task["server"] == "Oslo") < "2026-11-23T16:00"
    assert min(task["started_at"] for task in view["tasks"] if task["server"] == "Auckland") == (
        "2026-11-23T19:00:00.000000Z"
    )


def test_the_json_has_the_documented_shape(plan):
    view = plan(SUN)
    assert {key: view[key] for key in ("from", "to", "timezone", "servers_from")} == {
        "from": "2026-11-23T06:00:00.000000Z",
        "to": "2026-11-24T06:00:00.000000Z",
        "timezone": "UTC",
        "servers_from": "file",
    }
    assert list(view["jobs"][0]) == ["job", "run", "status", "ends_at", "seconds", "tasks"]
    assert view["tasks"][0] == {
        "job": "FOLLOW THE SUN",
        "run": None,
        "task": "A0",
        "status": "success",
        "server": "Oslo",
        "group": "default",
        "attempts": 1,
        "ready_at": "2026-11-23T06:00:00.000000Z",
        "started_at": "2026-11-23T06:00:00.000000Z",
        "ended_at": "2026-11-23T06:20:00.000000Z",
        "waited_seconds": 0.0,
        "duration": 1200.0,
        "duration_from": "argument",
        "why": None,
    }
    assert len(view["hours"]) == 24
    assert view["hours"][0] == {
        "start": "2026-11-23T06:00:00.000000Z",
        "end": "2026-11-23T07:00:00.000000Z",
        "servers": {
            "Auckland": {"threads": 0.0, "busy": 0.0},
            "Los Angeles": {"threads": 0.0, "busy": 0.0},
            "Oslo": {"threads": 7200.0, "busy": 7200.0},
        },
        "idle": 0.0,
        "missing": pytest.approx(76.8 * 3600, rel=0.01),
    }
    assert list(view["longest_waits"][0]) == [
        "job", "run", "task", "group", "ready_at", "started_at", "waited_seconds", "why",
    ]  # fmt: skip
    assert len(view["longest_waits"]) == 10
    assert view["longest_waits"][0]["task"] == "H9"
    assert view["totals"]["busy"] == sum(task["duration"] for task in view["tasks"])
    assert view["durations"] == {
        "option": 0, "file": 0, "argument": 89, "past_task": 0, "past_operation": 0, "default": 0,
    }  # fmt: skip


def test_people_read_jobs_hours_and_waits_in_the_time_of_their_zone(batchq):
    said = batchq("plan", SUN, "--from", "2026-11-23T07:00", "--tz", "Europe/Oslo").stdout
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0].endswith("follow-the-sun.yaml for 24 h from Mon 23 Nov 2026 07:00 Europe/Oslo")
    assert lines[1] == "On 3 servers of the file; durations of tasks: 89 from their arguments."
    assert "FOLLOW THE SUN Ended Tue 24 Nov 02:00 19 h 00 min 89 Ended" in lines
    assert "FROM TO AUCKLAND LOS ANGELES OSLO IDLE MISSING" in lines
    assert "Mon 23 Nov 07:00 08:00 – – 2/2 – 76.8 ██" in lines
    assert "Tue 24 Nov 01:00 02:00 1/1 1.3/2 – 0.7 2.5 ██░" in lines
    assert "H9 Mon 23 Nov 07:00 Tue 24 Nov 00:50 17 h 50 min Oslo 2/2 threads busy" in lines
    assert lines[-1] == "--tasks shows all 89 tasks, -o json everything."
    assert max(map(len, said.splitlines())) <= 120


def test_hours_that_are_alike_share_a_row(batchq):
    said = batchq("plan", JOB_1, "--from", "2026-11-23T12:00", "--hours", 100).stdout
    rows = [line for line in said.splitlines() if re.match(r"(Mon|Tue|Wed|Thu|Fri) .* 0/1 ", line)]
    assert len(rows) == 1
    assert rows[0].startswith("Mon 23 Nov 12:00:00  Fri 27 Nov 16:00:00  0/1     0/1     2")


def test_a_small_plan_shows_its_tasks_and_a_large_one_only_if_asked(batchq):
    assert "TASK 7" in batchq("plan", JOB_1).stdout
    assert "District A" not in batchq("plan", SUN, "--from", MORNING).stdout
    assert "District A" in batchq("plan", SUN, "--from", MORNING, "--tasks").stdout


def test_several_jobs_start_together_and_tasks_are_named_with_theirs(batchq, plan, two):
    view = plan(two, begin="2026-11-23T17:00Z")
    assert [(job["job"], job["status"]) for job in view["jobs"]] == [("J", "success"), ("K", "success")]
    assert starts(view) == {"K / C": "17:00:00", "J / A": "17:01:00", "K / A": "17:11:00", "J / B": "17:12:00"}
    assert "J / A" in batchq("plan", two).stdout


def test_one_job_can_be_chosen(plan, two):
    assert starts(plan(two, "--job", "J", begin="2026-11-23T17:00Z")) == {"J / A": "17:00:00", "J / B": "17:10:00"}
    assert len(plan(two, "--job", "J", "--job", "K", "--job", "J")["jobs"]) == 2


def test_what_is_not_within_the_hours_is_said_to_be_open_and_why(plan, batchq, two):
    view = plan(two, "--hours", 3)
    assert [(job["status"], job["ends_at"]) for job in view["jobs"]] == [("executing", None)] * 2
    reasons = {task["task"]: task["why"] for task in view["tasks"] if task["job"] == "J"}
    window = "no server has an open window until 17:00 UTC (AOS1, 18:00-19:00 Europe/Oslo with 1 thread)"
    assert reasons == {"A": f"default: {window}", "B": "waits for A to succeed"}
    assert "not within the plan" in batchq("plan", two, "--from", MORNING, "--hours", 3).stdout


# --- what it is told ----------------------------------------------------------------------------------------


def test_a_task_that_is_to_fail_takes_its_error_branch(plan, batchq):
    view = plan(JOB_1, "--failing", "JOB 1 / TASK 2")
    assert {task["task"]: (task["status"], task["why"]) for task in view["tasks"]} == {
        "TASK 1": ("success", None),
        "TASK 2": ("error", "told to fail"),
        "TASK 3": ("didnt_run", "TASK 2 failed"),
        "TASK 4": ("didnt_run", "TASK 2 failed"),
        "TASK 5": ("success", None),
        "TASK 6": ("didnt_run", "TASK 3 didn't run"),
        "TASK 7": ("didnt_run", "TASK 3 didn't run and TASK 4 didn't run"),
    }
    assert view["jobs"][0]["status"] == "error"
    assert "2 Ended, 1 Error, 4 Didn't run" in batchq("plan", JOB_1, "--failing", "TASK 2").stdout


def test_the_demo_operation_says_itself_how_long_it_takes_and_whether_it_fails(plan, tmp_path):
    path = tmp_path / "demo.yaml"
    tasks = (
        "A: {run: demo.work, kwargs: {seconds: 5}}, B: {run: demo.work, args: [7]}, C: {run: demo.work}, "
        "D: {run: demo.work, kwargs: {seconds: many}}, E: {run: demo.work, kwargs: {fail: true}}"
    )
    path.write_text(f"{{job: J, tasks: {{{tasks}}}}}")
    view = plan(path)
    assert durations(view) == {
        "A": (5, "argument"), "B": (7, "argument"), "C": (0, "argument"), "D": (60, "default"), "E": (0, "argument"),
    }  # fmt: skip
    assert view["tasks"][-1]["status"] == "error"


def test_of_all_durations_the_one_that_is_said_here_and_now_counts_most(plan, two):
    assert durations(plan(two, "--job", "J", "--default-duration", 5)) == {"A": (600, "file"), "B": (5, "default")}
    said = ("--duration", "app.load=7", "--duration", "A=8", "--duration", "K / A=9.5", "--duration", "app.post=0")
    view = plan(two, *said)
    assert [(task["duration"], task["duration_from"]) for task in view["tasks"]] == [
        (8, "option"), (7, "option"), (9.5, "option"), (0, "option"),
    ]  # fmt: skip


def test_a_task_does_not_outlive_its_time_limit(plan, tmp_path):
    path = tmp_path / "limit.yaml"
    path.write_text("{job: J, tasks: {A: {run: x.y, duration: 90, time_limit: 60}, B: {run: x.y, time_limit: 60}}}")
    view = plan(path)
    assert [(task["status"], task["duration"]) for task in view["tasks"]] == [("error", 60), ("success", 60)]
    assert view["tasks"][0]["why"] == "is ended by its time limit of 60 s"


# --- what the database knows --------------------------------------------------------------------------------


def test_without_servers_in_the_file_those_of_the_database_count_as_running(plan, stage):
    stage.server("AOS7", 3, runs=False)
    stage.server("AOS8", 3)
    view = plan(JOB_1)
    assert view["servers_from"] == "database"
    assert list(view["hours"][0]["servers"]) == ["AOS7", "AOS8"]
    assert view["tasks"][0]["server"] == "AOS7"


def test_without_any_servers_they_are_those_that_run_starts(plan, batchq):
    assert plan(JOB_1)["servers_from"] == "default"
    assert list(plan(JOB_1)["hours"][0]["servers"]) == ["Batch1", "Batch2"]
    assert "2 servers, as `batchq run` starts them" in batchq("plan", JOB_1).stdout


def test_priorities_of_groups_are_those_of_the_file_else_those_of_the_database(batchq, plan, two, stage):
    batchq("apply", two)
    path = two.parent / "no-groups.yaml"
    path.write_text("servers: {AOS1: {threads: 1}}\njob: J\ntasks: {A: x.y, B: {run: x.y, group: BG1}}")
    assert starts(plan(path)) == {"J / A": "06:01:00", "J / B": "06:00:00"}
    path.write_text("groups: {BG1: {priority: low}}\n" + path.read_text())
    assert starts(plan(path)) == {"J / A": "06:00:00", "J / B": "06:01:00"}


def test_tasks_take_as_long_as_before_and_new_ones_as_long_as_their_operation(plan, two, stage):
    def attempts(job: str, operation: str, *took: float) -> None:
        for number, seconds in enumerate(took):
            run = stage.submit(f"{{job: {job}, tasks: {{A: {{run: {operation}}}}}}}")
            stage.start("AOS1")
            stage.end("A")
            began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
            with stage.database.write() as tx:
                values = {"claimed_at": began, "ended_at": began + timedelta(seconds=seconds)}
                tx.execute(update(AttemptRow).where(AttemptRow.task_id == run << 20).values(**values))

    stage.server("AOS1", 1)
    attempts("K", "app.load", 1000, 1000, *[30, 10, 20, 10, 30] * 2)
    attempts("L", "app.post", 100)
    stage.submit("{job: L, tasks: {A: {run: app.post}}}")
    stage.start("AOS1")
    stage.end("A", "RuntimeError: it took no time to fail")
    assert durations(plan(two, "--job", "K")) == {"A": (20, "past_task"), "C": (100, "past_operation")}
    assert plan(two)["durations"] == {
        "option": 0, "file": 1, "argument": 0, "past_task": 1, "past_operation": 2, "default": 0,
    }  # fmt: skip
    assert durations(plan(two, "--job", "K", "--duration", "A=5"))["A"] == (5, "option")


def test_a_plan_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("BATCHQ_HOME", "BATCHQ_DATABASE_URL", "BATCHQ_APP"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(cli, ["plan", str(JOB_1), "--duration", "demo.work=1"])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


# --- what is open now ---------------------------------------------------------------------------------------


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CHAIN = """
job: CHAIN
tasks:
  First: {run: demo.work, duration: 600}
  Second: {run: demo.work, duration: 600, after: First}
  Third: {run: demo.work, duration: 60, retries: 1, after: {Second: error}}
  Fourth: {run: demo.work, duration: 60, group: BG1}
"""


@pytest.fixture
def noon(monkeypatch):
    """The clock stands at NOW, or as good as."""
    monkeypatch.setenv("BATCHQ_CLOCK", str(Clock.starting(NOW, 1e-6, datetime.now(UTC).timestamp())))
    clock.cache_clear()
    yield
    monkeypatch.delenv("BATCHQ_CLOCK")
    clock.cache_clear()


def set_task(stage, run: int, name: str, **values: object) -> None:
    with stage.database.write() as tx:
        tx.execute(update(TaskRow).where(TaskRow.run_id == run, TaskRow.name == name).values(**values))


@pytest.mark.usefixtures("noon")
def test_what_is_open_goes_on_from_where_it_stands(batchq_json, batchq, stage):
    stage.server("AOS1", 1)
    stage.submit(CHAIN)
    assert stage.start("AOS1") == ["First"]
    set_task(stage, 1, "First", claimed_at=NOW - timedelta(minutes=4))
    set_task(stage, 1, "Fourth", ready_at=NOW - timedelta(minutes=4))
    view = batchq_json("plan", JOB_1, "--queue")
    assert [(job["job"], job["run"], job["status"]) for job in view["jobs"]] == [
        ("CHAIN", 1, "success"), ("JOB 1", None, "success"),
    ]  # fmt: skip
    chain = {task["task"]: task for task in view["tasks"] if task["run"] == 1}
    assert [
        (name, task["status"], task["started_at"] and task["started_at"][11:16]) for name, task in chain.items()
    ] == [
        ("First", "success", "11:56"),
        ("Second", "success", "12:07"),
        ("Third", "didnt_run", None),
        ("Fourth", "success", "12:06"),
    ]
    assert chain["First"]["ended_at"] == "2026-11-23T12:06:00.000000Z"
    assert chain["Fourth"]["waited_seconds"] == 600
    assert view["tasks"][-1]["job"] == "JOB 1"
    assert "CHAIN run 1 / Second" in batchq("plan", JOB_1, "--queue").stdout


@pytest.mark.usefixtures("noon")
def test_the_queue_alone_needs_no_file(batchq_json, batchq, stage):
    assert "Nothing is open." in batchq("plan", "--queue").stdout
    stage.server("AOS1", 2)
    stage.submit(CHAIN)
    view = batchq_json("plan", "--queue", "--failing", "CHAIN / Second")
    assert {task["task"]: task["status"] for task in view["tasks"]} == {
        "First": "success", "Second": "error", "Third": "success", "Fourth": "success",
    }  # fmt: skip


@pytest.mark.usefixtures("noon")
def test_with_the_queue_servers_of_the_file_stand_beside_those_of_the_database(batchq_json, stage, two):
    stage.server("AOS1", 2, groups=["BG9"])
    stage.server("AOS2", 3)
    view = batchq_json("plan", two, "--queue", "--hours", 8)
    assert view["servers_from"] == "both"
    (hour,) = [hour for hour in view["hours"] if hour["start"].startswith("2026-11-23T17")]
    assert {name: server["threads"] for name, server in hour["servers"].items()} == {"AOS1": 3600, "AOS2": 10800}


@pytest.mark.usefixtures("noon")
def test_a_run_that_is_being_canceled_lets_what_executes_end(batchq, batchq_json, stage):
    stage.server("AOS1", 1)
    stage.submit(CHAIN)
    stage.start("AOS1")
    set_task(stage, 1, "First", claimed_at=NOW)
    batchq("runs", "cancel", 1)
    (job,) = batchq_json("plan", "--queue")["jobs"]
    assert (job["status"], job["seconds"], job["tasks"]) == ("canceled", 600, {"success": 1, "canceled": 3})


# --- what it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["--from", "tonight"],
            2,
            "Invalid value for --from: 'tonight' is not an instant. Write it as 2026-12-24T18:00",
        ),
        (["--from", "2026-02-30T18:00"], 2, "is not an instant"),
        (["--from", "0001-01-01T00:00+14:00"], 2, "is not an instant"),
        (["--hours", "0"], 2, "Invalid value for '--hours': '0' is not a number of hours. It is more than 0"),
        (["--hours", "nan"], 2, "is not a number of hours"),
        (["--hours", "1e9"], 2, "is not a number of hours"),
        (["--tz", "Oslo"], 2, "Invalid value for '--tz': 'Oslo' is not a time zone (closest: 'Europe/Oslo')"),
        (["--duration", "TASK 1"], 2, "'TASK 1' is no duration. Write it as NAME=SECONDS"),
        (["--duration", "TASK 1=-1"], 2, "'-1' is not a number of seconds. It is 0 or more"),
        (["--duration", "TASK 1=inf"], 2, "'inf' is not a number of seconds"),
        (["--duration", "TASK=1"], 2, "--duration: the plan has no 'TASK' (closest: 'TASK"),
        (["--default-duration", "x"], 2, "Invalid value for '--default-duration': 'x' is not a number of seconds"),
        (["--failing", "TASK 8"], 2, "--failing: the plan has no 'TASK 8' (closest: 'TASK"),
        (["--failing", "demo.work"], 2, "Name a task, or JOB / TASK."),
        (["--queue", "--from", "2026-11-23"], 2, "--queue is what is open now: leave --from out."),
        (["--job", "JOB 2"], 3, "No job 'JOB 2' (closest: 'JOB 1')"),
    ],
)
def test_wrong_input_is_one_sentence_that_names_the_field_and_what_it_takes(batchq, words, code, sentence):
    result = batchq("plan", JOB_1, *words, code=code)
    assert sentence in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", [(), ("--queue", "--job", "J")])
def test_without_a_file_there_is_only_the_queue(batchq, words):
    assert "Name a FILE with the jobs to plan" in batchq("plan", *words, code=2).stderr


def test_a_file_that_is_wrong_or_holds_no_job_is_refused(batchq, tmp_path):
    path = tmp_path / "wrong.yaml"
    assert "cannot be read" in batchq("plan", path, code=2).stderr
    path.write_text("servers: {AOS1: {threads: 1}}")
    assert "holds no job" in batchq("plan", path, code=2).stderr
    path.write_text("job: J\ntasks: {A: {run: x.y, duration: -1}}")
    assert "tasks.A.duration: must be at least 0" in batchq("plan", path, code=2).stderr


def test_a_local_time_that_the_clock_skips_or_shows_twice_is_taken(plan):
    zone = ("--tz", "Europe/Oslo")
    assert plan(JOB_1, *zone, begin="2026-03-29T02:30")["from"] == "2026-03-29T01:30:00.000000Z"
    assert plan(JOB_1, *zone, begin="2026-10-25T02:30")["from"] == "2026-10-25T00:30:00.000000Z"
