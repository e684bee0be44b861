"""Random jobs, canceled and retried up to three times, played by the engine; they end as the oracle says (rule 33)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from batchq import engine
from batchq.core.states import Outcome
from batchq.engine import Retry
from batchq.errors import Conflict
from batchq.spec import JobSpec, TaskSpec
from play import Clocked, Play, check_counters
from support import reruns
from support.seeds import seeds

OUTCOMES = [outcome.value for outcome in Outcome]
JOBS = {"sqlite": 160, "postgresql": 20}
MANY_JOBS = {"sqlite": 2000, "postgresql": 300}
PARTS, MANY_PARTS = 20, 100
REFUSED = ("; retry", "failed. Name", "executing:", "can be accepted", "is canceling")


class Books:
    """A run that is played and retried, and the states that its tasks must have by the oracle."""

    def __init__(self, batch: Play, rng: random.Random) -> None:
        self.batch, self.rng = batch, rng
        self.job = reruns.random_job(rng.randint(2, 12), rng, OUTCOMES, levels=rng.choice([0, 1, 3]))
        self.ignored = {name for name in self.job.after if rng.random() < 0.2}
        self.canceled = False  # and not retried since
        tasks = [
            TaskSpec(
                name=name,
                **({} if name in self.job.gates else {"run": "demo.work"}),
                after=in_a_file(after),
                join=self.job.joins[name],
                **({"ignore_failure": True} if name in self.ignored - self.job.gates else {}),
            )
            for name, after in self.job.after.items()
        ]
        self.run = batch.submit(JobSpec(name="RANDOM", tasks=tuple(tasks)))
        self.states = reruns.settled(self.job, dict.fromkeys(self.job.after, "waiting"))
        self.check()

    def check(self) -> None:
        """Compare the engine's states with the oracle's; what is ready may have started."""
        found = self.batch.states(self.run)
        started = {"queued": "ready", "executing": "ready"}
        expected = {name: {reruns.GONE: "canceled"}.get(state, state) for name, state in self.states.items()}
        assert {name: started.get(state, state) for name, state in found.items()} == expected
        check_counters(self.batch.database)

    def judge(self, **ends: str) -> None:
        self.states = reruns.settled(self.job, self.states | ends)
        self.check()

    def play(self, steps: int) -> None:
        self.batch.forward()
        self.batch.deliver()
        while steps and self.batch.running():
            steps -= 1
            _, row = self.rng.choice(self.batch.running())
            end = self.rng.choice(["success", "success", "success", "error", "canceled"])
            if end == "canceled":
                self.batch.abort(row.name, self.run)
            else:
                self.batch.finish(row.name, ok=end == "success", run=self.run)
            self.batch.deliver()
            self.judge(**{row.name: end})

    def cancel(self) -> None:
        """Cancel the run, unless it has ended, and let its executing tasks end."""
        if self.batch.verdict(self.run) != "executing":
            return
        executing = {row.name for _, row in self.batch.running()}
        self.batch.cancel(self.run)
        self.batch.mail.clear()
        gone = {name for name, state in self.states.items() if state in ("waiting", "ready")} - executing
        self.judge(**dict.fromkeys(gone, reruns.GONE))
        self.play(100)
        assert self.batch.verdict(self.run) == "canceled"
        self.canceled = True

    def verdict(self) -> str:
        """The verdict of the ended run (rules 7, 33h)."""
        if self.canceled or reruns.GONE in self.states.values():
            return "canceled"
        failed = {name for name, state in self.states.items() if state in reruns.FAILED}
        return "error" if failed - self.ignored else "success"

    def retry(self) -> str:
        """Retry the failed tasks, some that are named, or all, or accept one; returns how it went."""
        names = self.rng.sample(sorted(self.states), min(len(self.states), self.rng.randint(1, 2)))
        kind = self.rng.choice(["failed", "failed", "named", "all", "accepted"])
        asked = {
            "failed": Retry(self.run, lost=True),
            "named": Retry(self.run, names, lost=True),
            "all": Retry(self.run, all_tasks=True, lost=True),
            "accepted": Retry(self.run, names[:1], lost=True, accepted="by hand"),
        }[kind]
        failed = [name for name, state in self.states.items() if state in reruns.FAILED]
        seeds = {"failed": failed, "named": names, "all": sorted(self.states), "accepted": names[:1]}[kind]
        reset = reruns.reset_by(self.job, self.states, seeds)
        expected = {name: "waiting" if name in reset else state for name, state in self.states.items()}
        if kind == "accepted":
            expected[names[0]] = "success"
        expected = reruns.settled(self.job, expected)
        refusal = None
        try:
            done = engine.retry(self.batch.database, asked, lambda tx, retried: None)
        except Conflict as error:
            refusal = str(error)
        if refusal is not None:
            assert any(word in refusal for word in REFUSED), refusal
            assert "; retry" not in refusal or "didnt_run" in [expected[name] for name in names]
            self.check()
            return "refused"
        assert set(done.tasks) == reset
        self.batch.forward()
        self.states, self.canceled = expected, False
        self.check()
        return kind


def in_a_file(conditions: Sequence[Any]) -> list[Any]:
    """The conditions of a job as a file says them."""
    return [{name: in_a_file(asked) if isinstance(asked, list) else asked} for name, asked in conditions]


def play(database: Clocked, numbers: range) -> None:
    batch = Play(database)
    batch.server("AOS1", 2)
    happened: Counter[str] = Counter()
    for seed in numbers:
        books = Books(batch, random.Random(seed))
        for _ in range(3):
            books.play(books.rng.choice([1, 4, 100]))
            if books.rng.random() < 0.25:
                books.cancel()
            happened[books.retry()] += 1
        books.play(100)
        assert batch.verdict(books.run) == books.verdict()
    assert happened.total() == 3 * len(numbers)


@pytest.mark.parametrize("part", seeds(6, PARTS))
def test_random_jobs_that_are_retried_end_as_the_oracle_says(database, part):
    jobs = JOBS[database.kind] // PARTS
    play(database, range(part * jobs, (part + 1) * jobs))


@pytest.mark.long
@pytest.mark.parametrize("part", range(MANY_PARTS))
def test_many_random_jobs_that_are_retried_end_as_the_oracle_says(database, part):
    jobs = MANY_JOBS[database.kind] // MANY_PARTS
    play(database, range(part * jobs, (part + 1) * jobs))
