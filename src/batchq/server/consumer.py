"""The consumer's step: it keeps the queues that a worker of ours listens to, and its prefetch, as SQL wants them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from celery import bootsteps

from batchq.config import Settings
from batchq.server import bounds, celery_gaps, control, intake, tickets
from batchq.server.broker import Line, bear
from batchq.server.celery_types.loop import Timer
from batchq.server.celery_types.worker import Consumer
from batchq.server.ledger import Ledger
from batchq.server.watch import LOOK_SECONDS, Watch


class Wanted(Protocol):
    """The parts of a batch server that its consumer follows."""

    settings: Settings
    ledger: Ledger
    watch: Watch

    @property
    def threads(self) -> int:
        """How many threads the present window gives it."""


class BatchConsumer(bootsteps.StartStopStep):
    """The consumer's step: on every connection it keeps queues and prefetch as SQL wants them."""

    requires = ("celery.worker.consumer.tasks:Tasks", "celery.worker.consumer.control:Control")

    def __init__(self, consumer: Consumer, **options: object) -> None:
        super().__init__(consumer, **options)
        self.timer: Timer | None = None
        self._line: Line | None = None
        coordinates = consumer.app.batchq.settings.coordinator_queue in consumer.app.amqp.queues.consume_from
        if consumer.controller.batch_server is not None or coordinates:
            self._line = bear(consumer)
        # A worker of ours takes one kind of message; a worker of the host may run whatever the host sends it.
        self._takes = tickets.RUN if consumer.controller.batch_server is not None else None
        if coordinates and len(consumer.app.amqp.queues.consume_from) == 1:
            self._takes = tickets.COORDINATE
        if self._takes:
            self._queues = intake.Queues(consumer)
            intake.take_only(self._takes, consumer)
            bounds.bound(consumer, self._queues.drop_refused)
            control.govern(consumer, consumer.app.batchq.settings)

    def start(self, consumer: Consumer) -> None:
        """Begin to follow SQL on a new connection."""
        # Tickets are JSON: a host that accepts pickle alone would have Celery reject them.
        takes = consumer.task_consumer
        assert takes is not None
        if takes.accept is not None:
            takes.accept = {*takes.accept, "application/json"}
        if self._line is not None and consumer.hub is not None:
            self._line.watch()
        if not self._takes or consumer.hub is None:
            return
        self._queues.guard()
        server = consumer.controller.batch_server
        act: Callable[[], object]
        if server is None:
            act = partial(self._queues.fit, {consumer.app.batchq.settings.coordinator_queue})
        else:
            assert self._line is not None
            server.ledger.acknowledge = self._line.acknowledge
            self._counts = not celery_gaps.prefetch_by(takes.channel, lambda: server.ledger.room)
            self._listens = True
            act = partial(self._reconcile, consumer, server)
            server.ledger.has_room = partial(self._has_room, consumer)
        consumer.hub.call_later(0, act)  # not now: a message that came at once would find nobody to take it in
        self.timer = consumer.hub.call_repeatedly(LOOK_SECONDS, act)

    def stop(self, consumer: Consumer) -> None:
        """Follow no more, as the connection ends."""
        if self._line is not None:
            self._line.hurry()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self._queues.forget()
            if consumer.controller.batch_server is not None:
                consumer.controller.batch_server.ledger.has_room = None

    def _reconcile(self, consumer: Consumer, server: Wanted) -> None:
        if server.watch.wanted is None or consumer.task_consumer is None:
            return
        groups, _ = server.watch.wanted
        wanted = {server.settings.queue(group) for group in groups} if server.threads else set()
        self._listens = self._queues.fit(wanted) or self._listens
        self._set_prefetch(consumer, server.threads and server.threads + server.settings.tickets_ahead)
        if self._counts:
            self._listen(consumer, server.ledger.room > 0)

    def _has_room(self, consumer: Consumer) -> None:
        """Listen again at once, as the server is full no longer; the end of listening can wait for the next look."""
        self._listen(consumer, True)

    def _listen(self, consumer: Consumer, listens: bool) -> None:
        """Listen, or listen no more.

        A broker that counts unacknowledged messages by the queue (RabbitMQ) would send a full server more of them.
        """
        if listens != self._listens and consumer.task_consumer is not None:
            (consumer.task_consumer.consume if listens else consumer.task_consumer.cancel)()
            self._listens = listens

    def _set_prefetch(self, consumer: Consumer, wanted: int) -> None:
        if consumer.qos.value == wanted:
            return
        if wanted:  # to the broker 0 would mean no limit: a closed server has no consumers instead
            consumer.qos.set(wanted)
        consumer.qos.value = wanted
