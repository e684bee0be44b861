"""Servers follow the clock: 2 → 20 → 0 → 2 threads under a full backlog, and never one task too many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from batchq import Job, actions
from batchq.core.windows import Window
from e2e.timeline import Claim, Timeline, executing
from support.site import Site

pytestmark = pytest.mark.slow

WITHIN = timedelta(seconds=2)
TASKS = 800
# Seconds from the start of the first window, and threads; between the second and the third there is none.
SHIFTS = ((0, 5, 2), (5, 13, 20), (17, 25, 2))


def day_in_seconds(begin: datetime) -> list[Window]:
    """A day's windows in 25 seconds."""
    return [
        Window(clock(begin + timedelta(seconds=start)), clock(begin + timedelta(seconds=end)), threads, "UTC")
        for start, end, threads in SHIFTS
    ]


def clock(instant: datetime) -> time:
    return instant.time().replace(microsecond=0)


def backlog(tasks: int, seconds: float) -> Job:
    job = Job("BACKLOG")
    for number in range(tasks):
        job.task(f"TASK {number}", "ledger.work", kwargs={"seconds": seconds})
    return job


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_two_then_twenty_then_none_then_two_threads_under_a_full_backlog(
    tmp_path: Path, broker: str, pool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path, broker=broker) as site:
        site.apply("servers: {AOS1: {threads: 0}}")
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", pool=pool)
        run = site.submit(backlog(TASKS, 0.3))
        timeline = Timeline(site)
        begin = (datetime.now(UTC) + timedelta(seconds=3)).replace(microsecond=0)
        timeline.change(lambda: actions.set_server(site.database, "AOS1", windows=day_in_seconds(begin)))
        seen = watch(site, lambda: datetime.now(UTC) > begin + timedelta(seconds=SHIFTS[-1][1] + 1))
        actions.cancel_run(site.database, run)
        site.wait_end(run)

        claims = timeline.judge([run])
        delays = [first_after(claims, begin + timedelta(seconds=start)) for start, _, _ in SHIFTS]
        peaks = [peak(claims, begin + timedelta(seconds=s), begin + timedelta(seconds=e)) for s, e, _ in SHIFTS]
        assert max(delays) < WITHIN
        assert peaks == [threads for _, _, threads in SHIFTS]
        assert {"open", "draining", "closed"} <= seen["states"]
        if pool == "prefork":
            assert max(seen["children"]) >= 20
            site.wait_for("the pool to shrink", lambda: children(site) <= 1)
        with capsys.disabled():
            after = ", ".join(f"{delay.total_seconds():.3f}" for delay in delays)
            print(f"\n{broker}, {pool}: {len(claims)} starts; the first {after} s after each opening")


def watch(site: Site, over: Callable[[], bool]) -> dict[str, set]:
    """What shows from outside until it is over: the server's states, and how many children its pool has."""
    seen: dict[str, set] = {"states": set(), "children": set()}

    def look() -> bool:
        seen["states"].add(site.server("AOS1")["state"])
        seen["children"].add(children(site))
        return over()

    site.wait_for("the last window to close", look)
    return seen


def children(site: Site) -> int:
    return len(site.children("AOS1"))


def first_after(claims: list[Claim], opening: datetime) -> timedelta:
    """How long after the opening the first task started beyond those that ran before."""
    return next(claim.at for claim in claims if claim.at >= opening) - opening


def peak(claims: list[Claim], begin: datetime, end: datetime) -> int:
    """The most that ran at once of what started in this time."""
    own = [claim for claim in claims if begin <= claim.at < end]
    return max(sum(each.at <= claim.at < (each.end or end) for each in own) for claim in own)


def test_an_override_counts_at_once_and_its_end_too_as_rule_51_says(tmp_path: Path, broker: str) -> None:
    with Site(tmp_path, broker=broker) as site:
        site.apply("servers: {AOS1: {threads: 1}}")
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1")
        run = site.submit(backlog(TASKS, 0.3))
        site.wait_for("one to run", lambda: executing(site).get("AOS1") == 1)
        timeline = Timeline(site)
        begin = timeline.now()
        end = begin + timedelta(seconds=5)
        timeline.change(lambda: actions.override_server(site.database, "AOS1", 6, end, by="drill"))
        seen = watch(site, lambda: datetime.now(UTC) > end + timedelta(seconds=3))
        actions.cancel_run(site.database, run)
        site.wait_end(run)

        claims = timeline.judge([run])
        assert (peak(claims, begin, end), peak(claims, end + timedelta(seconds=1), claims[-1].at)) == (6, 1)
        assert (max(seen["children"]), "draining" in seen["states"]) == (6, True)
        site.wait_for("the pool to shrink", lambda: children(site) <= 1)


def test_what_runs_when_a_window_closes_ends_in_peace(tmp_path: Path, broker: str) -> None:
    with Site(tmp_path, broker=broker) as site:
        site.apply("servers: {AOS1: {threads: 2}}")
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1")
        timeline = Timeline(site)
        job = Job("LONG")
        for number in range(4):
            job.task(f"TASK {number}", "ledger.work", kwargs={"gate": "end"})
        run = site.submit(job)
        site.wait_for("two to run", lambda: len(site.ledger(run)) == 2)
        begin = datetime.now(UTC) - timedelta(hours=2)
        shut = [Window(clock(begin), clock(begin + timedelta(hours=1)), 2, "UTC")]
        timeline.change(lambda: actions.set_server(site.database, "AOS1", windows=shut))
        assert site.server("AOS1")["state"] == "draining"
        site.open_gate("end")
        site.wait_for("it to be idle", lambda: not executing(site))
        assert site.server("AOS1")["state"] == "closed"
        assert sorted(site.states(run).values()) == ["ready", "ready", "success", "success"]

        timeline.change(lambda: actions.set_server(site.database, "AOS1", windows=[]))
        assert site.wait_end(run)["status"] == "success"
        timeline.judge([run])


def test_celery_shows_what_is_true_of_pool_prefetch_and_groups(tmp_path: Path, broker: str) -> None:
    with Site(tmp_path, broker=broker) as site:
        site.apply("servers: {AOS1: {threads: 3, groups: [BG1, default]}}")
        site.start_broker()
        site.start_server("AOS1")
        for threads in (3, 5, 1, 0):
            actions.set_server(site.database, "AOS1", threads=threads)
            wanted = {
                "processes": max(threads, 1),
                "max-concurrency": max(threads, 1),
                "prefetch": threads,
                "threads": threads,
                "groups": ["BG1", "default"],
                "queues": ["batchq.default.BG1", "batchq.default.default"] if threads else [],
            }
            site.wait_for(f"{threads} threads to show", lambda wanted=wanted: shown(site) == wanted)


def shown(site: Site) -> dict[str, object]:
    """What `celery inspect stats` and `celery inspect active_queues`, and with them Flower, show of the server."""
    inspect = site.batch.app.control.inspect(timeout=0.5, limit=1)
    stats = next(iter((inspect.stats() or {}).values()), None)
    queues = next(iter((inspect.active_queues() or {}).values()), None)
    if stats is None or queues is None:
        return {}
    return {
        "processes": len(stats["pool"]["processes"]),
        "max-concurrency": stats["pool"]["max-concurrency"],
        "prefetch": stats["prefetch_count"],
        "threads": stats["batchq"]["threads"],
        "groups": stats["batchq"]["groups"],
        "queues": sorted(queue["name"] for queue in queues),
    }
