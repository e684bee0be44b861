"""A server that is told not to wait: what runs is lost, by that reason, and nothing more starts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from batchq import Job
from support.site import Site

STOP_SECONDS = 8.0
STOPPED = "lost: its server was stopped during this attempt; what it did is not known"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("cold"), shutdown_seconds=60) as site:
        site.start_broker()
        site.start_coordinator()
        yield site


def quit_(site: Site) -> None:
    site.tell("AOS1", signal.SIGQUIT)


def interrupt_twice(site: Site) -> None:
    site.tell("AOS1", signal.SIGINT)
    # What Ctrl+C does next is settled between these words and the ones about it.
    site.wait_for("the first to be heard", lambda: "Warm shutdown" in site.log("AOS1"))
    site.tell("AOS1", signal.SIGINT)


def terminate_and_wait(site: Site) -> None:
    before = site.log("AOS1").count("Warm shutdown")
    site.tell("AOS1", signal.SIGTERM)
    site.wait_for("the first to be heard", lambda: site.log("AOS1").count("Warm shutdown") > before)


def terminate_then_quit(site: Site) -> None:
    terminate_and_wait(site)
    site.tell("AOS1", signal.SIGQUIT)


def terminate(site: Site) -> None:
    site.tell("AOS1", signal.SIGTERM)


WAYS: dict[str, tuple[Callable[[Site], None], dict[str, str]]] = {
    "SIGQUIT": (quit_, {}),
    "SIGINT twice": (interrupt_twice, {}),
    "SIGTERM, then SIGQUIT": (terminate_then_quit, {}),
    "SIGTERM that stands for SIGQUIT": (terminate, {"REMAP_SIGTERM": "SIGQUIT"}),
}


def six(name: str, **kwargs: object) -> Job:
    """Six tasks for one thread, the first of which waits at a gate."""
    job = Job(name)
    job.task("first", "ledger.work", kwargs={"gate": name, **kwargs}, priority="high")
    for number in range(5):
        job.task(f"task {number}", "ledger.work")
    return job


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_cold_stop_ends_is_lost_by_that_reason_and_nothing_more_starts(site: Site, way: str, pool: str) -> None:
    act, env = WAYS[way]
    (site.folder / "logs" / "AOS1.log").unlink(missing_ok=True)
    site.start_server("AOS1", threads=1, pool=pool, **env)
    run = site.submit(six(f"{way} {pool}"))
    site.wait_for("the first to start", lambda: site.ledger(run))

    began = time.monotonic()
    act(site)
    site.wait_exit("AOS1", STOP_SECONDS)

    assert time.monotonic() - began < STOP_SECONDS
    assert site.server("AOS1")["state"] == "stopped"
    assert [entry.task for entry in site.ledger(run)] == ["first"]
    tasks = site.tasks(run)
    assert tasks.pop("first")["error"] == STOPPED
    assert {task["status"] for task in tasks.values()} <= {"ready", "queued"}
    assert "Traceback" not in site.log("AOS1")
    site.cli("runs", "cancel", str(run))


def test_a_cold_stop_does_not_wait_for_an_operation_that_heeds_no_signal(site: Site) -> None:
    site.start_server("AOS1", threads=1)
    run = site.submit(six("DEAF", deaf=True))
    site.wait_for("the first to start", lambda: site.ledger(run))
    began = time.monotonic()
    quit_(site)
    site.wait_exit("AOS1", STOP_SECONDS)
    assert time.monotonic() - began < STOP_SECONDS
    assert site.tasks(run)["first"]["error"] == STOPPED
    site.cli("runs", "cancel", str(run))


def test_of_six_tasks_of_two_seconds_on_one_thread_a_sigquit_during_the_first_loses_that_one_alone(site: Site) -> None:
    site.start_server("AOS1", threads=1)
    job = Job("SIX")
    for number in range(6):
        job.task(f"task {number}", "ledger.work", kwargs={"seconds": 2})
    run = site.submit(job)
    (first,) = site.wait_for("the first to start", lambda: site.ledger(run))
    quit_(site)
    site.wait_exit("AOS1", STOP_SECONDS)
    site.start_server("AOS1", threads=6)

    tasks = {task["name"]: task["error"] for task in site.wait_end(run)["tasks"]}
    assert tasks.pop(first.task) == STOPPED
    assert set(tasks.values()) == {None}
    assert len(site.ledger(run)) == 6
    site.stop("AOS1")


def test_what_ends_with_all_processes_of_its_server_reads_that_the_server_was_stopped(site: Site) -> None:
    site.start_server("AOS1", threads=1)
    run = site.submit(six("ALL AT ONCE"))
    (first,) = site.wait_for("the first to start", lambda: site.ledger(run))
    terminate(site)  # as whoever ends a whole control group does
    os.kill(first.pid, signal.SIGTERM)
    site.wait_exit("AOS1", STOP_SECONDS)
    assert site.tasks(run)["first"]["error"] == STOPPED
    site.cli("runs", "cancel", str(run))


def test_a_server_that_stops_does_not_wait_for_a_process_that_dies_before_it_begins(site: Site) -> None:
    site.start_server("AOS1", threads=1)
    (child,) = site.children("AOS1")
    child.suspend()
    run = site.submit(six("NEVER BEGUN"))
    site.wait_for("the first to be claimed", lambda: site.states(run)["first"] == "executing")
    terminate_and_wait(site)
    child.kill()
    site.open_gate("NEVER BEGUN")
    site.wait_exit("AOS1", STOP_SECONDS)
    # As long as the pool makes processes, it gives what has not begun to another one; from then on nobody runs it.
    begun = [entry.task for entry in site.ledger(run)]
    assert (begun, site.tasks(run)["first"]["error"]) in ((["first"], None), ([], STOPPED))
    site.cli("runs", "cancel", str(run))
