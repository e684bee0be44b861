"""Many jobs submitted at once: in how many transactions, in which order, and what an error leaves (rules 1, 2, 39)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from batchq import engine
from batchq.actions.submit import submit_jobs
from batchq.engine import Opened, submitting
from batchq.errors import DatabaseOutdated, DatabaseTooNew
from batchq.spec import JobSpec, TaskSpec
from batchq.store import schema
from batchq.store.columns import JOB, RUN, TASK
from batchq.store.rows import rows_of
from batchq.store.sql import wire
from batchq.store.sql.statement import Statement
from batchq.store.transaction import Tx
from play import Clocked, Play, check_counters

MOST = 10


class Away(Exception):
    """The database does not answer any more."""


class Counted(Clocked):
    """A database that counts its transactions, and goes away after a number of them."""

    transactions = 0
    left = 1_000_000

    def run(self, act, *args, **kwargs):
        if self.transactions == self.left:
            raise Away
        self.transactions += 1
        return super().run(act, *args, **kwargs)


@pytest.fixture
def counted(database: Clocked, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """A database whose transactions store ten tasks and conditions at most."""
    monkeypatch.setattr(submitting, "ROWS_PER_TRANSACTION", MOST)
    counted = Counted(database.url.render_as_string(hide_password=False))
    yield counted
    counted.dispose()


def job(name: str, tasks: int, group: str | None = None) -> JobSpec:
    """A job of parallel tasks."""
    return JobSpec(name=name, group=group, tasks=tuple(TaskSpec(name=f"T{n}", run="demo.work") for n in range(tasks)))


def chain(name: str, tasks: int) -> JobSpec:
    first = TaskSpec(name="T0", run="demo.work")
    rest = (TaskSpec(name=f"T{n}", run="demo.work", after=f"T{n - 1}") for n in range(1, tasks))
    return JobSpec(name=name, tasks=(first, *rest))


def stored(database: Clocked) -> list[tuple[int, str, str, int]]:
    """All runs: number, job, status, and how many tasks."""
    with database.read() as tx:
        runs = tx.execute(select(RUN.id, RUN.job, RUN.status).order_by(RUN.id)).all()
        tasks = list(tx.execute(select(TASK.run_id)).scalars())
    return [(run.id, run.job, run.status, tasks.count(run.id)) for run in runs]


def definitions(database: Clocked) -> dict[str, int]:
    """The number of tasks of each job's newest definition."""
    with database.read() as tx:
        rows = tx.execute(select(JOB.name, JOB.definition)).all()
    return {row.name: len(json.loads(row.definition)["tasks"]) for row in rows}


# Sizes of jobs, and the transactions that store them: one a lot; four for a job of 11 to 20 tasks (its run, twice
# tasks, its opening), and no further ones for conditions, as there are none.
LOTS = {
    "nothing": ([], 0),
    "one": ([3], 1),
    "as many as fit": ([3, 3, 4], 1),
    "one row more": ([3, 3, 5], 2),
    "each fills one": ([10, 10, 10], 3),
    "a large one in the middle": ([2, 15, 2], 1 + 4 + 1),
    "large ones in a row": ([15, 15], 4 + 4),
    "small ones around full ones": ([1, 10, 1, 1], 3),
}


@pytest.mark.parametrize("case", LOTS)
def test_jobs_share_transactions_and_their_runs_ascend_in_their_order(counted: Counted, case: str):
    sizes, transactions = LOTS[case]
    jobs = [job(f"JOB {len(sizes) - place}", size) for place, size in enumerate(sizes)]
    runs = engine.submit_all(counted, jobs)
    assert counted.transactions == transactions
    assert runs == sorted(set(runs))
    assert stored(counted) == [
        (run, each.name, "executing", len(each.tasks)) for run, each in zip(runs, jobs, strict=True)
    ]
    check_counters(counted)


@pytest.mark.parametrize("case", LOTS)
def test_each_lot_is_noted_once_in_the_transaction_that_opens_its_runs_as_rule_39_says(counted: Counted, case: str):
    sizes, _ = LOTS[case]
    jobs = [job(f"JOB {place}", size) for place, size in enumerate(sizes)]
    noted: list[list[Opened]] = []

    def note(tx: Tx, opened: Sequence[Opened], now: datetime) -> None:
        numbers = [run for run, _ in opened]
        begun = tx.execute(select(RUN.started_at).where(RUN.id.in_(numbers), RUN.status == "executing")).scalars()
        assert set(begun) == {now}
        noted.append(list(opened))

    runs = engine.submit_all(counted, jobs, note)
    opened = [Opened(run, each.name) for run, each in zip(runs, jobs, strict=True)]
    assert [each for lot in noted for each in lot] == opened
    assert len(noted) == len(list(submitting._lots(submitting.Written(each, rows_of(each)) for each in jobs)))


def test_runs_whose_note_fails_are_not_stored(counted: Counted):
    def fail(*_: object) -> None:
        raise Away

    with pytest.raises(Away):
        engine.submit_all(counted, [job("A", 1), job("B", 1)], fail)
    assert stored(counted) == []


def test_a_large_run_that_is_canceled_while_it_is_stored_is_not_noted(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
):
    noted: list[Sequence[Opened]] = []
    real = Counted.run

    def cancel_first(self: Counted, act: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        if act is submitting._open_stored:
            (run,) = [run for run, *_ in stored(self)]
            real(self, lambda tx: engine.cancel(tx, run, tx.now()))
        return real(self, act, *args, **kwargs)

    monkeypatch.setattr(Counted, "run", cancel_first)
    engine.submit_all(counted, [job("A", 15)], lambda tx, opened, now: noted.append(opened))
    assert [status for *_, status, _ in stored(counted)] == ["canceled"]
    assert noted == []


def test_conditions_count_as_rows(counted: Counted):
    engine.submit_all(counted, [chain("A", 3), chain("B", 3)])
    assert counted.transactions == 1
    engine.submit_all(counted, [chain("A", 3), chain("B", 4)])
    assert counted.transactions == 3


@pytest.mark.parametrize(
    ("left", "kept"),
    [(0, []), (1, ["A", "B"]), (2, ["A", "B", "C"])],
    ids=["at once", "after the first", "before the last"],
)
def test_an_error_leaves_the_jobs_of_earlier_transactions_and_names_their_runs(
    counted: Counted, left: int, kept: Sequence[str]
):
    counted.left = left
    with pytest.raises(Away) as error:
        engine.submit_all(counted, [job("A", 5), job("B", 5), job("C", 5), job("D", 6)])
    assert [name for _, name, _, _ in stored(counted)] == kept
    numbers = ", ".join(str(run) for run, *_ in stored(counted))
    notes = [f"Runs {numbers} of earlier jobs are stored."] if kept else []
    assert getattr(error.value, "__notes__", []) == notes


def test_jobs_that_fit_into_one_transaction_are_all_stored_or_none(counted: Counted):
    fits, breaks = job("A", 1), job("B", 2)
    twice = breaks.model_copy(update={"tasks": (breaks.tasks[0],) * 2})  # as no file and no builder makes it
    with pytest.raises(Exception, match=r"(?i)unique"):
        engine.submit_all(counted, [fits, twice, fits])
    assert stored(counted) == []
    assert definitions(counted) == {}


def test_the_last_of_several_jobs_of_one_name_is_its_newest_definition_and_each_run_has_its_own_tasks(
    counted: Counted,
):
    engine.submit_all(counted, [job("A", 1), job("B", 1), job("A", 3)])
    assert [(name, tasks) for _, name, _, tasks in stored(counted)] == [("A", 1), ("B", 1), ("A", 3)]
    assert definitions(counted) == {"A": 3, "B": 1}
    engine.submit_all(counted, [job("A", 2)])
    assert definitions(counted) == {"A": 2, "B": 1}


def test_a_definition_is_written_only_when_it_changes(database: Clocked):
    def updated() -> dict[str, str]:
        with database.read() as tx:
            return {row.name: row.updated_at for row in tx.execute(select(JOB.name, JOB.updated_at))}

    engine.submit_all(database, [job("A", 1), job("B", 1)])
    before = updated()
    engine.submit_all(database, [job("A", 1), job("B", 2)])
    after = updated()
    assert after["A"] == before["A"]
    assert after["B"] > before["B"]


def test_tasks_take_the_priorities_of_their_groups_and_the_first_ones_of_all_runs_are_handed_out(database: Clocked):
    batch = Play(database)
    batch.server("AOS1", 9, groups=["default", "BG1", "BG2"])
    runs = engine.submit_all(database, [chain("A", 2), job("B", 2, group="BG1"), job("C", 1, group="BG2")])
    batch.forward()
    assert sorted((ticket.run, ticket.name, ticket.group) for ticket in batch.mail) == [
        (runs[0], "T0", "default"),
        (runs[1], "T0", "BG1"),
        (runs[1], "T1", "BG1"),
        (runs[2], "T0", "BG2"),
    ]


@pytest.mark.parametrize(("revision", "error"), [("0001", DatabaseOutdated), ("9999", DatabaseTooNew)])
def test_a_run_is_stored_only_under_the_newest_schema_also_when_that_changes_under_a_process(
    database: Clocked, revision: str, error: type[Exception]
):
    engine.submit(database, job("A", 1))
    database.run(lambda tx: tx.exec_driver_sql(f"UPDATE batchq_version SET version_num = '{revision}'"))
    try:
        with pytest.raises(error):
            engine.submit(database, job("A", 1))
        assert len(stored(database)) == 1
    finally:  # the next test gets the same PostgreSQL
        database.run(lambda tx: tx.exec_driver_sql(f"UPDATE batchq_version SET version_num = '{schema.NEWEST}'"))


@pytest.mark.parametrize("number", [1, 20])
@pytest.mark.parametrize("submit_all", [engine.submit_all, submit_jobs], ids=["unnoted", "in the audit"])
def test_jobs_that_are_known_are_submitted_in_two_round_trips(
    postgresql: Clocked, monkeypatch: pytest.MonkeyPatch, number: int, submit_all: Callable[..., list[int]]
):
    jobs = [chain(f"JOB {n % 3}", 3) for n in range(number)]
    submit_all(postgresql, jobs)
    trips = []
    results = wire._results

    def counted(*args):
        trips.append(args)
        return results(*args)

    monkeypatch.setattr(wire, "_results", counted)
    submit_all(postgresql, jobs)
    assert len(trips) == 2


@pytest.mark.parametrize("number", [1, 20])
def test_the_audit_of_a_lot_takes_one_statement(database: Clocked, monkeypatch: pytest.MonkeyPatch, number: int):
    jobs = [chain(f"JOB {n % 3}", 3) for n in range(number)]
    submit_jobs(database, jobs)
    asked: list[str] = []
    later = Statement.later

    def counted(self: Statement[Any], *args: Any, **values: object) -> object:
        asked.append(self.form(args[0]).sql)
        return later(self, *args, **values)

    monkeypatch.setattr(Statement, "later", counted)
    counts = []
    for submit_all in (engine.submit_all, submit_jobs):
        asked.clear()
        submit_all(database, jobs)
        counts.append(len(asked))
    assert counts[1] == counts[0] + 1
    assert sum("batchq_audit" in sql for sql in asked) == 1
