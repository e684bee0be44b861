"""The operations that hurt who runs them: four tables, of what they raise, return, die of and leave changed behind.

Each table has a name for the case, and for an exception and a death how its attempt must end. `well` looks around in
its process and returns what it finds: after any other operation it must find what it found at first.
"""

from __future__ import annotations

import asyncio
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from e2e import ledger_app

logger = logging.getLogger(__name__)

# --- what is raised -----------------------------------------------------------------------------------------

EXCEPTIONS: dict[str, tuple[Callable[[], BaseException], str]] = {}


def raised(start: str) -> Callable[[Callable[[], BaseException]], Callable[[], BaseException]]:
    """Make it a case of the table; its attempt's error starts with `start`."""

    def add(make: Callable[[], BaseException]) -> Callable[[], BaseException]:
        EXCEPTIONS[make.__name__] = make, start
        return make

    return add


for each in (
    ValueError, KeyError, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, SystemExit, MemoryError,
    StopIteration, StopAsyncIteration, RecursionError, AssertionError, OSError, SoftTimeLimitExceeded,
):  # fmt: skip
    EXCEPTIONS[each.__name__] = (lambda each=each: each("no such order")), each.__name__
EXCEPTIONS["exit with a text"] = (lambda: SystemExit("bye")), "SystemExit: bye"
EXCEPTIONS["exit with 0"] = (lambda: SystemExit(0)), "SystemExit: 0"
EXCEPTIONS["exit with an object"] = (lambda: SystemExit(object())), "SystemExit: <object"
EXCEPTIONS["reject"] = (lambda: Reject("not mine")), "Reject: "
EXCEPTIONS["surrogates"] = (lambda: UnicodeError("\ud800\udfff and \x00")), "UnicodeError: ?? and \ufffd"
EXCEPTIONS["a very long text"] = (lambda: ValueError("x" * 30_000_000)), "ValueError: xxx"
EXCEPTIONS["a base with a very long text"] = (lambda: KeyboardInterrupt("x" * 30_000_000)), "KeyboardInterrupt: xxx"
EXCEPTIONS["a terminal's escapes"] = (lambda: ValueError("\x1b[2J\r\n\x07")), "ValueError: "
EXCEPTIONS["no text"] = (lambda: ValueError()), "ValueError"


@raised("Own: mine")
def own_base() -> BaseException:
    class Own(BaseException):
        pass

    return Own("mine")


def _speaks(base: type[BaseException], **methods: Any) -> BaseException:
    error: BaseException = type("Speaks", (base,), methods)("what it was made with")
    return error


def _raises(error: BaseException) -> Callable[..., NoReturn]:
    def method(*_: Any) -> NoReturn:
        raise error

    return method


@raised("Speaks (its text cannot be had: KeyError)")
def str_raises() -> BaseException:
    return _speaks(Exception, __str__=_raises(KeyError("in __str__")))


@raised("Speaks (its text cannot be had: KeyboardInterrupt)")
def str_of_a_base_raises_a_base() -> BaseException:
    return _speaks(BaseException, __str__=_raises(KeyboardInterrupt()), __repr__=_raises(KeyboardInterrupt()))


@raised("Speaks (its text cannot be had: SystemExit)")
def str_exits() -> BaseException:
    return _speaks(Exception, __str__=_raises(SystemExit(1)))


@raised("Speaks (its text cannot be had: TypeError)")
def str_returns_no_text() -> BaseException:
    return _speaks(BaseException, __str__=lambda _: 17)


@raised("Speaks (its text cannot be had: RecursionError)")
def str_never_ends() -> BaseException:
    def forever(self: Any) -> str:
        return str(self)

    return _speaks(Exception, __str__=forever)


@raised("Speaks: ")
def str_returns_a_text_that_misbehaves() -> BaseException:
    class Text(str):
        __slots__ = ()
        encode = replace = __len__ = __format__ = __getitem__ = _raises(ValueError("no"))  # type: ignore[assignment]

    return _speaks(Exception, __str__=lambda _: Text("text"))


@raised("Speaks: ")
def repr_raises() -> BaseException:
    return _speaks(BaseException, __repr__=_raises(ValueError("no")))


@raised("Speaks: ")
def class_is_a_lie() -> BaseException:
    return _speaks(Exception, __class__=property(_raises(ValueError("no"))))


@raised("Nameless: ")
def name_raises() -> BaseException:
    lie = property(_raises(ValueError("no")))
    meta = type("Meta", (type,), {"__name__": lie, "__module__": lie})
    return meta("Nameless", (Exception,), {})("text")


@raised("Speaks: ")
def attributes_raise() -> BaseException:
    return _speaks(BaseException, __getattribute__=_raises(GeneratorExit()))


@raised("Speaks: ")
def pickling_raises() -> BaseException:
    return _speaks(Exception, __reduce_ex__=_raises(SystemExit()), __reduce__=_raises(SystemExit()))


@raised("ValueError: 2")
def cyclic_causes() -> BaseException:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__, one.__context__ = two, one, two
    return two


@raised("ValueError: 99999")
def a_hundred_thousand_causes() -> BaseException:
    error = ValueError("0")
    for number in range(1, 100_000):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    return error


@raised("RecursionError: maximum recursion depth exceeded")
def a_deep_stack() -> BaseException:
    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        return error
    raise AssertionError


@raised("ValueError: ")
def a_chain_of_deep_stacks() -> BaseException:
    def deeper(left: int) -> None:
        try:
            deeper(left - 1) if left else 1 / 0
        except Exception as error:
            raise ValueError(left) from error

    try:
        deeper(150)
    except ValueError as error:
        return error
    raise AssertionError


@raised("ExceptionGroup: several (2 sub-exceptions)")
def group() -> BaseException:
    return ExceptionGroup("several", [ValueError("1"), ExceptionGroup("more", [KeyError("2")])])


@raised("BaseExceptionGroup: several (1 sub-exception)")
def group_of_bases() -> BaseException:
    return BaseExceptionGroup("several", [KeyboardInterrupt()])


@raised("ExceptionGroup: deep")
def groups_five_thousand_deep() -> BaseException:
    error: Exception = ValueError("in the middle")
    for _ in range(5000):
        error = ExceptionGroup("deep", [error])
    return error


@raised("ValueError: noted")
def notes_that_are_none() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = [17, object(), "\x00", "\ud800"]
    return error


@raised("SyntaxError: ")
def a_syntax_error_of_nonsense() -> BaseException:
    error = SyntaxError("odd")
    error.filename, error.lineno, error.text, error.offset = object(), "x", 17, []  # type: ignore[assignment]
    return error


def _raise(case: str) -> NoReturn:
    """Raise it, after a line in the log."""
    logger.warning("raises %s", case)
    raise EXCEPTIONS[case][0]()


# What is raised elsewhere than in the operation itself; the state of its attempt, and the start of its error.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "before_start": ("error", "KeyboardInterrupt: before_start"),
    "on_success": ("error", "KeyboardInterrupt: on_success"),
    "on_failure": ("error", "ValueError: as usual"),
    "after_return": ("success", ""),
    "task_prerun": ("error", "KeyboardInterrupt: task_prerun"),
    "task_success": ("error", "KeyboardInterrupt: task_success"),
    "task_failure": ("error", "ValueError: as usual"),
    "task_postrun": ("success", ""),
    "log": ("error", "KeyboardInterrupt: log"),
    "ignored": ("success", ""),
}
FAILING = ("on_failure", "task_failure")


class Hooked(Task):
    """A task whose hooks raise, where its argument says so."""

    def _maybe(self, place: str, kwargs: dict[str, Any]) -> None:
        if kwargs.get("place") == place:
            raise KeyboardInterrupt(place)
        if kwargs.get("place") == f"death in {place}":
            os._exit(5)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self._maybe("before_start", kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._maybe("on_success", kwargs)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._maybe("on_failure", kwargs)

    def after_return(self, status: Any, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._maybe("after_return", kwargs)


def _receive(name: str) -> Callable[..., None]:
    def receive(sender: Any, **_: Any) -> None:
        if sender.name == "hostile.elsewhere" and sender.request.kwargs.get("place") == name:
            raise KeyboardInterrupt(name)

    return receive


for name in ("task_prerun", "task_success", "task_failure", "task_postrun"):
    getattr(signals, name).connect(_receive(name), weak=False)


def _elsewhere(place: str) -> None:
    if place == "log":
        logger.warning("%s", _speaks(Exception, __str__=_raises(KeyboardInterrupt("log"))))
    if place == "ignored":
        raise Ignore
    if place in FAILING:
        raise ValueError("as usual")


# --- what is returned ---------------------------------------------------------------------------------------


class Refuses(dict):  # type: ignore[type-arg]
    """A mapping whose entries cannot be had."""

    def items(self) -> NoReturn:  # type: ignore[override]
        raise KeyboardInterrupt("items")


class Negative(list):  # type: ignore[type-arg]
    """A list whose length is none."""

    def __len__(self) -> int:
        return -1

    def __iter__(self) -> NoReturn:
        raise SystemExit("iter")


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _generator() -> Iterator[int]:
    yield 1


async def _coroutine() -> None:
    """Never awaited."""


def _closed_coroutine() -> Any:
    coroutine = _coroutine()
    coroutine.close()
    return coroutine


class LyingText(str):
    """A text that encodes to nothing good."""

    __slots__ = ()
    encode = __len__ = __iter__ = _raises(KeyboardInterrupt("text"))  # type: ignore[assignment]


# The value, and whether it is kept.
RESULTS: dict[str, tuple[Callable[[], Any], bool]] = {
    "a mapping whose items raise": (lambda: Refuses(a=1), False),
    "a list of negative length": (lambda: Negative([1]), False),
    "a number of ten thousand digits": (lambda: 10**10_000, False),
    "not a number": (lambda: float("nan"), False),
    "infinity": (lambda: {"a": [float("-inf")]}, False),
    "a hundred thousand lists in each other": (lambda: _nested(100_000), False),
    "a list in itself": (_cycle, False),
    "an object": (lambda: object(), False),
    "an object whose repr raises": (lambda: type("R", (), {"__repr__": _raises(KeyboardInterrupt())})(), False),
    "a generator": (_generator, False),
    "a coroutine": (_closed_coroutine, False),
    "a set": (lambda: {1}, False),
    "bytes": (lambda: b"\xff", False),
    "a mapping of objects": (lambda: {object(): 1}, False),
    "an exception": (lambda: ValueError("returned"), False),
    "a class": (lambda: type, False),
    "thirty million characters": (lambda: "x" * 30_000_000, False),
    "lone surrogates": (lambda: "\ud800", True),
    "NUL": (lambda: {"\x00": "\x00"}, True),
    "a text of a kind of its own": (lambda: LyingText("text"), True),
}


class Late(dict):  # type: ignore[type-arg]
    """A mapping in whose midst the soft time limit comes."""

    def items(self) -> NoReturn:  # type: ignore[override]
        raise SoftTimeLimitExceeded


def _return(case: str) -> Any:
    return Late(a=1) if case == "a soft limit" else RESULTS[case][0]()


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
    json.dumps(_nested(300_000))


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


def _die(case: str) -> Any:
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
    "the record factory": lambda: logging.setLogRecordFactory(_raises(ValueError("no record"))),
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
    "tracing": lambda: sys.settrace(_raises(ValueError("traced"))),
    "threads traced": lambda: threading.settrace(_raises(ValueError("traced"))),
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


def _spoil(case: str) -> str:
    SPOILINGS[case]()
    return "spoiled"


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
    named = {"raise": _raise, "return": _return, "die": _die, "spoil": _spoil, "well": _well, "sleep": _sleep}
    for name, operation in named.items():
        app.task(operation, name=f"hostile.{name}", shared=False)
    app.task(_elsewhere, name="hostile.elsewhere", base=Hooked, shared=False)
    app.task(_sleep, name="hostile.limited", soft_time_limit=1, shared=False)
    return ledger_app.register(app)


app = register(Celery("hostile", set_as_current=False))
