"""The intake of a worker of ours: the queues it listens to, and the task whose messages it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from kombu.transport import pyamqp

from batchq.errors import QueueRefused
from batchq.server import tickets
from batchq.server.request import refuse
from batchq.server.tickets import Avoided

logger = logging.getLogger(__name__)

# --- queues -------------------------------------------------------------------------------------------------


class Queues:
    """The queues that a worker listens to; one that the broker refuses is set aside, and all others go on.

    No queue is known to Celery when it connects: it would declare all of them at once, and end with the first refusal.
    """

    def __init__(self, consumer: Any) -> None:
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
        """Listen on this connection to no queue but those that `fit` adds, whoever asks for it.

        What would come from any other is for the host's own workers, and nothing here could run it.
        """
        channel = self._consumer.task_consumer.channel
        channel.basic_consume = partial(self._consume, channel.basic_consume)

    def _consume(self, consume: Callable[..., object], queue: str, *rest: Any, **options: Any) -> object:
        if queue in self._ours:
            return consume(queue, *rest, **options)
        logger.warning("not listened to: the queue %r is not one of this worker's own", queue)
        return None

    def fit(self, wanted: Collection[str]) -> bool:
        """Listen to the `wanted` queues and no others, as far as the broker lets it; returns whether one was added."""
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
            # It may be declared, but not listened to; and the refusal has ended the channel of all the others.
            self._reluctant.add(name)
            self.set_aside(name, tickets.refused(name, error))
            raise ConnectionResetError("begin anew without the queue that was refused") from error
        self._avoided.clear(name)
        return True

    def _ask(self, name: str) -> None:
        """Raise QueueRefused where the broker refuses the queue; as that ends a channel, it is not the others' one."""
        connection = self._consumer.connection
        if connection.transport.driver_type != "amqp":
            tickets.try_queue(connection, name, make=True)
            return
        with closing(connection.channel()) as channel:  # what comes on it goes back
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
        """Set aside those of Redis' queues that are no lists, as none can be read beside them; whether there were."""
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


def take_only(task: str, consumer: Any) -> None:
    """Let the consumer take in messages that ask for this task; of any other nothing is read, and nothing starts."""
    create: Callable[[], Callable[[Any], None]] = consumer.create_task_handler

    def create_handler() -> Callable[[Any], None]:
        received = create()

        def take_in(message: Any) -> None:
            asked = message.headers.get("task") if isinstance(message.headers, Mapping) else None
            if asked == task:
                received(message)
            else:
                refuse(message, consumer)

        return take_in

    consumer.create_task_handler = create_handler
