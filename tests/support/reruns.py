"""An operator's retry once more, as naive as the text of rule 33: what the code is compared with.

States and outcomes are plain words; nothing here is shared with the package.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass
class Job:
    """For each task its conditions (task, outcome), how they are joined; and which tasks are gates."""

    after: dict[str, list[tuple[str, str]]]
    joins: dict[str, str]
    gates: set[str] = field(default_factory=set)


def is_met(outcome: str, state: str) -> bool:
    return state in MEETS[outcome]


def is_impossible(outcome: str, state: str) -> bool:
    return state in ENDS and not is_met(outcome, state)


def judged(job: Job, states: Mapping[str, str], task: str) -> str:
    """What becomes of a waiting task while the others are in these states (rule 5)."""
    conditions = job.after[task]
    met = [is_met(outcome, states[before]) for before, outcome in conditions]
    impossible = [is_impossible(outcome, states[before]) for before, outcome in conditions]
    if conditions and job.joins[task] == "any":
        state = "ready" if any(met) else "didnt_run" if all(impossible) else "waiting"
    else:
        state = "didnt_run" if any(impossible) else "ready" if all(met) else "waiting"
    return "success" if state == "ready" and task in job.gates else state


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

    def stays(task: str) -> bool:
        kept = [(before, outcome) for before, outcome in job.after[task] if before not in reset]
        return job.joins[task] == "any" and any(is_met(outcome, states[before]) for before, outcome in kept)

    while True:
        followers = {task for task, after in job.after.items() if any(before in reset for before, _ in after)}
        more = {task for task in followers - reset if not stays(task)}
        if not more:
            return reset
        reset |= more


def retried(job: Job, states: Mapping[str, str], reset: Collection[str]) -> dict[str, str]:
    """Where all tasks stand after the retry, once all has followed that needs no attempt."""
    return settled(job, {task: "waiting" if task in reset else state for task, state in states.items()})


def random_job(tasks: int, rng: random.Random, outcomes: Sequence[str], gates: float = 0.15) -> Job:
    """A job of so many tasks, of which some have the very conditions of another one; they are in no order."""
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
        if rng.random() < gates:
            job.gates.add(name)
    shuffled = rng.sample(names, len(names))
    job.after = {name: job.after[name] for name in shuffled}
    return job
