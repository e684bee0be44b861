"""The common part of commands that only read: one question to the database, printed as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from batchq.cli.context import database
from batchq.cli.output import Part, Table, present

if TYPE_CHECKING:
    from batchq.store.transaction import Tx

T = TypeVar("T")


def ask(question: Callable[[Tx], T]) -> T:
    """The answer to a question, in one transaction."""
    with database().read() as tx:
        return question(tx)


def print_view(
    question: Callable[[Tx], T], draw: Callable[[T], Iterable[Part]], *, output: str, watch: bool = False
) -> None:
    """Print the answer: as JSON, or as `draw` puts it for people, once or every second."""
    opened = database()

    def read() -> T:
        with opened.read() as tx:
            return question(tx)

    present(read, draw, output=output, watch=watch)


def print_list(
    question: Callable[[Tx], Sequence[T]],
    table: Callable[[Sequence[T]], Table],
    *,
    output: str,
    watch: bool = False,
) -> None:
    """Print the rows: as JSON, as a table, or as the table's sentence for none."""
    print_view(question, lambda rows: [table(rows)], output=output, watch=watch)
