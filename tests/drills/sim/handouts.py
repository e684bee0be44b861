"""The judge of what is handed out: no ticket of a held run, no unit too many, and the first in order first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drills.sim.checker import Judge
    from drills.sim.rows import Task
    from drills.sim.steering import Steering

CRITICAL = 3
OUT = ("queued", "executing")


@dataclass
class Handouts:
    """What is out after each commit, by the limits and holds that `steering` has heard of."""

    judge: Judge
    steering: Steering

    def commit(self, number: int, wall: datetime) -> None:
        """All changes of this commit are known."""
        self._judge_tickets(number)
        self._judge_units(number)
        self._judge_order(wall, number)

    def _judge_tickets(self, number: int) -> None:
        """Of a held run no ticket is out (rule 33)."""
        for task in self.judge.tasks.values():
            if task.status == "queued" and task.id >> 20 in self.judge.held:
                self.judge.say(12, f"a ticket of {self.judge.name_of(task.id)}, which is held, is out after {number}")

    def _judge_units(self, number: int) -> None:
        """A unit is taken from the ticket to the end of the attempt, and there are never more (rule 29)."""
        grew = {key for move in self.steering.moves if move.after in OUT for key, _ in self._keys(move.task.id)}
        queued: Counter[Any] = Counter()
        executing: Counter[Any] = Counter()
        units: dict[Any, int] = {}
        for task in self.judge.tasks.values():
            if task.status in OUT:
                for key, most in self._keys(task.id):
                    units[key] = most
                    (queued if task.status == "queued" else executing)[key] += 1
        for key, most in units.items():
            taken = queued[key] + executing[key]
            if taken > most and (key in grew or queued[key]):
                self.judge.say(7, f"{taken} units of {key} were taken after commit {number}, there are {most}")

    def _keys(self, task: int) -> Iterator[tuple[Any, int]]:
        """The limits that count for a task, with their units."""
        row = self.judge.facts.tasks.get(task)
        if row is None or row.gate:
            return
        run = self.judge.facts.runs[row.run_id]
        job = self.judge.history.jobs[run.job]
        for name in {*self.judge.spec_of(task).limits, *job.limits}:
            if name in self.steering.limits:
                yield name, self.steering.limits[name]
        if job.tasks_at_once is not None:
            yield job.name, job.tasks_at_once
        if row.group_name in self.steering.per_run:
            yield (row.run_id, row.group_name), self.steering.per_run[row.group_name]

    def _judge_order(self, wall: datetime, number: int) -> None:
        """What is handed out goes before what stays, by class now, by the database's clock, and by age (rule 28)."""
        chosen = [move.task for move in self.steering.moves if move.before == "ready" and move.task.status in OUT]
        for lane in {task.lane for task in chosen}:
            left = [task for task in self.judge.tasks.values() if task.lane == lane and self._may_start(task, wall)]
            first = min((self._place(task, wall) for task in left), default=None)
            last = max(self._place(task, wall) for task in chosen if task.lane == lane)
            if first is not None and first < last:
                late, early = self.judge.name_of(last[2]), self.judge.name_of(first[2])
                self.judge.say(13, f"{late} was handed out in commit {number} before {early}, which goes first")

    def _may_start(self, task: Task, wall: datetime) -> bool:
        run = task.id >> 20
        open_ = self.judge.runs.get(run) == "executing" and run not in self.judge.held
        return task.status == "ready" and open_ and task.ready_at is not None and task.ready_at <= wall

    def _place(self, task: Task, wall: datetime) -> tuple[int, datetime, int]:
        aging = self.judge.history.settings.priority_aging_seconds
        assert task.ready_at is not None
        risen = int(max(wall - task.ready_at, timedelta()).total_seconds() // aging) if aging else 0
        return -max(task.own_class, min(CRITICAL, task.own_class + risen)), task.ready_at, task.id
