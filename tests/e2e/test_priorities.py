"""Priority on a real server with one thread: what is high goes first, and what waits rises (rule 28)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchq import Job, actions
from batchq.errors import Conflict
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LOW, ALWAYS, SECONDS = 20, 5, 0.25
AGING, WITHIN = 2.0, 20.0


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A coordinator and a server with one thread; the parameter is its `priority_aging_seconds`."""
    with Site(tmp_path, priority_aging_seconds=request.param) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=1)
        yield site


def one(name: str, **options: Any) -> Job:
    """A job with one task, of high priority."""
    job = Job(name)
    job.task(name, "ledger.work", kwargs=options, priority="high")
    return job


def low(count: int, **options: Any) -> Job:
    """A job of so many tasks of low priority."""
    job = Job("LOW", priority="low")
    for number in range(count):
        job.task(f"LOW {number}", "ledger.work", kwargs=options)
    return job


@pytest.mark.parametrize("site", [3600], indirect=True)
def test_a_high_task_behind_5000_low_ones_starts_with_the_next_free_thread_as_rule_28_says(site: Site) -> None:
    first = site.submit(one("FIRST", gate="first"))
    site.wait_for("the thread to be busy", lambda: site.ledger(first))
    behind = site.submit(low(5_000))
    high = site.submit(one("HIGH", gate="high"))
    site.open_gate("first")
    site.wait_for("HIGH to start", lambda: site.ledger(high))

    assert [entry.run for entry in site.ledger()] == [first, high]
    actions.cancel_run(site.database, behind)
    site.open_gate("high")
    assert site.wait_end(behind)["status"] == "canceled"


class Stream:
    """Five high tasks that are always ready: one is submitted for each that starts."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runs = [self.submit() for _ in range(ALWAYS + 1)]  # one of them executes

    def submit(self) -> int:
        return self.site.submit(one("HIGH", seconds=SECONDS))

    def go_on(self) -> list[float]:
        """Submit as many as have started since; returns when low tasks have started."""
        entries = self.site.ledger()
        started = sum(entry.task == "HIGH" for entry in entries)
        while len(self.runs) < started + ALWAYS:
            self.runs.append(self.submit())
        return [entry.start for entry in entries if entry.task != "HIGH"]


def play(site: Site, is_over: Callable[[list[float]], bool]) -> tuple[list[float], float, float]:
    """Low tasks wait behind the stream till it `is_over`; returns their starts, and their submit's begin and end."""
    stream = Stream(site)
    site.wait_for("the thread to be busy", lambda: site.ledger())
    began = time.monotonic()
    run = site.submit(low(LOW, seconds=SECONDS))
    ready = time.monotonic()
    site.wait_for("the low tasks", lambda: is_over(stream.go_on()) or time.monotonic() > ready + WITHIN, WITHIN + 30)
    starts = stream.go_on()
    for each in (run, *stream.runs):
        with suppress(Conflict):  # it has ended
            actions.cancel_run(site.database, each)
    return starts, began, ready


@pytest.mark.parametrize("site", [AGING], indirect=True)
def test_with_aging_20_low_tasks_behind_a_stream_of_high_ones_start_in_time_as_rule_28_says(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    starts, began, ready = play(site, lambda starts: len(starts) == LOW)

    with capsys.disabled():
        print(f"\nlow tasks started {starts[0] - ready:.2f} to {starts[-1] - ready:.2f} s after they were ready")
    assert len(starts) == LOW
    assert starts[0] >= began + 2 * AGING
    assert starts[-1] <= ready + WITHIN


@pytest.mark.parametrize("site", [0], indirect=True)
def test_without_aging_none_of_them_starts_in_20_s_as_rule_28_says(site: Site) -> None:
    starts, _, ready = play(site, lambda starts: bool(starts))

    assert starts == []
    assert time.monotonic() > ready + WITHIN
    high = [entry for entry in site.ledger() if entry.start < ready + WITHIN]
    assert len(high) > WITHIN / SECONDS / 4  # the thread was busy all the time
