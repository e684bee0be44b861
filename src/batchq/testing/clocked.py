"""A database whose clock stands still, and one in memory that is ready in a millisecond."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import Connection

from batchq import clock
from batchq.store import schema
from batchq.store.database import Database
from batchq.store.sql.statement import send

START = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday, at noon
MEMORY = "sqlite://"


class Clocked(Database):
    """A database whose clock may be set: it then stands still until somebody moves it."""

    instant: datetime | None = None

    def clock(self, tx: Connection) -> datetime:
        """The instant that was set, else the one by the database's own clock."""
        if self.instant is None:
            return super().clock(tx)
        send(tx)  # waiting statements run first, as they do before a database's own clock is read
        return self.instant

    @property
    def shown(self) -> datetime:
        """The instant that was set, else the one by this machine's clock."""
        return self.instant or clock.now()

    def later(self, **time: float) -> None:
        """Move a clock that was set: `later(seconds=5)`."""
        assert self.instant is not None
        self.instant += timedelta(**time)


def in_memory(instant: datetime) -> Clocked:
    """An empty database in memory, whose clock stands at `instant`; the caller disposes of it."""
    database = Clocked(MEMORY)
    database.instant = instant
    _driver_of(database).executescript(_schema())
    return database


@cache
def _schema() -> str:
    """The newest schema as a script: migrations take a hundred times as long, so they run once a process."""
    database = Database(MEMORY)
    schema.upgrade(database)
    script = "\n".join(_driver_of(database).iterdump())
    database.dispose()
    return script


def _driver_of(database: Database) -> sqlite3.Connection:
    """The only connection of a database in memory; it stays open when it is given back."""
    with closing(database.engine.raw_connection()) as connection:
        driver = connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver
