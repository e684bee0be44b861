"""Retry: an operator resets tasks, and all that follows them; a run that has ended opens again (rules 33, 52, 54)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from batchq import crash
from batchq.core import rerun as core
from batchq.core.rerun import Graph, Rerun
from batchq.core.states import LABELS, RUN_ENDED, TERMINAL, RunState, State
from batchq.engine.reopening import Mark, reopen
from batchq.engine.resetting import decide, graph_of, send_back, standing
from batchq.engine.settling import settle_runs
from batchq.errors import Conflict
from batchq.store import moves
from batchq.store.database import Database
from batchq.store.find import find_task
from batchq.store.group import name_groups
from batchq.store.moves import RetriedRun
from batchq.store.transaction import Tx

# The most tasks that one transaction resets, and that can be reset while the run executes (rule 33g).
AT_ONCE = 5000
MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class Retry:
    """The request of an operator: the failed tasks of a run, those with these names, or all.

    `lost` allows to run tasks once more that may have done their work (rule 52). `accepted` says by whom and why the
    one task that is named counts as done without an attempt (rule 54).
    """

    run: int
    tasks: Sequence[str] = ()
    all_tasks: bool = False
    lost: bool = False
    accepted: str | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """The effect of a retry: the state of the run before, and by name the state that each task goes to."""

    run: int
    job: str
    before: RunState
    tasks: dict[str, State]


@dataclass(frozen=True, slots=True)
class Look:
    """A run with its tasks and conditions, as they were at one moment, and the ids of the tasks that are named.

    The groups `lacking` were deleted since; a task names them again (rule 13).
    """

    run: RetriedRun
    graph: Graph
    named: Sequence[int] = ()
    lacking: Sequence[str] = ()

    def seeds(self, retry: Retry) -> list[int]:
        """The tasks that are reset whatever they follow (rule 33d)."""
        if retry.accepted is not None or retry.tasks:
            return list(self.named)
        return list(self.graph.tasks) if retry.all_tasks else core.failed(self.graph)

    def accepted(self, retry: Retry) -> int | None:
        """The task that counts as done without an attempt (rule 54)."""
        return self.named[0] if retry.accepted is not None else None


Note = Callable[[Tx, Retried], object]


def retry(database: Database, asked: Retry, note: Note) -> Retried:
    """Carry out a retry; `note` is called in the transaction that decides it. The caller advances next.

    Raises NotFound for a task that the run does not have, and Conflict with the tasks where rule 33g or 52 refuses.
    """
    for _ in range(MOST_TRIES):
        settle_up(database, asked.run)
        with database.read() as tx:
            look = look_at(tx, asked)
        plan = planned(look, asked)
        if look.lacking:  # before the run is locked: that is the order of locks
            database.run(name_groups, look.lacking)
        at_once = len(plan.resets) <= AT_ONCE
        done = database.run(_at_once if at_once else _begin, look, plan, asked, note)
        if done is None:
            continue
        for _ in () if at_once else reopen(database, asked.run):
            crash.point("run-moving")
        return done
    raise Conflict(f"Run {asked.run} changes all the time. Try again.")


def rehearse(tx: Tx, asked: Retry) -> Retried:
    """The effect that `retry` would have; nothing is changed. Raises as `retry` does."""
    look = look_at(tx, asked)
    return _retried(look, planned(look, asked))


def settle_up(database: Database, run: int) -> None:
    """Settle all that earlier transactions left unsettled in the run, a bounded piece in each transaction."""
    while database.run(lambda tx: settle_runs(tx, [run], tx.now())):
        pass


# --- what there is, and what follows ------------------------------------------------------------------------


def look_at(tx: Tx, asked: Retry) -> Look:
    """Read the run; raises NotFound for a task that it does not have."""
    run = moves.run_to_retry(tx, asked.run)
    named = [find_task(tx, asked.run, name) for name in asked.tasks]
    return Look(run, graph_of(tx, asked.run), named, moves.groups_lacking(tx, asked.run))


def planned(look: Look, asked: Retry) -> Rerun:
    """Plan the retry; raises Conflict where it is refused (rules 33g, 52, 54)."""
    _refuse_run(look.run)
    seeds = look.seeds(asked)
    if not seeds:
        raise Conflict(f"No task of run {asked.run} has failed. Name the tasks to retry, or ask for all.")
    accepted = look.accepted(asked)
    plan = core.rerun(look.graph, seeds, accepted)
    if reason := _refusal(look, plan, asked, accepted):
        raise Conflict(reason)
    return plan


def _refuse_run(run: RetriedRun) -> None:
    state = RunState(run.status)
    if run.retry is not None:
        raise Conflict(f"Run {run.id} is being retried already.")
    if state in (RunState.CANCELING, RunState.STORING):
        said = "is being stored" if state is RunState.STORING else "is canceling"
        raise Conflict(f"Run {run.id} {said}: it can be retried once that is over.")


def _refusal(look: Look, plan: Rerun, asked: Retry, accepted: int | None) -> str | None:
    """Why the retry is refused, in a sentence with the tasks; None if it is not."""
    graph, run = look.graph, look.run
    if started := core.started(graph, plan):
        return f"It would reset tasks that are about to start or executing: {core.some(started)}. Wait for their ends."
    if accepted is not None and (state := graph.tasks[accepted].state) not in core.ACCEPTABLE:
        return f"{graph.tasks[accepted].name} is {LABELS[state]}: only a task that waits or failed can be accepted."
    if accepted is None and (hopeless := core.hopeless(graph, plan, look.named)):
        return core.some(hopeless, "; ") + "."
    unsure = [] if asked.lost else core.unsure(graph, plan, accepted)
    if unsure:
        return (
            f"Nobody knows whether these tasks did their work before they were lost, timed out or aborted: "
            f"{core.some(unsure)}. If it may be done twice, retry them with `lost`."
        )
    if len(plan.resets) > AT_ONCE and run.status not in RUN_ENDED:
        return f"It would reset {len(plan.resets)} tasks; more than {AT_ONCE} can be reset once run {run.id} has ended."
    return None


def _retried(look: Look, plan: Rerun) -> Retried:
    tasks = look.graph.tasks
    states = {tasks[task].name: state for task, state in plan.ends.items() if not tasks[task].unnamed}
    return Retried(look.run.id, look.run.job, RunState(look.run.status), states)


# --- at once ------------------------------------------------------------------------------------------------


def _at_once(tx: Tx, look: Look, plan: Rerun, asked: Retry, note: Note) -> Retried | None:
    """Carry out the retry in this transaction; None if the run has changed meanwhile."""
    if not _holds(tx, look.run):
        return None
    if look.run.status not in RUN_ENDED:
        look, plan = _look_again(tx, look, plan, asked)
    send_back(tx, plan.resets, plan.numbers)
    accepted = look.accepted(asked)
    decide(tx, plan.resets, look.run.held, tx.now(), accepted, asked.accepted)
    ended = sum(look.graph.tasks[task].state in TERMINAL for task in plan.resets)
    moves.open_again(tx, asked.run, ended)
    done = _retried(look, plan)
    note(tx, done)
    return done


def _begin(tx: Tx, look: Look, plan: Rerun, asked: Retry, note: Note) -> Retried | None:
    """Mark the run, which has ended, for a retry in pieces; None if it has changed meanwhile."""
    if not _holds(tx, look.run):
        return None
    seeds = look.seeds(asked) if asked.tasks else None
    mark = Mark(look.run.verdicts, seeds, asked.all_tasks, asked.accepted)
    moves.mark(tx, asked.run, str(mark))
    done = _retried(look, plan)
    note(tx, done)
    return done


def _holds(tx: Tx, run: RetriedRun) -> bool:
    """Whether the run, which is locked from here on, is as it was, and nothing of it is unsettled."""
    return moves.lock_run_to_retry(tx, run) == run and not moves.is_unsettled(tx, run.id)


def _look_again(tx: Tx, look: Look, plan: Rerun, asked: Retry) -> tuple[Look, Rerun]:
    """Lock the tasks of an executing run, and plan again by the states that they have by now."""
    fresh: set[int] = set()
    while missing := _looked_at(look.graph, plan) - fresh:
        moves.lock_to_reset(tx, sorted(plan.resets.keys() | plan.numbers.keys()))
        rows = moves.tasks_to_reset(tx, sorted(missing))
        graph = replace(look.graph, tasks={**look.graph.tasks, **{row.id: standing(row) for row in rows}})
        look, fresh = replace(look, graph=graph), fresh | missing
        plan = planned(look, asked)
    return look, plan


def _looked_at(graph: Graph, plan: Rerun) -> set[int]:
    """The tasks by whose states the plan was made."""
    before = {asked.task for keeper in plan.numbers for asked in graph.conditions.get(keeper, ())}
    return before | plan.resets.keys()
