"""A run as it goes: lines for a file, frames for a terminal, and the summary at its end."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

from batchq.cli import live, output
from batchq.cli.live import Until, follow
from batchq.errors import NotFound

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def screen(width=80, height=24, terminal=False):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, legacy_windows=False
    )


def watched(stage, steps, console, **options):
    """Follow run 1 while one step of the story happens between two looks; returns the view and what was written."""
    steps = iter(steps)
    until = Until(pause=lambda seconds: next(steps)(), **options)
    view = follow(stage.database, 1, console=console, until=until)
    return view, console.file.getvalue()


def words(text):
    """The lines without their times."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]


@pytest.fixture
def story(stage):
    """JOB 1 with TASK 3 failing, in steps."""
    stage.server("Batch1")
    stage.submit()

    def step(task, error=None):
        def happen():
            stage.start("Batch1")
            if task:
                stage.end(task, error)

        return happen

    return [
        step(None),
        step("TASK 1"),
        step("TASK 2"),
        step("TASK 3", "ValueError: no rows\nand more"),
        step("TASK 4"),
        step("TASK 6"),
    ]


def test_away_from_a_terminal_each_change_is_a_line(stage, story):
    view, text = watched(stage, story, screen())
    assert view["status"] == "error"
    assert words(text) == [
        "TASK 1  executing   on Batch1",
        "TASK 1  ended",
        "TASK 2  executing   on Batch1",
        "TASK 2  ended",
        "TASK 5  didn't run  TASK 2 did not fail",
        "TASK 3  executing   on Batch1",
        "TASK 3  error       ValueError: no rows",
        "TASK 7  didn't run  TASK 3 failed",
        "TASK 4  executing   on Batch1",
        "TASK 4  ended",
        "TASK 6  executing   on Batch1",
        "TASK 6  ended",
        *words(text)[-3:],
    ]


def test_the_summary_tells_verdict_counts_and_where_to_read_the_error(stage, story):
    _, text = watched(stage, story, screen())
    verdict, failed, advice = text.splitlines()[-3:]
    assert re.fullmatch(r"JOB 1 run 1: Error after \d+\.\d s \(4 Ended, 1 Error, 2 Didn't run\)", verdict)
    assert failed == "TASK 3 failed: ValueError: no rows"
    assert advice == "  batchq task log 1 'TASK 3'"


def test_following_stops_when_it_is_told_to(stage):
    stage.submit()
    answers = iter([False, True])
    view, text = watched(stage, [lambda: None], screen(), stop=lambda: next(answers))
    assert view["status"] == "executing"
    assert "JOB 1 run 1: still Executing after" in text


def test_following_ends_with_its_time(stage):
    stage.submit()
    view, _ = watched(stage, [], screen(), timeout=0)
    assert view["status"] == "executing"


def test_what_stays_ready_says_why_once(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    answers = iter([False, False, False, True])
    _, text = watched(
        stage, [lambda: stage.start("Batch1"), lambda: None, lambda: None], screen(), stop=lambda: next(answers)
    )
    assert words(text)[:-1] == ["A  executing   on Batch1", "B  ready       Batch1 1/1 threads busy"]


def test_a_retry_shows_each_start_and_when_it_tries_again(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work, retries: 1, retry_delay: 600}}}")

    def fail():
        stage.start("Batch1")
        stage.end("A", "OSError: away")

    answers = iter([False, True])
    _, text = watched(stage, [fail], screen(), stop=lambda: next(answers))
    assert re.search(
        r"A  ready       attempt 1 failed; the next one not before [^,]*\d\d:\d\d(:\d\d)? UTC, after OSError: away",
        text,
    )


def test_an_unknown_run_is_not_found(stage):
    with pytest.raises(NotFound):
        watched(stage, [], screen())


# --- frames -------------------------------------------------------------------------------------------------


def test_on_a_terminal_the_table_is_redrawn_and_the_summary_stays(stage, story):
    _, text = watched(stage, story, screen(terminal=True))
    assert "\x1b[" in text
    last = text[text.rindex("JOB 1  run 1") :]
    assert "7 of 7 tasks" in last
    assert "ValueError: no rows" in last
    assert last.splitlines()[-1].endswith("batchq task log 1 'TASK 3'")


def drawn(view, width=80, height=24):
    console = screen(width, height)
    console.print(live.frame(view, width, height, NOON))
    return console.file.getvalue().splitlines()


def task(name, status, **more):
    blank = dict.fromkeys(("server", "ready_at", "started_at", "ended_at", "error", "handled_by", "accepted", "why"))
    return blank | {"name": name, "status": status} | more


def run(*tasks):
    return {
        "run": 1,
        "job": "JOB 1",
        "status": "executing",
        "started_at": "2026-01-31T11:59:50.000000Z",
        "ended_at": None,
        "tasks": list(tasks),
    }


def test_a_frame_shows_state_progress_and_each_tasks_label_server_time_and_reason():
    lines = drawn(
        run(
            task(
                "TASK 1", "success", server="Batch1", started_at="2026-01-31T11:59:50Z", ended_at="2026-01-31T11:59:52Z"
            ),
            task("TASK 2", "executing", server="Batch2", started_at="2026-01-31T11:59:52Z"),
            task("TASK 3", "ready", ready_at="2026-01-31T11:58:00Z", why="Batch1 1/1 threads busy"),
            task("TASK 4", "waiting", why="waits for TASK 3 to succeed"),
        )
    )
    assert lines[0].strip() == "JOB 1  run 1  Executing  10.0 s"
    assert lines[1].rstrip().endswith("1 of 4 tasks")
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[3:]]
    assert rows == [
        ["TASK 1", "Ended", "Batch1", "2.0 s"],
        ["TASK 2", "Executing", "Batch2", "8.0 s"],
        ["TASK 3", "Ready", "2 min 00 s", "Batch1 1/1 threads busy"],
        ["TASK 4", "Waiting", "waits for TASK 3 to succeed"],
    ]


def test_a_frame_is_never_higher_or_wider_than_the_screen():
    tasks = [task(f"a task with quite a long name {n}", "waiting", why="waits " * 30) for n in range(100)]
    for width, height in ((80, 24), (40, 10), (200, 50)):
        lines = drawn(run(*tasks), width, height)
        assert len(lines) < height
        assert max(map(len, lines)) <= width


def test_a_small_screen_shows_what_executes_and_failed_first_and_counts_the_rest():
    ended = [task(f"E{n}", "success") for n in range(50)]
    lines = drawn(run(*ended, task("F", "error", error="boom"), task("X", "executing", server="B")), height=10)
    shown = [line.split()[0] for line in lines[3:-1]]
    assert shown == ["E0", "E1", "E2", "F", "X"]
    assert lines[-1].strip() == "… and 47 more: 47 Ended"


def test_no_name_can_move_the_cursor_or_colour_the_screen():
    lines = drawn(run(task("[red]\x1b[2J", "waiting", why="waits for [bold]B to succeed")))
    assert lines[3].startswith("[red]\\x1b[2J")
    assert "[bold]B" in lines[3]


def test_watching_redraws_until_interrupted():
    console = screen(terminal=True)
    drawings = iter((["first"], ["second"]))

    def pause(seconds):
        assert seconds == output.REDRAW_SECONDS
        if "second" in console.file.getvalue():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output.redraw(lambda: next(drawings), console, pause)
    assert console.file.getvalue().index("first") < console.file.getvalue().index("second")


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0.0 s"), (3.21, "3.2 s"), (125, "2 min 05 s"), (3720, "1 h 02 min"), (3 * 86400 + 4 * 3600, "3 d 04 h")],
)
def test_durations_are_short(seconds, text):
    assert output.duration(seconds) == text


def test_plain_tables_are_aligned_also_with_wide_characters():
    table = output.Table(("Name", "Note"), [("夜間", "x"), ("night run", "y")])
    assert list(output.plain([table])) == ["NAME       NOTE", "夜間       x", "night run  y"]
