"""Two transactions at the same instant on PostgreSQL: one waits for a lock of the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from sqlalchemy import text

from batchq.store.database import Database
from batchq.store.transaction import Tx
from batchq.testing.clocked import Clocked

SECONDS = 30.0
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@contextmanager
def elsewhere(database: Database) -> Iterator[Tx]:
    """A transaction of another process, the first to fail in a deadlock; rolled back at the end if it is still open."""
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        with closing(Tx(other)) as tx:
            tx.execute(text("SET LOCAL deadlock_timeout = '1ms'"))
            yield tx
    finally:
        other.dispose()


@contextmanager
def meanwhile(database: Database, act: Callable[[], Any], waiting: int = 1) -> Iterator[list[Any]]:
    """Let `act` begin in a thread; the body runs once so many wait for a lock, and at the end it has ended.

    What it returned, or raised, is in the list then.
    """
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(act())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_locks(database, waiting)
    yield ended
    thread.join(SECONDS)
    assert ended, "it still waits"


def wait_for_locks(database: Database, number: int) -> None:
    """Return once so many connections to the database wait for a lock."""
    address = database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    deadline = time.monotonic() + SECONDS
    with psycopg.connect(address, autocommit=True) as connection:
        while connection.execute(WAITS).fetchone()[0] < number:
            assert time.monotonic() < deadline, "nobody waits for a lock"


def other_of(database: Clocked) -> Clocked:
    """The same database, for a thread of its own, with the same clock."""
    other = Clocked(database.url.render_as_string(hide_password=False))
    other.instant = database.instant
    return other
