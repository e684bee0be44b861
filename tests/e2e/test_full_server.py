"""A full server with several groups takes no tickets: what is meant for others' threads goes past it, once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Consumer

from batchq import Job
from batchq.server import celery_gaps, tickets
from support.site import Site

pytestmark = pytest.mark.slow

GROUPS = ("BG1", "BG2", "BG3")
TASKS = 300
TICKETS = ("arrived", "stale", "parked", "returned")


def held() -> Job:
    job = Job("HELD")
    job.task("TASK", "ledger.work", kwargs={"gate": "end"}, group=GROUPS[0])
    return job


def work() -> Job:
    job = Job("WORK")
    for number in range(TASKS):
        job.task(f"TASK {number}", "ledger.work", kwargs={"seconds": 0.02}, group=GROUPS[number % len(GROUPS)])
    return job


def counts(site: Site) -> dict[str, dict[str, Any]]:
    """What each server says of the tickets that reached it, as `celery inspect stats` shows it."""
    stats = site.batch.app.control.inspect(timeout=2, limit=len(site.processes)).stats() or {}
    return {one["batchq"]["server"]: one["batchq"] for one in stats.values() if "batchq" in one}


def test_the_tickets_of_three_groups_go_past_a_full_server_to_those_with_free_threads(
    tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path, broker=broker) as site:
        groups = ", ".join(GROUPS)
        site.apply(
            f"servers: {{Full: {{threads: 1, groups: [{groups}]}}, AOS2: {{threads: 2, groups: [{groups}]}},"
            f" AOS3: {{threads: 2, groups: [{groups}]}}}}"
        )
        site.start_broker()
        site.start_coordinator()
        site.start_server("Full")
        blocker = site.submit(held())
        site.wait_for("it to be full", lambda: site.ledger(blocker))
        site.start_servers(("AOS2", "AOS3"))

        run = site.submit(work())
        assert site.wait_end(run)["status"] == "success"
        after = site.wait_for("all to answer", lambda: found if len(found := counts(site)) == 3 else None)
        site.open_gate("end")
        assert site.wait_end(blocker)["status"] == "success"

        servers = {entry.server for entry in site.ledger(run)}
        with capsys.disabled():
            shown = {name: {key: one[key] for key in TICKETS} for name, one in sorted(after.items())}
            print(f"\n{broker}: {TASKS} tasks on two servers beside a full one; tickets {shown}")
        assert servers == {"AOS2", "AOS3"}
        # Those that were on their way to it when it became full, and hardly any more.
        assert after["Full"]["parked"] + after["Full"]["returned"] <= 5
        assert sum(one["arrived"] for one in after.values()) <= 1.2 * TASKS


def test_a_backlog_in_front_of_full_servers_is_not_offered_at_all(tmp_path: Path, broker: str) -> None:
    with Site(tmp_path, broker=broker) as site:
        site.apply(f"servers: {{Full: {{threads: 1, groups: [{', '.join(GROUPS)}]}}}}")
        site.start_broker()
        site.start_coordinator()
        site.start_server("Full")
        blocker = site.submit(held())
        site.wait_for("it to be full", lambda: site.ledger(blocker))
        before = counts(site)["Full"]
        run = site.submit(work())
        beat = site.server("Full")["beat_at"]
        site.wait_for("a heartbeat", lambda: site.server("Full")["beat_at"] > beat)
        after = counts(site)["Full"]
        assert {key: after[key] for key in TICKETS} == {key: before[key] for key in TICKETS}
        assert set(site.states(run).values()) == {"ready"}
        site.open_gate("end")
        assert site.wait_end(run)["status"] == "success"


def test_what_a_server_asked_redis_for_before_it_was_full_is_taken_in_and_nothing_after_it(tmp_path: Path) -> None:
    full = SimpleNamespace(ledger=SimpleNamespace(room=1))
    taken: list[str] = []
    with Site(tmp_path) as site:
        site.start_broker()
        with site.batch.app.connection_for_read() as connection:
            channel = connection.channel()
            celery_gaps.prefetch_by(channel, lambda: full.ledger.room)
            queue = tickets.queue(site.batch.settings.queue("default"))(channel)
            with Consumer(channel, [queue], callbacks=[lambda body, message: taken.append(body)], no_ack=True):
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=0.1)  # it asks, and there is nothing
                full.ledger.room = 0
                with site.batch.app.producer_pool.acquire() as producer:
                    for name in ("FIRST", "SECOND"):
                        producer.publish(name, routing_key=queue.name, serializer="json")
                connection.drain_events(timeout=5)
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=0.1)

    assert taken == ["FIRST"]
