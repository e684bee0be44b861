"""The drivers' own errors, which the hot path meets without SQLAlchemy, and the faults behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


class Fault(Enum):
    """The kind of cause behind an error; it decides how to go on."""

    CONTENDED = auto()  # another transaction was in the way: a repetition may go through
    GARBAGE = auto()  # stored bytes that are no text; a repetition reads past them
    CONTENT = auto()  # a value, stored or to be stored
    AWAY = auto()  # the database ended the session
    OTHER = auto()  # the database itself, its tables, or the statement


@contextmanager
def as_sqlalchemys(tx: Connection, statement: str) -> Iterator[None]:
    """Raise SQLAlchemy's errors for those of the driver."""
    base = tx.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(statement, None, error, base, dialect=tx.dialect) from error


def reason(error: Exception) -> str:
    """The driver's own words, in a line without a full stop."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code for the error; None for errors of SQLite, and of a connection that could not be made."""
    return getattr(error.orig, "sqlstate", None)
