"""The names in modules and builtins that an operation may replace, and how they get their values back.

Where Python gives dictionaries versions, one look at the versions tells whether any name has changed. Elsewhere the
names are compared one by one, at 10 to 50 ns each.
"""

from __future__ import annotations

import builtins
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
from collections.abc import Iterable
from operator import attrgetter, itemgetter
from types import ModuleType

# The report needs these, so they are looked at once more after the hooks.
CORE = (builtins, json, json.decoder, json.encoder)
COMMON = (time, signal, threading, logging, pickle, io, struct, select, traceback, warnings, subprocess)
CLASSES = (
    logging.Logger, logging.Handler, logging.StreamHandler, logging.Formatter, logging.LogRecord, threading.Thread,
    json.JSONEncoder, json.JSONDecoder,
)  # fmt: skip
# Only these names of `os`: it has four hundred.
OS = (
    "_exit", "access", "chdir", "chmod", "close", "devnull", "dup", "dup2", "environ", "execv", "fork", "fsdecode",
    "fsencode", "fspath", "fstat", "getcwd", "getenv", "getpid", "getppid", "kill", "listdir", "lstat", "makedirs",
    "mkdir", "name", "open", "path", "pipe", "putenv", "read", "readlink", "remove", "rename", "replace", "rmdir",
    "scandir", "sep", "set_blocking", "stat", "symlink", "sysconf", "umask", "unlink", "unsetenv", "urandom", "waitpid",
    "walk", "write",
)  # fmt: skip
# A dictionary's version stands behind its reference count, its type and its length.
VERSION_AT = 3 * ctypes.sizeof(ctypes.c_void_p)
# The environment decides these, and they are put back with it.
OF_THE_ZONE = ("tzname", "timezone", "altzone", "daylight")

Owner = ModuleType | type
# An owner of names, its dictionary of names (of a class, a view of it), and a copy of it as it was.
Noted = tuple[Owner, dict[str, object], dict[str, object]]

_Anything, _set = BaseException, setattr


class Names:
    """The names of common modules and classes as they were; `changed` collects those that were put back."""

    def __init__(self, changed: list[str], others: Iterable[object]) -> None:
        """Note the names; `others` are further dictionaries whose changes count as a stir."""
        self._changed = changed
        self._owners = [_noted(each) for each in (*CORE, *COMMON, *CLASSES)]
        self._os = {name: getattr(os, name) for name in OS}
        self._modules = {name: module for name, module in sys.modules.items() if _is_common(name)}
        self._pick = itemgetter(*self._modules)
        self._picked = self._pick(sys.modules)
        self._pick_os = attrgetter(*OS)
        self._picked_os = self._pick_os(os)
        watched: list[object] = [_dictionary_of(owner) for owner, _, _ in self._owners]
        watched += [vars(os), vars(sys), sys.modules, *others]
        self._versions = _versions(watched) if _have_versions() else None
        self._seen = self._versions_now()
        self.have_versions = self._seen is not None
        # Whether a watched dictionary has changed since the process was last looked over.
        self.stirred = False

    def put_back(self) -> None:
        """Give all names back what was replaced."""
        self._look(self._owners)

    def put_core_back(self) -> None:
        """Give back at least the names that the report needs."""
        self._look(self._owners[: len(CORE)])

    def settle(self) -> None:
        """Take the names as they are now, once the process has been put in order."""
        self._seen, self.stirred = self._versions_now(), False

    def note_logging(self) -> None:
        """Take the names of `logging` as they are now."""
        self._owners = [_noted(each) if each is logging else (each, now, was) for each, now, was in self._owners]

    def _versions_now(self) -> list[int] | None:
        return None if self._versions is None else [version.value for version in self._versions]

    def _look(self, owners: list[Noted]) -> None:
        """Put the names of all owners back if a version has changed; without versions, the names of these `owners`."""
        if self._seen is not None:
            if self._versions_now() == self._seen:
                return
            self.stirred, owners = True, self._owners
        self._put_owners_back(owners)
        self._put_modules_back()
        self._seen = self._versions_now()

    def _put_modules_back(self) -> None:
        try:
            if self._pick(sys.modules) == self._picked and self._pick_os(os) == self._picked_os:
                return
        except _Anything:
            self._changed.append("a name that is gone")
        self._changed.append("modules")
        sys.modules.update(self._modules)
        vars(os).update(self._os)

    def _put_owners_back(self, each: list[Noted]) -> None:
        for owner, now, before in each:
            try:
                if now == before:
                    continue
            except _Anything:  # a value that was put there raises
                self._changed.append(owner.__name__)
            for name in [*before]:
                if name not in now or now[name] is not before[name]:
                    self._put_name_back(owner, now, name, before[name])
            for name in [*now]:
                before[name] = now[name]  # a new name harms nobody

    def _put_name_back(self, owner: Owner, now: dict[str, object], name: str, value: object) -> None:
        if owner is time and name in OF_THE_ZONE:
            return
        self._changed.append(f"{owner.__name__}.{name}")
        if owner in CLASSES:
            _set(owner, name, value)
        else:
            now[name] = value


def _noted(owner: Owner) -> Noted:
    return owner, vars(owner), dict(vars(owner))


def _dictionary_of(owner: Owner) -> dict[str, object]:
    """The owner's own dictionary; `vars` of a class is only a view of it."""
    names = vars(owner)
    found: dict[str, object] = names if isinstance(names, dict) else gc.get_referents(names)[0]
    return found


def _versions(dictionaries: Iterable[object]) -> list[ctypes.c_uint64]:
    """The versions of dictionaries that live as long as the process, each to be read again at any time."""
    return [ctypes.c_uint64.from_address(id(each) + VERSION_AT) for each in dictionaries]


def _have_versions() -> bool:
    """Whether this Python gives a dictionary a new version at each change (PEP 509: CPython up to 3.12)."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 13):
        return False
    names = {"one": 1}
    (version,) = _versions([names])
    seen = [version.value, version.value]
    for change in (lambda: names.update(one=2), lambda: names.update(two=2), lambda: names.pop("two")):
        change()
        seen.append(version.value)
    return seen[0] == seen[1] and len({*seen}) == len(seen) - 1


def _is_common(name: str) -> bool:
    """Whether a module is a package, or one of Python's; a look at every module would take too long."""
    return "." not in name or name.partition(".")[0] in sys.stdlib_module_names
