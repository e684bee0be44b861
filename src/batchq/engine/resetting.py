"""Reset: the tasks of a run as a retry sees them, and how their new states are written (rules 33, 54)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from batchq.core.conditions import Join
from batchq.core.rerun import Asked, Graph, Numbers, Standing
from batchq.core.states import Outcome, State
from batchq.store import moves
from batchq.store.moves import RetriedTask
from batchq.store.transaction import Tx


def graph_of(tx: Tx, run: int) -> Graph:
    """The run's tasks and conditions as they are now."""
    conditions: defaultdict[int, list[Asked]] = defaultdict(list)
    for row in moves.conditions_to_retry(tx, run):
        conditions[row.task_id].append(Asked(row.predecessor_id, Outcome(row.outcome)))
    return Graph.of({row.id: standing(row) for row in moves.tasks_to_retry(tx, run)}, conditions)


def standing(row: RetriedTask) -> Standing:
    """A task as the core sees it."""
    state = State(row.status)
    given_up = state is State.CANCELED and not row.started
    return Standing(row.name, state, row.keeper, Join(row.joined), row.gate, row.unnamed, given_up, row.unsure)


def send_back(tx: Tx, tasks: Iterable[int], numbers: Mapping[int, Numbers]) -> None:
    """Let these tasks wait again, and store the new numbers of conditions, by keeper."""
    moves.go_back(tx, list(tasks))
    moves.count(tx, [{"task": keeper, **each._asdict()} for keeper, each in numbers.items()])


def decide(
    tx: Tx, states: Mapping[int, State], held: bool, now: datetime, accepted: int | None, said: str | None
) -> None:
    """Move waiting tasks on to these states; those that end with it are still to be settled.

    Of a `held` run tasks become ready aside. `said` is by whom and why the one task was `accepted`.
    """
    tasks: defaultdict[State, list[int]] = defaultdict(list)
    for task, state in states.items():
        if task != accepted:
            tasks[state].append(task)
    moves.make_ready(tx, tasks[State.READY], held, now)
    moves.end_at_once(tx, tasks[State.DIDNT_RUN], State.DIDNT_RUN, now)
    moves.end_at_once(tx, tasks[State.SUCCESS], State.SUCCESS, now)
    moves.end_at_once(tx, [accepted] if accepted is not None and accepted in states else [], State.SUCCESS, now, said)
