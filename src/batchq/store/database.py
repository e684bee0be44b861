"""The database: how it is opened, how a transaction begins, is repeated, and how its clock is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, DateTime, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from batchq import clock
from batchq.config import masked
from batchq.core.affinity import Topology
from batchq.errors import DatabaseDamaged, DatabaseLost, DatabaseRefuses, DatabaseUnreachable, InvalidInput
from batchq.store import sqlite
from batchq.store.prepared import Prepared, forget, send

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL: serialization failure, deadlock detected, lock not available.
REPEATABLE = {"40001", "40P01", "55P03"}
# PostgreSQL ends a transaction whose process says nothing for so long: a stopped one holds its locks no longer.
SILENT_SECONDS = 10
SILENT = "25P03"
CONTENDED = "Another session holds a lock for long: pg_stat_activity shows which. Try again later."
# What a PostgreSQL that answers may refuse, by its SQLSTATE, or by its words where it has none; and what helps.
REFUSALS = {
    "42501": "Grant its user what that needs, or act as the owner of the tables.",
    "42P01": "Run `batchq db upgrade`, or correct the search_path.",
    "3F000": "Create the schema, or correct the search_path.",
    "53100": "Free some room on its disk: what waits goes on by itself then.",
    "disk is full": "Free some room on its disk: what waits goes on by itself then.",
    "25006": "Set BATCHQ_DATABASE_URL to the primary, or wait until this one may write.",
    "permission denied": "Grant its user what that needs.",
    "password": "Correct the user or the password in BATCHQ_DATABASE_URL, or set PGPASSWORD.",
    'database "': "Create it with createdb, or correct its name in BATCHQ_DATABASE_URL.",
    'role "': "Create it with createuser, or correct the user in BATCHQ_DATABASE_URL.",
    "pg_hba.conf": "Allow this host and user there.",
    "too many": "Raise its max_connections, or start fewer processes.",
    "connection slots": "Raise its max_connections, or start fewer processes.",
}

# Ways to read and to join that writers do without.
WAYS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
_ALL_WAYS = select(*(func.set_config(way, "on", True) for way in WAYS))

# Not a part of it is told: it may be one of the password.
MANGLED = "The database URL cannot be read. In its password, write @ as %40, / as %2F and : as %3A."


class Database:
    """One database; opened on first use, so that nothing connects at import or before a fork.

    `patience` is how long a writer waits for another one, in seconds (SQLite's lock, PostgreSQL's lock_timeout).
    `name` is what PostgreSQL shows of this process in pg_stat_activity.
    """

    def __init__(self, url: str, *, patience: float = 10.0, name: str = "batchq") -> None:
        self.url = _parse(url)
        self.patience = patience
        self.name = name
        self.topology = Topology(())
        self.has_tables = False  # whether our tables have been seen there
        # Why no waiting helps any more: the file is damaged, or not there any more.
        self.lost: DatabaseDamaged | None = None
        self._file = sqlite.File(self.url)
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
            self._engine = (
                sqlite.opened(self.url, self.patience, self._file)
                if self.embedded
                else _postgresql(self.url, self.patience, self.name)
            )
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
                send(connection, commit=True)
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
                if not self.embedded:
                    connection.execute(_ALL_WAYS)
                yield connection

    def run(self, act: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `act(tx, …)` in a writing transaction, again from the start when the database broke a deadlock.

        Raises DatabaseRefuses after ten times.
        """
        for _ in range(10):
            try:
                with self.write() as tx:
                    return act(tx, *args, **kwargs)
            except DBAPIError as error:
                if _sqlstate(error) not in REPEATABLE:
                    raise
                last = error
        raise DatabaseRefuses(url=masked(str(self.url)), reason=_reason(last), advice=CONTENDED) from last

    def now(self, tx: Connection) -> datetime:
        """The instant that counts: PostgreSQL's clock, or for SQLite this machine's (rule 20)."""
        if self.embedded:
            return clock.now()
        ((instant,),) = _CLOCK(tx)
        return clock.clock().show(instant.astimezone(UTC))

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn a database that cannot be had, or refuses, into the sentence that says so."""
        try:
            yield
        except DatabaseLost as error:
            self.lost = error
            raise
        except DBAPIError as error:
            if _sqlstate(error) in REPEATABLE:
                raise
            url, reason = masked(str(self.url)), _reason(error)
            if self.embedded and (advice := sqlite.advice(error, reason)):
                if not sqlite.is_lasting(error):
                    raise DatabaseRefuses(url=url, reason=reason, advice=advice) from error
                self.lost = DatabaseDamaged(url=url, reason=reason, advice=advice)
                raise self.lost from error
            if advice := _advice(_sqlstate(error), reason):
                raise DatabaseRefuses(url=url, reason=_refusal(reason), advice=advice) from error
            if not isinstance(error, (OperationalError, InterfaceError)) and _sqlstate(error) != SILENT:
                raise
            raise DatabaseUnreachable(url=url, reason=reason) from error

    def check_file(self) -> None:
        """Raise DatabaseLost if SQLite's file was deleted or replaced since this process opened it."""
        if self.embedded:
            with self.reachable():
                self._file.check()

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for one in memory, and for PostgreSQL."""
        return self._file.path

    def dispose(self) -> None:
        """Close all connections; the database opens again on next use."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


_CLOCK = Prepared(select(func.clock_timestamp(type_=DateTime(timezone=True)).label("now")))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidInput(
            f"The database URL {masked(url)} cannot be used ({_reason(error)}). "
            "Use sqlite:///path/to/file.db or postgresql+psycopg://user@host/name."
        ) from None
    except ValueError:  # a port that is no number
        raise InvalidInput(MANGLED) from None
    if "@" in (parsed.host or ""):
        raise InvalidInput(MANGLED)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInput(
            f"The database {masked(url)} is neither SQLite nor PostgreSQL, the two that batchq works on."
        )
    return parsed


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _advice(state: str | None, reason: str) -> str | None:
    """What helps against a refusal; None if it is none that we know."""
    if state is not None:
        return REFUSALS.get(state)
    words = _refusal(reason)
    return next((advice for key, advice in REFUSALS.items() if key in words), None)


def _refusal(reason: str) -> str:
    """The server's own words, without those of the driver that could not connect."""
    return reason.rpartition(" failed: ")[2].removeprefix("FATAL:  ")


def _postgresql(url: URL, patience: float, name: str) -> Engine:
    from batchq.store import wire  # its driver is there only where it is wanted

    engine = create_engine(url, hide_parameters=True, connect_args=_session(url, patience, name))

    @event.listens_for(engine, "checkout")
    def replace(driver: Any, *_: Any) -> None:
        if wire.has_ended(driver):
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def begin(tx: Connection) -> None:
        # What a transaction left that was broken off must not reach the next one.
        forget(tx)

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "before_cursor_execute")
    def first(tx: Connection, *_: Any) -> None:
        # What SQLAlchemy does itself comes after the statements that wait.
        send(tx)

    return engine


def _session(url: URL, patience: float, name: str) -> dict[str, Any]:
    """How a session begins; what the URL, PGOPTIONS and PGAPPNAME say goes before."""
    settings = {
        "lock_timeout": int(patience * 1000),
        "idle_in_transaction_session_timeout": SILENT_SECONDS * 1000,
        "TimeZone": "UTC",
        # Every statement that is run often has its index. So one plan does for good, also while a table that was
        # empty grows: another way that was chosen for few rows would be kept until the next ANALYZE. And only who
        # walks an index marks its dead entries, so that the next one need not look at them again.
        **dict.fromkeys(WAYS, "off"),
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
    }
    ours = " ".join(f"-c {key}={value}" for key, value in settings.items())
    theirs = url.query.get("options") or os.environ.get("PGOPTIONS", "")
    values = {
        "fallback_application_name": name,
        # Its own prepared statements, and its DEALLOCATE ALL after a rollback, would get in the way of ours.
        "prepare_threshold": None,
        "connect_timeout": max(2, int(patience)),
        # A host that is gone without a word is noticed within 25 s, not after a quarter of an hour.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    given = {key: value for key, value in values.items() if key not in url.query}
    return given | {"options": " ".join([ours, *([theirs] if isinstance(theirs, str) else theirs)]).strip()}
