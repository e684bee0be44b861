"""Processes that are killed, stopped or told to end while a job runs, and a database that is locked meanwhile.

Each test is one fault, told from the start to the run's end; then the judge compares what the operations wrote
down with what the database says.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from e2e.jobs import lanes, many
from e2e.judge import cut_off, judge, read
from support.site import Entry, Site

THREADS = {"AOS1": 2, "AOS2": 2}
LOST_SECONDS = 4.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("faults")) as site:
        site.start_broker()
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """A coordinator and two servers of two threads, whatever the test before did to them."""
    if "coordinator" not in shared.processes:
        shared.start_coordinator()
    missing = [name for name in THREADS if name not in shared.processes]
    shared.start_servers(missing, threads=2)
    return shared


@pytest.fixture
def watchful(tmp_path: Path) -> Iterator[Site]:
    """An installation that calls a server lost after 4 s; its servers are still to be started."""
    with Site(tmp_path, lost_seconds=LOST_SECONDS, heartbeat_seconds=0.5) as site:
        site.start_broker()
        site.start_coordinator()
        yield site


def started(site: Site, run: int, *tasks: str) -> dict[str, Entry]:
    """The newest start of each of these tasks, once all have started."""
    site.wait_for(f"{tasks} to start", lambda: set(tasks) <= {entry.task for entry in site.ledger(run)})
    return {entry.task: entry for entry in site.ledger(run) if entry.task in tasks}


def ended(site: Site, run: int) -> int:
    """How many operations came to their end."""
    return sum(entry.end is not None for entry in site.ledger(run))


def outcome(site: Site, run: int, task: str, attempt: int = 1) -> str | None:
    """The error of an attempt that the database has as ended; None before, empty for a success."""
    row = read(site, run).attempts[task].get(attempt)
    return None if row is None else row.error or ""


# --- a child ------------------------------------------------------------------------------------------------


def test_a_killed_child_is_reported_within_five_seconds_and_the_run_goes_on(site: Site) -> None:
    job = lanes("KILLED CHILD", first="children")
    run = site.submit(job)
    once, again = "lane 1 link 0", "lane 0 link 0"
    for entry in started(site, run, once, again).values():
        os.kill(entry.pid, signal.SIGKILL)

    for task in (once, again):
        error = site.wait_for(f"the end of {task}", lambda task=task: outcome(site, run, task), seconds=5)
        assert error.startswith("lost: its process ended (signal 9 (SIGKILL)")
    site.open_gate("children")

    assert site.wait_end(run)["status"] == "error"
    judge(site, {run: job}, THREADS)
    states = site.states(run)
    assert (states[once], states["lane 1 link 1"], states[again]) == ("error", "success", "success")
    assert site.tasks(run)[again]["attempts"] == 2


# --- a server -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_server_goes_on_within_five_seconds_of_its_restart(site: Site) -> None:
    job = lanes("RESTARTED SERVER", gate="restarted")
    run = site.submit(job)
    site.wait_for("some work", lambda: ended(site, run) >= 6)
    site.kill("AOS1")
    site.start_server("AOS1")
    new = {child.pid for child in site.children("AOS1")}

    site.wait_for("AOS1 to work again", lambda: new & {entry.pid for entry in site.ledger(run)}, seconds=5)
    site.open_gate("restarted")

    view = site.wait_end(run)
    judge(site, {run: job}, THREADS)
    lost = [row for rows in read(site, run).attempts.values() for row in rows.values() if cut_off(row)]
    assert {row.error for row in lost} <= {"lost: server AOS1 went away during this attempt; what it did is not known"}
    assert (view["status"] == "error") == ("error" in site.states(run).values())


@pytest.mark.slow
def test_what_a_lost_server_ran_goes_to_another_if_it_has_retries_and_is_an_error_if_not(watchful: Site) -> None:
    site, job = watchful, lanes("LOST SERVER", first="lost")
    site.start_server("AOS1", threads=2)
    run = site.submit(job)
    once, again = "lane 1 link 0", "lane 0 link 0"
    started(site, run, once, again)
    site.start_server("AOS2", threads=2)
    site.kill("AOS1")
    site.wait_for("AOS1 to be lost", lambda: site.server("AOS1")["state"] == "lost", seconds=30)
    site.open_gate("lost")

    assert site.wait_end(run)["status"] == "error"
    judge(site, {run: job}, THREADS)
    first = {task: outcome(site, run, task) for task in (once, again)}
    assert set(first.values()) == {"lost: server AOS1 went away during this attempt; what it did is not known"}
    tasks = site.tasks(run)
    assert (tasks[once]["status"], tasks[once]["attempts"]) == ("error", 1)
    assert (tasks[again]["status"], tasks[again]["attempts"], tasks[again]["server"]) == ("success", 2, "AOS2")
    assert [name for name, task in tasks.items() if task["status"] == "error"] == [once]


@pytest.mark.slow
def test_a_server_stopped_for_longer_than_the_silence_goes_on_under_a_new_epoch(watchful: Site) -> None:
    site, job = watchful, lanes("STOPPED SERVER", first="stopped", gate="all on")
    site.start_server("AOS1", threads=2)
    run = site.submit(job)
    once, again = "lane 1 link 0", "lane 0 link 0"
    stale = started(site, run, once, again)
    site.start_server("AOS2", threads=2)
    children = {child.pid for child in site.children("AOS1")}
    site.tell("AOS1", signal.SIGSTOP)
    site.wait_for("AOS1 to be lost", lambda: site.server("AOS1")["state"] == "lost", seconds=30)
    site.open_gate("stopped")  # its children end their attempts now, which nobody waits for any more
    site.wait_for("AOS2 to do what is left", lambda: outcome(site, run, again, attempt=2) is not None)
    site.tell("AOS1", signal.SIGCONT)

    site.wait_for("AOS1 to be back", lambda: site.server("AOS1")["state"] == "open", seconds=30)
    back = time.monotonic()
    site.wait_for(
        "AOS1 to take new work",
        lambda: any(entry.pid in children and entry.start > back for entry in site.ledger(run)),
    )
    site.open_gate("all on")

    assert site.wait_end(run)["status"] == "error"
    judge(site, {run: job}, THREADS)
    written = {(entry.task, entry.attempt): entry for entry in site.ledger(run)}
    assert all(written[task, 1].end is not None for task in stale)
    assert [(row.status, row.server) for row in read(site, run).attempts[again].values()] == [
        ("error", "AOS1"),
        ("success", "AOS2"),
    ]
    assert [name for name, state in site.states(run).items() if state == "error"] == [once]
    assert "AOS1 was declared lost while it ran; it goes on under epoch " in site.log("AOS1")


# --- a coordinator ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_coordinator_leaves_no_beat_behind_and_a_new_one_ends_the_run(site: Site) -> None:
    job = lanes("KILLED COORDINATOR")
    run = site.submit(job)
    site.wait_for("some work", lambda: ended(site, run) >= 6)
    beat = site.children("coordinator")
    site.kill("coordinator")

    _, left = psutil.wait_procs(beat, timeout=5)
    site.start_coordinator()

    assert site.wait_end(run)["status"] == "success"
    assert (len(beat), left) == (1, [])
    judge(site, {run: job}, THREADS)


@pytest.mark.slow
def test_of_two_coordinators_one_is_killed_and_the_ticks_go_on(tmp_path: Path) -> None:
    job = lanes("TWO COORDINATORS", seconds=0.02)
    with Site(tmp_path, fast_path=False, tick_seconds=0.25) as site:
        site.start_broker()
        site.start_coordinator("one")
        site.start_coordinator("other")
        site.start_servers(list(THREADS), threads=2)
        run = site.submit(job)
        site.wait_for("some work", lambda: ended(site, run) >= 6)
        site.kill("one")

        assert site.wait_end(run)["status"] == "success"
        judge(site, {run: job}, THREADS)


# --- the database -------------------------------------------------------------------------------------------


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Nobody else writes to the database meanwhile."""
    connection = sqlite3.connect(site.folder / "batchq.db", timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def passes(seconds: float) -> object:
    """A condition that comes true after so many seconds."""
    over = time.monotonic() + seconds
    return lambda: time.monotonic() >= over


def test_a_server_told_to_end_stores_its_outcomes_once_the_database_is_unlocked(site: Site) -> None:
    job = many("TOLD TO END", 4, gate="unlocked")
    run = site.submit(job)
    site.wait_for("all to start", lambda: len(site.ledger(run)) == 4)
    with locked(site):
        site.tell("AOS1", signal.SIGTERM)
        site.open_gate("unlocked")
        over = passes(2)
        site.wait_for("all to end", lambda: ended(site, run) == 4)
        site.wait_for("2 s of a locked database", over)
        during = set(site.states(run).values())

    assert site.wait_exit("AOS1") == 0
    assert site.wait_end(run)["status"] == "success"
    assert during == {"executing"}
    assert site.server("AOS1")["state"] == "stopped"
    assert {entry.server for entry in site.ledger(run)} == set(THREADS)
    judge(site, {run: job}, THREADS)


@pytest.mark.slow
def test_a_server_that_starts_or_ends_waits_for_a_locked_database(site: Site) -> None:
    with locked(site):
        site.tell("AOS1", signal.SIGTERM)
        site.wait_for("2 s of a locked database", passes(2))
    code = site.wait_exit("AOS1")
    stopped = site.server("AOS1")["state"]

    site.start_server("AOS1", wait=False)
    locks = 0
    while not site.runs("AOS1"):
        with locked(site):
            site.wait_for("2 s of a locked database", passes(2))
        site.wait_for("half a second without the lock", passes(0.5))
        locks += 1
        assert locks < 20

    assert (code, stopped) == (0, "stopped")


@pytest.mark.slow
def test_a_database_locked_for_ten_seconds_under_load_loses_nothing_and_nobody(site: Site) -> None:
    job = many("LOCKED", 400, seconds=0.02)
    lives = {name: (site.server(name)["pid"], site.server(name)["started_at"]) for name in THREADS}
    run = site.submit(job)
    site.wait_for("some work", lambda: ended(site, run) >= 40)
    with locked(site):
        before = len(site.ledger(run))
        site.wait_for("10 s of a locked database", passes(10), seconds=11)
        meanwhile = len(site.ledger(run)) - before
    beats = {name: site.server(name)["beat_at"] for name in THREADS}
    for name in THREADS:
        site.wait_for("a heartbeat", lambda name=name: site.server(name)["beat_at"] > beats[name], seconds=15)

    assert site.wait_end(run)["status"] == "success"
    assert meanwhile <= 4
    assert len(site.ledger(run)) == 400
    assert {name: (site.server(name)["pid"], site.server(name)["started_at"]) for name in THREADS} == lives
    judge(site, {run: job}, THREADS)
