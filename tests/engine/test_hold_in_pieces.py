"""A hold, a release and a cancel of a large run: in force at once, its rows in pieces, and a tick ends what is left."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import func, select, text

from batchq import actions, crash, engine
from batchq.actions import run as runs
from batchq.config import Settings
from batchq.coordinator import Coordinator
from batchq.core.priority import PRIORITIES
from batchq.spec import Job
from batchq.store import moves
from batchq.store import run as store_run
from batchq.store.columns import RUN, TASK, task_id
from batchq.store.database import Database
from batchq.store.moves import holding
from batchq.testing.clocked import Clocked
from play import Play, check_counters
from support.nowhere import Nowhere

ROWS = 500
TASKS = 3000


def wide(name: str, tasks: int) -> Job:
    """A job of tasks without conditions."""
    job = Job(name)
    for number in range(tasks):
        job.task(f"T{number}", "demo.work")
    return job


def asides(database: Database, run: int = 1) -> int:
    with database.read() as tx:
        return int(tx.execute(select(func.count()).where(TASK.run_id == run, TASK.aside)).scalar_one())


def standing(database: Database, run: int = 1) -> Any:
    """The run's status, whether it is held, and whether rows are left to be moved."""
    with database.read() as tx:
        row = tx.execute(select(RUN.status, RUN.held, RUN.moving_from).where(RUN.id == run)).one()
    return row.status, row.held, row.moving_from is not None


def tick(database: Database) -> None:
    """A tick of a coordinator, with all steps that it takes by itself."""
    Coordinator(database, Settings(), Nowhere()).tick(1.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of few rows, on both databases; a command moves all of them by itself."""
    monkeypatch.setattr(holding, "ROWS_BESIDE_OTHERS", ROWS)
    monkeypatch.setattr(holding, "ROWS_ALONE", ROWS)
    monkeypatch.setattr(runs, "PIECES_AT_ONCE", TASKS)


def dies_at(database: Database, passes: int, act: Callable[..., object]) -> None:
    """Let another process take the action; it ends as by `kill -9` between two pieces."""
    url = database.url.render_as_string(hide_password=False)
    pid = os.fork()
    if not pid:
        try:
            crash._crash = crash.Crash.parse(f"run-moving:{passes}")
            act(Database(url), 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == crash.EXIT_CODE


def grow(database: Database, run: int, tasks: int) -> None:
    """Give the run so many copies of its first task."""
    columns = [column.name for column in TASK]
    values = [{"id": "t.id + n", "name": "t.name || n"}.get(name, f"t.{name}") for name in columns]
    numbers = f"WITH RECURSIVE more (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < {tasks}) "
    copies = f"SELECT {', '.join(values)} FROM batchq_task AS t, more WHERE t.id = {task_id(run, 0)}"
    with database.write() as tx:
        tx.execute(text(f"INSERT INTO batchq_task ({', '.join(columns)}) {numbers} {copies}"))
        tx.execute(text(f"UPDATE batchq_run SET open_tasks = open_tasks + {tasks} WHERE id = {run}"))


@pytest.fixture
def large(database: Clocked, small: None) -> Play:
    """A run of many ready tasks; no server has a thread for it."""
    batch = Play(database, fast_path=False)
    batch.server("AOS1", 0)
    grow(database, engine.submit(database, wide("LARGE", 1).spec()), TASKS - 1)
    database.dispose()
    return batch


def test_killed_between_any_two_pieces_a_tick_ends_it_in_the_direction_of_the_flag(large: Play):
    database = large.database
    for passes in range(1, TASKS // ROWS + 2):
        dies_at(database, passes, actions.hold_run)
        assert standing(database) == ("executing", True, True)
        assert asides(database) == (passes - 1) * ROWS
        turned_round = passes % 3 == 0
        if not turned_round:
            tick(database)
            assert (standing(database), asides(database)) == (("executing", True, False), TASKS)
        dies_at(database, 1 if turned_round else passes, actions.release_run)
        assert standing(database) == ("executing", False, True)
        tick(database)
        assert (standing(database), asides(database)) == (("executing", False, False), 0)
    check_counters(database)


@pytest.mark.parametrize("held", [False, True])
def test_a_cancel_that_dies_between_two_pieces_is_ended_by_a_tick_and_the_run_closes(large: Play, held: bool):
    database = large.database
    if held:
        actions.hold_run(database, 1)
    dies_at(database, 4, actions.cancel_run)
    assert standing(database) == ("canceling", False, True)
    with database.read() as tx:
        left = tx.execute(select(func.count()).where(TASK.status == "ready")).scalar_one()
        assert moves.anything_open(tx)
    assert left == TASKS - 4 * ROWS
    tick(database)
    assert standing(database) == ("canceled", False, False)
    assert asides(database) == 0
    check_counters(database)
    with database.read() as tx:
        assert not moves.anything_open(tx)


def test_a_run_gets_another_priority_in_pieces_and_a_command_that_died_is_given_once_more(large: Play, monkeypatch):
    monkeypatch.setattr(store_run, "PRIORITIES_AT_ONCE", ROWS)
    database, first = large.database, task_id(1, 0)
    with database.write() as tx:
        tx.execute(text(f"UPDATE batchq_task SET status = 'executing' WHERE id = {first}"))
        tx.execute(text(f"UPDATE batchq_task SET status = 'waiting' WHERE id > {first + TASKS // 2}"))

    def prefer(database: Database, run: int) -> None:
        actions.set_run_priority(database, run, "high")

    def preferred() -> int:
        with database.read() as tx:
            high = TASK.own_priority & (TASK.own_class == PRIORITIES["high"]) & (TASK.id > first)
            return int(tx.execute(select(func.count()).where(high)).scalar_one())

    for passes in (1, 4):
        dies_at(database, passes, prefer)
        assert preferred() == passes * ROWS
    prefer(database, 1)
    assert preferred() == TASKS - 1  # all but the one that executes
    check_counters(database)


def run_of_three(database: Clocked) -> tuple[Play, int]:
    batch = Play(database)
    batch.server("AOS1", 3)
    run = batch.submit(wide("LARGE", 40))
    return batch, run


@pytest.mark.parametrize("word", ["hold", "cancel"])
def test_nothing_starts_once_the_first_transaction_is_committed(database, monkeypatch, word):
    monkeypatch.setattr(holding, "ROWS_BESIDE_OTHERS", 5)
    monkeypatch.setattr(holding, "ROWS_ALONE", 5)
    batch, run = run_of_three(database)
    batch.deliver()
    first, *_ = batch.executing()
    monkeypatch.setattr(runs, "PIECES_AT_ONCE", 0)
    act = {"hold": actions.hold_run, "cancel": actions.cancel_run}[word]
    assert act(database, run)["tasks"] == 37
    batch.finish(first)
    batch.forward()
    batch.deliver()
    assert (len(batch.starts), len(batch.executing()), len(batch.mail)) == (3, 2, 0)
    assert standing(database)[2]
    while standing(database)[2]:
        batch.tick()
        batch.deliver()
    for name in batch.executing():
        batch.finish(name)
    batch.deliver()
    assert len(batch.starts) == 3
    assert standing(database)[:2] == (("executing", True) if word == "hold" else ("canceled", False))
    check_counters(database)


def test_a_cancel_in_pieces_closes_exactly_though_tasks_end_meanwhile(database, monkeypatch):
    monkeypatch.setattr(holding, "ROWS_BESIDE_OTHERS", 4)
    monkeypatch.setattr(holding, "ROWS_ALONE", 4)
    monkeypatch.setattr(runs, "PIECES_AT_ONCE", 0)
    batch = Play(database)
    batch.server("AOS1", 2)
    job = Job("CHAINS")
    for number in range(2):
        before = job.task(f"A{number}", "demo.work")
        for place in range(8):
            before = job.task(f"B{number}{place}", "demo.work", after=before.success if place % 2 else before.finished)
    run = batch.submit(job)
    batch.deliver()
    actions.cancel_run(database, run)
    batch.finish("A0", ok=False)
    batch.finish("A1")
    while standing(database)[0] == "canceling":
        batch.tick()
        check_counters(database)
    batch.tick()
    assert (standing(database), len(batch.starts)) == (("canceled", False, False), 2)


# --- what it costs ------------------------------------------------------------------------------------------


def seconds_of(act: Callable[[], object], times: int = 1) -> float:
    """The shortest of so many times that it takes."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - began)
    return best


def move_all(database: Database) -> None:
    """Move the rows that a command left, as a coordinator does."""
    while database.run(lambda tx: engine.go_on(tx, tx.now())):
        pass


class Undone(Exception):
    """Rolls a transaction back."""


def step(database: Database) -> None:
    """One step forward, which hands out a ticket, and is undone."""
    with suppress(Undone), database.write() as tx:
        assert len(engine.advance(tx).tickets) == 1
        raise Undone


def test_a_step_takes_as_long_beside_many_tasks_that_are_aside_as_without_them(database):
    """Their run is the older one: without the flag in the rows each look would walk over all of them."""
    batch = Play(database, fast_path=False)
    held = engine.submit(database, wide("HELD", 1).spec())
    engine.submit(database, wide("NEXT", 1).spec())
    grow(database, held, 50_000)
    actions.hold_run(database, held)
    move_all(database)
    assert asides(database) == 50_001
    batch.server("AOS1", 1)
    beside = seconds_of(lambda: step(database), 30)
    with database.write() as tx:
        tx.execute(text(f"DELETE FROM batchq_task WHERE run_id = {held}"))
    alone = seconds_of(lambda: step(database), 30)
    assert beside <= 3 * alone, (beside, alone)


@pytest.mark.long
@pytest.mark.parametrize("act", [actions.hold_run, actions.cancel_run])
def test_a_run_of_100_000_ready_tasks_is_held_or_canceled_within_a_second(database, act):
    run = engine.submit(database, wide("LARGE", 1).spec())
    grow(database, run, 100_000)
    batch = Play(database, fast_path=False)
    batch.server("AOS1", 4)
    batch.forward()
    batch.deliver()
    assert len(batch.starts) == 4
    took = seconds_of(lambda: act(database, run))
    for name in batch.executing():
        batch.finish(name)
    batch.forward()
    batch.deliver()
    assert len(batch.starts) == 4
    assert took < 1
    while standing(database)[2]:
        tick(database)
    assert standing(database)[:2] == (("executing", True) if act is actions.hold_run else ("canceled", False))
    check_counters(database)
