"""Conditions that no partial index can serve, for statements that find their rows in another way."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement

from batchq.store.sql.dialect import dialect_of
from batchq.store.sql.untyped import AnyColumn


class InNoIndex(ColumnElement[bool]):
    """A condition `column = value` that no partial index can serve."""

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: AnyColumn, value: str) -> None:
        self.column = column
        self.value = value

    def self_group(self, against: object = None) -> InNoIndex:
        """Refuse parentheses: SQLAlchemy would wrap a Boolean as `(…) = 1`."""
        return self


@compiles(InNoIndex)
def _in_no_index(element: InNoIndex, compiler: SQLCompiler, **options: Any) -> str:
    dialect = dialect_of(compiler.dialect.name)
    return dialect.in_no_index(element.column, element.value, partial(compiler.process, **options))
