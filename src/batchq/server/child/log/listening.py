"""The process begins to listen to what is said in it, and hides secrets while an attempt has some."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from batchq.core.secrets import Veil
from batchq.server.child.log import kept, records, streams, veils


def listen() -> None:
    """Hear each record that a logger lets through and each print, and see each thread start, from now on."""
    records.follow_loggers()
    kept.follow_threads()
    streams.follow_streams()


def hidden(veil: Veil | None) -> AbstractContextManager[None]:
    """Keep these secrets meanwhile out of everything that this process logs or prints.

    They stay out of the log afterwards too, as long as a thread runs that was started meanwhile.
    """
    return nullcontext() if veil is None else veils.hidden(veil, streams.say_rest)
