"""The state of a process that outlives an operation: a table of how each part is looked at, and put back."""

from __future__ import annotations

import ctypes
import decimal
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings

# Those of `signal` make an enum of each number, and take twenty times as long; that of `locale` takes twice as long.
from _locale import setlocale as _locale
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
FILES = (0, 1, 2)
# The others, of message queues and real-time priorities, are too rare to be asked for each time.
LIMITS = [
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
    if hasattr(resource, f"RLIMIT_{name}")
]
SIGNALS = sorted(signal.valid_signals())
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
SYSTEM = (*STREAMS, "exit", "excepthook", "unraisablehook", "displayhook", "breakpointhook")
LISTS = ("path", "meta_path", "path_hooks", "argv")
LOCK_SECONDS = 0.5

_environ, _environb = os.environ, os.environb
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
_system, _lists = attrgetter(*SYSTEM), attrgetter(*LISTS)
_arithmetic = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
# The one that every attempt begins with, and how it was: what an operation puts in its place ends with the attempt.
_calculates: list[decimal.Context] = []
_streams: list[Any] = []
_in_root = [True]
_logs = attrgetter("level", "disabled", "propagate", "handlers", "filters")
_loggers = [logging.getLogger(name) for name in ("", "celery", "celery.task", "celery.redirected", "batchq")]


class Habit(NamedTuple):
    """One part: `look` is compared; `keep` is what `put_back` needs, taken once with the first look."""

    name: str
    look: Callable[[], Any]
    put_back: Callable[[Any], object]
    keep: Callable[[], Any]


def copied(value: Any) -> Any:
    """The value, with lists, dictionaries and tuples in it that nobody else changes."""
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value)) if type(value) in (list, tuple) else value
    return dict(value) if isinstance(value, dict) else value


def file(number: int) -> tuple[int, int, int] | None:
    """Which file stands behind a descriptor; None if it is closed."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_rdev


def never(_: Any) -> None:
    """Leave it as it is: nothing puts it back."""


# --- the process, as the kernel has it ----------------------------------------------------------------------


def _limits() -> list[tuple[int, int]]:
    return list(map(resource.getrlimit, LIMITS))


def _limit(before: list[tuple[int, int]]) -> None:
    for number, limits in zip(LIMITS, before, strict=True):
        if resource.getrlimit(number) != limits:
            resource.setrlimit(number, limits)


def _stop_timers(_: Any) -> None:
    for timer in TIMERS:
        signal.setitimer(timer, 0)


def _handlers() -> list[Any]:
    return list(map(getsignal, SIGNALS))


def _handle(before: list[Any]) -> None:
    for number, handler in zip(SIGNALS, before, strict=True):
        if handler is not None and getsignal(number) != handler:
            signal.signal(number, handler)


def _mask() -> Any:
    return pthread_sigmask(signal.SIG_BLOCK, ())


def _unmask(before: tuple[Any, list[Any]]) -> None:
    mask, handlers = before
    ends = [n for n, handler in zip(SIGNALS, handlers, strict=True) if handler == signal.SIG_DFL]
    # An alarm that waits behind the mask would end the process now: to ignore it forgets it.
    waiting = [number for number in signal.sigpending() if number in ends]
    for number in waiting:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in waiting:
        signal.signal(number, signal.SIG_DFL)


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _is_in_root() -> None:
    """Note whether the working folder is the root: only then its name would not show that the root has changed."""
    _in_root[:] = [os.getcwd() == "/"]  # noqa: PTH109


def _root() -> tuple[int, int] | None:
    if not _in_root[0]:
        return None
    found = os.stat("/")  # noqa: PTH116  # a Path takes three times as long
    return found.st_dev, found.st_ino


def _users() -> tuple[Any, Any]:
    return os.getresuid(), os.getresgid()


def _be(before: tuple[Any, Any]) -> None:
    os.setresuid(*before[0])
    os.setresgid(*before[1])


_number = ctypes.c_int()
_there = ctypes.byref(_number)


def _death_signal() -> int:
    _prctl(PR_GET_PDEATHSIG, _there)  # type: ignore[misc]
    return _number.value


def _files() -> list[Any]:
    return [file(0), file(1), file(2)]


def _copies() -> list[int | None]:
    return [None if file(number) is None else os.dup(number) for number in FILES]


def _reopen(copies: list[int | None]) -> None:
    for number, copy in zip(FILES, copies, strict=True):
        if copy is not None and file(number) != file(copy):
            os.dup2(copy, number)


# --- the environment ----------------------------------------------------------------------------------------


def environment() -> Any:
    """What stands in `os.environ`, in the dictionary that it is kept in."""
    return _environ._data  # type: ignore[attr-defined]


def _environ_back(before: dict[bytes, bytes]) -> None:
    for name in [*_environb]:
        if name not in before:
            del _environb[name]
    for name, value in before.items():
        if _environb.get(name) != value:
            _environb[name] = value
    time.tzset()


def _zone() -> Any:
    return time.tzname, time.timezone, time.altzone, time.daylight


# --- the interpreter ----------------------------------------------------------------------------------------


def _interpreter() -> Any:
    return _system(sys), id(sys.modules)


def _system_back(before: tuple[tuple[Any, ...], Any]) -> None:
    values, sys.modules = before
    for name, value in zip(SYSTEM, values, strict=True):
        setattr(sys, name, value)


def _lists_back(before: list[tuple[Any, Any]]) -> None:
    for name, (place, inside) in zip(LISTS, before, strict=True):
        place[:] = inside
        setattr(sys, name, place)


def _closed() -> list[bool]:
    return [_is_closed(stream) for stream in _streams or _all_streams()]


def _is_closed(stream: Any) -> bool:
    return bool(getattr(stream, "closed", False))


def _all_streams() -> list[Any]:
    """The distinct streams of `sys`; whether `sys` still has these is another habit's to see."""
    _streams[:] = {id(stream): stream for name in STREAMS if (stream := getattr(sys, name)) is not None}.values()
    return _streams


def _open(before: list[bool]) -> None:
    for stream, was in zip(_streams, before, strict=True):
        if stream.closed != was:
            stream.closed = was  # Celery's, which is only a flag; a file's cannot be set


def _calculation() -> Any:
    context, first = _calculates
    return _arithmetic(context), context.traps == first.traps


def _first_calculation() -> decimal.Context:
    _calculates[:] = [decimal.getcontext(), decimal.getcontext().copy()]
    return _calculates[1]


def _calculate(before: decimal.Context) -> None:
    context = _calculates[0]
    for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
        setattr(context, name, getattr(before, name))
    context.traps.update(before.traps)


def _filter_warnings(before: list[Any]) -> None:
    warnings.filters[:] = before  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _collect(before: tuple[bool, tuple[int, int, int], int]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_threshold(*before[1])
    gc.set_debug(before[2])


def _trace(before: tuple[Any, Any]) -> None:
    sys.settrace(before[0])
    sys.setprofile(before[1])


# --- all at once --------------------------------------------------------------------------------------------


def glance() -> Any:
    """Everything in the table below, but for `first` and `in_names`, as one value that is only compared.

    It is taken after each operation, in a process that has just woken up: there one flat function of builtins takes
    half as long as the table. Raises OSError where a part cannot be seen.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    if _prctl is not None:
        _prctl(PR_GET_PDEATHSIG, _there)
    return (
        [*map(getsignal, SIGNALS)], pthread_sigmask(signal.SIG_BLOCK, ()), signal.set_wakeup_fd(-1),
        os.getresuid(), os.getresgid(), os.getcwd(), _root(), umask,  # noqa: PTH109
        os.fstat(0)[1:3], os.fstat(1)[1:3], os.fstat(2)[1:3], os.getpgid(0),
        os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), _number.value,
        _locale(locale.LC_ALL), sys.path, sys.meta_path, sys.path_hooks, sys.argv, [*map(_is_closed, _streams)],
        sys.gettrace(), gc.isenabled(), gc.get_threshold(), gc.get_debug(),
        _arithmetic(_calculates[0]), _calculates[0].traps == _calculates[1].traps, socket.getdefaulttimeout(),
        warnings.filters, _logging(), _outlets(),
    )  # fmt: skip


def first() -> Any:
    """The parts that could keep an operation's report from being made: limits, timers, depth, a profiler."""
    return (
        [*map(resource.getrlimit, LIMITS)], [*map(signal.getitimer, TIMERS)], sys.getrecursionlimit(), sys.getprofile(),
    )  # fmt: skip


def in_names() -> Any:
    """The parts that live in dictionaries: where a dictionary's version can be asked for, that is enough."""
    return environment(), _zone(), _interpreter()


# --- logging ------------------------------------------------------------------------------------------------


def _logging() -> list[Any]:
    return [logging.root.manager.disable, logging.raiseExceptions, *map(_logs, _loggers)]


def _all_loggers() -> tuple[int, bool, dict[logging.Logger, Any]]:
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = {each: copied(_logs(each)) for each in (logging.root, *known)}
    return logging.root.manager.disable, logging.raiseExceptions, before


def _loggers_back(before: tuple[int, bool, dict[logging.Logger, Any]]) -> None:
    logging.disable(before[0])
    logging.raiseExceptions = before[1]
    for each, (level, disabled, propagate, handlers, filters) in before[2].items():
        each.disabled, each.propagate = disabled, propagate
        each.handlers, each.filters = [*handlers], [*filters]
        each.setLevel(level)


def _outlets() -> list[Any]:
    return [(each.level, each.formatter, _stream(each)) for each in logging.root.handlers]


def _stream(handler: logging.Handler) -> Any:
    # A log file is another one after each rotation.
    return handler.stream if type(handler) is logging.StreamHandler else None


def _outlets_back(before: list[tuple[logging.Handler, Any]]) -> None:
    for handler, (level, formatter, stream) in before:
        handler.level, handler.formatter = level, formatter
        if stream is not None:
            handler.stream = stream  # type: ignore[attr-defined]


def unlock_logging() -> bool:
    """Give logging new locks in the place of those that a thread left behind holds; whether there were any."""
    held = _is_held(logging._lock)  # type: ignore[attr-defined]
    if held:
        logging._lock = threading.RLock()  # type: ignore[attr-defined]
    for handler in {handler for logger in _loggers for handler in logger.handlers}:
        if handler.lock is not None and _is_held(handler.lock):
            handler.lock, held = threading.RLock(), True
    return bool(held)


def _is_held(lock: Any) -> bool:
    taken = lock.acquire(timeout=LOCK_SECONDS)
    if taken:
        lock.release()
    return not taken


# In this order: what is put back first makes the rest possible.
HABITS = (
    Habit("limits of the process", _limits, _limit, _limits),
    Habit("timers", lambda: list(map(signal.getitimer, TIMERS)), _stop_timers, lambda: None),
    Habit("signal handlers", _handlers, _handle, _handlers),
    Habit("blocked signals", _mask, _unmask, lambda: (_mask(), _handlers())),
    Habit("the wake-up file of signals", lambda: signal.set_wakeup_fd(-1), never, lambda: None),
    Habit("user and group", _users, _be, _users),
    Habit("the root folder", _root, never, _is_in_root),
    Habit("the working folder", os.getcwd, os.chdir, os.getcwd),
    Habit("umask", _umask, os.umask, _umask),
    Habit("standard files", _files, _reopen, _copies),
    Habit("process group", lambda: (os.getpgid(0), os.getsid(0)), lambda _: os.setpgid(0, 0), lambda: None),
    Habit("niceness", lambda: os.getpriority(os.PRIO_PROCESS, 0), lambda was: os.setpriority(os.PRIO_PROCESS, 0, was),
          lambda: os.getpriority(os.PRIO_PROCESS, 0)),
    Habit("processors", lambda: os.sched_getaffinity(0), lambda was: os.sched_setaffinity(0, was),
          lambda: os.sched_getaffinity(0)),
    Habit("death signal", _death_signal, lambda was: _prctl(PR_SET_PDEATHSIG, was), _death_signal),  # type: ignore[misc]
    Habit("environment", environment, _environ_back, lambda: dict(environment())),
    Habit("time zone", _zone, lambda _: time.tzset(), lambda: None),
    Habit("locale", lambda: _locale(locale.LC_ALL), lambda was: locale.setlocale(locale.LC_ALL, was),
          lambda: _locale(locale.LC_ALL)),
    Habit("sys", _interpreter, _system_back, lambda: (_system(sys), sys.modules)),
    Habit("lists of sys", lambda: _lists(sys), _lists_back, lambda: [(each, [*each]) for each in _lists(sys)]),
    Habit("closed streams", _closed, _open, _closed),
    Habit("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, sys.getrecursionlimit),
    Habit("tracing", lambda: (sys.gettrace(), sys.getprofile()), _trace, lambda: (sys.gettrace(), sys.getprofile())),
    Habit("garbage collection", lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug()), _collect,
          lambda: (gc.isenabled(), gc.get_threshold(), gc.get_debug())),
    Habit("decimal context", _calculation, _calculate, _first_calculation),
    Habit("socket time-out", socket.getdefaulttimeout, socket.setdefaulttimeout, socket.getdefaulttimeout),
    Habit("warning filters", lambda: warnings.filters, _filter_warnings, lambda: [*warnings.filters]),
    Habit("logging", _logging, _loggers_back, _all_loggers),
    Habit("log handlers", _outlets, _outlets_back, lambda: [*zip(logging.root.handlers, _outlets(), strict=True)]),
)  # fmt: skip
