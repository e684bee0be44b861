"""A transaction as one value, and the connection on which the process writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import Protocol

from sqlalchemy import Connection, Engine

from batchq.core.limits import Lane
from batchq.core.topology import Topology
from batchq.store.sql.dialect import Dialect
from batchq.store.sql.file import File
from batchq.store.sql.statement import send


class Source(Protocol):
    """The parts of a `Database` that its transactions use."""

    name: str
    topology: Topology
    lanes: dict[int, Lane]

    @property
    def engine(self) -> Engine:
        """The engine that connects."""

    def clock(self, tx: Connection) -> datetime:
        """The instant that counts, asked for within the transaction."""


class Tx(Connection):
    """A transaction: it runs statements, tells the instant, and holds the topology that this process read last.

    It is a SQLAlchemy connection, so statements need no wrapper. A connection that is kept uses one `Tx` for all its
    transactions, one after the other.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.engine)
        self._source = source

    def now(self) -> datetime:
        """The instant that counts: PostgreSQL's clock, or for SQLite this machine's (rule 20)."""
        return self._source.clock(self)

    @property
    def topology(self) -> Topology:
        """The topology that this process read last; empty after a rolled-back write."""
        return self._source.topology

    @topology.setter
    def topology(self, topology: Topology) -> None:
        self._source.topology = topology

    @property
    def lanes(self) -> dict[int, Lane]:
        """The lanes that this process has read; empty after a rolled-back write."""
        return self._source.lanes

    @property
    def process(self) -> str:
        """The name under which this process records its work."""
        return self._source.name


class Writer:
    """The connection on which this process writes. A thread that finds it taken gets another one.

    SQLAlchemy's own beginning and end of a transaction would be a third of a short commit, so the driver does both.
    SQLAlchemy still begins one by itself when a statement is given to it, inside the driver's, and then ends it.
    """

    def __init__(self, dialect: Dialect, file: File, connect: Callable[[], Tx]) -> None:
        self._dialect = dialect
        self._file = file
        self._connect = connect
        self._kept: Tx | None = None
        self._taken = Lock()

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A writing transaction: committed at the end, rolled back by an exception."""
        if not self._taken.acquire(blocking=False):
            with closing(self._connect()) as tx, tx.begin():
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

    def _begun(self) -> Tx:
        if self._kept is not None and not self._dialect.is_well(_driver(self._kept)):
            self.let_go()
        if self._kept is None:
            self._kept = self._connect()
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


def _driver(tx: Connection) -> object:
    return tx.connection.driver_connection
