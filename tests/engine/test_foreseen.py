"""What a server's commit asks for in advance: it changes nothing but the number of round trips."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from batchq import Job, actions
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.spec import JobSpec
from batchq.store import topology as topologies
from batchq.store import transaction, trouble
from batchq.store.sql import statement
from batchq.store.transaction import Tx
from batchq.store.trouble import What
from batchq.testing.clocked import Clocked, in_memory
from drills.sim.jobs import job_of
from play import Play
from support import rules
from support.seeds import seeds

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SERVERS = {"AOS1": (2, []), "AOS2": (1, ["BG1"]), "AOS3": (2, ["BG1", "default"])}


@contextmanager
def round_trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of statements that each round trip takes along."""
    trips: list[int] = []
    as_ever = statement.send

    def send(tx: Tx, *, commit: bool = False) -> None:
        if waiting := tx.info.get(statement.WAITING):
            trips.append(len(waiting))
        as_ever(tx, commit=commit)

    monkeypatch.setattr(statement, "send", send)
    monkeypatch.setattr(transaction, "send", send)
    yield trips


def job(name: str, after: dict[str, list[str]], **options: Any) -> JobSpec:
    made = Job(name)
    for task, before in after.items():
        made.task(task, "demo.work", after=before, **options)
    return made.spec()


@pytest.mark.parametrize(
    "after",
    [
        {"A": [], "B": [], "C": [], "D": []},
        {"A": [], "B": ["A"], "C": ["B"], "D": ["C"]},
        {"A": [], "B": [], "C": ["A", "B"], "D": ["C"]},
    ],
    ids=["side by side", "one after the other", "after two"],
)
def test_a_report_and_the_next_start_take_two_round_trips(postgresql: Clocked, monkeypatch, after):
    batch = Play(postgresql)
    batch.server("AOS1", 2)
    batch.submit(job("JOB", after))
    batch.deliver()
    ((server, row), *_) = batch.running()
    batch.report(server, row, Success())  # statements are prepared by now, and the topology is known
    ((server, row), *_) = batch.running()
    with round_trips(monkeypatch) as trips:
        batch.report(server, row, Success())
    assert len(trips) == 2, trips
    assert batch.running()


def test_a_task_that_becomes_ready_while_it_is_set_aside_does_not_start(sqlite: Clocked):
    sqlite.instant = NOON
    batch = Play(sqlite)
    batch.server("AOS1", 2)
    run = batch.submit(job("JOB", {"A": [], "B": ["A"]}))
    batch.deliver()
    waiting = batch.task(run, "B").id
    sqlite.run(lambda tx: trouble.note(tx, {(What.TASK, waiting): "broken"}, "here", tx.now()))
    sqlite.run(topologies.current)
    ((server, row),) = batch.running()
    batch.report(server, row, Success())
    assert batch.states(run) == {"A": "success", "B": "ready"}


def test_a_ready_task_that_lost_its_instant_hinders_no_other(database: Clocked):
    database.instant = NOON
    batch = Play(database)
    batch.server("AOS1", 2)
    run = batch.submit(job("JOB", {"A": [], "B": [], "C": [], "D": []}))
    batch.deliver()
    broken = batch.task(run, "C").id
    database.run(lambda tx: tx.execute(text(f"UPDATE batchq_task SET ready_at = NULL WHERE id = {broken}")))
    database.run(topologies.current)
    (server, row), _ = batch.running()
    batch.report(server, row, Success())
    assert batch.states(run) == {"A": "success", "B": "executing", "C": "ready", "D": "executing"}


# --- the same in the end ------------------------------------------------------------------------------------


class Blind(Play):
    """Servers that never say which groups are likely, so that each commit asks for all when it needs it."""

    def _commit(self, *args: Any, **options: Any) -> Any:
        return super()._commit(*args, **options, likely=())


def installed(kind: type[Play]) -> Play:
    batch = kind(in_memory(NOON))
    for name, (threads, groups) in SERVERS.items():
        batch.server(name, threads, groups=groups)
    return batch


def seen(batch: Play) -> tuple[Any, ...]:
    """All that may differ: how each task stands and where it runs, and the tickets that are out."""
    running = sorted((server, row.id, row.attempt) for server, row in batch.running())
    mail = sorted((ticket.task, ticket.attempt, ticket.group) for ticket in batch.mail)
    return running, mail


@pytest.mark.parametrize("seed", seeds(20, 60))
def test_a_night_goes_the_same_way_whether_or_not_its_commits_foresee(seed):
    rng = random.Random(seed)
    both = [installed(Play), installed(Blind)]
    jobs = [job_of(f"JOB {number}", rules.random_plan(rng.randint(1, 14), rng), rng)[0] for number in range(3)]
    for each in both:
        for made in jobs:
            each.submit(made)
        each.deliver()
    steps = 0
    while seen(both[0])[0] or seen(both[0])[1]:
        assert seen(both[0]) == seen(both[1]), steps
        step(both, rng)
        steps += 1
        assert steps < 500
    assert seen(both[0]) == seen(both[1])
    assert both[0].starts
    assert steps


def step(both: list[Play], rng: random.Random) -> None:
    """Let the same happen to both."""
    act, fate = rng.random(), rng.random()
    running = sorted((server, row.id) for server, row in both[0].running())
    chosen = rng.choice(running) if running else None
    for each in both:
        if act < 0.1:
            each.database.later(seconds=2)
            each.tick()
        elif act < 0.15 and chosen:
            actions.pause_group(each.database, "BG1") if fate < 0.5 else actions.resume_group(each.database, "BG1")
            each.forward()
        elif chosen:
            server, task = chosen
            (row,) = (row for where, row in each.running() if row.id == task)
            each.report(server, row, Success() if fate < 0.7 else Failure(Reason.ERROR, "no"))
        else:
            each.database.later(seconds=60)
            each.tick()
        each.deliver()
