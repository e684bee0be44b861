"""The rules once more, as naive as their text: what the code is compared with.

States and outcomes are plain words; nothing here is shared with the package.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from itertools import combinations
from typing import Any, NamedTuple, Protocol, TypeAlias

# How many of the tasks have the conditions of another one.
TWINS = 0.25
OUTCOMES = ("success", "error", "finished", "skipped", "over")
ENDS = ("success", "error", "didnt_run", "canceled")
# A task that was canceled with its run: it meets nothing (rule 33f).
GONE = "gone"
DAY = timedelta(days=1)


# A condition: task, outcome, handles. Or conditions that stand together as one: how they are joined, and they.
ACondition: TypeAlias = "tuple[str, str, bool] | tuple[str, list[ACondition]]"


@dataclass
class Plan:
    """A job: for each task its conditions, how they are joined, and its flag; `gates` run nothing."""

    after: dict[str, list[Any]]
    joins: dict[str, str]
    ignored: set[str] = field(default_factory=set)
    gates: set[str] = field(default_factory=set)

    def leaves(self, task: str) -> list[tuple[str, str, bool]]:
        """All conditions of a task, out of the joins that they stand in."""
        return list(_leaves(self.after[task]))


def _leaves(conditions: Iterable[Any]) -> Iterator[tuple[str, str, bool]]:
    for each in conditions:
        if len(each) == 2:
            yield from _leaves(each[1])
        else:
            yield each


# --- conditions (rules 2 to 7, 50) --------------------------------------------------------------------------


def is_met(outcome: str, state: str) -> bool:
    """Rule 3; *didn't run* satisfies `skipped` and `over`, *canceled*, by an abort, `over` alone (rule 4)."""
    if outcome == "over":
        return state in ENDS
    if outcome == "skipped":
        return state == "didnt_run"
    return state in ("success", "error") if outcome == "finished" else state == outcome


def is_impossible(outcome: str, state: str) -> bool:
    """The task has ended, and not as asked (rule 4)."""
    return state in (*ENDS, GONE) and not is_met(outcome, state)


def comes_to(condition: Any, states: Mapping[str, str]) -> bool | None:
    """Whether a condition, or a join of several, is met; None while that is open (rules 5 and 50)."""
    if len(condition) == 2:
        join, inner = condition
        return joined(join, [comes_to(each, states) for each in inner])
    before, outcome, _ = condition
    return True if is_met(outcome, states[before]) else False if is_impossible(outcome, states[before]) else None


def joined(join: str, results: list[bool | None]) -> bool | None:
    """What a join comes to by what its conditions come to: `all` needs each of them, `any` one (rule 5)."""
    if join == "any" and results:
        return True if True in results else False if set(results) == {False} else None
    return False if False in results else None if None in results else True


def judged(plan: Plan, states: Mapping[str, str], task: str) -> str:
    """What becomes of a waiting task while the others are in these states (rule 5); a gate succeeds (rule 50)."""
    result = joined(plan.joins[task], [comes_to(each, states) for each in plan.after[task]])
    if result is None:
        return "waiting"
    return ("success" if task in plan.gates else "ready") if result else "didnt_run"


def settled(plan: Plan, states: Mapping[str, str]) -> dict[str, str]:
    """All tasks judged anew, from scratch, until nothing changes any more (rule 4)."""
    while True:
        after = {task: judged(plan, states, task) if state == "waiting" else state for task, state in states.items()}
        if after == states:
            return after
        states = after


def played(plan: Plan, failing: Collection[str], aborted: Collection[str] = ()) -> dict[str, str]:
    """How every task ends if exactly the `failing` ones fail, and the `aborted` ones are."""
    states = dict.fromkeys(plan.after, "waiting")
    while True:
        states = settled(plan, states)
        ready = [task for task, state in states.items() if state == "ready"]
        if not ready:
            return states
        for task in ready:
            states[task] = "canceled" if task in aborted else "error" if task in failing else "success"


def verdict(plan: Plan, states: Mapping[str, str], history: Sequence[str] | None = None) -> str:
    """How a run ends that was not canceled (rule 7); `history` has `starts TASK 1` and `fails TASK 1` in their order.

    Without it no task can have started before a failure that it handles. A canceled task is an aborted one.
    """
    for task, state in states.items():
        failed = max((at for at, said in enumerate(history or ()) if said == f"fails {task}"), default=0)
        handlers = [
            other
            for other in plan.after
            for before, _, handles in plan.leaves(other)
            if before == task and handles and states[other] == "success"
            if history is None or f"starts {other}" in history[failed:]
        ]
        if state in ("error", "canceled") and task not in plan.ignored and not handlers:
            return "error"
    return "success"


def random_plan(
    tasks: int, rng: random.Random, most: int = 4, levels: int = 0, gates: float = 0.0, *, early: bool = False
) -> Plan:
    """A job of so many tasks, each with up to `most` conditions on earlier ones, some with the same as another one;
    the tasks are not in order. Conditions stand in joins of up to so many `levels`, and some tasks are gates.
    With `early` a task may start before a failure that it handles.
    """
    names = [f"TASK {number}" for number in range(1, tasks + 1)]
    plan = Plan({}, {})
    for position, name in enumerate(names):
        if rng.random() < gates:
            plan.gates.add(name)
        if position and rng.random() < TWINS:
            twin = rng.choice(names[:position])
            plan.joins[name], plan.after[name] = plan.joins[twin], plan.after[twin]
            if name in plan.gates:
                plan.after[name] = _without_handles(plan.after[name], all_=True)
            continue
        plan.joins[name] = join = rng.choice(["all", "all", "any"])
        before = rng.sample(names[:position], min(position, rng.randint(0, most)))
        plan.after[name] = [_condition(rng, each) for each in before]
        if before and join == "any" and rng.random() < 0.2:
            outcome = plan.after[name][0][1]
            other = rng.choice([each for each in OUTCOMES if each != outcome])
            plan.after[name].append((before[0], other, False))
        if position and levels and rng.random() < 0.5:
            inner = [_random_join(rng, names[:position], levels) for _ in range(rng.randint(1, 2))]
            # A list with joins in it has no `join` beside it: it stands in a join as a whole.
            plan.after[name] = [(join, plan.after[name] + inner)]
            plan.joins[name] = "all"
        if name in plan.gates or not early:
            inside = plan.joins[name] == "any" and len(plan.after[name]) > 1
            plan.after[name] = _without_handles(plan.after[name], all_=name in plan.gates or inside)
        if rng.random() < 0.2:
            plan.ignored.add(name)
    shuffled = rng.sample(names, len(names))
    plan.after = {name: plan.after[name] for name in shuffled}
    return plan


def _random_join(rng: random.Random, names: list[str], levels: int) -> Any:
    before = rng.sample(names, min(len(names), rng.randint(1, 3)))
    inner = [_condition(rng, each) for each in before]
    if levels > 1 and rng.random() < 0.4:
        inner += [_random_join(rng, names, levels - 1)]
    return rng.choice(["all", "any"]), inner


def _without_handles(conditions: list[Any], *, all_: bool) -> list[Any]:
    """The conditions as a gate may have them, which handles nothing (rule 7): `all_`, or only those joined by any."""
    return [
        (each[0], _without_handles(each[1], all_=all_ or each[0] == "any"))
        if len(each) == 2
        else (*each[:2], each[2] and not all_)
        for each in conditions
    ]


def _condition(rng: random.Random, before: str) -> tuple[str, str, bool]:
    outcome = rng.choice(["success", "success", "success", "error", "error", "finished", "finished", "skipped", "over"])
    return before, outcome, outcome in ("error", "finished", "over") and rng.random() < 0.3


# --- groups and threads (rules 11, 12, 16) ------------------------------------------------------------------


def serves(bound: Mapping[str, Collection[str]], server: str, groups: Iterable[str]) -> set[str]:
    """`bound(s)` if not empty, else `{default} ∪ {g : no server is bound to g}` (rule 12)."""
    if bound[server]:
        return set(bound[server])
    taken = {group for servers_groups in bound.values() for group in servers_groups}
    return {"default"} | {group for group in groups if group not in taken}


def fits(tickets: Counter[str], free: Mapping[str, int], served: Mapping[str, set[str]]) -> bool:
    """Whether every ticket can have a free thread of its own: no set of groups asks more than its servers have."""
    groups = [group for group, number in tickets.items() if number]
    return all(
        sum(tickets[group] for group in asking)
        <= sum(threads for server, threads in free.items() if served[server] & set(asking))
        for size in range(1, len(groups) + 1)
        for asking in combinations(groups, size)
    )


def fitting(
    groups: Iterable[str], free: Mapping[str, int], served: Mapping[str, set[str]], first: Iterable[str] = ()
) -> list[bool]:
    """For each ticket in turn, whether it fits beside those `first` and those before it that did."""
    taken: Counter[str] = Counter()
    for group in first:
        if fits(taken + Counter([group]), free, served):
            taken[group] += 1
    answers = []
    for group in groups:
        answers.append(fits(taken + Counter([group]), free, served))
        taken[group] += answers[-1]
    return answers


# --- windows (rules 18, 19, 21) -----------------------------------------------------------------------------


class AWindow(Protocol):
    """What a window says: `only` is the date of an exception, `days` the weekdays, None = every day."""

    start: time
    end: time
    threads: int
    timezone: str
    days: Collection[int] | None
    only: date | None


class Opening(NamedTuple):
    """One period of one window on the wall clock of its zone, from `start` to just before `end`."""

    window: AWindow
    start: datetime
    end: datetime


def openings(windows: Collection[AWindow], first: date, last: date) -> list[Opening]:
    """The periods that start on the local days `first` to `last`: those of the exceptions, else the day's (rule 21)."""
    found = []
    for shift in range((last - first).days + 1):
        day = first + shift * DAY
        exceptions = [window for window in windows if window.only == day]
        usual = [window for window in windows if window.only is None]
        for window in exceptions or usual:
            if window.days is None or day.weekday() in window.days:
                end_day = day if window.end > window.start else day + DAY
                found.append(
                    Opening(window, datetime.combine(day, window.start), datetime.combine(end_day, window.end))
                )
    return found


def is_free_day(windows: Collection[AWindow], day: date) -> bool:
    """Whether a server has its own threads on that day: it has no windows but exceptions, and none for the day."""
    return all(window.only not in (None, day) for window in windows)


def wall_minutes(windows: Collection[AWindow], threads: int, first: date, last: date) -> bytearray:
    """For windows of one zone: the threads in each minute of the wall clock from `first` to `last`."""
    before, minute = datetime.combine(first - DAY, time()), timedelta(minutes=1)
    days = [first + shift * DAY for shift in range(-1, (last - first).days + 2)]
    strokes = [(threads, 1440 * number, 1440) for number, day in enumerate(days) if is_free_day(windows, day)]
    for window, start, end in openings(windows, first - DAY, last):
        strokes.append((window.threads, (start - before) // minute, (end - start) // minute))
    wall = bytearray(1440 * len(days))
    for most, start, length in sorted(strokes):  # the most threads last, so that they win
        wall[start : start + length] = bytes([most]) * length
    return wall[1440:-1440]
