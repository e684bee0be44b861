"""Questions over many rows at once, which can leave out rows that are broken."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic

from sqlalchemy import Select
from sqlalchemy.sql.elements import ColumnElement

from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Row, Statement
from batchq.store.transaction import Tx


class Listing(Generic[Row]):
    """A SELECT in three forms: over all rows, over all but those set `aside`, or over some rows `alone`.

    `key` is the column of numbers that tells the rows apart; it is readable even where the rest of a row is not.
    """

    def __init__(self, statement: Select[Any], key: ColumnElement[int], row: type[Row]) -> None:
        self._all = Statement(statement, row=row)
        self._others = Statement(statement.where(~among(key, "aside")), row=row)
        self._alone = Statement(statement.where(among(key, "alone")), row=row)

    def later(
        self, tx: Tx, aside: Collection[int] = (), alone: Collection[int] | None = None, **values: object
    ) -> Reply[Row]:
        """Queue the question, as `Statement.later` does."""
        if alone is not None:
            return self._alone.later(tx, alone=alone, **values)
        # Nearly always nothing is set aside; that case must not pay for an empty list.
        return self._others.later(tx, aside=aside, **values) if aside else self._all.later(tx, **values)
