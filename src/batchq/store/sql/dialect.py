"""The questions on which SQLite and PostgreSQL differ; each answers all of them in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

from sqlalchemy import Connection, Engine, Insert, Table
from sqlalchemy import Dialect as SQLAlchemys
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from batchq.errors import DatabaseRefuses
from batchq.store.sql.driver import Fault
from batchq.store.sql.file import File
from batchq.store.sql.forms import Form
from batchq.store.sql.untyped import AnyColumn, AnyType, Driver, Making


@dataclass(frozen=True, slots=True)
class Access:
    """How a process reaches its database; the fields are those of `Database`."""

    url: URL
    patience: float
    answer: float
    name: str
    file: File


class Dialect(Protocol):
    """One kind of database. `driver` is always the connection of its own driver, below SQLAlchemy's."""

    # Whether an answer takes a round trip: a server then commits beside its event loop.
    is_remote: bool
    # Whether several transactions write at once, so that a row needs a lock to stay as it is.
    locks_rows: bool
    # Whether its connections are few: a reader then borrows the one kept for writing.
    has_few_connections: bool
    # Whether all connections are bad once one is: each is then opened anew.
    fails_as_a_whole: bool

    # --- opening ---

    def check_driver(self, url: str) -> None:
        """Raise InvalidInput unless the driver for the database of this (masked) URL can be imported."""

    def engine(self, access: Access) -> Engine:
        """The engine of a database; PostgreSQL is not connected to yet."""

    # --- tables ---

    # The type of a 64-bit integer that the database can also number rows with.
    big: AnyType
    # SQLAlchemy's options for a table that is stored in the order of its primary key.
    by_key: ClassVar[Mapping[str, object]]

    def keep_rows(self, table: str) -> list[str]:
        """The statements after which the table refuses to change or delete a row."""

    # --- statements ---

    def list_type(self, item: AnyType) -> AnyType:
        """The type of a parameter that holds a list of items."""

    def among(self, column: str, values: str) -> str:
        """The SQL that asks whether a column is in the list of a parameter; both are compiled already."""

    def listed(self, column: str) -> str:
        """The SQL of one text with all values of a column of numbers; the column is compiled already."""

    def in_no_index(self, column: AnyColumn, value: str, compiled: Callable[..., str]) -> str:
        """The SQL of `column = value`, in a form that no partial index can serve.

        `compiled` makes SQL of an element; its keywords are SQLAlchemy's options.
        """

    def reserve(self, tx: Connection, column: AnyColumn, count: int) -> Callable[[], list[int]]:
        """Ask for `count` ascending numbers for new rows of the column's table, which no row had before.

        Returns the function that reads them; the statement travels with the next ones.
        """

    def insert_if_new(self, table: type[object] | Table) -> Insert:
        """An insert that leaves the table alone if a row of the same key is there."""

    def form(self, statement: Making, columns: Mapping[str, AnyColumn], plain: bool, compiler: SQLAlchemys) -> Form:
        """The statement compiled for this database; `compiler` is SQLAlchemy's own dialect."""

    # --- transactions ---

    def is_well(self, driver: Driver) -> bool:
        """Whether a connection can be used again after a rest."""

    def is_broken(self, driver: Driver) -> bool:
        """Whether an error has made the connection useless."""

    def begin(self, tx: Connection, file: File) -> None:
        """Begin a writing transaction, unless the first statement does so."""

    def commit(self, tx: Connection) -> None:
        """Commit the transaction, past SQLAlchemy if that knows of none."""

    def leave(self, driver: Driver) -> None:
        """Roll back what the pool would not when it takes the connection back."""

    def reading(self, tx: Connection) -> AbstractContextManager[object]:
        """A transaction that sees one moment of the database, with the settings that suit readers."""

    def read_strictly(self, tx: Connection) -> None:
        """Make this connection refuse stored bytes that are no text, even if other connections tolerate them."""

    def now(self, tx: Connection) -> datetime:
        """The instant that counts, in UTC (rule 20)."""

    def wait_for_turn(self, tx: Connection) -> None:
        """Wait until no other process upgrades the schema, and allow long statements in this transaction."""

    # --- errors ---

    def fault(self, error: DBAPIError) -> Fault | None:
        """The fault behind the error; None if another database raised it, or its class says enough."""

    def refusal(self, error: DBAPIError, url: str) -> DatabaseRefuses | None:
        """The refusal behind the error, with advice; None for an error that is no known refusal."""


# Filled when this package is imported.
DIALECTS: dict[str, Dialect] = {}


def dialect_of(name: str) -> Dialect:
    """The dialect of this name, which is also SQLAlchemy's: `sqlite` or `postgresql`."""
    return DIALECTS[name]


def dialect(tx: Connection) -> Dialect:
    """The dialect of the database that this transaction is in."""
    return DIALECTS[tx.dialect.name]
