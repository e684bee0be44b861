"""Operations that do harm: one says what the database refuses, one spoils the process that it runs in.

`ledger.well` finds out whether its process is as it was when the app was imported.
"""

from __future__ import annotations

import builtins
import json
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from support.ledger_app import LEDGER, _write

# The installation's database takes no text of an outcome that has it.
POISON = "arsenic"
PLACES = ("result", "log", "error")
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_CPU)
NOT_WELL = "this process is not well"
# What the process may cost after that, it costs in vain.
SPOILED_SECONDS = 5.0

logger = logging.getLogger(__name__)


# --- poison -------------------------------------------------------------------------------------------------


def poisoned(place: str, seconds: float = 0.1) -> str:
    """Return, log or raise what the database refuses."""
    _write("start", time.monotonic())
    time.sleep(seconds)
    if place == "log":
        logger.warning("bad for a database: %s", POISON)
    _write("end", time.monotonic(), ok=place != "error", refused=True)
    if place == "error":
        raise RuntimeError(f"told to fail: {POISON}")
    return POISON if place == "result" else "good"


# --- spoilings ----------------------------------------------------------------------------------------------


def _chdir() -> None:
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()


def _alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def _ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


def _elsewhere() -> None:
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("replaced by an operation")


SPOILINGS: dict[str, Callable[[], object]] = {
    "every file closed": lambda: os.closerange(3, 1024),
    "no file may be opened": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)),
    "no file may grow": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    "json replaced": lambda: setattr(json, "dumps", _raise),
    "open replaced": lambda: setattr(builtins, "open", _raise),
    "a folder that is gone": _chdir,
    "signals ignored": _ignore,
    "an alarm set": _alarm,
    "umask 777": lambda: os.umask(0o777),
    "no environment": os.environ.clear,
    "another time zone": _elsewhere,
    "no log": lambda: logging.disable(logging.CRITICAL),
    "no depth": lambda: sys.setrecursionlimit(70),
    "no patience": lambda: socket.setdefaulttimeout(0.001),
    "no output": lambda: [setattr(sys, name, None) for name in ("stdout", "stderr")],
}


def spoil(way: str) -> None:
    """Spoil the process in one of these ways; it has written down that it ended, as afterwards it might not."""
    at = time.monotonic()
    _write("start", at)
    fault = {"event": "fault", "kind": way, "at": at, "until": at + SPOILED_SECONDS, "hits": [os.getpid()]}
    with Path(os.environ[LEDGER]).open("a") as file:
        file.write(json.dumps(fault) + "\n")
    _write("end", time.monotonic())
    SPOILINGS[way]()


def state() -> dict[str, Any]:
    """What an operation finds in its process, and counts on."""
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "folder": Path.cwd(),
        "umask": umask,
        "environment": {name: os.environ.get(name) for name in ("PATH", "TZ", LEDGER)},
        "time zone": time.tzname,
        "limits": [resource.getrlimit(each) for each in LIMITS],
        "depth": sys.getrecursionlimit(),
        "log": logging.root.manager.disable,
        "patience": socket.getdefaulttimeout(),
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "signals": [signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGTERM, signal.SIGCHLD)],
        "json": json.dumps({"a": [1]}),
        "open": builtins.open is _OPEN,
        "output": [getattr(sys, name) is None for name in ("stdout", "stderr")],
    }


_OPEN = open
_BEFORE = state()


def well(seconds: float = 0.05) -> None:
    """Raise unless the process is as it was before any operation ran in it."""
    _write("start", time.monotonic())
    ok = False
    try:
        time.sleep(seconds)
        now = state()
        wrong = [f"{name} {now[name]!r}, not {before!r}" for name, before in _BEFORE.items() if now[name] != before]
        if wrong:
            raise RuntimeError(f"{NOT_WELL}: {'; '.join(wrong)}")
        ok = True
    finally:
        _write("end", time.monotonic(), ok=ok)


def register(app: Celery) -> Celery:
    """Make the operations tasks of this app."""
    for operation in (poisoned, spoil, well):
        app.task(operation, name=f"ledger.{operation.__name__}", shared=False)
    return app
