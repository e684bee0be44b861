"""Statements compiled once and then given straight to the driver: the hot path has no time to build them again.

On a remote database they wait until somebody reads an answer, and then travel together in one round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar, overload

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.elements import ColumnClause, Label

from batchq.store.sql.dialect import dialect_of
from batchq.store.sql.forms import ROW, Answer, Form, Rows, given_table
from batchq.store.sql.untyped import AnyForm, Bound, Columns, Driver, Making

Row = TypeVar("Row", bound=NamedTuple)
Found = TypeVar("Found", bound=NamedTuple, covariant=True)


class NoRow(NamedTuple):
    """The row of a statement that returns none."""


class Id(NamedTuple):
    """A row with nothing but its id."""

    id: int


class Statement(Generic[Row]):
    """A statement with named parameters, compiled once for each kind of database.

    With `columns`, by name, it takes many rows. `statement` is then a function: it gets a table of these columns and
    returns a statement that joins with it or inserts it. An update finds its rows by the first column. PostgreSQL gets
    all rows in one statement, or the many rows of an update in a few. SQLite runs it once for each row, or once for all
    if it is `plain`: the rows may then hold only numbers, truth values and words.

    `row` is the class of the rows that it returns. Raises TypeError if its fields are not named as the columns.
    """

    @overload
    def __init__(
        self: Statement[NoRow],
        statement: Making,
        *,
        plain: bool = False,
        columns: Columns | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        statement: Making,
        *,
        row: type[Row],
        plain: bool = False,
        columns: Columns | None = None,
    ) -> None: ...
    def __init__(
        self,
        statement: Making,
        *,
        row: type[Row] | None = None,
        plain: bool = False,
        columns: Columns | None = None,
    ) -> None:
        self.statement = statement
        self.plain = plain
        self.columns = columns or {}
        self._row = row
        self._forms: dict[str, Form] = {}
        if row is not None:
            _check_names(row, statement(given_table(self.columns)) if columns else statement)

    def __call__(self, tx: Connection, rows: Rows | None = None, /, **values: object) -> list[Row]:
        """Run it; returns the rows."""
        return self.later(tx, rows, **values).rows

    def count(self, tx: Connection, rows: Rows | None = None, /, **values: object) -> int:
        """Run it; returns how many rows it changed."""
        return self.later(tx, rows, **values).count

    def later(self, tx: Connection, rows: Rows | None = None, /, **values: object) -> Reply[Row]:
        """Queue it to run before the next statement; on a remote database both share a round trip."""
        form = self._forms.get(tx.dialect.name) or self.form(tx)
        if rows is None:
            rows = ()
        elif len(rows) > form.most_rows:
            firsts = range(0, len(rows), form.most_rows)
            return Pieces([self.later(tx, rows[first : first + form.most_rows], **values) for first in firsts])
        try:
            bound = form.bind(values, rows)
        except Exception as error:  # a value that the database has no way to hold
            raise _unfit(error, form) from error
        return Reply(tx, form, bound)

    def form(self, tx: Connection) -> Form:
        """The statement in the words of this database.

        Raises TypeError for an insert that leaves out a column whose default only SQLAlchemy could compute.
        """
        name = tx.dialect.name
        form = self._forms.get(name)
        if form is None:
            form = dialect_of(name).form(self._with_row(), self.columns, self.plain, tx.dialect)
            self._forms[name] = form
        return form

    def _with_row(self) -> Making:
        """Attach the class of its rows to the statement, or to the function that makes it, for its form to read."""
        make, option = self.statement, {ROW: self._row}
        if self.columns:
            return lambda given: make(given).execution_options(**option)
        return make.execution_options(**option)


def _check_names(row: type[NamedTuple], statement: Making) -> None:
    """Raise TypeError unless a row's fields are the statement's columns; a column without a name fits any field."""
    fields, columns = row._fields, list(statement.exported_columns)
    names = [column.name if isinstance(column, ColumnClause | Label) else None for column in columns]
    if len(names) != len(fields) or any(name not in (None, field) for name, field in zip(names, fields, strict=True)):
        raise TypeError(f"{row.__name__} has the fields {fields}, and its statement the columns {names}.")


class Reply(Generic[Found]):
    """The answer to a statement that may still wait. Reading it sends all waiting statements, in their order."""

    __slots__ = ("_answer", "_form", "_tx", "_values")

    def __init__(self, tx: Connection, form: AnyForm, values: Bound) -> None:
        self._tx, self._form, self._values = tx, form, values
        self._answer: Answer | None = None
        if form.at_once:
            self._answer = _ask(tx, form, values)
        else:
            tx.info.setdefault(WAITING, []).append(self)

    @property
    def rows(self) -> list[Found]:
        """The rows that the statement returned."""
        return self._answered.rows

    @property
    def count(self) -> int:
        """How many rows the statement changed."""
        return self._answered.count

    @property
    def _answered(self) -> Answer:
        if self._answer is None:
            send(self._tx)
        assert self._answer is not None
        return self._answer


class Pieces(Reply[Found]):
    """The answers to the pieces of a statement with many rows, as one answer."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[Reply[Found]]) -> None:
        self._pieces = pieces

    @property
    def _answered(self) -> Answer:
        answers = [piece._answered for piece in self._pieces]
        return Answer([row for answer in answers for row in answer.rows], sum(answer.count for answer in answers))


# Keys of a connection's `info`: its waiting replies, and the names of its prepared statements.
WAITING = "batchq_waiting"
PREPARED = "batchq_prepared"


def _ask(tx: Connection, form: AnyForm, values: Bound) -> Answer:
    """Run a statement that waits for no other."""
    driver: Driver = tx.connection.dbapi_connection
    try:
        answer: Answer = form.ask(driver, values)
    except Exception as error:
        raise _wrapped(tx, error, form) from error
    except BaseException as error:
        tx.invalidate(error)
        raise
    return answer


def send(tx: Connection, *, commit: bool = False) -> None:
    """Send all waiting statements, and the commit if `commit`; a remote database gets them in one round trip."""
    waiting: list[Reply[NamedTuple]] = tx.info.pop(WAITING, [])
    if not waiting:
        return
    form = waiting[0]._form
    base = tx.dialect.loaded_dbapi.Error
    driver: Driver = tx.connection.dbapi_connection
    asked = [(reply._form.sentence, reply._values) for reply in waiting]
    try:
        results = form.exchange(driver, tx.info.setdefault(PREPARED, set()), asked, commit=commit)
    except base as error:
        raise _wrapped(tx, error, form) from error
    except BaseException as error:
        tx.invalidate(error)
        raise
    for reply, result in zip(waiting, results, strict=True):
        try:
            reply._answer = reply._form.answer(result)
        except Exception as error:  # an instant that Python does not know
            raise _unfit(error, reply._form) from error


def _wrapped(tx: Connection, error: Exception, form: Form) -> Exception:
    """Wrap an error of the driver in SQLAlchemy's class for it, or the error of a value in that of unfit values."""
    base = tx.dialect.loaded_dbapi.Error
    if not isinstance(error, base):
        return _unfit(error, form)
    driver: Driver = tx.connection.dbapi_connection
    if dialect_of(tx.dialect.name).is_broken(driver):
        tx.invalidate(error)
    return DBAPIError.instance(form.sql, None, error, base, dialect=tx.dialect)


def _unfit(error: Exception, form: Form) -> StatementError:
    """Wrap the error of a value that cannot be written or read in the class that all callers handle."""
    return StatementError(f"{type(error).__name__}: {error}", form.sql, None, error, hide_parameters=True)


def forget(tx: Connection | ConnectionPoolEntry) -> None:
    """Drop the statements that wait on a connection: their transaction is over."""
    tx.info.pop(WAITING, None)
