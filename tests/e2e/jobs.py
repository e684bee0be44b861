"""Jobs to be hurt: their tasks take a while, and a lost one takes only a part of the job with it."""

from __future__ import annotations

import random
from typing import Any

from batchq import Job

LANES = 8
LINKS = 4


def lanes(name: str, seconds: float = 0.1, gate: str | None = None, first: str | None = None) -> Job:
    """40 tasks: 8 chains of 4, the ends of neighbours joined by 7, those by the last one.

    Chains of even numbers have 2 retries a task, the others none. The first tasks wait at the gate `first`, the
    joining ones at `gate`.
    """
    job = Job(name)

    def task(task: str, number: int, gate: str | None, after: dict[str, str]) -> None:
        kwargs = {"seconds": seconds} | ({"gate": gate} if gate else {})
        job.task(task, "ledger.work", kwargs=kwargs, after=after, retries=0 if number % 2 else 2)

    for lane in range(LANES):
        task(f"lane {lane} link 0", lane, first, {})
        for link in range(1, LINKS):
            outcome = "finished" if lane % 2 and link % 2 else "success"
            task(f"lane {lane} link {link}", lane, None, {f"lane {lane} link {link - 1}": outcome})
    for number in range(LANES - 1):
        ends = [f"lane {lane} link {LINKS - 1}" for lane in (number, number + 1)]
        task(f"join {number}", number, gate, dict.fromkeys(ends, "finished"))
    joins = [f"join {number}" for number in range(LANES - 1)]
    job.task("last", "ledger.work", after=dict.fromkeys(joins, "finished"), join="any")
    return job


def many(name: str, count: int, **kwargs: Any) -> Job:
    """So many tasks without conditions, all of which may run at once; `kwargs` as `ledger_app.work` takes them."""
    job = Job(name)
    for number in range(count):
        job.task(f"task {number}", "ledger.work", kwargs=kwargs)
    return job


def mixed(name: str, count: int, rng: random.Random) -> Job:
    """So many tasks of up to 0.3 s with conditions, joins, retries and some failures by lot."""
    job = Job(name)
    names: list[str] = []
    for number in range(count):
        before = rng.sample(names[-8:], min(len(names), rng.choice([0, 1, 1, 2, 3])))
        after = {each: rng.choice(["success", "finished", "finished"]) for each in before}
        kwargs = {"seconds": rng.uniform(0, 0.3), "fail": rng.random() < 0.05}
        join = rng.choice(["all", "all", "any"]) if after else None
        names.append(f"task {number}")
        job.task(names[-1], "ledger.work", kwargs=kwargs, after=after, join=join, retries=rng.choice([0, 0, 1, 2]))
    return job
