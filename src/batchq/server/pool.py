"""The worker's pool: it grows as soon as a window allows more, and shrinks as its children fall idle."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from inspect import isgenerator
from typing import Any, Protocol

from billiard import Lock
from billiard.pool import RUN

from batchq.errors import PlaceRefuses

logger = logging.getLogger(__name__)

MODULES = {"prefork": "celery.concurrency.prefork", "threads": "celery.concurrency.thread"}
SEMAPHORES = "Mount it, writable for this user, or start the server with --pool threads."
# Each child costs the loop some milliseconds, in which it sees to nothing else.
CHILDREN_AT_ONCE = 4


class Following(Protocol):
    """A pool whose size follows what is wanted of it."""

    @property
    def size(self) -> int:
        """How many attempts it takes at once."""

    def fit(self, wanted: int) -> bool:
        """Move towards this size, at least 1; whether it is reached."""

    def bury(self) -> None:
        """Hear of processes that have died, and report what ran there."""

    def tell_to_end(self) -> None:
        """Tell all that runs to end now, where it can be told."""

    def end(self) -> None:
        """End all that still runs, where that can be done."""

    def replace(self, pid: int) -> None:
        """Put another process in the place of this one, which has nothing to do and must be given nothing."""


def kind_of(pool_class: type) -> str | None:
    """`prefork` or `threads`; None for a pool that a batch server cannot use (rule 16)."""
    return next((kind for kind, module in MODULES.items() if pool_class.__module__ == module), None)


def refuse_without_semaphores() -> None:
    """Raise PlaceRefuses where no child can be made, since the system gives no semaphores."""
    try:
        Lock()
    except OSError as error:
        raise PlaceRefuses.of(error, "/dev/shm", SEMAPHORES) from error  # noqa: S108 (where the system has them)


def following(kind: str, pool: Any) -> Following:
    """What makes Celery's pool of this kind follow."""
    return Children(pool) if kind == "prefork" else Threads(pool)


class Threads:
    """The threads pool: it makes a thread when a task needs one, up to a number that can be moved."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @property
    def size(self) -> int:
        return int(self._pool.limit)

    def fit(self, wanted: int) -> bool:
        self._pool.limit = self._pool.executor._max_workers = max(wanted, 1)
        return True

    def bury(self) -> None:
        """A thread does not die alone."""

    def tell_to_end(self) -> None:
        """A thread cannot be told."""

    def end(self) -> None:
        """A thread ends with its process."""

    def replace(self, pid: int) -> None:
        """Nothing: there is one process for all."""


class Children:
    """The prefork pool: a child for each thread of the server."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._failed = False

    @property
    def size(self) -> int:
        return int(self._pool._pool._processes) if self._pool._pool is not None else 0

    def fit(self, wanted: int) -> bool:
        if self._pool._pool is None or self._pool._pool._state != RUN:
            return True  # it ends
        wanted = max(wanted, 1)
        if self.size < wanted:
            self._grow(min(wanted - self.size, CHILDREN_AT_ONCE))
        elif self.size > wanted:
            for child in list(self._idle())[: self.size - wanted]:
                self._dismiss(child)
        self._pool.limit = self.size  # what Celery shows as the pool's size
        return self.size == wanted

    def bury(self) -> None:
        """Look for dead processes also during a stop, when Celery does not, and would wait for their tasks for ever."""
        inner = self._pool._pool
        if inner is None or inner._state == RUN:
            self._pool.maintain_pool()
        else:
            inner._join_exited_workers()
            for job in [] if inner._pool else list(inner._cache.values()):
                inner.mark_as_worker_lost(job, -signal.SIGTERM)  # nobody is left who could run it

    def tell_to_end(self) -> None:
        self._kill(signal.SIGTERM)

    def end(self) -> None:
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        for child in list(self._pool._pool._pool) if self._pool._pool is not None else ():
            with contextlib.suppress(OSError):
                if child._is_alive():
                    os.kill(child.pid, number)

    def _grow(self, number: int) -> None:
        inner = self._pool._pool
        inner.grow(number)
        try:
            self._pool.maintain_pool()
        except (OSError, MemoryError) as error:
            inner._processes = sum(child._popen is not None for child in inner._pool)
            if not self._failed:
                logger.error("the pool cannot grow beyond %d processes: %s", inner._processes, error)
            self._failed = True
        else:
            self._failed = False

    def _idle(self) -> Iterator[Any]:
        """The children, newest first, that have nothing to do and were not sent anything.

        Celery's own choice goes by what a child has accepted, and so may hit one whose job is on its way.
        """
        inner = self._pool._pool
        taken = {job._write_to for job in inner._cache.values()} | {job._scheduled_for for job in inner._cache.values()}
        for child in reversed(inner._pool):
            inbox = child.inqW_fd
            if inbox in inner._all_inqueues and inbox not in inner._busy_workers and child not in taken:
                yield child

    def replace(self, pid: int) -> None:
        """Let a child that has just reported end, before Celery sends it anything; the pool then makes another."""
        inner = self._pool._pool
        child = next((child for child in inner._pool if child.pid == pid), None) if inner is not None else None
        if child is not None:
            self._let_end(child)

    def _dismiss(self, child: Any) -> None:
        self._pool._pool._processes -= 1
        self._let_end(child)

    def _let_end(self, child: Any) -> None:
        """Let the child end by itself, in its own time: with the sentinel by which the pool ends all at a shutdown."""
        inner = self._pool._pool
        inner._all_inqueues.discard(child.inqW_fd)
        inner._fileno_to_inq.pop(child.inqW_fd, None)
        inner.hub_remove(child.inqW_fd)
        child._controlled_termination = True
        try:
            child.inq.put(None)
        except OSError:
            child.terminate()


# --- lost connections ---------------------------------------------------------------------------------------


def hold(hub: Any, pool: Any) -> None:
    """Keep the pool in the loop when a lost connection empties it, with all that is half read or half written.

    Celery forgets where it was, takes the rest of a long message for a new one, and waits for that for ever.
    """
    reset, register = hub.reset, pool.register_with_event_loop

    def registered(hub: Any) -> None:
        halves = _halves(hub)
        if getattr(pool, "_pool", None) is not None:
            _forget_the_dead(pool._pool)
        register(hub)
        _put_back(hub, halves)

    def emptied() -> None:
        halves, before = _halves(hub), timers(hub)
        try:
            reset()
        except Exception:  # it does what the lost connection had left to do
            logger.debug("emptying the loop", exc_info=True)
        registered(hub)
        for timer in timers(hub) - before:
            timer.cancel()  # the next connection brings these along again
        _put_back(hub, halves)

    hub.reset, pool.register_with_event_loop = emptied, registered
    if getattr(pool, "_pool", None) is not None:
        _hear_out(pool._pool)


def _hear_out(inner: Any) -> None:
    """Let Celery read what a dead child had said before it gives the child's job to another one.

    A child says so before it starts an operation. Celery reads that when it buries the child; but it may find it
    dead already while it buries another, and would then run an attempt that began for a second time.
    """
    give_away = inner.on_job_process_down

    def down(job: Any, pid: int) -> None:
        child = job._write_to or job._scheduled_for
        if child is not None and not child._is_alive():
            inner.process_flush_queues(child)
        give_away(job, pid)

    inner.on_job_process_down = down


def _forget_the_dead(inner: Any) -> None:
    """Take out of Celery's lists what it leaves there of children that died with a message half written.

    Their pipes are closed, and by now the numbers of these may be those of a connection to the broker: whoever
    listens there for an outcome waits for ever.
    """
    for index in (inner._fileno_to_outq, inner._fileno_to_inq):
        for number, child in list(index.items()):
            if child not in inner._pool or child.dead:
                del index[number]
                inner._all_inqueues.discard(number)
    for child in inner._pool:
        if getattr(child, "_sentinel_poll", 0) is None:
            del child._sentinel_poll  # it has died and is still listed: else Celery stumbles over it, and ends


def _halves(hub: Any) -> list[tuple[Any, int, Any]]:
    both = ((hub.add_reader, hub.readers), (hub.add_writer, hub.writers))
    return [(add, fd, at[0]) for add, there in both for fd, at in there.items() if at and isgenerator(at[0])]


def _put_back(hub: Any, halves: list[tuple[Any, int, Any]]) -> None:
    for add, fd, generator in halves:
        add(fd, generator)


def timers(hub: Any) -> set[Any]:
    """All timers of the loop, those that were canceled among them."""
    return {scheduled.entry for scheduled in hub.timer.queue}
