"""A job written in Python: the same model as the job file; tasks are values that conditions are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from batchq.core.conditions import Condition, Join, Joined, is_nested
from batchq.core.json import JSON
from batchq.core.retries import full_name
from batchq.core.states import Outcome
from batchq.errors import InvalidInput
from batchq.spec.faults import Fault, Path, faults_in, shown
from batchq.spec.fields import USUAL_SIZES, Priority, Sizes, has_join
from batchq.spec.model import JOIN_BESIDE, JobSpec, TaskSpec

if TYPE_CHECKING:
    from celery import Task as CeleryTask

    from batchq.spec.arguments import Calls

M = TypeVar("M", bound=BaseModel)
# What few tasks have, with its defaults. The model does not get it if nobody gave it: it checks each value it gets.
SELDOM: dict[str, object] = dict.fromkeys(
    (
        *("secret", "limits", "stage", "group", "priority"),
        *("retry_delay_max", "retry_on", "retry_never_on", "time_limit", "duration"),
    )
) | {"secret": (), "limits": ()}
NOT_USED = tuple(SELDOM.values())


@dataclass(frozen=True)
class After:
    """Conditions on tasks of one job; `&` joins them so that all must be met, `|` so that one is enough.

    In brackets both may stand within each other: `t1 & (t2 | t3.error)` (rule 50).
    """

    job: Job
    conditions: tuple[Condition | Joined, ...]
    join: Join | None = None

    @property
    def handles(self) -> After:
        """Return this condition with `handles` set: if its task succeeds, the failure counts as handled (rule 7)."""
        (condition, *others) = self.conditions
        if others or isinstance(condition, Joined):
            raise InvalidInput("Each condition handles for itself: write `t1.error.handles & t2.error.handles`.")
        return replace(self, conditions=(replace(condition, handles=True),))

    def __and__(self, other: After | Task) -> After:
        return self._joined(other, Join.ALL)

    def __or__(self, other: After | Task) -> After:
        return self._joined(other, Join.ANY)

    def __bool__(self) -> NoReturn:
        raise InvalidInput("Join conditions with & or |, not with `and`, `or` or `not`.")

    def _joined(self, other: After | Task, join: Join) -> After:
        return After(self.job, (*self._within(join), *_success(other)._within(join)), join)

    def _within(self, join: Join) -> tuple[Condition | Joined, ...]:
        """The conditions as they stand in that join: those of the other one stand there as one."""
        return self.conditions if self.join in (join, None) else (Joined(self.join, self.conditions),)

    @property
    def said(self) -> tuple[tuple[Condition | Joined, ...], Join | None]:
        """The conditions and their join as a task has them, which says nothing of a join that holds others."""
        if self.join and is_nested(self.conditions):
            return (Joined(self.join, self.conditions),), None
        return self.conditions, self.join


@dataclass(frozen=True)
class Task:
    """A task of a job that is being written; as a condition by itself it means `success`."""

    job: Job
    name: str

    @property
    def success(self) -> After:
        """Met when the task succeeds."""
        return After(self.job, (Condition(self.name, Outcome.SUCCESS),))

    @property
    def error(self) -> After:
        """Met when the task fails; `.error.handles` also takes the failure out of the verdict."""
        return After(self.job, (Condition(self.name, Outcome.ERROR),))

    @property
    def finished(self) -> After:
        """Met when the task succeeds or fails."""
        return After(self.job, (Condition(self.name, Outcome.FINISHED),))

    @property
    def skipped(self) -> After:
        """Met when the task didn't run."""
        return After(self.job, (Condition(self.name, Outcome.SKIPPED),))

    @property
    def over(self) -> After:
        """Met by every end of the task: when it succeeds or fails, didn't run, or is aborted."""
        return After(self.job, (Condition(self.name, Outcome.OVER),))

    def __and__(self, other: After | Task) -> After:
        return self.success & other

    def __or__(self, other: After | Task) -> After:
        return self.success | other

    def __bool__(self) -> NoReturn:
        self.success.__bool__()


def _names(errors: object) -> object:
    """The names of errors: a class stands for its full one, and all else is left to the model to judge."""
    if not isinstance(errors, list | tuple):
        return errors
    return [full_name(each) if isinstance(each, type) else each for each in errors]


def _success(after: After | Task) -> After:
    return after.success if isinstance(after, Task) else after


class Job:
    """A job that is being written: `task` adds to it, `spec` gives the finished value."""

    def __init__(
        self,
        name: str,
        *,
        group: str | None = None,
        priority: Priority | None = None,
        run_by: str | None = None,
        company: str | None = None,
        limits: Sequence[str] = (),
        tasks_at_once: int | None = None,
        one_at_a_time: bool = False,
    ) -> None:
        self.name = name
        self._shared: dict[str, object] = {"group": group, "priority": priority, "run_by": run_by, "company": company}
        self._shared |= {"limits": limits, "tasks_at_once": tasks_at_once, "one_at_a_time": one_at_a_time}
        self._tasks: dict[str, TaskSpec] = {}

    def task(
        self,
        name: str,
        run: str | object,
        *,
        args: Sequence[JSON] = (),
        kwargs: Mapping[str, JSON] | None = None,
        secret: Sequence[str] = (),
        after: After | Task | str | Mapping[str, object] | Sequence[object] | None = None,
        join: Join | str | None = None,
        stage: str | None = None,
        group: str | None = None,
        priority: Priority | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        retry_backoff: float = 1.0,
        retry_delay_max: float | None = None,
        retry_jitter: float = 0.0,
        retry_on: Sequence[str | type[BaseException]] | None = None,
        retry_never_on: Sequence[str | type[BaseException]] | None = None,
        repeatable: bool = False,
        time_limit: float | None = None,
        duration: float | None = None,
        ignore_failure: bool = False,
        limits: Sequence[str] = (),
    ) -> Task:
        """Add a task that runs `run`: a name, a Celery task, or a signature. Raises InvalidInput if it breaks a rule.

        A signature's arguments become the task's; its options are refused, as they would be lost. `after` takes earlier
        tasks, or the form of a job file. `stage` is a label (rule 53). `secret` names keyword arguments that nobody may
        see. `retry_delay`, `retry_delay_max`, `time_limit` and `duration` are seconds, and `duration` serves the plan
        alone. `retry_on` and `retry_never_on` take classes too. `limits` are named ones (rule 29).
        """
        said, joined = self._after(name, after, join)
        operation, args, kwargs, celery_task = self._called(name, run, args, kwargs)
        values: dict[str, object] = {
            "name": name,
            "run": operation,
            "args": args,
            "kwargs": {} if kwargs is None else kwargs,
            "after": said,
            "join": joined,
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_backoff": retry_backoff,
            "retry_jitter": retry_jitter,
            "repeatable": repeatable,
            "ignore_failure": ignore_failure,
        }
        seldom = (secret, limits, stage, group, priority, retry_delay_max, retry_on, retry_never_on)
        if (*seldom, time_limit, duration) != NOT_USED:
            values |= zip(SELDOM, (*seldom, time_limit, duration), strict=True)
            values |= {"retry_on": _names(retry_on), "retry_never_on": _names(retry_never_on)}
        made = self._made(TaskSpec, ("tasks", name), values)
        if celery_task is not None and not self._calls.fits(celery_task, made.args, made.kwargs):
            raise self._refusal((name,), self._calls.fault(celery_task, made.args, made.kwargs))
        self._tasks[name] = made
        return Task(self, name)

    def gate(
        self,
        name: str,
        *,
        after: After | Task | str | Mapping[str, object] | Sequence[object] | None = None,
        join: Join | str | None = None,
        stage: str | None = None,
    ) -> Task:
        """Add a gate: it runs nothing, and succeeds as soon as its conditions are met (rule 50).

        `after`, `join` and `stage` are those of `task`. Raises InvalidInput if it breaks a rule.
        """
        said, joined = self._after(name, after, join)
        self._tasks[name] = self._made(
            TaskSpec, ("tasks", name), {"name": name, "after": said, "join": joined, "stage": stage}
        )
        return Task(self, name)

    def spec(self, sizes: Sizes = USUAL_SIZES) -> JobSpec:
        """The job as it is submitted; raises InvalidInput if it breaks a rule, or is larger than `sizes`."""
        values = {"name": self.name, "tasks": tuple(self._tasks.values()), **self._shared}
        return _checked(self.name, JobSpec, values, sizes=sizes)

    def _after(self, name: str, after: object, join: Join | str | None) -> tuple[object, Join | str]:
        """The conditions of a task of this name, and their join, as the model takes them."""
        if name in self._tasks:
            raise InvalidInput(f"Job {shown(self.name)}: another task is named {shown(name)}.")
        said, joined = self._conditions(after)
        if join and joined and joined != join:
            raise self._refusal((name, "join"), f"{join} contradicts how the conditions are joined")
        if join and joined is None and (has_join(said) or (isinstance(said, tuple | list) and is_nested(tuple(said)))):
            raise InvalidInput(f"Job {shown(self.name)}: {JOIN_BESIDE.below(('tasks', name))}.")
        return said, join or joined or Join.ALL

    def _called(
        self, name: str, run: object, args: Sequence[JSON], kwargs: Mapping[str, JSON] | None
    ) -> tuple[object, Sequence[JSON], Mapping[str, JSON] | None, CeleryTask | None]:
        """The operation, its arguments, and the Celery task where that is given."""
        if isinstance(run, str):
            return run, args, kwargs, None
        try:
            return self._calls.taken(run, args, kwargs)
        except ValueError as error:
            raise self._refusal((name, "run"), str(error)) from None

    @cached_property
    def _calls(self) -> Calls:
        from batchq.spec.arguments import Calls  # with Celery, which a job of names does without

        return Calls()

    def _refusal(self, path: Path, sentence: str) -> InvalidInput:
        return InvalidInput(f"Job {shown(self.name)}: {Fault(('tasks', *path), sentence)}.")

    def _conditions(self, after: object) -> tuple[object, Join | None]:
        """Return the model's value for `after`, and the join that `&` or `|` asked for."""
        if isinstance(after, list | tuple):
            if set(map(type, after)) <= {str}:
                return after, None  # names, as long lists are made of
            return [condition for each in after for condition in _listed(*self._conditions(each))], None
        if not isinstance(after, After | Task):
            return after, None
        after = _success(after)
        if after.job is not self:
            raise InvalidInput(f"Job {shown(self.name)}: a condition is on a task of {shown(after.job.name)}.")
        return after.said

    def _made(self, model: type[M], path: Path, values: Mapping[str, object]) -> M:
        return _checked(self.name, model, values, path)


def sized(job: Job | JobSpec, sizes: Sizes) -> JobSpec:
    """The job as it is submitted; InvalidInput if it breaks a rule, or is larger than these sizes (rule 1)."""
    spec = job.spec(sizes) if isinstance(job, Job) else _checked(job.name, JobSpec, dict(job), sizes=sizes)
    # Every task has been held to the usual sizes when it was made: only narrower ones are worth the time again.
    if sizes.name_chars < USUAL_SIZES.name_chars or sizes.argument_bytes < USUAL_SIZES.argument_bytes:
        for task in spec.tasks:
            _checked(spec.name, TaskSpec, task.model_dump(), ("tasks", task.name), sizes)
    return spec


def _checked(job: str, model: type[M], values: Mapping[str, object], path: Path = (), sizes: Sizes = USUAL_SIZES) -> M:
    """The model of these values at `path` of the job; InvalidInput with a line for each fault."""
    try:
        return model.model_validate(values, context=sizes)
    except ValidationError as error:
        lines = (f"Job {shown(job)}: {fault.below(path)}." for fault in faults_in(error))
        raise InvalidInput("\n".join(lines)) from None


def _listed(conditions: object, join: Join | None) -> Sequence[object]:
    """The conditions as they stand in a list, where those of `&` or `|` stand together."""
    if join and isinstance(conditions, tuple):
        return [Joined(join, conditions)]
    return conditions if isinstance(conditions, list | tuple) else [conditions]
