"""How our processes write their logs: JSON whatever is logged, and the host's own formatters as they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from celery import signals
from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter
from pythonjsonlogger.json import JsonFormatter
from tornado.log import LogFormatter

from batchq.server.logs import Escaped, Json, dress, told_at


def record(message: Any, *args: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    told = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("x", logging.INFO, "/srv/x.py", 7, message, args, told)  # type: ignore[arg-type]
    vars(made).update(extra)
    return made


class Unwilling:
    """What cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError

    __str__ = __repr__


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("said", "message", "facts"),
    [
        (record("%s\x1b[2J\x7f\n", "é\u202e"), "é\u202e\x1b[2J\x7f\n", {}),
        (record("too few %s %s", 1), "a message that cannot be formatted, of /srv/x.py:7", {}),
        (record("%s", Unwilling()), "a message that cannot be formatted, of /srv/x.py:7", {}),
        (record("a", order=7, level="mine"), "a", {"order": 7, "level": "INFO", "logger": "x"}),
        (record("a", share=float("nan"), order=7), "a", {"share": "nan", "order": 7}),
        (record("a", loop=LOOP), "a", {"loop": "[[...]]"}),
        (record("a", by={(1, 2): 3}), "a", {"by": "{(1, 2): 3}"}),
        (record("a", what=Unwilling()), "a", {}),
        (record({"order": 7}), "", {"order": 7}),
    ],
)
def test_whatever_is_logged_is_one_line_of_json(said: logging.LogRecord, message: str, facts: dict[str, Any]) -> None:
    line = Json().format(said)
    assert line.isascii()
    assert line.isprintable()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads(line, parse_constant=refuse)
    assert told["message"] == message
    assert told.items() >= facts.items()
    assert datetime.fromisoformat(told["time"]).utcoffset() is not None


def test_a_traceback_is_inside_of_the_object() -> None:
    try:
        raise ValueError("c\x1b[2J")
    except ValueError as error:
        said = record("failed", error=error)
    for line in (Json().format(said), Json().format(record("failed", error=said.exc_info[1], odd={1.0: Unwilling()}))):  # type: ignore[index]
        assert "\n" not in line
        told = json.loads(line)["exc_info"]
        assert told.startswith("Traceback")
        assert told.endswith("ValueError: c\x1b[2J")


def test_what_is_told_already_is_not_told_anew() -> None:
    """A secret was taken out of it, or the causes that nobody could read."""
    said = record("failed", error=ValueError("hunter2"), exc_text="ValueError: ***\x1b")
    assert "hunter2" not in Json().format(said)
    assert Escaped(logging.Formatter()).format(said) == "failed\n  ValueError: ***\\x1b"


# --- whose formatter it is ----------------------------------------------------------------------------------


@pytest.fixture
def handler() -> Iterator[logging.StreamHandler[Any]]:
    handler = logging.StreamHandler()
    logging.getLogger("some.logger").addHandler(handler)
    yield handler
    logging.getLogger("some.logger").removeHandler(handler)


class Own(logging.Formatter):
    """The host's own."""


@pytest.mark.parametrize("celerys", [ColorFormatter, TaskFormatter, LogFormatter], ids=["all", "tasks", "Flower"])
def test_what_celery_and_flower_set_up_writes_our_form(handler: logging.Handler, celerys: Callable[[str], Any]) -> None:
    handler.setFormatter(celerys("[%(asctime)s] %(message)s"))
    dress("text")
    dress("text")
    said = record("a\x1b")
    assert handler.format(said) == f"[{told_at(said.created)}] a\\x1b"
    handler.setFormatter(celerys("%(message)s"))
    dress("json")
    dress("json")
    assert json.loads(handler.format(said))["message"] == "a\x1b"


def test_a_format_of_times_that_the_host_chose_stays(handler: logging.Handler) -> None:
    handler.setFormatter(ColorFormatter("%(asctime)s %(message)s", datefmt="at %Y"))
    dress("text")
    assert handler.format(record("a")).startswith("at 2")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_the_host_formats_keeps_its_form_and_is_made_harmless(handler: logging.Handler, form: str) -> None:
    handler.setFormatter(Own("mine: %(message)s"))
    dress(form)
    assert handler.format(record("a\x1b")) == "mine: a\\x1b"


@pytest.mark.parametrize("form", ["text", "json"])
def test_json_of_the_hosts_is_not_escaped_twice(handler: logging.Handler, form: str) -> None:
    handler.setFormatter(JsonFormatter("%(message)s"))
    dress(form)
    assert json.loads(handler.format(record("a\x1b\n"))) == {"message": "a\x1b\n"}


def test_where_the_host_sets_up_all_of_it_even_celerys_formatters_stay(handler: logging.Handler) -> None:
    def set_up(**_: object) -> None:
        """As a host does."""

    handler.setFormatter(ColorFormatter("%(message)s"))
    signals.setup_logging.connect(set_up)
    try:
        dress("json")
    finally:
        signals.setup_logging.disconnect(set_up)
    assert handler.format(record("a\x1b")) == "a\\x1b"
