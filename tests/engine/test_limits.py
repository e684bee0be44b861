"""Limits and aging through the real engine: the tables of rules 28 and 29, on both databases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from batchq import actions, engine, views
from batchq.errors import Conflict, InvalidInput, NotFound
from batchq.spec import Job, loads
from batchq.store import moves
from batchq.store.columns import LANE, TASK
from batchq.store.lane import lanes_of, open_lanes, reopen_lanes
from play import Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Aged(Play):
    """Plays with a `priority_aging_seconds` of its own, and holds the limits at the end of every transaction."""

    aging = 3600.0
    most: dict[str, int]

    def __init__(self, database, **options):
        self.most = {}
        super().__init__(database, self.check, **options)

    def _step(self, tx):
        step = engine.advance(tx, aging=self.aging)
        self.watch(tx)
        return step

    def _serve(self, tx, life, flush):
        return super()._serve(tx, life, replace(flush, aging=self.aging))

    def check(self, tx):
        """Rule 29d: a limit holds at every instant."""
        in_use = used(tx)
        assert all(in_use[key] <= most for key, most in self.most.items()), in_use

    def limit(self, name: str, units: int) -> None:
        actions.set_limit(self.database, name, units)
        self.most[f"limit:{name}"] = units

    def apply(self, text: str) -> list[str]:
        return actions.apply(self.database, loads(text))

    def why(self, run: int, task: str) -> str | None:
        with self.database.read() as tx:
            return views.task_view(tx, run, task, self.database.shown, aging=self.aging)["why"]


def used(tx) -> Counter[str]:
    """The units in use, by the keys of lanes."""
    _, executing, out = moves.occupancy(tx)
    found: Counter[str] = Counter()
    for number in (executing, out):
        for lane, many in number.items():
            found.update(dict.fromkeys(lanes_of(tx, [lane])[lane].keys, many))
    return found


@pytest.fixture
def batch(database):
    database.instant = NOON
    return Aged(database)


def one(name: str, task: str = "T", **facts) -> Job:
    job = Job(name)
    job.task(task, "demo.work", **facts)
    return job


def many(name: str, number: int, **facts) -> Job:
    job = Job(name, **facts)
    for place in range(number):
        job.task(f"{name} {place}", "demo.work")
    return job


# --- aging (rule 28) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aging", "others", "starts_at"),
    [(600, "high", 20), (600, "critical", 30), (0, "high", None), (0, "critical", None)],
)
def test_a_low_task_behind_a_new_one_every_minute_starts_as_the_table_of_rule_28_says(batch, aging, others, starts_at):
    batch.aging = aging
    batch.server("AOS1", 1)
    batch.submit(one("FIRST", "first", priority=others))
    batch.deliver()
    low = batch.submit(one("LOW", "L", priority="low"))
    for minute in range(40):
        batch.submit(one(f"H{minute}", f"H{minute}", priority=others))
        batch.deliver()
        if "L" in batch.executing():
            assert minute == starts_at
            return
        if minute == 30:
            behind = "behind 1 task of a higher class; aging is off"
            assert batch.why(low, "L") == (behind if not aging else "AOS1 1/1 threads busy")
        batch.database.later(minutes=1)
        batch.finish(batch.executing()[0])
        batch.deliver()
        if "L" in batch.executing():
            assert minute + 1 == starts_at
            return
    assert starts_at is None


# --- limits (rule 29) ---------------------------------------------------------------------------------------


def test_three_jobs_that_share_a_licence_never_run_two_at_once_as_rule_29_says(batch):
    batch.limit("licence", 1)
    for name in ("AOS1", "AOS2", "AOS3"):
        batch.server(name, 2)
    for name in ("A", "B", "C"):
        batch.submit(many(name, 5, limits=["licence"]))
    done = []
    batch.deliver()
    while batch.executing():
        (task,) = batch.executing()
        done.append(task)
        batch.finish(task)
        batch.deliver()
    assert len(done) == 15


def test_tasks_of_a_full_limit_do_not_keep_the_next_one_waiting_as_rule_29_says(batch):
    batch.limit("licence", 1)
    batch.server("AOS1", 2)
    batch.submit(many("L", 300, limits=["licence"], priority="high"))
    batch.submit(one("N", "normal", priority="normal"))
    batch.deliver()
    assert batch.executing() == ["L 0", "normal"]


def test_each_run_has_units_of_its_own_in_a_group_as_rule_29_says(batch):
    batch.server("AOS1", 4)
    batch.apply("groups: {BG1: {per_run: 2}}")
    batch.submit(many("ONE", 20, group="BG1"))
    batch.submit(many("TWO", 1, group="BG1"))
    batch.deliver()
    assert sorted(batch.executing()) == ["ONE 0", "ONE 1", "TWO 0"]
    assert batch.why(1, "ONE 2") == "run 1 has 2 of 2 in BG1"


def test_a_job_has_its_tasks_at_once_over_all_its_runs_as_rule_29_says(batch):
    batch.server("AOS1", 8)
    job = many("J", 3, tasks_at_once=4)
    first, second = batch.submit(job), batch.submit(job)
    batch.deliver()
    assert len(batch.executing()) == 4
    assert batch.why(second, "J 2") == "J has 4 of 4"
    wider = many("J", 1, tasks_at_once=6)
    batch.submit(wider)
    batch.deliver()
    assert len(batch.executing()) == 6
    assert first < second


def test_of_a_limit_that_is_lowered_tickets_go_back_at_once_and_two_must_end_first_as_rule_29_says(batch):
    batch.limit("licence", 4)
    batch.server("AOS1", 3)
    batch.submit(many("L", 6, limits=["licence"]))
    batch.deliver()
    batch.server("AOS2", 1)
    batch.forward()
    assert len(batch.executing()) == 3
    assert queued(batch) == 1
    batch.most.clear()
    assert actions.set_limit(batch.database, "licence", 1) == ["limit licence: units 4 → 1"]
    assert queued(batch) == 0
    batch.mail.clear()
    for left in (2, 1):
        batch.finish(batch.executing()[0])
        batch.deliver()
        assert len(batch.executing()) == left
    batch.finish(batch.executing()[0])
    batch.deliver()
    assert len(batch.executing()) == 1


def queued(batch) -> int:
    with batch.database.read() as tx:
        return len(moves.tickets_out(tx))


def test_a_unit_that_comes_free_goes_to_the_next_task_of_another_group_in_that_commit_as_rule_29_says(batch):
    batch.limit("licence", 1)
    batch.server("AOS1", 1)
    batch.server("AOS2", 1, groups=["BG1"])
    batch.submit(many("A", 1, limits=["licence"]))
    batch.submit(many("B", 1, limits=["licence"], group="BG1"))
    batch.deliver()
    assert batch.executing() == ["A 0"]
    served = batch.finish("A 0")
    assert [ticket.group for ticket in served.advance.tickets] == ["BG1"]


def test_the_unit_of_a_lost_server_is_free_when_it_counts_as_lost_as_rule_29_says(batch):
    batch.limit("licence", 1)
    batch.server("AOS1", 1, groups=["BG1"])
    batch.server("AOS2", 1)
    batch.submit(many("A", 1, limits=["licence"], group="BG1"))
    batch.deliver()
    batch.submit(many("B", 1, limits=["licence"]))
    batch.database.later(seconds=29)
    batch.tick()
    batch.deliver()
    assert batch.executing() == ["A 0"]
    batch.workers["AOS1"].active.clear()
    assert batch.lose("AOS1")
    batch.forward()
    batch.deliver()
    assert batch.executing() == ["B 0"]


def test_why_names_the_pause_of_a_group_whose_limit_is_free_as_rule_29_says(batch):
    batch.limit("licence", 1)
    batch.server("AOS1", 1)
    batch.apply("groups: {BG1: {}}")
    actions.pause_group(batch.database, "BG1")
    run = batch.submit(many("A", 1, limits=["licence"], group="BG1"))
    batch.deliver()
    assert batch.executing() == []
    assert batch.why(run, "A 0") == "BG1 is paused"


def test_why_names_who_has_the_units(batch):
    batch.limit("erp-licence", 1)
    batch.server("AOS1", 2)
    batch.submit(one("JOB 1", "TASK 3", limits=["erp-licence"]))
    batch.deliver()
    run = batch.submit(one("JOB 2", "A", limits=["erp-licence"]))
    assert batch.why(run, "A") == "waits for erp-licence (1 of 1: JOB 1 / TASK 3 on AOS1)"
    batch.limit("erp-licence", 0)
    batch.most.clear()
    assert batch.why(run, "A") == "waits for erp-licence, which has no units"


# --- kept units (rule 29e) ----------------------------------------------------------------------------------


@pytest.fixture
def kept(batch):
    """A and B take turns on their limits, so that X, which needs both, never finds both free."""
    batch.aging = 600.0
    batch.limit("a", 1)
    batch.limit("b", 1)
    return batch


def test_a_task_of_two_limits_keeps_the_one_that_is_free_as_the_table_of_rule_29_says(kept):
    kept.server("AOS1", 3)
    kept.submit(one("A-1", "A", limits=["a"]))
    kept.submit(one("B-7", "B", limits=["b"]))
    kept.deliver()
    x = kept.submit(one("JOB 9", "X", limits=["a", "b"]))
    late = kept.submit(one("A-2", "A", limits=["a"]))
    kept.database.later(minutes=5)
    assert kept.why(x, "X") == "waits for a (1 of 1: A-1 / A on AOS1)"
    kept.finish("A", run=1)  # X has not waited long enough to keep it
    kept.deliver()
    assert [row.id >> 20 for _, row in kept.running()] == [2, late]
    kept.database.later(minutes=5)
    other = kept.submit(one("A-3", "A", limits=["a"]))
    kept.finish("A", run=late)
    kept.deliver()
    assert [row.id >> 20 for _, row in kept.running()] == [2]
    assert kept.why(x, "X") == "waits for b (1 of 1: B-7 / B on AOS1); a is kept for it"
    assert kept.why(other, "A") == "a is kept for JOB 9 / X"
    kept.finish("B")
    kept.deliver()
    assert kept.executing() == ["X"]
    kept.finish("X")
    kept.deliver()
    assert [row.id >> 20 for _, row in kept.running()] == [other]


def test_who_cannot_start_anyway_keeps_nothing_as_rule_29_says(kept):
    kept.server("AOS1", 2)
    kept.server("AOS2", 1, groups=["BG1"])
    kept.submit(one("B-7", "B", limits=["b"]))
    kept.deliver()
    kept.submit(one("JOB 9", "X", limits=["a", "b"], group="BG1"))
    kept.database.later(minutes=10)
    kept.change("AOS2", enabled=False)
    later = kept.submit(one("A-1", "A", limits=["a"]))
    kept.deliver()
    assert kept.executing() == ["B", "A"]
    kept.change("AOS2", enabled=True)
    kept.finish("A")
    kept.submit(one("A-2", "A", limits=["a"]))
    kept.deliver()
    assert kept.executing() == ["B"]
    assert later


def test_two_that_keep_do_not_lock_each_other_out(kept):
    kept.server("AOS1", 3)
    kept.submit(one("A-1", "A", limits=["a"]))
    kept.submit(one("B-1", "B", limits=["b"]))
    kept.deliver()
    for name in ("X", "Y"):
        kept.submit(one(name, name, limits=["a", "b"]))
    kept.database.later(minutes=30)
    for task in ("A", "B", "X", "Y"):
        kept.finish(task)
        kept.deliver()
    assert [start.task for start in kept.starts] == ["A", "B", "X", "Y"]


# --- one at a time ------------------------------------------------------------------------------------------


def test_a_job_that_runs_one_at_a_time_is_refused_while_a_run_of_it_is_open_as_rule_29_says(batch):
    batch.server("AOS1", 1)
    job = single("J")
    first = batch.submit(job)
    with pytest.raises(Conflict, match=f"Job J runs one at a time, and run {first} of it is open."):
        batch.submit(job)
    batch.deliver()
    batch.finish("T")
    assert batch.submit(job) > first
    with pytest.raises(Conflict, match="2 runs of it cannot be submitted together"):
        engine.submit_all(batch.database, [single("K").spec(), single("K").spec()])


def single(name: str) -> Job:
    job = Job(name, one_at_a_time=True)
    job.task("T", "demo.work")
    return job


# --- what changes limits ------------------------------------------------------------------------------------


def test_a_limit_that_is_not_there_is_refused_with_the_closest_as_rule_29_says(batch):
    batch.limit("erp-licence", 1)
    with pytest.raises(NotFound, match="No limit 'erp-license' \\(closest: 'erp-licence'\\)"):
        batch.submit(one("J", limits=["erp-license"]))
    with pytest.raises(NotFound, match="No limit 'b'"):
        batch.apply("limits: {c: 1}\njob: J\ntasks: {A: {run: x, limits: [b]}}")


def test_a_file_makes_the_limits_that_it_names_and_prune_removes_others_as_rule_29_says(batch):
    text = "limits: {a: 2}\ngroups: {BG1: {per_run: 3}}\njobs: {J: {tasks: {A: {run: x, limits: [a]}}}}"
    made = batch.apply(text)
    assert made[0] == "limit a: new, units: 2"
    assert "group BG1: per run none → 3" in made
    assert batch.apply(text) == []
    batch.limit("old", 1)
    changed = actions.apply(batch.database, loads("limits: {a: 1}"), prune=True)
    assert changed == ["limit a: units 2 → 1", "limit old: removed"]
    with batch.database.read() as tx:
        assert [(limit["limit"], limit["units"], limit["jobs"]) for limit in views.limits(tx)] == [("a", 1, ["J"])]


def test_a_limit_that_an_open_task_names_is_not_deleted_as_rule_29_says(batch):
    batch.limit("a", 1)
    run = batch.submit(one("J", limits=["a"]))
    with pytest.raises(Conflict, match=f"open tasks name it: J run {run} / T"):
        actions.delete_limit(batch.database, "a")
    batch.cancel(run)
    assert actions.delete_limit(batch.database, "a") == ["limit a: removed"]
    with pytest.raises(NotFound, match="No limit 'a'"):
        actions.delete_limit(batch.database, "a")


@pytest.mark.parametrize("units", [-1, 10**7])
def test_units_out_of_bounds_are_refused(batch, units):
    with pytest.raises(InvalidInput, match="must be from 0 to 1,000,000"):
        actions.set_limit(batch.database, "a", units)


def test_a_limit_for_each_run_counts_for_runs_that_were_there_before_as_rule_29_says(batch):
    batch.server("AOS1", 3)
    job = many("ONE", 6, group="BG1")
    job.task("LAST", "demo.work", after=["ONE 0"])
    run = batch.submit(job)
    batch.deliver()
    assert len(batch.executing()) == 3
    assert actions.set_group(batch.database, "BG1", per_run=2) == ["group BG1: per run none → 2"]
    with batch.database.read() as tx:
        lanes = {lane for (lane,) in tx.execute(select(TASK.lane).where(TASK.run_id == run))}
        assert [lanes_of(tx, [lane])[lane].keys for lane in lanes] == [(f"run:{run}",)]
    batch.finish("ONE 0")
    batch.deliver()
    assert batch.executing() == ["ONE 1", "ONE 2"]
    assert batch.why(run, "LAST") == f"run {run} has 2 of 2 in BG1"
    assert actions.set_group(batch.database, "BG1", per_run="none") == ["group BG1: per run 2 → none"]
    batch.forward()
    batch.deliver()
    assert len(batch.executing()) == 3


def test_a_tick_moves_the_tasks_that_a_change_has_left(batch):
    """A task that was stored while the limit was set stands in the wrong lane: it waits for the next tick."""
    batch.server("AOS1", 3)
    run = batch.submit(many("ONE", 4, group="BG1"))
    with batch.database.read() as tx:
        plain = tx.execute(select(TASK.lane).where(TASK.run_id == run)).scalars().first()
    actions.set_group(batch.database, "BG1", per_run=2)
    batch.mail.clear()
    with batch.database.write() as tx:
        tx.exec_driver_sql(f"UPDATE batchq_task SET lane = {plain}, status = 'ready', token = NULL, queued_at = NULL")
    batch.forward()
    assert not batch.mail
    batch.tick()
    batch.deliver()
    assert len(batch.executing()) == 2


def test_the_lanes_of_a_run_are_closed_with_it_and_opened_again_for_a_retry(batch):
    batch.server("AOS1", 1)
    batch.apply("groups: {BG1: {per_run: 2}}")
    with batch.database.read() as tx:
        before = open_lanes(tx)
    run = batch.submit(many("ONE", 1, group="BG1"))
    batch.tick()
    with batch.database.read() as tx:
        assert open_lanes(tx) == before + 1
    batch.deliver()
    batch.finish("ONE 0")
    batch.tick()
    with batch.database.read() as tx:
        assert open_lanes(tx) == before
        assert tx.execute(select(LANE.closed).where(LANE.run_id == run)).scalars().all() == [True]
    batch.database.run(reopen_lanes, run)
    with batch.database.read() as tx:
        assert open_lanes(tx) == before + 1
