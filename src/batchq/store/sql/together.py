"""PostgreSQL's form of a statement: one sentence of the protocol for all its rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import Dialect as SQLAlchemys

from batchq.store.sql.forms import Answer, Form, Rows, given_table
from batchq.store.sql.lists import Values, among
from batchq.store.sql.untyped import AnyColumn, Making, Way

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
        writers = {name: wire.writer(like.type, many=True) for name, like in columns.items()}
        for name in self.sentence.parameters:
            if name not in writers:
                type_ = compiled.binds[name].type
                many = isinstance(type_, Values)
                writers[name] = wire.writer(type_.item if many else type_, many=many)
        order = {name: place for place, name in enumerate(columns)}
        names, fixed = self.sentence.parameters, self._fixed
        # As on SQLite; here the columns of the rows are parameters too.
        self._template = [writers[name](fixed[name]) if name in fixed else None for name in names]
        self._open = [(at, name, writers[name]) for at, name in enumerate(names) if name not in fixed | order]
        self._columns_at = [(at, order[name], name, writers[name]) for at, name in enumerate(names) if name in order]
        self._read = [
            (at, _after(wire.reader(column.type), make))
            for at, (column, make) in enumerate(zip(self._columns, self._out, strict=True))
        ]

    def bind(self, values: Mapping[str, object], rows: Rows) -> list[bytes | None]:
        """The values in the order of the parameters, as the server reads them."""
        bound = self._template.copy()
        for at, name, write in self._open:
            bound[at] = write(values[name])
        given: Any = rows
        plain = bool(given) and isinstance(given[0], tuple)
        for at, place, name, write in self._columns_at:
            bound[at] = write([row[place if plain else name] for row in given])
        return bound

    def answer(self, result: PGresult) -> Answer:
        """Read the answer from a result of the server."""
        rows: list[Any] = []
        if self._row is None or not result.ntuples:
            return Answer(rows, result.command_tuples or 0)
        text, make, ways = result.get_value, self._row._make, self._read
        for number in range(result.ntuples):
            texts = [(text(number, place), read) for place, read in ways]
            rows.append(make([None if found is None else read(found) for found, read in texts]))
        return Answer(rows, result.command_tuples or 0)


_NUMBERS = count(1)


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
