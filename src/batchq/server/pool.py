"""The worker's pool: it grows as soon as a window allows more, and shrinks as its children fall idle."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import Protocol

from billiard import Lock
from billiard.pool import RUN

from batchq.core import aborting
from batchq.errors import PlaceRefuses
from batchq.server import quick
from batchq.server.celery_types.loop import Hub
from batchq.server.celery_types.pool import Child, Pool, Processes

logger = logging.getLogger(__name__)

MODULES = {"prefork": "celery.concurrency.prefork", "threads": "celery.concurrency.thread"}
# Celery's words for the strategy that gives a child its next task before it has read the end of the last one.
UNFAIR = ("fast", "fcfs")
SEMAPHORES = "Mount it, writable for this user, or start the server with --pool threads."
# Each child costs the loop some milliseconds, in which it sees to nothing else.
CHILDREN_AT_ONCE = 4


class Following(Protocol):
    """A pool whose size follows the wanted one."""

    @property
    def size(self) -> int:
        """How many attempts it takes at once."""

    def fit(self, wanted: int) -> bool:
        """Move towards this size, at least 1; whether it is reached."""

    def write(self) -> None:
        """Write orders that the pool has taken to processes that are idle, without waiting for the loop."""

    def bury(self) -> None:
        """Hear of processes that have died, and report the attempts that ran there."""

    def tell_to_end(self) -> None:
        """Tell every attempt to end now, where it can be told."""

    def end(self) -> None:
        """End every attempt that still runs, where that can be done."""

    def replace(self, pid: int) -> None:
        """Put another process in the place of this one, which is idle and must be given nothing more."""

    def stop_child(self, pid: int, number: int) -> None:
        """Send this signal to a process that executes an attempt, and to the programs that this has started."""


def kind_of(pool_class: type) -> str | None:
    """`prefork` or `threads`; None for a pool that a batch server cannot use (rule 16)."""
    return next((kind for kind, module in MODULES.items() if pool_class.__module__ == module), None)


def told(kind: str, optimization: str | None) -> str:
    """The kind of a worker's pool as it is stored: with Celery's `-O fast` no task there can be aborted (rule 32)."""
    return aborting.FAST if kind == "prefork" and optimization in UNFAIR else kind


def refuse_without_semaphores() -> None:
    """Raise PlaceRefuses where no child can be made, since the system gives no semaphores."""
    try:
        Lock()
    except OSError as error:
        raise PlaceRefuses.of(error, "/dev/shm", SEMAPHORES) from error  # noqa: S108 (where the system has them)


def following(kind: str, pool: Pool, hub: Hub) -> Following:
    """Wrap Celery's pool of this kind, which is not yet in the loop, so that its size can follow."""
    return Children(pool, hub) if kind == "prefork" else Threads(pool)


class Threads:
    """The threads pool: it makes a thread when a task needs one, up to a number that can be moved."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @property
    def size(self) -> int:
        """How many threads it may have."""
        return int(self._pool.limit)

    def fit(self, wanted: int) -> bool:
        """Set the number; it takes effect at once."""
        self._pool.limit = self._pool.executor._max_workers = max(wanted, 1)
        return True

    def write(self) -> None:
        """A thread takes its order itself."""

    def bury(self) -> None:
        """A thread does not die alone."""

    def tell_to_end(self) -> None:
        """A thread cannot be told."""

    def end(self) -> None:
        """A thread ends with its process."""

    def replace(self, pid: int) -> None:
        """Nothing: there is one process for all."""

    def stop_child(self, pid: int, number: int) -> None:
        """Nothing: no thread can be stopped alone."""


class Children:
    """The prefork pool: a child for each thread of the server."""

    def __init__(self, pool: Pool, hub: Hub) -> None:
        self._pool = pool
        self._hub = hub
        self._failed = False
        if pool._pool is not None:
            quick.hasten(hub, pool._pool)

    @property
    def size(self) -> int:
        """The number of its children, without those that were told to end."""
        return int(self._pool._pool._processes) if self._pool._pool is not None else 0

    def fit(self, wanted: int) -> bool:
        """Make a few children, or let idle ones go; whether there are as many as wanted."""
        inner = self._pool._pool
        if inner is None or inner._state != RUN:
            return True  # it ends
        wanted = max(wanted, 1)
        if self.size < wanted:
            self._grow(inner, min(wanted - self.size, CHILDREN_AT_ONCE))
        elif self.size > wanted:
            for child in list(_idle(inner))[: self.size - wanted]:
                inner._processes -= 1
                _let_end(inner, child)
        self._pool.limit = self.size  # what Celery shows as the pool's size
        return self.size == wanted

    def write(self) -> None:
        """Write orders to idle children."""
        if self._pool._pool is not None:
            quick.write(self._hub, self._pool._pool)

    def bury(self) -> None:
        """Look for dead children, also during a stop: Celery does not then, and would wait for their tasks for ever."""
        inner = self._pool._pool
        if inner is None or inner._state == RUN:
            self._pool.maintain_pool()
        else:
            inner._join_exited_workers()
            for job in [] if inner._pool else list(inner._cache.values()):
                inner.mark_as_worker_lost(job, -signal.SIGTERM)  # nobody is left who could run it

    def tell_to_end(self) -> None:
        """Tell each child to end."""
        self._kill(signal.SIGTERM)

    def end(self) -> None:
        """End each child."""
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        for child in list(self._pool._pool._pool) if self._pool._pool is not None else ():
            with contextlib.suppress(OSError):
                if child._is_alive():
                    os.kill(child.pid, number)

    def _grow(self, inner: Processes, number: int) -> None:
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

    def replace(self, pid: int) -> None:
        """Let a child that has just reported end, before Celery sends it anything; the pool then makes another."""
        inner = self._pool._pool
        if inner is None:
            return
        if (child := _child(inner, pid)) is not None:
            _let_end(inner, child)

    def stop_child(self, pid: int, number: int) -> None:
        """Send the signal to a child, and to its process group if it leads one, as billiard does at a time limit."""
        inner = self._pool._pool
        if inner is None or (child := _child(inner, pid)) is None:
            return
        # The attempt is then reported as terminated, once the child is gone.
        child._controlled_termination = child._job_terminated = True
        with contextlib.suppress(OSError):
            (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, number)


def _child(inner: Processes, pid: int) -> Child | None:
    return next((child for child in inner._pool if child.pid == pid), None)


def _idle(inner: Processes) -> Iterator[Child]:
    """Idle children, newest first: they have no order, and none is on its way to them.

    billiard.pool looks at accepted jobs alone, so it may end a child whose job is on its way.
    """
    taken = {job._write_to for job in inner._cache.values()} | {job._scheduled_for for job in inner._cache.values()}
    for child in reversed(inner._pool):
        inbox = child.inqW_fd
        if inbox in inner._all_inqueues and inbox not in inner._busy_workers and child not in taken:
            yield child


def _let_end(inner: Processes, child: Child) -> None:
    """Send the child billiard's shutdown sentinel: it ends once it has read it."""
    inner._all_inqueues.discard(child.inqW_fd)
    inner._fileno_to_inq.pop(child.inqW_fd, None)
    inner.hub_remove(child.inqW_fd)
    child._controlled_termination = True
    try:
        child.inq.put(None)
    except OSError:
        child.terminate()
