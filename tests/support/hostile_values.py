"""Hostile exceptions and results: two tables, each case with how its attempt must end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, NoReturn

from celery import Task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

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


def speaks(base: type[BaseException], **methods: Any) -> BaseException:
    error: BaseException = type("Speaks", (base,), methods)("what it was made with")
    return error


def raises(error: BaseException) -> Callable[..., NoReturn]:
    def method(*_: Any) -> NoReturn:
        raise error

    return method


@raised("Speaks (its text cannot be had: KeyError)")
def str_raises() -> BaseException:
    return speaks(Exception, __str__=raises(KeyError("in __str__")))


@raised("Speaks (its text cannot be had: KeyboardInterrupt)")
def str_of_a_base_raises_a_base() -> BaseException:
    return speaks(BaseException, __str__=raises(KeyboardInterrupt()), __repr__=raises(KeyboardInterrupt()))


@raised("Speaks (its text cannot be had: SystemExit)")
def str_exits() -> BaseException:
    return speaks(Exception, __str__=raises(SystemExit(1)))


@raised("Speaks (its text cannot be had: TypeError)")
def str_returns_no_text() -> BaseException:
    return speaks(BaseException, __str__=lambda _: 17)


@raised("Speaks (its text cannot be had: RecursionError)")
def str_never_ends() -> BaseException:
    def forever(self: Any) -> str:
        return str(self)

    return speaks(Exception, __str__=forever)


@raised("Speaks: ")
def str_returns_a_text_that_misbehaves() -> BaseException:
    class Text(str):
        __slots__ = ()
        encode = replace = __len__ = __format__ = __getitem__ = raises(ValueError("no"))  # type: ignore[assignment]

    return speaks(Exception, __str__=lambda _: Text("text"))


@raised("Speaks: ")
def repr_raises() -> BaseException:
    return speaks(BaseException, __repr__=raises(ValueError("no")))


@raised("Speaks: ")
def class_is_a_lie() -> BaseException:
    return speaks(Exception, __class__=property(raises(ValueError("no"))))


@raised("Nameless: ")
def name_raises() -> BaseException:
    lie = property(raises(ValueError("no")))
    meta = type("Meta", (type,), {"__name__": lie, "__module__": lie})
    return meta("Nameless", (Exception,), {})("text")


@raised("Speaks: ")
def attributes_raise() -> BaseException:
    return speaks(BaseException, __getattribute__=raises(GeneratorExit()))


@raised("Speaks: ")
def pickling_raises() -> BaseException:
    return speaks(Exception, __reduce_ex__=raises(SystemExit()), __reduce__=raises(SystemExit()))


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


def raise_it(case: str) -> NoReturn:
    """Raise it, after a line in the log."""
    logger.warning("raises %s", case)
    raise EXCEPTIONS[case][0]()


# What is raised elsewhere than in the operation itself; the state of its attempt, and the start of its error.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "before_start": ("error", "KeyboardInterrupt: before_start"),
    "on_success": ("success", ""),
    "on_failure": ("error", "ValueError: as usual"),
    "after_return": ("success", ""),
    "task_prerun": ("error", "KeyboardInterrupt: task_prerun"),
    "task_success": ("success", ""),
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


def elsewhere(place: str) -> None:
    if place == "log":
        logger.warning("%s", speaks(Exception, __str__=raises(KeyboardInterrupt("log"))))
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


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class LyingText(str):
    """A text that encodes to nothing good."""

    __slots__ = ()
    encode = __len__ = __iter__ = raises(KeyboardInterrupt("text"))  # type: ignore[assignment]


# The value, and whether it is kept.
RESULTS: dict[str, tuple[Callable[[], Any], bool]] = {
    "a mapping whose items raise": (lambda: Refuses(a=1), False),
    "a list of negative length": (lambda: Negative([1]), False),
    "a number of ten thousand digits": (lambda: 10**10_000, False),
    "not a number": (lambda: float("nan"), False),
    "infinity": (lambda: {"a": [float("-inf")]}, False),
    "a hundred thousand lists in each other": (lambda: nested(100_000), False),
    "a list in itself": (_cycle, False),
    "an object": (lambda: object(), False),
    "an object whose repr raises": (lambda: type("R", (), {"__repr__": raises(KeyboardInterrupt())})(), False),
    "a set": (lambda: {1}, False),
    "bytes": (lambda: b"\xff", True),
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


def return_it(case: str) -> Any:
    return Late(a=1) if case == "a soft limit" else RESULTS[case][0]()
