"""The state of `logging` in a process: levels, handlers, filters and locks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from operator import attrgetter
from typing import Protocol, TextIO

from batchq.server.child.habit import Habit

LOCK_SECONDS = 0.5
Filter = logging.Filter | Callable[[logging.LogRecord], bool]
# A logger's level, whether it is disabled, whether it propagates, its handlers and its filters.
Setup = tuple[int, bool, bool, list[logging.Handler], list[Filter]]
# A handler's level, formatter and stream.
Outlet = tuple[int, logging.Formatter | None, TextIO | None]


class Lock(Protocol):
    """A lock of `logging`."""

    def acquire(self, *, timeout: float) -> bool: ...
    def release(self) -> None: ...


_setup_of = attrgetter("level", "disabled", "propagate", "handlers", "filters")
_loggers = [logging.getLogger(name) for name in ("", "celery", "celery.task", "celery.redirected", "batchq")]


def levels() -> list[object]:
    """How logging is set up as a whole, and in the loggers of Celery and batchq."""
    return [logging.root.manager.disable, logging.raiseExceptions, *map(_setup_of, _loggers)]


def _all_loggers() -> tuple[int, bool, dict[logging.Logger, Setup]]:
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return logging.root.manager.disable, logging.raiseExceptions, {each: _kept(each) for each in (logging.root, *known)}


def _kept(logger: logging.Logger) -> Setup:
    level, disabled, propagate, handlers, filters = _setup_of(logger)
    return level, disabled, propagate, [*handlers], [*filters]


def _set_loggers(before: tuple[int, bool, dict[logging.Logger, Setup]]) -> None:
    logging.disable(before[0])
    logging.raiseExceptions = before[1]
    for each, (level, disabled, propagate, handlers, filters) in before[2].items():
        each.disabled, each.propagate = disabled, propagate
        each.handlers, each.filters = [*handlers], [*filters]
        each.setLevel(level)


def outlets() -> list[Outlet]:
    """How each handler of the root logger is set up."""
    return [(each.level, each.formatter, _stream_of(each)) for each in logging.root.handlers]


def _stream_of(handler: logging.Handler) -> TextIO | None:
    # No log file: each rotation opens another one.
    return handler.stream if type(handler) is logging.StreamHandler else None


def _set_outlets(before: list[tuple[logging.Handler, Outlet]]) -> None:
    for handler, (level, formatter, stream) in before:
        handler.level, handler.formatter = level, formatter
        if stream is not None and isinstance(handler, logging.StreamHandler):
            handler.stream = stream


def unlock() -> bool:
    """Replace each lock of logging that a thread left locked; returns whether there was one."""
    names = vars(logging)
    locked = _is_locked(names["_lock"])
    if locked:
        names["_lock"] = threading.RLock()
    for handler in {handler for logger in _loggers for handler in logger.handlers}:
        if handler.lock is not None and _is_locked(handler.lock):
            handler.lock, locked = threading.RLock(), True
    return locked


def _is_locked(lock: Lock) -> bool:
    taken = lock.acquire(timeout=LOCK_SECONDS)
    if taken:
        lock.release()
    return not taken


HABITS = (
    Habit("logging", levels, _set_loggers, _all_loggers),
    Habit("log handlers", outlets, _set_outlets, lambda: [*zip(logging.root.handlers, outlets(), strict=True)]),
)  # fmt: skip
