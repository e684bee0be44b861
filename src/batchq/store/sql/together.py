"""PostgreSQL's form of a statement: one sentence of the protocol for all its rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import count, repeat
from typing import TYPE_CHECKING

from sqlalchemy import Dialect as SQLAlchemys

from batchq.store.sql.forms import Answer, Form, Rows, given_table
from batchq.store.sql.lists import Values, among
from batchq.store.sql.untyped import AnyColumn, AnyType, Making, Way

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from batchq.store.sql.wire import Reader


# PostgreSQL looks each row up among all that are given: twice as many rows take four times as long.
MOST_ROWS = 1000


class Together(Form):
    """A statement that takes all its rows at once, in one array per column, and travels with others."""

    at_once = False

    def __init__(self, statement: Making, columns: Mapping[str, AnyColumn], compiler: SQLAlchemys) -> None:
        from batchq.store.sql import wire

        self.exchange = wire.exchange
        head = ""
        if columns:
            made = statement(given_table(columns))
            # An insert looks nothing up.
            self.most_rows = sys.maxsize if made.is_insert else MOST_ROWS
            statement = _by_key(made, columns)
            head = _given(columns, compiler)
        compiled = statement.compile(dialect=compiler)
        super().__init__(compiled, head)
        self.sentence = wire.sentence(next(_NUMBERS), self.sql)
        order = {name: place for place, name in enumerate(columns)}
        names, fixed = self.sentence.parameters, self._fixed
        writers = {name: _writer(compiled.binds[name].type) for name in names if name not in order}
        # As on SQLite; here the columns of the rows are parameters too.
        self._template = [None if (value := fixed.get(name)) is None else writers[name](value) for name in names]
        self._open = [(at, name, writers[name]) for at, name in enumerate(names) if name not in fixed | order]
        self._columns_at = [
            (at, order[name], name, wire.array_writer(columns[name].type))
            for at, name in enumerate(names)
            if name in order
        ]
        self._places = range(len(self._columns))
        self._read = [
            _after(wire.reader(column.type), make) for column, make in zip(self._columns, self._out, strict=True)
        ]

    def bind(self, values: Mapping[str, object], rows: Rows) -> list[bytes | None]:
        """The values in the order of the parameters, as the server reads them."""
        bound = self._template.copy()
        for at, name, write in self._open:
            if (value := values[name]) is not None:
                bound[at] = write(value)
        if self._columns_at:
            plain = bool(rows) and isinstance(rows[0], tuple)
            for at, place, name, write_all in self._columns_at:
                bound[at] = write_all(rows, place if plain else name)
        return bound

    def answer(self, result: PGresult) -> Answer:
        """Read the answer from a result of the server."""
        number = result.ntuples
        if not number:
            return Answer([], result.command_tuples or 0)
        text, make, places, reads = result.get_value, self._new, self._places, self._read
        rows = [
            make(
                [
                    None if found is None else read(found)
                    for found, read in zip(map(text, repeat(row), places), reads, strict=True)
                ]
            )
            for row in range(number)
        ]
        return Answer(rows, number)


_NUMBERS = count(1)


def _writer(type_: AnyType) -> Way:
    """The function that writes a parameter of this type."""
    from batchq.store.sql import wire

    return wire.list_writer(type_.item) if isinstance(type_, Values) else wire.writer(type_)


def _after(read: Reader, make: Way | None) -> Reader:
    return read if make is None else lambda text: make(read(text))


def _by_key(statement: Making, columns: Mapping[str, AnyColumn]) -> Making:
    """Let an update over a table of its rows search for their keys too, the first column.

    Without that, a plan made while the table was empty could scan the whole table ever after.
    """
    (name, like), *_ = columns.items()
    return statement.where(among(like, name)) if statement.is_update else statement


def _given(columns: Mapping[str, AnyColumn], compiler: SQLAlchemys) -> str:
    """The head of a statement that makes a table of its rows from one array per column."""
    types = compiler.type_compiler_instance
    arrays = ", ".join(f"%({name})s::{types.process(like.type)}[]" for name, like in columns.items())
    names = ", ".join(f'"{name}"' for name in columns)
    return f"WITH given ({names}) AS (SELECT * FROM unnest({arrays})) "  # noqa: S608  # names of our own
