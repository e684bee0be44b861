"""A broker that hangs, falls silent or refuses: servers store, limit and stop meanwhile, and go on when it is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from batchq import Job
from e2e.jobs import many
from e2e.judge import judge
from support.site import BROKER, Entry, Site

THREADS = {"AOS1": 4, "AOS2": 2}
# What is known at once without a broker may take so long with a silent one, and what goes on after it.
STORED_SECONDS = 5.0
AFTER_SECONDS = 15.0
LOST_SECONDS = 6.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("silent"), broker=broker, proxied=True, lost_seconds=LOST_SECONDS) as site:
        site.start_broker()
        site.start_coordinator()
        for name, threads in THREADS.items():
            site.start_server(name, threads, wait=False)
        site.wait_for("the servers", lambda: all(map(site.runs, THREADS)))
        yield site


def stopped(site: Site) -> None:
    site.tell(BROKER, signal.SIGSTOP)


def continued(site: Site) -> None:
    site.tell(BROKER, signal.SIGCONT)


WAYS = {
    "the broker is stopped": (stopped, continued),
    "the network carries nothing": (lambda site: site.proxy.hang(), lambda site: site.proxy.resume()),
}


def started(site: Site, run: int, task: str) -> Entry | None:
    return next((entry for entry in site.ledger(run) if entry.task == task and entry.end is None), None)


def works(site: Site, name: str, seconds: float = AFTER_SECONDS) -> None:
    """A new job must run to its end by way of the broker, on both servers."""
    job = many(name, 12, seconds=0.05)
    began = time.monotonic()
    run = site.submit(job)
    assert site.wait_end(run, seconds)["status"] == "success"
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("way", WAYS)
def test_while_the_broker_hangs_outcomes_time_limits_dead_children_and_heartbeats_go_on(site: Site, way: str) -> None:
    hang, go_on = WAYS[way]
    name = way.upper()
    job = Job(name)
    job.task("ends", "ledger.work", kwargs={"gate": f"{name} ends"})
    job.task("too long", "ledger.work", kwargs={"gate": "never"}, time_limit=4)
    job.task("dies", "ledger.work", kwargs={"gate": "never"})
    job.task("next", "ledger.work", after={"ends": "success"})
    run = site.submit(job)
    died = site.wait_for("dies to start", lambda: started(site, run, "dies"))
    site.wait_for("all to start", lambda: len(site.ledger(run)) == 3)
    lives = {server: site.server(server)["started_at"] for server in THREADS}
    epochs = site.log("AOS1").count("declared lost"), site.log("AOS2").count("declared lost")

    hang(site)
    began = time.monotonic()
    site.open_gate(f"{name} ends")
    os.kill(died.pid, signal.SIGKILL)
    try:
        site.wait_for("the outcome", lambda: site.states(run)["ends"] == "success", STORED_SECONDS)
        site.wait_for("the dead child", lambda: site.states(run)["dies"] == "error", STORED_SECONDS)
        site.wait_for("the time limit", lambda: site.states(run)["too long"] == "error", 4 + STORED_SECONDS)
        site.wait_for("two times its silence", lambda: time.monotonic() - began > 2 * LOST_SECONDS)
        states = {server: site.server(server)["state"] for server in THREADS}
    finally:
        go_on(site)

    assert site.wait_end(run, AFTER_SECONDS)["status"] == "error"
    works(site, f"AFTER {name}")
    assert states == dict.fromkeys(THREADS, "open")
    assert {server: site.server(server)["started_at"] for server in THREADS} == lives
    assert (site.log("AOS1").count("declared lost"), site.log("AOS2").count("declared lost")) == epochs
    judge(site, {run: job}, THREADS)


def test_work_goes_on_when_old_connections_are_silent_and_new_ones_work(site: Site) -> None:
    works(site, "BEFORE")
    site.proxy.silence()
    works(site, "SILENCE")
    works(site, "AFTER")
    for name in ("AOS1", "AOS2", "coordinator"):
        assert site.processes[name].poll() is None


def test_a_server_told_to_end_while_the_broker_hangs_lets_its_tasks_end_and_stores_how(site: Site) -> None:
    job = many("TOLD TO END", 4, gate="told")
    site.cli("server", "disable", "AOS1")
    run = site.submit(job)
    site.wait_for("two to start", lambda: len(site.ledger(run)) == 2)
    try:
        site.proxy.hang()
        site.tell("AOS2", signal.SIGTERM)
        site.open_gate("told")
        assert site.wait_exit("AOS2", 15) == 0
        stored = [task["status"] for task in site.tasks(run).values() if task["server"] == "AOS2"]
        state = site.server("AOS2")["state"]
    finally:
        site.proxy.resume()
        site.cli("server", "enable", "AOS1")
    assert (state, stored) == ("stopped", ["success", "success"])
    assert site.wait_end(run)["status"] == "success"
    site.start_server("AOS2", 2)
    judge(site, {run: job}, THREADS)


def test_a_coordinator_told_to_end_while_the_broker_hangs_ends(site: Site) -> None:
    site.start("second", "coordinator", "--loglevel", "INFO")
    site.wait_for("it to heed signals", lambda: " ready.\n" in site.log("second"))
    works(site, "TWO COORDINATORS")
    try:
        site.proxy.hang()
        assert site.stop("second", 15) == 0
    finally:
        site.proxy.resume()
    works(site, "ONE COORDINATOR")
