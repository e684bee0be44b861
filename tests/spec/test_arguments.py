"""A task of a job is called as its function can be called; a Celery signature is taken whole or refused."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, chain, chord, group
from pydantic import BaseModel

from batchq.errors import InvalidInput
from batchq.spec import Job, TaskSpec
from batchq.spec.arguments import runs_nothing

app = Celery("shop", set_as_current=False)


class Order(BaseModel):
    number: int


class Injecting(Task):
    """A class that adds an argument of its own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run("session", *args, **kwargs)


class Awaiting(Task):
    """A class that runs coroutines."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return asyncio.run(self.run(*args, **kwargs))


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return run


def passed_a_session(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function("session", *args, **kwargs)

    return run


@app.task(name="collect")
def collect(day: str, shop: str = "Oslo", *, dry: bool = False) -> None: ...


@app.task(name="bound", bind=True, autoretry_for=(OSError,))
def bound(self: Task, day: str) -> None: ...


@app.task(name="nothing")
def nothing() -> None: ...


@app.task(name="ordered", bind=True, pydantic=True, autoretry_for=(OSError,))
def ordered(self: Task, order: Order, copies: int = 1) -> None: ...


@app.task(name="needs", autoretry_for=(OSError,))
def needs(day: str, *rest: str, sure: bool, **more: str) -> None: ...


@app.task(name="loose", typing=False)
def loose(day: str) -> None: ...


@app.task(name="decorated")
@passed_a_session
def decorated(session: str, day: str) -> None: ...


@app.register_task
class Classy(Task):  # type: ignore[misc]
    name = "classy"
    autoretry_for = (OSError,)

    def run(self, day: str) -> None: ...


@app.register_task
class Injected(Injecting):
    name = "injected"

    def run(self, session: str, day: str) -> None: ...


@app.task(name="post", autoretry_for=(OSError,))
async def post() -> None: ...


@app.task(name="rows", bind=True)
def rows(self: Task) -> Iterator[int]:
    yield 1


@app.task(name="stream", pydantic=True)
async def stream() -> AsyncIterator[int]:
    yield 1


@app.task(name="by class", base=Awaiting)
async def by_class() -> None: ...


@app.task(name="by decorator")
@awaited
async def by_decorator() -> None: ...


def made(run: object, **fields: Any) -> TaskSpec:
    job = Job("J")
    job.task("A", run, **fields)
    return job.spec().tasks[0]


def refusal(run: object, **fields: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        made(run, **fields)
    said = str(refused.value)
    assert said.startswith("Job 'J': tasks.A")
    return said.removeprefix("Job 'J': tasks.A").removesuffix(".")


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "said"),
    [
        (collect, [], {}, "'collect' lacks the argument 'day'"),
        (collect, [], {"dya": 1}, "'collect' takes no argument 'dya' (closest: 'day'), and lacks the argument 'day'"),
        (collect, [1], {"dy": 1, "x": 2}, "'collect' takes no arguments 'dy' (closest: 'dry') and 'x'"),
        (collect, [1, 2, 3], {}, "'collect' takes at most 2 positional arguments, and is given 3"),
        (collect, [1], {"day": 1}, "'collect' is given the argument 'day' by position and by name"),
        (nothing, [1], {}, "'nothing' takes no positional argument, and is given 1"),
        (bound, [], {}, "'bound' lacks the argument 'day'"),
        (bound, [1, 2], {}, "'bound' takes at most 1 positional argument, and is given 2"),
        (ordered, [], {"x": 1}, "'ordered' takes no argument 'x', and lacks the argument 'order'"),
        (needs, ["monday"], {}, "'needs' lacks the argument 'sure'"),
        (needs, [], {}, "'needs' lacks the arguments 'day' and 'sure'"),
        (app.tasks["classy"], [], {}, "'classy' lacks the argument 'day'"),
    ],
)  # fmt: skip
def test_arguments_that_the_function_does_not_take_are_refused(task: Task, args: list[Any], kwargs: Any, said: str):
    assert refusal(task, args=args, kwargs=kwargs) == f": {said}"
    assert refusal(task.s(*args, **kwargs)) == f": {said}"


@pytest.mark.parametrize(
    ("task", "args", "kwargs"),
    [
        (collect, ["monday"], {}),
        (collect, [], {"day": "monday", "dry": True}),
        (bound, ["monday"], {}),
        (ordered, [{"number": 1}], {"copies": 2}),
        (needs, ["monday", "a", "b"], {"sure": True, "why": "so"}),
        (app.tasks["classy"], ["monday"], {}),
        (loose, [], {"dya": 1}),
        (decorated, ["monday"], {}),
        (app.tasks["injected"], ["monday"], {}),
    ],
)
def test_arguments_that_may_be_right_are_taken(task: Task, args: list[Any], kwargs: dict[str, Any]):
    spec = made(task, args=args, kwargs=kwargs)
    assert (spec.run, spec.args, spec.kwargs) == (task.name, args, kwargs)


def test_no_argument_is_told_by_its_value():
    assert "hunter2" not in refusal(collect, args=["hunter2"] * 9, kwargs={"day": "hunter2", "x": "hunter2"})


def test_many_names_are_cut():
    said = refusal(nothing, kwargs={f"x{number}": 1 for number in range(100)})
    assert said == ": 'nothing' takes no arguments 'x0', 'x1', 'x2', 'x3', 'x4' and 95 more"


# --- what would not run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kind"),
    [(post, "coroutine function"), (rows, "generator function"), (stream, "asynchronous generator function")],
)
def test_a_function_of_which_a_call_runs_nothing_is_refused(task: Task, kind: str):
    said = refusal(task)
    assert f"{task.name!r} is a" in said
    assert kind in said
    assert "nothing of it would run" in said
    assert runs_nothing(task) is not None


@pytest.mark.parametrize("task", [by_class, by_decorator, collect, app.tasks["classy"]])
def test_a_coroutine_that_its_class_or_decorator_runs_is_taken(task: Task):
    assert runs_nothing(task) is None


# --- signatures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "beside", "args", "kwargs"),
    [
        (collect.s("today"), {}, ["today"], {}),
        (collect.si("today", dry=True), {}, ["today"], {"dry": True}),
        (collect.signature(("today",), {"shop": "Bergen"}), {}, ["today"], {"shop": "Bergen"}),
        (collect.s("today", shop="Oslo"), {"kwargs": {"shop": "Bergen"}}, ["today"], {"shop": "Bergen"}),
        (collect.s(dry=True), {"args": ["today"]}, ["today"], {"dry": True}),
        (collect.s(shop="Oslo"), {"kwargs": {"day": "today"}}, [], {"shop": "Oslo", "day": "today"}),
        (app.signature("collect", args=("today",)), {}, ["today"], {}),
        (collect.s("today").set(countdown=None, link=[]), {}, ["today"], {}),
    ],
)
def test_a_signature_gives_its_arguments_as_it_would_to_celery(
    signature: Any, beside: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
):
    spec = made(signature, **beside)
    assert (spec.run, spec.args, spec.kwargs) == ("collect", args, kwargs)


def linked() -> Any:
    signature = collect.s("today")
    signature.link(nothing.si())
    return signature


def frozen() -> Any:
    signature = collect.s("today")
    signature.freeze()
    return signature


def stamped() -> Any:
    return collect.s("today").stamp(tenant=7)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (collect.s("today").set(countdown=3), "option 'countdown'; the job has none such"),
        (collect.s("today").set(queue="q", priority=9), "options 'queue' and 'priority'; use `group` and `priority`"),
        (collect.s("today").set(retry=True, expires=9), "options 'retry' and 'expires'; use `retries`"),
        (collect.s("today").on_error(nothing.si()), "option 'link_error'; use `after`"),
        (linked(), "option 'link'; use `after`"),
        (frozen(), "'task_id'"),
        (stamped(), "'tenant'"),
    ],
)
def test_options_of_a_signature_that_would_be_dropped_are_refused(signature: Any, said: str):
    assert said in refusal(signature)
    assert ".run: would drop the signature's option" in refusal(signature)


@pytest.mark.parametrize(
    ("canvas", "kind"),
    [
        (chain(collect.s("today"), nothing.si()), "chain"),
        (collect.s("today") | nothing.si(), "chain"),
        (group(collect.s("today")), "group"),
        (chord([collect.s("today")], nothing.si()), "chord"),
        (collect.chunks([("today",)], 1), "chunks"),
        (collect.map(["today"]), "xmap"),
    ],
)
def test_what_is_more_than_one_task_is_refused(canvas: Any, kind: str):
    assert f"is a {kind} of Celery; make each of its tasks a task of the job" in refusal(canvas)


def test_arguments_beside_a_signature_that_leave_open_what_is_meant_are_refused():
    assert "give them in one place" in refusal(collect.s("today"), args=["Oslo"])
    assert "is immutable" in refusal(collect.si("today"), kwargs={"shop": "Oslo"})
    assert refusal(collect.s(), args="today") == ".args: must be a list, not text"
    assert refusal(collect.s(), kwargs=7) == ".kwargs: must be a mapping, not 7"


def test_an_argument_of_a_signature_may_be_secret():
    assert "hunter2" not in repr(made(collect.s(day="hunter2"), secret=["day"]))
