"""Sending messages: tickets to the queues of their groups, and ticks to the coordinators."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from select import select

from celery import Celery
from kombu import Connection, Producer
from kombu.transport import pyamqp

from batchq import crash
from batchq.config import Settings
from batchq.errors import BrokerUnreachable, QueueRefused
from batchq.server import tickets
from batchq.server.celery_types.broker import Channel
from batchq.server.connection import opened
from batchq.server.tickets import Avoided
from batchq.store.moves import Ticket

# AMQP's number of the method that declares a queue.
DECLARE = (50, 10)
# A queue is declared again after this time: somebody may have deleted it.
DECLARED_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Publisher:
    """Sends messages over one connection, from one thread; reconnects once before it says that the broker is away."""

    def __init__(self, app: Celery, settings: Settings, patience: float = 5.0, connect: float | None = None) -> None:
        self._app = app
        self._settings = settings
        self._patience = patience
        self._connect = connect or patience
        self._producer: Producer | None = None
        self._declared: dict[str, float] = {}
        self._declaring: Channel | None = None
        self._answered = 0.0
        self._avoided = Avoided()

    def publish(self, waiting: Iterable[Ticket]) -> list[Ticket]:
        """Send each ticket to the queue of its group; returns the tickets whose queue the broker refuses.

        Raises BrokerUnreachable. A ticket sent twice does no harm.
        """
        return [ticket for ticket in waiting if not self._published(ticket)]

    @property
    def unsendable(self) -> frozenset[str]:
        """The groups whose queues the broker refused to this process, until they are tried again."""
        return self._avoided.names

    def _published(self, ticket: Ticket) -> bool:
        if ticket.group in self._avoided:
            return False
        args = tickets.arguments(self._settings, ticket)
        said = tickets.headers(ticket.token, ticket.job, ticket.name, ticket.run, ticket.attempt)
        try:
            self._send(self._settings.queue(ticket.group), args, {"group": ticket.group}, said)
        except QueueRefused as error:
            if self._avoided.put(ticket.group):
                logger.warning("group %r is set aside, its tickets cannot be sent: %s", ticket.group, error)
            return False
        self._avoided.clear(ticket.group)
        crash.point("ticket-published")
        return True

    def send_tick(self, id_: str, expires: str) -> None:
        """Send the coordinators' tick, void after `expires` (ISO 8601). Raises BrokerUnreachable, QueueRefused."""
        self._send(self._settings.coordinator_queue, [], {}, tickets.tick_headers(id_, expires))

    def check(self) -> None:
        """Raise BrokerUnreachable unless the broker answers."""
        self._twice(
            lambda producer: producer.connection.ensure_connection(
                max_retries=1, interval_start=0, timeout=self._connect
            )
        )

    def try_queue(self, name: str, *, make: bool) -> None:
        """Raise QueueRefused where the broker refuses this queue, BrokerUnreachable where it does not answer.

        With `make`, a missing queue is made; without it, a missing queue cannot be judged, and passes.
        """
        self._twice(lambda producer: tickets.try_queue(producer.connection, name, make=make))

    def close(self) -> None:
        """Drop the connection; the next message opens another one."""
        producer, self._producer = self._producer, None
        self._declaring = None
        self._declared.clear()
        self._answered = 0.0
        if producer is not None:
            try:
                producer.connection.collect(socket_timeout=0.2)
            except Exception:  # a broken connection may raise anything, and is thrown away
                logger.debug("dropping the broker connection", exc_info=True)

    @property
    def url(self) -> str:
        """The broker's address without its password."""
        connection = self._app.connection_for_write(self._settings.broker_url)
        address = str(connection.as_uri())
        # For Redis kombu shows a masked password even where there is none.
        return address if connection.password else address.replace(":**@", "")

    def _send(self, name: str, args: list[object], kwargs: dict[str, object], headers: dict[str, object]) -> None:
        body = tickets.body(args, kwargs)

        def deliver(producer: Producer) -> None:
            self._make_sure(producer, name)
            try:
                producer.publish(
                    body,
                    exchange="",
                    routing_key=name,
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=headers,
                    correlation_id=headers["id"],
                    delivery_mode=2,
                )
            except Exception as error:
                if tickets.concerns_one_queue(error):
                    raise tickets.refused(name, error) from error
                raise

        self._twice(deliver)

    def _make_sure(self, producer: Producer, name: str) -> None:
        """See that the broker and the queue are there, where a message is sent without an answer (AMQP)."""
        connection = producer.connection
        if connection.transport.driver_type != "amqp":
            return
        if select([connection.connection.sock], [], [], 0)[
            0
        ]:  # unread words of the broker: most likely that it goes away
            self._listen(connection)
        now, before = time.monotonic(), self._declared.get(name)
        if before is None or now - before >= DECLARED_SECONDS:
            # An answer is waited for now and then: a connection that leads nowhere would take every message.
            wait = before is None or now - self._answered >= DECLARED_SECONDS
            self._declare(connection, name, wait=wait)
            self._declared[name] = now
            self._answered = now if wait else self._answered

    def _listen(self, connection: Connection) -> None:
        try:
            connection.drain_events(timeout=0.01)
        except TimeoutError:
            pass
        except pyamqp.Transport.channel_errors as error:
            if getattr(error, "method_sig", None) != DECLARE:
                raise
            # A queue is refused from now on, and AMQP does not say which: each is declared anew, with an answer.
            self._declared.clear()

    def _declare(self, connection: Connection, name: str, *, wait: bool) -> None:
        """Declare a queue, with `wait` for the broker's answer: a ticket for a refused queue would get lost.

        A channel of its own: a refusal takes with it everything that comes after it on the channel.
        """
        if self._declaring is None or not self._declaring.is_open:
            self._declaring = connection.channel()
        if wait:
            tickets.declare(self._declaring, name)
        else:
            tickets.queue(name)(self._declaring).declare(nowait=True)

    def _twice(self, act: Callable[[Producer], object]) -> None:
        # After a broker's restart the old connection is broken; only a new one tells whether the broker is away.
        for last in (self._producer is None, True):
            try:
                act(self._open())
                return
            except QueueRefused:
                raise
            except Exception as error:
                self.close()
                if last:
                    reason = str(error).strip().rstrip(".") or type(error).__name__
                    raise BrokerUnreachable(url=self.url, reason=reason) from error

    def _open(self) -> Producer:
        if self._producer is None:
            # No heartbeat: nobody would send it. The broker would close the connection, and messages would get lost.
            connection = self._app.connection_for_write(self._settings.broker_url, heartbeat=0)
            opened(connection, answer=self._patience, connect=self._connect)
            self._producer = Producer(connection, auto_declare=False)
        return self._producer
