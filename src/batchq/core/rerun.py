"""Retry by an operator: which tasks of a run it resets, and where each of these stands then (rules 33, 52, 54)."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from batchq.core.conditions import Condition, Join, Node, moved, readiness, resolution
from batchq.core.states import TERMINAL, Outcome, State
from batchq.core.why import waits_for

FAILED = frozenset({State.ERROR, State.CANCELED})
STARTED = frozenset({State.QUEUED, State.EXECUTING})
ACCEPTABLE = frozenset({State.WAITING, State.READY, *FAILED})
MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A task of a run as it stands.

    `keeper` is the task under whose id its conditions are stored: another one that it shares them with, or itself.
    A task that was canceled with its run is `given_up`; an aborted one is not. `unsure` says that nobody knows whether
    its last attempt did its work, and that to do it twice may do harm (rule 52).
    """

    name: str
    state: State
    keeper: int
    join: Join = Join.ALL
    gate: bool = False
    unnamed: bool = False
    given_up: bool = False
    unsure: bool = False


class Asked(NamedTuple):
    """A condition: the task that it names, and the outcome that it asks for."""

    task: int
    outcome: Outcome


class Numbers(NamedTuple):
    """How many conditions of a task are open, met and impossible."""

    pending: int
    met: int
    impossible: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The tasks of a run by id, and the conditions by the id of the task that keeps them.

    `followers` has, by task, the keepers of the conditions that name it, each with the outcome that is asked for.
    `sharing` has, by keeper, the tasks with its conditions, itself among them.
    """

    tasks: Mapping[int, Standing]
    conditions: Mapping[int, Sequence[Asked]]
    followers: Mapping[int, Sequence[Asked]]
    sharing: Mapping[int, Sequence[int]]

    @classmethod
    def of(cls, tasks: Mapping[int, Standing], conditions: Mapping[int, Sequence[Asked]]) -> Graph:
        """The graph of these tasks and conditions."""
        followers: defaultdict[int, list[Asked]] = defaultdict(list)
        for keeper, asked in conditions.items():
            for task, outcome in asked:
                followers[task].append(Asked(keeper, outcome))
        sharing: defaultdict[int, list[int]] = defaultdict(list)
        for task, standing in tasks.items():
            sharing[standing.keeper].append(task)
        return cls(tasks, conditions, followers, sharing)

    def with_states(self, states: Mapping[int, State]) -> Graph:
        """The graph as if these tasks had ended in these states."""
        fresh = {task: replace(self.tasks[task], state=state, given_up=False) for task, state in states.items()}
        return replace(self, tasks={**self.tasks, **fresh})

    def after(self, task: int) -> Sequence[Asked]:
        """The conditions of a task."""
        return self.conditions.get(self.tasks[task].keeper, ())

    def came(self, asked: Asked) -> bool | None:
        """Whether a condition came true, None while it is open; a task that was given up meets none (rule 33f)."""
        standing = self.tasks[asked.task]
        return False if standing.given_up else resolution(asked.outcome, standing.state)


@dataclass(frozen=True, slots=True)
class Rerun:
    """Changes of a retry: the state of each task that it `resets`, and the new `numbers` of conditions by keeper.

    A task that didn't run at once, a gate that is met at once and a task that is accepted have ended: what follows
    from that is still to be settled. `ends` are the states that follow without a further attempt.
    """

    resets: Mapping[int, State]
    numbers: Mapping[int, Numbers]
    ends: Mapping[int, State] = field(default_factory=dict)


def failed(graph: Graph) -> list[int]:
    """The tasks that a retry resets if it names none (rule 33d); a gate without a name is none."""
    return [task for task, standing in graph.tasks.items() if standing.state in FAILED and not standing.unnamed]


def closure(graph: Graph, seeds: Iterable[int]) -> set[int]:
    """The seeds and all that follows a reset task, whatever state it is in (rule 33d).

    A task joined by `any` stays if a condition on a task that is not reset is met. Linear in tasks and conditions.
    """
    reset = set(seeds)
    reached = deque(reset)
    # Of tasks joined by `any`: how many met conditions name tasks that are not reset.
    kept: dict[int, int] = {}
    while reached:
        task = reached.popleft()
        for keeper, outcome in graph.followers.get(task, ()):
            if graph.tasks[keeper].join is Join.ANY:
                if keeper not in kept:
                    kept[keeper] = sum(graph.came(asked) is True for asked in graph.conditions[keeper])
                kept[keeper] -= graph.came(Asked(task, outcome)) is True
                if kept[keeper]:
                    continue
            fresh = [each for each in graph.sharing[keeper] if each not in reset]
            reset.update(fresh)
            reached.extend(fresh)
    return reset


def inner_joins(graph: Graph) -> dict[int, State]:
    """The gates without a name that were given up, or that a retry has sent back, and how each of them ends.

    To people such a gate is a part of a condition. It is met, or impossible, by the tasks that it names, and resets
    nothing that follows it.
    """
    states: dict[int, State] = {}

    def came(asked: Asked) -> bool | None:
        return resolution(asked.outcome, end_of(asked.task)) if is_left(asked.task) else graph.came(asked)

    def is_left(task: int) -> bool:
        standing = graph.tasks[task]
        return standing.unnamed and (standing.given_up or standing.state is State.WAITING)

    def end_of(task: int) -> State:
        if task not in states:
            counted = Counter(came(asked) for asked in graph.after(task))
            states[task] = state_by(
                graph.tasks[task].join, Numbers(counted[None], counted[True], counted[False]), gate=True
            )
        return states[task]

    for task in graph.tasks:
        if is_left(task):
            end_of(task)
    return {task: state for task, state in states.items() if state is not State.WAITING}


def rerun(graph: Graph, seeds: Collection[int], accepted: int | None = None) -> Rerun:
    """Work out a retry of the `seeds`; the `accepted` one of them succeeds at once (rules 33d-f, 54).

    Nothing of the run may be unsettled: conditions count by the states of the tasks that they name.
    """
    mended = inner_joins(graph)
    graph = graph.with_states(mended) if mended else graph
    reset = closure(graph, seeds) | mended.keys()
    keepers = {graph.tasks[task].keeper for task in reset}
    keepers |= {keeper for task in reset for keeper, _ in graph.followers.get(task, ())}
    numbers = {keeper: _count(graph, keeper, reset) for keeper in sorted(keepers)}
    resets = {task: _state(graph.tasks[task], numbers) for task in sorted(reset)}
    if accepted is not None:
        resets[accepted] = State.SUCCESS
    return Rerun(resets, numbers, _spread(graph, resets, numbers))


def _count(graph: Graph, keeper: int, reset: Collection[int]) -> Numbers:
    """Count a keeper's conditions anew: all on reset tasks are open."""
    came = Counter(None if asked.task in reset else graph.came(asked) for asked in graph.conditions.get(keeper, ()))
    return Numbers(came[None], came[True], came[False])


def state_by(join: Join, numbers: Numbers, *, gate: bool) -> State:
    """The state that a waiting task goes to by the numbers of its conditions (rule 5)."""
    return moved(readiness(join, *numbers), gate=gate)


def _state(standing: Standing, numbers: Mapping[int, Numbers]) -> State:
    return state_by(standing.join, numbers[standing.keeper], gate=standing.gate)


def _spread(graph: Graph, resets: Mapping[int, State], numbers: Mapping[int, Numbers]) -> dict[int, State]:
    """Where the reset tasks stand once all has followed that needs no further attempt (rule 4)."""
    states, counts = dict(resets), dict(numbers)
    ended = deque(task for task, state in resets.items() if state in TERMINAL)
    while ended:
        task = ended.popleft()
        for keeper, outcome in graph.followers.get(task, ()):
            pending, met, impossible = counts[keeper]
            came = resolution(outcome, states[task]) is True
            counts[keeper] = Numbers(pending - 1, met + came, impossible + (not came))
            if readiness(graph.tasks[keeper].join, *counts[keeper]) is State.WAITING:
                continue
            moved = [each for each in graph.sharing[keeper] if states.get(each) is State.WAITING]
            states |= {each: _state(graph.tasks[each], counts) for each in moved}
            ended.extend(each for each in moved if states[each] in TERMINAL)
    return states


# --- refusals -----------------------------------------------------------------------------------------------


def started(graph: Graph, plan: Rerun) -> list[str]:
    """The names of the tasks of the set that are queued or executing; a retry must not reset them (rule 33g)."""
    return [graph.tasks[task].name for task in plan.resets if graph.tasks[task].state in STARTED]


def unsure(graph: Graph, plan: Rerun, accepted: int | None = None) -> list[str]:
    """The names of the tasks of the set that may have done their work, and may not do it twice (rule 52).

    The `accepted` one does not run again.
    """
    return [graph.tasks[task].name for task in plan.resets if graph.tasks[task].unsure and task != accepted]


def hopeless(graph: Graph, plan: Rerun, tasks: Iterable[int]) -> list[str]:
    """A sentence for each of the named tasks that could not run: `TASK 5 waits for TASK 2 to fail; retry TASK 2`."""
    lost = [task for task in tasks if plan.ends[task] is State.DIDNT_RUN]
    found = [(graph.tasks[task].name, _blocker(graph, plan, task)) for task in lost]
    return [f"{name} {_waits_for(graph, blocker)}" for name, blocker in found if blocker is not None]


def _waits_for(graph: Graph, blocker: Asked) -> str:
    before = graph.tasks[blocker.task]
    node = Node((Condition(before.name, blocker.outcome),))
    canceled = ", which was canceled" if before.given_up else ""
    return f"{waits_for(node, {before.name: State.WAITING})}{canceled}; retry {before.name}"


def _blocker(graph: Graph, plan: Rerun, task: int) -> Asked | None:
    """The first condition that keeps the task from running; of a gate without a name, the first of its own."""
    for asked in graph.after(task):
        if _comes(graph, plan, asked) is False:
            inner = _blocker(graph, plan, asked.task) if graph.tasks[asked.task].unnamed else None
            return inner or asked
    return None


def _comes(graph: Graph, plan: Rerun, asked: Asked) -> bool | None:
    """Whether a condition comes true by the plan."""
    if asked.task in plan.ends:
        return resolution(asked.outcome, plan.ends[asked.task])
    return graph.came(asked)


def some(names: Sequence[str], mark: str = ", ") -> str:
    """The first names, or sentences, with a number for the rest."""
    rest = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return mark.join([*names[:MOST_NAMES], *rest])
