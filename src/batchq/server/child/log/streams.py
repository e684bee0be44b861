"""Standard output and error: each print is kept, without secrets, unless a handler turns it into a record."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Protocol

from celery.utils.log import LoggingProxy

from batchq.server.child.log import kept, veils
from batchq.server.child.log.kept import Kept
from batchq.server.child.log.records import mouth

STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")


def follow_streams() -> None:
    """Hear all that is printed from now on."""
    for name in STREAMS:
        stream = getattr(sys, name, None)
        if type(stream) is not Stream and stream is not None:
            _follow(stream)


def _follow(stream: Text) -> None:
    ours = Stream(stream)
    for name in STREAMS:
        if getattr(sys, name, None) is stream:
            setattr(sys, name, ours)


def say_rest() -> None:
    """Write the text that waits in the streams, as it might have become part of a secret."""
    for name in STREAMS:
        stream = getattr(sys, name, None)  # an operation may have deleted it
        if isinstance(stream, Stream):
            stream.say_rest()


class Below(Protocol):
    """The byte stream below a text stream."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int: ...


class Text(Protocol):
    """A stream that this process prints to: Python's own, or a tool's replacement."""

    closed: bool

    @property
    def buffer(self) -> Below: ...
    def write(self, text: str, /) -> int | None: ...


class Stream:
    """A stream around stdout or stderr. It keeps what is written, unless that becomes a record, which is kept instead.

    It waits with text that may be the beginning of a secret, and hides the secrets in the rest.
    """

    def __init__(self, inner: Text) -> None:
        self.inner = inner
        self._rest: dict[int, tuple[str, Kept | None]] = {}

    def write(self, text: str) -> int:
        """Write the text, up to where a secret may have begun."""
        veil = veils.veil
        if not isinstance(text, str) or (veil is None and not self._rest):
            return self._say(text, kept.here())
        me = threading.get_ident()
        whole = self._rest.pop(me, ("", None))[0] + text
        end = veil.settled(whole) if veil is not None else len(whole)
        if end < len(whole):
            self._rest[me] = whole[end:], kept.here()
        if end:
            self._say(veils.hide(whole[:end]), kept.here())
        return len(text)

    def _say(self, text: str, log: Kept | None) -> int:
        if log is None or not isinstance(text, str):
            return int(self.inner.write(text) or 0)
        aside, silent = mouth.aside, mouth.silent
        mouth.aside, mouth.silent, mouth.told = True, aside, False
        try:
            return int(self.inner.write(text) or 0)
        finally:
            mouth.aside, mouth.silent = aside, silent
            # `print` writes its newline apart: behind a record it would be kept as an empty line.
            if not aside and not mouth.told and not (mouth.line_told and text == "\n"):
                self._keep(text, log)
            mouth.line_told = mouth.told

    def _keep(self, text: str, log: Kept) -> None:
        if not isinstance(self.inner, LoggingProxy):
            log.write(text)
        elif line := text.rstrip("\n"):  # each write becomes a record there, if the level allows one
            log.write_line(line)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the texts one after the other."""
        for line in lines:
            self.write(line)

    def say_rest(self) -> None:
        """Write the unfinished text of this thread, and of threads that have ended."""
        alive = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        for thread in self._rest.keys() - alive:
            rest, log = self._rest.pop(thread)
            try:
                self._say(veils.hide(rest), log)
            except Exception:  # noqa: S112  # the operation closed the stream
                continue

    @property
    def closed(self) -> bool:
        """Whether the stream below is closed."""
        return bool(self.inner.closed)

    @closed.setter
    def closed(self, closed: bool) -> None:
        self.inner.closed = closed  # only Celery's takes that

    @property
    def buffer(self) -> Bytes:
        """The stream of bytes below; its writes are kept too."""
        return Bytes(self.inner.buffer)

    def __getattr__(self, name: str) -> object:
        if name == "inner":  # a copy has none yet
            raise AttributeError(name)
        return getattr(self.inner, name)


class Bytes:
    """The stream of bytes below a text stream; it recognises a secret only if it is written in one piece."""

    def __init__(self, inner: Below) -> None:
        self.inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write bytes, and keep them as text."""
        log = kept.here()
        if mouth.aside or (log is None and veils.veil is None):
            return int(self.inner.write(data))
        said = bytes(data).decode("utf-8", "replace")
        hidden = veils.hide(said)
        if log is not None:
            log.write(hidden)
        if hidden == said:
            return int(self.inner.write(data))
        self.inner.write(hidden.encode())
        return len(data)

    def __getattr__(self, name: str) -> object:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)
