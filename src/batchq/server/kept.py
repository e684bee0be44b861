"""What an operation says: the end of its log is kept, and its secrets are hidden, whoever in the process says it.

An operation says something by logging, printing or failing, from its own thread or from one that it started.
Out of reach is what it writes to a file descriptor itself, and what the programs say that it starts.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from traceback import format_exception, format_tb
from typing import Any
from weakref import WeakKeyDictionary

from billiard.exceptions import SoftTimeLimitExceeded

from batchq.core.secrets import Veil

# A long text is taken in by so many characters at once: else each step would copy the whole.
PIECE = 1 << 14
# More than that of an exception's causes and frames takes seconds to tell.
MOST_LINKS, MOST_FRAMES, FRAMES_SHOWN = 100, 5000, 50
STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")
NUL, NO_NUL = b"\0", "\ufffd".encode()

# A metaclass may have its own idea of it.
name_of = type.__dict__["__name__"].__get__


class Kept:
    """The end of a text that is written bit by bit, without the secrets; takes about twice `limit` bytes meanwhile."""

    def __init__(self, limit: int, veil: Veil | None) -> None:
        self._limit = limit
        self._veil = veil
        self._rest = ""
        self._end = bytearray()
        self._chars = 0
        # A signal's handler may log while its thread is in here.
        self._lock = threading.RLock()

    def write(self, *texts: str) -> None:
        """Add these texts, of any length, by any thread."""
        with self._lock:
            for text in texts:
                for start in range(0, len(text), PIECE):
                    self._add(text[start : start + PIECE])

    def _add(self, piece: str) -> None:
        if self._veil is None:
            self._append(piece)
            return
        whole = self._rest + piece
        end = self._veil.settled(whole)
        self._rest = whole[end:]
        self._append(self._veil.hide(whole[:end]))

    def _append(self, text: str) -> None:
        self._chars += len(text)
        self._end += text.encode("utf-8", "replace").replace(NUL, NO_NUL)
        if len(self._end) > 2 * self._limit + PIECE:
            del self._end[: len(self._end) - self._limit]

    def text(self) -> str | None:
        """What is kept, under a line that says how much is left out; None if nothing was written."""
        with self._lock:
            if self._veil is not None:
                rest, self._rest = self._rest, ""
                self._append(self._veil.hide(rest))
            if not self._chars:
                return None
            end = self._end[max(len(self._end) - self._limit, 0) :].decode("utf-8", "ignore")
        left_out = self._chars - len(end)
        return f"[… {left_out} characters left out …]\n{end}" if left_out else end


_kept: ContextVar[Kept | None] = ContextVar("batchq_kept", default=None)
# A thread that an operation starts speaks for it, but Python hands it no context.
_of_thread: WeakKeyDictionary[threading.Thread, Kept] = WeakKeyDictionary()
_starts: list[Callable[[threading.Thread], None]] = []
_lock = threading.Lock()
# Of this process, whoever speaks in it.
_alone: Kept | None = None
_veils: list[Veil] = []
# Of attempts that are over, with their threads that were left running.
_left: list[tuple[Veil, list[threading.Thread]]] = []
_veil: Veil | None = None


@contextmanager
def log(limit: int, veil: Veil | None, alone: bool) -> Iterator[Kept]:
    """Keep the end of what this context says meanwhile; of all that the process says, if it is there for it `alone`."""
    global _alone
    kept = Kept(limit, veil)
    reset = _kept.set(kept)
    if alone:
        _alone = kept
    try:
        yield kept
    finally:
        if alone:
            _alone = None
        if _of_thread:
            for thread in [thread for thread, theirs in list(_of_thread.items()) if theirs is kept]:
                _of_thread.pop(thread, None)
        _kept.reset(reset)


def _start(thread: threading.Thread) -> None:
    """Start a thread as ever, and have what it says kept with what its starter does."""
    kept = _here()
    if kept is not None:
        _of_thread[thread] = kept
    _starts[0](thread)


def _here() -> Kept | None:
    kept = _kept.get() or _alone
    return kept if kept is not None or not _of_thread else _of_thread.get(threading.current_thread())


def write(text: str) -> None:
    """Add the text to the log that is kept here, if one is."""
    kept = _here()
    if kept is not None:
        kept.write(text)


@contextmanager
def hidden(veil: Veil | None) -> Iterator[None]:
    """Keep these secrets out of what anybody in this process logs or prints meanwhile.

    Out of the log also afterwards, as long as a thread runs that was started meanwhile.
    """
    if veil is None:
        yield
        return
    _change(_veils.append, veil)
    try:
        yield
    finally:
        kept = _here()
        threads = [thread for thread, theirs in list(_of_thread.items()) if theirs is kept and thread.is_alive()]
        if threads:
            _left.append((veil, threads))
        _change(_veils.remove, veil)


def hide(text: str) -> str:
    """The text without the secrets of any attempt that runs in this process."""
    veil = _veil
    return text if veil is None else veil.hide(text)


def hide_in(value: Any) -> Any:
    """A JSON value without them."""
    veil = _veil
    return value if veil is None else veil.hide_in(value)


def _change(act: Any, veil: Veil) -> None:
    global _veil
    with _lock:
        act(veil)
        _left[:] = [each for each in _left if any(thread.is_alive() for thread in each[1])]
        hidden = [*_veils, *(veil for veil, _ in _left)]
        _veil = Veil.over(hidden) if hidden else None
        for name in STREAMS:
            stream = getattr(sys, name, None)  # an operation may have deleted it
            if isinstance(stream, Stream):
                stream.say_rest()
                if not _veils:
                    setattr(sys, name, stream.inner)
            elif stream is not None and _veils:
                setattr(sys, name, Stream(stream))


# --- what is logged -----------------------------------------------------------------------------------------


class Keeper(logging.Handler):
    """Keeps what an operation logs, or prints (Celery sends prints to the log), beside the worker's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        kept = _here()
        if kept is None:
            return
        try:
            # Bit by bit: put together, a long message would be copied three times more.
            kept.write(f"{WHEN.formatTime(record)} {record.levelname} ", record.getMessage(), "\n")
            for more in (_exception_of(record), record.stack_info):
                if more:
                    kept.write(more.rstrip("\n"), "\n")
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            kept.write(cannot_be_formatted(record), "\n")


WHEN = logging.Formatter()
TOPS = (logging.getLogger(), logging.getLogger("celery.task"))
# Python's own way to handle a record, once ours is in its place.
_veiled: list[Callable[[logging.Logger, logging.LogRecord], None]] = []
OWN_FACTS = frozenset(vars(logging.makeLogRecord({})))


def listen() -> None:
    """Hear every record, at the top and where a worker's loggers hand nothing on to it; and see each thread start."""
    for logger in TOPS:
        if _is_top(logger) and not any(isinstance(handler, Keeper) for handler in logger.handlers):
            logger.addHandler(Keeper())
    if not _veiled:
        _veiled.append(logging.Logger.handle)
        logging.Logger.handle = _handle  # type: ignore[method-assign,assignment]
    if not _starts:
        _starts.append(threading.Thread.start)
        threading.Thread.start = _start  # type: ignore[method-assign, assignment]


def _is_top(logger: logging.Logger) -> bool:
    return logger.parent is None or not logger.propagate


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Handle a record as ever, but without the secrets of the attempts that run here.

    The record's factory would be too early: what a caller adds by `extra` comes in only after it.
    """
    veil = _veil
    if veil is not None:
        _hide_in(record, veil)
    _veiled[0](logger, record)


def _hide_in(record: logging.LogRecord, veil: Veil) -> None:
    said = _said(record)
    exception = _exception_of(record)
    facts = vars(record)
    for name, value in facts.items():
        if name not in OWN_FACTS or isinstance(value, str):
            facts[name] = _without(value, veil)
    record.msg, record.args = veil.hide(said), ()
    # The exception itself would be told by whoever looks at it.
    record.exc_text, record.exc_info = veil.hide(exception) if exception else None, None


def _without(value: Any, veil: Veil) -> Any:
    try:
        if isinstance(value, dict | list | tuple | str | int | float):
            return veil.hide_in(value)
        text = repr(value)
        hidden = veil.hide(text)
    except Exception:
        return "a value that cannot be shown"
    return value if hidden == text else hidden


def _said(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # the handler would print the arguments instead
        return cannot_be_formatted(record)


def cannot_be_formatted(record: logging.LogRecord) -> str:
    """What stands in a log for a record whose message and arguments make no text."""
    return f"a message that cannot be formatted, of {record.pathname}:{record.lineno}"


def _exception_of(record: logging.LogRecord) -> str | None:
    if record.exc_text or not record.exc_info:
        return record.exc_text
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return told(error) if error is not None else None


# --- what is printed ----------------------------------------------------------------------------------------


class Stream:
    """A stream that holds back what may be the beginning of a secret, and hides the secrets in the rest."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._rest: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Write what is known to be no part of a secret."""
        veil = _veil
        if veil is None or not isinstance(text, str):
            return int(self.inner.write(text) or 0)
        me = threading.get_ident()
        whole = self._rest.pop(me, "") + text
        end = veil.settled(whole)
        if end < len(whole):
            self._rest[me] = whole[end:]
        if end:
            self.inner.write(veil.hide(whole[:end]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def say_rest(self) -> None:
        """Write what this thread, or one that has ended, began and did not go on with."""
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        for thread in self._rest.keys() - alive:
            rest = hide(self._rest.pop(thread))
            try:
                self.inner.write(rest)
            except Exception:  # noqa: S112  # the operation closed it
                continue

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


# --- what failed --------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """The text without what a database refuses: NUL and lone surrogates."""
    return str.encode(text, "utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def in_a_line(error: BaseException) -> str:
    """The exception's class and text, whatever it does when it is asked for that."""
    name = name_of(type(error))
    try:
        text = str.__str__(str(error))
    except BaseException as worse:
        return f"{name} (its text cannot be had: {name_of(type(worse))})"
    return f"{name}: {text}" if text else str(name)


def told(error: BaseException) -> str:
    """The exception with its traceback and all that led to it, as Python prints it; less where that is too much."""
    try:
        if is_tellable(error):
            return "".join(format_exception(error))
        frames = format_tb(error.__traceback__, -FRAMES_SHOWN)
    except BaseException:
        frames = []
    return "".join(["Traceback, without what led to it:\n", *frames, in_a_line(error), "\n"])


def is_tellable(error: BaseException) -> bool:
    """Whether it, with its causes, its members and all their frames, is told within a moment."""
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
