"""The judge: reads what the operations wrote down, what operators were told, and the database; knows no engine.

The database's journal says what each commit changed. It is replayed, and every claim is judged by the rules as they
stood then, in words of this module's own and of `rules`. The instant that counts is the claim: what is claimed counts
as started, even where its process stood still between the commit and the start (rule 20).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from batchq.spec import TaskSpec
from drills.sim.books import driver
from drills.sim.claims import Claims
from drills.sim.endings import Endings
from drills.sim.facts import facts_of
from drills.sim.processes import Action
from drills.sim.rows import Server, Task, instant_of
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
# What may open a run again that has ended.
RETRIES = ("retry", "accept")


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
    holding: list[tuple[int, bool]] = field(default_factory=list)
    claimed: list[tuple[Task, str]] = field(default_factory=list)
    gone: list[tuple[Task, float]] = field(default_factory=list)
    over: list[tuple[Task, int, bool]] = field(default_factory=list)
    stored: dict[tuple[int, int], int] = field(default_factory=dict)
    beaten: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = facts_of(self.history)
        self.steering, self.claims, self.endings = Steering(self), Claims(self), Endings(self)
        self.starts = [line for line in self.history.lines if line.word == "start"]
        self.ends = {line.token: line for line in self.history.lines if line.word != "start"}
        self.started = {line.token: line for line in self.starts}
        self.acknowledged = _acknowledged(self.history.actions)
        self.deaths = {action.subject: action.commits for action in self.history.actions if action.what == "died"}

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
        task.ready_at, task.claimed_at, task.lane, task.own_class = instant_of(ready_at), claimed_at, lane, own_class
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
        before, until = self.servers.get(id_), instant_of(override_until)
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
            self.claims.claimed(task, instant_of(claimed_at), number, instant, actor)
        for task, beat_at in self.gone:
            self.claims.lost(task, mono - beat_at, number)
        for task, attempt, missed in self.over:
            self.stored[task.id, attempt] = number
            if missed:
                self.claims.given_up(task, number)
        for server in self.beaten:
            server.beat_at = mono
        for acts in (self.claimed, self.gone, self.over, self.beaten):
            acts.clear()
        if mono > self.history.calm_at:
            self.claims.waited(mono, instant)

    def was_retried(self, run: int, commit: int | None = None) -> bool:
        """Whether somebody retried the run after its last cancel; with a `commit`, both before that."""

        def last(*words: str) -> int:
            told = self.steering.told.items()
            commits = [at for said, all_ in told if said[0] in words and _run_of(said) == run for at in all_]
            return max((at for at in commits if commit is None or at < commit), default=-1)

        return last(*RETRIES) > last("cancel")

    def was_ever_retried(self, run: int) -> bool:
        """Whether somebody retried the run at some time."""
        return any(said[0] in RETRIES and _run_of(said) == run and at for said, at in self.steering.told.items())

    def conclude(self) -> None:
        """Judge how everything ended."""
        self.steering.conclude()
        for surprise in self.history.surprises:
            self.faults.append(f"an error that no fault explains: {surprise}")
        self.endings.conclude()

    # --- what is asked of it --------------------------------------------------------------------------------

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


def _acknowledged(actions: list[Action]) -> dict[int, int]:
    """After which commit each canceled run's first cancel was acknowledged."""
    first: dict[int, int] = {}
    for action in actions:
        if action.what == "cancel":
            first.setdefault(int(action.subject), action.commits)
    return first


def _run_of(said: tuple[str, str, str]) -> int:
    return int(said[2].partition("/")[0])


def check(history: History) -> list[str]:
    """What broke an invariant in this history, a sentence each."""
    judge = Judge(history)
    judge.replay()
    judge.conclude()
    return judge.faults
