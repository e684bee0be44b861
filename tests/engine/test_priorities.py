"""Priority with one thread and a clock that is set: what is high goes first, and what waits rises (rule 28)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from batchq import engine
from batchq.spec import Job
from play import Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LOW, ALWAYS, SECONDS = 20, 5, 0.25


class Aged(Play):
    """Plays with a `priority_aging_seconds` of its own."""

    aging = 3600.0

    def _step(self, tx: Any) -> engine.Advance:
        return engine.advance(tx, aging=self.aging)

    def _serve(self, tx: Any, life: engine.Life, flush: engine.Flush) -> engine.Served:
        return super()._serve(tx, life, replace(flush, aging=self.aging))


@pytest.fixture
def batch(database: Any) -> Aged:
    database.instant = NOON
    play = Aged(database)
    play.server("AOS1")
    return play


def many(name: str, count: int, priority: str) -> Job:
    job = Job(name)
    for number in range(count):
        job.task(f"{name} {number}", "demo.work", priority=priority)
    return job


def test_a_high_task_behind_5000_low_ones_starts_with_the_next_free_thread_as_rule_28_says(batch: Aged) -> None:
    batch.submit(many("LOW", 5_000, "low"))
    batch.deliver()
    assert batch.executing() == ["LOW 0"]
    batch.submit(many("HIGH", 1, "high"))
    batch.finish("LOW 0")
    batch.deliver()

    assert batch.executing() == ["HIGH 0"]
    batch.finish("HIGH 0")
    batch.deliver()
    assert batch.executing() == ["LOW 1"]


def low_starts(batch: Aged, seconds: float) -> list[float]:
    """The seconds after which the low tasks start, behind five high ones that are always ready."""
    high = [batch.submit(many("HIGH", 1, "high")) for _ in range(ALWAYS + 1)]
    batch.deliver()
    batch.submit(many("LOW", LOW, "low"))
    for _ in range(int(seconds / SECONDS)):
        batch.database.later(seconds=SECONDS)
        batch.finish(batch.executing()[0])
        batch.deliver()
        assert len(batch.executing()) == 1
        started = sum(start.task == "HIGH 0" for start in batch.starts)
        high += [batch.submit(many("HIGH", 1, "high")) for _ in range(started + ALWAYS - len(high))]
    return [(start.at - NOON).total_seconds() for start in batch.starts if start.task.startswith("LOW")]


@pytest.mark.parametrize(("aging", "low"), [(2.0, LOW), (0.0, 0)])
def test_low_tasks_behind_a_stream_of_high_ones_start_after_two_ages_or_never_as_rule_28_says(
    batch: Aged, aging: float, low: int
) -> None:
    batch.aging = aging
    starts = low_starts(batch, seconds=20)

    assert len(starts) == low
    assert not starts or (starts[0] == 2 * aging and starts[-1] <= 20)
