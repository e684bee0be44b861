"""The intake of a worker of ours: the queues it listens to, and the messages it takes from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from functools import partial
from typing import Protocol

from celery import Celery, Task
from kombu import Connection
from kombu.transport import pyamqp

from batchq import crash
from batchq.config import Settings
from batchq.errors import QueueRefused
from batchq.server import tickets
from batchq.server.celery_types.broker import Message
from batchq.server.celery_types.worker import Consumer
from batchq.server.ledger import Ledger
from batchq.server.surroundings import Arrival
from batchq.server.tickets import Avoided

logger = logging.getLogger(__name__)

# --- queues -------------------------------------------------------------------------------------------------


class Queues:
    """The queues that a worker listens to; one that the broker refuses is set aside, and all others go on.

    Celery hears of no queue when it connects: it would declare all at once, and end with the first refusal.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._avoided = Avoided()
        self._reluctant: set[str] = set()
        self._ours: frozenset[str] = frozenset()
        if consumer.hub is not None:  # without a loop nobody would come to `fit` them
            self.forget()

    def forget(self) -> None:
        """Listen to nothing on the next connection, until `fit` says what is wanted."""
        self._consumer.app.amqp.queues._consume_from = {}

    def guard(self) -> None:
        """Listen on this connection to the queues of `fit` alone, even if remote control asks for another.

        Messages of any other queue are for the host's own workers: nothing here could run them.
        """
        assert self._consumer.task_consumer is not None
        channel = self._consumer.task_consumer.channel
        channel.basic_consume = partial(self._consume, channel.basic_consume)

    def _consume(self, consume: Callable[..., object], queue: str, *rest: object, **options: object) -> object:
        if queue in self._ours:
            return consume(queue, *rest, **options)
        logger.warning("not listened to: the queue %r is not one of this worker's own", queue)
        return None

    def fit(self, wanted: Collection[str]) -> bool:
        """Listen to the `wanted` queues alone, without those that the broker refuses; returns whether one was added."""
        if self._consumer.task_consumer is None:  # its connection is gone
            return False
        self._ours = frozenset(wanted)
        have = set(self._consumer.app.amqp.queues.consume_from)
        for name in sorted(have.difference(wanted)):
            self._consumer.cancel_task_queue(name)
        added = False
        for name in sorted(set(wanted) - have):
            added = (name not in self._avoided and self._added(name)) or added
        return added

    def _added(self, name: str) -> bool:
        try:
            self._ask(name)
        except QueueRefused as error:
            self.set_aside(name, error)
            return False
        self._consumer.app.amqp.queues.add(tickets.queue(name))
        try:
            self._consumer.add_task_queue(name)
        except pyamqp.Transport.channel_errors as error:
            # This user may declare it, but not listen to it; and the refusal has ended the channel of all the others.
            self._reluctant.add(name)
            self.set_aside(name, tickets.refused(name, error))
            raise ConnectionResetError("begin anew without the queue that was refused") from error
        self._avoided.clear(name)
        return True

    def _ask(self, name: str) -> None:
        """Raise QueueRefused where the broker refuses the queue.

        On a channel of its own: a refusal ends the channel, and the other queues' consumers would end with it.
        """
        connection: Connection = self._consumer.connection
        if connection.transport.driver_type != "amqp":
            tickets.try_queue(connection, name, make=True)
            return
        with closing(connection.channel()) as channel:  # a message that comes on it goes back
            tickets.declare(channel, name)
            if name not in self._reluctant:
                return
            try:
                channel.basic_qos(0, 1, False)
                channel.basic_consume(name, callback=lambda message: None)
            except pyamqp.Transport.channel_errors as error:
                raise tickets.refused(name, error) from error

    def set_aside(self, name: str, error: QueueRefused) -> None:
        """Leave the queue alone for a while."""
        if self._avoided.put(name):
            logger.warning("not listened to for now: %s", error)

    def drop_refused(self) -> bool:
        """Set aside Redis' queues that are no lists; returns whether there were any.

        Redis reads all queues with one command, and one that is no list makes it fail for all.
        """
        found = False
        for name in sorted(self._consumer.app.amqp.queues.consume_from):
            try:
                tickets.try_queue(self._consumer.connection, name, make=True)
            except QueueRefused as error:
                self.set_aside(name, error)
                self._consumer.cancel_task_queue(name)
                found = True
        return found


# --- messages -----------------------------------------------------------------------------------------------


class Taker(Protocol):
    """The parts of a batch server that take tickets in."""

    settings: Settings
    ledger: Ledger


def strategy(task: Task, app: Celery, consumer: Consumer) -> Callable[..., None]:
    """Celery's entry for a message of `batchq.run`: nothing is shown or started before the claim."""
    server: Taker | None = getattr(consumer.controller, "batch_server", None)

    def take_in(message: Message, *_: object, **__: object) -> None:
        offer = tickets.read(message, server.settings) if server is not None else None
        if server is None or offer is None:
            # Nothing is lost: the coordinator offers a task again whose ticket does not come back.
            refuse(message, consumer)
            return
        crash.point("ticket-arrived")
        server.ledger.offer(Arrival(offer, message, time.monotonic()))

    return take_in


def refuse(message: Message, consumer: Consumer) -> None:
    """Drop a message that is no ticket for this worker, and count it; the log shows the start of its body."""
    count_refused(consumer)
    body = message.body[:200] if isinstance(message.body, str | bytes) else type(message.body).__name__
    logger.warning("dropped a message that is no ticket for this worker: %r", body)
    message.ack_log_error(logger, consumer.connection_errors)


def count_refused(consumer: Consumer) -> None:
    """Count a message that was no ticket; a coordinator keeps no such count."""
    server: Taker | None = getattr(consumer.controller, "batch_server", None)
    if server is not None:
        server.ledger.counts["refused"] += 1


def take_only(task: str, consumer: Consumer) -> None:
    """Let the consumer take in messages that name this task; any other is dropped unread, and starts nothing."""
    create: Callable[[], Callable[[Message], object]] = consumer.create_task_handler

    def create_handler() -> Callable[[Message], object]:
        received = create()

        def take_in(message: Message) -> None:
            named = message.headers.get("task") if isinstance(message.headers, Mapping) else None
            if named == task:
                received(message)
            else:
                refuse(message, consumer)

        return take_in

    consumer.create_task_handler = create_handler
