"""Tasks with the very same conditions share them: stored and counted once, and nobody can tell."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from batchq import Job, views
from batchq.planning import open_runs
from batchq.spec import JobSpec, TaskSpec
from batchq.store import run as runs
from batchq.store.columns import CONDITION
from batchq.store.rows import rows_of
from play import Play, check_counters

LAYERS = [[f"{layer}.{number}" for number in range(10)] for layer in range(4)]


def layers() -> JobSpec:
    """Four layers of ten tasks, each of which waits for all of the layer before."""
    tasks = []
    before: list[str] = []
    for names in LAYERS:
        tasks += [TaskSpec(name=name, run="demo.work", after=before) for name in names]
        before = names
    return JobSpec(name="LAYERS", tasks=tuple(tasks))


def after(**conditions: object) -> JobSpec:
    """A, B and C, and a task for each of these conditions."""
    first = [TaskSpec(name=name, run="demo.work") for name in "ABC"]
    rest = [TaskSpec(name=name, run="demo.work", **asked) for name, asked in conditions.items()]
    return JobSpec(name="J", tasks=(*first, *rest))


def sharing(job: JobSpec) -> dict[str, str]:
    """Which task waits with which."""
    rows = rows_of(job).tasks
    return {row["name"]: rows[row["waits_with"]]["name"] for row in rows if row["waits_with"] is not None}


ABC = {"after": ["A", "B", "C"]}
ANY = ABC | {"join": "any"}
FAILED = {"after": [{"A": "error"}, {"B": "error"}, {"C": "error"}]}
HANDLED = {"after": [{name: {"outcome": "error", "handles": True}} for name in "ABC"], "join": "any"}
ONE = {"after": "A"}
WHO = [
    ("all of them", {"D": ABC, "E": ABC, "F": ABC}, {"E": "D", "F": "D"}),
    (
        "each with its like",
        {"D": ABC, "E": ANY, "F": ABC, "G": ANY, "H": FAILED, "I": ABC, "J": ANY},
        {"F": "D", "I": "D", "G": "E", "J": "E"},
    ),
    ("two with three conditions have too few in common", {"D": ABC, "E": ABC}, {}),
    ("and so have four with one", {"D": ONE, "E": ONE, "F": ONE, "G": ONE}, {}),
    ("but not five", {"D": ONE, "E": ONE, "F": ONE, "G": ONE, "H": ONE}, dict.fromkeys("EFGH", "D")),
    ("nobody who handles a failure", dict.fromkeys("DEFGHI", HANDLED), {}),
    ("nobody without conditions", {name: {} for name in "DEFGHI"}, {}),
]


@pytest.mark.parametrize(("tasks", "expected"), [row[1:] for row in WHO], ids=[row[0] for row in WHO])
def test_who_shares_with_whom(tasks, expected):
    assert sharing(after(**tasks)) == expected


def test_so_many_share_at_most_and_the_next_ones_begin_anew():
    many = {f"T{number}": {"after": "A"} for number in range(2 * runs.MOST_ALIKE + 10)}
    counted = Counter(sharing(after(**many)).values())
    first, second, third = "T0", f"T{runs.MOST_ALIKE}", f"T{2 * runs.MOST_ALIKE}"
    assert counted == {first: runs.MOST_ALIKE - 1, second: runs.MOST_ALIKE - 1, third: 9}


def test_layers_store_the_conditions_of_a_layer_once_and_go_as_they_should(batch: Play):
    batch.server("AOS1", 3)
    played = batch.play(layers())
    with batch.database.read() as tx:
        assert tx.execute(select(func.count()).select_from(CONDITION.task_id.table)).scalar() == 30
    assert played.verdict == "success"
    for before, behind in pairwise(LAYERS):
        assert max(map(played.order.index, before)) < min(map(played.order.index, behind))
    check_counters(batch.database)


def test_what_falls_takes_all_that_share_with_it_and_those_behind(batch: Play):
    batch.server("AOS1", 10)
    run = batch.submit(layers())
    batch.deliver()
    batch.finish("0.7", ok=False)
    assert Counter(batch.states(run).values()) == {"error": 1, "executing": 9, "didnt_run": 30}
    for name in LAYERS[0]:
        if name != "0.7":
            batch.finish(name)
    assert batch.verdict(run) == "error"
    check_counters(batch.database)


def test_any_of_many_starts_all_that_share_once(batch: Play):
    job = after(D=ANY, E=ANY, F=ANY)
    batch.server("AOS1", 6)
    run = batch.submit(job)
    batch.deliver()
    batch.finish("B")
    assert sorted(batch.executing()) == ["A", "C", "D", "E", "F"]
    for name in "ACDEF":
        batch.finish(name)
    assert batch.verdict(run) == "success"
    assert Counter(start.task for start in batch.starts) == dict.fromkeys("ABCDEF", 1)
    check_counters(batch.database)


@pytest.mark.parametrize(("failing", "verdict"), [("ABCDEF", "success"), ("ABCDEFG", "error")])
def test_a_failure_is_handled_by_whichever_of_many_has_success(batch: Play, failing, verdict):
    job = Job("J")
    first = job.task("A", "demo.work")
    for name in "BCDEFG":
        job.task(name, "demo.work", after=first.error.handles, ignore_failure=True)
    assert batch.play(job, failing=set(failing)).verdict == verdict


def test_each_is_shown_with_the_conditions_it_shares(batch: Play):
    batch.server("AOS1", 10)
    run = batch.submit(layers())
    batch.deliver()
    for name in LAYERS[0][:8]:
        batch.finish(name)
    with batch.database.read() as tx:
        shown = {task["name"]: task["why"] for task in views.run_view(tx, run)["tasks"]}
        one = views.task_view(tx, run, "1.6")
        (open_,) = open_runs.open_runs(tx)
    assert {shown[name] for name in LAYERS[1]} == {"waits for 0.8 to succeed and 0.9 to succeed"}
    assert one["why"] == shown["1.6"]
    assert [each["task"] for each in one["after"]] == LAYERS[0]
    assert [each["met"] for each in one["after"]] == [True] * 8 + [None] * 2
    tasks = {row.name: row for row in open_.tasks.values()}
    for name, before in (("0.3", []), ("1.0", LAYERS[0]), ("3.9", LAYERS[2])):
        assert [each.task for each in open_.after(tasks[name])] == before
