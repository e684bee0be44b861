"""Statements compiled once and then given straight to the driver: the hot path has no time to build them again."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Boolean, Connection, Dialect, Float, Text, bindparam
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Values(TypeDecorator[Collection[Any]]):
    """A list as one parameter: an array on PostgreSQL, JSON on SQLite; so the statement's text never changes."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(self.item))

    def process_bind_param(self, value: Collection[Any] | None, dialect: Dialect) -> Any:
        values = list(value or ())
        return json.dumps(values) if dialect.name == "sqlite" else values


class Among(ColumnElement[bool]):
    """Whether a column's value is among those of a list parameter."""

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], values: BindParameter[Any]) -> None:
        self.column = column
        self.values = values

    def self_group(self, against: Any = None) -> Among:
        """Stand as it is: wrapped as `(…) = 1`, it would keep SQLite from using an index."""
        return self


@compiles(Among, "sqlite")
def _in_json(element: Among, compiler: Any, **options: Any) -> str:
    column, values = compiler.process(element.column, **options), compiler.process(element.values, **options)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # both are compiled, neither is text


@compiles(Among, "postgresql")
def _in_array(element: Among, compiler: Any, **options: Any) -> str:
    column, values = compiler.process(element.column, **options), compiler.process(element.values, **options)
    return f"{column} = ANY ({values})"


def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """`column` is one of the values given as the parameter `name`."""
    return Among(column, bindparam(name, type_=Values(column.type)))


class Prepared:
    """A statement with named parameters, compiled once for each kind of database."""

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._forms: dict[str, _Form] = {}

    def __call__(self, tx: Connection, **values: Any) -> list[Any]:
        """Run it; returns the rows, with their columns by name and as a tuple."""
        form = self._form(tx)
        return form.rows(self._run(tx, form, form.bind(values)))

    def count(self, tx: Connection, **values: Any) -> int:
        """Run it; returns how many rows it changed."""
        form = self._form(tx)
        return int(self._run(tx, form, form.bind(values)).rowcount)

    def many(self, tx: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each of the rows, in one call of the driver; returns how many rows it changed."""
        if not rows:
            return 0
        form = self._form(tx)
        return int(self._run(tx, form, [form.bind(row) for row in rows], many=True).rowcount)

    def _form(self, tx: Connection) -> _Form:
        name = tx.dialect.name
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = _Form(self.statement.compile(dialect=tx.dialect))
        return form

    def _run(self, tx: Connection, form: _Form, values: Any, *, many: bool = False) -> Any:
        cursor = tx.connection.cursor()
        try:
            (cursor.executemany if many else cursor.execute)(form.sql, values)
        except tx.dialect.loaded_dbapi.Error as error:
            base = tx.dialect.loaded_dbapi.Error
            raise DBAPIError.instance(form.sql, None, error, base, dialect=tx.dialect) from error
        return cursor


class _Form:
    """A statement in one database's own words, with what turns values into its types and back."""

    def __init__(self, compiled: Any) -> None:
        dialect = compiled.dialect
        self.sql: str = compiled.string
        self._positions: list[str] | None = compiled.positiontup
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self._in: dict[str, Callable[[Any], Any]] = {}
        for name in compiled.params:
            processor = compiled.binds[name].type._cached_bind_processor(dialect)
            if processor is not None:
                self._in[name] = processor
        columns = compiled._result_columns or []
        self._row: Any = namedtuple("Row", [column.keyname for column in columns]) if columns else None
        # Numbers need none, and PostgreSQL's processor for them asks for what is only known with a result.
        self._out = [
            None if isinstance(column.type, Float) else column.type._cached_result_processor(dialect, None)
            for column in columns
        ]

    def bind(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them."""
        given = {**self._fixed, **values}
        for name, process in self._in.items():
            given[name] = process(given[name])
        return [given[name] for name in self._positions] if self._positions is not None else given

    def rows(self, cursor: Any) -> list[Any]:
        """What the statement returned."""
        if self._row is None:
            return []
        make, out = self._row._make, self._out
        if not any(out):
            return [make(row) for row in cursor.fetchall()]
        return [
            make(value if process is None else process(value) for value, process in zip(row, out, strict=True))
            for row in cursor.fetchall()
        ]
