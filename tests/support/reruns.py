"""An operator's retry once more, as naive as the text of rule 33: what the code is compared with.

States and outcomes are plain words; nothing here is shared with the package.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

# A task that was canceled with its run: no condition on it is met (rule 33f).
GONE = "gone"
MEETS = {
    "success": {"success"},
    "error": {"error"},
    "finished": {"success", "error"},
    "skipped": {"didnt_run"},
    "over": {"success", "error", "didnt_run", "canceled"},
}
ENDS = {"success", "error", "didnt_run", "canceled", GONE}
FAILED = {"error", "canceled", GONE}
# A condition: task, outcome. Or conditions that stand together as one: how they are joined, and they (rule 50).
ACondition: TypeAlias = "tuple[str, str | list[ACondition]]"


@dataclass
class Job:
    """For each task its conditions, how they are joined; and which tasks are gates."""

    after: dict[str, list[ACondition]]
    joins: dict[str, str]
    gates: set[str] = field(default_factory=set)


def is_met(outcome: str, state: str) -> bool:
    return state in MEETS[outcome]


def is_impossible(outcome: str, state: str) -> bool:
    return state in ENDS and not is_met(outcome, state)


def comes_to(condition: ACondition, states: Mapping[str, str]) -> bool | None:
    """Whether a condition, or a whole join, is met; None while that is open (rules 5 and 50)."""
    name, asked = condition
    if isinstance(asked, list):
        return joined(name, [comes_to(each, states) for each in asked])
    return True if is_met(asked, states[name]) else False if is_impossible(asked, states[name]) else None


def joined(join: str, results: list[bool | None]) -> bool | None:
    """What a join comes to: `all` needs each of its conditions, `any` one (rule 5)."""
    if results and join == "any":
        return True if True in results else None if None in results else False
    return False if False in results else None if None in results else True


def judged(job: Job, states: Mapping[str, str], task: str) -> str:
    """What becomes of a waiting task while the others are in these states (rule 5)."""
    result = joined(job.joins[task], [comes_to(each, states) for each in job.after[task]])
    if result is None:
        return "waiting"
    return ("success" if task in job.gates else "ready") if result else "didnt_run"


def settled(job: Job, states: Mapping[str, str]) -> dict[str, str]:
    """All tasks judged anew, from scratch, until nothing changes any more (rule 4)."""
    while True:
        after = {task: judged(job, states, task) if state == "waiting" else state for task, state in states.items()}
        if after == states:
            return after
        states = after


def reset_by(job: Job, states: Mapping[str, str], seeds: Iterable[str]) -> set[str]:
    """The seeds and all that follows a reset task, but for what `any` keeps where it is (rule 33d)."""
    reset = set(seeds)
    while True:
        more = {task for task in job.after if follows(job.joins[task], job.after[task], states, reset)} - reset
        if not more:
            return reset
        reset |= more


def follows(join: str, conditions: Collection[ACondition], states: Mapping[str, str], reset: Collection[str]) -> bool:
    """Whether a task, or a join, with these conditions follows a reset task and is not kept where it is."""

    def moves(condition: ACondition) -> bool:
        name, asked = condition
        return follows(name, asked, states, reset) if isinstance(asked, list) else name in reset

    moving = [moves(each) for each in conditions]
    kept = [each for each, moved in zip(conditions, moving, strict=True) if not moved and comes_to(each, states)]
    return any(moving) and not (join == "any" and kept)


def retried(job: Job, states: Mapping[str, str], reset: Collection[str]) -> dict[str, str]:
    """Where all tasks stand after the retry, once all has followed that needs no attempt."""
    return settled(job, {task: "waiting" if task in reset else state for task, state in states.items()})


def random_job(tasks: int, rng: random.Random, outcomes: Sequence[str], gates: float = 0.15, *, levels: int = 0) -> Job:
    """A job of so many tasks, of which some have the very conditions of another one; they are in no order.

    Conditions stand in joins of up to so many `levels`.
    """
    names = [f"T{number}" for number in range(tasks)]
    job = Job({}, {})
    for position, name in enumerate(names):
        earlier = names[:position]
        if position and rng.random() < 0.4:
            twin = rng.choice(earlier)
            job.joins[name], job.after[name] = job.joins[twin], list(job.after[twin])
            continue
        job.joins[name] = rng.choice(["all", "all", "any"])
        before = rng.sample(earlier, min(position, rng.randint(0, 4)))
        job.after[name] = [(each, rng.choice([*outcomes, "success", "success"])) for each in before]
        if before and job.joins[name] == "any" and rng.random() < 0.2:
            other = rng.choice([each for each in outcomes if each != job.after[name][0][1]])
            job.after[name].append((before[0], other))
        if levels and position and rng.random() < 0.6:
            inner = [random_join(earlier, rng, outcomes, levels) for _ in range(rng.randint(1, 2))]
            # A list with joins in it has no `join` beside it: it stands in a join as a whole.
            job.joins[name], job.after[name] = "all", [(job.joins[name], job.after[name] + inner)]
        if rng.random() < gates:
            job.gates.add(name)
    shuffled = rng.sample(names, len(names))
    job.after = {name: job.after[name] for name in shuffled}
    return job


def random_join(names: Sequence[str], rng: random.Random, outcomes: Sequence[str], levels: int) -> ACondition:
    before = rng.sample(names, min(len(names), rng.randint(1, 3)))
    inner: list[ACondition] = [(each, rng.choice([*outcomes, "success", "success"])) for each in before]
    if levels > 1 and rng.random() < 0.4:
        inner.append(random_join(names, rng, outcomes, levels - 1))
    return rng.choice(["all", "any"]), inner
