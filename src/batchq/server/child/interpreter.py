"""The state of a process that Python keeps: environment, `sys`, streams, decimals, warnings and tracing."""

from __future__ import annotations

import decimal
import gc
import locale
import os
import socket
import sys
import time
import warnings

# `locale` wraps this one, and takes twice as long.
from _locale import setlocale
from collections.abc import Iterable
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from batchq.server.child.habit import Habit

if TYPE_CHECKING:
    from _typeshed import ProfileFunction, TraceFunction

STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
SYSTEM = (*STREAMS, "exit", "excepthook", "unraisablehook", "displayhook", "breakpointhook")
LISTS = ("path", "meta_path", "path_hooks", "argv")
ARITHMETIC = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")

arithmetic_of = attrgetter(*ARITHMETIC)


class Closing(Protocol):
    """A stream that can be closed."""

    closed: bool


# The decimal context that every attempt begins with, and a copy of it as it was.
contexts: list[decimal.Context] = []
streams: list[Closing] = []
_environ, _environb = os.environ, os.environb
_parts_of, _lists_of = attrgetter(*SYSTEM), attrgetter(*LISTS)


def environment() -> dict[bytes, bytes]:
    """The dictionary that `os.environ` keeps its variables in."""
    return _environ._data  # type: ignore[attr-defined, no-any-return]  # decoding it to strings would take longer


def _set_environment(before: dict[bytes, bytes]) -> None:
    for name in [*_environb]:
        if name not in before:
            del _environb[name]
    for name, value in before.items():
        if _environb.get(name) != value:
            _environb[name] = value
    time.tzset()


def time_zone() -> object:
    """The time zone as `time` has it."""
    return time.tzname, time.timezone, time.altzone, time.daylight


def system() -> object:
    """The streams and hooks of `sys`, and which dictionary holds the modules."""
    return _parts_of(sys), id(sys.modules)


def _set_system(before: tuple[tuple[object, ...], dict[str, ModuleType]]) -> None:
    values, sys.modules = before
    for name, value in zip(SYSTEM, values, strict=True):
        setattr(sys, name, value)


def _set_lists(before: list[tuple[list[object], list[object]]]) -> None:
    for name, (place, inside) in zip(LISTS, before, strict=True):
        place[:] = inside
        setattr(sys, name, place)


def _closed_streams() -> list[bool]:
    return [is_closed(stream) for stream in streams or _all_streams()]


def is_closed(stream: object) -> bool:
    """Whether the stream says that it is closed."""
    return bool(getattr(stream, "closed", False))


def _all_streams() -> list[Closing]:
    """The distinct streams of `sys`, noted once; the habit "sys" sees whether `sys` still has them."""
    streams[:] = {id(stream): stream for name in STREAMS if (stream := getattr(sys, name)) is not None}.values()
    return streams


def _reopen_streams(before: list[bool]) -> None:
    for stream, was in zip(streams, before, strict=True):
        if stream.closed != was:
            stream.closed = was  # a flag on Celery's stream; on a file's it raises


def _calculation() -> object:
    context, first = contexts
    return arithmetic_of(context), context.traps == first.traps


def _first_calculation() -> decimal.Context:
    contexts[:] = [decimal.getcontext(), decimal.getcontext().copy()]
    return contexts[1]


def _set_calculation(before: decimal.Context) -> None:
    context = contexts[0]
    for name in ARITHMETIC:
        setattr(context, name, getattr(before, name))
    context.traps.update(before.traps)


def _set_warning_filters(before: Iterable[object]) -> None:
    names = vars(warnings)
    names["filters"][:] = before
    names["_filters_mutated"]()


def _set_collection(before: tuple[bool, tuple[int, int, int], int]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_threshold(*before[1])
    gc.set_debug(before[2])


def _set_tracing(before: tuple[TraceFunction | None, ProfileFunction | None]) -> None:
    sys.settrace(before[0])
    sys.setprofile(before[1])


HABITS = (
    Habit("environment", environment, _set_environment, lambda: dict(environment())),
    Habit("time zone", time_zone, lambda _: time.tzset(), lambda: None),
    Habit("locale", lambda: setlocale(locale.LC_ALL), lambda was: locale.setlocale(locale.LC_ALL, was),
          lambda: setlocale(locale.LC_ALL)),
    Habit("sys", system, _set_system, lambda: (_parts_of(sys), sys.modules)),
    Habit("lists of sys", lambda: _lists_of(sys), _set_lists, lambda: [(each, [*each]) for each in _lists_of(sys)]),
    Habit("closed streams", _closed_streams, _reopen_streams, _closed_streams),
    Habit("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, sys.getrecursionlimit),
    Habit("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing,
          lambda: (sys.gettrace(), sys.getprofile())),
    Habit("garbage collection", lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug()), _set_collection,
          lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug())),
    Habit("decimal context", _calculation, _set_calculation, _first_calculation),
    Habit("socket time-out", socket.getdefaulttimeout, socket.setdefaulttimeout, socket.getdefaulttimeout),
    Habit("warning filters", lambda: warnings.filters, _set_warning_filters, lambda: [*warnings.filters]),
)  # fmt: skip
