"""The app of hostile operations: it raises, returns, dies of, leaves changed and tells what the tables say.

`well` looks around in its process and returns what it finds: after any other operation that is what it found at first.
"""

from __future__ import annotations

import ctypes
import decimal
import gc
import json
import locale
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from support import ledger_app
from support.hostile_acts import die, spoil
from support.hostile_values import Hooked, elsewhere, raise_it, return_it

logger = logging.getLogger(__name__)

# --- what it tells ------------------------------------------------------------------------------------------


def _told_by_a_base(password: str) -> Any:
    raise KeyboardInterrupt(password)


def _str_that_raises(password: str) -> Any:
    class Error(Exception):
        def __str__(self) -> str:
            raise ValueError(password)

    raise Error


def _noted(password: str) -> Any:
    error = ValueError("noted")
    error.add_note(password)
    raise error


def _grouped(password: str) -> Any:
    raise BaseExceptionGroup(password, [KeyError(password), KeyboardInterrupt(password)])


def _caused(password: str) -> Any:
    try:
        raise KeyError(password)
    except KeyError as error:
        raise ValueError("because of it") from error


def _class_of_that_name(password: str) -> Any:
    raise type(password, (Exception,), {})(password)


def _beside(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act, name="of an operation")
    thread.start()
    thread.join()


def _by_a_factory_of_its_own(password: str) -> Any:
    make = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **named: logging.LogRecord(*args, **named))
    try:
        logging.getLogger("vault").warning(password)
    finally:
        logging.setLogRecordFactory(make)


def _logged_with_its_exception(password: str) -> Any:
    try:
        raise KeyError(password)
    except KeyError as error:
        logging.getLogger("vault").warning("it", exc_info=error, stack_info=True, extra={"more": [password]})


class Unwilling:
    """What makes logging itself complain, with all that it was given."""

    def __init__(self, password: str) -> None:
        self.password = password

    def __str__(self) -> str:
        raise ValueError(self.password)

    __repr__ = __str__


def _bit_by_bit(password: str) -> Any:
    for character in password:
        sys.stdout.write(character)
        sys.stderr.write(character)
        sys.stdout.flush()
    print()


def _warned(password: str) -> Any:
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(password, UserWarning, stacklevel=1)
    finally:
        logging.captureWarnings(False)


def _unraisable(password: str) -> Any:
    class Unraisable:
        def __del__(self) -> None:
            raise ValueError(password)

    Unraisable()


ESCAPES: dict[str, Callable[[str], object]] = {
    "a base exception": _told_by_a_base,
    "a __str__ that raises": _str_that_raises,
    "a note": _noted,
    "a group": _grouped,
    "a cause": _caused,
    "a class of that name": _class_of_that_name,
    "a thread that logs": lambda password: _beside(lambda: logging.getLogger("vault").warning(password)),
    "a thread that prints": lambda password: _beside(lambda: print(password)),
    "a thread that fails": lambda password: _beside(lambda: _told_by_a_base(password)),
    "its own factory": _by_a_factory_of_its_own,
    "an exception that is logged": _logged_with_its_exception,
    "what cannot be logged": lambda password: logging.getLogger("vault").warning("%s", Unwilling(password)),
    "too few arguments": lambda password: logging.getLogger("vault").warning("%s %s", password),
    "print": lambda password: print("it is", password, file=sys.stderr),
    "print to the first stderr": lambda password: print("it is", password, file=sys.__stderr__),
    "bit by bit": _bit_by_bit,
    "a warning": _warned,
    "what nobody can raise": _unraisable,
    "the hook of exceptions": lambda password: sys.excepthook(ValueError, ValueError(password), None),
    "a traceback": lambda password: traceback.print_exception(ValueError(password)),
    "a result": lambda password: {password: password},
}


def _tell(way: str, password: str) -> Any:
    return ESCAPES[way](password)


# --- what is found afterwards -------------------------------------------------------------------------------


def _well() -> dict[str, Any]:
    """What an operation may rely on, as it is here; raises where something does not work at all."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100_000)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    logger.warning("looks around")
    subprocess.run(["true"], check=True)
    umask = os.umask(0)
    os.umask(umask)
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(number))
    return {
        "environment": sorted(os.environ),
        "path": os.environ["PATH"],
        "umask": umask,
        "folder": str(Path.cwd()),
        "root": sorted(map(str, Path("/").iterdir())),
        "zone": time.tzname,
        "limits": [
            resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU")
        ],
        "signals": [str(signal.getsignal(n)).partition(" at ")[0] for n in (1, 2, 10, 13, 14, 15)],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": [decimal.getcontext().prec, len(str(decimal.Decimal(1) / 3))],
        "socket": socket.getdefaulttimeout(),
        "recursion": sys.getrecursionlimit(),
        "streams": [type(stream).__name__ for stream in (sys.stdout, sys.stderr)],
        "closed": [stream.closed for stream in (sys.stdout, sys.stderr)],
        "files": [os.fstat(n).st_ino for n in (0, 1, 2)],
        "gc": gc.isenabled(),
        "traced": [sys.gettrace() is None, threading.gettrace() is None],
        "filters": len(warnings.filters),
        "logging": [logging.root.manager.disable, logging.getLogger().level, len(logging.getLogger().handlers)],
        "sys.path": sys.path,
        "nice": os.nice(0),
        "user": [os.getuid(), os.geteuid()],
        "death": number.value,
        "alone": os.getpgid(0) == os.getpid(),
        "clock": time.time() > 1e9 and time.monotonic() > 0,
        "builtins": [len([1]), isinstance(1, int), json.loads(json.dumps({"a": 1}))],
    }


def _sleep(seconds: float) -> None:
    """Take that long; `hostile.limited` has a soft limit of one second."""
    time.sleep(seconds)


def register(app: Celery) -> Celery:
    """Make all of them tasks of this app."""
    named = {
        "raise": raise_it,
        "return": return_it,
        "die": die,
        "spoil": spoil,
        "tell": _tell,
        "well": _well,
        "sleep": _sleep,
    }
    for name, operation in named.items():
        app.task(operation, name=f"hostile.{name}", shared=False)
    app.task(elsewhere, name="hostile.elsewhere", base=Hooked, shared=False)
    app.task(_sleep, name="hostile.limited", soft_time_limit=1, shared=False)
    return ledger_app.register(app)


app = register(Celery("hostile", set_as_current=False))
