"""What an operation does with a secret argument: wherever it lets it out, *** comes out."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from celery import Celery
from celery.utils.log import get_task_logger

from batchq.core import secrets
from batchq.server.child.executing import Errand, execute
from batchq.server.child.log import kept
from batchq.server.child.log.listening import listen
from batchq.server.child.order import Current, Done, Order
from support import hostile_app
from support.hostile_app import ESCAPES

SECRET = "hunter2 and more"
KWARGS = {"user": "ops", "password": SECRET, "pin": 123456}

app = Celery("vault", set_as_current=False)


@app.task(name="hidden.opens", shared=False)
def opens(user, password, pin):
    return {"user": user, password: [password, pin, 7]}


@app.task(name="hidden.fails", shared=False)
def fails(user, password, pin):
    raise ValueError(f"{user} with {password!r} and {pin}")


@app.task(name="hidden.logs", shared=False)
def logs(user, password, pin):
    log = logging.getLogger("vault")
    log.warning("text %s", password)
    log.warning("mapping %(password)s", {"password": password})
    log.warning("too few %s %s", password)
    try:
        raise KeyError(password)
    except KeyError:
        log.exception("it was %s", pin)


@app.task(name="hidden.says", shared=False)
def says(user, password, pin):
    get_task_logger("batchq.says").warning("by its logger, %s", password)


@app.task(name="hidden.encodes", shared=False)
def encodes(user, password, pin):
    return [password.encode(), {password.encode().decode(): UUID(int=pin)}]


@app.task(name="hidden.tells", bind=True, shared=False)
def tells(self, user, password, pin):
    return [self.request.kwargsrepr, self.request.argsrepr]


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What another handler, such as the worker's own, writes, beside the lines about attempts."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "celery.app.trace":
                lines.append(logging.Formatter("%(message)s").format(record))

    handler = Handler()
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


def test_a_secret_that_becomes_text_only_as_json_is_hidden() -> None:
    assert json.loads(run("hidden.encodes").result or "") == ["***", {"***": str(UUID(int=123456))}]


def test_a_secret_is_hidden_before_the_repr_of_the_arguments_is_cut() -> None:
    long = KWARGS | {"password": SECRET * 200}
    order = Order(
        "hidden.tells", "[]", secrets.packed(long, ("password",)), "t", Current("J", 1, "A", 1), "h", "g", 9999, 9999
    )
    assert "hunter" not in (execute(order).result or "hunter")


def run(operation: str, secret: tuple[str, ...] = ("password", "pin")) -> Done:
    app.set_current()
    order = Order(operation, "[]", secrets.packed(KWARGS, secret), "t", Current("J", 1, "A", 1), "h", "g", 9999, 9999)
    assert SECRET not in f"{order!r} {Errand(**vars(order))!r}"
    return execute(order)


def test_a_result_holds_no_secret():
    assert json.loads(run("hidden.opens").result or "") == {"user": "ops", "***": ["***", "***", 7]}


def test_an_error_and_its_traceback_hold_none():
    done = run("hidden.fails")
    assert done.error == "ValueError: ops with '***' and ***"
    assert "ValueError: ops with '***' and ***" in (done.log or "")


def test_no_handler_of_whomever_gets_one(heard: list[str]):
    done = run("hidden.logs")

    assert heard[:2] == ["text ***", "mapping ***"]
    assert heard[2].startswith("a message that cannot be formatted, of ")
    assert heard[3].startswith("it was ***\nTraceback")
    assert not [text for text in (*heard, done.log or "") if SECRET in text or "123456" in text]


def test_what_is_said_by_way_of_celerys_task_logger_is_kept_too(monkeypatch: pytest.MonkeyPatch):
    """In a worker it hands nothing on to the root logger."""
    top = logging.getLogger("celery.task")
    monkeypatch.setattr(top, "propagate", False)
    monkeypatch.setattr(top, "handlers", [])

    assert "WARNING by its logger, ***" in (run("hidden.says").log or "")


def test_a_secret_of_one_attempt_is_none_of_the_next(heard: list[str]):
    run("hidden.logs")
    assert SECRET in (run("hidden.fails", secret=()).error or "")
    logging.getLogger("vault").warning(SECRET)
    assert heard[-1] == SECRET


# --- other ways out -----------------------------------------------------------------------------------------


class Facts(logging.Handler):
    """A handler that looks at all that a record has, as some send it elsewhere."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(repr(vars(record)) + logging.Formatter().format(record))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("way", ESCAPES)
def test_a_secret_gets_out_by_no_way(way: str, pool: str, capfd: pytest.CaptureFixture[str]) -> None:
    hostile_app.app.set_current()
    said: list[str] = []
    handler, everyone = Facts(said), [threading.excepthook, sys.unraisablehook]
    logging.getLogger().addHandler(handler)
    threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__
    kwargs = secrets.packed({"way": way, "password": SECRET}, ("password",))
    order = Order("hostile.tell", "[]", kwargs, "t", Current("J", 1, "A", 1), "h", "g", 9999, 9999)
    try:
        if pool == "process":
            done = execute(order)
        else:
            with ThreadPoolExecutor(1, initializer=hostile_app.app.set_current) as threads:
                done = threads.submit(execute, order).result()
    finally:
        logging.getLogger().removeHandler(handler)
        threading.excepthook, sys.unraisablehook = everyone

    out, err = capfd.readouterr()
    everything = "\n".join([repr(done), done.log or "", done.error or "", done.result or "", *said, out, err])
    assert "***" in everything or way in ("a __str__ that raises", "what cannot be logged", "too few arguments")
    assert SECRET not in everything
    assert "hunter2" not in everything


@app.task(name="hidden.waits", shared=False)
def waits(user, password, pin):
    READY.set()
    assert GO.wait(20)


READY, GO = threading.Event(), threading.Event()


def test_what_one_attempt_says_of_anothers_secret_is_hidden_too(heard: list[str]) -> None:
    with ThreadPoolExecutor(1, initializer=app.set_current) as threads:
        other = threads.submit(run, "hidden.waits")
        try:
            assert READY.wait(20)
            logging.getLogger("elsewhere").warning(SECRET)
        finally:
            GO.set()
        assert other.result().ok

    assert heard == ["***"]


@app.task(name="hidden.leaves a thread", shared=False)
def leaves_a_thread(user, password, pin):
    def later() -> None:
        assert LATER.wait(20)
        logging.getLogger("vault").warning(password)

    THREADS.append(threading.Thread(target=later))
    THREADS[0].start()


LATER, THREADS = threading.Event(), []


def test_what_a_thread_says_that_an_attempt_left_behind_is_hidden_as_long_as_it_runs(heard: list[str]) -> None:
    run("hidden.leaves a thread")
    run("hidden.opens", secret=("user",))
    LATER.set()
    THREADS[0].join()
    assert heard[-1] == "***"

    run("hidden.opens", secret=("user",))
    logging.getLogger("vault").warning(SECRET)
    assert heard[-1] == SECRET


def beside(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_what_the_threads_of_an_operation_say_is_kept_in_its_log_alone(pool: str) -> None:
    listen()
    with kept.log(999, None, alone=pool == "process") as log:
        beside(lambda: beside(lambda: logging.getLogger("vault").warning("from a thread of a thread")))
        with ThreadPoolExecutor(1, initializer=app.set_current) as threads:
            other = threads.submit(run, "hidden.logs").result()

    assert "from a thread of a thread" in (log.text() or "")
    assert "from a thread" not in (other.log or "")
