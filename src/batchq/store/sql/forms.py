"""The common part of compiled statements of both databases: columns, fixed values, and the rows that they return."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from sqlalchemy import Column, Float, column, table

from batchq.store.sql.untyped import Bound, Columns, Compiled, Making, Way

# Rows that a statement takes: values by the names of its columns; or tuples in their order, if all of them are plain.
Rows = Sequence[Mapping[str, object]] | Sequence[tuple[object, ...]]
# The option of a statement that holds the class of its rows.
ROW = "batchq_row"


# Not frozen: there is one for each statement, and a frozen class takes four times as long to fill its fields.
@dataclass(slots=True)
class Answer:
    """The answer to a statement: its rows, and how many it changed."""

    rows: list[Any]
    count: int


class Form:
    """A statement in one database's own words, with the functions that turn values into its types and back."""

    # Whether it runs as soon as it is bound; else it waits for others, to travel with them.
    at_once: ClassVar[bool]
    # How many rows it takes at once; a statement with more is asked in pieces.
    most_rows = sys.maxsize

    def __init__(self, compiled: Compiled, head: str = "") -> None:
        dialect = compiled.dialect
        self.sql: str = head + compiled.string
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self._fixed |= _defaults(compiled)
        self._columns = compiled._result_columns or []
        self._row: Any = compiled.execution_options.get(ROW) or _row_of(self._columns)
        # Does what the row class's `_make` does, in C.
        self._new: Way = partial(tuple.__new__, self._row)
        # Numbers need none, and PostgreSQL's processor for them needs a result, which there is none of yet.
        self._out = [
            None if isinstance(column.type, Float) else column.type._cached_result_processor(dialect, None)
            for column in self._columns
        ]

    def bind(self, values: Mapping[str, object], rows: Rows) -> Bound:
        """The values, and those of the rows, as the driver takes them."""
        raise NotImplementedError


def _row_of(columns: Sequence[Any]) -> Any:
    """Make a row class for a statement that was given none."""
    return namedtuple("Row", [column.keyname for column in columns]) if columns else None


def _defaults(compiled: Compiled) -> dict[str, object]:
    """The Python defaults of the columns that the statement leaves out, by their parameters."""
    left_out = [(column, column.default) for column in compiled.insert_prefetch]
    left_out += [(column, column.onupdate) for column in compiled.update_prefetch]
    return {compiled._within_exec_param_key_getter(column): _constant(column, way) for column, way in left_out}


def _constant(column: Column[Any], default: Any) -> object:
    """The constant that a column's default is; raises TypeError for a function."""
    if default.is_scalar:
        return default.arg
    raise TypeError(
        f"The statement gives no value for {column.table.name}.{column.name}, whose default is a function: "
        "nothing would call it. Give the column a value in the statement, or a constant as its default."
    )


def given_table(columns: Columns) -> Making:
    """The columns of `given`, the table that a statement's rows are."""
    return table("given", *(column(name, like.type) for name, like in columns.items())).c


def put(way: Way | None, value: object) -> object:
    """The value as `way` makes it, or as it is without one."""
    return way(value) if way else value
