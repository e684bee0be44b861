"""A run that somebody broke while it was held, canceled or retried is set aside, and holds up no other run."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text

from batchq import actions, engine
from batchq.actions import run as runs
from batchq.config import Settings
from batchq.coordinator import Coordinator
from batchq.engine import Retry, holding, reopening, retrying
from batchq.spec import Job
from batchq.store import broken as broken_rows
from batchq.store import moves, trouble
from batchq.store.columns import RUN
from play import Clocked, Play, check_counters
from support.nowhere import Nowhere

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Ticks:
    """Ticks of one coordinator, so many seconds apart on all clocks."""

    def __init__(self, batch: Play) -> None:
        self.batch, self.now = batch, 100.0
        self.coordinator = Coordinator(batch.database, Settings(), Nowhere(), monotonic=lambda: self.now)

    def __call__(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.batch.database.later(seconds=seconds)
        self.coordinator.tick(self.now)


@pytest.fixture
def batch(database: Clocked, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Commands leave all rows to the ticks, and even a small retry is a large one."""
    monkeypatch.setattr(runs, "PIECES_AT_ONCE", 0)
    monkeypatch.setattr(holding, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(retrying, "AT_ONCE", 0)
    database.instant = NOON
    return Play(database, fast_path=False)


def wide(batch: Play, tasks: int = 3) -> int:
    job = Job("WIDE")
    for number in range(tasks):
        job.task(f"T{number}", "demo.work")
    return engine.submit(batch.database, job.spec())


def damage(batch: Play, run: int, **values: str) -> None:
    """Break the row of a run by hand."""
    said = ", ".join(f"{column} = {value}" for column, value in values.items())
    with batch.database.write() as tx:
        tx.execute(text(f"UPDATE batchq_run SET {said} WHERE id = {run}"))


def told(batch: Play) -> str:
    """What `check` says of rows."""
    with batch.database.read() as tx:
        return "\n".join(broken_rows.broken(tx))


def set_aside(batch: Play) -> set[tuple[str, int]]:
    with batch.database.read() as tx:
        return {(row.what, row.number) for row in trouble.every(tx)}


def moving(batch: Play) -> list[int]:
    with batch.database.read() as tx:
        return moves.moving_runs(tx)


# --- retries ------------------------------------------------------------------------------------------------


def marked(batch: Play) -> int:
    """A run that has failed, with the retry of a process that died before its first piece."""
    run = wide(batch)
    batch.forward()
    for name in ("T0", "T1", "T2"):
        batch.deliver()
        batch.finish(name, ok=False, run=run)
        batch.forward()
    assert batch.verdict(run) == "error"
    asked = Retry(run)
    with batch.database.read() as tx:
        look = retrying.look_at(tx, asked)
    begun = batch.database.run(retrying._begin, look, retrying.planned(look, asked), asked, lambda tx, retried: None)
    assert begun is not None
    return run


MARKS = ["''", "'{'", "'[]'", "'7'", "'{}'", """'{"number": 0, "seeds": [1]}'""", """'{"number": 0, "pieces": ""}'"""]
BYTES = [("sqlite", "x'ff'"), ("sqlite", "CAST(x'ff' AS TEXT)")]


@pytest.mark.parametrize(
    ("database", "mark"),
    [(kind, mark) for kind in ("sqlite", "postgresql") for mark in MARKS] + BYTES,
    indirect=["database"],
)
def test_a_mark_that_somebody_damaged_holds_up_no_other_retry_and_is_told(batch: Play, mark: str):
    batch.server("AOS1", 12)
    bad, good = marked(batch), marked(batch)
    damage(batch, bad, retry=mark)
    tick = Ticks(batch)
    tick()
    tick(reopening.PATIENCE)
    assert batch.verdict(good) == "executing"
    assert batch.verdict(bad) == "error"
    assert set_aside(batch) == {("retry", bad)}
    assert f"The retry of run {bad} cannot go on (" in told(batch)
    for _ in range(3):
        tick(2.0)  # it is tried again, and holds up nothing
    with batch.database.read() as tx:
        assert [row.id for row in moves.runs_retrying(tx)] == [bad]
    later = marked(batch)
    tick()
    tick(reopening.PATIENCE)
    assert batch.verdict(later) == "executing"


def test_a_retry_goes_on_once_its_mark_was_mended(batch: Play):
    batch.server("AOS1", 12)
    bad = marked(batch)
    with batch.database.read() as tx:
        (row,) = moves.runs_retrying(tx)
    damage(batch, bad, retry="'{'")
    assert f"Run {bad} cannot be as it is (its retry is '{{')" in told(batch)
    tick = Ticks(batch)
    tick()
    tick(reopening.PATIENCE)
    assert batch.verdict(bad) == "error"
    damage(batch, bad, retry=f"'{row.retry}'")
    tick(60.0)
    tick(60.0)
    assert batch.verdict(bad) == "executing"
    assert not set_aside(batch)
    assert not told(batch)
    check_counters(batch.database)


def test_a_retry_whose_mark_was_taken_away_is_set_aside_no_longer(batch: Play):
    batch.server("AOS1", 12)
    bad = marked(batch)
    damage(batch, bad, retry="'{'")
    tick = Ticks(batch)
    tick()
    tick(reopening.PATIENCE)
    assert set_aside(batch) == {("retry", bad)}
    damage(batch, bad, retry="NULL")
    tick(60.0)
    assert not set_aside(batch)


# --- holds and cancels --------------------------------------------------------------------------------------

# What stands in the row of a run whose rows are left to be moved, and makes a piece fail.
MOVES = [
    ("sqlite", "hold", "moving_from", "'x'"),
    ("sqlite", "hold", "moving_from", "x'ff'"),
    ("postgresql", "cancel", "open_tasks", "0"),
    ("sqlite", "cancel", "open_tasks", "0"),
]


@pytest.mark.parametrize(("database", "word", "column", "value"), MOVES, indirect=["database"])
def test_runs_whose_rows_cannot_be_moved_are_set_aside_and_told_and_all_others_are_moved(
    batch: Play, monkeypatch: pytest.MonkeyPatch, word: str, column: str, value: str
):
    monkeypatch.setattr(moves.holding, "ROWS_ALONE", 2)
    monkeypatch.setattr(moves.holding, "ROWS_BESIDE_OTHERS", 2)
    batch.server("AOS1", 0)
    act = {"hold": actions.hold_run, "cancel": actions.cancel_run}[word]
    bad = [wide(batch, 5) for _ in range(holding.RUNS_AT_ONCE + 1)]
    for run in bad:
        act(batch.database, run)
        damage(batch, run, **{column: value})
    good = [wide(batch, 5) for _ in range(3)]
    for run in good:
        act(batch.database, run)
    assert moving(batch) == bad + good
    tick = Ticks(batch)
    tick()
    tick()
    assert moving(batch) == bad
    assert set_aside(batch) == {("run", run) for run in bad}
    assert all(f"Run {run} can be neither settled, closed, moved nor discarded (" in told(batch) for run in bad)
    tick(10.0)
    later = wide(batch)
    act(batch.database, later)
    tick()
    assert moving(batch) == bad
    with batch.database.read() as tx:
        status = dict(map(tuple, tx.execute(select(RUN.id, RUN.status).where(RUN.id.in_([*good, later])))))
    assert set(status.values()) == {{"hold": "executing", "cancel": "canceled"}[word]}
