"""An operation in Celery's tracer: what a task's class, hooks, signals and instruments see, and what is not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery.app import trace as celerys
from celery.exceptions import Ignore, MaxRetriesExceededError, Retry

from batchq import Final
from batchq.server.child.executing import execute
from batchq.server.child.order import Current, Done, Order

app = Celery("shop", set_as_current=False, broker="memory://", backend="cache+memory://")
app.conf.task_store_errors_even_if_ignored = True
app.conf.task_track_started = True
told: list[Any] = []
SIGNALS = ("task_prerun", "task_success", "task_retry", "task_failure", "task_postrun", "task_internal_error")


class Hooked(Task):
    def before_start(self, task_id, args, kwargs):
        told.append("before_start")

    def on_success(self, retval, task_id, args, kwargs):
        told.append("on_success")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        told.append(f"on_retry {type(exc).__name__}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        told.append(f"on_failure {type(exc).__name__}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        told.append(f"after_return {status}")


class InContext(Task):
    """As Flask has it: the operation needs what the class enters."""

    entered = False

    def __call__(self, *args, **kwargs):
        self.entered = True
        try:
            return self.run(*args, **kwargs)
        finally:
            self.entered = False


class Awaited(Task):
    def __call__(self, *args, **kwargs):
        return asyncio.run(self.run(*args, **kwargs))


def operation(act: Callable[..., Any], **options: Any) -> str:
    """The name of a task of the app that acts so."""
    act.__name__ = act.__name__.replace("<lambda>", "act")  # Celery can make no task of a lambda
    name = f"{act.__name__}-{len(app.tasks)}"
    app.task(act, name=name, base=options.pop("base", Hooked), **options)
    return name


def played(name: str, attempt: int = 1, retries: int = 0) -> Done:
    work = Current("J", 1, "A", attempt)
    return execute(Order(name, "[]", "{}", "t", work, "AOS1@h", "BG1", 9999, 9999, last=attempt > retries))


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is sent or stored meanwhile: nothing may be."""
    app.set_current()
    told.clear()
    sent: list[str] = []
    monkeypatch.setattr(
        app.amqp, "_send_task_message", lambda producer, name, *a, **k: sent.append(name), raising=False
    )
    monkeypatch.setattr(type(app.backend), "_store_result", lambda *a, **k: sent.append("a result"))
    receivers = {name: lambda name=name, **_: told.append(name) for name in SIGNALS}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver, weak=False)
    yield sent
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)
    assert sent == []


def test_a_success_is_told_in_the_order_of_celery() -> None:
    assert played(operation(lambda: 1)).ok
    assert told == ["task_prerun", "before_start", "on_success", "task_success", "after_return SUCCESS", "task_postrun"]


def fails() -> None:
    raise ValueError("no such order")


def test_an_attempt_that_is_repeated_is_a_retry_and_the_last_one_a_failure() -> None:
    name = operation(fails)
    dones = [played(name, attempt, retries=2) for attempt in (1, 2, 3)]

    assert {done.error for done in dones} == {"ValueError: no such order"}
    again = ["task_prerun", "before_start", "on_retry ValueError", "task_retry", "task_postrun"]
    end = ["on_failure ValueError", "task_failure", "after_return FAILURE", "task_postrun"]
    assert told == [*again, *again, "task_prerun", "before_start", *end]


@pytest.mark.parametrize("kind", ["retry", "a reason", "of itself", "without raising"])
def test_what_asks_for_a_retry_gets_one_while_the_job_has_one(kind: str) -> None:
    def asks(self: Task) -> None:
        if kind == "of itself":
            raise OSError("away")
        if kind == "a reason":
            raise self.retry(exc=OSError("away"), countdown=7)
        if kind == "retry":
            raise self.retry()
        self.retry(exc=OSError("away"), throw=False)

    options = {"autoretry_for": (OSError,), "retry_backoff": True} if kind == "of itself" else {}
    name = operation(asks, bind=True, max_retries=5, **options)
    first, last = played(name, 1, retries=1), played(name, 2, retries=1)

    assert (first.ok, last.ok) == (False, False)
    assert first.error == ("Retry: the operation asked for it" if kind == "retry" else "OSError: away")
    assert last.error.startswith("MaxRetriesExceededError: " if kind == "retry" else "OSError: away")
    ends = [each for each in told if each.startswith(("on_", "task_retry", "task_failure"))]
    if kind == "without raising":  # Celery, too, takes that attempt for a success, and then repeats it
        assert ends == ["on_success", "on_failure OSError", "task_failure"]
    elif kind == "retry":
        assert ends == ["on_retry NoneType", "task_retry", "on_failure MaxRetriesExceededError", "task_failure"]
    else:
        assert ends == ["on_retry OSError", "task_retry", "on_failure OSError", "task_failure"]


def test_an_operation_that_gives_up_at_its_own_limit_does() -> None:
    def gives_up(self: Task) -> str:
        try:
            raise self.retry()
        except MaxRetriesExceededError:
            return "gave up"

    name = operation(gives_up, bind=True, max_retries=1)

    assert not played(name, 1, retries=1).ok
    assert played(name, 2, retries=1).result == '"gave up"'
    assert played(name, 1, retries=0).result == '"gave up"'
    assert not hasattr(app.tasks[name], "override_max_retries")


def test_a_class_may_call_the_operation_in_its_own_way() -> None:
    def needs(self: Task) -> bool:
        return self.entered

    async def waits() -> int:
        await asyncio.sleep(0)
        return 7

    assert played(operation(needs, bind=True, base=InContext)).result == "true"
    assert played(operation(waits, base=Awaited)).result == "7"


async def _coroutine() -> None:
    pass


def _generator() -> Iterator[int]:
    yield 1


async def _stream() -> Any:
    yield 1


@pytest.mark.parametrize("base", [Hooked, InContext])
@pytest.mark.parametrize("act", [_coroutine, _generator, _stream, lambda: _coroutine(), lambda: (n for n in [1])])
def test_what_only_returns_its_work_is_an_error_that_says_that_nothing_ran(act: Any, base: Any) -> None:
    done = played(operation(act, base=base))

    assert not done.ok
    assert done.error.startswith("NothingRan: The operation returned a")
    assert done.error.endswith("nothing of it ran.")
    assert "on_success" not in told


def test_a_replacement_is_an_error_and_is_not_sent() -> None:
    def replaces(self: Task) -> None:
        raise self.replace(app.signature("other"))

    done = played(operation(replaces, bind=True))

    assert done.error.startswith("CannotReplace: self.replace() would run 'other' outside of the job")


def test_ignoring_is_a_success_and_rejecting_an_error() -> None:
    def ignores() -> None:
        raise Ignore

    def rejects() -> None:
        raise celerys.Reject("not mine", requeue=False)

    assert played(operation(ignores)) == Done(True)
    assert played(operation(rejects)).error == "Reject: ('not mine', False)"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_an_exception_beside_exception_fails_like_any_other(error: BaseException) -> None:
    def raises() -> None:
        raise error

    name = operation(raises)
    first, last = played(name, 1, retries=1), played(name, 2, retries=1)

    assert (first.ok, last.ok) == (False, False)
    assert last.error.startswith(type(error).__name__)
    assert [each for each in told if each.startswith("on_")] == [
        f"on_retry {type(error).__name__}",
        f"on_failure {type(error).__name__}",
    ]


def test_whatever_instruments_the_tracer_afterwards_is_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    name = operation(lambda: 1)
    played(name)
    build, seen = celerys.build_tracer, []

    def instrumented(name: str, task: Task, *args: Any, **options: Any) -> Any:
        tracer = build(name, task, *args, **options)

        def traced(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return tracer(*args, **options)

        return traced

    monkeypatch.setattr(celerys, "build_tracer", instrumented)
    assert played(name).ok
    assert seen == [name]


def test_what_an_operation_runs_eagerly_stays_celerys() -> None:
    def inner(self: Task) -> str:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return f"{self.request.is_eager} {self.request.retries}"

    inside = operation(inner, bind=True, max_retries=3)

    def outer(self: Task) -> list[Any]:
        return [app.tasks[inside].apply().get(), self.request.is_eager, self.request.called_directly]

    assert played(operation(outer, bind=True)).result == '["True 2", false, false]'


def test_what_it_calls_directly_stays_celerys() -> None:
    def inner(self: Task) -> str:
        with pytest.raises(Retry):
            self.retry()
        return str(self.request.called_directly)

    inside = operation(inner, bind=True)

    assert played(operation(lambda: app.tasks[inside]())).result == '"True"'


def test_the_request_has_what_a_task_of_celery_finds_there() -> None:
    def looks(self: Task, *args: Any, **kwargs: Any) -> dict[str, Any]:
        request = self.request
        facts = "id root_id parent_id task retries is_eager called_directly hostname group chord callbacks errbacks"
        return {name: getattr(request, name) for name in [*facts.split(), "timelimit", "argsrepr", "kwargsrepr"]}

    name = operation(looks, bind=True)
    order = Order(
        name, "[1]", '{"day": "today"}', "t", Current("J", 1, "A", 2), "AOS1@h", "BG1", 99, 9999, time_limits=(9, None)
    )

    assert execute(order).result == (
        f'{{"id": "t", "root_id": "t", "parent_id": null, "task": "{name}", "retries": 1, "is_eager": false, '
        '"called_directly": false, "hostname": "AOS1@h", "group": null, "chord": null, "callbacks": null, '
        '"errbacks": null, "timelimit": [9, null], "argsrepr": "[1]", "kwargsrepr": "{\'day\': \'today\'}"}'
    )


# --- errors after which no attempt follows ------------------------------------------------------------------

AGAIN = ["on_retry", "task_retry"]
FAILED = ["on_failure", "task_failure"]


@pytest.mark.parametrize(
    ("error", "policy", "ends"),
    [
        (OSError("away"), None, AGAIN),
        (Final("no such order"), None, FAILED),
        (OSError("away"), '{"retry_on": ["ConnectionError"]}', FAILED),
        (BrokenPipeError("away"), '{"retry_on": ["ConnectionError"]}', AGAIN),
        (OSError("away"), '{"retry_never_on": ["OSError"]}', FAILED),
        (OSError("away"), "unreadable", FAILED),
    ],
)
@pytest.mark.parametrize("kind", ["raised", "a reason", "of itself"])
def test_an_error_that_is_not_tried_again_is_told_as_a_failure_by_rule_30c(
    error: Exception, policy: str | None, ends: list[str], kind: str
) -> None:
    def asks(self: Task) -> None:
        if kind == "a reason":
            raise self.retry(exc=error)
        raise error

    options = {"autoretry_for": (Exception,)} if kind == "of itself" else {}
    name = operation(asks, bind=True, max_retries=5, **options)
    work = Current("J", 1, "A", 1)
    done = execute(Order(name, "[]", "{}", "t", work, "AOS1@h", "BG1", 9999, 9999, last=False, policy=policy))

    assert done.error == f"{type(error).__name__}: {error}"
    assert done.classes[0] == ("batchq.Final" if isinstance(error, Final) else type(error).__name__)
    assert [each.split()[0] for each in told if each.startswith(("on_", "task_retry", "task_failure"))] == ends


def test_a_wish_for_a_retry_without_a_reason_is_an_error_of_celerys_name() -> None:
    def asks(self: Task) -> None:
        raise self.retry()

    name = operation(asks, bind=True)
    done = played(name, 1, retries=1)
    assert (done.error, done.classes[0]) == ("Retry: the operation asked for it", "celery.exceptions.Retry")
