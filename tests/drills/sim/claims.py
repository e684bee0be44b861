"""The judge of claims: where, when and how many tasks were claimed, which were given up, and which waited in vain."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from drills.sim.rows import Claim, Task
from support import rules

if TYPE_CHECKING:
    from drills.sim.checker import Judge

# How long, in the calm, a task may stay ready beside a free thread: a ticket that was lost again and again is replaced
# after a minute at the latest; after that the time between two ticks, between two looks, and a little.
AFTER_FAULTS, USUALLY = 62.0, 6.0


@dataclass
class Claims:
    """The claims that were made, by their tokens, and what each process runs."""

    judge: Judge
    made: dict[str, Claim] = field(default_factory=dict)
    by_pid: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    waiting_since: dict[int, float] = field(default_factory=dict)

    def claimed(self, task: Task, claimed_at: datetime | None, commit: int, wall: datetime, actor: str) -> None:
        """A task was claimed: by whom it may be, when it may be, and while its run goes on."""
        judge = self.judge
        assert task.token is not None
        assert task.server is not None
        who = f"{judge.name_of(task.id)}, claimed in commit {commit} by {actor},"
        claim = self.made[task.token] = Claim(commit, task.id, task.attempt, task.token, task.server)
        server, row = judge.servers[task.server], judge.facts.tasks[task.id]
        if task.epoch != server.epoch or not server.running:
            judge.say(5, f"{who} by epoch {task.epoch} of {server.name}, whose life has epoch {server.epoch}")
        if not self._takes(task.server, row.group_name):
            judge.say(5, f"{who} is of {row.group_name}, which {server.name} does not take")
        if judge.paused.get(row.group_name):
            judge.say(5, f"{who} is of {row.group_name}, which is paused")
        if claimed_at != wall:
            judge.say(6, f"{who} has the instant {claimed_at}, not {wall}")
        most = server.open_threads(list(judge.windows[task.server].values()), wall)
        if not most:
            judge.say(6, f"{who} while {server.name} was closed")
        if judge.runs.get(task.id >> 20) != "executing":
            judge.say(12, f"{who} of a run that is {judge.runs.get(task.id >> 20)}")
        if judge.held.get(task.id >> 20, commit) < commit:
            judge.say(12, f"{who} after its run was held")
        self._judge_condition(task, who)
        self._judge_number(claim, most, who)
        if commit > judge.acknowledged.get(task.id >> 20, commit) and not judge.was_retried(task.id >> 20, commit):
            judge.say(12, f"{who} after the cancel of its run was acknowledged")

    def _judge_condition(self, task: Task, who: str) -> None:
        """Its condition held, by what was committed (invariants 3 and 4)."""
        judge = self.judge
        plan, states = judge.plan_of(task.id >> 20)
        states[judge.facts.tasks[task.id].name] = "waiting"
        verdict = rules.judged(plan, states, judge.facts.tasks[task.id].name)
        if verdict != "ready":
            judge.say(4 if verdict == "didnt_run" else 3, f"{who} was not ready but {verdict}")

    def _judge_number(self, claim: Claim, most: int, who: str) -> None:
        """What the process really runs, this claim included, are at most its threads (invariant 7)."""
        start = self.judge.started.get(claim.token)
        if start is None:
            return  # claimed, and lost before it started
        running = self.by_pid[start.pid]
        running[:] = [token for token in running if self._runs_at(token, claim.commit)]
        running.append(claim.token)
        if len(running) > most:
            self.judge.say(7, f"{who} was number {len(running)} on {most} threads")

    def _runs_at(self, token: str, commit: int) -> bool:
        end = self.judge.ends.get(token)
        return end is None or end.commits >= commit

    def _takes(self, server: int, group: str) -> bool:
        judge = self.judge
        bound = {str(each): judge.bindings[each] for each in judge.servers}
        return group in rules.serves(bound, str(server), judge.paused)

    def lost(self, task: Task, silence: float, commit: int) -> None:
        """A server is given up only when it is dead, or silent for long: else its attempts are no losses."""
        judge = self.judge
        start = judge.started.get(task.token or "")
        if start is None or commit > judge.deaths.get(start.pid, commit):
            return
        if silence < judge.history.lost_seconds:
            judge.say(
                8, f"{judge.name_of(task.id)} was lost, though {start.server} was silent for {silence:.1f} s only"
            )

    def given_up(self, task: Task, commit: int) -> None:
        """A server that lives gives up no attempt whose outcome it was told: it stores that."""
        judge = self.judge
        end = judge.ends.get(task.token or "")
        if end is None or end.word != "end" or commit > judge.deaths.get(end.pid, commit):
            return
        if end.commits < commit:
            judge.say(8, f"{judge.name_of(task.id)} was given up, though {end.server} knew how it ended")

    def waited(self, mono: float, wall: datetime) -> None:
        """A ready task with a free thread in an open window starts soon (invariant 13)."""
        judge = self.judge
        busy = Counter(task.server for task in judge.tasks.values() if task.status == "executing")
        free = {
            id_
            for id_, server in judge.servers.items()
            if busy[id_] < server.open_threads(list(judge.windows[id_].values()), wall)
        }
        for task in judge.tasks.values():
            if task.id >> 20 in judge.held:
                continue
            due = task.status == "queued" or (task.status == "ready" and task.ready_at <= wall)
            if due and any(self._takes(server, judge.facts.tasks[task.id].group_name) for server in free):
                since = self.waiting_since.setdefault(task.id, mono)
                refused = judge.history.refused_until.get(judge.facts.tasks[task.id].group_name, 0.0)
                if mono > max(max(judge.history.calm_at, refused) + AFTER_FAULTS, since) + USUALLY:
                    judge.say(
                        13, f"{judge.name_of(task.id)} has waited beside a free thread since {since:.1f}, at {mono:.1f}"
                    )
                    self.waiting_since[task.id] = mono
            else:
                self.waiting_since.pop(task.id, None)
