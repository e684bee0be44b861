"""Aborts that remote control asks for: they are marked in SQL as soon as that can be reached (rule 32)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from batchq import views
from batchq.core.aborting import FAST, unfit_pool
from batchq.errors import DatabaseUnreachable
from batchq.server import pool
from batchq.server.aborting import Aborts
from batchq.store import moves
from batchq.store.database import Database
from stage import Stage


@pytest.fixture
def attempt(stage: Stage) -> tuple[int, str]:
    """TASK 1 of JOB 1, which executes: its id, and the token of its attempt."""
    stage.server("AOS1")
    stage.submit()
    stage.start("AOS1")
    (row,) = on_server(stage)
    return row.id, row.token


def on_server(stage: Stage) -> list[moves.Executing]:
    with stage.database.read() as tx:
        return moves.executing_on(tx, stage.lives["AOS1"].server)


def test_an_attempt_that_was_asked_for_is_marked_once_and_its_server_reads_the_mark(
    stage: Stage, attempt: tuple[int, str]
) -> None:
    aborts = Aborts()
    for _ in range(2):
        aborts.ask(*attempt)
    assert [row.abort for row in on_server(stage)] == [False]
    aborts.mark(stage.database)
    assert [row.abort for row in on_server(stage)] == [True]
    with stage.database.read() as tx:
        (line,) = views.audit_lines(tx)
    assert (line["what"], line["who"], line["by"], line["name"]) == ("abort", "remote control", "page", "1 / TASK 1")


def test_an_attempt_that_has_ended_meanwhile_is_told_and_forgotten(
    stage: Stage, attempt: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    aborts = Aborts()
    aborts.ask(*attempt)
    aborts.ask(attempt[0] + (7 << 20), "of a run that is gone")
    stage.end("TASK 1")
    with caplog.at_level(logging.WARNING, "batchq"):
        aborts.mark(stage.database)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "TASK 1 of run 1 is not aborted: it (Ended) has ended already."
    assert said[1].startswith("No run 8.")
    with stage.database.read() as tx:
        assert views.audit_lines(tx) == []


def test_while_the_database_is_away_nothing_that_was_asked_for_is_forgotten(
    stage: Stage, attempt: tuple[int, str]
) -> None:
    aborts = Aborts()
    aborts.ask(*attempt)
    with pytest.raises(DatabaseUnreachable):
        aborts.mark(Database("postgresql+psycopg://me@127.0.0.1:1/none"))
    aborts.mark(stage.database)
    assert [row.abort for row in on_server(stage)] == [True]


def test_the_loop_is_called_only_if_there_is_something_to_stop() -> None:
    called: list[Callable[[], object]] = []
    aborts = Aborts(called.append)
    aborts.find(())
    assert called == []
    aborts.find(["a token of an attempt that is not here"])
    (stop,) = called
    stop()


@pytest.mark.parametrize(
    ("kind", "optimization", "stored"),
    [("prefork", None, "prefork"), ("prefork", "fair", "prefork"), ("prefork", "default", "prefork"),
     ("prefork", "fast", FAST), ("prefork", "fcfs", FAST), ("threads", "fast", "threads")],
)  # fmt: skip
def test_the_kind_of_a_pool_tells_whether_its_tasks_can_be_aborted(
    kind: str, optimization: str | None, stored: str
) -> None:
    assert pool.told(kind, optimization) == stored
    assert (unfit_pool(stored, "AOS1") is None) is (stored == "prefork")
