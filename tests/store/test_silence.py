"""A PostgreSQL that says nothing: whoever asks it gives up after a while, and a new connection goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from batchq import views
from batchq.errors import DatabaseUnreachable
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database
from support.proxy import Proxy

ANSWER = 1.0


@pytest.fixture
def proxy(postgresql_url: str) -> Iterator[Proxy]:
    query = make_url(postgresql_url).query
    port = query.get("port") or 5432
    with Proxy(Path(str(query["host"])) / f".s.PGSQL.{port}") as proxy:
        yield proxy


@pytest.fixture
def database(postgresql_url: str, proxy: Proxy) -> Iterator[Database]:
    """By way of the proxy, for a process that waits a second for an answer, and half a second for a lock."""
    there = make_url(postgresql_url).set(host=proxy.host, port=proxy.port, query={"sslmode": "disable"})
    database = Database(there.render_as_string(hide_password=False), patience=0.5, answer=ANSWER)
    yield database
    database.dispose()


def beat(database: Database) -> None:
    database.run(lambda tx: servers.beat(tx, 1, 1, tx.now()))


def long_list(database: Database) -> None:
    """More is sent than any buffer on the way holds."""
    with database.write() as tx:
        assert not moves.lock_tickets(tx, range(10**12, 10**12 + 500_000)).rows


ASKING: dict[str, Callable[[Database], Any]] = {
    "a heartbeat, by the protocol itself": beat,
    "a large statement": long_list,
    "a check of the schema": schema.check,
    "a view": lambda database: reading(database, views.servers),
    "a statement of the driver's own": lambda database: reading(database, lambda tx: tx.execute(text("SELECT 1"))),
}
# Of these, to be played with a server that does not even take connections; the others are slow tests.
HANGS = ("a large statement", "a view")


def reading(database: Database, look: Callable[[Any], Any]) -> None:
    with database.read() as tx:
        look(tx)


@pytest.mark.parametrize(
    ("asks", "fault"),
    [
        pytest.param(asks, fault, marks=pytest.mark.slow if fault == "hang" and asks not in HANGS else ())
        for asks, fault in product(ASKING, ["silence", "hang"])
    ],
)
def test_a_silent_connection_is_given_up_and_the_next_one_goes_on(
    database: Database, proxy: Proxy, fault: str, asks: str
):
    ASKING[asks](database)
    getattr(proxy, fault)()
    began = time.monotonic()
    with pytest.raises(DatabaseUnreachable) as raised:
        ASKING[asks](database)
    assert ANSWER <= time.monotonic() - began < ANSWER + 3
    assert "does not answer (it said nothing for 1" in str(raised.value)
    if fault == "hang":
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            ASKING[asks](database)  # nobody answers a new connection either
        assert time.monotonic() - began < 6
        proxy.resume()
    began = time.monotonic()
    ASKING[asks](database)
    assert time.monotonic() - began < 3


def test_one_connection_that_is_silent_tells_of_all_others_of_that_moment(database: Database, proxy: Proxy):
    together = [database.engine.connect() for _ in range(3)]
    for connection in together:
        connection.close()
    assert proxy.connections == 3
    proxy.silence()
    began = time.monotonic()
    with pytest.raises(DatabaseUnreachable):
        beat(database)
    beat(database)
    assert time.monotonic() - began < ANSWER + 1


def test_a_transaction_that_fell_silent_half_way_does_not_keep_its_locks(
    postgresql_url: str, database: Database, proxy: Proxy
):
    others = Database(postgresql_url, patience=0.5, answer=ANSWER)

    def stop_half_way(tx: Any) -> None:
        topologies.lock_dispatch(tx)
        proxy.silence()
        topologies.newest_version(tx)

    with pytest.raises(DatabaseUnreachable):
        database.run(stop_half_way)
    began = time.monotonic()
    while time.monotonic() - began < 15:
        try:
            others.run(topologies.lock_dispatch)
            break
        except DatabaseUnreachable:
            continue
    assert time.monotonic() - began < 10
    others.dispose()


def test_a_backend_that_is_stopped_is_silent_and_a_lock_is_not(postgresql_url: str, database: Database):
    with database.write() as tx:
        pid = tx.execute(text("SELECT pg_backend_pid()")).scalar_one()
        topologies.lock_dispatch(tx)
        with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SELECT * FROM batchq_dispatch FOR UPDATE")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseUnreachable, match="it said nothing"):
            beat(database)
        beat(database)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_statement_that_takes_long_is_let_be_where_somebody_waits_for_it(postgresql_url: str):
    database = Database(postgresql_url, answer=60)
    began = time.monotonic()
    reading(database, lambda tx: tx.execute(text("SELECT pg_sleep(8.5)")))
    assert time.monotonic() - began >= 8.5
    database.dispose()


@pytest.mark.parametrize(
    ("options", "lock", "answer"),
    [
        ("", 5.0, 6.0),
        ("-c lock_timeout=7s", 7.0, 8.0),
        ("-c lock_timeout=0", 7.0, 8.0),
        ("-c lock_timeout=1h", 7.0, 8.0),
    ],
)
def test_an_answer_is_waited_for_longer_than_a_lock_and_at_most_8_s(
    postgresql_url: str, options: str, lock: float, answer: float
):
    database = Database(
        make_url(postgresql_url).update_query_dict({"options": options}).render_as_string(hide_password=False)
    )
    with database.read() as tx:
        assert tx.connection.driver_connection.answer_seconds == answer
        found = tx.execute(text("SELECT extract(epoch FROM current_setting('lock_timeout')::interval)")).scalar_one()
        assert float(found) == lock
    database.dispose()


@pytest.mark.parametrize(
    "again", [beat, lambda database: reading(database, topologies.newest_version)], ids=["write", "read"]
)
def test_a_connection_that_rested_is_asked_first_where_a_statement_may_take_long(
    postgresql_url: str, proxy: Proxy, again: Callable[[Database], Any]
):
    there = make_url(postgresql_url).set(host=proxy.host, port=proxy.port, query={"sslmode": "disable"})
    database = Database(there.render_as_string(hide_password=False), answer=60)
    beat(database)
    proxy.silence()
    resting = time.monotonic()
    while time.monotonic() - resting < 1.1:
        os.sched_yield()
    began = time.monotonic()
    again(database)
    assert time.monotonic() - began < 10
    database.dispose()
