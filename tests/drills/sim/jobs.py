"""Random jobs, as files would say them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from batchq.core.retries import lineage
from batchq.spec import JobSpec, TaskSpec
from support import rules

GROUPS = ["default", "BG1", "BG2"]
LIMITS = ["LICENCE", "PRINTER"]
# What operations raise, with all bases.
ERRORS = {"": (), **{each.__name__: lineage(each) for each in (BrokenPipeError, ValueError)}}


def job_of(
    name: str,
    plan: rules.Plan,
    rng: random.Random,
    retried: Sequence[int] = (0, 0, 0, 1, 2),
    more: Callable[[int], dict[str, Any]] = lambda retries: {},
    **settings: Any,
) -> tuple[JobSpec, dict[str, int]]:
    """The plan as a job, and how often each of its tasks may be tried again: one of `retried`.

    `more` gives further settings of a task by the number of its retries; `settings` are the job's.
    """
    retries = {task: rng.choice(retried) for task in plan.after}
    tasks = [
        TaskSpec(name=task, after=in_a_file(conditions), join=plan.joins[task])
        if task in plan.gates
        else TaskSpec(
            name=task,
            run="demo.work",
            after=in_a_file(conditions),
            join=plan.joins[task],
            ignore_failure=task in plan.ignored,
            group=rng.choice(GROUPS),
            priority=rng.choice([None, "low", "high"]),
            retries=retries[task],
            retry_delay=rng.choice([0, 0, 3]) if retries[task] else 0,
            **more(retries[task]),
        )
        for task, conditions in plan.after.items()
    ]
    return JobSpec(name=name, tasks=tuple(tasks), **settings), retries


def in_a_file(conditions: Sequence[Any]) -> list[Any]:
    """The conditions of a plan as a file says them."""
    return [
        {each[0]: in_a_file(each[1])} if len(each) == 2 else {each[0]: {"outcome": each[1], "handles": each[2]}}
        for each in conditions
    ]


def varied_job(name: str, plan: rules.Plan, rng: random.Random, *, limited: bool) -> JobSpec:
    """The plan as a job whose tasks use all that tasks can; `limited` ones take units of LIMITS."""

    def more(retries: int) -> dict[str, Any]:
        said: dict[str, Any] = {"repeatable": rng.random() < 0.2}
        if limited and rng.random() < 0.5:
            said["limits"] = rng.sample(LIMITS, rng.randint(1, 2))
        if retries:
            said |= {"retry_backoff": rng.choice([1, 2]), "retry_jitter": rng.choice([0, 0.5])}
            said |= {"retry_delay_max": rng.choice([None, 4])}
            said |= {"retry_on": rng.choice([None, None, ["OSError", "Lost"]])}
            said |= {"retry_never_on": rng.choice([None, None, ["ValueError"], ["batchq.Lost"]])}
        return {key: value for key, value in said.items() if value is not None}

    settings = {"tasks_at_once": rng.choice([None, 1, 2])} if limited else {}
    return job_of(name, plan, rng, more=more, **settings)[0]
