"""Outcomes that the database refuses: each alone is stored with less, as what it was (rule 9a), and none holds up
another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from test_ledger import Broker, Loop, Message

from batchq import aside
from batchq.config import Settings
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import Offer, Report
from batchq.server.ledger import Ledger
from batchq.server.surroundings import Arrival, Surroundings
from batchq.store import trouble
from batchq.store.columns import TASK
from batchq.store.database import Database
from batchq.store.tables import AttemptRow
from stage import Stage

WIDE = "job: WIDE\ntasks:\n" + "\n".join(f"  T{n}: {{run: demo.work}}" for n in range(12))
ATTEMPT = AttemptRow.__table__.c  # type: ignore[attr-defined]


@pytest.fixture(params=["sqlite_url", "fresh_postgresql_url"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the test's own, in which it may make triggers."""
    database = Database(request.getfixturevalue(request.param))
    yield database
    database.dispose()


class Books:
    """A server of eight threads that runs eight tasks, with its ledger."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stage = Stage(database)
        life = self.stage.server("AOS1", 8)
        assert life is not None
        self.loop, self.started = Loop(), {}
        self.ledger = Ledger(life, Surroundings(database, Settings(), Broker(), self.loop, self._start, pool=lambda: 8))
        self.run = self.stage.submit(WIDE)
        for ticket in self.stage.tickets.values():
            self.ledger.offer(Arrival(Offer(ticket.task, ticket.token, ticket.group), Message(), float("inf")))
        self.loop.turn()
        assert sorted(self.started) == [f"T{n}" for n in range(8)]

    def _start(self, arrival: Arrival, row: Any) -> None:
        self.started[row.name] = arrival, row

    def end(self, **outcomes: dict[str, Any]) -> None:
        """Let the first eight end in one commit, with these outcomes or a plain one."""
        for n in range(8):
            arrival, row = self.started.pop(f"T{n}")
            said = {"ok": True, "result": f"[{n}]", "log": f"log of {n}"} | outcomes.get(f"T{n}", {})
            end = Success(said["result"]) if said["ok"] else Failure(Reason.ERROR, said["error"])
            self.ledger.report(arrival, Report(row.id, row.token, end, said["log"]))
        self.loop.turn()

    def stored(self, name: str) -> dict[str, Any]:
        """What is stored of a task and its attempt."""
        columns = (TASK.status, TASK.result, TASK.error, ATTEMPT.log)
        statement = select(*columns).outerjoin(AttemptRow, ATTEMPT.task_id == TASK.id)
        with self.database.read() as tx:
            row = tx.execute(statement.where(TASK.run_id == self.run, TASK.name == name)).one()
        return dict(row._mapping)

    def refuse(self, when: str, table: str = "batchq_task", what: str = "UPDATE") -> None:
        """Have the database refuse rows of which this is true; NEW is the row."""
        with self.database.write() as tx:
            if self.database.kind == "sqlite":
                body = f"WHEN {when} BEGIN SELECT RAISE(ABORT, 'no poison here'); END"
                tx.execute(text(f"CREATE TRIGGER refuses BEFORE {what} ON {table} {body}"))
                return
            body = f"BEGIN IF {when} THEN RAISE EXCEPTION 'no poison here'; END IF; RETURN NEW; END"
            tx.execute(text(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"))
            each = f"ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
            tx.execute(text(f"CREATE TRIGGER refuses BEFORE {what} {each}"))

    def allow(self) -> None:
        with self.database.write() as tx:
            tx.execute(text("DROP TRIGGER refuses" + ("" if self.database.kind == "sqlite" else " ON batchq_task")))

    def assert_others_stand(self, *names: str) -> None:
        for n in range(8):
            if f"T{n}" not in names:
                plain = {"status": "success", "result": f"[{n}]", "error": None, "log": f"log of {n}"}
                assert self.stored(f"T{n}") == plain


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


LONE = "\ud800"


@pytest.mark.parametrize("field", ["result", "log"])
@pytest.mark.parametrize("poison", [LONE, f"before {LONE} after" * 1000, "NUL \0", 2**70, object()])
def test_of_eight_outcomes_one_that_no_database_can_hold_is_stored_without_its_words_and_seven_as_they_were(
    books: Books, field: str, poison: Any
):
    books.end(T3={field: poison})
    stored = books.stored("T3")
    assert stored["status"] == "success"
    assert stored["error"] is None
    if not (books.database.kind == "sqlite" and poison == "NUL \0"):  # which SQLite holds
        assert stored["result"] is None
        assert stored["log"].startswith("what it said was left out, as the database refuses it: ")
    books.assert_others_stand("T3")
    assert set(books.started) == {"T8", "T9", "T10", "T11"}
    assert books.ledger.idle


def test_an_error_whose_text_is_refused_stays_an_error_and_says_what_was_left_out(books: Books):
    books.end(T3={"ok": False, "error": f"ValueError: {LONE}", "result": None})
    stored = books.stored("T3")
    assert stored["status"] == "error"
    assert stored["error"].startswith("what it said was left out, as the database refuses it: ")
    assert (stored["result"], stored["log"]) == (None, None)
    books.assert_others_stand("T3")


def test_what_a_constraint_of_somebody_else_refuses_is_left_out_too(books: Books):
    books.refuse("NEW.result LIKE '%poison%'")
    books.end(T0={"result": '"poison"'}, T7={"result": '"poison"'})
    for name in ("T0", "T7"):
        stored = books.stored(name)
        assert (stored["status"], stored["result"]) == ("success", None)
        assert stored["log"] == "what it said was left out, as the database refuses it: no poison here"
    books.assert_others_stand("T0", "T7")


def test_a_success_that_is_refused_even_so_becomes_an_error_that_says_why(books: Books):
    books.refuse("NEW.status = 'success' AND NEW.name = 'T5'")
    books.end()
    stored = books.stored("T5")
    assert (stored["status"], stored["error"]) == (
        "error",
        "its outcome was refused by the database: no poison here",
    )
    books.assert_others_stand("T5")


def test_an_outcome_that_is_refused_in_every_form_waits_by_itself_is_told_and_stored_when_it_may(books: Books):
    books.refuse("NEW.name = 'T5'")
    books.end()
    assert books.stored("T5")["status"] == "executing"
    books.assert_others_stand("T5")
    assert set(books.started) == {"T8", "T9", "T10", "T11"}  # its thread is given to another
    assert not books.ledger.idle
    task = books.run << 20 | 5
    assert books.ledger.unstored() == [str(task)]
    with books.database.read() as tx:
        assert [(row.what, row.number, row.told_by, row.reason) for row in trouble.every(tx)] == [
            ("report", task, "AOS1", "no poison here")
        ]

    books.allow()
    deadline = time.monotonic() + 20
    while not books.ledger.idle:
        assert time.monotonic() < deadline
        books.ledger.look_again()
        books.loop.turn()
    assert books.stored("T5") == {"status": "success", "result": "[5]", "error": None, "log": "log of 5"}
    with books.database.write() as tx:
        tx.execute(text("UPDATE batchq_trouble SET again_at = since"))
    aside.try_again(books.database)
    with books.database.read() as tx:
        assert not trouble.every(tx)


def test_a_ticket_whose_claim_is_refused_is_set_aside_and_the_others_start(books: Books):
    books.refuse("NEW.name = 'T9' AND NEW.status = 'executing'")
    books.end()
    assert set(books.started) == {"T8", "T10", "T11"}
    books.assert_others_stand()
    with books.database.read() as tx:
        assert [(row.what, row.number) for row in trouble.every(tx)] == [("task", books.run << 20 | 9)]


@pytest.mark.parametrize("seed", range(5))
def test_whichever_outcomes_of_a_commit_are_poisoned_each_is_what_it_was_and_all_others_as_they_were(
    books: Books, seed: int
):
    chance = random.Random(seed)
    said: dict[str, dict[str, Any]] = {}
    for n in range(8):
        ok = chance.random() < 0.6
        said[f"T{n}"] = {"ok": ok, "result": f"[{n}]" if ok else None, "error": None if ok else f"error {n}"}
        if chance.random() < 0.4:
            said[f"T{n}"][chance.choice(["result" if ok else "error", "log"])] = LONE
    books.end(**said)
    for name, outcome in said.items():
        stored = books.stored(name)
        assert stored["status"] == ("success" if outcome["ok"] else "error")
        if LONE in outcome.values():
            assert "left out" in (stored["log"] if outcome["ok"] else stored["error"])
            assert stored["result"] is None
        else:
            assert (stored["result"], stored["error"]) == (outcome["result"], outcome["error"])
    assert books.ledger.idle
