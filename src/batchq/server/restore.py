"""What an operation may leave changed in its process, and how that is put back before the next one.

On the prefork pool a process runs one operation at a time: it is looked over once, before the first, and after each.
What the report needs is put back before it, all else between the report and the next order, while the server does its
own part. What cannot be put back makes the process run nothing more.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter
from os import _exit as end_process
from os import getpid
from resource import RUSAGE_SELF, getrusage
from threading import active_count
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.process import current_process

from batchq.server import habits

logger = logging.getLogger(__name__)

LOST = 70  # the exit code of a process that cannot report any more
# Where dictionaries have no versions, these are compared name by name, at 10 to 50 ns each; CORE once more after the
# hooks, since the report needs it.
CORE = (builtins, json, json.decoder, json.encoder)
COMMON = (time, signal, threading, logging, pickle, io, struct, select, traceback, warnings, subprocess)
CLASSES = (
    logging.Logger, logging.Handler, logging.StreamHandler, logging.Formatter, logging.LogRecord, threading.Thread,
    json.JSONEncoder, json.JSONDecoder,
)  # fmt: skip
# Of `os`, which has four hundred names.
OS = (
    "_exit", "access", "chdir", "chmod", "close", "devnull", "dup", "dup2", "environ", "execv", "fork", "fsdecode",
    "fsencode", "fspath", "fstat", "getcwd", "getenv", "getpid", "getppid", "kill", "listdir", "lstat", "makedirs",
    "mkdir", "name", "open", "path", "pipe", "putenv", "read", "readlink", "remove", "rename", "replace", "rmdir",
    "scandir", "sep", "set_blocking", "stat", "symlink", "sysconf", "umask", "unlink", "unsetenv", "urandom", "waitpid",
    "walk", "write",
)  # fmt: skip
# Where a dictionary keeps its version: behind its reference count, its type and its length.
VERSION_AT = 3 * ctypes.sizeof(ctypes.c_void_p)
# These follow from the environment, and are put back with it.
OF_THE_ZONE = ("tzname", "timezone", "altzone", "daylight")

_Anything, _set = BaseException, setattr
_house: House | None = None
# Whether `attend` has seen to this process.
_attended = False


def house() -> House:
    """This process as it was before its first operation."""
    global _house
    if _house is None or _house.process != getpid():
        _house = House()
    return _house


def attend(**_: object) -> None:
    """Have this new process of the pool looked over after each report, before it takes the next order."""
    global _attended
    worker = getattr(current_process(), "_target", None)
    receive = getattr(worker, "wait_for_job", None)
    if receive is None:
        return
    _attended = True

    def wait_for_job() -> Any:
        if _house is not None and _house.after is not None:
            _house.put_rest_back()
        return receive()

    worker.wait_for_job = wait_for_job  # type: ignore[union-attr]


class House:
    """A process as it was before its first operation; `spent` when it cannot be made so again."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            # `kill 0` in an operation must not reach the server and its other children.
            os.setpgid(0, 0)
        self.spent = False
        # The work that was reported last, while the look that follows it is still due.
        self.after: Any = None
        self.attempts = 0
        self.process = getpid()
        self._threads = active_count()
        self._changed: list[str] = []
        self._pipes = [(number, habits.file(number)) for number in _pool_pipes()]
        self._names = [_names(each) for each in (*CORE, *COMMON, *CLASSES)]
        self._os = {name: getattr(os, name) for name in OS}
        self._modules = {name: module for name, module in sys.modules.items() if _is_common(name)}
        self._pick = itemgetter(*self._modules)
        self._picked = self._pick(sys.modules)
        self._pick_os = attrgetter(*OS)
        self._picked_os = self._pick_os(os)
        watched = [_names_of(owner) for owner, _, _ in self._names]
        watched += [vars(os), vars(sys), sys.modules, habits.environment()]
        self._versions = _versions(watched) if _have_versions() else None
        self._seen = self._versions_now()
        # Whether one of these dictionaries has changed since the last full look.
        self._stirred = False
        self._habits = [(habit, before) for habit in habits.HABITS if (before := _seen(habit)) is not None]
        # They stay None if the first glance fails: then every look goes by the table.
        self._glanced = None
        self._first = None
        with contextlib.suppress(Exception):
            self._glanced, self._first = habits.copied(self._glance()), habits.copied(habits.first())

    def is_worn_by(self, attempts: int | None, kilobytes: int | None) -> bool:
        """Count an attempt; whether this process has run so many of them, or has held more memory than so many KiB."""
        self.attempts += 1
        if attempts and self.attempts >= attempts:
            return True
        if not kilobytes or (held := getrusage(RUSAGE_SELF).ru_maxrss) <= kilobytes:
            return False
        logger.warning("this process has held %d KiB, and worker_max_memory_per_child is %d: it ends", held, kilobytes)
        return True

    def put_names_back(self) -> None:
        """Give modules and builtins back what the operation replaced in them; needs none of them itself."""
        self._look_at_names(self._names)
        if active_count() > self._threads and habits.unlock_logging():
            self._changed.append("locks of logging")
            self.spent = True
            self._names = [_names(each) if each is logging else (each, now, was) for each, now, was in self._names]

    def _versions_now(self) -> list[int] | None:
        return None if self._versions is None else [version.value for version in self._versions]

    def _look_at_names(self, most: list[Any]) -> None:
        """Put names back: those of all owners if a version has changed, those of `most` where there are no versions."""
        if self._seen is not None:
            if self._versions_now() == self._seen:
                return
            self._stirred, most = True, self._names
        self._put_names_back(most)
        self._put_modules_back()
        self._seen = self._versions_now()

    def _glance(self) -> Any:
        return habits.glance() if self._seen is not None else (habits.glance(), habits.in_names())

    def _put_modules_back(self) -> None:
        try:
            if self._pick(sys.modules) == self._picked and self._pick_os(os) == self._picked_os:
                return
        except _Anything:
            self._changed.append("a name that is gone")
        self._changed.append("modules")
        sys.modules.update(self._modules)
        vars(os).update(self._os)

    def _put_names_back(self, each: list[Any]) -> None:
        for owner, now, before in each:
            try:
                if now == before:
                    continue
            except _Anything:  # by something that was put there
                self._changed.append(owner.__name__)
            for name in [*before]:
                if name not in now or now[name] is not before[name]:
                    self._put_name_back(owner, now, name, before[name])
            for name in [*now]:
                before[name] = now[name]  # a new name is nobody's harm

    def _put_name_back(self, owner: Any, now: Any, name: str, value: Any) -> None:
        if owner is time and name in OF_THE_ZONE:
            return
        self._changed.append(f"{owner.__name__}.{name}")
        if owner in CLASSES:
            _set(owner, name, value)
        else:
            now[name] = value

    def put_back(self, work: Any) -> None:
        """Put back what the report needs; and all the rest, if that is not looked at after the report.

        `work` is what the operation worked for (`child.Current`): the log names it. A process that cannot report ends.
        """
        self._look_at_names(self._names[: len(CORE)])
        try:
            well = not self._stirred and habits.first() == self._first
        except Exception:
            well = False
        self.after = work
        if not (well and _attended):
            self._look_over(well)
        for number, before in self._pipes:
            if habits.file(number) != before:
                self._end()
        self._say_changes("The operation")

    def put_rest_back(self) -> None:
        """Put back all that was left changed, once its attempt has been reported."""
        who = f"{self.after.job} / {self.after.task} (run {self.after.run}, attempt {self.after.attempt})"
        try:
            self._look_over(well=True)
            self._say_changes(who)
        except Exception:
            logger.exception("the process cannot be put in order after %s, and runs nothing more", who)
            self.spent, self.after = True, None

    def _look_over(self, well: bool) -> None:
        """Look at all that is not known to be `well`, and mend it."""
        try:
            same = well and self._glance() == self._glanced
        except Exception:
            same = False
        if not same:
            self._mend()
            self._seen, self._stirred = self._versions_now(), False
        self.after = None

    def _say_changes(self, who: str) -> None:
        if self._changed:
            changed, self._changed = ", ".join(self._changed[:20]), []
            outcome = "its process runs nothing more" if self.spent else "that was put back"
            logger.warning("%s left changed: %s; %s.", who, changed, outcome)

    def _mend(self) -> None:
        for habit, (before, kept) in self._habits:
            try:
                if habit.look() == before:
                    continue
            except Exception:
                logger.debug("%s cannot be looked at", habit.name)
            self._changed.append(habit.name)
            try:
                habit.put_back(kept)
                mended = habit.look() == before
            except _Anything:
                if terminate_handler_fired():
                    raise
                mended = False
            self.spent = self.spent or not mended

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            logger.critical("The operation closed the pipes of its process, which cannot report it and ends.")
        end_process(LOST)


def _names(owner: Any) -> tuple[Any, Any, dict[str, Any]]:
    return owner, vars(owner), dict(vars(owner))


def _names_of(owner: Any) -> dict[str, Any]:
    """The dictionary itself; a class shows only a view of it."""
    names = vars(owner)
    found: dict[str, Any] = names if isinstance(names, dict) else gc.get_referents(names)[0]
    return found


def _versions(dictionaries: Iterable[dict[str, Any]]) -> list[ctypes.c_uint64]:
    """The versions of dictionaries that live as long as the process, each to be read whenever it is asked for."""
    return [ctypes.c_uint64.from_address(id(each) + VERSION_AT) for each in dictionaries]


def _have_versions() -> bool:
    """Whether this Python gives a dictionary a new version with each change (PEP 509: CPython up to 3.12)."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 13):
        return False
    names = {"one": 1}
    (version,) = _versions([names])
    seen = [version.value, version.value]
    for change in (lambda: names.update(one=2), lambda: names.update(two=2), lambda: names.pop("two")):
        change()
        seen.append(version.value)
    return seen[0] == seen[1] and len({*seen}) == len(seen) - 1


def _seen(habit: habits.Habit) -> tuple[Any, Any] | None:
    """What it is now, once to be compared and once to be put back; None where it cannot be seen."""
    try:
        kept = habit.keep()
        return habits.copied(habit.look()), kept
    except Exception:
        return None


def _is_common(name: str) -> bool:
    """Whether a module is a package, or one of Python's: all are too many to look at each time."""
    return "." not in name or name.partition(".")[0] in sys.stdlib_module_names


def _pool_pipes() -> Iterator[int]:
    """The file descriptors by which the pool hands this process its orders, and hears of their outcome."""
    worker = getattr(current_process(), "_target", None)
    for queue, end in (("inq", "_reader"), ("outq", "_writer")):
        connection = getattr(getattr(worker, queue, None), end, None)
        if connection is not None:
            yield connection.fileno()
