"""PostgreSQL as operators have it: sessions that can be told apart, other schemas, and refusals in one sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Boolean, Integer, func, select, text
from sqlalchemy.engine import URL, make_url

from batchq import aside
from batchq.errors import DatabaseOutdated, DatabaseRefuses, DatabaseTooNew, DatabaseUnreachable
from batchq.store import schema, trouble
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.sql.statement import Statement
from batchq.store.tables import Row
from batchq.store.transaction import Tx


def with_query(url: str, **query: str) -> str:
    return make_url(url).update_query_dict(query).render_as_string(hide_password=False)


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Database]:
    database = Database(url, **options)
    try:
        yield database
    finally:
        database.dispose()


def shown(database: Database, name: str) -> str:
    """A setting of the database's sessions."""
    with database.read() as tx:
        return str(tx.execute(text(f"SHOW {name}")).scalar_one())


# --- a session ----------------------------------------------------------------------------------------------


def test_a_session_says_which_process_it_is_and_never_holds_a_lock_or_waits_for_one_for_long(postgresql_url):
    with opened(postgresql_url, patience=0.2, name="batchq server AOS1") as database:
        assert {name: shown(database, name) for name in SETTINGS} == SETTINGS


SETTINGS = {
    "application_name": "batchq server AOS1",
    "lock_timeout": "200ms",
    "idle_in_transaction_session_timeout": "6s",
    "TimeZone": "UTC",
}


def test_what_the_url_says_of_its_sessions_goes_before(postgresql_url):
    options = "-c lock_timeout=7s -c search_path=elsewhere"
    url = with_query(postgresql_url, application_name="night shift", options=options)
    with opened(url) as database:
        assert shown(database, "application_name") == "night shift"
        assert shown(database, "lock_timeout") == "7s"
        assert shown(database, "search_path") == "elsewhere"
        assert shown(database, "idle_in_transaction_session_timeout") == "6s"


def test_what_the_environment_says_of_sessions_goes_before(postgresql_url, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
    monkeypatch.setenv("PGAPPNAME", "night shift")
    with opened(postgresql_url) as database:
        assert shown(database, "application_name") == "night shift"
        assert shown(database, "search_path") == "elsewhere"
        assert shown(database, "lock_timeout") == "5s"


def test_a_process_that_stands_still_in_a_transaction_does_not_keep_its_locks(postgresql_url):
    stopped = with_query(postgresql_url, options="-c idle_in_transaction_session_timeout=50ms")
    with opened(stopped) as one, opened(postgresql_url) as other:

        def stand_still(tx: Any) -> None:
            topologies.lock_dispatch(tx)
            assert other.run(topologies.lock_dispatch) == 1
            topologies.newest_version(tx)

        with pytest.raises(DatabaseUnreachable, match="does not answer"):
            one.run(stand_still)
        assert one.run(topologies.lock_dispatch) == 1


# --- the schema ---------------------------------------------------------------------------------------------


@pytest.fixture
def bare_url(fresh_postgresql_url: str) -> str:
    """A database in which there is nothing yet."""
    execute(
        fresh_postgresql_url,
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
    )
    return fresh_postgresql_url


def execute(url: str, *statements: str) -> None:
    address = url.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_tables_lie_in_the_schema_of_the_search_path_two_installations_side_by_side(bare_url):
    execute(bare_url, "CREATE SCHEMA night", "CREATE SCHEMA day")
    for name in ("night", "day"):
        with opened(with_query(bare_url, options=f"-csearch_path={name}")) as database:
            with pytest.raises(DatabaseOutdated, match="holds no batchq tables yet"):
                schema.check(database)
            assert schema.upgrade(database) == (None, schema.NEWEST)
            schema.check(database)
            database.run(servers.create, name)
            with database.read() as tx:
                assert [server.name for server in topologies.read(tx).servers] == [name]
                found = dict(map(tuple, tx.execute(text(TABLES))))
    assert found == {"night": len(Row.metadata.tables) + 1, "day": len(Row.metadata.tables) + 1}


TABLES = "SELECT schemaname, count(*) FROM pg_tables WHERE tablename LIKE 'batchq%' GROUP BY schemaname"


def test_of_four_upgrades_at_once_one_does_it_and_the_others_find_it_done(bare_url):
    together = threading.Barrier(4)
    outcomes: list[Any] = []

    def upgrade() -> None:
        with opened(bare_url) as database:
            together.wait()
            try:
                outcomes.append(schema.upgrade(database))
            except Exception as error:
                outcomes.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [(schema.NEWEST, schema.NEWEST)] * 3 + [(None, schema.NEWEST)]


def test_a_schema_newer_than_the_program_is_neither_worked_on_nor_upgraded(database):
    with database.write() as tx:
        tx.execute(text("UPDATE batchq_version SET version_num = '9999'"))
    try:
        for act in (schema.check, schema.upgrade):
            with pytest.raises(DatabaseTooNew) as raised:
                act(database)
            assert raised.value.exit_code == 4
            assert f"is at schema 9999; this version of batchq knows none after {schema.NEWEST}." in str(raised.value)
    finally:
        with database.write() as tx:
            tx.execute(text(f"UPDATE batchq_version SET version_num = '{schema.NEWEST}'"))


# --- refusals -----------------------------------------------------------------------------------------------


def refusal(url: str, act: Callable[[Database], object]) -> str:
    """The sentence with which the database refuses."""
    with opened(url) as database, pytest.raises(DatabaseRefuses) as raised:
        act(database)
    said = str(raised.value)
    assert "secret" not in said
    assert raised.value.exit_code == 4
    assert "\n" not in said
    return said.partition(" refuses ")[2]


def test_a_database_or_a_user_that_does_not_exist_is_one_sentence_with_what_helps(postgresql_url):
    url = make_url(postgresql_url)
    nowhere = url.set(database="nowhere").render_as_string(hide_password=False)
    nobody = url.set(username="nobody").render_as_string(hide_password=False)
    assert refusal(nowhere, schema.check) == (
        '(database "nowhere" does not exist). Create it with createdb, or correct its name in BATCHQ_DATABASE_URL.'
    )
    assert refusal(nobody, schema.check) == (
        '(role "nobody" does not exist). Create it with createuser, or correct the user in BATCHQ_DATABASE_URL.'
    )


@pytest.fixture
def poor_url(postgresql_url: str) -> Iterator[str]:
    """The database, for a user who has no right to anything in it."""
    execute(postgresql_url, "CREATE ROLE poor LOGIN")
    yield make_url(postgresql_url).set(username="poor").render_as_string(hide_password=False)
    execute(postgresql_url, "DROP OWNED BY poor", "DROP ROLE poor")


def test_a_user_without_rights_is_told_what_they_may_not(postgresql_url, poor_url):
    helps = "Grant its user what that needs, or act as the owner of the tables."
    assert refusal(poor_url, schema.check) == f"(permission denied for table batchq_version). {helps}"
    execute(postgresql_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO poor")
    with opened(poor_url) as database:
        schema.check(database)
    assert refusal(poor_url, lambda database: database.run(servers.create, "AOS1")) == (
        f"(permission denied for table batchq_server). {helps}"
    )


def test_an_upgrade_by_a_user_who_may_create_nothing_is_refused_in_one_sentence(bare_url, poor_url):
    bare = make_url(bare_url).set(username="poor").render_as_string(hide_password=False)
    assert refusal(bare, schema.upgrade) == (
        "(permission denied for schema public). Grant its user what that needs, or act as the owner of the tables."
    )


def test_a_schema_that_does_not_exist_is_found_missing_by_the_upgrade(bare_url):
    url = with_query(bare_url, options="-csearch_path=nowhere")
    assert refusal(url, schema.upgrade) == (
        "(no schema has been selected to create in). Create the schema, or correct the search_path."
    )


def test_tables_that_went_away_and_a_database_that_may_not_be_written_to_are_said_in_one_sentence(bare_url):
    assert refusal(bare_url, lambda database: database.run(topologies.newest_version)) == (
        '(relation "batchq_dispatch" does not exist). Run `batchq.store.schema.upgrade`, or correct the search_path.'
    )
    standby = with_query(bare_url, options="-cdefault_transaction_read_only=on")
    assert refusal(standby, schema.upgrade).startswith("(cannot execute CREATE TABLE in a read-only transaction). Set ")


@pytest.fixture
def asking_url(postgresql_url: str, postgres: str) -> Iterator[str]:
    """The database, for a user of whom the server wants a password: "right"."""
    execute(postgresql_url, "CREATE ROLE asked LOGIN PASSWORD 'right'")
    with psycopg.connect(postgres, autocommit=True) as connection:
        (file,) = map(Path, connection.execute("SHOW hba_file").fetchone())
        before = file.read_text()
        file.write_text(f"local all asked scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        url = make_url(postgresql_url).set(username="asked")
        deadline = time.monotonic() + 30
        while lets_in(url) and time.monotonic() < deadline:
            pass  # until the server has read its file
        yield url.set(password="right").render_as_string(hide_password=False)
        file.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE asked")


def lets_in(url: URL) -> bool:
    with opened(url.render_as_string(hide_password=False)) as database:
        try:
            shown(database, "server_version")
        except DatabaseUnreachable:
            return False
    return True


def test_a_wrong_password_is_told_from_a_database_that_is_away_and_never_shown(asking_url):
    assert lets_in(make_url(asking_url))
    helps = "Correct the user or the password in BATCHQ_DATABASE_URL, or set PGPASSWORD."
    wrong = make_url(asking_url).set(password="wrong-secret").render_as_string(hide_password=False)
    assert refusal(wrong, schema.check) == f'(password authentication failed for user "asked"). {helps}'
    none = make_url(asking_url)._replace(password=None).render_as_string(hide_password=False)
    assert refusal(none, schema.check).endswith(f"no password supplied). {helps}")


def test_tasks_are_swept_by_how_many_moved_whatever_there_is_to_remember(postgresql):
    with postgresql.read() as tx:
        (options,) = tx.execute(text("SELECT reloptions FROM pg_class WHERE relname = 'batchq_task'")).one()
    assert "autovacuum_vacuum_scale_factor=0" in options


@pytest.mark.parametrize("way", ["the driver's own", "ours"])
def test_a_connection_that_is_lost_inside_a_savepoint_is_an_outage_and_no_fault_of_what_was_stored(
    postgresql: Database, way: str
) -> None:
    end = text("SELECT pg_terminate_backend(pg_backend_pid())")

    def lose(tx: Tx) -> None:
        if way == "ours":
            ended = func.pg_terminate_backend(func.pg_backend_pid(type_=Integer), type_=Boolean)
            Statement(select(ended.label("ended")))(tx)
        else:
            tx.execute(end)

    def act(tx: Tx) -> None:
        trouble.tried(tx, lambda: lose(tx), keep=True)

    with pytest.raises(DatabaseUnreachable):
        postgresql.run(act)
    with pytest.raises(DatabaseUnreachable):
        aside.run(postgresql, act)
    assert postgresql.run(lambda tx: tx.execute(text("SELECT 1")).scalar()) == 1
