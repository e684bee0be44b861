"""PostgreSQL by its own protocol: several prepared statements to a round trip, text in and text out.

The driver's cursors are a pleasure and take ten times as long; here is only what `prepared` needs of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from select import POLLIN, POLLOUT, poll
from typing import Any

from psycopg import Connection, DataError
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy.types import Boolean, DateTime, Float, Integer, String, TypeDecorator, TypeEngine

_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)
_READERS: tuple[tuple[type[TypeEngine[Any]], Callable[[bytes], Any]], ...] = (
    (Boolean, lambda text: text == b"t"),
    (Integer, int),
    (Float, float),
    (DateTime, lambda text: datetime.fromisoformat(text.decode())),
    (String, bytes.decode),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement as the server takes it, the name it is prepared under, and its parameters in their order."""

    name: bytes
    sql: bytes
    parameters: tuple[str, ...]


def sentence(number: int, sql: str) -> Sentence:
    """The sentence of a statement in the driver's words, with `%(name)s` for each parameter."""
    names: dict[str, int] = {}

    def placeholder(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"${names.setdefault(name, len(names) + 1)}" if name else "%"

    text = _PARAMETER.sub(placeholder, sql)
    return Sentence(b"batchq_%d" % number, text.encode(), tuple(names))


def written(value: Any) -> bytes | None:
    """A value as PostgreSQL reads it; raises DataError for a text with a NUL, which it cannot hold."""
    if value is None:
        return None
    if isinstance(value, str):
        if "\0" in value:
            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return value.encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, (list, tuple)):
        return b"{%b}" % b",".join(map(_element, value))
    return value.isoformat().encode() if isinstance(value, datetime) else b"%a" % value


def _element(value: Any) -> bytes:
    text = written(value)
    if text is None:
        return b"NULL"
    if not isinstance(value, str):
        return text
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def reader(type_: TypeEngine[Any]) -> Callable[[bytes], Any]:
    """What makes a Python value of a column's text."""
    base = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    for kind, read in _READERS:
        if isinstance(base, kind):
            return read
    raise TypeError(f"no reader for a column of the type {base!r}")


def has_ended(driver: Connection[Any]) -> bool:
    """Whether an idle connection is of no more use: the server ended it, and has said so. Asks nothing."""
    if driver.closed:
        return True
    return _wait(driver.pgconn, POLLIN, 0)


def exchange(
    driver: Connection[Any], known: set[bytes], asked: Iterable[tuple[Sentence, Sequence[Any]]], *, commit: bool
) -> list[PGresult]:
    """Send these sentences with their values in one round trip, within the transaction that is under way, or a new one.

    `known` are the names that this connection has prepared. Raises the driver's errors.
    """
    conn = driver.pgconn
    spoken = [(sentence, [written(value) for value in values]) for sentence, values in asked]
    # What each of the results will be about: a name that is prepared, a sentence that is asked, or neither.
    about: list[bytes | Sentence | None] = []
    begins = conn.transaction_status == TransactionStatus.IDLE
    conn.enter_pipeline_mode()
    if begins:
        conn.send_query_params(_begin(driver), None)
        about.append(None)
    for sentence, texts in spoken:
        if sentence.name not in known and sentence.name not in about:
            conn.send_prepare(sentence.name, sentence.sql)
            about.append(sentence.name)
        conn.send_query_prepared(sentence.name, texts)
        about.append(sentence)
    if commit:
        conn.send_query_params(b"COMMIT", None)
        about.append(None)
    conn.pipeline_sync()
    results = list(zip(about, _results(conn, len(about)), strict=True))
    conn.exit_pipeline_mode()
    known.update(what for what, result in results if isinstance(what, bytes) and result.status not in _FAILED)
    for _, result in results:
        if result.status in _FAILED:
            raise error_from_result(result)
    return [result for what, result in results if isinstance(what, Sentence)]


def _begin(driver: Connection[Any]) -> bytes:
    level = driver.isolation_level
    return b"BEGIN" if level is None else b"BEGIN ISOLATION LEVEL " + level.name.replace("_", " ").encode()


def _results(conn: PGconn, number: int) -> list[PGresult]:
    while conn.flush():
        # What it answers meanwhile must be taken in, or both sides wait for each other.
        if _wait(conn, POLLIN | POLLOUT):
            conn.consume_input()
    results = [_next(conn) for _ in range(number)]
    # The end of the pipeline.
    _next(conn, last=True)
    return results


def _next(conn: PGconn, *, last: bool = False) -> PGresult:
    """The next statement's result; the wait for it can be interrupted."""
    while conn.is_busy():
        _wait(conn, POLLIN)
        conn.consume_input()
    result = conn.get_result()
    assert result is not None
    if not last:
        conn.get_result()
    return result


def _wait(conn: PGconn, what: int, milliseconds: int | None = None) -> bool:
    """Wait for the socket; returns whether there is something to read, if only the end."""
    waiting = poll()
    waiting.register(conn.socket, what)
    return any(event & ~POLLOUT for _, event in waiting.poll(milliseconds))
