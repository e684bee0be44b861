"""PostgreSQL by its own protocol: several prepared statements to a round trip, text in and text out.

The driver's cursors take ten times as long; this module does only what compiled statements need of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from select import POLLIN, POLLOUT, poll
from typing import TYPE_CHECKING

from psycopg import DataError
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy.types import Boolean, DateTime, Float, Integer, String, TypeDecorator, TypeEngine

from batchq.store.sql.untyped import AnyType, Bound, Way

if TYPE_CHECKING:
    from batchq.store.sql.session import Session

_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)
# Functions that write a value as text, that write one column of some rows as an array, and that read a value back.
Writer = Way
ArrayWriter = Callable[[Bound, Bound], bytes]
Reader = Callable[[bytes], object]
# Functions by the type of the value; the first type that fits counts.
_Ways = tuple[tuple[type[AnyType], Way], ...]
_READERS: _Ways = (
    (Boolean, lambda text: text == b"t"),
    (Integer, int),
    (Float, float),
    (DateTime, lambda text: datetime.fromisoformat(text.decode())),
    (String, bytes.decode),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A statement as the server takes it, with the name it is prepared under and the order of its parameters."""

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


def writer(type_: AnyType) -> Writer:
    """The function that writes a value of this type as text for PostgreSQL; it does not take None.

    The function raises DataError for a text with a NUL, which PostgreSQL cannot hold.
    """
    return _of(type_, _WRITERS)


def array_writer(type_: AnyType) -> ArrayWriter:
    """The function that writes one column of some rows as an array: it takes the rows, and the column's key in each.

    The function raises DataError for a text with a NUL.
    """
    element = _element(type_)

    def array(rows: Bound, key: Bound) -> bytes:
        texts = [b"NULL" if (value := row[key]) is None else element(value) for row in rows]
        return b"{%b}" % b",".join(texts)

    return array


def list_writer(type_: AnyType) -> Writer:
    """The function that writes values of this type as an array; it raises DataError for a text with a NUL."""
    element = _element(type_)
    return lambda values: b"{%b}" % b",".join([b"NULL" if value is None else element(value) for value in values])


def _element(type_: AnyType) -> Writer:
    write = _of(type_, _WRITERS)
    return _quoted if write is _text else write


def _text(value: str) -> bytes:
    if "\0" in value:
        raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return value.encode()


def _quoted(value: str) -> bytes:
    return b'"%b"' % _text(value).replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _untyped(value: object) -> bytes:
    text: bytes = next(write for kind, write in _BY_VALUE if isinstance(value, kind))(value)
    return text


_WRITERS: _Ways = (
    (Boolean, lambda value: b"t" if value else b"f"),
    (Integer, lambda value: b"%d" % value),
    (Float, lambda value: b"%a" % value),
    (DateTime, lambda value: value.isoformat().encode()),
    (String, _text),
    (TypeEngine, _untyped),
)
_BY_VALUE = tuple(zip((bool, int, float, datetime, str), (write for _, write in _WRITERS), strict=False))


def reader(type_: AnyType) -> Reader:
    """The function that reads a Python value from a column's text."""
    return _of(type_, _READERS)


def _of(type_: AnyType, ways: _Ways) -> Way:
    base = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    for kind, way in ways:
        if isinstance(base, kind):
            return way
    raise TypeError(f"no way to exchange values of the type {base!r} with PostgreSQL")


def has_ended(driver: Session) -> bool:
    """Whether the server has ended an idle connection and said so; sends nothing."""
    if driver.closed:
        return True
    waiting = poll()
    waiting.register(driver.pgconn.socket, POLLIN)
    return bool(waiting.poll(0))


def exchange(
    driver: Session,
    prepared: set[bytes],
    asked: Iterable[tuple[Sentence, Sequence[bytes | None]]],
    *,
    commit: bool,
) -> list[PGresult]:
    """Send these sentences with their values, already written as text, in one round trip.

    Goes on with the transaction that is under way, or begins one. `prepared` holds the names that this connection has
    prepared; new ones are added. Raises the driver's errors, also for a server that says nothing for too long.
    """
    conn = driver.pgconn
    # Each result answers one of these: the name of a sentence to prepare, a sentence, or None for BEGIN and COMMIT.
    about: list[bytes | Sentence | None] = []
    begins = conn.transaction_status == TransactionStatus.IDLE
    conn.enter_pipeline_mode()
    if begins:
        conn.send_query_params(_begin(driver), None)
        about.append(None)
    for sentence, texts in asked:
        if sentence.name not in prepared and sentence.name not in about:
            conn.send_prepare(sentence.name, sentence.sql)
            about.append(sentence.name)
        conn.send_query_prepared(sentence.name, texts)
        about.append(sentence)
    if commit:
        conn.send_query_params(b"COMMIT", None)
        about.append(None)
    conn.pipeline_sync()
    try:
        results = _results(conn, len(about), int(driver.answer_seconds * 1000))
    except TimeoutError:
        raise driver.silent() from None
    conn.exit_pipeline_mode()
    answers: list[PGresult] = []
    for what, result in zip(about, results, strict=True):
        if result.status in _FAILED:
            raise error_from_result(result)
        if isinstance(what, bytes):
            prepared.add(what)
        elif what is not None:
            answers.append(result)
    return answers


def _begin(driver: Session) -> bytes:
    level = driver.isolation_level
    return b"BEGIN" if level is None else b"BEGIN ISOLATION LEVEL " + level.name.replace("_", " ").encode()


def _results(conn: PGconn, number: int, most: int) -> list[PGresult]:
    while conn.flush():
        # Answers must be read meanwhile, or both sides wait for each other.
        if _hear(conn, POLLIN | POLLOUT, most) & ~POLLOUT:
            conn.consume_input()
    results: list[PGresult] = []
    # One more than the statements: the end of the pipeline.
    for left in range(number, -1, -1):
        # The wait for a result can be interrupted.
        while conn.is_busy():
            _hear(conn, POLLIN, most)
            conn.consume_input()
        result = conn.get_result()
        assert result is not None
        if left:
            results.append(result)
            conn.get_result()
    return results


def _hear(conn: PGconn, what: int, most: int) -> int:
    """Wait for the socket and return its events; raises TimeoutError after `most` milliseconds."""
    waiting = poll()
    waiting.register(conn.socket, what)
    for _, event in waiting.poll(most):
        return event
    raise TimeoutError
