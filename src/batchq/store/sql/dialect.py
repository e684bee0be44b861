"""The questions in which SQLite and PostgreSQL differ; each of them answers all of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from batchq.errors import DatabaseRefuses
from batchq.store.sql.file import File
from batchq.store.sql.forms import Form


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

    # Whether connections are sessions of a server: they go bad together, and are not used again after a long wait.
    has_sessions: bool

    # --- opening ---

    def check_driver(self, url: str) -> None:
        """Raise InvalidInput unless the driver for the database of this (masked) URL can be imported."""

    def engine(self, access: Access) -> Engine:
        """The engine of a database; PostgreSQL is not connected to yet."""

    # --- statements ---

    def list_type(self, item: TypeEngine[Any]) -> TypeEngine[Any]:
        """The type of a parameter that holds a list of items."""

    def list_value(self, values: list[Any]) -> Any:
        """The list as the driver takes it for such a parameter."""

    def among(self, column: str, values: str) -> str:
        """The SQL that asks whether a column is in the list of a parameter; both are compiled already."""

    def form(self, statement: Any, columns: Mapping[str, ColumnElement[Any]], plain: bool, compiler: Any) -> Form:
        """The statement compiled for this database; `compiler` is SQLAlchemy's own dialect."""

    # --- transactions ---

    def is_well(self, driver: Any) -> bool:
        """Whether a connection can be used again after a rest."""

    def is_broken(self, driver: Any) -> bool:
        """Whether an error has left the connection of no more use."""

    def begin(self, tx: Connection, file: File) -> None:
        """Begin a writing transaction, unless the first statement does so."""

    def commit(self, tx: Connection) -> None:
        """Commit what is under way, past SQLAlchemy where it knows of no transaction."""

    def leave(self, driver: Any) -> None:
        """Roll back what the pool would not when it takes the connection back."""

    def isolate(self, tx: Connection) -> None:
        """Have the next transaction see one moment of the database."""

    def begin_reading(self, tx: Connection) -> None:
        """Set what readers need otherwise than writers."""

    def now(self, tx: Connection) -> datetime:
        """The instant that counts, in UTC (rule 20)."""

    def wait_for_turn(self, tx: Connection) -> None:
        """Wait until no other process upgrades the schema, and let the statements of this one take long."""

    # --- errors ---

    def refusal(self, error: DBAPIError, url: str) -> DatabaseRefuses | None:
        """The refusal that the error is, with what helps; None if it is none that we know."""


# Filled when this package is imported.
DIALECTS: dict[str, Dialect] = {}


def dialect_of(name: str) -> Dialect:
    """The dialect of this name, which is also SQLAlchemy's: `sqlite` or `postgresql`."""
    return DIALECTS[name]
