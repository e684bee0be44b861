"""The end of what an attempt says, and who in the process speaks for which attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from batchq.core.secrets import Veil

# A text is taken in by pieces of this many characters: each step would otherwise copy a long text whole.
PIECE = 1 << 14
NUL, NO_NUL = b"\0", "\ufffd".encode()


class Kept:
    """The last `most_bytes` of a text written bit by bit, without the secrets; takes about twice as much memory."""

    def __init__(self, most_bytes: int, veil: Veil | None) -> None:
        self._most_bytes = most_bytes
        self._veil = veil
        self._rest = ""
        self._end = bytearray()
        self._chars = 0
        self._in_a_line = False
        # Re-entrant: a signal handler may log while its own thread is in here, and would wait for itself.
        self._lock = threading.RLock()

    def write(self, *texts: str) -> None:
        """Add these texts; they may be of any length, and come from any thread."""
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
        if len(self._end) > 2 * self._most_bytes + PIECE:
            del self._end[: len(self._end) - self._most_bytes]

    def text(self) -> str | None:
        """The kept text, under a line that says how much is left out; None if nothing was written."""
        with self._lock:
            if self._veil is not None:
                rest, self._rest = self._rest, ""
                self._append(self._veil.hide(rest))
            if not self._chars:
                return None
            end = self._end[max(len(self._end) - self._most_bytes, 0) :].decode("utf-8", "ignore")
        left_out = self._chars - len(end)
        return f"[… {left_out} characters left out …]\n{end}" if left_out else end


_kept: ContextVar[Kept | None] = ContextVar("batchq_kept", default=None)
# The logs of threads that operations started: Python hands a new thread no context.
_of_thread: WeakKeyDictionary[threading.Thread, Kept] = WeakKeyDictionary()
# Python's own `Thread.start`.
_starts: list[Callable[[threading.Thread], None]] = []
# The log of the attempt that has this process to itself: it gets the words of every thread.
_alone: Kept | None = None


@contextmanager
def log(most_bytes: int, veil: Veil | None, alone: bool) -> Iterator[Kept]:
    """Keep the end of everything that this context says meanwhile; if it is `alone`, of all that the process says."""
    global _alone
    kept = Kept(most_bytes, veil)
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
    """Start a thread as Python does; its words go to the log of the thread that starts it."""
    kept = here()
    if kept is not None:
        _of_thread[thread] = kept
    _starts[0](thread)


def threads_of(log: Kept | None) -> list[threading.Thread]:
    """The threads of this log's attempt that still run."""
    return [thread for thread, theirs in list(_of_thread.items()) if theirs is log and thread.is_alive()]


def follow_threads() -> None:
    """See each thread of this process start, from now on."""
    if not _starts:
        _starts.append(threading.Thread.start)
        threading.Thread.start = _start  # type: ignore[method-assign, assignment]  # takes what Python's takes, and calls it


def here() -> Kept | None:
    """The log that keeps the words of the calling thread, if any."""
    kept = _kept.get() or _alone
    return kept if kept is not None or not _of_thread else _of_thread.get(threading.current_thread())


def write(text: str) -> None:
    """Add the text, as lines of its own, to the log of the calling thread, if there is one."""
    kept = here()
    if kept is not None:
        kept.write_line(text.removesuffix("\n"))
