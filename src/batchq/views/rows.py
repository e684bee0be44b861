"""Rows and statements of the views: SQLAlchemy knows their columns by name, and no types of them."""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, Select

Column: TypeAlias = ColumnElement[Any]
Query: TypeAlias = Select[Any]
Selected: TypeAlias = Row[Any]
