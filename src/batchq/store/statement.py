"""Statements compiled once and then given straight to the driver: the hot path has no time to build them again.

Where the database is a round trip away, they wait for the first one whose answer is asked for, and travel with it.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

from sqlalchemy import ARRAY, Boolean, Connection, Dialect, Float, Text, bindparam, column, table
from sqlalchemy.exc import DBAPIError, StatementError
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


# Rows that a statement takes: values by the names of its columns, or in the order of these, if all of them are plain.
Rows = Sequence[Mapping[str, Any]] | Sequence[tuple[Any, ...]]


class Statement:
    """A statement with named parameters, compiled once for each kind of database.

    With `over`, columns by name, it takes rows besides, and `statement` makes it of these columns, to be joined
    with, by the first one, or inserted: on PostgreSQL one statement for all rows, on SQLite one run of it for each,
    unless they are `plain`: of numbers, truth values and words, which are one statement there as well.
    """

    def __init__(self, statement: Any, *, plain: bool = False, **over: ColumnElement[Any]) -> None:
        self.statement = statement
        self.plain = plain
        self.over = over
        self._forms: dict[str, _OnSqlite | _OnPostgresql] = {}

    def __call__(self, tx: Connection, over: Rows | None = None, **values: Any) -> list[Any]:
        """Run it; returns the rows, with their columns by name and as a tuple."""
        return self.later(tx, over, **values).rows

    def count(self, tx: Connection, over: Rows | None = None, **values: Any) -> int:
        """Run it; returns how many rows it changed."""
        return self.later(tx, over, **values).count

    def later(self, tx: Connection, over: Rows | None = None, **values: Any) -> Reply:
        """Run it before whatever runs next, together with that where the database is a round trip away."""
        form = self.form(tx)
        try:
            bound = form.bind(values, over or ())
        except Exception as error:  # a value that the database has no way to hold
            raise _unfit(error, form) from error
        return Reply(tx, form, bound)

    def form(self, tx: Connection) -> _OnSqlite | _OnPostgresql:
        """The statement in the words of this database."""
        name = tx.dialect.name
        form = self._forms.get(name)
        if form is None:
            ways: dict[str, Any] = {"postgresql": _OnPostgresql, "sqlite": _AsJson if self.plain else _OnSqlite}
            form = self._forms[name] = ways[name](self.statement, self.over, tx.dialect)
        return form


class Reply:
    """A statement on its way to the database; to ask for what came of it sends all that wait, in their order."""

    __slots__ = ("_answer", "_form", "_tx", "_values")

    def __init__(self, tx: Connection, form: Any, values: Any) -> None:
        self._tx, self._form, self._values = tx, form, values
        self._answer: _Answer | None = None
        tx.info.setdefault(WAITING, []).append(self)
        if isinstance(form, _OnSqlite):
            send(tx)

    @property
    def rows(self) -> list[Any]:
        """What it returned, with the columns by name and as a tuple."""
        return self._answered.rows

    @property
    def count(self) -> int:
        """How many rows it changed."""
        return self._answered.count

    @property
    def _answered(self) -> _Answer:
        if self._answer is None:
            send(self._tx)
        assert self._answer is not None
        return self._answer


WAITING = "batchq_waiting"
PREPARED = "batchq_prepared"


def send(tx: Connection, *, commit: bool = False) -> None:
    """Send all statements that wait, in one round trip where it is one, and `commit` with them."""
    waiting: list[Reply] = tx.info.pop(WAITING, [])
    if not waiting:
        return
    base = tx.dialect.loaded_dbapi.Error
    driver: Any = tx.connection.driver_connection
    try:
        if isinstance(waiting[0]._form, _OnSqlite):
            waiting[0]._answer = waiting[0]._form.ask(driver, waiting[0]._values)
            return
        asked = [(later._form.sentence, later._values) for later in waiting]
        results = waiting[0]._form.exchange(driver, tx.info.setdefault(PREPARED, set()), asked, commit=commit)
    except base as error:
        if tx.dialect.name == "postgresql" and (driver.closed or driver.pgconn.pipeline_status):
            tx.invalidate(error)
        raise DBAPIError.instance(waiting[0]._form.sql, None, error, base, dialect=tx.dialect) from error
    except BaseException as error:
        if isinstance(error, Exception) and tx.dialect.name == "sqlite":
            raise _unfit(error, waiting[0]._form) from error
        tx.invalidate(error)
        raise
    for later, result in zip(waiting, results, strict=True):
        try:
            later._answer = later._form.answer(result)
        except Exception as error:  # an instant that Python does not know
            raise _unfit(error, later._form) from error


def _unfit(error: Exception, form: _Form) -> StatementError:
    """A value that cannot be written or read, as an error of the kind that all who use the database reckon with."""
    return StatementError(f"{type(error).__name__}: {error}", form.sql, None, error, hide_parameters=True)


def forget(tx: Any) -> None:
    """Drop the statements that wait on a connection: their transaction is over."""
    tx.info.pop(WAITING, None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a statement: its rows, and how many it changed."""

    rows: list[Any]
    count: int


class _Form:
    """A statement in one database's own words, with what turns values into its types and back."""

    def __init__(self, compiled: Any, head: str = "") -> None:
        dialect = compiled.dialect
        self.sql: str = head + compiled.string
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self._columns = compiled._result_columns or []
        self._row: Any = namedtuple("Row", [column.keyname for column in self._columns]) if self._columns else None
        # Numbers need none, and PostgreSQL's processor for them asks for what is only known with a result.
        self._out = [
            None if isinstance(column.type, Float) else column.type._cached_result_processor(dialect, None)
            for column in self._columns
        ]


class _OnSqlite(_Form):
    def __init__(self, statement: Any, over: Mapping[str, ColumnElement[Any]], dialect: Any, head: str = "") -> None:
        self._many = bool(over)
        self._order = list(over)
        if over:
            row = {name: bindparam(name, type_=like.type) for name, like in over.items()}
            statement = statement(SimpleNamespace(**row))
        compiled = statement.compile(dialect=dialect)
        super().__init__(compiled, head)
        self._positions: list[str] = compiled.positiontup
        processors = ((name, compiled.binds[name].type._cached_bind_processor(dialect)) for name in compiled.params)
        ways, fixed = dict(processors), self._fixed
        # What is the same each time stands here already; the rest is put in its place.
        self._template = [_put(ways.get(name), fixed[name]) if name in fixed else None for name in self._positions]
        self._open = [(at, name, ways.get(name)) for at, name in enumerate(self._positions) if name not in fixed]
        self._make = self._row and self._row._make
        if any(make is not None for make in self._out):
            self._make = self._maker(self._out)

    def bind(self, values: Mapping[str, Any], over: Rows) -> Sequence[Sequence[Any]]:
        """The values as the driver takes them, for each run of the statement."""
        rows: Any = over
        if rows and isinstance(rows[0], tuple):
            assert self._positions == self._order, "the statement takes its columns in another order"
            return list(rows)
        return [self._bound({**values, **row}) for row in rows] if self._many else [self._bound(values)]

    def _bound(self, values: Mapping[str, Any]) -> list[Any]:
        bound = self._template.copy()
        for at, name, process in self._open:
            bound[at] = process(values[name]) if process else values[name]
        return bound

    def _maker(self, out: Sequence[Callable[[Any], Any] | None]) -> Callable[[Sequence[Any]], Any]:
        """What makes a row of the driver's values, with `out` for each of its columns."""
        make = self._row._make
        return lambda row: make([way(value) if way else value for way, value in zip(out, row, strict=True)])

    def ask(self, driver: Any, values: Sequence[Sequence[Any]]) -> _Answer:
        """Run it for each of these."""
        if self._row is None:
            return _Answer([], driver.executemany(self.sql, values).rowcount if values else 0)
        make = self._make
        rows = [make(row) for one in values for row in driver.execute(self.sql, one).fetchall()]
        return _Answer(rows, len(rows))


class _AsJson(_OnSqlite):
    """Takes all its rows as one text: to bind them one by one takes longer than to store them."""

    def __init__(self, statement: Any, over: Mapping[str, ColumnElement[Any]], dialect: Any) -> None:
        values = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(over)))
        head = f"WITH given ({', '.join(over)}) AS (SELECT {values} FROM json_each(?)) "  # noqa: S608  # names of our own
        super().__init__(statement(_given_table(over)), {}, dialect, head)
        self._order = list(over)

    def bind(self, values: Mapping[str, Any], over: Rows) -> Sequence[Sequence[Any]]:
        rows: Any = over
        plain = bool(rows) and isinstance(rows[0], tuple)
        given = rows if plain else [[row[name] for name in self._order] for row in rows]
        ((*others,),) = super().bind(values, ())
        return [[json.dumps(given, separators=(",", ":")), *others]]


class _OnPostgresql(_Form):
    def __init__(self, statement: Any, over: Mapping[str, ColumnElement[Any]], dialect: Any) -> None:
        from batchq.store import wire  # its driver is there only where it is wanted

        self.exchange = wire.exchange
        head = ""
        if over:
            statement = _by_key(statement, over)
            head = _given(over, dialect)
        compiled = statement.compile(dialect=dialect)
        super().__init__(compiled, head)
        self.sentence = wire.sentence(next(_NUMBERS), self.sql)
        writers = {name: wire.writer(like.type, many=True) for name, like in over.items()}
        for name in self.sentence.parameters:
            if name not in writers:
                type_ = compiled.binds[name].type
                many = isinstance(type_, Values)
                writers[name] = wire.writer(type_.item if many else type_, many=many)
        order = {name: place for place, name in enumerate(over)}
        names, fixed = self.sentence.parameters, self._fixed
        # As on SQLite; a column of the rows that are given is a parameter too.
        self._template = [writers[name](fixed[name]) if name in fixed else None for name in names]
        self._open = [(at, name, writers[name]) for at, name in enumerate(names) if name not in fixed | order]
        self._columns_at = [(at, order[name], name, writers[name]) for at, name in enumerate(names) if name in order]
        self._read = [
            (at, _after(wire.reader(column.type), make))
            for at, (column, make) in enumerate(zip(self._columns, self._out, strict=True))
        ]

    def bind(self, values: Mapping[str, Any], over: Rows) -> list[bytes | None]:
        """The values in the order of the parameters, as the server reads them."""
        bound = self._template.copy()
        for at, name, write in self._open:
            bound[at] = write(values[name])
        rows: Any = over
        plain = bool(rows) and isinstance(rows[0], tuple)
        for at, place, name, write in self._columns_at:
            bound[at] = write([row[place if plain else name] for row in rows])
        return bound

    def answer(self, result: Any) -> _Answer:
        """What the server's result says."""
        rows: list[Any] = []
        if self._row is None or not result.ntuples:
            return _Answer(rows, result.command_tuples or 0)
        text, make, ways = result.get_value, self._row._make, self._read
        for number in range(result.ntuples):
            texts = [(text(number, place), read) for place, read in ways]
            rows.append(make([None if found is None else read(found) for found, read in texts]))
        return _Answer(rows, result.command_tuples or 0)


_NUMBERS = count(1)


def _put(way: Callable[[Any], Any] | None, value: Any) -> Any:
    return way(value) if way else value


def _after(read: Callable[[bytes], Any], make: Callable[[Any], Any] | None) -> Callable[[bytes], Any]:
    return read if make is None else lambda text: make(read(text))


def _by_key(make: Any, over: Mapping[str, ColumnElement[Any]]) -> Any:
    """The statement over a table of its rows; an update finds those it changes by the first column, in every plan.

    A plan that was made for an empty table could else read the whole of it for good.
    """
    statement = make(_given_table(over))
    (name, like), *_ = over.items()
    return statement.where(among(like, name)) if statement.is_update else statement


def _given_table(over: Mapping[str, ColumnElement[Any]]) -> Any:
    """The columns of the table that a statement's rows are."""
    return table("given", *(column(name, like.type) for name, like in over.items())).c


def _given(over: Mapping[str, ColumnElement[Any]], dialect: Any) -> str:
    """The head of a statement that makes a table of its rows, of one array a column."""
    types = dialect.type_compiler_instance
    arrays = ", ".join(f"%({name})s::{types.process(like.type)}[]" for name, like in over.items())
    names = ", ".join(f'"{name}"' for name in over)
    return f"WITH given ({names}) AS (SELECT * FROM unnest({arrays})) "  # noqa: S608  # names of our own
