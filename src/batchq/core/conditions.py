"""Conditions between tasks: when they are met, what follows from that, in what order, and the verdict of a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush

from batchq.core.states import MET_BY, TERMINAL, Outcome, RunState, State


class Join(StrEnum):
    """How a task's conditions are combined (rule 3)."""

    ALL = "all"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Condition:
    """An edge: the earlier task it names, the outcome it asks for, and whether it handles that task's error."""

    task: str
    outcome: Outcome = Outcome.SUCCESS
    handles: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A task as its conditions see it."""

    after: tuple[Condition, ...] = ()
    join: Join = Join.ALL


def resolution(outcome: Outcome, state: State) -> bool | None:
    """True once `state` meets `outcome`, False once it no longer can, None while that is open (rule 4)."""
    if state in MET_BY[outcome]:
        return True
    return False if state in TERMINAL else None


def readiness(join: Join, pending: int, met: int, impossible: int) -> State:
    """READY, WAITING or DIDNT_RUN for a task with these numbers of open, met and impossible conditions (rule 5)."""
    if join is Join.ALL:
        if impossible:
            return State.DIDNT_RUN
        return State.WAITING if pending else State.READY
    if met:
        return State.READY
    if pending:
        return State.WAITING
    return State.DIDNT_RUN if impossible else State.READY


def settle(nodes: Mapping[str, Node], states: Mapping[str, State]) -> dict[str, State]:
    """Move every waiting task on until nothing changes: to READY, or to DIDNT_RUN, which spreads (rules 2-5).

    Each condition is looked at once, so the cost is linear in their number.
    """
    after: dict[str, State] = dict(states)
    successors: dict[str, list[tuple[str, Condition]]] = {}
    for name, node in nodes.items():
        for condition in node.after:
            successors.setdefault(condition.task, []).append((name, condition))
    pending = {name: len(node.after) for name, node in nodes.items()}
    met: Counter[str] = Counter()
    impossible: Counter[str] = Counter()
    ended = deque(name for name, state in states.items() if state in TERMINAL)

    def decide(name: str) -> None:
        if after[name] is State.WAITING:
            after[name] = readiness(nodes[name].join, pending[name], met[name], impossible[name])
            if after[name] in TERMINAL:
                ended.append(name)

    for name in nodes:
        if not nodes[name].after:
            decide(name)
    while ended:
        name = ended.popleft()
        for successor, condition in successors.get(name, ()):
            pending[successor] -= 1
            (met if resolution(condition.outcome, after[name]) else impossible)[successor] += 1
            decide(successor)
    return after


def order(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Sort tasks behind the tasks they follow, otherwise as given; leave out cycles and all that follows them."""
    successors: dict[str, list[str]] = {}
    open_count = {}
    for name, before in after.items():
        distinct = set(before)
        open_count[name] = len(distinct)
        for predecessor in distinct:
            successors.setdefault(predecessor, []).append(name)
    names = list(after)
    places = {name: place for place, name in enumerate(names)}
    ready = [places[name] for name, count in open_count.items() if not count]
    ordered = []
    while ready:
        name = names[heappop(ready)]
        ordered.append(name)
        for successor in successors.get(name, ()):
            open_count[successor] -= 1
            if not open_count[successor]:
                heappush(ready, places[successor])
    return ordered


def find_cycle(after: Mapping[str, Sequence[str]]) -> list[str] | None:
    """One cycle as `[A, B, C, A]`, each standing before the one that follows it, or None (rule 1)."""
    stuck = set(after) - set(order(after))
    if not stuck:
        return None
    # Every task that `order` left out follows another one left out: walking back must come round.
    name = next(name for name in after if name in stuck)
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = next(predecessor for predecessor in after[name] if predecessor in stuck)
    back = list(path)
    return [name, *reversed(back[back.index(name) :])]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one task of a run ended, as the verdict sees it."""

    state: State
    ignore_failure: bool = False
    handled: bool = False
    aborted: bool = False


def verdict(tasks: Iterable[Ended], *, canceled: bool = False) -> RunState:
    """How a run ended: canceled, error if a failure counts, else success (rule 7)."""
    if canceled:
        return RunState.CANCELED
    return RunState.ERROR if any(_counts(task) for task in tasks) else RunState.SUCCESS


def _counts(task: Ended) -> bool:
    failed = task.state is State.ERROR or task.aborted
    return failed and not task.ignore_failure and not task.handled
