"""A large retry is stored in pieces: it may be killed between any two, and ends the same (rule 33)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, update

from batchq import engine
from batchq.config import Settings
from batchq.coordinator import Coordinator
from batchq.core.states import Outcome
from batchq.engine import Retry, reopening, retrying
from batchq.errors import Conflict
from batchq.spec import JobSpec, TaskSpec
from batchq.store import moves
from batchq.store.columns import RUN, TASK
from batchq.store.tables import Run, TaskRow
from play import Clocked, Play, check_counters
from support import reruns
from support.nowhere import Nowhere

OUTCOMES = [outcome.value for outcome in Outcome]
# The longest transaction of a retry, in seconds, on a machine that does other things besides.
LONGEST = 2.0


def unnoted(tx: Any, retried: Any) -> None:
    """Nobody keeps an audit here."""


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a small retry be a large one."""
    monkeypatch.setattr(retrying, "AT_ONCE", 3)
    monkeypatch.setattr(reopening, "PIECE", 2)
    monkeypatch.setattr(reopening, "REMOTE_PIECE", 2)


def ended(batch: Play, seed: int) -> tuple[int, dict[str, str], reruns.Job]:
    """A random run of 16 tasks that has ended with failures, and how its tasks would stand after a retry."""
    rng = random.Random(seed)
    job = reruns.random_job(16, rng, OUTCOMES, gates=0)
    tasks = [
        TaskSpec(name=name, run="demo.work", after=[{before: asked} for before, asked in after], join=job.joins[name])
        for name, after in job.after.items()
    ]
    failing = {name for name in job.after if rng.random() < 0.4}
    played = batch.play(JobSpec(name="RANDOM", tasks=tuple(tasks)), failing=failing)
    seeds = [name for name, state in played.states.items() if state == "error"]
    return played.run, reruns.retried(job, played.states, reruns.reset_by(job, played.states, seeds)), job


def canceled(batch: Play, seed: int) -> tuple[Retry, dict[str, str]]:
    """The retry of one task of a random run with joins within joins that was canceled, and where its tasks stand then.

    Some of the joins were canceled while the tasks in them executed, and have an answer since.
    """
    rng = random.Random(seed)
    job = reruns.random_job(14, rng, OUTCOMES, gates=0, levels=2)
    tasks = [
        TaskSpec(
            name=name, run="demo.work", after=in_a_file([(job.joins[name], job.after[name])] if job.after[name] else [])
        )
        for name in job.after
    ]
    run = batch.submit(JobSpec(name="JOINS", tasks=tuple(tasks)))
    batch.deliver()
    for _ in range(3):
        batch.finish(rng.choice(batch.executing()), run=run)
        batch.deliver()
    batch.cancel(run)
    batch.mail.clear()
    for name in batch.executing():
        batch.finish(name, run=run)
    states = {name: {"canceled": reruns.GONE}.get(state, state) for name, state in batch.states(run).items()}
    for name in rng.sample(sorted(states), len(states)):
        expected = reruns.retried(job, states, reruns.reset_by(job, states, [name]))
        if states[name] == reruns.GONE and expected[name] != "didnt_run":
            return Retry(run, [name]), {
                name: {reruns.GONE: "canceled"}.get(state, state) for name, state in expected.items()
            }
    raise AssertionError("no task that was canceled could run")


def in_a_file(conditions: Sequence[Any]) -> list[Any]:
    """Conditions as a file says them."""
    return [{name: in_a_file(asked) if isinstance(asked, list) else asked} for name, asked in conditions]


def steps_of(batch: Play, asked: int | Retry) -> Iterator[None]:
    """The transactions of a retry that has been decided."""
    asked = asked if isinstance(asked, Retry) else Retry(asked)
    with batch.database.read() as tx:
        look = retrying.look_at(tx, asked)
    plan = retrying.planned(look, asked)
    assert batch.database.run(retrying._begin, look, plan, asked, unnoted) is not None
    return reopening.reopen(batch.database, asked.run)


def stands_as(batch: Play, run: int, expected: dict[str, str]) -> None:
    """The run is open again, its tasks stand as they should, and nothing is left of the retry."""
    batch.forward()
    started = {"queued": "ready", "executing": "ready"}
    assert {name: started.get(state, state) for name, state in batch.states(run).items()} == expected
    assert batch.verdict(run) == "executing"
    with batch.database.read() as tx:
        assert not moves.runs_retrying(tx)
    check_counters(batch.database)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_retry_in_pieces_ends_as_the_oracle_says_wherever_it_is_killed(batch: Play, seed: int):
    run, expected, _ = ended(batch, seed)
    number = sum(1 for _ in steps_of(batch, run))
    stands_as(batch, run, expected)
    assert number > 6
    for killed_after in range(number):
        run, expected, _ = ended(batch, seed)
        steps = steps_of(batch, run)
        for _ in range(killed_after):
            next(steps)
        steps.close()
        for _ in reopening.reopen(batch.database, run):
            pass
        stands_as(batch, run, expected)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_joins_that_were_canceled_are_judged_by_their_tasks_wherever_a_retry_in_pieces_is_killed(
    batch: Play, seed: int
):
    batch.server("AOS1", 3)
    asked, expected = canceled(batch, seed)
    number = sum(1 for _ in steps_of(batch, asked))
    stands_as(batch, asked.run, expected)
    for killed_after in range(number):
        batch.cancel(asked.run)  # that of before
        batch.mail.clear()
        asked, expected = canceled(batch, seed)
        steps = steps_of(batch, asked)
        for _ in range(killed_after):
            next(steps)
        steps.close()
        for _ in reopening.reopen(batch.database, asked.run):
            pass
        stands_as(batch, asked.run, expected)


@pytest.mark.usefixtures("small_pieces")
def test_two_processes_that_retry_side_by_side_do_no_more_than_one(batch: Play):
    run, expected, _ = ended(batch, 2)
    both = [steps_of(batch, run), reopening.reopen(batch.database, run)]
    while both:
        for steps in list(both):
            if next(steps, "over") == "over":
                both.remove(steps)
    stands_as(batch, run, expected)
    with batch.database.read() as tx:
        assert moves.run_to_retry(tx, run).verdicts == 1


@pytest.mark.usefixtures("small_pieces")
def test_a_coordinator_goes_on_with_a_retry_whose_process_is_gone(batch: Play):
    run, expected, _ = ended(batch, 2)
    next(steps_of(batch, run))
    now = 100.0
    coordinator = Coordinator(batch.database, Settings(), Nowhere(), monotonic=lambda: now)
    assert batch.database.run(moves.anything_open)
    coordinator.tick(now)
    assert batch.verdict(run) == "error"  # the process may be alive
    now += reopening.PATIENCE
    coordinator.tick(now)
    stands_as(batch, run, expected)


@pytest.mark.usefixtures("small_pieces")
def test_a_coordinator_does_a_share_of_a_retry_in_each_tick(batch: Play):
    run, expected, _ = ended(batch, 2)
    number = sum(1 for _ in steps_of(batch, run))
    run, expected, _ = ended(batch, 2)
    next(steps_of(batch, run))
    clock = iter(range(10_000))
    unfinished = engine.Unfinished(batch.database, lambda: float(next(clock)))
    ticks = 0
    while marked := batch.database.run(moves.runs_retrying):
        unfinished.go_on(marked)
        ticks += 1
    assert ticks >= number - 1
    stands_as(batch, run, expected)


@pytest.mark.usefixtures("small_pieces")
def test_while_a_run_is_retried_in_pieces_nobody_else_retries_it(batch: Play):
    run, _, _ = ended(batch, 2)
    next(steps_of(batch, run))
    with pytest.raises(Conflict, match="is being retried"):
        engine.retry(batch.database, Retry(run), unnoted)


@pytest.mark.usefixtures("small_pieces")
def test_a_run_that_is_canceled_while_its_tasks_become_ready_ends_canceled(batch: Play):
    run, _, _ = ended(batch, 2)
    steps = steps_of(batch, run)
    while batch.verdict(run) != "executing":
        next(steps)
    batch.cancel(run)
    for _ in steps:
        pass
    assert batch.verdict(run) == "canceled"
    with batch.database.read() as tx:
        assert not moves.runs_retrying(tx)
    check_counters(batch.database)


@pytest.mark.usefixtures("small_pieces")
def test_an_executing_run_is_not_retried_in_pieces(batch: Play):
    batch.server("AOS1", 1)
    tasks = [TaskSpec(name=f"T{number}", run="demo.work") for number in range(6)]
    run = batch.submit(JobSpec(name="SIX", tasks=tuple(tasks)))
    batch.deliver()
    for number in range(4):
        batch.finish(f"T{number}", ok=False)
        batch.deliver()
    with pytest.raises(Conflict, match="It would reset 4 tasks; more than 3 can be reset once run 1 has ended"):
        engine.retry(batch.database, Retry(run), unnoted)


class Timed(Clocked):
    """A database that tells how long its longest transaction took."""

    longest = 0.0

    def run(self, act, *args, **kwargs):
        began = time.perf_counter()
        try:
            return super().run(act, *args, **kwargs)
        finally:
            self.longest = max(self.longest, time.perf_counter() - began)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["wide", "two layers"])
def test_50_000_tasks_are_retried_without_a_long_transaction(database, shape):
    timed = Timed(database.url.render_as_string(hide_password=False), answer=100.0)
    number = 50_000
    first = [TaskSpec(name=f"A{each}", run="demo.work") for each in range(number // (1 if shape == "wide" else 2))]
    second = [TaskSpec(name=f"B{each}", run="demo.work", after=f"A{each}") for each in range(number - len(first))]
    run = engine.submit(timed, JobSpec(name="LARGE", tasks=(*first, *second)))
    now = timed.shown

    def fail(tx: Any) -> None:
        """End the run as if all tasks had failed that wait for none."""
        failed, didnt_run = TASK.waits_with.is_(None) & (TASK.pending == 0), TASK.pending > 0
        tx.execute(update(TaskRow).where(failed).values(status="error", attempt=1, claimed_at=now, ended_at=now))
        tx.execute(update(TaskRow).where(didnt_run).values(status="didnt_run", pending=0, impossible=1, ended_at=now))
        tx.execute(update(Run).where(RUN.id == run).values(status="error", open_tasks=0, ended_at=now))

    timed.run(fail)
    timed.longest, began = 0.0, time.perf_counter()
    done = engine.retry(timed, Retry(run), unnoted)
    print(f"{database.kind}, {shape}: {time.perf_counter() - began:.1f} s, longest {timed.longest * 1000:.0f} ms")
    assert len(done.tasks) == number
    assert timed.longest < LONGEST
    with timed.read() as tx:
        assert moves.run_to_retry(tx, run).status == "executing"
        counted = tx.execute(select(TASK.status, TASK.pending, func.count()).group_by(TASK.status, TASK.pending))
        found = Counter({(status, pending): tasks for status, pending, tasks in counted})
    assert found == Counter({("ready", 0): len(first), ("waiting", 1): len(second)})
    timed.dispose()
