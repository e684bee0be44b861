"""A PostgreSQL that falls silent under a server and a coordinator: everything goes on within 10 s, and nothing is lost.

Old connections carry nothing and new ones work; or nobody answers at all for a while; or its backends stand still.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from batchq.store.columns import SERVER, TASK
from batchq.store.database import Database
from e2e.jobs import many
from e2e.judge import judge
from support.proxy import Proxy
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

THREADS = {"AOS1": 4}
SILENT_SECONDS = 12.0
MOST_SECONDS = 10.0
SLACK_SECONDS = 3.0  # for a machine with more to do


class Watched:
    """The installation, and the database as it is seen past the proxy."""

    def __init__(self, site: Site, proxy: Proxy, url: str) -> None:
        self.site, self.proxy, self.url = site, proxy, url
        self.database = Database(url)

    def beat(self) -> int:
        with self.database.read() as tx:
            return int(tx.execute(select(SERVER.beat).where(SERVER.name == "AOS1")).scalar_one())

    def states(self, run: int) -> set[str]:
        with self.database.read() as tx:
            return set(tx.execute(select(TASK.status).where(TASK.run_id == run)).scalars())

    def backends(self) -> list[int]:
        """The processes of PostgreSQL that serve ours."""
        found = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'batchq %'"
        )
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            return [pid for (pid,) in connection.execute(found)]


@pytest.fixture
def watched(fresh_postgresql_url: str, tmp_path: Path) -> Iterator[Watched]:
    at = make_url(fresh_postgresql_url)
    with Proxy(Path(str(at.query["host"])) / f".s.PGSQL.{at.query.get('port') or 5432}") as proxy:
        there = at.set(host=proxy.host, port=proxy.port, query={"sslmode": "disable"})
        url = there.render_as_string(hide_password=False)
        with Site(tmp_path, database_url=url, tick_seconds=0.5, heartbeat_seconds=1) as site:
            site.start_broker()
            site.start_coordinator()
            site.start_servers(THREADS, threads=4)
            watched = Watched(site, proxy, fresh_postgresql_url)
            yield watched
            watched.database.dispose()


def falls_silent(watched: Watched) -> Callable[[], None]:
    watched.proxy.silence()
    return lambda: None


def hangs(watched: Watched) -> Callable[[], None]:
    watched.proxy.hang()
    return watched.proxy.resume


def stands_still(watched: Watched) -> Callable[[], None]:
    pids = watched.backends()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    return go_on


@pytest.mark.parametrize(
    ("fault", "seconds"), [(falls_silent, 0.0), (hangs, SILENT_SECONDS), (stands_still, SILENT_SECONDS)]
)
def test_outcomes_heartbeats_and_ticks_go_on_10_s_after_a_silence(
    watched: Watched, fault: Callable[[Watched], Callable[[], None]], seconds: float
):
    site = watched.site
    ending, ticked = many("ENDING", 4, gate="silence"), many("TICKED", 8, seconds=0.1)
    runs = {site.submit(ending): ending}
    (run,) = runs
    site.wait_for("four starts", lambda: len(site.ledger(run)) == 4)

    go_on = fault(watched)
    site.open_gate("silence")  # they end while nobody can be told
    began = time.monotonic()
    site.wait_for("the silence to last", lambda: time.monotonic() >= began + seconds)  # and no process ends meanwhile
    go_on()
    over, beat = time.monotonic(), watched.beat()

    took = {
        "outcomes": until(site, over, lambda: watched.states(run) == {"success"}),
        "heartbeat": until(site, over, lambda: watched.beat() > beat),
    }
    again = site.submit(ticked)  # by a process that had a connection before
    runs[again] = ticked
    site.wait_end(again, seconds=30)
    took["a run that came after"] = time.monotonic() - over
    print(fault.__name__, took)
    assert max(took["outcomes"], took["heartbeat"]) < MOST_SECONDS + SLACK_SECONDS
    assert {entry.attempt for entry in site.ledger()} == {1}
    judge(site, runs, THREADS)


def until(site: Site, since: float, happens: Callable[[], Any]) -> float:
    site.wait_for("everything to go on", happens, seconds=30)
    return time.monotonic() - since
