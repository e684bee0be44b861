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
from batchq.store.sql.dialect import DIALECTS
from batchq.store.sql.driver import Fault

REASON_CHARACTERS = 300


def fault(error: DBAPIError) -> Fault:
    """The fault behind an error: its database recognises it, or else its class tells."""
    for dialect in DIALECTS.values():
        found = dialect.fault(error)
        if found is not None:
            return found
    if isinstance(error, (OperationalError, InterfaceError)):
        return Fault.AWAY
    return Fault.CONTENT if isinstance(error, (DataError, IntegrityError)) else Fault.OTHER


def may_repeat(error: DBAPIError) -> bool:
    """Whether the transaction may go through from its start: it lost a deadlock, or met bytes that are no text."""
    return fault(error) in (Fault.CONTENDED, Fault.GARBAGE)


def is_garbage(error: DBAPIError) -> bool:
    """Whether the error comes from stored bytes that are no text; a repeated transaction reads past them."""
    return fault(error) is Fault.GARBAGE


def is_away(error: DBAPIError) -> bool:
    """Whether the database does not answer, if it is no refusal that we know."""
    return isinstance(error, (OperationalError, InterfaceError)) or fault(error) is Fault.AWAY


def of_content(error: BaseException) -> bool:
    """Whether stored values, or values to be stored, are to blame: a repetition fails, and all other work succeeds.

    False for a database that is away or refuses everything, and for tables of another schema.
    """
    if not isinstance(error, Exception) or isinstance(error, (BatchqError, OSError, MemoryError)):
        return False
    if not isinstance(error, DBAPIError):
        return not isinstance(error, InvalidRequestError)  # SQLAlchemy's error for a connection that was lost
    return not error.connection_invalidated and fault(error) in (Fault.CONTENT, Fault.GARBAGE)


def why(error: BaseException) -> str:
    """The reason of an error in a line that every database can hold."""
    cause = getattr(error, "orig", None) or error
    words = str(cause).strip().splitlines() or [""]
    said = f"{type(cause).__name__}: {words[0]}" if not isinstance(error, DBAPIError) else words[0]
    return said[:REASON_CHARACTERS].encode("ascii", "backslashreplace").decode().replace("\0", "\\x00").rstrip(".: ")
