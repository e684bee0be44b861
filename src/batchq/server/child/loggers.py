"""The state of `logging` in a process: levels, handlers, filters and locks."""

from __future__ import annotations

import logging
import threading
from operator import attrgetter
from typing import Any

from batchq.server.child.habit import Habit, copied

LOCK_SECONDS = 0.5

_setup_of = attrgetter("level", "disabled", "propagate", "handlers", "filters")
_loggers = [logging.getLogger(name) for name in ("", "celery", "celery.task", "celery.redirected", "batchq")]


def levels() -> list[Any]:
    """How logging is set up as a whole, and in the loggers of Celery and batchq."""
    return [logging.root.manager.disable, logging.raiseExceptions, *map(_setup_of, _loggers)]


def _all_loggers() -> tuple[int, bool, dict[logging.Logger, Any]]:
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = {each: copied(_setup_of(each)) for each in (logging.root, *known)}
    return logging.root.manager.disable, logging.raiseExceptions, before


def _set_loggers(before: tuple[int, bool, dict[logging.Logger, Any]]) -> None:
    logging.disable(before[0])
    logging.raiseExceptions = before[1]
    for each, (level, disabled, propagate, handlers, filters) in before[2].items():
        each.disabled, each.propagate = disabled, propagate
        each.handlers, each.filters = [*handlers], [*filters]
        each.setLevel(level)


def outlets() -> list[Any]:
    """How each handler of the root logger is set up."""
    return [(each.level, each.formatter, _stream_of(each)) for each in logging.root.handlers]


def _stream_of(handler: logging.Handler) -> Any:
    # No log file: each rotation opens another one.
    return handler.stream if type(handler) is logging.StreamHandler else None


def _set_outlets(before: list[tuple[logging.Handler, Any]]) -> None:
    for handler, (level, formatter, stream) in before:
        handler.level, handler.formatter = level, formatter
        if stream is not None:
            handler.stream = stream  # type: ignore[attr-defined]


def unlock() -> bool:
    """Replace each lock of logging that a thread left locked; returns whether there was one."""
    locked = _is_locked(logging._lock)  # type: ignore[attr-defined]
    if locked:
        logging._lock = threading.RLock()  # type: ignore[attr-defined]
    for handler in {handler for logger in _loggers for handler in logger.handlers}:
        if handler.lock is not None and _is_locked(handler.lock):
            handler.lock, locked = threading.RLock(), True
    return bool(locked)


def _is_locked(lock: Any) -> bool:
    taken = lock.acquire(timeout=LOCK_SECONDS)
    if taken:
        lock.release()
    return not taken


HABITS = (
    Habit("logging", levels, _set_loggers, _all_loggers),
    Habit("log handlers", outlets, _set_outlets, lambda: [*zip(logging.root.handlers, outlets(), strict=True)]),
)  # fmt: skip
