"""Types of the views' rows and statements: SQLAlchemy knows their columns by name alone."""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, Select

Column: TypeAlias = ColumnElement[Any]
Query: TypeAlias = Select[Any]
Selected: TypeAlias = Row[Any]
