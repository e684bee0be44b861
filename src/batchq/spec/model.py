"""Jobs, groups and servers as frozen values: each is checked when it is made, so it can run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, ClassVar, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from batchq.core.conditions import (
    MOST_LEVELS,
    After,
    Condition,
    Join,
    Joined,
    find_cycle,
    is_nested,
    joins_in,
    leaves,
)
from batchq.core.retries import FINAL, PLAIN, YEAR_SECONDS, Policy
from batchq.core.states import MET_BY, Outcome, State
from batchq.core.windows import Window, overlaps, parse_days, parse_time
from batchq.spec.faults import MOST_FAULTS, Fault, RuleBroken, near, shown
from batchq.spec.fields import (
    Args,
    Backoff,
    Conditions,
    Date,
    Days,
    Errors,
    Kwargs,
    Name,
    Names,
    Priority,
    Seconds,
    Share,
    Sizes,
    Threads,
    TimeOfDay,
    Units,
    Zone,
    sizes_of,
)

MOST_WINDOWS = 50
MOST_TASKS = 2**20  # of a run, with the gates that its inner joins become (rule 50)
# The values of PLAIN: nearly all tasks have them, and a policy for each would cost as much as its row.
AS_EVER = (PLAIN.backoff, PLAIN.most, PLAIN.jitter, PLAIN.on, PLAIN.never)


class Spec(BaseModel):
    """Base: frozen, and unknown keys are refused; `later` are keys of the design that do not work yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()


class TaskSpec(Spec):
    """One task: what it runs, after which others, where, and what happens when it fails.

    Without `run` it is a gate, which has conditions and a stage, and nothing else (rule 50).
    `secret` names keyword arguments that nobody may see. `retry_delay`, `time_limit` and `duration` are seconds;
    `duration` is an estimate, for the plan alone.
    `group` and `priority` None = the job's (rules 10, 28). `limits` are named ones; the job's count too (rule 29).
    `retry_delay_max` is in seconds too, and `retry_jitter` a part of the delay; `retry_on` None = all errors (rule 30).
    A `repeatable` task does no harm if it runs once more.
    """

    later = frozenset({"children"})

    name: Name
    run: Name | None = None
    args: Args = Field(default_factory=list, repr=False)
    kwargs: Kwargs = Field(default_factory=dict, repr=False)
    secret: Names = ()
    after: Conditions = ()
    join: Join = Join.ALL
    stage: Name | None = None
    group: Name | None = None
    priority: Priority | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=5)] = 0
    retry_delay: Annotated[Seconds, Field(ge=0)] = 0.0
    retry_backoff: Backoff = 1.0
    retry_delay_max: Annotated[Seconds, Field(ge=0)] | None = None
    retry_jitter: Share = 0.0
    retry_on: Errors | None = None
    retry_never_on: Errors | None = None
    repeatable: StrictBool = False
    time_limit: Annotated[Seconds, Field(gt=0)] | None = None
    duration: Annotated[Seconds, Field(ge=0)] | None = None
    ignore_failure: StrictBool = False
    limits: Names = ()

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> Self:
        if self.join is Join.ANY and is_nested(self.after):
            raise RuleBroken(JOIN_BESIDE)
        if self.after and (fault := _after_fault(self.after, self.join)):
            raise RuleBroken(Fault(("after",), fault))
        if self.run is None:
            _check_gate(self)
        if (self.retry_delay or self.retry_on) and (misfit := _retry_fault(self)):
            raise RuleBroken(misfit)
        for name in self.secret:
            if name not in self.kwargs:
                raise RuleBroken(Fault(("secret",), f"no {shown(name)} in kwargs{near(name, self.kwargs)}"))
        if self.args or self.kwargs:
            size = len(json.dumps([self.args, self.kwargs], ensure_ascii=False).encode())
            if size > (most := sizes_of(info).argument_bytes):
                raise ValueError(f"args and kwargs take {size:,} bytes as JSON, at most {most:,} are allowed")
        return self

    @property
    def policy(self) -> Policy:
        """How the task is tried again, beside `retries` and `retry_delay` (rule 30)."""
        said = (
            self.retry_backoff,
            self.retry_delay_max,
            self.retry_jitter,
            self.retry_on or (),
            self.retry_never_on or (),
        )
        return PLAIN if said == AS_EVER else Policy(*said)


def _retry_fault(task: TaskSpec) -> Fault | None:
    """The fault of settings that contradict each other, or let a retry wait for years (rule 30)."""
    delay, most = task.retry_delay, task.retry_delay_max
    if FINAL in (task.retry_on or ()):
        return Fault(("retry_on",), f"{FINAL} is never tried again; leave it out")
    if most is not None and most < delay:
        return Fault(("retry_delay_max",), f"is less than retry_delay, {delay:g} s; leave one of them out")
    if most is None and delay * task.retry_backoff ** max(task.retries - 1, 0) > YEAR_SECONDS:
        return Fault(("retry_backoff",), "lets a retry wait for more than a year; give it a retry_delay_max")
    return None


JOIN_BESIDE = Fault(("join",), "cannot stand beside 'all' or 'any' in 'after', which say it")
# The keys of a gate.
OF_GATES = frozenset({"after", "join", "stage"})


def _check_gate(task: TaskSpec) -> None:
    """Raise RuleBroken for a gate that has more than a gate can have, or handles a failure (rules 7, 50)."""
    fields = TaskSpec.model_fields
    given = (key for key in fields if key in task.model_fields_set - OF_GATES - {"name", "run"})
    defaults = ((key, fields[key].get_default(call_default_factory=True)) for key in given)
    if faults := [no_gate(key) for key, default in defaults if getattr(task, key) != default]:
        raise RuleBroken(*faults)
    if handled := next((each.task for each in leaves(task.after) if each.handles), None):
        advice = f"give {shown(handled)} 'ignore_failure', or let a task handle it"
        raise RuleBroken(Fault(("after",), f"a gate does nothing, so it handles no failure; {advice}"))


def no_gate(key: str) -> Fault:
    """The fault of a task that runs nothing, and yet has such a key."""
    keys = "'after', 'join' and 'stage'"
    return Fault(
        (), f"'run' is missing; without it the task is a gate, which takes {keys}, and no {shown(key)}", (key,)
    )


def _task(value: object, validate: ValidatorFunctionWrapHandler) -> TaskSpec:
    """Let a task through that is made already: it is checked."""
    return value if isinstance(value, TaskSpec) else validate(value)


class JobSpec(Spec):
    """A named piece of work: its tasks, what they have in common, and no circle among them (rule 1).

    `limits` count for each of its tasks, `tasks_at_once` over all its runs, and with `one_at_a_time` a second run waits
    for the end of the first (rule 29).
    """

    later = frozenset({"start", "every", "cron", "timezone", "on_error"})

    name: Name
    tasks: tuple[Annotated[TaskSpec, WrapValidator(_task)], ...]
    group: Name | None = None
    priority: Priority | None = None
    run_by: Name | None = None
    company: Name | None = None
    limits: Names = ()
    tasks_at_once: Units | None = None
    one_at_a_time: StrictBool = False

    @model_validator(mode="after")
    def _sound(self, info: ValidationInfo) -> Self:
        named = Counter(task.name for task in self.tasks)
        faults = [
            Fault(("tasks", name), "another task has the same name") for name, count in named.items() if count > 1
        ]
        after = {task.name: task.after for task in self.tasks}
        faults += graph_faults(after, sizes_of(info))
        if faults:
            raise RuleBroken(*faults[:MOST_FAULTS])
        return self

    @property
    def operations(self) -> set[str]:
        """The operations that its tasks run."""
        return {task.run for task in self.tasks if task.run is not None}


class GroupSpec(Spec):
    """A batch group's own settings; `per_run` is the most of its tasks that a run may have at once (rule 29)."""

    priority: Priority = "normal"
    per_run: Units | None = None


class WindowSpec(Spec):
    """A daily period in which a server has `threads` threads; `days` None = every day (rules 17, 18, 21).

    With a `date` it is an exception: it takes the place of the windows that would start that day. With no threads
    it needs neither start nor end. Without a `timezone` it is in the zone of its writer.
    """

    start: TimeOfDay = ""
    end: TimeOfDay = ""
    threads: Threads
    timezone: Zone = Field(default=cast(str, None), validate_default=True)
    days: Days = None
    date: Date | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.date is not None and self.days is not None:
            raise RuleBroken(Fault(("days",), "a window has a date or weekdays, not both"))
        off = self.date is not None and self.threads == 0
        for name in ("start", "end"):
            if not getattr(self, name) and not off:
                raise RuleBroken(Fault((name,), f"'{name}' is missing"))
        return self

    @property
    def window(self) -> Window:
        """Return the window as a value of `core`, which knows the instants that it covers."""
        days = None if self.days is None else parse_days(self.days)
        start, end = (parse_time(clock or "00:00") for clock in (self.start, self.end))
        return Window(start, end, self.threads, self.timezone, days, self.date)


class ServerSpec(Spec):
    """A batch server: its threads round the clock, or its windows, and its groups (rules 11, 12, 19)."""

    threads: Threads = 1
    groups: Names = ()
    windows: Annotated[tuple[WindowSpec, ...], Field(max_length=MOST_WINDOWS)] = ()

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for one, other in overlaps([spec.window for spec in self.windows]):
            sentence = f"{one.span} and {other.span} overlap in {one.timezone}; windows of one zone may not"
            raise RuleBroken(Fault(("windows",), sentence))
        return self


class Document(Spec):
    """All that a file may hold."""

    limits: dict[Name, Units] = {}
    groups: dict[Name, GroupSpec] = {}
    servers: dict[Name, ServerSpec] = {}
    jobs: dict[Name, JobSpec] = {}


# --- rules over several tasks -------------------------------------------------------------------------------


# A condition on one of these may handle a failure.
MET_BY_ERROR = [outcome for outcome, states in MET_BY.items() if State.ERROR in states]


def _after_fault(after: After, join: Join) -> str | None:
    """Why these conditions cannot stand together (rules 3, 7, 50)."""
    if not is_nested(after):
        return _list_fault(cast("tuple[Condition, ...]", after), join)
    inner = list(joins_in(after))
    if any(_levels(each) > MOST_LEVELS for each in after):
        return f"'all' and 'any' stand within each other, {MOST_LEVELS} levels deep at most"
    if empty := next((each.join for each in inner if not each.conditions), None):
        return f"{shown(str(empty))} joins no conditions; name one, or leave it out"
    lists = [(after, join), *((each.conditions, each.join) for each in inner)]
    plain = ([one for one in each if isinstance(one, Condition)] for each, _ in lists)
    found = (_list_fault(each, joint) for each, (_, joint) in zip(plain, lists, strict=True))
    return next(filter(None, found), None)


def _levels(condition: Condition | Joined) -> int:
    """How many joins stand within each other."""
    if isinstance(condition, Condition):
        return 0
    return 1 + max(map(_levels, condition.conditions), default=0)


# A job may have far more conditions than anything else. Over a long list `map` with these is faster than a loop.
TASK_OF, HANDLES = attrgetter("task"), attrgetter("handles")


def _list_fault(after: Sequence[Condition], join: Join) -> str | None:
    """Why the conditions of one list cannot stand together."""
    if len(set(map(TASK_OF, after))) == len(after) and not any(map(HANDLES, after)):
        return None  # the usual long list
    asked: dict[str, Outcome] = {}
    seen = set()
    for condition in after:
        task, outcome = condition.task, condition.outcome
        if condition.handles and outcome not in MET_BY_ERROR:
            *first, last = MET_BY_ERROR
            advice = f"{', '.join(first)} or {last}"
            return f"{shown(task)} is asked for {outcome}, which has no failure to handle; use {advice}"
        if (task, outcome) in seen:
            return f"{shown(task)} is asked for {outcome} twice"
        if asked.setdefault(task, outcome) is not outcome and join is Join.ALL:
            return f"{shown(task)} is asked for {asked[task]} and for {outcome}; choose one, or use join: any"
        seen.add((task, outcome))
    return None


def graph_faults(conditions: Mapping[str, After], sizes: Sizes) -> list[Fault]:
    """Name the faults of a graph in which tasks have these conditions, up to the first ten (rule 1)."""
    # The tasks of a layer mostly have their conditions as one tuple.
    distinct = {id(after): after for after in conditions.values()}.values()
    nested = [after for after in distinct if is_nested(after)]
    gates = len({each for after in nested for each in joins_in(after)})
    if not conditions:
        return [Fault(("tasks",), "a job needs at least one task")]
    if len(conditions) > sizes.tasks:
        return [Fault(("tasks",), f"has {len(conditions):,} tasks, at most {sizes.tasks:,} are allowed")]
    after = {name: list(map(TASK_OF, leaves(each) if nested else each)) for name, each in conditions.items()}
    count = gates + sum(map(len, after.values()))
    if count > sizes.conditions:
        return [Fault(("tasks",), f"has {count:,} conditions, at most {sizes.conditions:,} are allowed")]
    if len(conditions) + gates > MOST_TASKS:
        return [
            Fault(("tasks",), f"has {len(conditions) + gates:,} tasks and joins, at most {MOST_TASKS:,} are allowed")
        ]
    faults = _dangling(after)
    if faults:
        after = {name: [each for each in before if each in after] for name, before in after.items()}
    cycle = find_cycle(after)
    return [*faults, _cycle_fault(cycle)] if cycle else faults


def _dangling(after: Mapping[str, Sequence[str]]) -> list[Fault]:
    faults: list[Fault] = []
    for name, before in after.items():
        for each in before:
            if each not in after and len(faults) < MOST_FAULTS:
                sentence = f"no task named {shown(each)}{near(each, after)}"
                faults.append(Fault(("tasks", name, "after"), sentence, (each,)))
    return faults


def _cycle_fault(cycle: list[str]) -> Fault:
    before, name = cycle[:2]
    if before == name:
        sentence = "the task waits for itself; take that condition out"
    else:
        names = [shown(each) for each in (cycle if len(cycle) <= 8 else cycle[:4] + cycle[-3:])]
        if len(cycle) > 8:
            names.insert(4, f"… {len(cycle) - 7:,} more …")
        sentence = f"these tasks wait for each other in a circle: {' → '.join(names)}; take one condition out"
    return Fault(("tasks", name, "after"), sentence, (before,))
