"""The database: how it is opened, how a transaction begins, is repeated, and how its clock is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, DateTime, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    InvalidRequestError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
)

from batchq import clock
from batchq.config import masked
from batchq.core.topology import Topology
from batchq.errors import (
    BatchqError,
    DatabaseDamaged,
    DatabaseLost,
    DatabaseRefuses,
    DatabaseUnreachable,
    InvalidInput,
)
from batchq.store import sqlite
from batchq.store.sqlite import BEGIN
from batchq.store.statement import Statement, forget, send

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL: serialization failure, deadlock detected, lock not available.
REPEATABLE = {"40001", "40P01", "55P03"}
# So long a PostgreSQL may say nothing: longer than anybody waits for a lock there, or for a slow disk.
ANSWER_SECONDS = 6.0
# It ended a session in which a transaction stood still, or took longer than somebody allows.
SILENT = ("25P03", "25P04")
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

# Classes of PostgreSQL's SQLSTATE by which it speaks of itself, of a session or of its tables. All others are about
# what is stored there, or was to be, also those that somebody's trigger made up.
_SESSION = "01 02 03 08 09 0B 0F 0L 0P 24 25 26 27 28 2B 2D 34 3B 3D 3F 40 42 53 55 57 58 72 F0 HV"
STATES = frozenset(_SESSION.split())
NO_TEXT = "Could not decode to UTF-8"
# What SQLite says of contents, where it has no other word for it than for anything that goes wrong.
CONTENT_WORDS = (NO_TEXT, "malformed JSON", "integer overflow", "too big", "JSON path")
REASON_CHARACTERS = 300

# Not a part of it is told: it may be one of the password.
MANGLED = "The database URL cannot be read. In its password, write @ as %40, / as %2F and : as %3A."


class Database:
    """One database; opened on first use, so that nothing connects at import or before a fork.

    `patience` is how long a writer waits for another one, in seconds (SQLite's lock, PostgreSQL's lock_timeout).
    `answer` is how long PostgreSQL may say nothing before it counts as away, in seconds.
    `name` is what PostgreSQL shows of this process in pg_stat_activity.
    """

    def __init__(
        self, url: str, *, patience: float = 10.0, answer: float = ANSWER_SECONDS, name: str = "batchq"
    ) -> None:
        self.url = _parse(url)
        self.patience = patience
        self.answer = answer
        self.name = name
        self.topology = Topology(())
        self.has_tables = False  # whether our tables have been seen there
        self._bears_garbage = False  # whether bytes that are no text have been met there
        # Why no waiting helps any more: the file is damaged, or not there any more.
        self.lost: DatabaseDamaged | None = None
        self._file = sqlite.File(self.url)
        self._engine: Engine | None = None
        # The connection on which this process writes, and who does.
        self._kept: Connection | None = None
        self._writes = Lock()

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
                else _postgresql(self.url, self.patience, self.answer, self.name)
            )
            if self.embedded:
                event.listen(self._engine, "begin", self._bear_garbage)
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception."""
        try:
            with self.reachable(), self._writer() as tx:
                yield tx
        except BaseException:
            # What this transaction saw of its own changes never came true.
            self.topology = Topology(())
            raise

    @contextmanager
    def _writer(self) -> Iterator[Connection]:
        """A writing transaction, on the connection that is kept for them unless another thread is using it."""
        if not self._writes.acquire(blocking=False):
            with self.engine.connect() as tx, tx.execution_options(batchq_writes=True).begin():
                yield tx
                send(tx, commit=True)
            return
        try:
            tx = self._begun()
            yield tx
            self._commit(tx)
        except BaseException:
            self._let_go()
            raise
        finally:
            self._writes.release()

    # SQLAlchemy's own beginning and end of a transaction would be a third of a short commit. It still begins one by
    # itself when a statement is given to it, inside of what the driver has begun, and then ends it.

    def _begun(self) -> Connection:
        if self._kept is not None and not self.embedded and not self._driver(self._kept).is_well():
            self._let_go()
        if self._kept is None:
            self._kept = self.engine.connect().execution_options(batchq_writes=True)
        if self.embedded:
            self._bear_garbage(self._kept)
            with _as_sqlalchemys(self._kept, BEGIN):
                self._driver(self._kept).execute(BEGIN)
        return self._kept

    def _commit(self, tx: Connection) -> None:
        send(tx, commit=True)
        driver = self._driver(tx)
        if tx.in_transaction():
            tx.commit()
        elif self.embedded or driver.pgconn.transaction_status:
            with _as_sqlalchemys(tx, "COMMIT"):
                driver.commit()
        if not self.embedded:
            driver.rest()

    @staticmethod
    def _driver(tx: Connection) -> Any:
        return tx.connection.driver_connection

    def _let_go(self) -> None:
        """Give back the connection that is kept, with whatever is under way there."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        with suppress(Exception):
            if self.embedded:
                # A database in memory has one connection for all, which no pool takes back.
                self._driver(kept).rollback()
            kept.close()

    def _renew(self) -> None:
        """Have every connection opened anew at its next use."""
        if self._writes.acquire(blocking=False):
            self._let_go()
            self._writes.release()
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, one moment of the database."""
        with self.reachable(), self.engine.connect() as connection:
            if not self.embedded:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                if not self.embedded:
                    connection.execute(ALL_WAYS)
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
                if _sqlstate(error) not in REPEATABLE and not _no_text(error):
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
        except PendingRollbackError as error:
            raise DatabaseUnreachable(url=masked(str(self.url)), reason="the connection was lost") from error
        except DBAPIError as error:
            self._bears_garbage = self._bears_garbage or (self.embedded and _no_text(error))
            if _sqlstate(error) in REPEATABLE or of_content(error):
                raise
            url, reason = masked(str(self.url)), _reason(error)
            if self.embedded and (advice := sqlite.advice(error, reason)):
                if not sqlite.is_lasting(error):
                    raise DatabaseRefuses(url=url, reason=reason, advice=advice) from error
                self.lost = DatabaseDamaged(url=url, reason=reason, advice=advice)
                raise self.lost from error
            if advice := _advice(_sqlstate(error), reason):
                raise DatabaseRefuses(url=url, reason=_refusal(reason), advice=advice) from error
            if not isinstance(error, (OperationalError, InterfaceError)) and _sqlstate(error) not in SILENT:
                raise
            if not self.embedded:
                # The others are hardly better off, and each would be waited for by itself.
                self._renew()
            raise DatabaseUnreachable(url=url, reason=reason) from error

    def _bear_garbage(self, tx: Connection) -> None:
        """Once bytes were met that are no text, which SQLite holds all the same, let them not be read as an error."""
        if self._bears_garbage:
            driver: Any = tx.connection.driver_connection
            driver.text_factory = _shown

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
        self._let_go()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


# Ways to read and to join that writers do without, and readers need.
WAYS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
ALL_WAYS = select(*(func.set_config(way, "on", True) for way in WAYS))
_CLOCK = Statement(select(func.clock_timestamp(type_=DateTime(timezone=True)).label("now")))


@contextmanager
def _as_sqlalchemys(tx: Connection, statement: str) -> Iterator[None]:
    """Raise SQLAlchemy's errors for those of the driver, which is asked past it."""
    base = tx.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(statement, None, error, base, dialect=tx.dialect) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        said = str(error).replace(url, masked(url)).strip().splitlines()[0].rstrip(".")
        raise InvalidInput(
            f"The database URL {masked(url)} cannot be used ({said}). "
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
    if parsed.get_backend_name() == "postgresql":
        _refuse_without_driver(masked(url))
    return parsed


def _refuse_without_driver(shown: str) -> None:
    """Raise InvalidInput where psycopg is not installed, or finds no library of PostgreSQL's to work with."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise InvalidInput(
            f"The database {shown} needs the driver psycopg, which cannot be imported ({reason}): "
            "pip install 'celery-batchq[postgres]'."
        ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _no_text(error: DBAPIError) -> bool:
    return NO_TEXT in str(error.orig)


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")


def of_content(error: BaseException) -> bool:
    """Whether it is what is stored, or was to be, that fails: it would fail again, and for nobody else.

    Not so for a database that is away, or refuses whatever it is asked, and for tables of another schema.
    """
    if not isinstance(error, Exception) or isinstance(error, (BatchqError, OSError, MemoryError)):
        return False
    if not isinstance(error, DBAPIError):
        return not isinstance(error, InvalidRequestError)  # what SQLAlchemy says of a connection that was lost
    if error.connection_invalidated:
        return False
    state = _sqlstate(error)
    if state is not None:
        return state[:2] not in STATES
    if isinstance(error, OperationalError):
        return any(words in str(error.orig) for words in CONTENT_WORDS)
    return isinstance(error, (DataError, IntegrityError)) or "binding parameter" in str(error.orig)


def why(error: BaseException) -> str:
    """The reason of an error in a line that every database can hold."""
    cause = getattr(error, "orig", None) or error
    words = str(cause).strip().splitlines() or [""]
    said = f"{type(cause).__name__}: {words[0]}" if not isinstance(error, DBAPIError) else words[0]
    return said[:REASON_CHARACTERS].encode("ascii", "backslashreplace").decode().replace("\0", "\\x00").rstrip(".: ")


def _advice(state: str | None, reason: str) -> str | None:
    """What helps against a refusal; None if it is none that we know."""
    if state is not None:
        return REFUSALS.get(state)
    words = _refusal(reason)
    return next((advice for key, advice in REFUSALS.items() if key in words), None)


def _refusal(reason: str) -> str:
    """The server's own words, without those of the driver that could not connect."""
    return reason.rpartition(" failed: ")[2].removeprefix("FATAL:  ")


def _postgresql(url: URL, patience: float, answer: float, name: str) -> Engine:
    from batchq.store import session  # its driver is there only where it is wanted

    engine = create_engine(url, hide_parameters=True, connect_args=session.settings(url, patience, answer, name))

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, args: Any, options: Any) -> Any:
        return session.connect(masked(str(url)), answer, *args, **options)

    @event.listens_for(engine, "checkout")
    def replace(driver: Any, *_: Any) -> None:
        if not driver.is_well():
            raise DisconnectionError

    @event.listens_for(engine, "checkin")
    def rest(driver: Any, record: Any) -> None:
        # What a transaction left that was broken off must not reach the next one.
        forget(record)
        if driver is not None:
            driver.rest()

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "before_cursor_execute")
    def first(tx: Connection, *_: Any) -> None:
        # What SQLAlchemy does itself comes after the statements that wait.
        send(tx)

    return engine
