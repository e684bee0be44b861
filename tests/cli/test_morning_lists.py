"""The lists that a person reads in the morning: what failed since 18:00, of what, and what it logged."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from sqlalchemy import update

from batchq import views
from batchq.cli import log, output
from batchq.cli.failures import drawn
from batchq.cli.run import runs_table
from batchq.cli.task import table_of_all
from batchq.core.states import State
from batchq.store.columns import RUN, TASK, task_id
from batchq.store.tables import Run, TaskRow

LONG = "ConnectionError: the rates of 31 January could not be read from 'https://bank.example/rates/2026/01/31': away"


@pytest.fixture
def night(stage):
    """JOB 1 failed, and so did A of NIGHT, twice; a second run of JOB 1 executes."""
    stage.server("Batch1")
    stage.submit()
    stage.play(failing={"TASK 2"})
    stage.submit("{job: NIGHT, run_by: anna, tasks: {A: {run: demo.work, retries: 1}}}")
    for number in (1, 2):
        stage.start("Batch1")
        stage.end("A", LONG, log=f"attempt {number}\n")
    stage.submit()
    stage.start("Batch1")
    return stage


def change(stage, statement):
    with stage.database.write() as tx:
        tx.execute(statement)


def rows(text):
    return [re.split(r"\s{2,}", line) for line in text.splitlines()]


# --- tasks --------------------------------------------------------------------------------------------------


def test_the_failed_tasks_of_all_runs_are_one_list(batchq, batchq_json, night):
    head, *lines = rows(batchq("task", "list", "--status", "error", "--since", "1h").stdout)
    assert head == ["RUN", "JOB", "TASK", "STATUS", "SERVER", "STARTED", "TIME", "NOTE"]
    assert [line[:5] for line in lines] == [
        ["2", "NIGHT", "A", "Error", "Batch1"],
        ["1", "JOB 1", "TASK 2", "Error", "Batch1"],
    ]
    assert lines[0][-1] == LONG
    with night.database.read() as tx:
        wanted = views.tasks(tx, views.Chosen(frozenset({State.ERROR})))
    assert batchq_json("task", "list", "--status", "error", "--since", "1h") == wanted


def test_tasks_of_all_runs_are_chosen_by_each_option(batchq_json, night):
    change(night, update(TaskRow).where(TASK.id == task_id(3, 6)).values(stage="post"))

    def listed(*words):
        return [f"{task['run']} {task['name']}" for task in batchq_json("task", "list", *words)]

    assert listed("--job", "NIGHT") == ["2 A"]
    assert listed("--stage", "post") == ["3 TASK 7"]
    assert listed("last", "--stage", "post") == ["3 TASK 7"]
    assert listed("--group", "default", "-n", "2") == ["3 TASK 1", "3 TASK 2"]
    assert listed("1", "--limit", "1") == ["1 TASK 1"]
    assert listed("--status", "error", "--status", "executing") == ["3 TASK 1", "2 A", "1 TASK 2"]
    ended = night.view(1)["ended_at"]
    assert listed("--status", "error", "--since", ended) == ["2 A"]
    assert len(listed("1", "--since", ended)) == 0


def test_a_time_of_day_is_read_in_the_users_zone(batchq_json, night, monkeypatch):
    failed = datetime.fromisoformat(night.view(2)["ended_at"])
    monkeypatch.setenv("BATCHQ_TIMEZONE", "Asia/Tokyo")
    tokyo = failed.astimezone(UTC) + timedelta(hours=9)
    first, *_ = batchq_json("task", "list", "--status", "error", "--since", f"{tokyo:%H:%M}")
    assert first["run"] == 2


def test_a_list_that_is_cut_says_how_to_see_more(batchq, stage):
    tasks = ", ".join(f"T{number}: {{run: x}}" for number in range(120))
    stage.submit(f"{{job: J, tasks: {{{tasks}}}}}")
    *lines, last = batchq("task", "list").stdout.splitlines()
    assert (len(lines), last) == (101, "Only the newest 100: -n shows more, --since and other filters fewer.")
    assert len(batchq("task", "list", "-n", "100").stdout.splitlines()) == 101
    assert len(batchq("task", "list", "last").stdout.splitlines()) == 121


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["task", "list", "--job", "NIGT"], "No job 'NIGT' (closest: 'NIGHT'). `batchq job list` shows all jobs."),
        (["task", "list", "--group", "B"], "No group 'B'. `batchq group list` shows all groups."),
        (["task", "errors", "--job", "NIGT"], "No job 'NIGT' (closest: 'NIGHT'). `batchq job list` shows all jobs."),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)  # fmt: skip
def test_a_filter_that_names_nothing_is_not_found(batchq, night, words, error):
    assert batchq(*words, code=3).stderr == f"Error: {error}\n"


@pytest.mark.parametrize("words", [["task", "list"], ["task", "errors"], ["runs", "list"]], ids=" ".join)
def test_what_is_no_time_is_wrong_usage(batchq, words):
    assert "is no time. Write a time of day, 18:00" in batchq(*words, "--since", "dawn", code=2).stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs", "list"], "No runs. `batchq submit FILE` starts one."),
        (["runs", "list", "--since", "5m"], "No runs fit. `batchq runs list` without filters shows the newest."),
        (["task", "list"], "No tasks fit. `batchq runs list` shows the runs; leave a filter out to see more."),
        (["task", "errors"], "No attempt failed. `batchq runs list` shows the runs."),
        (["task", "errors", "--since", "5m"], "No attempt failed there and then. Leave a filter out to see more."),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_an_empty_list_says_what_to_do_next(batchq, batchq_json, words, sentence):
    assert batchq(*words).stdout == f"{sentence}\n"
    assert batchq_json(*words) == []


# --- errors -------------------------------------------------------------------------------------------------


def test_errors_are_counted_by_their_pattern(batchq, batchq_json, night):
    head, first, second, *rest = rows(batchq("task", "errors").stdout)
    assert head == ["COUNT", "FIRST", "LAST", "NEWEST", "ERROR"]
    like = "ConnectionError: the rates of … January could not be read from …: away"
    assert (first[0], first[3:]) == ("2", ["NIGHT / A, run 2", like])
    assert second[3:] == ["JOB 1 / TASK 2, run 1", "RuntimeError: TASK … was told to fail"]
    assert rest == [[""], ["batchq task log 2 A"]]
    with night.database.read() as tx:
        assert batchq_json("task", "errors") == views.failures(tx)
    assert [one["count"] for one in batchq_json("task", "errors", "--job", "JOB 1")] == [1]
    assert [one["count"] for one in batchq_json("task", "errors", "-n", "1", "--since", "1h")] == [2]


# --- runs ---------------------------------------------------------------------------------------------------


def test_runs_are_chosen_by_their_end(batchq_json, night):
    ended = night.view(1)["ended_at"]
    assert [run["run"] for run in batchq_json("runs", "list", "--since", ended)][:2] == [3, 2]
    assert [run["run"] for run in batchq_json("runs", "list", "--since", "1h", "--status", "error")] == [2, 1]
    assert [run["run"] for run in batchq_json("runs", "list", "-n", "1")] == [3]


def test_a_list_of_runs_tells_whose_they_are_and_who_holds_them_if_there_is_something_to_tell(batchq, night):
    head, *_ = rows(batchq("runs", "list", "--job", "JOB 1").stdout)
    assert head == ["RUN", "JOB", "STATUS", "SUBMITTED", "TIME", "TASKS"]
    hold = {"held": True, "held_by": "olav", "held_at": datetime.now(UTC), "held_why": "month end"}
    change(night, update(Run).where(RUN.id == 3).values(hold))
    head, *lines = rows(batchq("runs", "list").stdout)
    assert head == ["RUN", "JOB", "STATUS", "SUBMITTED", "TIME", "TASKS", "NOTE"]
    assert re.fullmatch(r"held by olav, \d\d:\d\d:\d\d: 'month end'", lines[0][-1])
    assert lines[1][-1] == "run by anna"
    assert lines[2][-1] == "2 Ended, 1 Error, 4 Didn't run"
    assert batchq("runs", "show", 3).stdout.splitlines()[1] == lines[0][-1]


# --- logs ---------------------------------------------------------------------------------------------------


def followed(stage, steps, **options):
    """Follow A of run 1 while one step of the story happens between two looks; returns the logs that were shown."""

    def read():
        with stage.database.read() as tx:
            return views.task_view(tx, 1, "A")

    shown, steps = [], iter(steps)
    view = log.follow(read, lambda one: shown.append(one["log"]), pause=lambda seconds: next(steps)(), **options)
    return view["status"], shown, list(steps)


@pytest.fixture
def story(stage):
    """A fails twice and then succeeds, in steps."""
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: x, retries: 2}}}")

    def step(log, error):
        def happen():
            stage.start("Batch1")
            stage.end("A", error, log=log)

        return happen

    return [lambda: None, step("1", "OSError: away"), step("2", "OSError: away"), lambda: None, step("3", None)]


def test_to_follow_shows_each_log_as_it_comes_until_the_task_has_ended(stage, story):
    assert followed(stage, story) == ("success", ["1", "2", "3"], [])


def test_to_follow_begins_with_the_newest_log_that_is_stored(stage, story):
    first, second, third, *rest = story
    for step in (first, second, third):
        step()
    assert followed(stage, rest) == ("success", ["2", "3"], [])


def test_to_follow_one_attempt_ends_with_it(stage, story):
    status, shown, left = followed(stage, story, attempt=2)
    assert (status, shown, len(left)) == ("queued", ["2"], 2)
    assert followed(stage, [], attempt=1) == ("queued", ["1"], [])


def test_to_follow_what_has_ended_prints_its_log_and_how_it_stands(batchq, batchq_json, night):
    result = batchq("task", "log", "-f", 2, "A")
    assert result.stdout == "attempt 2\n"
    assert re.fullmatch(rf"Attempt 2 on Batch1: Error after \d\.\d s\nA: Error, {re.escape(LONG)}\.\n", result.stderr)
    assert [one["log"] for one in batchq_json("task", "log", "-f", 2, "A")] == ["attempt 1\n", "attempt 2\n"]
    assert "Attempts that ended: 1, 2." in batchq("task", "log", "-f", 2, "A", "--attempt", 3, code=3).stderr


def test_an_interrupt_ends_the_wait_calmly_and_tells_how_to_go_on(batchq, night, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    result = batchq("task", "log", "-f", "last", "TASK 1", code=130)
    first, second, *_ = result.stderr.splitlines()
    assert re.fullmatch(
        r"TASK 1: Executing on Batch1 since \d\d:\d\d:\d\d\. A log comes when its attempt ends; Ctrl-C stops waiting\.",
        first,
    )
    assert second == "TASK 1 goes on. `batchq task log -f 3 'TASK 1'` waits again."
    assert result.stdout == ""


# --- how it looks -------------------------------------------------------------------------------------------


def screen(parts, width=100):
    """What a terminal of this width shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    console.print(output.rendered(parts))
    return console.file.getvalue().splitlines()


def test_no_line_of_a_list_wraps_on_a_terminal_of_100_columns(batchq, night, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    now = datetime.now(UTC)
    with night.database.read() as tx:
        tasks, errors = views.tasks(tx), views.failures(tx)
    change(night, update(Run).where(RUN.id == 3).values(held=True, held_by="olav", held_at=now, held_why=LONG))
    with night.database.read() as tx:
        runs = views.runs(tx)
    each = [[table_of_all(tasks, now)], list(drawn(errors, now, "")), [runs_table(runs, "", now)]]
    for parts, lines in zip(each, (len(tasks) + 2, len(errors) + 4, len(runs) + 2), strict=True):
        shown = screen(parts)
        assert len(shown) == lines
        assert max(map(len, shown)) <= 100
        assert any(line.rstrip().endswith("…") for line in shown)
