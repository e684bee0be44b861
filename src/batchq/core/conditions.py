"""Conditions between tasks: when they are met, what follows from that, in what order, and the verdict of a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from heapq import heappop, heappush
from itertools import chain
from typing import TypeAlias, TypeVar, cast

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
class Joined:
    """Conditions that stand together as one within another join (rule 50)."""

    join: Join
    conditions: tuple[Condition | Joined, ...]


N = TypeVar("N", bound=Hashable)
# A condition with the key of the task that it is on.
Written: TypeAlias = tuple[N, Condition]
# An instant; or with a number, for moments that no clock tells apart.
Moment = TypeVar("Moment", datetime, tuple[datetime, int])
After: TypeAlias = tuple[Condition | Joined, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A task as its conditions see it; a gate succeeds as soon as they are met."""

    after: After = ()
    join: Join = Join.ALL
    gate: bool = False


# --- joins within joins -------------------------------------------------------------------------------------

MOST_LEVELS = 5  # of joins within each other


def is_nested(after: After) -> bool:
    """Whether a join stands among the conditions."""
    return Joined in map(type, after)  # over a long list faster than a loop


def leaves(after: After) -> tuple[Condition, ...]:
    """The conditions themselves, out of all joins."""
    if not is_nested(after):
        return cast("tuple[Condition, ...]", after)
    inside = ((each,) if isinstance(each, Condition) else leaves(each.conditions) for each in after)
    return tuple(chain.from_iterable(inside))


def joins_in(after: After) -> Iterator[Joined]:
    """Yield each join that stands among the conditions, and those within it."""
    for each in after:
        if isinstance(each, Joined):
            yield each
            yield from joins_in(each.conditions)


def handling(after: After, join: Join) -> Iterator[tuple[Condition, bool]]:
    """Yield the conditions that handle a failure, each with whether its task could not start before (rule 7)."""
    for each in after:
        if isinstance(each, Joined):
            yield from ((inner, behind and join is Join.ALL) for inner, behind in handling(each.conditions, each.join))
        elif each.handles:
            yield each, join is Join.ALL


def outermost(after: After, join: Join) -> tuple[After, Join]:
    """The conditions with the join that holds them all: of a task whose only condition is a join, that one."""
    while len(after) == 1 and isinstance(only := after[0], Joined):
        after, join = only.conditions, only.join
    return after, join


def flat(after: After, join: Join, gates: dict[Joined, str]) -> tuple[tuple[Condition, ...], Join]:
    """The conditions with a gate in the place of each inner join; `gates` learns the names of those it lacks.

    No person can give such a name, as it begins with a space.
    """
    after, join = outermost(after, join)
    if not is_nested(after):
        return cast("tuple[Condition, ...]", after), join
    named = (each if isinstance(each, Condition) else Condition(_gate(each, gates)) for each in after)
    return tuple(dict.fromkeys(named)), join


def _gate(joined: Joined, gates: dict[Joined, str]) -> str:
    return gates.setdefault(joined, f" {len(gates) + 1}")


def gate_nodes(gates: dict[Joined, str]) -> Iterator[tuple[str, tuple[Condition, ...], Join]]:
    """Yield the name of each gate, and its conditions with their join; `gates` learns those within them."""
    done = 0
    while done < len(gates):
        for joined, name in list(gates.items())[done:]:
            yield name, *flat((joined,), Join.ALL, gates)
            done += 1


def unfolded(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes, with gates of their own for all inner joins: each condition then names a node (rule 50)."""
    gates: dict[Joined, str] = {}
    plain = {name: Node(*flat(node.after, node.join, gates), gate=node.gate) for name, node in nodes.items()}
    return plain | {name: Node(after, join, gate=True) for name, after, join in gate_nodes(gates)}


def folded(written: Iterable[Written[N]], gates: Mapping[N, tuple[Join, Sequence[Written[N]]]]) -> After:
    """The conditions as `flat` found them: in the place of one on these gates, the join that the gate stands for.

    A condition comes with the key of the task that it is on, a gate with its join and its own conditions.
    """
    return tuple(
        Joined(gates[key][0], folded(gates[key][1], gates)) if key in gates else condition for key, condition in written
    )


# --- what they come to --------------------------------------------------------------------------------------


def resolution(outcome: Outcome, state: State) -> bool | None:
    """True once `state` meets `outcome`, False once it no longer can, None while that is open (rule 4).

    CANCELED is the state of an aborted task. A task that was canceled with its run meets nothing: its run does not ask.
    """
    if state in MET_BY[outcome]:
        return True
    return False if state in TERMINAL else None


def resolved(condition: Condition | Joined, states: Mapping[str, State]) -> bool | None:
    """The resolution of one condition, or of a whole join, by the states of all tasks that it names."""
    if isinstance(condition, Condition):
        return resolution(condition.outcome, states[condition.task])
    found = Counter(resolved(each, states) for each in condition.conditions)
    state = readiness(condition.join, found[None], found[True], found[False])
    return None if state is State.WAITING else state is State.READY


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


def moved(state: State, *, gate: bool) -> State:
    """The state in place of a `readiness`: a gate that would be ready has succeeded (rule 50)."""
    return State.SUCCESS if gate and state is State.READY else state


def settle(nodes: Mapping[str, Node], states: Mapping[str, State]) -> dict[str, State]:
    """Move every waiting task on until nothing changes: to READY, a gate to SUCCESS, or to DIDNT_RUN (rules 2-5, 50).

    The last two are ends, and spread. Each condition is looked at once, so the cost is linear in their number.
    """
    plain = unfolded(nodes)
    after: dict[str, State] = {name: states.get(name, State.WAITING) for name in plain}
    successors: dict[str, list[tuple[str, Condition]]] = {}
    for name, node in plain.items():
        for condition in leaves(node.after):
            successors.setdefault(condition.task, []).append((name, condition))
    pending = {name: len(node.after) for name, node in plain.items()}
    met: Counter[str] = Counter()
    impossible: Counter[str] = Counter()
    ended = deque(name for name, state in after.items() if state in TERMINAL)

    def decide(name: str) -> None:
        if after[name] is State.WAITING:
            node = plain[name]
            after[name] = moved(readiness(node.join, pending[name], met[name], impossible[name]), gate=node.gate)
            if after[name] in TERMINAL:
                ended.append(name)

    for name in plain:
        if not plain[name].after:
            decide(name)
    while ended:
        name = ended.popleft()
        for successor, condition in successors.get(name, ()):
            pending[successor] -= 1
            (met if resolution(condition.outcome, after[name]) else impossible)[successor] += 1
            decide(successor)
    return {name: after[name] for name in nodes}


# --- order --------------------------------------------------------------------------------------------------


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


# --- the verdict --------------------------------------------------------------------------------------------


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


def took_over(failed_at: Moment, started_at: Moment | None, *, behind: bool) -> bool:
    """Whether a task that handles a failure started after it (rule 7); a number tells equal instants apart.

    `behind`: all of its conditions had to be met, so that it could not start before; no clock is asked.
    """
    return behind or (started_at is not None and started_at >= failed_at)
