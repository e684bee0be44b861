"""SQLite's forms of a statement: one run of the driver for each of its rows, or one for all of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Dialect as SQLAlchemys
from sqlalchemy import bindparam
from sqlalchemy.types import DateTime, Float, String, TypeDecorator

from batchq.store.sql.forms import Answer, Form, Rows, given_table, put
from batchq.store.sql.lists import Values
from batchq.store.sql.untyped import AnyColumn, AnyType, Making, Way


class Each(Form):
    """A statement that runs once for each of its rows."""

    at_once = True

    def __init__(
        self, statement: Making, columns: Mapping[str, AnyColumn], compiler: SQLAlchemys, head: str = ""
    ) -> None:
        self._many = bool(columns)
        self._order = list(columns)
        if columns:
            row = {name: bindparam(name, type_=like.type) for name, like in columns.items()}
            statement = statement(SimpleNamespace(**row))
        compiled = statement.compile(dialect=compiler)
        super().__init__(compiled, head)
        self._positions: list[str] = compiled.positiontup
        ways = {name: _writer(compiled.binds[name].type, compiler) for name in compiled.params}
        fixed = self._fixed
        # Values that are the same each time stand here already; the others are put in their places.
        self._template = [put(ways.get(name), fixed[name]) if name in fixed else None for name in self._positions]
        self._open = [(at, name, ways.get(name)) for at, name in enumerate(self._positions) if name not in fixed]
        self._make = self._row and self._maker([_reader(column.type, compiler) for column in self._columns])

    def bind(self, values: Mapping[str, object], rows: Rows) -> Sequence[Sequence[object]]:
        """The values as the driver takes them, for each run of the statement."""
        if not self._many:
            return (self._bound(values),)
        given: Any = rows
        if given and isinstance(given[0], tuple):
            assert self._positions == self._order, "the statement takes its columns in another order"
            return list(given)
        return [self._bound({**values, **row}) for row in given]

    def _bound(self, values: Mapping[str, object]) -> list[object]:
        bound = self._template.copy()
        for at, name, write in self._open:
            bound[at] = write(values[name]) if write else values[name]
        return bound

    def _maker(self, readers: Sequence[Way | None]) -> Way:
        """The function that makes a row of the driver's values, with a reader for some of its columns."""
        make = self._new
        ways = [(at, read) for at, read in enumerate(readers) if read is not None]
        if not ways:
            return make

        def read_row(row: Sequence[object]) -> object:
            read = list(row)
            for at, way in ways:
                read[at] = way(read[at])
            return make(read)

        return read_row

    def ask(self, driver: sqlite3.Connection, bound: Sequence[Sequence[object]]) -> Answer:
        """Run it for each of these values."""
        if self._row is None:
            return Answer([], driver.executemany(self.sql, bound).rowcount if bound else 0)
        make, sql = self._make, self.sql
        rows = [make(row) for one in bound for row in driver.execute(sql, one).fetchall()]
        return Answer(rows, len(rows))


class AsJson(Each):
    """A statement that takes all its rows as one text: to bind them one by one takes longer than to store them."""

    def __init__(self, statement: Making, columns: Mapping[str, AnyColumn], compiler: SQLAlchemys) -> None:
        values = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(columns)))
        names = ", ".join(columns)
        head = f"WITH given ({names}) AS (SELECT {values} FROM json_each(?)) "  # noqa: S608  # names of our own
        super().__init__(statement(given_table(columns)), {}, compiler, head)
        self._order = list(columns)

    def bind(self, values: Mapping[str, object], rows: Rows) -> Sequence[Sequence[object]]:
        """The rows as one text, and the values behind it."""
        given: Any = rows
        plain = bool(given) and isinstance(given[0], tuple)
        listed = given if plain else [[row[name] for name in self._order] for row in given]
        ((*others,),) = super().bind(values, ())
        return [[_JSON(listed), *others]]


# --- values -------------------------------------------------------------------------------------------------

# For these types SQLAlchemy's own functions give the same values, and take several times as long.
_JSON = json.JSONEncoder(separators=(",", ":")).encode


def _writer(type_: AnyType, compiler: SQLAlchemys) -> Way | None:
    """The function that makes a value what the driver takes; None where it takes the value as it is."""
    if isinstance(type_, Values):
        return lambda values: _JSON(list(values or ()))
    if _is_plain_text(type_):
        return None
    if _is_instant(type_):
        return _written
    return type_._cached_bind_processor(compiler)


def _reader(type_: AnyType, compiler: SQLAlchemys) -> Way | None:
    """The function that reads the driver's value; None where the value is right as it is."""
    if _is_plain_text(type_):
        return None
    if _is_instant(type_):
        return _read
    if isinstance(type_, Float):
        return None
    return type_._cached_result_processor(compiler, None)


def _is_plain_text(type_: AnyType) -> bool:
    return isinstance(type_, String) or (isinstance(type_, TypeDecorator) and isinstance(type_.impl_instance, String))


def _is_instant(type_: AnyType) -> bool:
    inner = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    return isinstance(inner, DateTime) and inner.timezone


@lru_cache(maxsize=64)  # a transaction writes one instant into many rows
def _written(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    if instant.tzinfo is UTC:  # nearly always; the offset is cut off
        return instant.isoformat(" ", "microseconds")[:26]
    if instant.utcoffset() is None:
        raise ValueError(f"{instant} has no time zone")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _read(text: str | None) -> datetime | None:
    if text is None:
        return None
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
