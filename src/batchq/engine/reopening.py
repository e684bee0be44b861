"""Reopen: a large retry of a run that has ended, in pieces, so that no transaction lasts long (rule 33).

The run is marked first. Then its tasks go back to waiting, piece by piece, in a run that still has its verdict. One
transaction opens it, and tasks become ready piece by piece. The mark and the rows tell how to go on after a crash:
the tasks that wait are a part of the set, and what follows a part together with the first tasks is the whole set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from batchq.core.conditions import Join
from batchq.core.rerun import Graph, Numbers, failed, rerun, state_by
from batchq.core.states import State
from batchq.engine.resetting import decide, graph_of, send_back
from batchq.store import moves
from batchq.store.database import Database
from batchq.store.moves import RetriedRun, RetryingRun
from batchq.store.transaction import Tx

# Rows of one transaction: each takes longer on a remote database.
PIECE, REMOTE_PIECE = 1000, 500


@dataclass(frozen=True, slots=True)
class Mark:
    """A retry that is under way, as its run's row keeps it.

    `number` tells it from other retries of the run. Without `seeds` the failed tasks are reset, or all if `whole`.
    `said` is by whom and why the one seed is accepted. `pieces` counts those that are done: the mark of a process that
    is gone stands still.
    """

    number: int
    seeds: Sequence[int] | None = None
    whole: bool = False
    said: str | None = None
    opened: bool = False
    pieces: int = 0

    @classmethod
    def read(cls, text: str) -> Mark:
        """The mark in a run's row."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def accepted(self) -> int | None:
        """The task that counts as done without an attempt."""
        return self.seeds[0] if self.seeds and self.said is not None else None

    def all_seeds(self, graph: Graph) -> list[int]:
        """The seeds, and the tasks that are reset already: nothing else waits in a run that has ended.

        A gate without a name is no seed: it may wait though no task before it is reset.
        """
        if self.whole:
            return list(graph.tasks)
        tasks = graph.tasks.items()
        reset = [task for task, standing in tasks if standing.state is State.WAITING and not standing.unnamed]
        return [*reset, *(failed(graph) if self.seeds is None else self.seeds)]


def reopen(database: Database, run: int) -> Iterator[None]:
    """Go on with a retry of the run that is under way, if there is one; each step is a transaction of its own."""
    with database.read() as tx:
        row = moves.run_to_retry(tx, run)
    if row.retry is not None:
        mark = Mark.read(row.retry)
        if not mark.opened:
            yield from _reset(database, row, mark)
        yield from _move_on(database, row, replace(mark, opened=True))


def _reset(database: Database, run: RetriedRun, mark: Mark) -> Iterator[None]:
    """Send the tasks of the set back to waiting, then open the run."""
    with database.read() as tx:
        graph = graph_of(tx, run.id)
    plan = rerun(graph, mark.all_seeds(graph), mark.accepted)
    apart = {keeper: each for keeper, each in plan.numbers.items() if keeper not in plan.resets}
    for numbers in _pieces(database, list(apart)):
        yield from _step(database, run, mark, _send_back, (), {keeper: apart[keeper] for keeper in numbers})
    left = [task for task in plan.resets if graph.tasks[task].state is not State.WAITING]
    for tasks in _pieces(database, left):
        counted = {task: plan.numbers[task] for task in tasks if task in plan.numbers}
        yield from _step(database, run, mark, _send_back, tasks, counted)
    yield from _step(database, run, mark, _open, len(plan.resets))


def _move_on(database: Database, run: RetriedRun, mark: Mark) -> Iterator[None]:
    """Move on the tasks of the opened run that wait for no other, then take the mark away."""
    with database.read() as tx:
        waiting = moves.waiting(tx, run.id)
    states = {
        row.id: state_by(Join(row.joined), Numbers(row.pending, row.met, row.impossible), gate=row.gate)
        for row in waiting
    }
    if mark.accepted in states:
        states[mark.accepted] = State.SUCCESS
    for tasks in _pieces(database, [task for task, state in states.items() if state is not State.WAITING]):
        yield from _step(database, run, mark, _move, {task: states[task] for task in tasks})
    yield from _step(database, run, mark, _end)


def _pieces(database: Database, tasks: Sequence[int]) -> Iterator[Sequence[int]]:
    size = REMOTE_PIECE if database.dialect.is_remote else PIECE
    return (tasks[first : first + size] for first in range(0, len(tasks), size))


# --- one transaction each -----------------------------------------------------------------------------------

Act = Callable[..., Mark | None]


def _step(database: Database, run: RetriedRun, mark: Mark, act: Act, *given: object) -> Iterator[None]:
    """Do one piece in a transaction of its own, unless another process has come further than this step."""
    database.run(_guarded, run, mark, act, given)
    yield


def _guarded(tx: Tx, run: RetriedRun, mark: Mark, act: Act, given: Sequence[object]) -> None:
    now = moves.lock_run_to_retry(tx, run)
    standing = Mark.read(now.retry) if now.retry is not None else None
    if standing is not None and (standing.number, standing.opened) == (mark.number, mark.opened):
        after = act(tx, now, replace(standing, pieces=standing.pieces + 1), *given)
        moves.mark(tx, run.id, None if after is None else str(after))


def _send_back(tx: Tx, run: RetriedRun, mark: Mark, tasks: Sequence[int], numbers: Mapping[int, Numbers]) -> Mark:
    send_back(tx, tasks, numbers)
    return mark


def _open(tx: Tx, run: RetriedRun, mark: Mark, tasks: int) -> Mark:
    moves.open_again(tx, run.id, tasks)
    return replace(mark, opened=True)


def _move(tx: Tx, run: RetriedRun, mark: Mark, states: Mapping[int, State]) -> Mark:
    decide(tx, states, run.held, tx.now(), mark.accepted, mark.said)
    return mark


def _end(tx: Tx, run: RetriedRun, mark: Mark) -> None:
    """Nothing is left."""


# --- after a crash ------------------------------------------------------------------------------------------

# A mark that stands still for so many seconds belongs to a process that is gone.
PATIENCE = 5.0
# How long one tick goes on with a retry, in seconds.
SHARE = 0.3


Share = Callable[[], object]


def _unguarded(run: int, share: Share) -> None:
    share()


class Unfinished:
    """The retries of processes that are gone, for a coordinator to go on with, a share in each tick."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._seen: dict[int, tuple[str, float]] = {}
        self._under_way: dict[int, Iterator[None]] = {}

    def go_on(self, marked: Iterable[RetryingRun], guard: Callable[[int, Share], object] = _unguarded) -> None:
        """Go on with the retries of these runs whose marks stand still.

        `guard` gets each run with its share of the work, so that an error of one does not stop the others.
        """
        now = self._monotonic()
        self._seen = {
            run: before if (before := self._seen.get(run)) and before[0] == text else (text, now)
            for run, text in marked
        }
        for run, (_, since) in self._seen.items():
            if run in self._under_way or now - since >= PATIENCE:
                guard(run, partial(self._share, run, now))

    def _share(self, run: int, since: float) -> None:
        # An error ends the steps: the next tick begins anew.
        steps = self._under_way.pop(run, None) or reopen(self._database, run)
        for _ in steps:
            if self._monotonic() - since >= SHARE:
                self._under_way[run] = steps
                return
