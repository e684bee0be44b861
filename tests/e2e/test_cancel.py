"""A run that is canceled on real servers: once the command has returned, nothing of it starts any more (rule 32)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchq import Job, actions
from e2e.judge import judge
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

THREADS = {"AOS1": 2, "AOS2": 2}
TASKS = 2_000


@pytest.fixture
def site(tmp_path: Path, database_url: str | None) -> Iterator[Site]:
    """A coordinator and two servers of two threads."""
    with Site(tmp_path, database_url=database_url) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_servers(list(THREADS), threads=2)
        yield site


def four_and_200() -> Job:
    """Four tasks that execute until they may end, 100 that are ready behind them, and 100 that wait for these."""
    job = Job("FOUR AND 200")
    for number in range(4):
        job.task(f"first {number}", "ledger.work", kwargs={"gate": "canceled"}, retries=3)
    for number in range(100):
        ready = job.task(f"ready {number}", "ledger.work")
        job.task(f"waiting {number}", "ledger.work", after=ready)
    return job


def cancel(site: Site, run: int) -> float:
    """Cancel the run by command; returns when the command had ended."""
    site.cli("runs", "cancel", str(run))
    site.note("canceled", run=run)
    return time.monotonic()


def test_of_200_tasks_behind_four_that_execute_none_starts_after_the_cancel_as_rule_32_says(site: Site) -> None:
    run = site.submit(four_and_200())
    site.wait_for("four to execute", lambda: len(site.ledger(run)) == 4)
    returned = cancel(site, run)
    assert sorted(site.states(run).values()) == ["canceled"] * 200 + ["executing"] * 4
    site.open_gate("canceled")

    assert site.wait_end(run)["status"] == "canceled"
    assert the_next_run_goes_through(site)
    assert {entry.task for entry in site.ledger(run)} == {f"first {number}" for number in range(4)}
    assert all(entry.start < returned < entry.end for entry in site.ledger(run) if entry.end)
    assert sorted(site.states(run).values()) == ["canceled"] * 200 + ["success"] * 4
    judge(site, [run], THREADS)


def test_nor_does_one_start_that_was_on_its_way_while_tasks_went_through_as_rule_32_says(site: Site) -> None:
    job = Job("IN MOTION")
    for number in range(TASKS):
        job.task(f"task {number}", "ledger.work", kwargs={"seconds": 0.02})
    run = site.submit(job)
    site.wait_for("some work", lambda: len(site.ledger(run)) >= 40)
    actions.cancel_run(site.database, run)
    site.note("canceled", run=run)

    assert site.wait_end(run)["status"] == "canceled"
    assert the_next_run_goes_through(site)
    ended, started = Counter(site.states(run).values()), len(site.ledger(run))
    assert ended == {"success": started, "canceled": TASKS - started}
    judge(site, [run], THREADS)  # it compares the cancel with the claims: a child may begin a little later


def the_next_run_goes_through(site: Site) -> bool:
    """Whether the servers go on; a ticket that was on its way has arrived by then."""
    job = Job("NEXT")
    for number in range(20):
        job.task(f"next {number}", "ledger.work")
    return bool(site.wait_end(site.submit(job))["status"] == "success")
