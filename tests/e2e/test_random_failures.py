"""Tasks that fail by lot on real servers: each attempt runs once, in its time, and is kept with its log (rule 30)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from batchq import Job
from batchq.store.tables import AttemptRow, TaskRow
from e2e import luck_app
from e2e.judge import judge
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUNS, TASKS, RETRIES = 20, 40, 3
DELAY, BACKOFF, JITTER = 0.4, 2, 0.25
THREADS = {"AOS1": 2, "AOS2": 2}
TASK, ATTEMPT = TaskRow.__table__.c, AttemptRow.__table__.c

Kept = dict[tuple[int, str], list[Any]]


@pytest.fixture
def site(tmp_path: Path, database_url: str | None) -> Iterator[Site]:
    """A coordinator and two servers of two threads, whose operation fails by lot."""
    with Site(tmp_path, app="e2e.luck_app", database_url=database_url) as site:
        luck_app.register(site.batch.app)
        site.start_broker()
        site.start_coordinator()
        site.start_servers(list(THREADS), threads=2)
        yield site


def unlucky() -> Job:
    """Tasks that may fail and are tried again, each time after a longer wait."""
    job = Job("UNLUCKY")
    policy: dict[str, Any] = {"retry_delay": DELAY, "retry_backoff": BACKOFF, "retry_jitter": JITTER}
    for number in range(TASKS):
        job.task(f"task {number}", "ledger.luck", retries=RETRIES, **policy)
    return job


def kept(site: Site) -> Kept:
    """All attempts of each task, in their order, with what became of the task."""
    columns = [TASK.run_id, TASK.name, TASK.status.label("end"), TASK.ready_at.label("last_ready_at"), *ATTEMPT]
    found = select(*columns).join(AttemptRow, ATTEMPT.task_id == TASK.id).order_by(TASK.id, ATTEMPT.attempt)
    tasks: Kept = defaultdict(list)
    with site.database.read() as tx:
        for row in tx.execute(found):
            tasks[row.run_id, row.name].append(row)
    return tasks


def test_where_a_third_fails_each_attempt_is_kept_and_comes_in_its_time_as_rule_30_says(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [site.submit(unlucky()) for _ in range(RUNS)]
    for run in runs:
        site.wait_end(run, 120)
    tasks = kept(site)

    assert len(tasks) == RUNS * TASKS
    for (run, name), attempts in tasks.items():
        check(run, name, attempts)
    assert {(entry.run, entry.task, entry.attempt) for entry in site.ledger()} == {
        (run, name, row.attempt) for (run, name), attempts in tasks.items() for row in attempts
    }
    judge(site, runs, THREADS)
    waits = [wait for attempts in tasks.values() for wait in waits_of(attempts)]
    off, late = sorted(each for each, _ in waits), sorted(each for _, each in waits)
    with capsys.disabled():
        print(f"\n{len(waits)} retries, waits off by {off[0]:+.3f} to {off[-1]:+.3f}, claimed {late[-1]:.2f} s late")
    assert len(waits) > RUNS * TASKS / 4
    assert -JITTER - 0.01 < off[0] < -JITTER / 2 < JITTER / 2 < off[-1] < JITTER + 0.01
    assert late[0] >= 0


def check(run: int, name: str, attempts: list[Any]) -> None:
    """The task was tried until it succeeded, or four times in vain; each attempt has its own log."""
    lots = [luck_app.is_unlucky(run, name, number) for number in range(1, RETRIES + 2)]
    tried = lots.index(False) + 1 if False in lots else len(lots)
    ends = ["error" if lot else "success" for lot in lots[:tried]]
    assert [(row.attempt, row.status) for row in attempts] == list(enumerate(ends, 1)), f"run {run}, {name}"
    assert attempts[-1].end == ends[-1]
    for row in attempts:
        assert luck_app.said(run, name, row.attempt) in row.log
        assert row.log.count(luck_app.said(run, name, row.attempt)[:12]) == 1


def waits_of(attempts: list[Any]) -> Iterator[tuple[float, float]]:
    """Of each retry, how far its wait is off the plain one (a part of it), and how many seconds late its claim is."""
    for retry, (before, row) in enumerate(pairwise(attempts), 1):
        due = row.ready_at or row.last_ready_at
        waited, plain = (due - before.ended_at).total_seconds(), DELAY * BACKOFF ** (retry - 1)
        yield waited / plain - 1, (row.claimed_at - due).total_seconds()
