"""PostgreSQL: how a session is opened, how statements and transactions run there, and what its refusals mean.

Its driver is imported only where it is used: those who work on SQLite need not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from sqlalchemy import Connection, Engine, Insert, Table, bindparam, create_engine, event, func, select
from sqlalchemy import Dialect as SQLAlchemys
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.types import ARRAY, BigInteger, DateTime

from batchq import clock
from batchq.config import masked
from batchq.errors import Action, Advice, DatabaseRefuses, InvalidInput
from batchq.store.sql.driver import Fault, as_sqlalchemys, reason, sqlstate
from batchq.store.sql.forms import Form
from batchq.store.sql.statement import Id, Statement, forget, send
from batchq.store.sql.together import Together
from batchq.store.sql.untyped import AnyColumn, AnyType, Driver, Making, Options

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from batchq.store.sql.dialect import Access
    from batchq.store.sql.file import File
    from batchq.store.sql.session import Session

# Serialization failure, deadlock detected, lock not available.
REPEATABLE = {"40001", "40P01", "55P03"}
# It ended a session whose transaction stood still, or took longer than a setting allows.
SILENT = ("25P03", "25P04")
# Classes of its SQLSTATE by which it speaks of itself, of a session or of its tables. All others are about what is
# a stored value or one to be stored, also those that somebody's trigger made up.
_SESSION = "01 02 03 08 09 0B 0F 0L 0P 24 25 26 27 28 2B 2D 34 3B 3D 3F 40 42 53 55 57 58 72 F0 HV"
STATES = frozenset(_SESSION.split())
# Refusals of a server that answers, by SQLSTATE, or by words where there is none; each with its advice.
REFUSALS: dict[str, Advice | str] = {
    "42501": "Grant its user what that needs, or act as the owner of the tables.",
    "42P01": Advice("Run {}, or correct the search_path.", Action.UPGRADE),
    "3F000": "Create the schema, or correct the search_path.",
    "53100": "Free some room on its disk: what waits goes on by itself then.",
    "disk is full": "Free some room on its disk: what waits goes on by itself then.",
    "25006": "Set BATCHQ_DATABASE_URL to the primary, or wait until this one may write.",
    "permission denied": "Grant its user what that needs.",
    "password": "Correct the user or the password in BATCHQ_DATABASE_URL, or set PGPASSWORD.",
    'database "': "Create it with createdb, or correct its name in BATCHQ_DATABASE_URL.",
    'role "': "Create it with createuser, or correct the user in BATCHQ_DATABASE_URL.",
    "pg_hba.conf": "Allow this host and user there.",
    "too many": "Raise its max_connections, or start fewer processes.",
    "connection slots": "Raise its max_connections, or start fewer processes.",
}
# Ways to read and to join that writers do without, and readers need.
WAYS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
ALL_WAYS = select(*(func.set_config(way, "on", True) for way in WAYS))
# The number, for all deployments and databases, under which upgrades wait for each other: "batchq" as bytes.
TURN = 0x626174636871
UPGRADE_SECONDS = 3600.0


class Instant(NamedTuple):
    """The server's time."""

    now: datetime


_CLOCK = Statement(select(func.clock_timestamp(type_=DateTime(timezone=True)).label("now")), row=Instant)

_RESERVE = Statement(
    select(
        func.nextval(func.pg_get_serial_sequence(bindparam("table"), bindparam("column")), type_=BigInteger).label("id")
    ).select_from(func.generate_series(1, bindparam("count", type_=BigInteger))),
    row=Id,
)


class PostgreSQL:
    """PostgreSQL's answers to the questions of `Dialect`."""

    is_remote = True
    locks_rows = True
    has_few_connections = True
    fails_as_a_whole = True
    big: AnyType = BigInteger()
    by_key: ClassVar[Mapping[str, object]] = {}  # PostgreSQL stores no table in this order

    def check_driver(self, url: str) -> None:
        """Raise InvalidInput where psycopg is not installed, or finds no library of PostgreSQL's to work with."""
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            said = str(error).strip().splitlines()[0].rstrip(".:")
            raise InvalidInput(
                f"The database {url} needs the driver psycopg, which cannot be imported ({said}): "
                "pip install 'celery-batchq[postgres]'."
            ) from error

    def engine(self, access: Access) -> Engine:
        """The engine of a server; nothing connects yet."""
        from batchq.store.sql import session

        url, answer = access.url, access.answer
        settings = session.settings(url, access.patience, answer, access.name)
        engine = create_engine(url, hide_parameters=True, connect_args=settings)

        @event.listens_for(engine, "do_connect")
        def connect(_: SQLAlchemys, __: object, args: Sequence[str], options: Options) -> Session:
            return session.connect(masked(str(url)), answer, args, options)

        @event.listens_for(engine, "checkout")
        def replace(driver: Session, *_: object) -> None:
            if not driver.is_well():
                raise DisconnectionError

        @event.listens_for(engine, "checkin")
        def rest(driver: Session | None, record: ConnectionPoolEntry) -> None:
            # Statements left by a broken-off transaction must not reach the next one.
            forget(record)
            if driver is not None:
                driver.rest()

        @event.listens_for(engine, "commit")
        @event.listens_for(engine, "before_cursor_execute")
        def first(tx: Connection, *_: object) -> None:
            # SQLAlchemy's own statements come after those that wait.
            send(tx)

        return engine

    def keep_rows(self, table: str) -> list[str]:
        """One trigger, which also refuses to empty the table."""
        return [
            f"CREATE OR REPLACE FUNCTION {table}_stays() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION '{table} is only added to'; END $$",
            f"CREATE TRIGGER {table}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_stays()",
        ]

    def list_type(self, item: AnyType) -> AnyType:
        """An array of the items."""
        return ARRAY(item)

    def among(self, column: str, values: str) -> str:
        """A search by index in the array."""
        return f"{column} = ANY ({values})"

    def listed(self, column: str) -> str:
        """The numbers as text, put together."""
        return f"string_agg({column}::text, ',')"

    def in_no_index(self, column: AnyColumn, value: str, compiled: Callable[..., str]) -> str:
        """The plain comparison: PostgreSQL cannot match a bound value with the condition of an index."""
        return compiled(column == value)

    def reserve(self, tx: Connection, column: AnyColumn, count: int) -> Callable[[], list[int]]:
        """Take the numbers from the column's sequence; those of a transaction that is rolled back are never used."""
        reply = _RESERVE.later(tx, table=column.table.name, column=column.name, count=count)
        return lambda: sorted(row.id for row in reply.rows)

    def insert_if_new(self, table: type[object] | Table) -> Insert:
        """An insert that ignores the conflict."""
        return insert(table).on_conflict_do_nothing()

    def form(self, statement: Making, columns: Mapping[str, AnyColumn], plain: bool, compiler: SQLAlchemys) -> Form:
        """One statement for all its rows."""
        return Together(statement, columns, compiler)

    def is_well(self, driver: Session) -> bool:
        """Whether the server has neither ended the session nor fallen silent."""
        return driver.is_well()

    def is_broken(self, driver: Session) -> bool:
        """Whether the session is closed, or stands half-way in a pipeline."""
        return bool(driver.closed or driver.pgconn.pipeline_status)

    def begin(self, tx: Connection, file: File) -> None:
        """Leave that to the first statement, which needs no round trip more for it."""

    def commit(self, tx: Connection) -> None:
        """Commit, unless the last statements took the commit with them."""
        driver = _driver(tx)
        if tx.in_transaction():
            tx.commit()
        elif driver.pgconn.transaction_status:
            with as_sqlalchemys(tx, "COMMIT"):
                driver.commit()
        driver.rest()

    def leave(self, driver: object) -> None:
        """Leave that to the pool, which rolls back."""

    @contextmanager
    def reading(self, tx: Connection) -> Iterator[None]:
        """A transaction that sees one moment, with the ways to read and join that writers switch off."""
        tx.execution_options(isolation_level="REPEATABLE READ")
        with tx.begin():
            tx.execute(ALL_WAYS)
            yield

    def read_strictly(self, tx: Connection) -> None:
        """Do nothing: PostgreSQL stores no bytes that are no text."""

    def now(self, tx: Connection) -> datetime:
        """The server's clock."""
        ((instant,),) = _CLOCK(tx)
        return clock.clock().show(instant.astimezone(UTC))

    def wait_for_turn(self, tx: Connection) -> None:
        """Wait until no other process upgrades. Tables may be large, so an answer may take long from here on."""
        _driver(tx).take_long(UPGRADE_SECONDS)
        tx.execute(select(func.pg_advisory_xact_lock(TURN)))

    def fault(self, error: DBAPIError) -> Fault | None:
        """The fault by its SQLSTATE."""
        state = sqlstate(error)
        if state is None:
            return None
        if state in REPEATABLE:
            return Fault.CONTENDED
        if state in SILENT:
            return Fault.AWAY
        return Fault.OTHER if state[:2] in STATES else Fault.CONTENT

    def refusal(self, error: DBAPIError, url: str) -> DatabaseRefuses | None:
        """The refusal by its SQLSTATE, or by the server's words where a connection could not be made."""
        state = sqlstate(error)
        # Without the words of the driver that could not connect.
        said = reason(error).rpartition(" failed: ")[2].removeprefix("FATAL:  ")
        if state is not None:
            advice = REFUSALS.get(state)
        else:
            advice = next((advice for key, advice in REFUSALS.items() if key in said), None)
        return None if advice is None else DatabaseRefuses(url=url, reason=said, advice=advice)


def _driver(tx: Connection) -> Session:
    driver: Driver = tx.connection.driver_connection
    session: Session = driver
    return session
