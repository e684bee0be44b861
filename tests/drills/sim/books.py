"""One database in memory for every process of the simulation, with a journal of what each commit changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError

from batchq.core.topology import Topology
from batchq.errors import BatchqError, DatabaseUnreachable
from batchq.store import schema
from batchq.store.database import Database

URL = "sqlite:///:memory:"

# What triggers write down belongs to the transaction: a commit that failed leaves no trace here either.
WATCHED = {
    "batchq_task": (
        "task",
        "id, status, token, attempt, server_id, epoch, claimed_at, ready_at, lane, own_class, accepted, unsettled",
        "old.status IS NOT new.status OR old.token IS NOT new.token OR old.attempt IS NOT new.attempt "
        "OR old.ready_at IS NOT new.ready_at OR old.lane IS NOT new.lane OR old.own_class IS NOT new.own_class "
        "OR old.accepted IS NOT new.accepted OR old.unsettled IS NOT new.unsettled",
    ),
    "batchq_run": (
        "run",
        "id, status, open_tasks, held, retry",
        "old.status IS NOT new.status OR old.held IS NOT new.held OR old.retry IS NOT new.retry",
    ),
    "batchq_limit": ("limit", "name, units", "1"),
    "batchq_audit": ("audit", "what, kind, name", "0"),
    "batchq_server": (
        "server",
        "id, name, threads, enabled, liveness, epoch, pool, beat, override_threads, override_until",
        "old.threads IS NOT new.threads OR old.enabled IS NOT new.enabled OR old.liveness IS NOT new.liveness "
        "OR old.epoch IS NOT new.epoch OR old.pool IS NOT new.pool OR old.beat IS NOT new.beat "
        "OR old.override_threads IS NOT new.override_threads OR old.override_until IS NOT new.override_until",
    ),
    "batchq_group": (
        "group",
        "name, paused, per_run",
        "old.paused IS NOT new.paused OR old.per_run IS NOT new.per_run",
    ),
    "batchq_server_group": ("binding", "server_id, group_name", "0"),
    "batchq_window": ("window", "id, server_id, start, end, threads, timezone", "0"),
    "batchq_attempt": ("attempt", "task_id, attempt, server, epoch, status, error, reason", "1"),
}
COLUMNS = "abcdefghijkl"
# What is refused in whatever an outcome says, and in the reason of the refusal.
POISON = "poison"
REFUSES = {"batchq_task": "BEFORE UPDATE OF result, error", "batchq_attempt": "BEFORE INSERT"}
SAID = {"batchq_task": ("result", "error"), "batchq_attempt": ("error", "log")}


def _triggers() -> Iterator[str]:
    yield f"CREATE TABLE journal (number INTEGER PRIMARY KEY, kind TEXT, {', '.join(COLUMNS)})"
    for table, (kind, columns, changed) in WATCHED.items():
        for event, row, when in (("INSERT", "new", "1"), ("UPDATE", "new", changed), ("DELETE", "old", "1")):
            if when == "0":
                continue
            named = columns.split(", ")
            targets = ", ".join(COLUMNS[: len(named)])
            values = ", ".join(f"{row}.{name}" for name in named)
            word = f"no {kind}" if event == "DELETE" else kind
            yield (
                f"CREATE TRIGGER journal_{kind}_{event} AFTER {event} ON {table} WHEN {when} "
                f"BEGIN INSERT INTO journal (kind, {targets}) VALUES ('{word}', {values}); END"
            )


def _refusals() -> Iterator[str]:
    """The database refuses what says the poisonous word, as one does whose encoding lacks a character of it."""
    for table, event in REFUSES.items():
        says = " OR ".join(f"instr(new.{column}, '{POISON}')" for column in SAID[table])
        yield (
            f"CREATE TRIGGER refuse_{table} {event} ON {table} WHEN {says} "
            f"BEGIN SELECT RAISE(ABORT, 'refused by its content'); END"
        )


class Shared(Database):
    """The database itself, by the clock of the world that uses it."""

    wall: Callable[[], datetime] | None = None

    def clock(self, tx: Connection) -> datetime:
        return self.wall() if self.wall is not None else super().clock(tx)


@cache
def _base() -> tuple[Shared, sqlite3.Connection]:
    """The one database that all seeds use in turn, and what it looks like when empty."""
    database = Shared(URL)
    schema.upgrade(database)
    own = driver(database)
    for statement in (*_triggers(), *_refusals()):
        own.execute(statement)
    empty = sqlite3.connect(":memory:")
    own.backup(empty)
    return database, empty


def driver(database: Database) -> sqlite3.Connection:
    """The driver's own connection to the database in memory, the same one for all."""
    with database.engine.connect() as connection:
        found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def emptied(wall: Callable[[], datetime]) -> Database:
    """The database in memory, as empty as a new one, by this clock."""
    database, empty = _base()
    database.wall = wall
    empty.backup(driver(database))
    return database


class Surroundings(Protocol):
    """What the world does around a transaction."""

    commits: int
    mono: float

    def wall(self) -> datetime: ...

    def boundary(self, actor: Any) -> None: ...

    def fate(self, actor: Any) -> str | None: ...

    def die(self, actor: Any) -> None: ...

    def surprise(self, actor: Any, error: BaseException) -> None: ...


class _Deadlock(Exception):
    """The driver's error when PostgreSQL broke a deadlock."""

    sqlstate = "40P01"


class Books(Database):
    """The database as one thread of one process has it: its own picture of the servers, and its own bad luck."""

    def __init__(self, shared: Database, world: Surroundings, actor: Any) -> None:
        super().__init__(URL)
        self._engine = shared.engine
        self._world = world
        self._actor = actor

    def clock(self, tx: Connection) -> datetime:
        return self._world.wall()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with super().read() as tx:
            yield tx
        # What was read is old news by the time it is acted upon.
        self._world.boundary(self._actor)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        world, actor = self._world, self._actor
        world.boundary(actor)
        fate = world.fate(actor)
        if fate == "refused":
            raise self._away("refused")
        try:
            with super().write() as tx:
                yield tx
                self._sign(tx)
                self._before_commit(fate)
        except (BatchqError, OperationalError):
            raise
        except IntegrityError as error:
            if "refused by its content" not in str(error.orig):
                world.surprise(actor, error)
            raise
        except Exception as error:
            world.surprise(actor, error)
            raise
        world.commits += 1
        if fate == "dies after":
            world.die(actor)
        if fate == "reply lost":
            self.topology = Topology(())
            raise self._away("the reply was lost")
        world.boundary(actor)

    def _sign(self, tx: Connection) -> None:
        """End the transaction's part of the journal with when it was, and whose."""
        world = self._world
        values = (world.commits + 1, world.mono, world.wall().isoformat(), str(self._actor))
        own: Any = tx.connection.driver_connection
        own.execute("INSERT INTO journal (kind, a, b, c, d) VALUES ('commit', ?, ?, ?, ?)", values)

    def _before_commit(self, fate: str | None) -> None:
        if fate == "dies before":
            self._world.die(self._actor)
        if fate == "fails":
            raise OperationalError("COMMIT", None, Exception("the commit failed"))
        if fate == "deadlock":
            raise OperationalError("COMMIT", None, _Deadlock())

    def _away(self, reason: str) -> DatabaseUnreachable:
        return DatabaseUnreachable(url=URL, reason=reason)
