"""The database: how it is opened, how a transaction begins, is repeated, and how its clock is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from batchq.config import masked
from batchq.core.limits import Lane
from batchq.core.topology import Topology
from batchq.errors import BatchqError, DatabaseDamaged, DatabaseLost, DatabaseRefuses, DatabaseUnreachable
from batchq.store import address
from batchq.store.failures import is_away, is_garbage, may_repeat
from batchq.store.failures import of_content as of_content
from batchq.store.failures import why as why
from batchq.store.sql.dialect import Access, Dialect, dialect_of
from batchq.store.sql.driver import reason
from batchq.store.sql.file import File
from batchq.store.transaction import Tx, Writer

P = ParamSpec("P")
R = TypeVar("R")

# The longest silence of PostgreSQL: longer than a wait for a lock there, or for a slow disk.
ANSWER_SECONDS = 6.0
MOST_TRIES = 10
CONTENDED = "Another session holds a lock for long: pg_stat_activity shows which. Try again later."


class Database:
    """One database; opened on first use, so that nothing connects at import or before a fork.

    `patience` is how long a writer waits for another one, in seconds (SQLite's lock, PostgreSQL's lock_timeout).
    `answer` is how long PostgreSQL may say nothing before it counts as away, in seconds.
    `name` is what PostgreSQL shows of this process in pg_stat_activity.
    """

    def __init__(
        self, url: str, *, patience: float = 10.0, answer: float = ANSWER_SECONDS, name: str = "batchq"
    ) -> None:
        self.url = address.parse(url)
        self.patience = patience
        self.answer = answer
        self.name = name
        self.topology = Topology(())
        self.lanes: dict[int, Lane] = {}
        self.has_tables = False  # whether our tables have been seen there
        # Why no waiting helps any more: the file is damaged, or not there any more.
        self.lost: DatabaseDamaged | None = None
        self.dialect: Dialect = dialect_of(self.kind)
        self._file = File(self.url)
        self._engine: Engine | None = None
        self._writer = Writer(self.dialect, self._file, self._begin_writing)

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.get_backend_name()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine; made, with SQLite's file, when it is asked for first."""
        if self._engine is None:
            access = Access(self.url, self.patience, self.answer, self.name, self._file)
            self._engine = self.dialect.engine(access)
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """A transaction that writes: committed at the end, rolled back by an exception."""
        try:
            with self.reachable(), self._writer.transaction() as tx:
                yield tx
        except BaseException:
            # The topology and the lanes that this transaction made never came true.
            self.topology, self.lanes = Topology(()), {}
            raise

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that only reads, one moment of the database."""
        if self.dialect.has_few_connections:
            self._writer.let_go_if_idle()
        with self.reachable(), closing(Tx(self)) as tx, self.dialect.reading(tx):
            yield tx

    def run(self, act: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `act(tx, …)` in a writing transaction, again from the start when the database broke a deadlock.

        Raises DatabaseRefuses after ten times.
        """
        for _ in range(MOST_TRIES):
            try:
                with self.write() as tx:
                    return act(tx, *args, **kwargs)
            except DBAPIError as error:
                if not may_repeat(error):
                    raise
                last = error
        raise DatabaseRefuses(url=self._masked, reason=reason(last), advice=CONTENDED) from last

    def clock(self, tx: Connection) -> datetime:
        """The instant that `Tx.now` returns; tests override it."""
        return self.dialect.now(tx)

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn a database that cannot be had, or refuses, into the sentence that says so."""
        try:
            yield
        except DatabaseLost as error:
            self.lost = error
            raise
        except PendingRollbackError as error:
            raise DatabaseUnreachable(url=self._masked, reason="the connection was lost") from error
        except DBAPIError as error:
            if is_garbage(error):
                self._file.bears_garbage = True
            if may_repeat(error) or of_content(error) or (sentence := self._sentence(error)) is None:
                raise
            raise sentence from error

    def _begin_writing(self) -> Tx:
        tx = Tx(self)
        tx.execution_options(batchq_writes=True)
        return tx

    def _sentence(self, error: DBAPIError) -> BatchqError | None:
        """The error for people; None for one that only a programmer can mend."""
        refusal = self.dialect.refusal(error, self._masked)
        if isinstance(refusal, DatabaseDamaged):
            self.lost = refusal
        if refusal is not None or not is_away(error):
            return refusal
        if self.dialect.fails_as_a_whole:
            # The other connections are hardly better off, and each would cost a wait of its own.
            self._renew()
        return DatabaseUnreachable(url=self._masked, reason=reason(error))

    def _renew(self) -> None:
        """Have every connection opened anew at its next use."""
        self._writer.let_go_if_idle()
        self.engine.dispose()

    @property
    def _masked(self) -> str:
        return masked(str(self.url))

    def check_file(self) -> None:
        """Raise DatabaseLost if SQLite's file was deleted or replaced since this process opened it."""
        with self.reachable():
            self._file.check()

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for one in memory, and for PostgreSQL."""
        return self._file.path

    def dispose(self) -> None:
        """Close all connections; the database opens again on next use."""
        self._writer.let_go()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
