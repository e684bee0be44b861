"""Three jobs and three servers share one licence, while a server is killed: two never have it at once (rule 29)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from batchq import Job
from batchq.store.tables import AttemptRow, TaskRow
from e2e.judge import judge
from support.site import Entry, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SETUP = """
limits: {licence: 1}
groups: {BG1: {}, BG2: {}, BG3: {}}
servers:
  AOS1: {threads: 2, groups: [default, BG1]}
  AOS2: {threads: 2, groups: [default, BG2]}
  AOS3: {threads: 2, groups: [default, BG3]}
"""
THREADS = {"AOS1": 2, "AOS2": 2, "AOS3": 2}
GROUPS = ("BG1", "BG2", "BG3", "default")
JOBS, TASKS = ("ONE", "TWO", "THREE"), 100
LOST_SECONDS = 4.0
# Two tasks that execute on AOS1 until it is killed, by their runs and places.
KILLED = {(1, 24): "killed", (2, 48): "killed again"}
TASK, ATTEMPT = TaskRow.__table__.c, AttemptRow.__table__.c


@pytest.fixture
def site(tmp_path: Path, database_url: str | None) -> Iterator[Site]:
    """A coordinator, and three servers, each with a group of its own and all with the group `default`."""
    with Site(tmp_path, database_url=database_url, lost_seconds=LOST_SECONDS, heartbeat_seconds=0.5) as site:
        site.start_broker()
        site.apply(SETUP)
        site.start_coordinator()
        site.start_servers(list(THREADS))
        yield site


def licensed(number: int, name: str) -> Job:
    """Short tasks that need the licence, those of all groups in turn."""
    job = Job(name, limits=["licence"])
    for place in range(TASKS):
        gate = KILLED.get((number, place))
        kwargs = {"gate": gate} if gate else {"seconds": 0.002}
        job.task(gate or f"task {place}", "ledger.work", kwargs=kwargs, group=GROUPS[place % 4], retries=1)
    return job


def killed(site: Site, task: str) -> tuple[Entry, float]:
    """Kill AOS1 while it executes the task; returns its attempt, and when its last process had ended."""
    (entry,) = site.wait_for(f"{task} to start", lambda: [one for one in site.ledger() if one.task == task], 120)
    assert (entry.server, entry.end) == ("AOS1", None)
    children = site.children("AOS1")
    site.kill("AOS1")
    assert psutil.wait_procs(children, timeout=30)[1] == []
    return entry, time.monotonic()


def attempts(site: Site) -> list[Any]:
    """All attempts that have ended, in the order of their claims."""
    found = select(TASK.run_id, TASK.name, *ATTEMPT).join(AttemptRow, ATTEMPT.task_id == TASK.id)
    with site.database.read() as tx:
        return list(tx.execute(found.order_by(ATTEMPT.claimed_at, ATTEMPT.ended_at)))


def lost(site: Site, task: str) -> Any:
    """The attempt of the task that was lost; None before it counts as lost."""
    return next((row for row in attempts(site) if (row.name, row.reason) == (task, "lost")), None)


def test_two_never_have_the_licence_at_once_and_who_is_killed_has_it_until_it_is_lost_as_rule_29_says(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    runs = [site.submit(licensed(number, name)) for number, name in enumerate(JOBS, 1)]
    first, first_gone = killed(site, "killed")
    row = site.wait_for("AOS1 to be lost", lambda: lost(site, "killed"))
    site.open_gate("killed")
    site.start_server("AOS1")
    second, second_gone = killed(site, "killed again")
    site.open_gate("killed again")
    site.start_server("AOS1")
    for run in runs:
        assert site.wait_end(run, 180)["status"] == "success"

    entries = site.ledger()
    assert len({(entry.run, entry.task) for entry in entries if entry.end}) == len(JOBS) * TASKS
    assert [(one.name, one.attempt) for one in attempts(site) if one.reason] == [("killed", 1), ("killed again", 1)]
    assert len(entries) == len(JOBS) * TASKS + 2
    ended = {(first.run, first.task, 1): first_gone, (second.run, second.task, 1): second_gone}
    for one, other in pairwise(entries):
        assert (one.end or ended[one.run, one.task, one.attempt]) < other.start, f"{one} and {other} at once"
    for before, after in pairwise(attempts(site)):
        assert before.ended_at <= after.claimed_at, f"{before} and {after} at once"
    next_start = min(entry.start for entry in entries if entry.start > first.start)
    assert next_start >= site.written().clocks.earliest(row.ended_at)
    assert {entry.server for entry in entries} == set(THREADS)
    judge(site, runs, THREADS)
    with capsys.disabled():
        seconds, free_after = time.monotonic() - began, next_start - first_gone
        print(f"\n{len(entries)} starts in {seconds:.1f} s; licence free {free_after:.1f} s after the kill")
