"""What always fails by its content is set aside, and holds up nothing else: rows that somebody broke."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, time
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from batchq import Job, aside, engine, views
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.core.windows import Window
from batchq.store import broken as broken_rows
from batchq.store import topology as topologies
from batchq.store import trouble
from batchq.store.group import name_groups
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Careful(Play):
    """Plays as coordinators and commands do: what fails by its content is set aside."""

    def forward(self) -> int:
        for taken in range(1, 1000):
            step = aside.run(self.database, self._step)
            self.mail.extend(step.tickets)
            if not step.more:
                return taken
        raise AssertionError("it never ends")

    def _commit(self, worker: Any, reports: Any, offers: Any, **options: Any) -> Any:
        def act(tx: Any) -> Any:
            given = {"pool": 100, "may_advance": True, **options}
            return engine.serve(tx, worker.life, engine.Flush(reports=reports, offers=offers, **given))

        return aside.run(self.database, act)

    def tick(self, lost_ticket_seconds: float = 5.0) -> None:
        aside.try_again(self.database)

        def mend(tx: Any) -> list[Any]:
            now = tx.now()
            engine.follow_clock(tx, now, topologies.aside(tx).tasks)
            engine.take_back(tx, now)
            return engine.offer_again(tx, now, lost_ticket_seconds)

        self.mail.extend(aside.run(self.database, mend))
        self.forward()


@pytest.fixture
def batch(database: Clocked) -> Careful:
    database.instant = NOON
    return Careful(database)


def broken(database: Clocked, statement: str) -> None:
    """Break a row by hand, as far as the schema lets it."""
    with database.write() as tx:
        tx.execute(text(statement))


def all_aside(database: Clocked) -> set[tuple[str, int]]:
    with database.read() as tx:
        return {(row.what, row.number) for row in trouble.every(tx)}


def told(database: Clocked) -> str:
    """What `check` says of rows and windows."""
    with suppress(OperationalError), database.read() as tx:
        views.setup_problems(tx)  # bytes that are no text are met
    with database.read() as tx:
        said = views.setup_problems(tx)
        said += broken_rows.broken(tx)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in said)
    return "\n".join(said)


def pair(batch: Play, name: str) -> int:
    """A run of two tasks, one after the other."""
    job = Job(name)
    first = job.task("A", "demo.work")
    job.task("B", "demo.work", after=first)
    return batch.submit(job)


# What stands in the task A or B of a run, and breaks what is done for many at once.
READY = {
    "ready_at": {"sqlite": ["'never'", "x'ff'"], "postgresql": ["'-infinity'", "'infinity'"]},
    "own_class": {"sqlite": ["'high'", "x'00'"]},
    "attempt": {"postgresql": ["2147483647"], "sqlite": ["'many'"]},
    "name": {"sqlite": ["CAST(x'ff' AS TEXT)", "x'ff'"]},
    "retry_delay": {"sqlite": ["'long'"]},
    "token": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"]},
    "group_name": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)", "'nobody'"], "postgresql": ["'nobody'"]},
    "args": {"sqlite": ["'{'", "x'ff'", "CAST(x'ff' AS TEXT)"], "postgresql": ["'{'"]},
    "operation": {"sqlite": ["x'ff'"], "postgresql": ["''"]},
}
CASES = [(kind, column, value) for column, kinds in READY.items() for kind, values in kinds.items() for value in values]


@pytest.mark.parametrize(("database", "column", "value"), CASES, indirect=["database"])
def test_a_ready_task_that_somebody_broke_holds_up_no_other(batch: Careful, column: str, value: str):
    batch.server("AOS1")
    job = Job("BROKEN")
    job.task("A", "demo.work", priority="critical")
    bad = engine.submit(batch.database, job.spec())
    broken(batch.database, f"UPDATE batchq_task SET {column} = {value} WHERE run_id = {bad}")
    if (column, value) not in HARMLESS:
        assert f"of run {bad} cannot be" in told(batch.database)
    goes_on(batch)


HARMLESS = {("attempt", "2147483647"), ("token", "x'ff'")}  # until it is handed out; and what is given anew then


@pytest.mark.parametrize(("database", "column", "value"), CASES, indirect=["database"])
def test_a_ticket_that_somebody_broke_holds_up_no_other(batch: Careful, column: str, value: str):
    batch.server("AOS1")
    job = Job("BROKEN")
    job.task("A", "demo.work", priority="critical")
    bad = batch.submit(job)
    batch.mail.clear()
    broken(batch.database, f"UPDATE batchq_task SET {column} = {value} WHERE run_id = {bad}")
    batch.database.later(seconds=30)
    if (column, value) not in HARMLESS:
        assert f"of run {bad} cannot be" in told(batch.database)
    goes_on(batch)


def report_success(batch: Careful, run: int) -> None:
    """Let the server of A report its success; where that fails it is told without a dispatch, as by the ledger."""
    report = engine.Report(batch.at("A", run)[1].id, batch.at("A", run)[1].token, Success())
    try:
        batch.serve("AOS1", [report])
    except Exception:
        batch.serve("AOS1", [report], may_advance=False)
        batch.serve("AOS1", more_to_settle=True)


def goes_on(batch: Careful) -> None:
    """Another run comes to its end, by ticks alone if need be."""
    run = pair(batch, "GOOD")
    for _ in range(4):
        batch.tick()
        batch.deliver()
        for name in [name for name in batch.executing() if name in ("A", "B")]:
            ours = [row for _, row in batch.running() if row.name == name and row.id >> 20 == run]
            if ours:
                batch.finish(name, run=run)
        if batch.verdict(run) == "success":
            break
        batch.database.later(seconds=10)
        others = [row for _, row in batch.running() if row.id >> 20 != run]
        for row in others:  # what an operation says of arguments that it cannot read
            batch.serve(
                "AOS1", [engine.Report(row.id, row.token, Failure(Reason.NOT_STARTED, "not started", final=True))]
            )
    assert batch.verdict(run) == "success", (all_aside(batch.database), batch.states(run))


# --- what waits, what executes, and runs ----------------------------------------------------------------------

FOLLOWERS = {
    "pending": {"sqlite": ["'some'", "0"], "postgresql": ["0"]},
    "met": {"sqlite": ["'none'"], "postgresql": ["2147483647"]},
    "waits_with": {"sqlite": ["1"], "postgresql": ["1"]},
}
FOLLOWER_CASES = [
    (kind, column, value) for column, kinds in FOLLOWERS.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), FOLLOWER_CASES, indirect=["database"])
def test_an_end_whose_follower_is_broken_is_stored_and_other_runs_are_settled(batch: Careful, column: str, value: str):
    batch.server("AOS1", 2)
    bad = pair(batch, "BROKEN")
    batch.deliver()
    broken(batch.database, f"UPDATE batchq_task SET {column} = {value} WHERE run_id = {bad} AND name = 'B'")
    report_success(batch, bad)
    assert batch.states(bad)["A"] == "success"
    goes_on(batch)


EXECUTING = {
    "claimed_at": {"sqlite": ["'then'"], "postgresql": ["'infinity'"]},
    "retries": {"sqlite": ["'twice'"]},
    "attempt": {"sqlite": ["'third'"]},
    "token": {"sqlite": ["NULL", "CAST(x'ff' AS TEXT)"], "postgresql": ["NULL"]},
    "epoch": {"sqlite": ["'x'", "NULL"], "postgresql": ["NULL", "99"]},
    "server_id": {"sqlite": ["'x'", "NULL", "77"], "postgresql": ["NULL", "77"]},
    "group_name": {"sqlite": ["CAST(x'ff' AS TEXT)", "'nobody'"]},
}
EXECUTING_CASES = [
    (kind, column, value) for column, kinds in EXECUTING.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), EXECUTING_CASES, indirect=["database"])
def test_an_attempt_that_somebody_broke_keeps_no_server_from_being_lost_and_begun_anew(
    batch: Careful, column: str, value: str
):
    batch.server("AOS1", 2)
    bad = pair(batch, "BROKEN")
    other = pair(batch, "BESIDE")
    batch.deliver()
    broken(batch.database, f"UPDATE batchq_task SET {column} = {value} WHERE run_id = {bad} AND name = 'A'")
    assert batch.lose("AOS1")
    batch.live("AOS1")
    assert batch.states(other)["A"] == "error"
    goes_on(batch)


RUNS = {
    "submitted_at": {"sqlite": ["'once'"], "postgresql": ["'infinity'"]},
    "started_at": {"sqlite": ["'once'"], "postgresql": ["'infinity'"]},
    "open_tasks": {"sqlite": ["'many'", "0"], "postgresql": ["0"]},
    "job": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"]},
    "company": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"]},
    "status": {"sqlite": ["'storing'", "'error'"], "postgresql": ["'storing'", "'error'"]},
}
RUN_CASES = [
    (kind, column, value) for column, kinds in RUNS.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), RUN_CASES, indirect=["database"])
def test_a_run_that_somebody_broke_holds_up_no_other(batch: Careful, column: str, value: str):
    batch.server("AOS1", 2)
    bad = pair(batch, "BROKEN")
    batch.deliver()
    broken(batch.database, f"UPDATE batchq_run SET {column} = {value} WHERE id = {bad}")
    report_success(batch, bad)
    goes_on(batch)


# --- servers, windows, groups ---------------------------------------------------------------------------------

SERVERS = {
    "threads": {"sqlite": ["'many'", "x'ff'"], "postgresql": ["2147483647"]},
    "pool": {"sqlite": ["'many'", "x'ff'"], "postgresql": ["-1"]},
    "name": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"]},
    "beat_at": {"sqlite": ["'now'"], "postgresql": ["'infinity'"]},
    "started_at": {"sqlite": ["'now'"], "postgresql": ["'infinity'"]},
    "enabled": {"sqlite": ["'maybe'"]},
    "epoch": {"sqlite": ["'x'"], "postgresql": ["2147483647"]},
    "beat": {"sqlite": ["'x'"]},
    "host": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"]},
    "life": {"sqlite": ["'{'", "CAST(x'ff' AS TEXT)"], "postgresql": ["'{'"]},
    "pid": {"sqlite": ["'x'"]},
}
SERVER_CASES = [
    (kind, column, value) for column, kinds in SERVERS.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), SERVER_CASES, indirect=["database"])
def test_a_server_that_somebody_broke_holds_up_no_other(batch: Careful, column: str, value: str):
    batch.server("AOS1")
    bad = batch.server("AOS2").server
    broken(batch.database, f"UPDATE batchq_server SET {column} = {value} WHERE id = {bad}")
    broken(batch.database, "UPDATE batchq_dispatch SET topology = topology + 1")
    batch.workers.pop("AOS2")
    if column not in ("epoch", "threads", "pool") or value.startswith(("'", "x")):
        said = told(batch.database)
        assert "cannot be" in said
        assert "AOS2" in said or "batchq_server" in said
    goes_on(batch)


WINDOWS = {
    "timezone": {"sqlite": ["'Nowhere/Land'", "''", "x'ff'", "CAST(x'ff' AS TEXT)", "7"], "postgresql": ["'x'", "''"]},
    "start": {"sqlite": ["'25:00'", "x'ff'", "CAST(x'ff' AS TEXT)", "''"], "postgresql": ["'25:00'", "''"]},
    '"end"': {"sqlite": ["'noon'"], "postgresql": ["'noon'"]},
    "threads": {"sqlite": ["'many'", "x'ff'", "1.5"], "postgresql": ["2147483647"]},
    "days": {"sqlite": ["'mon;tue'", "x'ff'", "''"], "postgresql": ["'someday'"]},
    '"only"': {"sqlite": ["'today'", "x'ff'", "'0001-01-01'"], "postgresql": ["'infinity'", "'0001-01-01 BC'"]},
    "server_id": {},
}
WINDOW_CASES = [
    (kind, column, value) for column, kinds in WINDOWS.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), WINDOW_CASES, indirect=["database"])
def test_a_window_that_somebody_broke_stops_no_dispatch_and_is_told(batch: Careful, column: str, value: str):
    batch.server("AOS1")
    batch.server("AOS2", windows=[Window(time(8), time(18), 3, "Europe/Oslo")])
    broken(batch.database, f"UPDATE batchq_window SET {column} = {value}")
    broken(batch.database, "UPDATE batchq_dispatch SET topology = topology + 1")
    batch.workers.pop("AOS2")
    if value not in ("2147483647", "''", "'0001-01-01'"):
        assert "Server AOS2 has" in told(batch.database)
    goes_on(batch)


GROUPS = {
    "priority": {"sqlite": ["'urgent'", "x'ff'", "99"], "postgresql": ["99"]},
    "paused": {"sqlite": ["'maybe'"]},
    "name": {"sqlite": ["x'ff'", "CAST(x'ff' AS TEXT)"], "postgresql": ["''"]},
}
GROUP_CASES = [
    (kind, column, value) for column, kinds in GROUPS.items() for kind, values in kinds.items() for value in values
]


@pytest.mark.parametrize(("database", "column", "value"), GROUP_CASES, indirect=["database"])
def test_a_group_that_somebody_broke_holds_up_no_other(batch: Careful, column: str, value: str):
    batch.server("AOS1")
    batch.database.run(lambda tx: name_groups(tx, ["ODD"]))
    job = Job("ODD")
    job.task("A", "demo.work", group="ODD")
    batch.submit(job)
    broken(batch.database, f"UPDATE batchq_group SET {column} = {value} WHERE name = 'ODD'")
    broken(batch.database, "UPDATE batchq_dispatch SET topology = topology + 1")
    goes_on(batch)
