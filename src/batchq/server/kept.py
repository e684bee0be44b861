"""What an operation says: the end of its log is kept, and its secrets are hidden, whoever in the process says it.

An operation says something by logging, printing or failing, from its own thread or from one that it started.
However the host sets up its logs, each record that a logger lets through is kept once, and so is each print.
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
from celery.utils.log import LoggingProxy

from batchq.core.secrets import Veil
from batchq.logs import cannot_be_formatted, told_at

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
        self._in_a_line = False
        # A signal's handler may log while its thread is in here.
        self._lock = threading.RLock()

    def write(self, *texts: str) -> None:
        """Add these texts, of any length, by any thread."""
        with self._lock:
            for text in texts:
                for start in range(0, len(text), PIECE):
                    self._add(text[start : start + PIECE])
                if text:
                    self._in_a_line = not text.endswith("\n")

    def write_line(self, *texts: str) -> None:
        """Add these texts as one line of their own."""
        with self._lock:
            self.write(*("\n",) * self._in_a_line, *texts, "\n")

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
    """Add the text, as lines of its own, to the log that is kept here, if any."""
    kept = _here()
    if kept is not None:
        kept.write_line(text.removesuffix("\n"))


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


def hides() -> bool:
    """Whether there are secrets to hide."""
    return _veil is not None


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


# --- what is logged -----------------------------------------------------------------------------------------


class _Mouth(threading.local):
    """What this thread is about to say."""

    record: logging.LogRecord | None = None
    # Whether what is written now is not to be kept: it is kept already, or is the server's own.
    aside = False
    # The same for a record that this write turns into.
    silent = False
    # Whether the last write to a stream became a record, and the one before it.
    told = line_told = False


_mouth = _Mouth()
# Python's own `handle` and `callHandlers`, which ours call.
_pythons: list[Callable[[logging.Logger, logging.LogRecord], None]] = []
OWN_FACTS = frozenset(vars(logging.makeLogRecord({})))


def listen() -> None:
    """Hear every record that a logger lets through, and all that is printed; and see each thread start."""
    if not _pythons:
        _pythons[:] = [logging.Logger.handle, logging.Logger.callHandlers]
        logging.Logger.handle = _handle  # type: ignore[method-assign,assignment]
        logging.Logger.callHandlers = _call_handlers  # type: ignore[method-assign,assignment]
    if not _starts:
        _starts.append(threading.Thread.start)
        threading.Thread.start = _start  # type: ignore[method-assign, assignment]
    for name in STREAMS:
        stream = getattr(sys, name, None)
        if type(stream) is not Stream and stream is not None:
            _listen_to(stream)


def _listen_to(stream: Any) -> None:
    ours = Stream(stream)
    for name in STREAMS:
        if getattr(sys, name, None) is stream:
            setattr(sys, name, ours)


def say_aside(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Log one of the server's own lines, which is kept in no attempt's log."""
    before, _mouth.record, _mouth.aside = (_mouth.record, _mouth.aside), record, True
    try:
        logger.handle(record)
    finally:
        _mouth.record, _mouth.aside = before


def _call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Call the record's handlers as ever, and keep it once, even if there are none or one of them logs it again.

    Afterwards, since a handler's filter may take something out of it that nobody is to see.
    """
    kept = _here()
    if kept is None or _mouth.silent or _mouth.record is record:
        _pythons[1](logger, record)
        return
    before, _mouth.record, _mouth.aside = (_mouth.record, _mouth.aside), record, True
    try:
        _pythons[1](logger, record)
    finally:
        _mouth.record, _mouth.aside = before
        _mouth.told = True
        _keep(kept, record)


def _keep(kept: Kept, record: logging.LogRecord) -> None:
    try:
        # Bit by bit: put together, a long message would be copied three times more.
        kept.write_line(f"{told_at(record.created)} {record.levelname} ", record.getMessage())
        for more in (_exception_of(record), record.stack_info):
            if more:
                kept.write_line(more.rstrip("\n"))
    except SoftTimeLimitExceeded:
        raise
    except Exception:
        kept.write_line(cannot_be_formatted(record))


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Handle a record as ever, but without the secrets of the attempts that run here.

    The record's factory would be too early: what a caller adds by `extra` comes in only after it.
    """
    veil = _veil
    if veil is not None:
        _hide_in(record, veil)
    _pythons[0](logger, record)


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


def _exception_of(record: logging.LogRecord) -> str | None:
    if record.exc_text or not record.exc_info:
        return record.exc_text
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return told(error) if error is not None else None


# --- what is printed ----------------------------------------------------------------------------------------


class Stream:
    """A stream around stdout or stderr: what is written is kept, unless it becomes a record, which is kept instead.

    It holds back what may be the beginning of a secret, and hides the secrets in the rest.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._rest: dict[int, tuple[str, Kept | None]] = {}

    def write(self, text: str) -> int:
        """Write what is known to be no part of a secret."""
        veil = _veil
        if not isinstance(text, str) or (veil is None and not self._rest):
            return self._say(text, _here())
        me = threading.get_ident()
        whole = self._rest.pop(me, ("", None))[0] + text
        end = veil.settled(whole) if veil is not None else len(whole)
        if end < len(whole):
            self._rest[me] = whole[end:], _here()
        if end:
            self._say(hide(whole[:end]), _here())
        return len(text)

    def _say(self, text: str, kept: Kept | None) -> int:
        if kept is None or not isinstance(text, str):
            return int(self.inner.write(text) or 0)
        aside, silent = _mouth.aside, _mouth.silent
        _mouth.aside, _mouth.silent, _mouth.told = True, aside, False
        try:
            return int(self.inner.write(text) or 0)
        finally:
            _mouth.aside, _mouth.silent = aside, silent
            # `print` writes the newline by itself: behind a record it is nothing to keep.
            if not aside and not _mouth.told and not (_mouth.line_told and text == "\n"):
                self._keep(text, kept)
            _mouth.line_told = _mouth.told

    def _keep(self, text: str, kept: Kept) -> None:
        if not isinstance(self.inner, LoggingProxy):
            kept.write(text)
        elif line := text.rstrip("\n"):  # each write is a record of its own there, if the level allows one
            kept.write_line(line)

    def writelines(self, lines: Any) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def say_rest(self) -> None:
        """Write what this thread, or one that has ended, began and did not go on with."""
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        for thread in self._rest.keys() - alive:
            rest, kept = self._rest.pop(thread)
            try:
                self._say(hide(rest), kept)
            except Exception:  # noqa: S112  # the operation closed it
                continue

    @property
    def closed(self) -> bool:
        return bool(self.inner.closed)

    @closed.setter
    def closed(self, closed: bool) -> None:
        self.inner.closed = closed  # only Celery's takes that

    @property
    def buffer(self) -> Bytes:
        return Bytes(self.inner.buffer)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # a copy has none yet
            raise AttributeError(name)
        return getattr(self.inner, name)


class Bytes:
    """The stream of bytes below; a secret is recognised there only if it is written in one piece."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def write(self, data: Any) -> int:
        """Write bytes, and keep them as text."""
        kept = _here()
        if _mouth.aside or (kept is None and _veil is None):
            return int(self.inner.write(data))
        said = bytes(data).decode("utf-8", "replace")
        hidden = hide(said)
        if kept is not None:
            kept.write(hidden)
        if hidden == said:
            return int(self.inner.write(data))
        self.inner.write(hidden.encode())
        return len(data)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
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
