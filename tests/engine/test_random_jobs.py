"""Random jobs with random failures, played by the engine: they end as the rules say, by brute force (rules 2 to 7)."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchq.spec import JobSpec
from drills.sim.jobs import job_of
from play import Play, busy, check_counters
from support import rules

EXAMPLES = {"sqlite": 40, "postgresql": 12}
SERVERS = {"AOS1": (2, []), "AOS2": (1, ["BG1"]), "AOS3": (2, ["BG1", "default"])}
RANDOM = st.randoms(use_true_random=True)


def tried_once(plan: rules.Plan, rng: random.Random) -> JobSpec:
    """The plan as a job of which no task is tried again."""
    job, _ = job_of("RANDOM", plan, rng, retried=(0,))
    return job


def never_more_than_the_threads(tx):
    """Rule 16, in the eyes of every transaction."""
    _, executing = busy(tx)
    assert all(number <= SERVERS[server][0] for server, number in executing.items())


class Choice:
    """Lets a random running task end next, and sees that none runs whose conditions do not hold."""

    def __init__(self, plan: rules.Plan, failing: set[str], rng: random.Random) -> None:
        self.plan, self.failing, self.rng = plan, failing, rng
        self.ended = dict.fromkeys(plan.after, "waiting")
        self.history: list[str] = []

    def __call__(self, running):
        standing = rules.settled(self.plan, self.ended)
        for row in running:
            assert standing[row.name] == "ready", row.name
            if (start := f"starts {row.name}") not in self.history:
                self.history.append(start)
        chosen = self.rng.choice(running)
        self.ended[chosen.name] = "error" if chosen.name in self.failing else "success"
        if chosen.name in self.failing:
            self.history.append(f"fails {chosen.name}")
        return chosen


@pytest.mark.parametrize("fast_path", [True, False], ids=["servers advance", "only the coordinator advances"])
def test_a_random_job_with_random_failures_ends_as_the_rules_say(database, fast_path):
    batch = Play(database, watch=never_more_than_the_threads, fast_path=fast_path)
    for name, (threads, groups) in SERVERS.items():
        batch.server(name, threads, groups=groups)

    @settings(max_examples=EXAMPLES[database.kind] // (1 if fast_path else 2), deadline=None)
    @given(st.integers(1, 25), RANDOM)
    def ends_as_the_rules_say(tasks, rng):
        plan = rules.random_plan(tasks, rng, levels=rng.randint(0, 4), gates=rng.choice([0, 0.2]), early=True)
        failing = {name for name in plan.after if rng.random() < 0.3}
        choice = Choice(plan, failing, rng)
        run = batch.play(tried_once(plan, rng), failing, choose=choice)
        assert run.states == rules.played(plan, failing)
        assert run.verdict == rules.verdict(plan, run.states, choice.history)
        ended = [name for name, state in run.states.items() if state in ("success", "error")]
        ran = [name for name in ended if name not in plan.gates]
        assert sorted(run.order) == sorted(ran)

    ends_as_the_rules_say()


def test_random_jobs_played_side_by_side_and_canceled_at_random_end_and_leave_nothing_behind(database):
    batch = Play(database, watch=never_more_than_the_threads)
    for name, (threads, groups) in SERVERS.items():
        batch.server(name, threads, groups=groups)

    @settings(max_examples=EXAMPLES[database.kind] // 2, deadline=None)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=4), RANDOM)
    def all_end(sizes, rng):
        jobs = [tried_once(rules.random_plan(size, rng), rng) for size in sizes]
        runs = {batch.submit(job): False for job in jobs}
        batch.deliver()
        while running := [row for worker in batch.workers.values() for row in worker.active.values()]:
            row = rng.choice(running)
            batch.finish(row.name, ok=rng.random() < 0.7, run=row.id >> 20)
            if rng.random() < 0.1:
                run = rng.choice(list(runs))
                runs[run] = runs[run] or batch.verdict(run) == "executing"
                batch.cancel(run)
            batch.tick()
            batch.deliver()
        check_counters(database)
        for run, canceled in runs.items():
            states = Counter(batch.states(run).values())
            assert set(states) <= {"success", "error", "didnt_run", "canceled"}
            assert (batch.verdict(run) == "canceled") == canceled
            assert canceled or not states["canceled"]
        batch.mail.clear()  # what is left are tickets of canceled tasks, which any server refuses

    all_end()
