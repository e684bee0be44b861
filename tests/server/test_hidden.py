"""What an operation does with a secret argument: wherever it lets it out, *** comes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.utils.log import get_task_logger

from batchq.core import secrets
from batchq.server.child import Current, Done, Order, Veiled, execute

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


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What another handler, such as the worker's own, writes."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logging.Formatter("%(message)s").format(record))

    handler, make = Handler(), logging.getLogRecordFactory()
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)
    logging.setLogRecordFactory(make)


def run(operation: str, secret: tuple[str, ...] = ("password", "pin")) -> Done:
    app.set_current()
    order = Order(operation, "[]", secrets.packed(KWARGS, secret), "t", Current("J", 1, "A", 1), "h", "g", 9999, 9999)
    assert SECRET not in repr(order)
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
    assert isinstance(logging.getLogRecordFactory(), Veiled)
    assert SECRET in (run("hidden.fails", secret=()).error or "")
    logging.getLogger("vault").warning(SECRET)
    assert heard[-1] == SECRET
