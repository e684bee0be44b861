"""Logs of batchq's processes: text or JSON, times with their zone, and control characters escaped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from textwrap import indent
from types import MethodType
from typing import TextIO, TypeVar

from celery import signals
from celery._state import get_current_task
from pythonjsonlogger.json import JsonFormatter

from batchq.escape import LINES, printable
from batchq.server.celery_types.worker import Worker

# Modules whose formatters we may replace; any other formatter is the host's.
SET_UP_FOR_US = ("celery.", "tornado.")
JSON = ("structlog.", "pythonjsonlogger.")
FIELDS = {
    "asctime": "time",
    "levelname": "level",
    "name": "logger",
    "processName": "process",
    "threadName": "thread",
    "message": "message",
}
# Fields that a caller's `extra` must not overwrite.
FIRST = ("asctime", "levelname", "name")
PLAIN = (str, int, bool, type(None))
OWN_FACTS = frozenset(vars(logging.makeLogRecord({})))
V = TypeVar("V")
# The last second as text: the next record mostly falls into it.
_second = (-1, "", "")


def told_at(seconds: float) -> str:
    """A time in seconds since 1970 in ISO 8601, in this machine's time zone and with its offset."""
    global _second
    second = _second
    if second[0] != (whole := int(seconds)):
        text = datetime.fromtimestamp(whole, UTC).astimezone().isoformat()
        second = _second = whole, text[:19], text[19:]
    _, text, offset = second
    return f"{text}.{int((seconds - whole) * 1000):03d}{offset}"


def _copied(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of the record, so that other handlers see the original; at a third of the cost of `copy`."""
    other = logging.LogRecord.__new__(type(record))
    vars(other).update(vars(record))
    return other


def cannot_be_formatted(record: logging.LogRecord) -> str:
    """The text of a record whose message and arguments do not fit together."""
    return f"a message that cannot be formatted, of {record.pathname}:{record.lineno}"


# --- formatters ---------------------------------------------------------------------------------------------


class Escaped(logging.Formatter):
    """A formatter around another one: a record's message is one line, and its traceback indented text.

    Unescaped, an error of several lines could look like records that nobody logged.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The record as the inner formatter writes it; it may add colours of its own."""
        shown = _copied(record)
        shown.msg, shown.args = printable(record.getMessage(), "\t"), None
        trace = record.exc_text
        if not trace and record.exc_info and record.exc_info[0] is not None:
            trace = self.inner.formatException(record.exc_info)
        if trace:
            shown.exc_text = indent(printable(trace, LINES), "  ")
        if record.stack_info:
            shown.stack_info = indent(printable(record.stack_info, LINES), "  ")
        return self.inner.format(shown)


class Json(JsonFormatter):
    """Writes one object a line, with everything that the caller added, and with the Celery task that logged it."""

    def __init__(self) -> None:
        fields = " ".join(f"%({name})s" for name in FIELDS)
        super().__init__(fields, rename_fields=FIELDS, json_serializer=partial(json.dumps, allow_nan=False))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (of logging)
        return told_at(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object; if that fails, one with every value as text."""
        shown = _copied(record)
        if record.exc_text:  # the traceback is text already; the exception may hold secrets, or too many causes
            shown.exc_info = None
        try:
            if task := get_current_task():
                vars(shown).update(task_id=task.request.id, task_name=task.name)
            return self._line(shown)
        except Exception:
            return self._line(self._told_plainly(shown))

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        for name in FIRST:
            log_data[FIELDS[name]] = getattr(record, name)

    def _line(self, record: logging.LogRecord) -> str:
        # DEL is the one control character that JSON leaves unescaped.
        return super().format(record).replace("\x7f", "\\u007f")

    def _told_plainly(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with nothing in it but text."""
        plain = _copied(record)
        for name, value in list(vars(plain).items()):
            if name not in OWN_FACTS:
                del vars(plain)[name]
                vars(plain)[str(name)] = value if type(value) in PLAIN else _text(repr, value)
        plain.msg, plain.args = _text(logging.LogRecord.getMessage, record) or cannot_be_formatted(record), None
        if plain.exc_info:
            plain.exc_text, plain.exc_info = _text(self.formatException, plain.exc_info), None
        return plain


def _text(make: Callable[[V], object], value: V) -> str | None:
    try:
        return str(make(value))
    except Exception:
        return None


# --- where they are put -------------------------------------------------------------------------------------


def dress(form: str) -> None:
    """Let each handler of this process that writes to a terminal or a file write in this form, and nothing raw.

    The host's own formatters keep their form, and their output is escaped. JSON of the host is escaped already.
    """
    for handler in _handlers():
        formatter = handler.formatter or logging.Formatter()
        if isinstance(formatter, Escaped | Json):
            continue
        if _is_ours_to_change(formatter):
            handler.setFormatter(Json() if form == "json" else Escaped(_with_zone(formatter)))
        elif not _makes_json(formatter):
            handler.setFormatter(Escaped(formatter))


def _handlers() -> Iterator[logging.Handler]:
    named = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for logger in [logging.root, *named]:
        yield from (handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler))


def _is_ours_to_change(formatter: logging.Formatter) -> bool:
    return not is_set_up_by_host() and type(formatter).__module__.startswith(SET_UP_FOR_US)


def is_set_up_by_host() -> bool:
    """Whether Celery leaves it to the host to set up logging."""
    return bool(signals.setup_logging.has_listeners())


def _makes_json(formatter: logging.Formatter) -> bool:
    """Whether the formatter writes JSON: that is escaped already, and may take a message that is no text."""
    return any("json" in each.__name__.lower() or each.__module__.startswith(JSON) for each in type(formatter).__mro__)


def _with_zone(formatter: logging.Formatter) -> logging.Formatter:
    """The formatter, now with the zone in its times, unless the host has set their form."""
    if formatter.datefmt is None or type(formatter).__module__.startswith("tornado."):
        vars(formatter)["formatTime"] = MethodType(_time, formatter)
    return formatter


def _time(formatter: logging.Formatter, record: logging.LogRecord, datefmt: str | None = None) -> str:
    return told_at(record.created)


def begin(form: str, worker: Worker) -> None:
    """Let a Celery worker use this form before its logs are set up, and for its own prints."""
    if form != "json" or is_set_up_by_host():
        return
    worker.quiet = True  # no banner
    from celery.apps import worker as celerys

    celerys.safe_say = _say_safely
    logging.captureWarnings(True)
    if not logging.root.handlers:
        first = logging.StreamHandler()
        first.setFormatter(Json())
        logging.root.addHandler(first)


def _say_safely(text: str, file: TextIO | None = None) -> None:
    """Write a line of Celery's signal handlers, in which no logger may be used."""
    facts = {"time": told_at(time.time()), "level": "WARNING", "logger": "celery.apps.worker"}
    line = json.dumps({**facts, "message": text.strip()})
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write((file or sys.stderr).fileno(), f"{line}\n".encode())


def dress_worker(form: str) -> None:
    """Let a worker of Celery, and the processes of its pool, write in this form; its logs are set up by now."""
    dress(form)
    # A pool process sets up its logs anew if each process has its own file; they would lose this form.
    signals.worker_process_init.connect(lambda **_: dress(form), weak=False, dispatch_uid="batchq.logs")
