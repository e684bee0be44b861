"""Records of `logging`: each record that a logger lets through is kept once, without secrets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from billiard.exceptions import SoftTimeLimitExceeded

from batchq.core.secrets import Veil
from batchq.server.child import exceptions
from batchq.server.child.log import kept, veils
from batchq.server.child.log.kept import Kept
from batchq.server.logs import OWN_FACTS, cannot_be_formatted, told_at


class _Mouth(threading.local):
    """The calling thread's record or write on its way, so that one saying is kept once."""

    record: logging.LogRecord | None = None
    # Whether a write goes unkept: its text is kept already, or is the server's own.
    aside = False
    # Whether a record goes unkept that this write turns into.
    silent = False
    # Whether the last write to a stream became a record, and whether the write before it did.
    told = line_told = False


mouth = _Mouth()
# Python's own `handle` and `callHandlers`: ours call them.
_pythons: list[Callable[[logging.Logger, logging.LogRecord], None]] = []


def follow_loggers() -> None:
    """Hear each record that a logger lets through, from now on."""
    if not _pythons:
        _pythons[:] = [logging.Logger.handle, logging.Logger.callHandlers]
        for name, ours in (("handle", _handle), ("callHandlers", _call_handlers)):
            setattr(logging.Logger, name, ours)


def say_aside(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Log one of the server's own lines; no attempt's log keeps it."""
    before, mouth.record, mouth.aside = (mouth.record, mouth.aside), record, True
    try:
        logger.handle(record)
    finally:
        mouth.record, mouth.aside = before


def _call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Call the record's handlers as Python does, then keep the record once, even if a handler logs it again.

    It is kept last: a handler's filter may first take out of it what nobody is to see.
    """
    log = kept.here()
    if log is None or mouth.silent or mouth.record is record:
        _pythons[1](logger, record)
        return
    before, mouth.record, mouth.aside = (mouth.record, mouth.aside), record, True
    try:
        _pythons[1](logger, record)
    finally:
        mouth.record, mouth.aside = before
        mouth.told = True
        _keep(log, record)


def _keep(log: Kept, record: logging.LogRecord) -> None:
    try:
        # In parts: joined, a long message would be copied three times more.
        log.write_line(f"{told_at(record.created)} {record.levelname} ", record.getMessage())
        for more in (_exception_of(record), record.stack_info):
            if more:
                log.write_line(more.rstrip("\n"))
    except SoftTimeLimitExceeded:
        raise
    except Exception:
        log.write_line(cannot_be_formatted(record))


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Handle a record as Python does, without the secrets of the attempts that run here.

    A record factory would be too early: a caller's `extra` is added after it.
    """
    veil = veils.veil
    if veil is not None:
        _hide_in(record, veil)
    _pythons[0](logger, record)


def _hide_in(record: logging.LogRecord, veil: Veil) -> None:
    said = _said(record)
    exception = _exception_of(record)
    facts = vars(record)
    for name, value in facts.items():
        if name not in OWN_FACTS or isinstance(value, str):
            facts[name] = _without(value, veil)
    record.msg, record.args = veil.hide(said), ()
    # No exception object: a handler would print its secrets.
    record.exc_text, record.exc_info = veil.hide(exception) if exception else None, None


def _without(value: object, veil: Veil) -> object:
    try:
        if isinstance(value, dict | list | tuple | str | int | float):
            return veil.hide_in(value)
        text = repr(value)
        hidden = veil.hide(text)
    except Exception:
        return "a value that cannot be shown"
    return value if hidden == text else hidden


def _said(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # unformatted, the handler would print its arguments
        return cannot_be_formatted(record)


def _exception_of(record: logging.LogRecord) -> str | None:
    if record.exc_text or not record.exc_info:
        return record.exc_text
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return exceptions.told(error) if error is not None else None
