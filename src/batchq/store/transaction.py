"""Writing transactions, on one connection that the process keeps for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from sqlalchemy import Connection

from batchq.store.sql.dialect import Dialect
from batchq.store.sql.file import File
from batchq.store.sql.statement import send


class Writer:
    """The connection on which this process writes. A thread that finds it taken gets another one.

    SQLAlchemy's own beginning and end of a transaction would be a third of a short commit, so the driver does both.
    SQLAlchemy still begins one by itself when a statement is given to it, inside the driver's, and then ends it.
    """

    def __init__(self, dialect: Dialect, file: File, connect: Callable[[], Connection]) -> None:
        self._dialect = dialect
        self._file = file
        self._connect = connect
        self._kept: Connection | None = None
        self._taken = Lock()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A writing transaction: committed at the end, rolled back by an exception."""
        if not self._taken.acquire(blocking=False):
            with self._connect() as tx, tx.execution_options(batchq_writes=True).begin():
                yield tx
                send(tx, commit=True)
            return
        try:
            tx = self._begun()
            yield tx
            send(tx, commit=True)
            self._dialect.commit(tx)
        except BaseException:
            self.let_go()
            raise
        finally:
            self._taken.release()

    def _begun(self) -> Connection:
        if self._kept is not None and not self._dialect.is_well(_driver(self._kept)):
            self.let_go()
        if self._kept is None:
            self._kept = self._connect().execution_options(batchq_writes=True)
        self._dialect.begin(self._kept, self._file)
        return self._kept

    def let_go(self) -> None:
        """Give back the connection that is kept, with whatever is under way there."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        with suppress(Exception):
            self._dialect.leave(_driver(kept))
            kept.close()

    def let_go_if_idle(self) -> None:
        """Give back the connection that is kept, unless a transaction is under way there."""
        if self._taken.acquire(blocking=False):
            self.let_go()
            self._taken.release()


def _driver(tx: Connection) -> Any:
    return tx.connection.driver_connection
