"""The judge of how everything ended, by the rows and by what the operations wrote down."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from drills.sim.processes import Line
from support import rules

if TYPE_CHECKING:
    from drills.sim.checker import Judge


@dataclass
class Endings:
    """How attempts, tasks and runs ended."""

    judge: Judge

    def conclude(self) -> None:
        """Judge how everything ended, by the rows and the operations' lines."""
        self._judge_starts()
        for task in self.judge.facts.tasks.values():
            self._judge_task(task)
        for run in self.judge.facts.runs.values():
            self._judge_run(run)

    def _judge_starts(self) -> None:
        """Each attempt starts at most once, by a claim that the books know (invariants 2, 4, 8)."""
        judge = self.judge
        once = Counter((line.task, line.attempt) for line in judge.starts)
        for (task, attempt), number in once.items():
            if number > 1:
                judge.say(2, f"attempt {attempt} of {judge.name_of(task)} started {number} times")
        for line in judge.starts:
            claim = judge.claims.made.get(line.token)
            if claim is None or (claim.task, claim.attempt) != (line.task, line.attempt):
                judge.say(4, f"{judge.name_of(line.task)} started under {line.token}, which nobody claimed")
            elif claim.commit > line.commits:
                judge.say(4, f"{judge.name_of(line.task)} started before it was claimed")
            if judge.stored.get((line.task, line.attempt), line.commits + 1) <= line.commits:
                name = judge.name_of(line.task)
                judge.say(8, f"attempt {line.attempt} of {name} started after it was over in the books")

    def _judge_task(self, task: Any) -> None:
        judge = self.judge
        name, run = judge.name_of(task.id), judge.facts.runs[task.run_id]
        if task.status not in rules.ENDS:
            judge.say(1, f"{name} is still {task.status}")
            return
        starts = [line for line in judge.starts if line.task == task.id]
        if task.gate:
            if starts or task.attempt or task.ready_at or task.unsettled:
                judge.say(2, f"{name} is a gate, and has a start")
            return
        known, retries = judge.tasks[task.id], judge.spec_of(task.id).retries
        for first, last in pairwise([0, *known.resets, task.attempt]):
            number = sum(first < line.attempt <= last for line in starts)
            if max(number, last - first) > retries + 1:
                judge.say(2, f"{name} started {number} times, by the books {last - first}, with retries: {retries}")
        if task.accepted is not None:
            if task.status != "success":
                judge.say(8, f"{name} is {task.status}, though somebody accepted it")
            return
        since = any(line.attempt > known.reset_at for line in starts)
        if task.status in ("success", "error"):
            self._judge_outcome(task, name, run)
        elif task.status == "didnt_run" and since:
            judge.say(4, f"{name} didn't run, but started")

    def _judge_outcome(self, task: Any, name: str, run: Any) -> None:
        """What SQL says of the last attempt is what its operation wrote, or that it was lost (invariant 8)."""
        judge = self.judge
        for number in range(1, task.attempt + 1):
            attempt = judge.facts.attempts.get((task.id, number))
            if attempt is None:
                judge.say(8, f"{name} has no record of attempt {number}")
                return
            line = self._end_of(task.id, number)
            lost = attempt.reason in ("lost", "not_started", "aborted")
            written = {True: "success", False: "error"}.get(line.ok if line else None)
            if (attempt.status == "error") != (attempt.reason is not None):
                judge.say(8, f"attempt {number} of {name} is a {attempt.status} with the reason {attempt.reason}")
            if not lost and written != attempt.status:
                judge.say(8, f"attempt {number} of {name} is {attempt.status}, but wrote {written}")
        if attempt.status != task.status or task.unsettled:
            judge.say(8, f"{name} is {task.status}, its last attempt {attempt.status}")
        poisoned = line is not None and line.poisoned
        if task.status == "success" and json.loads(task.result or "null") != (None if poisoned else task.attempt):
            judge.say(8, f"{name} has the result {task.result} of another attempt than {task.attempt}")

    def _end_of(self, task: int, attempt: int) -> Line | None:
        ends = [end for end in self.judge.ends.values() if (end.task, end.attempt) == (task, attempt)]
        return ends[-1] if ends else None

    def _judge_run(self, run: Any) -> None:
        """Ends, verdict and counters of a run follow from its tasks (rules 4, 5, 7; invariants 1, 4, 14)."""
        judge = self.judge
        tasks = [task for task in judge.facts.tasks.values() if task.run_id == run.id]
        if run.status == "canceled" and not tasks:
            return  # its submit died half-way
        asked = ("cancel", run.id) in judge.history.asked
        if run.id in judge.acknowledged and run.status != "canceled" and not judge.was_retried(run.id):
            judge.say(12, f"run {run.id} ended in {run.status}, though its cancel was acknowledged")
        plan, states = judge.plan_of(run.id)
        if set(states) != set(plan.after):
            judge.say(1, f"run {run.id} has the tasks {sorted(states)}, not {sorted(plan.after)}")
            return
        accepted = {task.name for task in tasks if task.accepted is not None}
        for name, state in states.items():
            due = rules.judged(plan, states | {name: "waiting"}, name)
            started = {"success": "ready", "error": "ready", "canceled": "ready"} if name not in plan.gates else {}
            if due != started.get(state, state) and state != rules.GONE and name not in accepted:
                judge.say(4, f"{name} of run {run.id} ended in {state}, its conditions say {due}")
        gone = rules.GONE in states.values()
        if (run.status == "canceled" or gone) and not asked:
            judge.say(8, f"run {run.id} is {run.status}, and nobody canceled it")
        if run.status == "canceled":
            if not gone and judge.was_retried(run.id):
                judge.say(8, f"run {run.id} was retried, has no task that was canceled with it, and is canceled")
        elif gone:
            judge.say(12, f"run {run.id} is {run.status} with canceled tasks")
        elif run.status not in {rules.verdict(_without(plan, each), states) for each in (set(), accepted)}:
            judge.say(8, f"run {run.id} is {run.status}, not {rules.verdict(plan, states)}")
        self._judge_counters(run, tasks)

    def _judge_counters(self, run: Any, tasks: list[Any]) -> None:
        judge = self.judge
        still_open = sum(task.unsettled or task.status not in rules.ENDS for task in tasks)
        if run.open_tasks != still_open or (run.ended_at is None) != bool(still_open):
            judge.say(14, f"run {run.id} counts {run.open_tasks} open tasks, it has {still_open}")
        sharing = Counter(task.waits_with for task in tasks)
        for task in tasks:
            if task.sharing != sharing[task.id]:
                judge.say(14, f"{judge.name_of(task.id)} counts {task.sharing} that share its conditions")
            if task.waits_with:
                continue
            counted = {None: task.pending, 1: task.met, 0: task.impossible}
            if (task.pending or judge.facts.conditions[task.id, None]) and judge.was_ever_retried(run.id):
                continue  # what was canceled with the run is open to some, and impossible to what was retried
            for met, number in counted.items():
                if number != judge.facts.conditions[task.id, met]:
                    judge.say(14, f"{judge.name_of(task.id)} counts {number} conditions as {met}")


def _without(plan: rules.Plan, tasks: set[str]) -> rules.Plan:
    """The plan in which these handle nothing."""
    return rules.Plan(plan.after | {task: [] for task in tasks}, plan.joins, plan.ignored, plan.gates)
