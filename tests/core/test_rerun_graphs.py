"""Retries over random graphs, against an oracle that judges every task anew from scratch (rule 33)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

import pytest

from batchq.core.conditions import Join, readiness, resolution
from batchq.core.rerun import Asked, Graph, Numbers, Standing, hopeless, rerun
from batchq.core.states import NOT_STARTED, TERMINAL, Outcome, State
from support import reruns

OUTCOMES = [outcome.value for outcome in Outcome]
GRAPHS = 2000
PARTS = 20


class Books:
    """A run as the store has it: states by task, and the counts of conditions by the task that keeps them."""

    def __init__(self, job: reruns.Job, rng: random.Random) -> None:
        self.job, self.rng = job, rng
        self.ids = {name: number for number, name in enumerate(job.after, 1)}
        self.names = {number: name for name, number in self.ids.items()}
        keepers: dict[object, int] = {}
        self.keeper = {
            number: keepers.setdefault((job.joins[name], tuple(job.after[name])) if job.after[name] else number, number)
            for name, number in self.ids.items()
        }
        self.conditions = {
            keeper: [Asked(self.ids[before], Outcome(outcome)) for before, outcome in job.after[self.names[keeper]]]
            for keeper in set(self.keeper.values())
        }
        self.states = dict.fromkeys(self.ids.values(), State.WAITING)
        self.gone: set[int] = set()
        self.numbers = {keeper: Numbers(len(asked), 0, 0) for keeper, asked in self.conditions.items()}
        self._move([keeper for keeper in self.numbers if not self.conditions[keeper]])

    @property
    def graph(self) -> Graph:
        return Graph.of({task: self._standing(task, name) for name, task in self.ids.items()}, self.conditions)

    def _standing(self, task: int, name: str) -> Standing:
        join, gate = Join(self.job.joins[name]), name in self.job.gates
        return Standing(name, self.states[task], self.keeper[task], join, gate, given_up=task in self.gone)

    def _move(self, keepers: Collection[int]) -> None:
        """Move tasks on as the engine does: a keeper by its counts, and with it the waiting ones that share these."""
        ended = []
        for keeper in keepers:
            state = readiness(Join(self.job.joins[self.names[keeper]]), *self.numbers[keeper])
            if self.states[keeper] in (State.WAITING, State.SUCCESS) and state is not State.WAITING:
                for task in self.ids.values():
                    if self.keeper[task] == keeper and self.states[task] is State.WAITING:
                        met = self.names[task] in self.job.gates and state is State.READY
                        self.states[task] = State.SUCCESS if met else state
                        if self.states[task] in TERMINAL:
                            ended.append(task)
        if ended:
            self.settle(ended)

    def settle(self, ended: Collection[int]) -> None:
        changed = set()
        for keeper, conditions in self.conditions.items():
            for task, outcome in conditions:
                if task in ended:
                    pending, met, impossible = self.numbers[keeper]
                    came = resolution(outcome, self.states[task])
                    self.numbers[keeper] = Numbers(pending - 1, met + (came is True), impossible + (came is False))
                    changed.add(keeper)
        self._move(changed)

    def end(self) -> bool:
        """Let a ready task run and end, or be aborted; False if there is none."""
        ready = [task for task, state in self.states.items() if state is State.READY]
        if not ready:
            return False
        task = self.rng.choice(ready)
        self.states[task] = self.rng.choice([State.SUCCESS, State.SUCCESS, State.ERROR, State.CANCELED])
        self.settle([task])
        return True

    def play(self, steps: int) -> None:
        while steps and self.end():
            steps -= 1
            self.check()

    def cancel(self) -> None:
        """Cancel the run while some of its ready tasks execute, and let these end."""
        executing = [task for task, state in self.states.items() if state is State.READY and self.rng.random() < 0.5]
        for task, state in self.states.items():
            if state in NOT_STARTED and task not in executing:
                self.states[task] = State.CANCELED
                self.gone.add(task)
        for task in executing:
            self.states[task] = self.rng.choice([State.SUCCESS, State.ERROR])
            self.settle([task])
            self.check()

    def words(self) -> dict[str, str]:
        return {
            self.names[task]: reruns.GONE if task in self.gone else state.value for task, state in self.states.items()
        }

    def check(self) -> None:
        """Compare the states with those that the oracle finds, and the counts with new ones."""
        words = self.words()
        assert reruns.settled(self.job, words) == words
        for keeper, conditions in self.conditions.items():
            counted: Counter[bool | None] = Counter()
            for task, outcome in conditions:
                gone = task in self.gone
                counted["gone" if gone else resolution(outcome, self.states[task])] += 1
            pending, met, impossible = self.numbers[keeper]
            assert met == counted[True]
            # What was canceled with its run may or may not have been counted as impossible: nobody asks any more.
            assert counted[False] <= impossible <= counted[False] + counted["gone"]
            assert pending + impossible == counted[None] + counted[False] + counted["gone"]

    def retry(self) -> str:
        """Retry the failed tasks, some named ones, all, or accept one; returns how it went."""
        failed = [task for task, state in self.states.items() if state in (State.ERROR, State.CANCELED)]
        named = self.rng.sample(sorted(self.states), min(len(self.states), self.rng.randint(1, 2)))
        kind = self.rng.choice(["failed", "failed", "named", "all", "accepted"])
        seeds = {"failed": failed, "named": named, "all": sorted(self.states), "accepted": named[:1]}[kind]
        accepted = seeds[0] if kind == "accepted" else None
        words = self.words()
        reset = reruns.reset_by(self.job, words, [self.names[task] for task in seeds])
        expected = {name: "waiting" if name in reset else state for name, state in words.items()}
        if accepted is not None:
            expected[self.names[accepted]] = "success"
        expected = reruns.settled(self.job, expected)
        plan = rerun(self.graph, seeds, accepted)
        assert {self.names[task] for task in plan.resets} == reset
        assert {self.names[task]: state.value for task, state in plan.ends.items()} == {
            name: expected[name] for name in reset
        }
        refused = hopeless(self.graph, plan, named) if kind == "named" else []
        assert len(refused) == (kind == "named") * sum(expected[self.names[task]] == "didnt_run" for task in named)
        if refused:
            return "refused"
        self.gone -= plan.resets.keys()
        self.states |= plan.resets
        self.numbers |= plan.numbers
        self.settle([task for task, state in plan.resets.items() if state in TERMINAL])
        assert self.words() == expected
        self.check()
        return kind


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs_that_are_retried_end_as_the_oracle_says(part):
    happened: Counter[str] = Counter()
    for seed in range(part * GRAPHS // PARTS, (part + 1) * GRAPHS // PARTS):
        rng = random.Random(seed)
        books = Books(reruns.random_job(rng.randint(1, 14), rng, OUTCOMES), rng)
        books.check()
        for _ in range(3):
            books.play(rng.choice([2, 5, 100]))
            if rng.random() < 0.3:
                books.cancel()
            happened[books.retry()] += 1
        books.play(100)
    assert happened.keys() == {"failed", "named", "all", "accepted", "refused"}
