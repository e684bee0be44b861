"""A broker that forgets everything, or dies, while a job runs: it holds hints, and the truth is elsewhere."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from batchq import Job
from batchq.store.tables import Run
from e2e.jobs import lanes, many
from e2e.judge import judge
from support.site import BROKER, Entry, Site

THREADS = {"AOS1": 2, "AOS2": 2}
# What a broker that forgot everything may cost: a ticket counts as lost after 5 s.
SECONDS_MORE = 20.0

# RabbitMQ takes some seconds for each start.
KILLS = {"valkey": 10, "rabbitmq": 4}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("broker"), broker=broker) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_servers(list(THREADS), threads=2)
        yield site


def ended(site: Site, run: int) -> int:
    return sum(entry.end is not None for entry in site.ledger(run))


def test_a_broker_flushed_in_the_middle_of_a_run_delays_it_by_no_more_than_twenty_seconds(site: Site) -> None:
    began = time.monotonic()
    calm = site.submit(lanes("CALM"))
    site.wait_end(calm)
    needed = time.monotonic() - began

    job = lanes("FLUSHED")
    began = time.monotonic()
    run = site.submit(job)
    for done in (5, 15, 25):
        site.wait_for(f"{done} tasks", lambda done=done: ended(site, run) >= done)
        site.flush_broker()
    view = site.wait_end(run, needed + 4 * SECONDS_MORE)

    assert view["status"] == "success"
    assert time.monotonic() - began < needed + SECONDS_MORE
    judge(site, {run: job}, THREADS)


def test_tickets_that_were_out_when_the_broker_was_flushed_are_sent_again(site: Site, broker: str) -> None:
    job = many("OUT", 4)
    for name in THREADS:
        site.tell(name, signal.SIGSTOP)
    run = site.submit(job)
    out = set(site.states(run).values())
    kept = site.queues()[site.batch.settings.queue("default")]
    site.flush_broker()
    for name in THREADS:
        site.tell(name, signal.SIGCONT)

    assert site.wait_end(run, SECONDS_MORE)["status"] == "success"
    assert out == {"queued"}
    assert kept or broker == "rabbitmq"  # which has sent them on to the servers, unasked
    judge(site, {run: job}, THREADS)


def test_a_broker_killed_again_and_again_under_short_tasks_ends_no_worker_and_loses_no_outcome(
    site: Site, broker: str
) -> None:
    play_while_the_broker_dies(site, many("SHORT", 1500, seconds=0.002), 1500, kills=KILLS[broker] // 2)


def test_outcomes_too_long_for_a_pipe_survive_a_broker_that_is_killed_again_and_again(site: Site, broker: str) -> None:
    play_while_the_broker_dies(site, many("LONG", 400, log=70_000, result="-" * 60_000), 400, kills=KILLS[broker])


def play_while_the_broker_dies(site: Site, job: Job, tasks: int, kills: int) -> None:
    """The job must end in success, each task having run once, and every worker must live on."""
    lives = {name: site.server(name)["started_at"] for name in THREADS}
    run = site.submit(job)
    for kill in range(kills):
        left = tasks - (kill + 1) * tasks // (kills + 1)
        site.wait_for(f"{left} tasks to be left", lambda left=left: open_tasks(site, run) <= left)
        site.kill(BROKER)
        site.start_broker()

    assert site.wait_end(run)["status"] == "success"
    assert len(site.ledger(run)) == tasks
    assert {name: site.server(name)["started_at"] for name in THREADS} == lives
    assert [process.poll() for process in site.processes.values()] == [None] * 4
    judge(site, {run: job}, THREADS)


def test_children_that_die_together_with_the_broker_are_reported_and_end_no_worker(site: Site) -> None:
    job = many("TOGETHER", 30, gate="together")
    lives = {name: site.server(name)["started_at"] for name in THREADS}
    run = site.submit(job)
    killed: set[str] = set()
    for _ in range(6):
        running = site.wait_for("a task", lambda: executing(site, run))
        for entry in running:
            os.kill(entry.pid, signal.SIGKILL)
        site.kill(BROKER)
        killed.update(entry.task for entry in running)
        site.wait_for("their ends", lambda: not killed & {entry.task for entry in executing(site, run)}, seconds=10)
        site.start_broker()
    site.open_gate("together")

    assert site.wait_end(run)["status"] == "error"
    assert {task for task, state in site.states(run).items() if state != "success"} == killed
    assert {name: site.server(name)["started_at"] for name in THREADS} == lives
    judge(site, {run: job}, THREADS)


def executing(site: Site, run: int) -> list[Entry]:
    """The starts whose ends neither the operations nor the database know yet."""
    states = site.states(run)
    return [entry for entry in site.ledger(run) if entry.end is None and states[entry.task] == "executing"]


def test_while_the_broker_is_away_servers_go_on_with_what_they_hand_themselves_and_time_limits_hold(site: Site) -> None:
    job = many("ON", 200, seconds=0.01)
    job.task("long", "ledger.work", kwargs={"gate": "never"}, priority="high", time_limit=2)
    run = site.submit(job)
    site.wait_for("long to start", lambda: any(entry.task == "long" for entry in site.ledger(run)))
    site.kill(BROKER)
    left = open_tasks(site, run)
    site.wait_for("20 more to end, and be stored", lambda: open_tasks(site, run) <= left - 20)
    site.wait_for("the time limit", lambda: site.states(run)["long"] == "error")
    site.start_broker()

    assert site.wait_end(run)["status"] == "error"
    assert site.tasks(run)["long"]["error"] == "timed out: still running after 2 s"
    assert sum(entry.task != "long" for entry in site.ledger(run)) == 200
    judge(site, {run: job}, THREADS)


def test_a_server_told_to_end_while_the_broker_is_away_lets_its_tasks_end_and_stores_how(site: Site) -> None:
    job = many("AWAY", 4, gate="away")
    run = site.submit(job)
    site.wait_for("all to start", lambda: len(site.ledger(run)) == 4)
    site.kill(BROKER)
    site.wait_for("AOS1 to see it", lambda: "waiting for the broker" in site.log("AOS1"))
    site.tell("AOS1", signal.SIGTERM)
    site.open_gate("away")

    assert site.wait_exit("AOS1", 30) == 0
    stopped = site.server("AOS1")["state"]
    stored = [task["status"] for task in site.tasks(run).values() if task["server"] == "AOS1"]
    site.start_broker()

    assert site.wait_end(run)["status"] == "success"
    assert (stopped, stored) == ("stopped", ["success", "success"])
    judge(site, {run: job}, THREADS)


def open_tasks(site: Site, run: int) -> int:
    with site.database.read() as tx:
        return tx.execute(select(Run.open_tasks).where(Run.id == run)).scalar_one()
