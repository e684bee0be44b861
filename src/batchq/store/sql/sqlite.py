"""SQLite: how its file is opened, how statements and transactions run there, and what its refusals mean."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Text, bindparam, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from batchq import clock
from batchq.errors import DatabaseDamaged, DatabaseRefuses
from batchq.store.sql.driver import as_sqlalchemys, reason
from batchq.store.sql.file import MENDED, OPENED, File
from batchq.store.sql.forms import Answer, Form, Rows, given_table, put

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
CONTENT_WORDS = (NO_TEXT, "malformed JSON", "integer overflow", "too big", "JSON path")
# A writer takes the lock at once; a reader that asked for it later would fail, however patient.
BEGIN = "BEGIN IMMEDIATE"


class SQLite:
    """SQLite's answers to the questions of `Dialect`."""

    has_sessions = False

    def check_driver(self, url: str) -> None:
        """Find nothing missing: the driver comes with Python."""

    def engine(self, access: Access) -> Engine:
        """The engine of a file, which is made if it is missing, or of a database in memory."""
        file = access.file
        file.make()
        options = {"timeout": access.patience, "check_same_thread": False}
        engine = create_engine(access.url, connect_args=options, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _: Any) -> None:
            # The driver must not begin transactions by itself: a read that turns into a write fails at once.
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            file.opened()

        @event.listens_for(engine, "begin")
        def begin(tx: Connection) -> None:
            driver: Any = tx.connection.driver_connection
            if not driver.in_transaction:
                tx.exec_driver_sql(BEGIN if tx.get_execution_options().get("batchq_writes") else "BEGIN")
            _bear_garbage(driver, file)

        return engine

    def list_type(self, item: TypeEngine[Any]) -> TypeEngine[Any]:
        """A text: the list is JSON."""
        return Text()

    def list_value(self, values: list[Any]) -> Any:
        """The list as JSON."""
        return json.dumps(values)

    def among(self, column: str, values: str) -> str:
        """A search by index for each item of the JSON."""
        return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # both are compiled, neither is text

    def form(self, statement: Any, columns: Mapping[str, ColumnElement[Any]], plain: bool, compiler: Any) -> Form:
        """A statement that runs for each of its rows, or `plain` for all at once."""
        return (AsJson if plain else Each)(statement, columns, compiler)

    def is_well(self, driver: Any) -> bool:
        """A file does not go away by itself."""
        return True

    def is_broken(self, driver: Any) -> bool:
        """An error leaves the connection as it was."""
        return False

    def begin(self, tx: Connection, file: File) -> None:
        """Take the write lock."""
        driver: Any = tx.connection.driver_connection
        _bear_garbage(driver, file)
        with as_sqlalchemys(tx, BEGIN):
            driver.execute(BEGIN)

    def commit(self, tx: Connection) -> None:
        """Commit, and let the write lock go."""
        if tx.in_transaction():
            tx.commit()
            return
        driver: Any = tx.connection.driver_connection
        with as_sqlalchemys(tx, "COMMIT"):
            driver.commit()

    def leave(self, driver: Any) -> None:
        """Roll back: a database in memory has one connection for all, which no pool takes back."""
        driver.rollback()

    def isolate(self, tx: Connection) -> None:
        """Leave it: every transaction of SQLite sees one moment."""

    def begin_reading(self, tx: Connection) -> None:
        """Set nothing: readers need what writers need."""

    def now(self, tx: Connection) -> datetime:
        """Read this machine's clock."""
        return clock.now()

    def wait_for_turn(self, tx: Connection) -> None:
        """Wait for nothing more: the write lock is the turn."""

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


def _bear_garbage(driver: Any, file: File) -> None:
    """Read bytes that are no text all the same, once some were met in the file; at first they are an error."""
    if file.bears_garbage:
        driver.text_factory = _shown


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")


class Each(Form):
    """A statement that runs once for each of its rows."""

    at_once = True

    def __init__(
        self, statement: Any, columns: Mapping[str, ColumnElement[Any]], compiler: Any, head: str = ""
    ) -> None:
        self._many = bool(columns)
        self._order = list(columns)
        if columns:
            row = {name: bindparam(name, type_=like.type) for name, like in columns.items()}
            statement = statement(SimpleNamespace(**row))
        compiled = statement.compile(dialect=compiler)
        super().__init__(compiled, head)
        self._positions: list[str] = compiled.positiontup
        processors = ((name, compiled.binds[name].type._cached_bind_processor(compiler)) for name in compiled.params)
        ways, fixed = dict(processors), self._fixed
        # Values that are the same each time stand here already; the others are put in their places.
        self._template = [put(ways.get(name), fixed[name]) if name in fixed else None for name in self._positions]
        self._open = [(at, name, ways.get(name)) for at, name in enumerate(self._positions) if name not in fixed]
        self._make = self._row and self._row._make
        if any(make is not None for make in self._out):
            self._make = self._maker(self._out)

    def bind(self, values: Mapping[str, Any], rows: Rows) -> Sequence[Sequence[Any]]:
        """The values as the driver takes them, for each run of the statement."""
        given: Any = rows
        if given and isinstance(given[0], tuple):
            assert self._positions == self._order, "the statement takes its columns in another order"
            return list(given)
        return [self._bound({**values, **row}) for row in given] if self._many else [self._bound(values)]

    def _bound(self, values: Mapping[str, Any]) -> list[Any]:
        bound = self._template.copy()
        for at, name, process in self._open:
            bound[at] = process(values[name]) if process else values[name]
        return bound

    def _maker(self, out: Sequence[Callable[[Any], Any] | None]) -> Callable[[Sequence[Any]], Any]:
        """The function that makes a row of the driver's values, with `out` for each of its columns."""
        make = self._row._make
        return lambda row: make([way(value) if way else value for way, value in zip(out, row, strict=True)])

    def ask(self, driver: Any, bound: Sequence[Sequence[Any]]) -> Answer:
        """Run it for each of these."""
        if self._row is None:
            return Answer([], driver.executemany(self.sql, bound).rowcount if bound else 0)
        make = self._make
        rows = [make(row) for one in bound for row in driver.execute(self.sql, one).fetchall()]
        return Answer(rows, len(rows))


class AsJson(Each):
    """A statement that takes all its rows as one text: to bind them one by one takes longer than to store them."""

    def __init__(self, statement: Any, columns: Mapping[str, ColumnElement[Any]], compiler: Any) -> None:
        values = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(columns)))
        names = ", ".join(columns)
        head = f"WITH given ({names}) AS (SELECT {values} FROM json_each(?)) "  # noqa: S608  # names of our own
        super().__init__(statement(given_table(columns)), {}, compiler, head)
        self._order = list(columns)

    def bind(self, values: Mapping[str, Any], rows: Rows) -> Sequence[Sequence[Any]]:
        """The rows as one text, and the values behind it."""
        given: Any = rows
        plain = bool(given) and isinstance(given[0], tuple)
        listed = given if plain else [[row[name] for name in self._order] for row in given]
        ((*others,),) = super().bind(values, ())
        return [[json.dumps(listed, separators=(",", ":")), *others]]
