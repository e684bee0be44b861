"""Transactions on both databases: how they begin, wait, are repeated, and say that the database is away."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from batchq import engine
from batchq.errors import DatabaseRefuses, DatabaseUnreachable, InvalidInput
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.columns import GROUP
from batchq.store.database import Database
from batchq.store.group import name_groups
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import Group, Server
from play import Play


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


@pytest.fixture
def other(database):
    """Another process's view of the same database."""
    other = Database(url_of(database), patience=0.2)
    yield other
    other.dispose()


def groups(database: Database) -> set[str]:
    with database.read() as tx:
        return set(tx.execute(select(GROUP.name)).scalars())


def broken(tx: Connection, act: Callable[[Connection], object]) -> None:
    """Do it, and then fail before the commit."""
    act(tx)
    raise ZeroDivisionError


# --- begin, commit, roll back -------------------------------------------------------------------------------


def test_a_transaction_is_committed_at_its_end_and_rolled_back_by_an_exception(database):
    with database.write() as tx:
        tx.execute(insert(Group).values(name="kept"))
    with pytest.raises(ZeroDivisionError):
        database.run(broken, lambda tx: tx.execute(insert(Group).values(name="lost")))
    assert groups(database) == {"default", "kept"}


def test_a_writer_waits_for_another_one_and_a_reader_does_not(database, other):
    waiting = threading.Event()

    def write() -> None:
        waiting.set()
        patient = Database(url_of(database))
        patient.run(lambda tx: tx.execute(update(Group).values(priority=GROUP.priority + 1)))
        patient.dispose()

    with database.write() as tx:
        tx.execute(update(Group).values(priority=GROUP.priority + 1))
        writer = threading.Thread(target=write)
        writer.start()
        waiting.wait()
        assert groups(other) == {"default"}
    writer.join()
    with database.read() as tx:
        assert tx.execute(select(GROUP.priority)).scalar_one() == 3


def test_a_writer_that_read_first_still_writes_after_another_one_has_written(database, other):
    """On SQLite it would fail at once, however patient, had it not begun as a writer."""
    for each in (database, other):
        with each.write() as tx:
            before = tx.execute(select(GROUP.priority)).scalar_one()
            tx.execute(update(Group).values(priority=before + 1))
    with database.read() as tx:
        assert tx.execute(select(GROUP.priority)).scalar_one() == 3


def test_the_clock_is_aware_in_utc_and_moves_on_within_a_transaction(database):
    with database.read() as tx:
        first, second = tx.now(), tx.now()
    assert first.tzinfo is UTC
    assert first < second
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_database_is_opened_on_first_use_and_again_after_it_was_closed(database):
    fresh = Database(url_of(database))
    assert fresh._engine is None
    assert groups(fresh) == {"default"}
    fresh.dispose()
    assert fresh._engine is None
    assert groups(fresh) == {"default"}
    fresh.dispose()
    fresh.dispose()


# --- repeated -----------------------------------------------------------------------------------------------


def test_a_transaction_that_lost_a_deadlock_is_repeated_from_its_start(postgresql):
    with postgresql.write() as tx:
        tx.execute(insert(Group), [{"name": "A", "priority": 0}, {"name": "B", "priority": 0}])
    both_hold = threading.Barrier(2)
    attempts: list[str] = []

    def cross(first: str, second: str) -> None:
        def act(tx):
            attempts.append(first)
            again = attempts.count(first) > 1
            tx.execute(update(Group).where(GROUP.name == first).values(priority=GROUP.priority + 1))
            if not again:
                both_hold.wait()
            tx.execute(update(Group).where(GROUP.name == second).values(priority=GROUP.priority + 1))

        postgresql.run(act)

    threads = [threading.Thread(target=cross, args=names) for names in (("A", "B"), ("B", "A"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Once at least: who lost may be back, and hold its first row anew, before the other one has woken up.
    assert len(attempts) > 2
    with postgresql.read() as tx:
        assert dict(tuple(row) for row in tx.execute(select(GROUP.name, GROUP.priority))) == {
            "default": 1,
            "A": 2,
            "B": 2,
        }


def test_a_prepared_statement_that_lost_a_deadlock_says_so_as_any_other_does(postgresql):
    """What is raised tells the repeatable errors from the rest."""
    impatient = Database(url_of(postgresql), patience=0.05)
    prepared = Statement(select(GROUP.name).with_for_update())
    with postgresql.write() as tx:
        prepared(tx)
        with pytest.raises(DBAPIError) as raised, impatient.write() as late:
            prepared(late)
    assert getattr(raised.value.orig, "sqlstate", None) == "55P03"
    impatient.dispose()


def test_a_transaction_is_repeated_ten_times_at_most(postgresql):
    impatient = Database(url_of(postgresql), patience=0.01)
    attempts = []

    def act(tx):
        attempts.append(tx)
        tx.execute(select(GROUP.name).with_for_update())

    with postgresql.write() as tx:
        tx.execute(select(GROUP.name).with_for_update())
        with pytest.raises(DatabaseRefuses, match=r"lock timeout.*Another session holds a lock"):
            impatient.run(act)
    impatient.dispose()
    assert len(attempts) == 10


def test_an_error_of_another_kind_is_not_repeated(database):
    attempts = []

    def act(tx):
        attempts.append(tx)
        tx.execute(insert(Group).values(name="default"))

    with pytest.raises(IntegrityError):
        database.run(act)
    assert len(attempts) == 1


# --- away ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////proc/nowhere/batchq.db", "refuses (No such file or directory)"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/batchq", "does not answer"),
    ],
)
def test_a_database_that_is_away_is_one_sentence_without_the_password(url, says):
    database = Database(url)
    with pytest.raises(DatabaseUnreachable) as raised, database.read():
        pass
    database.dispose()
    assert raised.value.exit_code == 4
    assert str(raised.value).startswith("The database ")
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prepared", [False, True], ids=["any statement", "a prepared one"])
def test_a_connection_that_the_server_ended_is_a_database_that_is_away_and_the_next_one_works(postgresql, prepared):
    statement = Statement(select(GROUP.name)) if prepared else lambda tx: tx.execute(select(GROUP.name))

    def cut_off(tx) -> None:
        terminate(postgresql, tx.execute(text("SELECT pg_backend_pid()")).scalar_one())
        statement(tx)

    with pytest.raises(DatabaseUnreachable):
        postgresql.run(cut_off)
    assert groups(postgresql) == {"default"}


def test_a_connection_that_the_server_ended_while_it_was_idle_is_replaced_unseen(postgresql):
    with postgresql.read() as tx:
        backend = tx.execute(text("SELECT pg_backend_pid()")).scalar_one()
    terminate(postgresql, backend)
    assert groups(postgresql) == {"default"}


def test_the_connection_that_is_kept_for_writing_is_replaced_unseen_once_the_server_ended_it(postgresql):
    backend = postgresql.run(lambda tx: tx.execute(text("SELECT pg_backend_pid()")).scalar_one())
    assert postgresql.run(lambda tx: tx.execute(text("SELECT pg_backend_pid()")).scalar_one()) == backend
    terminate(postgresql, backend)
    assert postgresql.run(lambda tx: tx.execute(text("SELECT pg_backend_pid()")).scalar_one()) != backend


# --- the connection that is kept for writing ----------------------------------------------------------------

NAMED = Statement(insert(Group).values(name=bindparam("name"), priority=1, paused=False))


@pytest.mark.parametrize("ends", ["commits", "fails"])
def test_prepared_statements_and_others_of_one_transaction_come_in_their_order_and_end_with_it(database, ends):
    database.run(lambda tx: None)  # from now on the connection is there

    def act(tx: Connection) -> None:
        NAMED.later(tx, name="first")
        tx.execute(update(Group).where(GROUP.name == "first").values(name="second"))
        with tx.begin_nested():
            NAMED.later(tx, name="third")
        NAMED.later(tx, name="last")
        if ends == "fails":
            raise ZeroDivisionError

    if ends == "fails":
        with pytest.raises(ZeroDivisionError):
            database.run(act)
        database.run(lambda tx: NAMED.later(tx, name="next"))
        assert groups(database) == {"default", "next"}
    else:
        database.run(act)
        assert groups(database) == {"default", "second", "third", "last"}


def test_who_writes_and_reads_in_turn_has_one_session(postgresql):
    sessions = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'batchq' AND pid <> pg_backend_pid()"
    )
    with Database(url_of(postgresql), name="counts").read() as others:
        before = others.execute(sessions).scalar_one()
    for _ in range(3):
        postgresql.run(lambda tx: tx.execute(text("SELECT 1")))
        assert groups(postgresql) == {"default"}
    with Database(url_of(postgresql), name="counts").read() as others:
        assert others.execute(sessions).scalar_one() <= max(before, 1)


def test_two_threads_write_at_once_through_one_database(postgresql):
    with postgresql.write() as tx:
        NAMED(tx, name="one")
        thread = threading.Thread(target=postgresql.run, args=(lambda tx: NAMED.later(tx, name="other"),))
        thread.start()
        thread.join(10)
        assert groups(postgresql) == {"default", "other"}
    assert groups(postgresql) == {"default", "other", "one"}


def test_a_thread_that_writes_waits_for_the_other_one_on_sqlite(sqlite):
    with sqlite.write() as tx:
        NAMED(tx, name="one")
        thread = threading.Thread(target=sqlite.run, args=(lambda tx: NAMED.later(tx, name="other"),))
        thread.start()
    thread.join(10)
    assert groups(sqlite) == {"default", "other", "one"}


def terminate(database: Database, backend: int) -> None:
    address = url_of(database).replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])


def test_a_sqlite_file_that_another_one_keeps_locked_is_away_once_patience_ends(sqlite_url):
    holder, waiter = Database(sqlite_url), Database(sqlite_url, patience=0.05)
    with holder.write(), pytest.raises(DatabaseUnreachable, match="database is locked"), waiter.write():
        pass
    holder.dispose()
    waiter.dispose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://host/db", "neither SQLite nor PostgreSQL|cannot be used"),
        ("nonsense", "cannot be used"),
        ("postgresql+nodriver://host/db", "cannot be used"),
        ("", "cannot be used"),
    ],
)
def test_a_url_that_is_none_of_ours_is_refused_with_advice(url, says):
    with pytest.raises(InvalidInput, match=says):
        Database(url)


# --- SQLite as we set it ------------------------------------------------------------------------------------


def test_a_sqlite_database_is_durable_private_and_checks_its_references(tmp_path):
    path = tmp_path / "new" / "batchq.db"
    database = Database(f"sqlite:///{path}")
    with database.write() as tx:
        settings = {
            name: tx.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10000}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path.parent).stat().st_mode) == 0o700
    database.dispose()


# --- prepared statements ------------------------------------------------------------------------------------


def test_a_prepared_statement_takes_lists_instants_and_truth_values_and_gives_them_back(database):
    instant = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
    made = Statement(
        insert(Server).values(
            name="AOS1", threads=1, enabled=True, liveness="running", epoch=1, beat=1, beat_at=instant
        )
    )
    server = servers.SERVER
    found = Statement(select(server.name, server.enabled, server.beat_at).where(among(server.name, "names")))
    with database.write() as tx:
        assert made.count(tx) == 1
        (row,) = found(tx, names=["AOS1", "it's", 'a "quote"', "ÆØÅ"])
        assert (row.name, row.enabled, row.beat_at) == ("AOS1", True, instant)
        assert tuple(row) == ("AOS1", True, instant)
        assert found(tx, names=[]) == []
        assert found(tx, names=("AOS2",)) == []


def test_a_prepared_statement_run_for_no_rows_does_nothing(database):
    raised = Statement(
        lambda given: update(Group).where(GROUP.name == given.group).values(priority=2),
        columns={"group": GROUP.name},
    )
    with database.write() as tx:
        assert raised.count(tx, []) == 0
        assert raised.count(tx, [{"group": "default"}, {"group": "BG1"}]) == 1


def test_plain_rows_are_one_statement_and_come_as_they_are(database):
    group = GROUP
    changed = Statement(
        lambda given: (
            update(Group).where(group.name == given.name).values(priority=given.priority, paused=given.paused)
        ),
        plain=True,
        columns={"name": group.name, "priority": group.priority, "paused": group.paused},
    )
    names = ["it's", 'a "quote"', "ÆØÅ\\"]
    with database.write() as tx:
        name_groups(tx, names)
        changed.later(
            tx, [{"name": names[0], "priority": 3, "paused": True}, {"name": "none", "priority": 3, "paused": 1}]
        )
        changed.later(tx, [(names[1], 2, False), (names[2], 0, True)])
        changed.later(tx, [])
    with database.read() as tx:
        rows = {row.name: (row.priority, row.paused) for row in tx.execute(select(Group.__table__))}
    assert rows == {"default": (1, False), names[0]: (3, True), names[1]: (2, False), names[2]: (0, True)}


# --- the topology kept in memory ----------------------------------------------------------------------------


def test_a_topology_seen_in_a_transaction_that_was_rolled_back_is_forgotten(database, other):
    batch = Play(database)
    life = batch.server("AOS1")

    def change(tx, threads: int) -> None:
        servers.set_server(tx, life.server, threads=threads)
        topologies.changed(tx)

    def change_and_look(tx) -> None:
        change(tx, 7)
        engine.take_back(tx, tx.now())

    with pytest.raises(ZeroDivisionError):
        database.run(broken, change_and_look)
    other.run(change, 2)
    with database.read() as tx:
        (seen,) = topologies.current(tx).servers
    assert seen.threads == 2


def test_a_reader_sees_one_moment_of_the_database(database, other):
    with database.read() as tx:
        before = tx.execute(select(GROUP.name)).scalars().all()
        other.run(lambda late: late.execute(insert(Group).values(name="new", priority=1)))
        assert tx.execute(select(GROUP.name)).scalars().all() == before
    assert groups(database) == {"default", "new"}
