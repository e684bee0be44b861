"""SQLite: how its file is opened, how statements and transactions run there, and what its refusals mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, literal
from sqlalchemy import Dialect as SQLAlchemys
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.types import JSON, Integer

from batchq import clock
from batchq.errors import DatabaseDamaged, DatabaseRefuses
from batchq.store.sql.driver import Fault, as_sqlalchemys, reason
from batchq.store.sql.each import AsJson, Each
from batchq.store.sql.file import MENDED, OPENED, File
from batchq.store.sql.forms import Form
from batchq.store.sql.untyped import AnyColumn, AnyType, Making

if TYPE_CHECKING:
    from batchq.store.sql.dialect import Access

ANOTHER = "Put back the file that belongs there, or set BATCHQ_DATABASE_URL to another one; then start again."
# Refusals of SQLite, by the name of the error, each with its advice.
REFUSALS = {
    "SQLITE_NOTADB": ANOTHER,
    "SQLITE_CORRUPT": MENDED,
    "SQLITE_CANTOPEN": OPENED,
    "SQLITE_PERM": OPENED,
    "SQLITE_READONLY": "Let this user write that file and its folder, or set BATCHQ_DATABASE_URL to another.",
    "SQLITE_IOERR_SHORT_READ": MENDED,
    "SQLITE_FULL": "Free some room on its disk: what waits goes on by itself then.",
    "SQLITE_IOERR": "Look whether its disk is well and has room; SQLite cannot work on a network's file system.",
}
# A schema that is not what its version says: a table or column that is missing, or of somebody else.
NOT_OURS = ("no such table", "no such column", "has no column", "already exists", "may not be modified")
NOT_OURS_ADVICE = "Its tables are not those of batchq: set BATCHQ_DATABASE_URL to another file, or put back a backup."
# No waiting mends these.
LASTING = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_IOERR_SHORT_READ")
NO_TEXT = "Could not decode to UTF-8"
# SQLite's words for a fault of the content where its error has no name of its own.
CONTENT_WORDS = ("malformed JSON", "integer overflow", "too big", "JSON path")
# The driver's words for a value that it cannot bind.
UNFIT_WORDS = ("binding parameter",)
# A writer takes the lock at once; a reader that asked for it later would fail, however patient.
BEGIN = "BEGIN IMMEDIATE"
_RESERVE = (
    "UPDATE batchq_counter SET value = max(value, coalesce((SELECT max({key}) FROM {table}), 0)) + ?"
    " WHERE name = ? RETURNING value"
)


class SQLite:
    """SQLite's answers to the questions of `Dialect`."""

    is_remote = False
    locks_rows = False
    has_few_connections = False
    fails_as_a_whole = False
    big: AnyType = Integer()  # it numbers rows by itself only in a column of the type INTEGER
    by_key: ClassVar[Mapping[str, object]] = {"sqlite_with_rowid": False}

    def check_driver(self, url: str) -> None:
        """Find nothing missing: the driver comes with Python."""

    def engine(self, access: Access) -> Engine:
        """The engine of a file, which is made if it is missing, or of a database in memory."""
        file = access.file
        file.make()
        options = {"timeout": access.patience, "check_same_thread": False}
        engine = create_engine(access.url, connect_args=options, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _: object) -> None:
            # The driver must not begin transactions by itself: a read that turns into a write fails at once.
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            file.opened()

        @event.listens_for(engine, "begin")
        def begin(tx: Connection) -> None:
            driver = _driver(tx)
            if not driver.in_transaction:
                tx.exec_driver_sql(BEGIN if tx.get_execution_options().get("batchq_writes") else "BEGIN")
            _bear_garbage(driver, file)

        return engine

    def keep_rows(self, table: str) -> list[str]:
        """A trigger for each of the two."""
        refusal = f"BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END"
        return [
            f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} {refusal}" for act in ("UPDATE", "DELETE")
        ]

    def list_type(self, item: AnyType) -> AnyType:
        """A JSON array, as text."""
        return JSON()

    def among(self, column: str, values: str) -> str:
        """A search by index for each item of the JSON."""
        return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # both are compiled, neither is text

    def listed(self, column: str) -> str:
        """The text that SQLite makes by itself."""
        return f"group_concat({column})"

    def in_no_index(self, column: AnyColumn, value: str, compiled: Callable[..., str]) -> str:
        """The comparison with a literal: for a bound value SQLite would plan the statement anew at each run."""
        return f"+{compiled(column)} = {compiled(literal(value), literal_binds=True)}"

    def reserve(self, tx: Connection, column: AnyColumn, count: int) -> Callable[[], list[int]]:
        """Take the numbers from a counter of ours: SQLite itself gives the number of a deleted newest row again.

        An older process numbers rows past the counter, so the newest row counts too.
        """
        table, key = column.table.name, column.name
        (last,) = _driver(tx).execute(_RESERVE.format(key=key, table=table), (count, table)).fetchone()
        return lambda: list(range(last - count + 1, last + 1))

    def insert_if_new(self, table: type[object] | Table) -> Insert:
        """An insert that ignores the conflict."""
        return insert(table).on_conflict_do_nothing()

    def form(self, statement: Making, columns: Mapping[str, AnyColumn], plain: bool, compiler: SQLAlchemys) -> Form:
        """A statement that runs for each of its rows, or `plain` for all at once."""
        return (AsJson if plain else Each)(statement, columns, compiler)

    def is_well(self, driver: object) -> bool:
        """A file does not go away by itself."""
        return True

    def is_broken(self, driver: object) -> bool:
        """An error leaves the connection as it was."""
        return False

    def begin(self, tx: Connection, file: File) -> None:
        """Take the write lock."""
        driver = _driver(tx)
        _bear_garbage(driver, file)
        with as_sqlalchemys(tx, BEGIN):
            driver.execute(BEGIN)

    def commit(self, tx: Connection) -> None:
        """Commit, and let the write lock go."""
        if tx.in_transaction():
            tx.commit()
            return
        with as_sqlalchemys(tx, "COMMIT"):
            _driver(tx).commit()

    def leave(self, driver: sqlite3.Connection) -> None:
        """Roll back: a database in memory has one connection for all, which no pool takes back."""
        driver.rollback()

    def reading(self, tx: Connection) -> AbstractContextManager[object]:
        """A plain transaction: each sees one moment, and readers need no settings of their own."""
        return tx.begin()

    def read_strictly(self, tx: Connection) -> None:
        """Read text strictly as UTF-8."""
        _driver(tx).text_factory = str

    def now(self, tx: Connection) -> datetime:
        """Read this machine's clock."""
        return clock.now()

    def wait_for_turn(self, tx: Connection) -> None:
        """Wait for nothing more: the write lock is the turn."""

    def fault(self, error: DBAPIError) -> Fault | None:
        """The fault by SQLite's message: most faults have no error name of their own."""
        if not isinstance(error.orig, sqlite3.Error):
            return None
        said = str(error.orig)
        if NO_TEXT in said:
            return Fault.GARBAGE
        words = CONTENT_WORDS if isinstance(error, OperationalError) else UNFIT_WORDS
        return Fault.CONTENT if any(each in said for each in words) else None

    def refusal(self, error: DBAPIError, url: str) -> DatabaseRefuses | None:
        """The refusal by the name of SQLite's error; None for a file that another writer has locked."""
        said = reason(error)
        name = getattr(error.orig, "sqlite_errorname", None) or ""
        advice = next((text for code, text in REFUSALS.items() if name.startswith(code)), None)
        if any(words in said for words in NOT_OURS):
            advice = NOT_OURS_ADVICE
        if advice is None:
            return None
        kind = DatabaseDamaged if name.startswith(LASTING) else DatabaseRefuses
        return kind(url=url, reason=said, advice=advice)


def _driver(tx: Connection) -> sqlite3.Connection:
    driver = tx.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _bear_garbage(driver: sqlite3.Connection, file: File) -> None:
    """Read even bytes that are no text, once some were met in the file; the first ones are an error."""
    if file.bears_garbage:
        driver.text_factory = _shown


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")
