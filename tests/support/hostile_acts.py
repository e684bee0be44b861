"""Deaths, and what an operation leaves changed in its process: two tables of acts, of a death with how it must end."""

from __future__ import annotations

import atexit
import builtins
import ctypes
import decimal
import gc
import json
import locale
import logging
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.hostile_values import nested, raises

# --- what it dies of ----------------------------------------------------------------------------------------

# How the attempt ends: the start of its error; empty for a success.
DEATHS: dict[str, tuple[Callable[[], object], str]] = {}
ENDED = "lost: its process ended ("


def dies(error: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Make it a case of the table."""

    def add(act: Callable[[], object]) -> Callable[[], object]:
        DEATHS[act.__name__] = act, error
        return act

    return add


def _kill_me(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.5)


for code in (0, 1, 255):
    DEATHS[f"_exit {code}"] = (lambda code=code: os._exit(code)), f"{ENDED}exitcode {code})"
for name in ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGALRM", "SIGUSR2"):
    DEATHS[name] = (lambda name=name: _kill_me(getattr(signal, name))), ENDED
for name in ("SIGTERM", "SIGQUIT", "SIGHUP"):
    DEATHS[name] = (lambda name=name: _kill_me(getattr(signal, name))), ENDED
DEATHS["SIGINT"] = (lambda: _kill_me(signal.SIGINT)), ""
DEATHS["SIGPIPE"] = (lambda: _kill_me(signal.SIGPIPE)), ""
DEATHS["SIGUSR1"] = (lambda: _kill_me(signal.SIGUSR1)), "SoftTimeLimitExceeded"
DEATHS["abort"] = os.abort, f"{ENDED}signal 6"
DEATHS["its whole process group"] = (lambda: os.kill(0, signal.SIGKILL)), f"{ENDED}signal 9"
DEATHS["another program in its place"] = (lambda: os.execv("/bin/true", ["true"])), f"{ENDED}exitcode 0)"
DEATHS["at exit"] = (lambda: (atexit.register(os._exit, 7), sys.exit("bye"))), "SystemExit: bye"
DEATHS["its pipes closed"] = (lambda: os.closerange(3, 1000)), ENDED


@dies(ENDED)
def processor_time_over() -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(spent.ru_utime + spent.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    while True:
        pass


@dies("MemoryError")
def memory_over() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    bytearray(4 << 30)


@dies(ENDED)
def the_stack_of_c_over() -> None:
    sys.setrecursionlimit(10**9)
    json.dumps(nested(300_000))


@dies(ENDED)
def pipes_put_in_place_of_others() -> None:
    os.closerange(3, 1000)
    for _ in range(40):
        os.pipe()


@dies("")
def a_copy_that_goes_on() -> str:
    if not os.fork():
        return "what a copy returns"
    os.wait()
    return "what it returns"


@dies("ValueError: it")
def a_copy_that_raises() -> None:
    if not os.fork():
        raise KeyboardInterrupt("a copy")
    os.wait()
    raise ValueError("it")


@dies("")
def a_copy_of_a_copy() -> None:
    pid = os.fork()
    if not pid:
        os.setsid()
        if not os.fork():
            os._exit(3)
        os._exit(0)
    os.waitpid(pid, 0)


def die(case: str) -> Any:
    return DEATHS[case][0]()


# --- what it leaves changed ---------------------------------------------------------------------------------

SPOILINGS: dict[str, Callable[[], object]] = {}


def spoils(act: Callable[[], object]) -> Callable[[], object]:
    """Make it a case of the table."""
    SPOILINGS[act.__name__] = act
    return act


def _replace(owner: Any, name: str, value: Any = None) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _limit(name: str, most: int) -> Callable[[], None]:
    number = getattr(resource, f"RLIMIT_{name}")
    return lambda: resource.setrlimit(number, (most, resource.getrlimit(number)[1]))


SPOILINGS |= {
    "json.dumps": _replace(json, "dumps"),
    "json.loads": _replace(json, "loads"),
    "json.JSONEncoder": _replace(json, "JSONEncoder"),
    "the json encoder's own": _replace(json.encoder, "c_make_encoder"),
    "sys.modules of json": lambda: sys.modules.update(json=None),  # type: ignore[arg-type]
    "sys.modules of pickle": lambda: sys.modules.pop("pickle"),
    "len": _replace(builtins, "len"),
    "isinstance": _replace(builtins, "isinstance"),
    "print": lambda: delattr(builtins, "print"),
    "BaseException": _replace(builtins, "BaseException"),
    "time.time": _replace(time, "time", lambda: 0),
    "time.monotonic": _replace(time, "monotonic"),
    "os.getpid": _replace(os, "getpid", lambda: 1),
    "os.environ": _replace(os, "environ", {}),
    "logging.getLogger": _replace(logging, "getLogger"),
    "Logger.warning": _replace(logging.Logger, "warning"),
    "Logger.handle": _replace(logging.Logger, "handle"),
    "the record factory": lambda: logging.setLogRecordFactory(raises(ValueError("no record"))),
    "Thread.start": _replace(threading.Thread, "start"),
    "open files": _limit("NOFILE", 3),
    "memory": _limit("AS", 1 << 20),
    "file size": _limit("FSIZE", 0),
    "processor time": _limit("CPU", 3600),
    "the hard limit of files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "an environment of others": lambda: os.environ.update(SPOILED="yes", PATH="/nowhere"),
    "no environment": os.environ.clear,
    "umask": lambda: os.umask(0o777),
    "working folder": lambda: os.chdir("/"),
    "SIGTERM ignored": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "SIGUSR1 ignored": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "SIGINT replaced": lambda: signal.signal(signal.SIGINT, lambda *_: os._exit(9)),
    "an alarm": lambda: signal.alarm(1),
    "a timer": lambda: signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2),
    "signals blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C"),
    "decimal context": lambda: setattr(decimal.getcontext(), "prec", 3),
    "another decimal context": lambda: decimal.setcontext(decimal.Context(prec=2, traps=[])),
    "socket time-out": lambda: socket.setdefaulttimeout(0.001),
    "recursion limit": lambda: sys.setrecursionlimit(150),
    "stdin closed": lambda: sys.stdin.close(),
    "stdout closed": lambda: sys.stdout.close(),
    "stderr replaced": _replace(sys, "stderr"),
    "sys.stdout gone": lambda: delattr(sys, "stdout"),
    "garbage collection": gc.disable,
    "tracing": lambda: sys.settrace(raises(ValueError("traced"))),
    "threads traced": lambda: threading.settrace(raises(ValueError("traced"))),
    "warnings are errors": lambda: warnings.simplefilter("error"),
    "logging disabled": lambda: logging.disable(logging.CRITICAL),
    "the root logger's level": lambda: logging.getLogger().setLevel(100),
    "the root logger's handlers": lambda: logging.getLogger().handlers.clear(),
    "all loggers disabled": lambda: setattr(logging.getLogger("celery"), "disabled", True),
    "sys.path": sys.path.clear,
    "meta_path": sys.meta_path.clear,
    "excepthook": _replace(sys, "excepthook", 17),
    "random": lambda: random.seed(1),
    "niceness": lambda: os.nice(5),
    "process group": lambda: os.setpgid(0, 0),
    "death signal": lambda: ctypes.CDLL(None).prctl(1, 0),
    "user": lambda: os.setuid(65534) if os.getuid() == 0 else None,
    "effective user": lambda: os.seteuid(65534) if os.getuid() == 0 else None,
}


@spoils
def working_folder_deleted() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


@spoils
def time_zone() -> None:
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


@spoils
def standard_files_closed() -> None:
    for number in (0, 1, 2):
        os.close(number)


@spoils
def standard_files_elsewhere() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


@spoils
def a_thread_that_holds_the_lock_of_logging() -> None:
    held = threading.Event()

    def hold() -> None:
        logging._acquireLock()  # type: ignore[attr-defined]
        held.set()
        time.sleep(60)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()


@spoils
def threads_and_processes_left() -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    subprocess.Popen(["sleep", "3"])


@spoils
def another_root_folder() -> None:
    if os.getuid() == 0:
        os.chroot(tempfile.mkdtemp())


@spoils
def a_session_of_its_own() -> None:
    if os.getpgid(0) != os.getpid():
        os.setsid()


def spoil(case: str) -> str:
    SPOILINGS[case]()
    return "spoiled"
