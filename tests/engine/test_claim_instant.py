"""The instant that counts is the claim: whoever waited for a lock judges by what is true afterwards (rules 12, 20)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, time, timedelta
from typing import Any

import psycopg
import pytest

from batchq import Job, actions
from batchq.core.windows import Window
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.transaction import Tx
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def batch(postgresql: Clocked) -> Play:
    postgresql.instant = NOON
    return Play(postgresql)


@contextmanager
def meanwhile(database: Clocked, act: Callable[[], Any], waiting: int = 1) -> Iterator[None]:
    """Let `act` begin in a thread; the body runs once so many wait for a lock, and at the end it has ended."""
    thread = threading.Thread(target=act)
    thread.start()
    address = database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        while thread.is_alive() and connection.execute(WAITS).fetchone()[0] < waiting:
            pass
    yield
    thread.join()


def held_back(batch: Play) -> tuple[list[Any], Callable[[], None]]:
    """What a server that goes on by itself was granted, and the call that makes it go on."""
    granted: list[Any] = []
    return granted, lambda: granted.extend(batch.serve("AOS1", more_to_settle=True).granted)


@pytest.mark.parametrize("overridden", [False, True])
def test_a_window_or_an_override_that_ended_while_dispatch_was_waited_for_lets_nothing_start(
    batch, postgresql, overridden
):
    closes = NOON + timedelta(seconds=1)
    batch.server("AOS1", 0, windows=[] if overridden else [Window(time(11), closes.time(), 1, "UTC")])
    if overridden:
        actions.override_server(postgresql, "AOS1", 1, closes)
    job = Job("LATE")
    job.task("A", "demo.work")
    batch.change("AOS1", enabled=False)
    run = batch.submit(job)
    with postgresql.write() as tx:
        servers.set_server(tx, topologies.read(tx).servers[0].id, enabled=True)
        topologies.changed(tx)
    granted, go_on = held_back(batch)
    holder = Clocked(postgresql.url.render_as_string(hide_password=False))
    with closing(Tx(holder)) as other:
        transaction = other.begin()
        topologies.lock_dispatch(other)
        with meanwhile(postgresql, go_on):
            postgresql.later(seconds=2)
            transaction.rollback()
    holder.dispose()
    assert granted == []
    assert batch.states(run)["A"] in ("queued", "ready")


def test_a_group_bound_elsewhere_while_its_row_was_waited_for_is_not_claimed(batch, postgresql):
    batch.server("AOS1")
    batch.server("AOS2", groups=["BG2"])
    job = Job("FOREIGN")
    job.task("A", "demo.work", group="BG1")
    run = batch.submit(job)
    (ticket,) = batch.mail
    granted: list[Any] = []
    holder = Clocked(postgresql.url.render_as_string(hide_password=False))

    def bind() -> None:
        """Hold all tickets that are out, and wait for dispatch."""
        actions.set_groups(holder, "AOS2", ["BG1", "BG2"])

    def claim() -> None:
        granted.extend(batch.serve("AOS1", offers=[ticket]).granted)

    with closing(Tx(holder)) as other:
        transaction = other.begin()
        topologies.lock_dispatch(other)
        with meanwhile(postgresql, bind), meanwhile(postgresql, claim, waiting=2):
            transaction.rollback()
    holder.dispose()
    assert granted == []
    assert batch.states(run)["A"] in ("queued", "ready")
