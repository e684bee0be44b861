"""The state of a process that the kernel keeps: limits, signals, users, folders and standard files."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

# `signal` wraps these two and makes an enum of each number, which takes twenty times as long.
from _signal import getsignal, pthread_sigmask
from collections.abc import Callable
from types import FrameType

from batchq.server.child.habit import Habit, never

# A signal handler, as Python keeps it.
Handler = Callable[[int, FrameType | None], object] | int | None
# The real, the effective and the saved id.
Users = tuple[int, int, int]
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
FILES = (0, 1, 2)
# Without the limits of message queues and real-time priorities: too rare for a system call each time.
RLIMITS = [
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
    if hasattr(resource, f"RLIMIT_{name}")
]
SIGNALS = sorted(signal.valid_signals())
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

prctl: Callable[..., int] | None = getattr(ctypes.CDLL(None), "prctl", None)
# The kernel writes the number of the death signal here.
death_signal_number = ctypes.c_int()
death_signal_at = ctypes.byref(death_signal_number)
_in_root = [True]


def file(number: int) -> tuple[int, int, int] | None:
    """Which file stands behind a descriptor; None if it is closed."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_rdev


def _rlimits() -> list[tuple[int, int]]:
    return list(map(resource.getrlimit, RLIMITS))


def _set_rlimits(before: list[tuple[int, int]]) -> None:
    for number, limits in zip(RLIMITS, before, strict=True):
        if resource.getrlimit(number) != limits:
            resource.setrlimit(number, limits)


def _stop_timers(_: object) -> None:
    for timer in TIMERS:
        signal.setitimer(timer, 0)


def _handlers() -> list[Handler]:
    return list(map(getsignal, SIGNALS))


def _set_handlers(before: list[Handler]) -> None:
    for number, handler in zip(SIGNALS, before, strict=True):
        if handler is not None and getsignal(number) != handler:
            signal.signal(number, handler)


def _blocked() -> set[int]:
    blocked: set[int] = pthread_sigmask(signal.SIG_BLOCK, ())
    return blocked


def _set_blocked(before: tuple[set[int], list[Handler]]) -> None:
    mask, handlers = before
    ends = [n for n, handler in zip(SIGNALS, handlers, strict=True) if handler == signal.SIG_DFL]
    # A waiting alarm would end the process once it is unblocked. Ignored for a moment, it is forgotten.
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


def _note_root() -> None:
    """Note whether the working folder is the root; only then could `chroot` go unseen in the folder's name."""
    _in_root[:] = [os.getcwd() == "/"]  # noqa: PTH109


def root_folder() -> tuple[int, int] | None:
    """Which folder is the root; None where the name of the working folder would show a change."""
    if not _in_root[0]:
        return None
    found = os.stat("/")  # noqa: PTH116  # a Path takes three times as long
    return found.st_dev, found.st_ino


def _users() -> tuple[Users, Users]:
    return os.getresuid(), os.getresgid()


def _set_users(before: tuple[Users, Users]) -> None:
    os.setresuid(*before[0])
    os.setresgid(*before[1])


def _death_signal() -> int:
    assert prctl is not None
    prctl(PR_GET_PDEATHSIG, death_signal_at)
    return death_signal_number.value


def _set_death_signal(was: int) -> None:
    assert prctl is not None
    prctl(PR_SET_PDEATHSIG, was)


def _files() -> list[tuple[int, int, int] | None]:
    return [file(0), file(1), file(2)]


def _copies() -> list[int | None]:
    return [None if file(number) is None else os.dup(number) for number in FILES]


def _reopen(copies: list[int | None]) -> None:
    for number, copy in zip(FILES, copies, strict=True):
        if copy is not None and file(number) != file(copy):
            os.dup2(copy, number)


# The limits first: a lowered one could keep the rest from being put back.
HABITS = (
    Habit("limits of the process", _rlimits, _set_rlimits, _rlimits),
    Habit("timers", lambda: list(map(signal.getitimer, TIMERS)), _stop_timers, lambda: None),
    Habit("signal handlers", _handlers, _set_handlers, _handlers),
    Habit("blocked signals", _blocked, _set_blocked, lambda: (_blocked(), _handlers())),
    Habit("the wake-up file of signals", lambda: signal.set_wakeup_fd(-1), never, lambda: None),
    Habit("user and group", _users, _set_users, _users),
    Habit("the root folder", root_folder, never, _note_root),
    Habit("the working folder", os.getcwd, os.chdir, os.getcwd),
    Habit("umask", _umask, os.umask, _umask),
    Habit("standard files", _files, _reopen, _copies),
    Habit("process group", lambda: (os.getpgid(0), os.getsid(0)), lambda _: os.setpgid(0, 0), lambda: None),
    Habit("niceness", lambda: os.getpriority(os.PRIO_PROCESS, 0), lambda was: os.setpriority(os.PRIO_PROCESS, 0, was),
          lambda: os.getpriority(os.PRIO_PROCESS, 0)),
    Habit("processors", lambda: os.sched_getaffinity(0), lambda was: os.sched_setaffinity(0, was),
          lambda: os.sched_getaffinity(0)),
    Habit("death signal", _death_signal, _set_death_signal, _death_signal),
)  # fmt: skip
