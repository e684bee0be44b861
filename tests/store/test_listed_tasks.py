"""The morning's questions on each kind of database: which tasks failed since 18:00, and of what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, update

from batchq import actions, views
from batchq.core.ends import Failure
from batchq.core.states import Reason, State
from batchq.store.columns import ATTEMPT, RUN, TASK, task_id
from batchq.store.tables import AttemptRow, Run, TaskRow
from batchq.testing.clocked import Clocked
from batchq.views import Chosen, listing
from stage import Stage

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
TWO = "{job: J, tasks: {A: {run: demo.work, group: BG1, retries: 1}, B: {run: demo.work, after: A}}}"
ONE = "{job: K, tasks: {A: {run: demo.work}}}"


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request):
    """A stage on each kind of database, at noon."""
    database = Clocked(request.getfixturevalue(f"{request.param}_url"))
    database.instant = NOON
    yield Stage(database)
    database.dispose()


@pytest.fixture
def night(stage):
    """JOB 1 fails at 12:00; at 13:00 A of J fails twice; at 14:00 JOB 1 executes, and waits for most of it."""
    stage.server("Batch1")
    stage.server("Batch2", groups=["BG1"])
    stage.submit()
    stage.play(failing={"TASK 2"})
    stage.database.instant = NOON + HOUR
    stage.submit(TWO)
    for number in (17, 18):
        stage.start("Batch2")
        stage.end("A", f"OSError: no row {number}", log=f"row {number}\n")
    stage.database.instant = NOON + 2 * HOUR
    stage.submit()
    stage.start("Batch1")
    change(stage, update(TaskRow).where(TASK.id == task_id(2, 1)).values(stage="post"))
    return stage


def change(stage, statement):
    with stage.database.write() as tx:
        tx.execute(statement)


def read(stage, view, *args, **kwargs):
    with stage.database.read() as tx:
        return view(tx, *args, **kwargs)


def names(tasks):
    return [f"{task['run']} {task['name']}" for task in tasks]


def chosen(*statuses, **filters):
    return Chosen(frozenset(statuses), **filters)


JOB_1_WAITS = [f"3 TASK {number}" for number in range(2, 8)]
FILTERS = [
    (chosen(State.ERROR), ["2 A", "1 TASK 2"]),
    (chosen(State.ERROR, since=NOON), ["2 A", "1 TASK 2"]),
    (chosen(State.ERROR, since=NOON + HOUR), ["2 A"]),
    (chosen(State.ERROR, State.CANCELED, since=NOON + HOUR), ["2 A"]),
    (chosen(State.ERROR, since=NOON + 2 * HOUR), []),
    (chosen(State.ERROR, job="JOB 1"), ["1 TASK 2"]),
    (chosen(State.ERROR, group="BG1"), ["2 A"]),
    (chosen(State.EXECUTING), ["3 TASK 1"]),
    (chosen(State.EXECUTING, since=NOON + 5 * HOUR), ["3 TASK 1"]),
    (chosen(State.WAITING), JOB_1_WAITS),
    (chosen(State.SUCCESS), ["1 TASK 1", "1 TASK 5"]),
    (chosen(State.SUCCESS, State.EXECUTING), ["3 TASK 1", "1 TASK 1", "1 TASK 5"]),
    (chosen(State.DIDNT_RUN, since=NOON + HOUR), ["2 B"]),
    (chosen(since=NOON + HOUR), ["3 TASK 1", *JOB_1_WAITS, "2 A", "2 B"]),
    (chosen(stage="post"), ["2 B"]),
    (chosen(stage="post", job="JOB 1"), []),
    (chosen(job="J"), ["2 A", "2 B"]),
    (chosen(group="BG1"), ["2 A"]),
    (chosen(group="none"), []),
    (chosen(State.DIDNT_RUN), ["2 B", "1 TASK 3", "1 TASK 4", "1 TASK 6", "1 TASK 7"]),
    (chosen(State.DIDNT_RUN, stage="post"), ["2 B"]),
    (chosen(State.DIDNT_RUN, job="JOB 1", group="default"), [f"1 TASK {number}" for number in (3, 4, 6, 7)]),
    (chosen(State.WAITING, State.SUCCESS), [*JOB_1_WAITS, "1 TASK 1", "1 TASK 5"]),
    (chosen(stage="post", since=NOON + HOUR), ["2 B"]),
    (chosen(stage="post", since=NOON + 2 * HOUR), []),
    (chosen(State.DIDNT_RUN, since=NOON + HOUR, job="JOB 1"), []),
]


def test_tasks_of_all_runs_are_chosen_by_each_filter_and_by_all_together(night):
    for filters, found in FILTERS:
        assert names(read(night, views.tasks, filters)) == found, filters


def test_a_list_that_ends_early_has_the_first_of_those_that_fit(night, monkeypatch):
    monkeypatch.setattr(listing, "LARGEST_PAGE", 2)
    for filters, found in FILTERS:
        for limit in range(1, len(found) + 2):
            assert names(read(night, views.tasks, filters, limit=limit)) == found[:limit], filters


@pytest.mark.parametrize(
    "filters",
    [chosen(stage="none"), chosen(group="none"), chosen(State.SUCCESS, stage="none"), chosen(stage="none", since=NOON)],
    ids=["stage", "group", "status and stage", "stage and time"],
)
def test_filters_that_few_tasks_fit_are_answered_without_a_look_at_each_run(stage, filters):
    for _ in range(90):
        stage.submit(ONE)
    seen: list[str] = []
    event.listen(stage.database.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    assert read(stage, views.tasks, filters, limit=100) == []
    assert len([sql for sql in seen if "batchq_task" in sql]) == 1


def test_the_tasks_of_a_run_are_chosen_by_the_same_filters(night):
    for filters, found in FILTERS:
        listed = [task for run in (3, 2, 1) for task in read(night, views.tasks, filters, run=run)]
        assert names(listed) == found, filters


def test_a_task_says_in_each_list_what_it_says_in_its_run(night):
    inner = {(run, task["name"]): task for run in (1, 2, 3) for task in night.view(run)["tasks"]}
    listed = read(night, views.tasks)
    assert len(listed) == len(inner) == 16
    for task in listed:
        rest = dict(task)
        key = rest.pop("run"), rest["name"]
        assert rest.pop("job") == ("J" if key[0] == 2 else "JOB 1")
        assert rest == inner[key]


NESTED = """
job: N
tasks:
  A: {run: x}
  B: {run: x}
  C: {run: x}
  T: {run: x, after: {all: [A, {any: [B, {C: error}]}]}}
"""


def test_a_list_says_of_many_tasks_what_each_run_says_of_its_own_and_asks_once(stage):
    stage.server("Batch1", threads=2)
    for text in (NESTED, ONE, TWO, NESTED):
        stage.submit(text)
    actions.hold_run(stage.database, 3)
    assert stage.start("Batch1") == ["A", "B"]
    stage.end("B", "OSError: no")
    expected = {(run, task["name"]): task["why"] for run in range(1, 5) for task in stage.view(run)["tasks"]}
    seen: list[str] = []
    event.listen(stage.database.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    listed = read(stage, views.tasks)
    assert {(task["run"], task["name"]): task["why"] for task in listed} == expected
    assert len([why for why in expected.values() if why]) == 9
    few = len(seen)
    for _ in range(10):
        stage.submit(TWO)
    seen.clear()
    assert len(read(stage, views.tasks)) == len(listed) + 20
    assert len(seen) == few


def test_a_long_list_reads_its_reasons_in_pieces(night, monkeypatch):
    expected = read(night, views.tasks)
    monkeypatch.setattr(listing, "REASONS_AT_ONCE", 3)
    assert read(night, views.tasks) == expected


def test_an_error_that_was_handled_names_the_task_that_did(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: x}, B: {run: x, after: {A: {outcome: error, handles: true}}}}}")
    stage.play(failing={"A"})
    (failed,) = read(stage, views.tasks, chosen(State.ERROR))
    assert failed["handled_by"] == "B"


def test_the_newest_come_first_and_a_limit_ends_the_list(stage):
    for _ in range(45):  # more runs than one statement reads at first
        stage.submit("{job: K, tasks: {A: {run: demo.work}, B: {run: demo.work}}}")
    every = [f"{run} {name}" for run in range(45, 0, -1) for name in "AB"]
    assert names(read(stage, views.tasks)) == every
    for limit in (1, 39, 40, 41, 90, 91):
        assert names(read(stage, views.tasks, limit=limit)) == every[:limit]
    assert names(read(stage, views.tasks, run=7, limit=1)) == ["7 A"]


def test_a_gate_that_has_no_name_is_in_no_list_of_all_runs(night):
    change(night, update(TaskRow).where(TASK.id == task_id(2, 1)).values(gate=True, unnamed=True))
    assert names(read(night, views.tasks, chosen(job="J"))) == ["2 A"]


# --- errors by their pattern --------------------------------------------------------------------------------


def test_like_errors_are_one_line_with_its_number_times_and_newest_tasks(night):
    rows, told = read(night, views.failures)
    assert rows == {
        "error": "OSError: no row …",
        "error_class": None,
        "reason": "error",
        "count": 2,
        "tasks": 1,
        "first_at": "2026-01-31T13:00:00.000000Z",
        "last_at": "2026-01-31T13:00:00.000000Z",
        "example": "OSError: no row 18",
        "jobs": ["J"],
        "newest": [
            {"run": 2, "job": "J", "task": "A", "attempt": 2},
            {"run": 2, "job": "J", "task": "A", "attempt": 1},
        ],
    }
    assert (told["error"], told["count"]) == ("RuntimeError: TASK … was told to fail", 1)


def test_errors_are_chosen_by_time_and_job_and_the_most_frequent_come_first(night):
    assert [one["jobs"] for one in read(night, views.failures, since=NOON + HOUR)] == [["J"]]
    assert read(night, views.failures, since=NOON + 2 * HOUR) == []
    assert [one["jobs"] for one in read(night, views.failures, job="JOB 1")] == [["JOB 1"]]
    night.end("TASK 1", "RuntimeError: TASK 9 was told to fail")
    night.database.instant += HOUR
    night.submit()
    night.play(failing={"TASK 2"})
    first, second = read(night, views.failures)
    assert (first["count"], first["tasks"], first["jobs"]) == (4, 4, ["JOB 1"])
    assert (first["first_at"], first["last_at"]) == ("2026-01-31T12:00:00.000000Z", "2026-01-31T15:00:00.000000Z")
    assert read(night, views.failures, limit=1) == [first]
    assert second["count"] == 2


def test_a_failure_that_was_made_good_by_another_attempt_counts(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: demo.work, retries: 1}}}")
    stage.start("Batch1")
    stage.end("A", "OSError: away")
    stage.play()
    assert stage.states() == {"A": "success"}
    assert [one["count"] for one in read(stage, views.failures)] == [1]


def test_like_errors_of_another_reason_or_class_are_others(stage):
    stage.server("Batch1", threads=4)
    stage.submit("{job: J, tasks: {A: {run: x}, B: {run: x}, C: {run: x}}}")
    stage.start("Batch1")
    for reason in (Reason.LOST, Reason.ERROR, Reason.ERROR):
        (server, row), *_ = stage.running()
        stage.report(server, row, Failure(reason, "away"), None)
    change(stage, update(AttemptRow).where(ATTEMPT.task_id == task_id(1, 1)).values(error_class="app.Away"))
    found = {(one["reason"], one["error_class"]) for one in read(stage, views.failures)}
    assert found == {("lost", "batchq.Lost"), ("error", "app.Away"), ("error", None)}


# --- runs, holds and reasons --------------------------------------------------------------------------------


def test_runs_since_an_instant_are_those_that_had_not_ended_before(night):
    for since, runs in ((NOON, [3, 2, 1]), (NOON + HOUR, [3, 2]), (NOON + 2 * HOUR, [3]), (NOON + 5 * HOUR, [3])):
        assert [run["run"] for run in read(night, views.runs, since=since)] == runs
    assert [run["run"] for run in read(night, views.runs, since=NOON + HOUR, statuses=["error"])] == [2]


def test_a_run_tells_who_holds_it_when_and_why_as_long_as_it_is_held(stage):
    stage.submit(ONE)
    keys = ("held", "held_by", "held_at", "held_why")
    assert [read(stage, views.runs)[0][key] for key in keys] == [False, None, None, None]
    hold = {"held": True, "held_by": "olav", "held_at": NOON, "held_why": "month end"}
    change(stage, update(Run).where(RUN.id == 1).values(hold))
    told = [True, "olav", "2026-01-31T12:00:00.000000Z", "month end"]
    assert [read(stage, views.runs)[0][key] for key in keys] == told
    assert [stage.view()[key] for key in keys] == told
    change(stage, update(Run).where(RUN.id == 1).values(held=False))
    assert [stage.view()[key] for key in keys] == [False, None, None, None]


def test_an_attempt_tells_its_reason_and_its_task_that_of_the_last_one(stage):
    stage.server("Batch1")
    stage.submit("{job: J, tasks: {A: {run: x, retries: 1}}}")
    stage.start("Batch1")
    ((server, row),) = stage.running()
    stage.report(server, row, Failure(Reason.LOST, "lost: gone"), None)
    stage.forward()
    stage.start("Batch1")
    stage.end("A", "ValueError: no")
    task = read(stage, views.task_view, 1, "A")
    assert (task["reason"], [one["reason"] for one in task["history"]]) == ("error", ["lost", "error"])
    assert stage.view()["tasks"][0]["reason"] == "error"


# --- costs --------------------------------------------------------------------------------------------------


def test_to_find_failures_of_a_night_reads_no_large_table_from_end_to_end(sqlite):
    statements: list[str] = []

    @event.listens_for(sqlite.engine, "connect")
    def trace(connection, _):
        connection.set_trace_callback(statements.append)

    sqlite.instant = NOON
    stage = Stage(sqlite)
    stage.submit(ONE)
    statements.clear()
    read(stage, views.tasks, chosen(State.ERROR, since=NOON))
    read(stage, views.tasks, chosen(State.EXECUTING, State.WAITING))
    read(stage, views.failures, since=NOON)
    with sqlite.read() as tx:
        asked = [said for said in dict.fromkeys(statements) if said.startswith("SELECT")]
        plans = [row[3] for said in asked for row in tx.connection.cursor().execute(f"EXPLAIN QUERY PLAN {said}")]
    assert {line for line in plans if "batchq_attempt_failed" in line or "batchq_task_failed" in line}
    scans = [line for line in plans if line.startswith(("SCAN batchq_task", "SCAN batchq_attempt"))]
    assert [line for line in scans if not line.endswith("INDEX batchq_task_failed")] == []
