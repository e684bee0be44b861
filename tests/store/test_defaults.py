"""A statement that leaves out a column whose default is Python's: it writes the default, or refuses to be compiled."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Boolean, Column, Connection, Integer, MetaData, Table, Text, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from batchq.store.sql.statement import Statement


def notes(**columns: Any) -> Table:
    """A table of the test's own, gone with its session."""
    more = (Column(name, type_, nullable=False, **options) for name, (type_, options) in columns.items())
    return Table("notes", MetaData(), Column("said", Text, nullable=False), *more, prefixes=["TEMPORARY"])


WITH_DEFAULTS = notes(urgent=(Boolean, {"default": True}), weight=(Integer, {"default": 7, "onupdate": 9}))
SAID = WITH_DEFAULTS.c.said


def from_rows(given: Any) -> Any:
    return insert(WITH_DEFAULTS).from_select(["said"], select(given.said))


WAYS: dict[str, tuple[Statement, list[Any], dict[str, Any]]] = {
    "by values": (Statement(insert(WITH_DEFAULTS).values(said=bindparam("words"))), [], {"words": "hello"}),
    "by rows": (Statement(from_rows, columns={"said": SAID}), [[{"said": "hello"}]], {}),
    "by plain rows": (Statement(from_rows, plain=True, columns={"said": SAID}), [[("hello",)]], {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_column_that_an_insert_leaves_out_gets_its_constant_default(database, way):
    statement, rows, values = WAYS[way]
    with database.write() as tx:
        tx.execute(CreateTable(WITH_DEFAULTS))
        statement.later(tx, *rows, **values)
        assert [tuple(row) for row in tx.execute(select(WITH_DEFAULTS))] == [("hello", True, 7)]


def test_a_column_that_an_update_leaves_out_gets_the_constant_of_its_onupdate(database):
    with database.write() as tx:
        tx.execute(CreateTable(WITH_DEFAULTS))
        tx.execute(insert(WITH_DEFAULTS).values(said="hello", urgent=False))
        assert Statement(update(WITH_DEFAULTS).values(said="bye")).count(tx) == 1
        assert [tuple(row) for row in tx.execute(select(WITH_DEFAULTS))] == [("bye", False, 9)]


def test_a_default_that_is_a_function_is_refused_before_anything_is_sent_and_the_column_is_named(database):
    table = notes(number=(Integer, {"default": lambda: 3}))
    with database.write() as tx:  # the table is not even there
        with pytest.raises(TypeError, match=r"gives no value for notes\.number, whose default is a function"):
            Statement(insert(table).values(said="hello")).later(tx)
        tx.execute(CreateTable(table))
        assert Statement(insert(table).values(said="hello", number=4)).count(tx) == 1


def test_a_column_without_any_default_is_left_to_the_database(database):
    table = notes(number=(Integer, {}))
    without = Statement(insert(table).values(said="hello"))

    def act(tx: Connection) -> None:
        tx.execute(CreateTable(table))
        without(tx)

    with pytest.raises(IntegrityError, match="number"):
        database.run(act)
