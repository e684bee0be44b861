"""The database: how it is opened, how a transaction begins, is repeated, and how its clock is read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from batchq import clock
from batchq.config import masked
from batchq.core.affinity import Topology
from batchq.errors import DatabaseUnreachable, InvalidInput

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL: serialization failure, deadlock detected, lock not available.
REPEATABLE = {"40001", "40P01", "55P03"}


class Database:
    """One database; opened on first use, so that nothing connects at import or before a fork.

    `patience` is how long a writer waits for another one, in seconds (SQLite's lock, PostgreSQL's lock_timeout).
    """

    def __init__(self, url: str, *, patience: float = 10.0) -> None:
        self.url = _parse(url)
        self.patience = patience
        self.topology = Topology(())
        self._engine: Engine | None = None

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.get_backend_name()

    @property
    def embedded(self) -> bool:
        """Whether the database is a file that the process itself reads and writes."""
        return self.kind == "sqlite"

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = _sqlite(self.url, self.patience) if self.embedded else _postgresql(self.url, self.patience)
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception."""
        try:
            with (
                self.reachable(),
                self.engine.connect() as connection,
                connection.execution_options(batchq_writes=True).begin(),
            ):
                yield connection
        except BaseException:
            # What this transaction saw of its own changes never came true.
            self.topology = Topology(())
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, one moment of the database."""
        with self.reachable(), self.engine.connect() as connection:
            if not self.embedded:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def run(self, act: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `act(tx, …)` in a writing transaction, again from the start when the database broke a deadlock."""
        for _ in range(9):
            try:
                with self.write() as tx:
                    return act(tx, *args, **kwargs)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in REPEATABLE:
                    raise
        with self.write() as tx:
            return act(tx, *args, **kwargs)

    def now(self, tx: Connection) -> datetime:
        """The instant that counts: PostgreSQL's clock, or for SQLite this machine's (rule 20)."""
        if self.embedded:
            return clock.now()
        instant: datetime = tx.execute(_CLOCK).scalar_one()
        return clock.clock().show(instant.astimezone(UTC))

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn a database that cannot be had into the sentence that says so."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            if getattr(error.orig, "sqlstate", None) in REPEATABLE:
                raise
            raise DatabaseUnreachable(url=masked(str(self.url)), reason=_reason(error)) from error

    def dispose(self) -> None:
        """Close all connections; the database opens again on next use."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


_CLOCK = text("SELECT clock_timestamp()")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidInput(
            f"The database URL {masked(url)} cannot be used ({_reason(error)}). "
            "Use sqlite:///path/to/file.db or postgresql+psycopg://user@host/name."
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInput(
            f"The database {masked(url)} is neither SQLite nor PostgreSQL, the two that batchq works on."
        )
    return parsed


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")


def _sqlite(url: URL, patience: float) -> Engine:
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DatabaseUnreachable(url=masked(str(url)), reason=error.strerror) from error
    engine = create_engine(url, connect_args={"timeout": patience, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        # The driver must not begin transactions by itself: a read that turns into a write fails at once.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if url.database and url.database != ":memory:":
            Path(url.database).chmod(0o600)

    @event.listens_for(engine, "begin")
    def begin(tx: Connection) -> None:
        # A writer takes the lock at once; a reader that asked for it later would fail, however patient.
        writes = tx.get_execution_options().get("batchq_writes")
        tx.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL, patience: float) -> Engine:
    options = f"-c lock_timeout={int(patience * 1000)} -c TimeZone=UTC"
    return create_engine(
        url,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(2, int(patience)),
            "options": options,
            "application_name": "batchq",
        },
    )
