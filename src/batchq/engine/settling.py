"""Settle: conditions on ended tasks are resolved, their followers move on, empty runs close (rules 3-7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from batchq.core.conditions import Ended, Join, moved, readiness, resolution, verdict
from batchq.core.states import TERMINAL, Outcome, RunState, State
from batchq.store import moves
from batchq.store.columns import run_of
from batchq.store.moves import CountedRun, Follower, UnsettledRun
from batchq.store.sql.statement import Id, Reply
from batchq.store.transaction import Tx

CONDITIONS_PER_TRANSACTION = 1000
MOST_FOLLOWERS = CONDITIONS_PER_TRANSACTION + len(Outcome)
ROUNDS_PER_TRANSACTION = 50
# Whether a task that ended in a state meets an outcome. Made once, as every condition asks.
_MET = {state: {outcome.value: resolution(outcome, state) is True for outcome in Outcome} for state in TERMINAL}


# --- what earlier transactions left -------------------------------------------------------------------------


def settle(tx: Tx, now: datetime, reply: Reply[UnsettledRun] | None = None, aside: Collection[int] = ()) -> bool:
    """Settle what earlier transactions left unsettled, except in the runs `aside`; True if more is left.

    One transaction does a bounded piece of the work. Pass the `reply` to `unsettled` if it was asked for already.
    """
    return settle_runs(tx, [row.run_id for row in (reply or unsettled(tx, aside)).rows], now)


def settle_runs(tx: Tx, runs: Collection[int], now: datetime) -> bool:
    """Settle what earlier transactions left unsettled in these runs; True if more is left."""
    if not runs:
        return False
    moves.lock_runs(tx, sorted(runs))
    ends = moves.unsettled_ends(tx, runs, limit=CONDITIONS_PER_TRANSACTION)
    states = {row.id: State(row.status) for row in ends}
    settled = settle_ends(tx, now, states, flagged=True, held={row.run_id for row in ends if row.held})
    close(tx, settled.counted, now)
    return settled.more or len(ends) == CONDITIONS_PER_TRANSACTION


def unsettled(tx: Tx, aside: Collection[int] = ()) -> Reply[UnsettledRun]:
    """Ask for the runs in which earlier transactions left something to settle; the question does not wait."""
    return moves.unsettled_runs(tx, CONDITIONS_PER_TRANSACTION, aside)


# --- ends spread --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Settled:
    """The result of settling.

    `tasks` counts those that are settled, by run; `counted` is the answer that has their runs. `ready` are tasks that
    became ready. `others_ready`: tasks that share another's conditions became ready too; they are not in `ready`.
    `more`: not all could be settled. `put_off`: it would have had to wait for somebody. `held` are runs that are held.
    """

    tasks: Counter[int] = field(default_factory=Counter)
    counted: Reply[CountedRun] | None = None
    ready: list[Follower] = field(default_factory=list)
    others_ready: bool = False
    more: bool = False
    put_off: bool = False
    held: Collection[int] = ()


def settle_ends(
    tx: Tx,
    now: datetime,
    ends: Mapping[int, State],
    reply: Reply[Follower] | None = None,
    *,
    flagged: bool = False,
    may_wait: bool = True,
    held: Collection[int] = (),
) -> Settled:
    """Settle these ended tasks, whose runs the caller has locked; the caller then closes the runs that are empty.

    `flagged` ends carry the mark of unsettled ones, which is cleared. `reply` holds their followers, if the caller
    asked for them already; it may hold followers of other tasks too. Who holds the dispatch lock may not wait for a
    task: without `may_wait` ends whose followers have left `waiting`, so that others may hold them, are left. Tasks of
    `held` runs become ready aside (rule 33).
    """
    result = Settled(held=held)
    settled, left, reached = spread(tx, now, ends, reply, result, may_wait=may_wait)
    moves.clear_unsettled(tx, [task for task in settled if flagged and task in ends])
    moves.mark_unsettled(tx, left, reached)
    result.tasks, result.more = Counter(map(run_of, settled)), bool(left)
    result.counted = moves.count_off(tx, result.tasks) if settled else None
    return result


def spread(
    tx: Tx, now: datetime, ends: Mapping[int, State], reply: Reply[Follower] | None, result: Settled, *, may_wait: bool
) -> tuple[dict[int, State], dict[int, State], dict[int, int]]:
    """Resolve the conditions on these ends, then on the tasks that this ended, and so on, within the budget.

    Returns the settled tasks, the tasks left for the next transaction, and the last follower that one of these reached;
    `result` learns which tasks became ready.
    """
    settled: dict[int, State] = {}
    budget, rounds = CONDITIONS_PER_TRANSACTION, ROUNDS_PER_TRANSACTION
    ending = dict(ends)
    # A reply as long as its limit may have been cut short.
    at_hand = None if reply is None or len(reply.rows) == MOST_FOLLOWERS else reply.rows
    while ending and rounds:
        most = max(budget, 1)
        if at_hand is not None:
            found, at_hand = [row for row in at_hand if row.predecessor_id in ending], None
        else:
            found = moves.followers(tx, ending, most + len(Outcome)).rows
        if not may_wait and any(row.status != State.WAITING for row in found):
            result.put_off = True
            return settled, ending, {}
        conditions, next_, weight = within_budget(found, most)
        fell = _resolve(tx, ending, conditions, now, result) if conditions else {}
        if next_ is not None:
            predecessor, task = next_
            done = {end: state for end, state in ending.items() if end < predecessor}
            left = {end: state for end, state in ending.items() if end >= predecessor}
            return settled | done, left | fell, {predecessor: task - 1}
        settled |= ending
        ending = fell
        budget -= weight
        rounds -= 1
    return settled, ending, {}


def within_budget(
    conditions: Sequence[Follower], budget: int
) -> tuple[Sequence[Follower], tuple[int, int] | None, int]:
    """The first conditions worth `budget`, the pair of tasks to go on with, and the weight of those conditions.

    A condition weighs one for each task that shares it. Conditions between one pair of tasks stay together, even
    beyond the budget: the next transaction goes on behind a pair.
    """
    cut = weight = 0
    while cut < len(conditions) and (weight < budget or conditions[cut][:2] == conditions[cut - 1][:2]):
        weight += 1 + conditions[cut].sharing
        cut += 1
    return conditions[:cut], conditions[cut][:2] if cut < len(conditions) else None, weight


def _resolve(
    tx: Tx, ends: Mapping[int, State], conditions: Sequence[Follower], now: datetime, result: Settled
) -> dict[int, State]:
    """Resolve these conditions, and move on the tasks behind them.

    Returns the tasks that ended by that: those that didn't run, and gates that succeeded.
    """
    came, failed, waiting = _tally(ends, conditions)
    counted, going = [], []
    fell: dict[int, State] = {}
    shared: dict[State, list[int]] = {}
    for task, stands in sorted(waiting.items()):
        pending, met = stands.pending - came[task] - failed[task], stands.met + came[task]
        impossible = stands.impossible + failed[task]
        row: dict[str, object] = {"task": task, "pending": pending, "met": met, "impossible": impossible}
        state = State.WAITING
        # The task that keeps the conditions may be accepted, or stay canceled: those that share them still wait.
        if stands.status == State.WAITING or (stands.sharing and stands.status in (State.SUCCESS, State.CANCELED)):
            state = moved(readiness(Join(stands.joined), pending, met, impossible), gate=stands.gate)
        if state is not State.WAITING and stands.sharing:
            shared.setdefault(state, []).append(task)
        if state is State.WAITING or stands.status != State.WAITING:
            counted.append(row)
            continue
        ready = state is State.READY
        going.append(row | {"state": state.value, "ready": now if ready else None, "ended": None if ready else now})
        if ready:
            result.ready.append(stands)
        else:
            fell[task] = state
    moves.count(tx, counted)
    moves.count_and_move(tx, going)
    followed = {state: moves.move_sharing(tx, tasks, state, now) for state, tasks in shared.items()}
    result.others_ready = result.others_ready or State.READY in followed
    if result.held:
        _put_aside(tx, result.held, going, followed.get(State.READY))
    for state in followed.keys() & TERMINAL:
        fell |= dict.fromkeys((row.id for row in followed[state].rows), state)
    return fell


def _put_aside(tx: Tx, held: Collection[int], moved: Sequence[Mapping[str, object]], sharing: Reply[Id] | None) -> None:
    """Put the tasks of held runs aside that have become ready, those among them that share another's conditions too."""
    ready = [cast(int, row["task"]) for row in moved if row["state"] == State.READY.value]
    ready += [row.id for row in sharing.rows] if sharing is not None else []
    moves.put_aside(tx, [task for task in ready if run_of(task) in held])


def _tally(
    ends: Mapping[int, State], conditions: Sequence[Follower]
) -> tuple[Counter[int], Counter[int], dict[int, Follower]]:
    """Count the conditions that came true and that failed, by waiting task; returns these tasks as they stand too."""
    came: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    waiting: dict[int, Follower] = {}
    met = {end: _MET[state] for end, state in ends.items()}
    for row in conditions:
        (came if met[row.predecessor_id][row.outcome] else failed)[row.task_id] += 1
        waiting[row.task_id] = row
    return came, failed, waiting


# --- runs close ---------------------------------------------------------------------------------------------


def close(tx: Tx, counted: Reply[CountedRun] | None, now: datetime) -> None:
    """Give the runs that were counted down to nothing their verdicts (rules 7, 33h)."""
    if counted is None or not (emptied := moves.emptied(counted)):
        return
    given_up = moves.given_up(tx, counted)
    failures: dict[int, list[Ended]] = {run: [] for run in emptied}
    failed = moves.failures(tx, emptied)
    handled = moves.handlers(tx, [row.id for row in failed if not row.ignore_failure])
    for row in failed:
        failures[row.run_id].append(Ended(State(row.status), row.ignore_failure, row.id in handled, row.aborted))
    closing = []
    for run, was in emptied.items():
        verdict_ = verdict(failures[run], canceled=was is RunState.CANCELING or run in given_up)
        closing.append({"run": run, "was": was.value, "verdict": verdict_.value})
    moves.close_runs(tx, closing, now)
