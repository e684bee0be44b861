"""A host project with one task for each case, which notes all that its hooks, receivers and tools see of it.

It is run by `celery worker` and by a batch server; what each of them notes must be the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.process import current_process
from celery import Celery, Task, chord, current_task, group, signals
from celery.app import trace
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject
from celery.utils.log import get_task_logger
from pydantic import BaseModel

from batchq import BatchQ

app = Celery("host")
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_backend=os.environ.get("HOST_BACKEND"),
    task_routes={"host.elsewhere": {"queue": "elsewhere"}},
    worker_prefetch_multiplier=1,
    worker_lost_wait=1,
)
batch = BatchQ(app)

# --- what it notes ------------------------------------------------------------------------------------------


def note(case: str, what: str, value: Any = None) -> None:
    """Write down what was seen of a case, and whether in the worker's main process."""
    place = "main" if current_process().name == "MainProcess" else "child"
    line = json.dumps({"case": case, "place": place, "pid": os.getpid(), "what": what, "value": value}, default=str)
    with Path(os.environ["HOST_NOTES"]).open("a") as notes:
        notes.write(line + "\n")


def _receive(name: str, fact: Callable[[dict[str, Any]], Any]) -> None:
    def receive(sender: Any = None, **facts: Any) -> None:
        if getattr(sender, "name", "").startswith("host."):
            note(sender.name, name, fact(facts))

    getattr(signals, name).connect(receive, weak=False)


def kind(error: Any) -> str:
    """The class of an exception, and its text where that is nothing of a worker's own."""
    error = getattr(error, "exc", None) or error
    return type(error).__name__


FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "task_prerun": lambda facts: [facts["args"], sorted(facts["kwargs"])],
    "task_postrun": lambda facts: [facts["state"], type(facts["retval"]).__name__],
    "task_success": lambda facts: type(facts["result"]).__name__,
    "task_retry": lambda facts: [kind(facts["reason"]), facts["request"].retries],
    "task_failure": lambda facts: [kind(facts["exception"]), facts["args"], bool(facts["einfo"])],
    "task_internal_error": lambda facts: kind(facts["exception"]),
}


def _begun(**_: Any) -> None:
    note("host.process", "worker_process_init")


class Handler(logging.Handler):
    """Notes what tasks log, whoever logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        if current_task and record.name.startswith(("host", "root", "celery.redirected", "celery.task")):
            note(current_task.name, "log", [record.name, record.levelname, record.getMessage()])


def _listen(logger: logging.Logger, **_: Any) -> None:
    logger.addHandler(Handler())


_build = trace.build_tracer


def _instrumented(name: str, task: Task, *args: Any, **options: Any) -> Any:
    """As tools for errors and traces do it: around the tracer, and around what it calls."""
    if name.startswith("host.") and not getattr(task, "instrumented", False):
        run = task.run

        def seen(*args: Any, **kwargs: Any) -> Any:
            note(name, "instrument: began")
            try:
                return run(*args, **kwargs)
            except Exception as error:
                note(name, "instrument: raised", kind(error))
                raise

        task.run, task.instrumented = seen, True
    traced = _build(name, task, *args, **options)

    def trace_task(*args: Any, **options: Any) -> Any:
        if name.startswith("host."):
            note(name, "instrument: traced")
        return traced(*args, **options)

    return trace_task


def _received(request: Any, **_: Any) -> None:
    if request.name.startswith("host."):
        told = [request.task_name, list(request.args), sorted(request.kwargs), "@" in request.hostname]
        note(request.name, "task.received", [*told, request.id == request.correlation_id or bool(request.id)])


def _watch() -> None:
    signals.task_received.connect(_received)
    for name, fact in FACTS.items():
        _receive(name, fact)
    signals.worker_process_init.connect(_begun)
    signals.after_setup_logger.connect(_listen)
    signals.after_setup_task_logger.connect(_listen)
    trace.build_tracer = _instrumented


if "HOST_NOTES" in os.environ:  # else a test only reads this table
    _watch()


# --- its tasks ----------------------------------------------------------------------------------------------


class Noting(Task):
    """A task whose hooks are noted."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(self.name, "before_start", [self.request.id == task_id, args])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(self.name, "on_success", type(retval).__name__)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(self.name, "on_retry", [kind(exc), self.request.retries])

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(self.name, "on_failure", [kind(exc), self.request.retries, einfo.exception.args == exc.args])

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(self.name, "after_return", [status, type(retval).__name__, einfo is None])


class InContext(Noting):
    """As Flask's manual has it."""

    inside = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.inside = True
        try:
            return self.run(*args, **kwargs)
        finally:
            self.inside = False


class Awaiting(Noting):
    """Runs a coroutine by itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return asyncio.run(self.run(*args, **kwargs))


# Where `os._exit` and kills end everything, and where a limit cannot be held.
PROCESSES_ONLY: set[str] = set()
# Repeated by the job alone: Celery knows nothing like it.
OF_THE_JOB: dict[str, int] = {}
# How often the job repeats a case, where Celery is told so by the task.
RETRIES: dict[str, int] = {}
ARGUMENTS: dict[str, tuple[list[Any], dict[str, Any]]] = {}


def case(
    *, processes: bool = False, retries: int = 0, args: Any = (), kwargs: Any = None, base: Any = Noting, **options: Any
) -> Callable[[Callable[..., Any]], Task]:
    """Make a task of a function; it is one of the cases."""

    def register(function: Callable[..., Any]) -> Task:
        name = f"host.{function.__name__.strip('_')}"
        if processes:
            PROCESSES_ONLY.add(name)
        RETRIES[name], ARGUMENTS[name] = retries, ([*args], kwargs or {})
        return app.task(function, name=name, base=base, **options)

    return register


@case(args=[1, "two"], kwargs={"three": 3})
def plain(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


@case()
def nothing() -> None:
    pass


FIELDS = (
    "task", "retries", "is_eager", "called_directly", "args", "kwargs", "argsrepr", "kwargsrepr", "headers",
    "parent_id", "group", "group_index", "chord", "callbacks", "errbacks", "chain", "eta", "expires", "timelimit",
    "shadow", "reply_to", "taskset", "lang", "replaced_task_nesting", "stamps", "stamped_headers", "loglevel",
    "logfile", "utc",
)  # fmt: skip


@case(bind=True, args=[1], kwargs={"day": "today"})
def request(self: Task, *_: Any, **__: Any) -> None:
    for field in FIELDS:
        note(self.name, f"request.{field}", getattr(self.request, field, "none such"))
    request = self.request
    note(self.name, "request.id", [bool(request.id), request.id == request.root_id == request.correlation_id])
    note(self.name, "request.hostname", "@" in request.hostname)
    note(self.name, "request.origin", "@" in (request.origin or ""))
    note(self.name, "request.delivery_info", sorted(request.delivery_info))
    note(self.name, "request.redelivered", request.delivery_info["redelivered"])
    note(self.name, "request.ignore_result", request.ignore_result)


@case(bind=True)
def current(self: Task) -> bool:
    note(self.name, "current_task", [current_task.name, current_task.request.id == self.request.id])
    note(self.name, "app.current_task", app.current_task.name)
    return current_task._get_current_object() is self


@case(bind=True, base=InContext)
def in_context(self: Task) -> bool:
    return self.inside


@case(bind=True, base=InContext)
def fails_in_context(self: Task) -> bool:
    raise ValueError(str(self.inside))


@case(base=Awaiting)
async def awaited() -> int:
    await asyncio.sleep(0)
    return 7


class Classy(Noting):
    """A task that is a class."""

    name = "host.classy"

    def run(self, number: int) -> int:
        return number + 1


app.register_task(Classy())
RETRIES["host.classy"], ARGUMENTS["host.classy"] = 0, ([1], {})


@case()
def fails() -> None:
    raise ValueError("no such order")


class Unlike(Exception):
    """Cannot be made again from what it is pickled as."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@case()
def fails_oddly() -> None:
    raise Unlike(1, 2)


@case(throws=(KeyError,))
def fails_as_expected() -> None:
    raise KeyError("no such customer")


@case()
def fails_with_a_cause() -> None:
    try:
        raise OSError("away")
    except OSError as error:
        raise RuntimeError("no order") from error


@case(bind=True, retries=2, max_retries=2, default_retry_delay=0)
def retries(self: Task) -> int:
    if self.request.retries < 2:
        raise self.retry(exc=OSError("away"))
    return int(self.request.retries)


@case(bind=True, retries=1, max_retries=1, default_retry_delay=0)
def retries_without_a_reason(self: Task) -> int:
    if not self.request.retries:
        raise self.retry()
    return int(self.request.retries)


@case(bind=True, retries=1, max_retries=1, default_retry_delay=0)
def gives_up(self: Task) -> None:
    raise self.retry()


@case(bind=True, retries=1, max_retries=1, default_retry_delay=0)
def gives_up_with_a_reason(self: Task) -> None:
    raise self.retry(exc=OSError("away"))


@case(bind=True, retries=1, max_retries=1, default_retry_delay=0)
def gives_up_by_itself(self: Task) -> str:
    try:
        raise self.retry()
    except MaxRetriesExceededError:
        return "gave up"


@case(retries=1, autoretry_for=(OSError,), max_retries=1, default_retry_delay=0)
def retried_of_itself() -> None:
    raise OSError("away")


@case(
    retries=1, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), max_retries=1, default_retry_delay=0
)
def not_retried_of_itself() -> None:
    raise PermissionError("not allowed")


@case()
def ignores() -> None:
    raise Ignore


@case()
def rejects() -> None:
    raise Reject("not mine", requeue=False)


@case(bind=True)
def replaced(self: Task) -> None:
    raise self.replace(elsewhere.s())


@case()
async def coroutine() -> None:
    note("host.coroutine", "ran")


@case()
def generator() -> Iterator[int]:
    note("host.generator", "ran")
    yield 1


class Order(BaseModel):
    """What pydantic makes of an argument."""

    number: int


@case(pydantic=True, kwargs={"order": {"number": "7"}})
def of_pydantic(order: Order) -> Order:
    note("host.of_pydantic", "argument", type(order).__name__)
    return Order(number=order.number + 1)


@case()
def returns_a_decimal() -> Decimal:
    return Decimal("1.50")


@case()
def returns_a_time() -> datetime:
    return datetime(2026, 1, 31, 12, tzinfo=UTC)


@case()
def returns_a_uuid() -> uuid.UUID:
    return uuid.UUID(int=7)


@case(processes=True)
def exits() -> None:
    raise SystemExit(3)


@case(processes=True)
def is_interrupted() -> None:
    raise KeyboardInterrupt


@case(processes=True)
def is_cancelled() -> None:
    raise asyncio.CancelledError


@case(processes=True)
def ends_its_process() -> None:
    os._exit(3)


@case(processes=True)
def kills_its_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@case(processes=True, soft_time_limit=1)
def stopped_softly() -> None:
    time.sleep(30)


@case(processes=True, soft_time_limit=1)
def heeds_the_soft_limit() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "heeded"
    return "not reached"


@case(processes=True, time_limit=1)
def stopped_hard() -> None:
    time.sleep(30)


@app.task(name="host.elsewhere")
def elsewhere(value: Any = None) -> Any:
    return value


@case()
def delays() -> None:
    sent = elsewhere.delay(1)
    note("host.delays", "sent", [type(sent).__name__, bool(sent.id)])


@case()
def sends_a_group() -> int:
    return len(group(elsewhere.s(1), elsewhere.s(2)).apply_async().results)


@case()
def sends_a_chord() -> None:
    chord([elsewhere.s(1)])(elsewhere.s())


@app.task(name="host.inner", base=Noting, bind=True, max_retries=2, default_retry_delay=0)
def inner(self: Task) -> int:
    if self.request.retries < 2:
        raise self.retry(exc=OSError("away"))
    return int(self.request.retries)


@case(bind=True)
def applies(self: Task) -> list[Any]:
    result = inner.apply()
    return [result.get(), result.state, self.request.is_eager, current_task.name]


@case(bind=True)
def calls_another(self: Task) -> list[Any]:
    return [app.tasks["host.classy"](1), app.tasks["host.classy"].run(2), self.request.called_directly]


@case(bind=True)
def updates_its_state(self: Task) -> Any:
    self.update_state(state="PROGRESS", meta={"done": 1})
    found = app.AsyncResult(self.request.id)
    return [found.state, found.info]


@case(acks_late=True, reject_on_worker_lost=True)
def acknowledged_late() -> str:
    return "done"


@case(track_started=True, ignore_result=False)
def tracked() -> str:
    return "done"


@case()
def says() -> None:
    logging.getLogger("host").warning("of the module")
    logging.getLogger().warning("of the root")
    get_task_logger("host.tasks").warning("of the task")
    print("printed")


class Raising(Noting):
    """A task that fails before it starts."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise ValueError("not today")


@case(base=Raising)
def fails_before_it_starts() -> None:
    note("host.fails_before_it_starts", "ran")


class RaisingAfterwards(Noting):
    """A task that fails when it is over."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        raise ValueError("too late")


@case(base=RaisingAfterwards)
def fails_afterwards() -> str:
    return "done"


# --- what only a job can ask for ----------------------------------------------------------------------------


@app.task(name="host.fails_thrice", base=Noting)
def fails_thrice() -> None:
    raise ValueError("no such order")


@app.task(name="host.dies_thrice", base=Noting)
def dies_thrice() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


OF_THE_JOB |= {"host.fails_thrice": 2, "host.dies_thrice": 2}
