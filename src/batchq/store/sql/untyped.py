"""Names for the values that SQLAlchemy and the drivers leave untyped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

# A column or type of any values: a narrower type would fit no other, as SQLAlchemy's generics are invariant.
AnyColumn: TypeAlias = ColumnElement[Any]
AnyType: TypeAlias = TypeEngine[Any]
# The driver's own connection, below SQLAlchemy's; only a dialect knows its class.
Driver: TypeAlias = Any
# The options of a driver's connection, each of a type of its own.
Options: TypeAlias = dict[str, Any]
# A conversion between two values; their types depend on the column.
Way: TypeAlias = Callable[[Any], Any]
# A SQLAlchemy statement, or a function that makes one from a table of rows.
Making: TypeAlias = Any
# Columns by name.
Columns: TypeAlias = Mapping[str, AnyColumn]
# A compiled statement: SQLAlchemy leaves most parts that we use untyped.
Compiled: TypeAlias = Any
# The values of a statement as its driver takes them.
Bound: TypeAlias = Any
# A form of any database: only that database's `exchange` knows its class.
AnyForm: TypeAlias = Any
