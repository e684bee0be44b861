"""Limits cost nothing where a commit meets none: it sends the statements that it sent before there were limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event

from batchq import actions
from batchq.spec import Job
from batchq.store.sql.statement import Statement
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
# How many statements each commit sent to SQLite and to PostgreSQL, as counted before there were limits.
BEFORE = {
    "a report, and a ready task starts": (10, 12),
    "a report, and the task that follows it starts": (11, 13),
    "a report, and nothing is left to start": (11, 13),
    "a claim by a ticket": (6, 6),
    "a submit": (14, 15),
}


class Sent(list[str]):
    """The statements that are sent, and those of one act."""

    def of(self, act: Callable[[], object]) -> list[str]:
        self.clear()
        act()
        return list(self)


@pytest.fixture
def sent(database: Clocked, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """The statements on their way to the database: compiled ones, and those that SQLAlchemy makes."""
    sent, later = Sent(), Statement.later

    def see(self: Statement[Any], tx: Any, *args: Any, **values: object) -> object:
        sent.append(self.form(tx).sql)
        return later(self, tx, *args, **values)

    def keep(tx: Any, cursor: Any, statement: str, *_: object) -> None:
        sent.append(statement)

    monkeypatch.setattr(Statement, "later", see)
    event.listen(database.engine, "before_cursor_execute", keep)
    yield sent
    event.remove(database.engine, "before_cursor_execute", keep)


def wide() -> Job:
    job = Job("WIDE")
    for number in range(4):
        job.task(f"T{number}", "demo.work")
    return job


def commits(batch: Play, sent: Sent) -> dict[str, list[str]]:
    """The statements of each kind of commit, by a process that has seen such a commit before."""
    chain = Job("CHAIN")
    chain.task("LAST", "demo.work", after=chain.task("FIRST", "demo.work"))

    def play(job: Job, kinds: list[str]) -> dict[str, list[str]]:
        first = "a submit", sent.of(lambda: batch.submit(job))
        found = dict([first, ("a claim by a ticket", sent.of(batch.deliver))])
        for kind in kinds:
            found[kind] = sent.of(lambda: batch.finish(batch.executing()[0]))
        return found

    starts, follows, ends = list(BEFORE)[:3]
    for _ in range(2):
        found = play(chain, [follows, ends]) | play(wide(), [starts] * 3 + [ends])
    return found


def test_a_commit_that_meets_no_limit_sends_no_statement_more_than_before_there_were_limits(
    database: Clocked, sent: Sent
):
    database.instant = NOON
    batch = Play(database)
    batch.server("AOS1", 1)
    without = commits(batch, sent)
    assert not [sql for statements in without.values() for sql in statements if "batchq_limit" in sql]
    kind = ("sqlite", "postgresql").index(database.kind)
    assert {name: max(len(each), BEFORE[name][kind]) for name, each in without.items()} == {
        name: most[kind] for name, most in BEFORE.items()
    }
    actions.set_limit(database, "licence", 1)
    assert commits(batch, sent) == without
