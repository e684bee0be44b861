"""The secrets of every attempt that runs in this process, and how a text loses them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batchq.core.secrets import Veil
from batchq.server.child.log import kept

_lock = threading.Lock()
_veils: list[Veil] = []
# The veils of attempts that are over, each with the threads that were left running.
_left: list[tuple[Veil, list[threading.Thread]]] = []
# All of them in one; None while there are no secrets.
veil: Veil | None = None


def hide(text: str) -> str:
    """The text without the secrets of any attempt that runs in this process."""
    now = veil  # read once: another thread may clear it in between
    return text if now is None else now.hide(text)


def hides() -> bool:
    """Whether there are secrets to hide."""
    return veil is not None


def hide_in(value: object) -> object:
    """A JSON value without the secrets of any attempt that runs in this process."""
    now = veil
    return value if now is None else now.hide_in(value)


@contextmanager
def hidden(one: Veil, changed: Callable[[], None]) -> Iterator[None]:
    """Hide these secrets meanwhile, and afterwards as long as a thread of the calling attempt still runs.

    `changed` is called after each change of the veils, before the next one.
    """
    _change(_veils.append, one, changed)
    try:
        yield
    finally:
        if threads := kept.threads_of(kept.here()):
            _left.append((one, threads))
        _change(_veils.remove, one, changed)


def _change(act: Callable[[Veil], None], one: Veil, changed: Callable[[], None]) -> None:
    global veil
    with _lock:
        act(one)
        _left[:] = [each for each in _left if any(thread.is_alive() for thread in each[1])]
        hidden = [*_veils, *(theirs for theirs, _ in _left)]
        veil = Veil.over(hidden) if hidden else None
        changed()
