"""Names for what SQLAlchemy and the drivers leave without a type, or leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

# A column, or a type, of whatever values: SQLAlchemy's generics fit nothing but themselves.
AnyColumn: TypeAlias = ColumnElement[Any]
AnyType: TypeAlias = TypeEngine[Any]
# A connection of the driver's own, below SQLAlchemy's; which one, only a dialect knows.
Driver: TypeAlias = Any
# The options of a driver's connection, each of a type of its own.
Options: TypeAlias = dict[str, Any]
# A way from one value to another; the type of a column tells which values these are.
Way: TypeAlias = Callable[[Any], Any]
# A statement of SQLAlchemy's, or a function that makes one of the columns that it is given.
Making: TypeAlias = Any
# Columns by name.
Columns: TypeAlias = Mapping[str, AnyColumn]
# A compiled statement: SQLAlchemy types few of the parts that are used of it.
Compiled: TypeAlias = Any
# The values of a statement as its driver takes them.
Bound: TypeAlias = Any
# A form as its own database's exchange knows it.
AnyForm: TypeAlias = Any
