"""Errors of a database: whether to repeat, whether the contents are to blame, and the reason in a line."""

from __future__ import annotations

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InvalidRequestError,
    OperationalError,
)

from batchq.errors import BatchqError
from batchq.store.sql import postgresql, sqlite
from batchq.store.sql.driver import sqlstate

REASON_CHARACTERS = 300


def may_repeat(error: DBAPIError) -> bool:
    """Whether the transaction may go through from its start: it lost a deadlock, or met bytes that are no text."""
    return sqlstate(error) in postgresql.REPEATABLE or is_garbage(error)


def is_garbage(error: DBAPIError) -> bool:
    """Whether SQLite holds bytes there that are no text; they are an error only when they are met first."""
    return sqlite.NO_TEXT in str(error.orig)


def is_away(error: DBAPIError) -> bool:
    """Whether the database does not answer, if it is no refusal that we know."""
    return isinstance(error, (OperationalError, InterfaceError)) or sqlstate(error) in postgresql.SILENT


def of_content(error: BaseException) -> bool:
    """Whether the values that are stored, or were to be, are to blame: it would fail again, and for nobody else.

    Not so for a database that is away, or refuses whatever it is asked, and for tables of another schema.
    """
    if not isinstance(error, Exception) or isinstance(error, (BatchqError, OSError, MemoryError)):
        return False
    if not isinstance(error, DBAPIError):
        return not isinstance(error, InvalidRequestError)  # SQLAlchemy's error for a connection that was lost
    if error.connection_invalidated:
        return False
    state = sqlstate(error)
    if state is not None:
        return state[:2] not in postgresql.STATES
    if isinstance(error, OperationalError):
        return any(words in str(error.orig) for words in sqlite.CONTENT_WORDS)
    return isinstance(error, (DataError, IntegrityError)) or "binding parameter" in str(error.orig)


def why(error: BaseException) -> str:
    """The reason of an error in a line that every database can hold."""
    cause = getattr(error, "orig", None) or error
    words = str(cause).strip().splitlines() or [""]
    said = f"{type(cause).__name__}: {words[0]}" if not isinstance(error, DBAPIError) else words[0]
    return said[:REASON_CHARACTERS].encode("ascii", "backslashreplace").decode().replace("\0", "\\x00").rstrip(".: ")
