"""How a Celery task may be called: a job's arguments are checked against its signature, as by `.delay()` (rule 1)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from itertools import takewhile
from typing import NamedTuple

from celery import Signature, Task
from celery.utils.functional import head_from_fun

from batchq.core.json import JSON
from batchq.errors import InvalidInput
from batchq.spec.faults import near, shown
from batchq.spec.model import JobSpec

Head = Callable[..., object]

MOST_NAMES = 5  # of arguments that one sentence tells
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
KINDS: dict[Callable[[object], bool], str] = {
    inspect.iscoroutinefunction: "a coroutine function, which Celery calls and never awaits",
    inspect.isasyncgenfunction: "an asynchronous generator function, which Celery calls and never loops through",
    inspect.isgeneratorfunction: "a generator function, which Celery calls and never loops through",
}


class Call(NamedTuple):
    """A call of an operation: its name, and the Celery task if it is known."""

    run: object
    args: Sequence[JSON]
    kwargs: Mapping[str, JSON] | None
    task: Task | None = None


class Calls:
    """Takes calls of tasks as Celery writes them, and holds them to the tasks' signatures; looks each up once."""

    def __init__(self) -> None:
        self._heads: dict[Task, Head | None] = {}

    def taken(self, run: object, args: Sequence[JSON], kwargs: Mapping[str, JSON] | None) -> Call:
        """The call that a name, a Celery task or a signature makes with these arguments.

        Arguments beside a signature join its own as in `Signature.apply_async`. Raises ValueError for a part of the
        signature that a job would drop.
        """
        if isinstance(run, Task):
            return Call(run.name, args, kwargs, run)
        if isinstance(run, Signature):
            return Call(run.task, *_joined(run, args, kwargs), run._type)
        return Call(getattr(run, "name", run), args, kwargs)

    def fits(self, task: Task, args: Sequence[JSON], kwargs: Mapping[str, JSON]) -> bool:
        """Whether this call may succeed: the task takes such arguments, and its body would run."""
        if task not in self._heads:
            self._heads[task] = head(task) if runs_nothing(task) is None else _refused
        takes = self._heads[task]
        if takes is not None:
            try:
                takes(*args, **kwargs)
            except TypeError:
                return False
        return True

    def fault(self, task: Task, args: Sequence[JSON], kwargs: Mapping[str, JSON]) -> str:
        """Why a call that does not fit cannot succeed; names arguments, and tells no value: that may be a secret."""
        if (nothing := runs_nothing(task)) is not None:
            return nothing
        takes = self._heads[task]
        faults = list(_mismatches(inspect.signature(takes).parameters, len(args), kwargs)) if takes else []
        return f"{shown(task.name)} {', and '.join(faults) or 'refuses these arguments'}"


def check(job: JobSpec, tasks: Mapping[str, Task]) -> None:
    """Raise InvalidInput unless each operation of the job takes the arguments that it is given, and would run."""
    calls = Calls()
    called = [(task, tasks[task.run]) for task in job.tasks if task.run is not None]
    wrong = [(task, run) for task, run in called if not calls.fits(run, task.args, task.kwargs)]
    if not wrong:
        return
    (task, run), more = wrong[0], len(wrong) - 1
    rest = f" {more} more {'tasks are' if more > 1 else 'task is'} called wrongly." if more else ""
    raise InvalidInput(f"{job.name} / {task.name}: {calls.fault(run, task.args, task.kwargs)}.{rest}")


def runs_nothing(task: Task) -> str | None:
    """Why calling the task would run nothing of it, as with a coroutine or a generator function; None if it would run.

    A class with a `__call__` of its own may well run them.
    """
    if _calls_by_itself(task):
        return None
    written, _ = _written(task)
    said = next((said for is_such, said in KINDS.items() if is_such(written)), None)
    return said and f"{shown(task.name)} is {said}: nothing of it would run. Run it to its end in a plain function"


def head(task: Task) -> Head | None:
    """A function without a body that takes the arguments the task takes; None where any may be right."""
    if not task.typing:
        return None
    declared: Head | None = getattr(task, "__header__", None)
    if declared is not None and not _is_validated(task):
        return declared
    # A class that is called in its own way may add arguments to those that are sent.
    return None if _calls_by_itself(task) else _head_of(*_written(task))


def _refused(*_: object, **__: object) -> None:
    raise TypeError


def _head_of(function: Head, bound: bool) -> Head | None:
    try:
        made: Head = head_from_fun(function, bound=bound)
    except (TypeError, ValueError, AttributeError, SyntaxError):  # what was not written in Python
        return None
    return made


def _calls_by_itself(task: Task) -> bool:
    """Whether the task's class has a `__call__` of its own, as Celery's tracer asks."""
    own = takewhile(lambda node: node is not Task, task.__class__.__mro__)
    return any("__call__" in vars(node) for node in own)


def _is_validated(task: Task) -> bool:
    """Whether Celery has put its pydantic wrapper, which itself takes anything, around the task's function."""
    function = getattr(task, "_orig_run", task.run)
    return _is_celerys(getattr(function, "__func__", function))


def _is_celerys(function: object) -> bool:
    return str(getattr(function, "__globals__", {}).get("__name__")).startswith("celery.")


def _written(task: Task) -> tuple[Head, bool]:
    """The function that was written for the task, without what Celery wraps around it; whether it is given the task.

    Wrappers of other people stay: they decide what they take, and what they run.
    """
    function, bound = task.run, False
    while True:
        if inspect.ismethod(function):
            function, bound = function.__func__, True
        if not (_is_celerys(function) and hasattr(function, "__wrapped__")):
            return function, bound
        function = function.__wrapped__


# --- signatures ---------------------------------------------------------------------------------------------

# The options of a signature for which a task of a job has a key of its own.
INSTEAD = {
    **dict.fromkeys(("queue", "routing_key", "exchange"), "group"),
    **dict.fromkeys(("link", "link_error", "chain", "chord"), "after"),
    **dict.fromkeys(("retry", "retry_policy", "retries", "max_retries"), "retries"),
    **dict.fromkeys(("time_limit", "soft_time_limit"), "time_limit"),
    "priority": "priority",
}


def _joined(
    signature: Signature, args: Sequence[JSON], kwargs: Mapping[str, JSON] | None
) -> tuple[Sequence[JSON], Mapping[str, JSON] | None]:
    if type(signature) is not Signature or signature.subtask_type:
        kind = signature.subtask_type or type(signature).__name__
        raise ValueError(f"is a {kind} of Celery; make each of its tasks a task of the job, with `after`")
    options = [name for name, value in signature.options.items() if value is not None and value != []]
    if options:
        keys = dict.fromkeys(INSTEAD[name] for name in options if name in INSTEAD)
        advice = f"use {' and '.join(f'`{key}`' for key in keys)} of the job" if keys else "the job has none such"
        raise ValueError(f"would drop the signature's {_told(options, word='option')}; {advice}")
    if signature.immutable and (args or kwargs):
        raise ValueError("the signature is immutable, so `args` and `kwargs` beside it would be dropped")
    if signature.args and args:
        raise ValueError("has positional arguments in the signature and in `args`; give them in one place")
    if signature.kwargs and isinstance(kwargs, Mapping):
        kwargs = {**signature.kwargs, **kwargs}
    return args or signature.args, kwargs or signature.kwargs


# --- in words -----------------------------------------------------------------------------------------------


def _mismatches(parameters: Mapping[str, Parameter], given: int, kwargs: Mapping[str, JSON]) -> Iterator[str]:
    """Name the faults of a call with this number of positional arguments and these keyword arguments."""
    kinds = {parameter.kind for parameter in parameters.values()}
    ordered = [name for name, parameter in parameters.items() if parameter.kind in POSITIONAL]
    named = [name for name, one in parameters.items() if one.kind in (*POSITIONAL[1:], Parameter.KEYWORD_ONLY)]
    filled = ordered[:given]
    needed = [name for name in parameters if name in {*ordered, *named} and parameters[name].default is Parameter.empty]
    missing = [name for name in needed if name not in filled and name not in kwargs]
    if given > len(ordered) and Parameter.VAR_POSITIONAL not in kinds:
        most = f"at most {len(ordered)}" if ordered else "no"
        yield f"takes {most} positional argument{'s' * (len(ordered) > 1)}, and is given {given}"
    if Parameter.VAR_KEYWORD not in kinds and (unknown := [name for name in kwargs if name not in named]):
        yield f"takes no {_told(unknown, missing, named)}"
    if twice := [name for name in filled if name in kwargs and name in named]:
        yield f"is given the {_told(twice)} by position and by name"
    if missing:
        yield f"lacks the {_told(missing)}"


def _told(names: Sequence[str], *known: Collection[str], word: str = "argument") -> str:
    """Names with the closest of those `known`, of the first collection that has one alike."""
    told = [shown(name) + next(filter(None, (near(name, each) for each in known)), "") for name in names[:MOST_NAMES]]
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    *first, last = told + more
    return f"{word}s {', '.join(first)} and {last}" if first else f"{word} {last}"
