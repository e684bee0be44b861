"""Lists as parameters of a statement, so that its text is the same for every length."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Boolean, Dialect, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.types import TypeDecorator

from batchq.store.sql.dialect import dialect_of
from batchq.store.sql.untyped import AnyColumn, AnyType


class Values(TypeDecorator[Collection[object]]):
    """A list of items as one parameter."""

    impl = Text
    cache_ok = True

    def __init__(self, item: AnyType) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> AnyType:
        """The type that this database has for it."""
        return dialect.type_descriptor(dialect_of(dialect.name).list_type(self.item))

    def process_bind_param(self, value: Collection[object] | None, dialect: Dialect) -> list[object]:
        """Make a list of any collection; None becomes an empty one."""
        return list(value or ())


class Among(ColumnElement[bool]):
    """Whether a column's value is among those of a list parameter."""

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: AnyColumn, values: BindParameter[Collection[object]]) -> None:
        self.column = column
        self.values = values

    def self_group(self, against: object = None) -> Among:
        """Stand as it is: wrapped as `(…) = 1`, it would keep SQLite from using an index."""
        return self


@compiles(Among)
def _among(element: Among, compiler: SQLCompiler, **options: object) -> str:
    column, values = compiler.process(element.column, **options), compiler.process(element.values, **options)
    return dialect_of(compiler.dialect.name).among(column, values)


def among(column: AnyColumn, name: str) -> ColumnElement[bool]:
    """`column` is one of the values given as the parameter `name`."""
    return Among(column, bindparam(name, type_=Values(column.type)))


class Listed(ColumnElement[str]):
    """All values of a column of numbers in one text, with commas between them; None if there are none."""

    inherit_cache = False
    type = Text()

    def __init__(self, column: ColumnElement[int]) -> None:
        self.column = column


@compiles(Listed)
def _listed(element: Listed, compiler: SQLCompiler, **options: object) -> str:
    return dialect_of(compiler.dialect.name).listed(compiler.process(element.column, **options))
