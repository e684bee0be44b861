"""A session of PostgreSQL works as it must, whatever its role, its database, the environment and the URL say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.engine import make_url

from batchq import Job
from batchq.cli import cli
from batchq.errors import DatabaseRefuses
from batchq.store import schema
from batchq.store.columns import TASK
from batchq.store.sql import session
from play import Clocked, Play, check_counters

# What breaks a session that does not see to it, and what it is then all the same.
HOSTILE = {
    "client_encoding": ("LATIN1", "UTF8"),
    "DateStyle": ("German", "ISO, MDY"),
    "IntervalStyle": ("sql_standard", "postgres"),
    "TimeZone": ("Asia/Kathmandu", "UTC"),
    "extra_float_digits": ("-15", "3"),
    "standard_conforming_strings": ("off", "on"),
    "bytea_output": ("escape", "hex"),
    "array_nulls": ("off", "on"),
    "transform_null_equals": ("on", "off"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_deferrable": ("on", "off"),
    "row_security": ("off", "on"),
    "synchronous_commit": ("off", "on"),
    "session_replication_role": ("replica", "origin"),
}
# These a role may have for its people, but whoever starts a process may say so too.
BY_ROLE = {
    "statement_timeout": ("1ms", "0"),
    "transaction_timeout": ("3s", "0"),
    "idle_in_transaction_session_timeout": ("1ms", "6s"),
    "lock_timeout": ("1ms", "5s"),
    "jit": ("on", "off"),
    "plan_cache_mode": ("force_custom_plan", "force_generic_plan"),
}


def by_database(url: str, name: str, value: str) -> Iterator[str]:
    execute(url, f"ALTER DATABASE {make_url(url).database} SET {name} = '{value}'")
    yield url


def by_role(url: str, name: str, value: str) -> Iterator[str]:
    role = f"hostile_{name}".lower()
    execute(url, f"CREATE ROLE {role} LOGIN SUPERUSER", f"ALTER ROLE {role} SET {name} = '{value}'")
    yield make_url(url).set(username=role).render_as_string(hide_password=False)
    execute(url, f"DROP ROLE {role}")


def by_url(url: str, name: str, value: str) -> Iterator[str]:
    options = f"-c {name}={value}"
    yield make_url(url).update_query_dict({"options": options}).render_as_string(hide_password=False)


def by_environment(url: str, name: str, value: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGOPTIONS", f"-c {name}={value}")
        for variable in {"client_encoding": "PGCLIENTENCODING", "DateStyle": "PGDATESTYLE", "TimeZone": "PGTZ"}.items():
            if variable[0] == name:
                patch.setenv(variable[1], value)
        yield url


Way = Callable[[str, str, str], Iterator[str]]
WAYS: list[Way] = [by_database, by_role, by_url, by_environment]
CASES = [(way, name) for way in WAYS for name in HOSTILE] + [(way, name) for way in WAYS[:2] for name in BY_ROLE]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def hostile(request: pytest.FixtureRequest) -> Iterator[Clocked]:
    way, name = request.param
    kept = way in (by_database, by_role)  # and must not be what the next test finds
    own: str = request.getfixturevalue("fresh_postgresql_url" if kept else "postgresql_url")
    for url in way(own, name, (HOSTILE | BY_ROLE)[name][0]):
        database = Clocked(url)
        yield database
        database.dispose()


@pytest.mark.parametrize(
    ("hostile", "name"),
    [pytest.param((way, name), name, id=f"{way.__name__}-{name}") for way, name in CASES],
    indirect=["hostile"],
)
def test_a_setting_that_would_break_a_session_does_not_reach_it(hostile: Clocked, name: str):
    with hostile.read() as tx:
        assert tx.execute(text(f"SHOW {name}")).scalar_one() == (HOSTILE | BY_ROLE)[name][1]
    assert_all_comes_back(hostile)


def assert_all_comes_back(database: Clocked) -> None:
    """What is stored is what is read: a run with texts, numbers and instants of every kind comes to its end."""
    batch = Play(database)
    batch.server("AOS1", 2)
    job = Job("JOB Ж 🚲 \\' \" % NULL")
    first = job.task("A \\ NULL", "demo.work", kwargs={"x": "ж\\n{NULL,\"'}"}, retry_delay=0.1 + 0.2, retries=1)
    job.task("NULL", "demo.work", after=first)
    database.instant = datetime(2026, 2, 1, 13, 14, 15, 123456, tzinfo=UTC)
    played = batch.play(job)
    assert played.verdict == "success"
    check_counters(database)
    row = batch.task(played.run, "A \\ NULL")
    assert row.retry_delay == 0.1 + 0.2
    assert row.claimed_at == database.instant
    assert batch.task(played.run, "NULL").id == row.id + 1
    with database.read() as tx:
        assert tx.execute(TASK.kwargs.table.select()).first() is not None


@pytest.mark.parametrize("level", ["on", "remote_write", "remote_apply"])
def test_a_commit_that_waits_for_more_than_this_machines_disk_goes_on_doing_so(fresh_postgresql_url: str, level: str):
    execute(
        fresh_postgresql_url,
        f"ALTER DATABASE {make_url(fresh_postgresql_url).database} SET synchronous_commit = '{level}'",
    )
    database = Clocked(fresh_postgresql_url)
    with database.read() as tx:
        assert tx.execute(text("SHOW synchronous_commit")).scalar_one() == level
    database.dispose()


# --- a database that cannot hold every text -------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow(request: pytest.FixtureRequest, postgres: str) -> Iterator[tuple[str, str]]:
    """A database of another encoding than UTF8."""
    name = f"narrow_{request.param}".lower()
    with psycopg.connect(postgres, autocommit=True) as connection:
        options = f"ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0"
        connection.execute(f"CREATE DATABASE {name} {options}")
        url = postgres.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")
        yield request.param, url
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_of_another_encoding_is_refused_by_upgrade_check_and_every_process_in_one_sentence(
    narrow: tuple[str, str], monkeypatch: pytest.MonkeyPatch
):
    encoding, url = narrow
    sentence = f"refuses (its encoding is {encoding}, not UTF8). {session.ENCODING}"
    for act in (schema.upgrade, schema.check):
        database = Clocked(url)
        with pytest.raises(DatabaseRefuses) as raised:
            act(database)
        database.dispose()
        assert sentence in str(raised.value)
        assert raised.value.exit_code == 4
    monkeypatch.setenv("BATCHQ_DATABASE_URL", url)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    for words, code in COMMANDS:
        said: Any = CliRunner().invoke(cli, words)
        assert (said.exit_code, sentence in said.output) == (code, True), (words, said.output)


COMMANDS = [
    (["db", "upgrade"], 4),
    (["check"], 1),
    (["coordinator"], 4),
    (["server", "start", "AOS1"], 4),
    (["runs", "list"], 4),
]
