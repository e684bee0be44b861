"""The places where Celery, kombu and billiard fall short of a batch server, and how each is mended.

Every function names the upstream module and what would go wrong without it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from inspect import isgenerator

from celery import Celery
from celery.apps import worker as handlers
from kombu.transport import pyamqp

from batchq.server.celery_types.broker import Channel
from batchq.server.celery_types.loop import Hub, Timer
from batchq.server.celery_types.pool import Pool, PoolJob, Processes
from batchq.server.celery_types.worker import Worker

logger = logging.getLogger(__name__)

# A half-read or half-written message: how the loop waits for its file, the file, and the callback that goes on.
Half = tuple[Callable[[int, object], object], int, object]


# --- queues and prefetch ------------------------------------------------------------------------------------


def forget_the_apps_queues(app: Celery) -> None:
    """Let the worker listen to no queue of the app's own, and bind ours to nothing.

    celery.app.amqp names all queues of the app: on a shared broker the worker would take messages of tasks that it
    does not know, and they would be lost. It also puts the app's default exchange in the place of the broker's own:
    our queues would be bound to it.
    """
    app.amqp.queues._consume_from = {}
    app.amqp.queues.default_exchange = None


def prefetch_by(channel: Channel, room: Callable[[], int]) -> bool:
    """On brokers whose prefetch kombu counts itself (Redis), let it be the free threads at this very moment.

    kombu.transport.virtual compares with a number that is set once in a while: a full server would go on to take
    tickets that other servers could start. Returns whether this is such a broker.
    """
    with contextlib.suppress(AttributeError):
        # kombu would put back unacknowledged messages of a lost connection, but SQL has replaced them by then.
        channel.do_restore = False
        if channel.qos.can_consume is not None:
            # A poll that began while there was room may have brought a message: unread, it would be nobody's for as
            # long as this server is full.
            channel.qos.can_consume = lambda: room() > 0 or bool(getattr(channel, "_in_poll", None))
            return True
    return False


# --- stops --------------------------------------------------------------------------------------------------


def note_cold_stops(worker: Worker) -> None:
    """Install Celery's signal handlers, but let a cold stop only be noted.

    celery.apps.worker cancels consumers and ends children inside of the handler. It waits there for broker and pool,
    while the outcomes that attempts have reported already would never be stored.
    """
    if not isinstance(worker, handlers.Worker):
        return  # it lives inside another program, whose signals these are
    handlers.install_worker_int_handler(worker, callback=_first_interrupt)
    handlers.install_worker_term_hard_handler(worker, callback=_noted)
    if handlers.REMAP_SIGTERM == "SIGQUIT":
        handlers.install_worker_term_handler(worker, callback=_noted)


def _first_interrupt(worker: Worker) -> None:
    handlers.safe_say("worker: Hitting Ctrl+C again will end all running tasks!", handlers.sys.__stdout__)
    handlers.install_worker_term_hard_handler(worker, sig="SIGINT", callback=_noted, verbose=False)


def _noted(worker: Worker) -> None:
    """Do nothing: the loop, which stands still during a handler, does the rest."""


# --- lost connections ---------------------------------------------------------------------------------------


def forget_no_attempts(pool: Pool) -> None:
    """Let the pool keep its jobs when a connection is lost.

    celery.worker.consumer flushes the pool then, which forgets jobs that a child already has. Brokers redeliver
    those to other workers; ours are never redelivered, and would count as lost.
    """
    pool.flush = None


def drop_lost(hub: Hub) -> None:
    """Take a lost connection to RabbitMQ out of the loop.

    celery.worker.consumer leaves it there if it was lost before the loop began. Every turn of the loop would fail on
    it, and read nothing else.
    """
    for number, entry in list(hub.readers.items()):
        if entry and isinstance(getattr(entry[0], "__self__", None), pyamqp.Transport) and not entry[1][0].connected:
            hub.remove(number)


def keep_in_loop(hub: Hub, pool: Pool) -> None:
    """Keep the pool in the loop when a lost connection empties it, with all messages that are half read or written.

    celery.worker.loops resets the hub then, and celery.concurrency.asynpool registers new readers and writers: they
    would take the rest of a long message for a new one, and wait for its end for ever.
    """
    reset, register = hub.reset, pool.register_with_event_loop

    def registered(hub: Hub) -> None:
        halves = _halves(hub)
        if (inner := getattr(pool, "_pool", None)) is not None:
            _forget_the_dead(inner)
        register(hub)
        _put_back(hub, halves)

    def emptied() -> None:
        halves, before = _halves(hub), timers(hub)
        try:
            reset()
        except Exception:  # kombu runs here what the lost connection had left to do, and that fails
            logger.debug("emptying the loop", exc_info=True)
        registered(hub)
        for timer in timers(hub) - before:
            timer.cancel()  # the next connection brings these along again
        _put_back(hub, halves)

    hub.reset, pool.register_with_event_loop = emptied, registered
    if (inner := getattr(pool, "_pool", None)) is not None:
        _hear_out(inner)


def _hear_out(inner: Processes) -> None:
    """Let the pool read the last words of a dead child before it gives the child's job to another one.

    A child says that it starts an operation before it does. celery.concurrency.asynpool reads that when it buries the
    child. But it may find the child dead while it buries another one: the attempt would then run twice.
    """
    give_away = inner.on_job_process_down

    def down(job: PoolJob, pid: int) -> None:
        child = job._write_to or job._scheduled_for
        if child is not None and not child._is_alive():
            inner.process_flush_queues(child)
        give_away(job, pid)

    inner.on_job_process_down = down


def _forget_the_dead(inner: Processes) -> None:
    """Take children that died with a message half written out of the pool's lists.

    celery.concurrency.asynpool leaves them there. Their pipes are closed, and the kernel reuses the numbers, perhaps
    for the broker's socket: the pool would wait there for an outcome that never comes.
    """
    for index in (inner._fileno_to_outq, inner._fileno_to_inq):
        for number, child in list(index.items()):
            if child not in inner._pool or child.dead:
                del index[number]
                inner._all_inqueues.discard(number)
    for child in inner._pool:
        if getattr(child, "_sentinel_poll", 0) is None:
            # asynpool would register this child, which has died, by a number that is None, and the worker would end.
            del child._sentinel_poll


def _halves(hub: Hub) -> list[Half]:
    both = ((hub.add_reader, hub.readers), (hub.add_writer, hub.writers))
    return [(add, fd, at[0]) for add, there in both for fd, at in there.items() if at and isgenerator(at[0])]


def _put_back(hub: Hub, halves: list[Half]) -> None:
    for add, fd, generator in halves:
        add(fd, generator)


def timers(hub: Hub) -> set[Timer]:
    """All timers of the loop, with those that were canceled."""
    return {scheduled.entry for scheduled in hub.timer.queue}
