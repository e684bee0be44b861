"""The worker's event loop, and its timers (kombu)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

# A callback or suspended generator with its arguments; None once nothing waits for the file.
Watched = tuple[object, Sequence[Any]] | None


class Timer(Protocol):
    """A call that the loop makes at a set time."""

    def cancel(self) -> None: ...


class Scheduled(Protocol):
    """A timer in the loop's queue."""

    entry: Timer


class Schedule(Protocol):
    """All timers of the loop."""

    queue: Sequence[Scheduled]


class Hub(Protocol):
    """The worker's event loop."""

    timer: Schedule
    readers: Mapping[int, Watched]
    writers: Mapping[int, Watched]
    on_tick: set[Callable[[], object]]
    # Files that can be written to are gathered there, and handed over at once.
    consolidate: set[int]
    consolidate_callback: Callable[[list[int]], object] | None
    reset: Callable[[], object]

    def call_soon(self, callback: Callable[..., object], *args: object) -> object: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer: ...
    def call_repeatedly(self, delay: float, callback: Callable[..., object], *args: object) -> Timer: ...
    def add_reader(self, fd: int, callback: object, *args: object) -> object: ...
    def add_writer(self, fd: int, callback: object, *args: object) -> object: ...
    def remove(self, fd: int) -> None: ...
    def create_loop(self) -> Iterator[object]: ...
