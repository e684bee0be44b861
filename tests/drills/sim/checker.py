"""The judge: reads what the operations wrote down, what operators were told, and the database; knows no engine.

The database's journal says what each commit changed. It is replayed, and every claim is judged by the rules as they
stood then, in words of this module's own and of `rules`. The instant that counts is the claim: what is claimed counts
as started, even where its process stood still between the commit and the start (rule 20).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from batchq.spec import TaskSpec
from drills.sim.books import driver
from drills.sim.processes import Action, Line
from drills.sim.steering import Steering
from drills.sim.world import History
from support import rules

# Rule 6; who goes back to waiting was retried, of which `steering` makes sure.
MOVES = {
    None: {"waiting"},
    "waiting": {"ready", "success", "didnt_run", "canceled"},
    "ready": {"queued", "executing", "canceled", "waiting"},
    "queued": {"executing", "ready", "canceled"},
    "executing": {"success", "error", "ready", "canceled"},
    "success": {"waiting"},
    "error": {"waiting"},
    "didnt_run": {"waiting"},
    "canceled": {"waiting"},
}
RUN_MOVES = {
    None: {"storing"},
    "storing": {"executing", "canceled"},
    "executing": {"canceling", "success", "error", "canceled"},
    "canceling": {"canceled"},
    "success": {"executing"},
    "error": {"executing"},
    "canceled": {"executing"},
}
# How long, in the calm, a task may stay ready beside a free thread: a ticket that was lost again and again is replaced
# after a minute at the latest; after that the time between two ticks, between two looks, and a little.
AFTER_FAULTS, USUALLY = 62.0, 6.0
# What may open a run again that has ended.
RETRIES = ("retry", "accept")


@dataclass
class Task:
    """A task as the journal has it so far."""

    id: int
    status: str | None = None
    token: str | None = None
    attempt: int = 0
    server: int | None = None
    epoch: int | None = None
    ready_at: datetime | None = None
    claimed_at: str | None = None
    lane: int = 0
    own_class: int = 0
    accepted: str | None = None
    unsettled: bool = False
    # How many attempts there had been at each retry by an operator.
    resets: list[int] = field(default_factory=list)

    @property
    def reset_at(self) -> int:
        """The attempts before the last retry by an operator."""
        return self.resets[-1] if self.resets else 0

    @property
    def state(self) -> str:
        """Its status; what was canceled with its run is gone."""
        return rules.GONE if self.status == "canceled" and self.claimed_at is None else str(self.status)


@dataclass
class Server:
    """A server as the journal has it so far."""

    name: str
    threads: int
    enabled: bool
    running: bool
    epoch: int
    pool: int | None
    beat: int
    override: tuple[int, datetime] | None = None
    beat_at: float = 0.0

    def open_threads(self, windows: list[tuple[str, str, int, str]], wall: datetime) -> int:
        """How many tasks it may run at once at this instant (rules 16 to 19, 51)."""
        if not (self.enabled and self.running):
            return 0
        if self.override is not None and wall < self.override[1]:
            most = self.override[0]
        else:
            most = self.threads if not windows else max((each[2] for each in windows if _covers(each, wall)), default=0)
        return most if self.pool is None else min(most, self.pool)


def _covers(window: tuple[str, str, int, str], wall: datetime) -> bool:
    start, end = (time.fromisoformat(each) for each in window[:2])
    clock = wall.astimezone(ZoneInfo(window[3])).time()
    return start <= clock < end if start < end else clock >= start or clock < end


@dataclass(frozen=True)
class Claim:
    """What one commit claimed."""

    commit: int
    task: int
    attempt: int
    token: str
    server: int


@dataclass
class Facts:
    """What the database says at the end: names, plans and rows."""

    tasks: dict[int, Any]
    runs: dict[int, Any]
    attempts: dict[tuple[int, int], Any]
    conditions: Counter[tuple[int, bool | None]]
    followers: defaultdict[int, list[int]]


@dataclass
class Judge:
    """Replays the journal of one history and gathers what broke an invariant, a sentence each."""

    history: History
    faults: list[str] = field(default_factory=list)
    tasks: dict[int, Task] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    servers: dict[int, Server] = field(default_factory=dict)
    bindings: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    windows: defaultdict[int, dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))
    paused: dict[str, bool] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    holding: list[tuple[int, bool]] = field(default_factory=list)
    claimed: list[tuple[Task, str]] = field(default_factory=list)
    gone: list[tuple[Task, float]] = field(default_factory=list)
    over: list[tuple[Task, int, bool]] = field(default_factory=list)
    stored: dict[tuple[int, int], int] = field(default_factory=dict)
    beaten: list[Server] = field(default_factory=list)
    waiting_since: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.facts = facts_of(self.history)
        self.steering = Steering(self)
        self.starts = [line for line in self.history.lines if line.word == "start"]
        self.ends = {line.token: line for line in self.history.lines if line.word != "start"}
        self.started = {line.token: line for line in self.starts}
        self.acknowledged = _acknowledged(self.history.actions)
        self.deaths = {action.subject: action.commits for action in self.history.actions if action.what == "died"}
        self.by_pid: defaultdict[int, list[str]] = defaultdict(list)

    def say(self, invariant: int, sentence: str) -> None:
        self.faults.append(f"invariant {invariant}: {sentence}")

    # --- the journal, commit by commit ----------------------------------------------------------------------

    def replay(self) -> None:
        """Go through all commits in their order."""
        rows = driver(self.history.database).execute("SELECT * FROM journal ORDER BY number")
        for _, kind, *values in rows:
            getattr(self, "_see_" + kind.replace(" ", "_"))(*values)

    def _see_task(self, id_: int, status: str, token: str | None, attempt: int, *more: Any) -> None:
        task = self.tasks.setdefault(id_, Task(id_))
        server, epoch, claimed_at, ready_at, lane, own_class, accepted, unsettled = more
        self.steering.saw_task(task, status)
        if status != task.status:
            if status not in MOVES.get(task.status, ()):
                self.say(9, f"{self.name_of(id_)} went from {task.status} to {status}")
            if status == "executing":
                self.claimed.append((task, claimed_at))
        # What ends keeps the token of its last attempt, for who asks how it ended.
        task.status, task.token, task.attempt, task.server, task.epoch = status, token, attempt, server, epoch
        task.ready_at, task.claimed_at, task.lane, task.own_class = _instant(ready_at), claimed_at, lane, own_class
        task.accepted, task.unsettled = accepted, bool(unsettled)

    def _see_no_task(self, id_: int, *_: Any) -> None:
        if self.tasks.pop(id_).status != "waiting":
            self.say(1, f"task {id_} was deleted")

    def _see_run(self, id_: int, status: str, open_tasks: int, held: int, retry: str | None, *_: Any) -> None:
        self.steering.saw_run(id_, status, held=bool(held), retry=retry)
        # By the commit that set the flag, which comes before the command returns.
        if bool(held) != (id_ in self.held):
            self.holding.append((id_, bool(held)))
        before = self.runs.get(id_)
        if before != status and status not in RUN_MOVES.get(before, ()):
            self.say(9, f"run {id_} went from {before} to {status}")
        self.runs[id_] = status

    def _see_server(
        self,
        id_: int,
        name: str,
        threads: int,
        enabled: int,
        liveness: str,
        epoch: int,
        pool: int,
        beat: int,
        override_threads: int | None,
        override_until: str | None,
        *_: Any,
    ) -> None:
        before, until = self.servers.get(id_), _instant(override_until)
        override = (override_threads, until) if override_threads is not None and until else None
        self.servers[id_] = server = Server(
            name, threads, bool(enabled), liveness == "running", epoch, pool, beat, override
        )
        if before and before.beat == beat:
            server.beat_at = before.beat_at
        else:
            self.beaten.append(server)

    def _see_no_server(self, id_: int, *_: Any) -> None:
        del self.servers[id_]

    def _see_limit(self, name: str, units: int, *_: Any) -> None:
        self.steering.saw_limit(name, units)

    def _see_no_limit(self, name: str, *_: Any) -> None:
        self.steering.saw_limit(name, None)

    def _see_audit(self, what: str, kind: str, name: str, *_: Any) -> None:
        self.steering.saw_audit(what, kind, name)

    def _see_group(self, name: str, paused: int, per_run: int | None, *_: Any) -> None:
        self.steering.saw_group(name, paused=bool(paused), per_run=per_run)
        self.paused[name] = bool(paused)

    def _see_binding(self, server: int, group: str, *_: Any) -> None:
        self.bindings[server].add(group)

    def _see_no_binding(self, server: int, group: str, *_: Any) -> None:
        self.bindings[server].discard(group)

    def _see_window(self, id_: int, server: int, *said: Any) -> None:
        self.windows[server][id_] = said[:4]

    def _see_no_window(self, id_: int, server: int, *_: Any) -> None:
        del self.windows[server][id_]

    def _see_attempt(self, task: int, attempt: int, server: str, epoch: int, status: str, *more: Any) -> None:
        error, reason = more[:2]
        known = self.tasks[task]
        self.steering.saw_attempt(task, attempt, reason)
        if error and "went away" in error:
            self.gone.append((known, self.servers[known.server].beat_at))  # type: ignore[index]
        if attempt != known.attempt:
            self.say(8, f"{self.name_of(task)}: attempt {attempt} ended while {known.attempt} was the one")
        self.over.append((known, attempt, bool(error and "no longer has" in error)))

    def _see_commit(self, number: int, mono: float, wall: str, actor: str, *_: Any) -> None:
        instant = datetime.fromisoformat(wall)
        for run, held in self.holding:
            if held:
                self.held.setdefault(run, number)
            else:
                self.held.pop(run, None)
        self.holding.clear()
        self.steering.commit(number, instant, actor)
        for task, claimed_at in self.claimed:
            self._judge_claim(task, _instant(claimed_at), number, instant, actor)
        for task, beat_at in self.gone:
            self._judge_loss(task, mono - beat_at, number)
        for task, attempt, missed in self.over:
            self.stored[task.id, attempt] = number
            if missed:
                self._judge_missing(task, number)
        for server in self.beaten:
            server.beat_at = mono
        for acts in (self.claimed, self.gone, self.over, self.beaten):
            acts.clear()
        if mono > self.history.calm_at:
            self._judge_waiting(mono, instant)

    # --- a claim --------------------------------------------------------------------------------------------

    def _judge_claim(self, task: Task, claimed_at: datetime | None, commit: int, wall: datetime, actor: str) -> None:
        assert task.token is not None
        assert task.server is not None
        who = f"{self.name_of(task.id)}, claimed in commit {commit} by {actor},"
        claim = self.claims[task.token] = Claim(commit, task.id, task.attempt, task.token, task.server)
        server, row = self.servers[task.server], self.facts.tasks[task.id]
        if task.epoch != server.epoch or not server.running:
            self.say(5, f"{who} by epoch {task.epoch} of {server.name}, whose life has epoch {server.epoch}")
        if not self._takes(task.server, row.group_name):
            self.say(5, f"{who} is of {row.group_name}, which {server.name} does not take")
        if self.paused.get(row.group_name):
            self.say(5, f"{who} is of {row.group_name}, which is paused")
        if claimed_at != wall:
            self.say(6, f"{who} has the instant {claimed_at}, not {wall}")
        most = server.open_threads(list(self.windows[task.server].values()), wall)
        if not most:
            self.say(6, f"{who} while {server.name} was closed")
        if self.runs.get(task.id >> 20) != "executing":
            self.say(12, f"{who} of a run that is {self.runs.get(task.id >> 20)}")
        if self.held.get(task.id >> 20, commit) < commit:
            self.say(12, f"{who} after its run was held")
        self._judge_condition(task, who)
        self._judge_number(claim, most, who)
        if commit > self.acknowledged.get(task.id >> 20, commit) and not self._was_retried(task.id >> 20, commit):
            self.say(12, f"{who} after the cancel of its run was acknowledged")

    def _judge_condition(self, task: Task, who: str) -> None:
        """Its condition held, by what was committed (invariants 3 and 4)."""
        plan, states = self.plan_of(task.id >> 20)
        states[self.facts.tasks[task.id].name] = "waiting"
        verdict = rules.judged(plan, states, self.facts.tasks[task.id].name)
        if verdict != "ready":
            self.say(4 if verdict == "didnt_run" else 3, f"{who} was not ready but {verdict}")

    def _judge_number(self, claim: Claim, most: int, who: str) -> None:
        """What the process really runs, this claim included, are at most its threads (invariant 7)."""
        start = self.started.get(claim.token)
        if start is None:
            return  # claimed, and lost before it started
        running = self.by_pid[start.pid]
        running[:] = [token for token in running if self._runs_at(token, claim.commit)]
        running.append(claim.token)
        if len(running) > most:
            self.say(7, f"{who} was number {len(running)} on {most} threads")

    def _was_retried(self, run: int, commit: int | None = None) -> bool:
        """Whether somebody retried the run after its last cancel; with a `commit`, both before that."""

        def last(*words: str) -> int:
            told = self.steering.told.items()
            commits = [at for said, all_ in told if said[0] in words and _run_of(said) == run for at in all_]
            return max((at for at in commits if commit is None or at < commit), default=-1)

        return last(*RETRIES) > last("cancel")

    def _runs_at(self, token: str, commit: int) -> bool:
        end = self.ends.get(token)
        return end is None or end.commits >= commit

    def _takes(self, server: int, group: str) -> bool:
        bound = {str(each): self.bindings[each] for each in self.servers}
        return group in rules.serves(bound, str(server), self.paused)

    def _judge_loss(self, task: Task, silence: float, commit: int) -> None:
        """A server is given up only when it is dead, or silent for long: else its attempts are no losses."""
        start = self.started.get(task.token or "")
        if start is None or commit > self.deaths.get(start.pid, commit):
            return
        if silence < self.history.lost_seconds:
            self.say(8, f"{self.name_of(task.id)} was lost, though {start.server} was silent for {silence:.1f} s only")

    def _judge_missing(self, task: Task, commit: int) -> None:
        """A server that lives gives up no attempt whose outcome it was told: it stores that."""
        end = self.ends.get(task.token or "")
        if end is None or end.word != "end" or commit > self.deaths.get(end.pid, commit):
            return
        if end.commits < commit:
            self.say(8, f"{self.name_of(task.id)} was given up, though {end.server} knew how it ended")

    # --- the calm -------------------------------------------------------------------------------------------

    def _judge_waiting(self, mono: float, wall: datetime) -> None:
        """A ready task with a free thread in an open window starts soon (invariant 13)."""
        busy = Counter(task.server for task in self.tasks.values() if task.status == "executing")
        free = {
            id_
            for id_, server in self.servers.items()
            if busy[id_] < server.open_threads(list(self.windows[id_].values()), wall)
        }
        for task in self.tasks.values():
            if task.id >> 20 in self.held:
                continue
            due = task.status == "queued" or (task.status == "ready" and task.ready_at <= wall)
            if due and any(self._takes(server, self.facts.tasks[task.id].group_name) for server in free):
                since = self.waiting_since.setdefault(task.id, mono)
                refused = self.history.refused_until.get(self.facts.tasks[task.id].group_name, 0.0)
                if mono > max(max(self.history.calm_at, refused) + AFTER_FAULTS, since) + USUALLY:
                    self.say(
                        13, f"{self.name_of(task.id)} has waited beside a free thread since {since:.1f}, at {mono:.1f}"
                    )
                    self.waiting_since[task.id] = mono
            else:
                self.waiting_since.pop(task.id, None)

    # --- the end --------------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Judge how everything ended, by the rows and the operations' lines."""
        self.steering.conclude()
        for surprise in self.history.surprises:
            self.faults.append(f"an error that no fault explains: {surprise}")
        self._judge_starts()
        for task in self.facts.tasks.values():
            self._judge_task(task)
        for run in self.facts.runs.values():
            self._judge_run(run)

    def _judge_starts(self) -> None:
        """Each attempt starts at most once, by a claim that the books know (invariants 2, 4, 8)."""
        once = Counter((line.task, line.attempt) for line in self.starts)
        for (task, attempt), number in once.items():
            if number > 1:
                self.say(2, f"attempt {attempt} of {self.name_of(task)} started {number} times")
        for line in self.starts:
            claim = self.claims.get(line.token)
            if claim is None or (claim.task, claim.attempt) != (line.task, line.attempt):
                self.say(4, f"{self.name_of(line.task)} started under {line.token}, which nobody claimed")
            elif claim.commit > line.commits:
                self.say(4, f"{self.name_of(line.task)} started before it was claimed")
            if self.stored.get((line.task, line.attempt), line.commits + 1) <= line.commits:
                name = self.name_of(line.task)
                self.say(8, f"attempt {line.attempt} of {name} started after it was over in the books")

    def _judge_task(self, task: Any) -> None:
        name, run = self.name_of(task.id), self.facts.runs[task.run_id]
        if task.status not in rules.ENDS:
            self.say(1, f"{name} is still {task.status}")
            return
        starts = [line for line in self.starts if line.task == task.id]
        if task.gate:
            if starts or task.attempt or task.ready_at or task.unsettled:
                self.say(2, f"{name} is a gate, and has a start")
            return
        known, retries = self.tasks[task.id], self.spec_of(task.id).retries
        for first, last in pairwise([0, *known.resets, task.attempt]):
            number = sum(first < line.attempt <= last for line in starts)
            if max(number, last - first) > retries + 1:
                self.say(2, f"{name} started {number} times, by the books {last - first}, with retries: {retries}")
        if task.accepted is not None:
            if task.status != "success":
                self.say(8, f"{name} is {task.status}, though somebody accepted it")
            return
        since = any(line.attempt > known.reset_at for line in starts)
        if task.status in ("success", "error"):
            self._judge_outcome(task, name, run)
        elif task.status == "didnt_run" and since:
            self.say(4, f"{name} didn't run, but started")

    def _judge_outcome(self, task: Any, name: str, run: Any) -> None:
        """What SQL says of the last attempt is what its operation wrote, or that it was lost (invariant 8)."""
        for number in range(1, task.attempt + 1):
            attempt = self.facts.attempts.get((task.id, number))
            if attempt is None:
                self.say(8, f"{name} has no record of attempt {number}")
                return
            line = self._end_of(task.id, number)
            lost = attempt.reason in ("lost", "not_started", "aborted")
            written = {True: "success", False: "error"}.get(line.ok if line else None)
            if (attempt.status == "error") != (attempt.reason is not None):
                self.say(8, f"attempt {number} of {name} is a {attempt.status} with the reason {attempt.reason}")
            if not lost and written != attempt.status:
                self.say(8, f"attempt {number} of {name} is {attempt.status}, but wrote {written}")
        if attempt.status != task.status or task.unsettled:
            self.say(8, f"{name} is {task.status}, its last attempt {attempt.status}")
        poisoned = line is not None and line.poisoned
        if task.status == "success" and json.loads(task.result or "null") != (None if poisoned else task.attempt):
            self.say(8, f"{name} has the result {task.result} of another attempt than {task.attempt}")

    def _end_of(self, task: int, attempt: int) -> Line | None:
        ends = [end for end in self.ends.values() if (end.task, end.attempt) == (task, attempt)]
        return ends[-1] if ends else None

    def _judge_run(self, run: Any) -> None:
        """Ends, verdict and counters of a run follow from its tasks (rules 4, 5, 7; invariants 1, 4, 14)."""
        tasks = [task for task in self.facts.tasks.values() if task.run_id == run.id]
        if run.status == "canceled" and not tasks:
            return  # its submit died half-way
        asked = ("cancel", run.id) in self.history.asked
        if run.id in self.acknowledged and run.status != "canceled" and not self._was_retried(run.id):
            self.say(12, f"run {run.id} ended in {run.status}, though its cancel was acknowledged")
        plan, states = self.plan_of(run.id)
        if set(states) != set(plan.after):
            self.say(1, f"run {run.id} has the tasks {sorted(states)}, not {sorted(plan.after)}")
            return
        accepted = {task.name for task in tasks if task.accepted is not None}
        for name, state in states.items():
            due = rules.judged(plan, states | {name: "waiting"}, name)
            started = {"success": "ready", "error": "ready", "canceled": "ready"} if name not in plan.gates else {}
            if due != started.get(state, state) and state != rules.GONE and name not in accepted:
                self.say(4, f"{name} of run {run.id} ended in {state}, its conditions say {due}")
        gone = rules.GONE in states.values()
        if (run.status == "canceled" or gone) and not asked:
            self.say(8, f"run {run.id} is {run.status}, and nobody canceled it")
        if run.status == "canceled":
            if not gone and self._was_retried(run.id):
                self.say(8, f"run {run.id} was retried, has no task that was canceled with it, and is canceled")
        elif gone:
            self.say(12, f"run {run.id} is {run.status} with canceled tasks")
        elif run.status not in {rules.verdict(_without(plan, each), states) for each in (set(), accepted)}:
            self.say(8, f"run {run.id} is {run.status}, not {rules.verdict(plan, states)}")
        self._judge_counters(run, tasks)

    def _judge_counters(self, run: Any, tasks: list[Any]) -> None:
        still_open = sum(task.unsettled or task.status not in rules.ENDS for task in tasks)
        if run.open_tasks != still_open or (run.ended_at is None) != bool(still_open):
            self.say(14, f"run {run.id} counts {run.open_tasks} open tasks, it has {still_open}")
        sharing = Counter(task.waits_with for task in tasks)
        for task in tasks:
            if task.sharing != sharing[task.id]:
                self.say(14, f"{self.name_of(task.id)} counts {task.sharing} that share its conditions")
            if task.waits_with:
                continue
            counted = {None: task.pending, 1: task.met, 0: task.impossible}
            if (task.pending or self.facts.conditions[task.id, None]) and self._was_retried(run.id):
                continue  # what was canceled with the run is open to some, and impossible to what was retried
            for met, number in counted.items():
                if number != self.facts.conditions[task.id, met]:
                    self.say(14, f"{self.name_of(task.id)} counts {number} conditions as {met}")

    def plan_of(self, run: int) -> tuple[rules.Plan, dict[str, str]]:
        """The run's plan, and its tasks' states by the journal."""
        plan = self.history.plans[self.facts.runs[run].job]
        own = ((self.facts.tasks.get(id_), task) for id_, task in self.tasks.items() if id_ >> 20 == run)
        return plan, {row.name: task.state for row, task in own if row is not None and not row.unnamed}

    def spec_of(self, task: int) -> TaskSpec:
        """The task as its job has it."""
        row = self.facts.tasks[task]
        tasks = self.history.jobs[self.facts.runs[row.run_id].job].tasks
        return next(each for each in tasks if each.name == row.name)

    def named(self, task: int) -> tuple[int, str]:
        """A task's run and name."""
        row = self.facts.tasks.get(task)
        return (row.run_id, row.name) if row else (0, "")

    def name_of(self, task: int) -> str:
        """A task, for people."""
        row = self.facts.tasks.get(task)
        return f"{row.name} of run {row.run_id}" if row else f"task {task}"


class Row:
    """A row by its columns' names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def facts_of(history: History) -> Facts:
    """What the database holds when all is over."""
    tasks = {row.id: row for row in _rows(history, "batchq_task")}
    runs = {row.id: row for row in _rows(history, "batchq_run")}
    attempts = {(row.task_id, row.attempt): row for row in _rows(history, "batchq_attempt")}
    rows = list(_rows(history, "batchq_condition"))
    conditions = Counter((row.task_id, _came_true(row, tasks[row.predecessor_id])) for row in rows)
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        followers[row.predecessor_id].append(row.task_id)
    return Facts(tasks, runs, attempts, conditions, followers)


def _came_true(condition: Row, end: Row) -> int | None:
    """Whether a condition came true, 1 or 0, by the row of the task it waits for; None while it is open."""
    if end.status not in rules.ENDS or (end.unsettled and condition.task_id > (end.settled_up_to or 0)):
        return None
    if end.status == "canceled" and end.claimed_at is None:
        return None
    return int(rules.is_met(condition.outcome, end.status))


def _rows(history: History, table: str) -> Iterator[Row]:
    cursor = driver(history.database).execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    return (Row(dict(zip(names, row, strict=True))) for row in cursor)


def _acknowledged(actions: list[Action]) -> dict[int, int]:
    """After which commit each canceled run's first cancel was acknowledged."""
    first: dict[int, int] = {}
    for action in actions:
        if action.what == "cancel":
            first.setdefault(int(action.subject), action.commits)
    return first


def _run_of(said: tuple[str, str, str]) -> int:
    return int(said[2].partition("/")[0])


def _without(plan: rules.Plan, tasks: set[str]) -> rules.Plan:
    """The plan in which these handle nothing."""
    return rules.Plan(plan.after | {task: [] for task in tasks}, plan.joins, plan.ignored, plan.gates)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def check(history: History) -> list[str]:
    """What broke an invariant in this history, a sentence each."""
    judge = Judge(history)
    judge.replay()
    judge.conclude()
    return judge.faults
