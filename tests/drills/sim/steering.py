"""The judge of what people steer: holds, retries, aborts, gates, and the audit.

It hears of each change of a row before the change is taken in, and of each commit when all of its changes are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from drills.sim.handouts import OUT, Handouts
from drills.sim.jobs import ERRORS
from support import rules

if TYPE_CHECKING:
    from drills.sim.checker import Judge, Task

# An audit line: the action, the kind of thing, its name.
Said = tuple[str, str, str]


@dataclass(frozen=True)
class Move:
    """A task that went from one state to another in the commit that is looked at; with its attempt before that."""

    task: Task
    before: str | None
    after: str
    token: str | None
    attempt: int


@dataclass
class Steering:
    """What people asked for, as far as the journal has come."""

    judge: Judge
    limits: dict[str, int] = field(default_factory=dict)
    per_run: dict[str, int] = field(default_factory=dict)
    retrying: dict[int, str] = field(default_factory=dict)
    reset: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    aborts: set[tuple[int, str | None]] = field(default_factory=set)
    reasons: dict[tuple[int, int], str | None] = field(default_factory=dict)
    told: dict[Said, list[int]] = field(default_factory=lambda: defaultdict(list))
    # Of the commit that is looked at.
    said: list[Said] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    changed: list[Said] = field(default_factory=list)
    opened: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.handouts = Handouts(self.judge, self)

    # --- what the journal says --------------------------------------------------------------------------

    def saw_limit(self, name: str, units: int | None) -> None:
        """A named limit has these units now; None: there is no such limit any more."""
        if units is None:
            self.limits.pop(name, None)
        else:
            self.limits[name] = units
        self.changed.append(("", "limit", name))

    def saw_group(self, name: str, *, paused: bool, per_run: int | None) -> None:
        """A group is paused or not, and has this limit for each run."""
        known = name in self.judge.paused
        before = self.judge.paused.get(name, False), self.per_run.get(name)
        if per_run is None:
            self.per_run.pop(name, None)
        else:
            self.per_run[name] = per_run
        if known and before != (paused, per_run):
            self.changed.append(("", "group", name))

    def saw_run(self, run: int, status: str, *, held: bool, retry: str | None) -> None:
        """A run has this status, is held or not, and is in the middle of a retry or not."""
        before = self.judge.runs.get(run)
        given_up = before == "storing" and status == "canceled"  # its hold ends with it
        if before is not None and held != (run in self.judge.held) and not given_up:
            self.changed.append(("hold" if held else "release", "run", str(run)))
        if before != status:
            if status == "canceling":
                self.changed.append(("cancel", "run", str(run)))
            if status == "executing" and before != "storing":
                self.opened.add(run)
        if retry is None:
            self.retrying.pop(run, None)
        else:
            self.retrying[run] = retry
        self.touched.add(run)

    def saw_task(self, task: Task, status: str) -> None:
        """A task, as it stood before, has this status now."""
        self.touched.add(task.id >> 20)
        if status == task.status:
            return
        if status == "waiting" and task.status is not None:
            self.reset[task.id >> 20].add(task.id)
            task.resets.append(task.attempt)
        self.moves.append(Move(task, task.status, status, task.token, task.attempt))

    def saw_attempt(self, task: int, attempt: int, reason: str | None) -> None:
        """An attempt ended for this reason."""
        self.reasons[task, attempt] = reason

    def saw_audit(self, what: str, kind: str, name: str) -> None:
        """The audit has a line more."""
        self.said.append((what, kind, name))
        run = int(name.partition("/")[0]) if kind in ("run", "task") else 0
        if what in ("retry", "accept"):
            kept = {move.task.id for move in self.moves if move.after == "waiting" and move.before is not None}
            self.reset[run] = {task for task in kept if task >> 20 == run}
        if what == "abort":
            for task in self.judge.tasks.values():
                if self.judge.named(task.id) == (run, name.partition("/")[2].strip()) and task.status == "executing":
                    self.aborts.add((task.id, task.token))

    # --- a commit ---------------------------------------------------------------------------------------

    def commit(self, number: int, wall: datetime, actor: str) -> None:
        """All changes of this commit are known."""
        for said in self.said:
            self.told[said].append(number)
        self._judge_audit(number)
        for move in self.moves:
            self._judge_move(move, number, wall)
        self._judge_resets()
        self.handouts.commit(number, wall)
        self._judge_settled(number, actor)
        for each in (self.said, self.moves, self.changed, self.opened, self.touched):
            each.clear()

    def _judge_audit(self, number: int) -> None:
        """Whatever people change is in the audit, in the same transaction (rule 39)."""
        for what, kind, name in self.changed:
            words = {"release": ("release", "cancel")}.get(what, (what,))
            if not any((kind, name) == said[1:] and (said[0] in words or not what) for said in self.said):
                self.judge.say(9, f"{kind} {name} was changed in commit {number} ({what}), and the audit says nothing")

    def _judge_move(self, move: Move, number: int, wall: datetime) -> None:
        task, run = move.task, move.task.id >> 20
        who = f"{self.judge.name_of(task.id)}, in commit {number},"
        again = move.after == "waiting" and move.before is not None
        if again and run not in self.retrying and not self._retried(run):
            self.judge.say(9, f"{who} went back to waiting, and nobody retried its run")
        if move.before == "executing":
            self._judge_end(move, who, wall)
        if move.before == "ready" and move.after in OUT and task.ready_at is not None and task.ready_at > wall:
            self.judge.say(13, f"{who} was handed out before {task.ready_at}")
        if move.before == "waiting" and move.after == "success" and task.id in self.judge.facts.tasks:
            accepted = any(said[0] == "accept" for said in self.said) or run in self.retrying
            if not self.judge.facts.tasks[task.id].gate and not accepted:
                self.judge.say(9, f"{who} succeeded without a start, and nobody accepted it")

    def _retried(self, run: int) -> bool:
        retried = (said[2].partition("/")[0].strip() for said in self.said if said[0] in ("retry", "accept"))
        return str(run) in retried

    def _judge_end(self, move: Move, who: str, wall: datetime) -> None:
        """How an attempt ended decides whether there is a further one, and when (rules 30 to 32)."""
        task, judge = move.task, self.judge
        if move.after == "success":
            return
        aborted = (task.id, move.token) in self.aborts
        if aborted != (move.after == "canceled"):
            judge.say(9, f"{who} is {move.after}, {'though' if aborted else 'and not'} aborted")
        if move.after == "canceled":
            return
        again = self._is_tried_again(move)
        if again != (move.after == "ready"):
            judge.say(2, f"{who} is {move.after} after attempt {move.attempt}, reset at {task.resets}")
        if move.after == "ready":
            spec = judge.spec_of(task.id)
            wait = (task.ready_at - wall).total_seconds() if task.ready_at else 0.0
            usual = spec.retry_delay * spec.retry_backoff ** (move.attempt - task.reset_at - 1)
            usual = usual if spec.retry_delay_max is None else min(usual, spec.retry_delay_max)
            if abs(wait - usual) > usual * spec.retry_jitter + 0.001:
                judge.say(13, f"{who} waits {wait:.3f} s for its next attempt, not {usual} s")

    def _is_tried_again(self, move: Move) -> bool:
        judge, task = self.judge, move.task
        spec, end = judge.spec_of(task.id), judge.ends.get(move.token or "")
        reason = self.reasons.get((task.id, move.attempt))
        classes: tuple[str, ...] = ("batchq.Lost",) if reason == "lost" else ()
        if reason == "error" and end is not None:
            classes = ERRORS[end.error or ""]
            if end.final:
                return False
        closing = judge.runs[task.id >> 20] in ("canceling", "canceled")  # it may have closed in the same commit
        if move.attempt - task.reset_at > spec.retries or closing:
            return False
        fits = bool(not spec.retry_on or _fits(spec.retry_on, classes))
        return fits and not _fits(spec.retry_never_on or (), classes)

    def _judge_resets(self) -> None:
        """With a task all is reset that follows it, also what shares conditions (rule 33d)."""
        at_once = {int(said[2].partition("/")[0]) for said in self.said if said[0] in ("retry", "accept")}
        for run in sorted((at_once - self.retrying.keys()) | (self.opened & self.retrying.keys())):
            plan, states = self.judge.plan_of(run)
            names = {self.judge.facts.tasks[task].name for task in self.reset[run]}
            waiting = {name for name, state in states.items() if state == "waiting"}
            missing = _closure(plan, states, names) - names - waiting
            if names and missing:
                self.judge.say(4, f"a retry of run {run} reset {sorted(names)}, and forgot {sorted(missing)}")

    def _judge_settled(self, number: int, actor: str) -> None:
        """What is decided does not wait: neither a gate nor a task behind one (rules 5, 50)."""
        unsettled = {task.id >> 20 for task in self.judge.tasks.values() if task.unsettled}
        for run in self.touched - unsettled - self.retrying.keys():
            if self.judge.runs.get(run) != "executing":
                continue
            plan, states = self.judge.plan_of(run)
            for name, state in states.items():
                if state == "waiting" and (due := rules.judged(plan, states, name)) != "waiting":
                    self.judge.say(3, f"{name} of run {run} still waits after commit {number}, it is {due}")
        left = [move.task.id for move in self.moves if move.before == "waiting" and move.task.unsettled]
        after = [task for each in left for task in self.judge.facts.followers[each]]
        # Who holds the dispatch lock waits for nobody who may hold a task that has left `waiting`.
        if self._settles_at_once(actor) and all(self.judge.tasks[task].status == "waiting" for task in after):
            for task in left:
                name = self.judge.name_of(task)
                self.judge.say(3, f"{name} ended in commit {number} by {actor}, what follows it was not told")

    def _settles_at_once(self, actor: str) -> bool:
        """Whether a commit by this actor settles all that ends in it."""
        history = self.judge.history
        return history.settings.fast_path and not history.bounded and actor.startswith("AOS")

    # --- the end ----------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Every action that was acknowledged is in the audit."""
        for action in self.judge.history.actions:
            kind = {"abort": "task", "accept": "task"}.get(action.what, "run")
            if action.what not in ("cancel", "hold", "release", "retry", "accept", "abort"):
                continue
            if min(self.told[action.what, kind, str(action.subject)], default=action.commits + 1) > action.commits:
                self.judge.say(9, f"{action.what} of {action.subject} was acknowledged, and the audit says nothing")


def _fits(names: Iterable[str], classes: Iterable[str]) -> bool:
    own = {each.rpartition(".")[2] for each in classes}
    return any(name.rpartition(".")[2] in own for name in names)


def _closure(plan: rules.Plan, states: dict[str, str], seeds: Iterable[str]) -> set[str]:
    """The tasks that are reset with these: what follows one, but for what a met condition on another one keeps."""
    reset = set(seeds)

    def reached(condition: Any) -> bool:
        if len(condition) == 3:
            return condition[0] in reset
        join, inner = condition
        kept = join == "any" and any(not reached(each) and rules.comes_to(each, states) is True for each in inner)
        return not kept and any(reached(each) for each in inner)

    while more := {name for name in plan.after if name not in reset and reached((plan.joins[name], plan.after[name]))}:
        reset |= more
    return reset
