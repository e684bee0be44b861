"""An exception as text: its class, its message and its traceback, however badly it behaves when it is read."""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_exception, format_tb

from celery.exceptions import Retry

from batchq.core import retries

# Python takes seconds to format more causes or frames than these.
MOST_LINKS, MOST_FRAMES, FRAMES_SHOWN = 100, 5000, 50

# A metaclass may answer `__name__` with something else.
name_of = type.__dict__["__name__"].__get__


def clean(text: str) -> str:
    """The text without the characters that a database refuses: NUL and lone surrogates."""
    return str.encode(text, "utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def in_a_line(error: BaseException) -> str:
    """The exception's class and message; an exception without a readable message still gets its class."""
    name = name_of(type(error))
    try:
        text = str.__str__(str(error))
    except BaseException as worse:
        return f"{name} (its text cannot be had: {name_of(type(worse))})"
    return f"{name}: {text}" if text else str(name)


def classes(error: BaseException, hide: Callable[[str], str] = str) -> tuple[str, ...]:
    """The full names of the exception's class and its bases, nearest first, with what `hide` hides of each."""
    return tuple(clean(hide(name)) for name in retries.lineage(type(error)))


def told(error: BaseException) -> str:
    """The exception with its traceback and causes, as Python prints them; without the causes if there are too many."""
    try:
        if is_tellable(error):
            return "".join(format_exception(error))
        frames = format_tb(error.__traceback__, -FRAMES_SHOWN)
    except BaseException:
        frames = []
    return "".join(["Traceback, without what led to it:\n", *frames, in_a_line(error), "\n"])


def is_tellable(error: BaseException) -> bool:
    """Whether the exception is formatted within a moment, with its causes, its members and all their frames."""
    seen: dict[int, BaseException] = {}
    ahead, frames = [error], 0
    while ahead and len(seen) <= MOST_LINKS and frames <= MOST_FRAMES:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        ahead += [each for each in (one.__cause__, one.__context__) if each is not None]
        ahead += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        trace = one.__traceback__
        while trace is not None and frames <= MOST_FRAMES:
            trace, frames = trace.tb_next, frames + 1
    return len(seen) <= MOST_LINKS and frames <= MOST_FRAMES


def cause(error: BaseException) -> BaseException:
    """The exception behind a retry; the error itself if it is no retry, or a retry without a reason."""
    if not issubclass(type(error), Retry):  # by its type: an exception may lie about its class
        return error
    retry: Retry = error
    reason: BaseException | None = retry.exc
    return error if reason is None else reason
