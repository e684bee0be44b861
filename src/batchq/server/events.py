"""The events that a worker of ours sends, which Flower and `celery events` show."""

from __future__ import annotations

import time
from typing import Protocol

from batchq.server.celery_types.loop import Hub
from batchq.server.celery_types.worker import Dispatcher

# Events of tasks wait this long, or until there are this many.
GATHERED_SECONDS = 0.1
MOST_GATHERED = 500


class Line(Protocol):
    """The line to the broker that the events take."""

    gives_up: bool

    def lost(self, error: object) -> None:
        """Give the connection up."""


class Events:
    """One connection's events: those of tasks are gathered, and none is sent twice.

    Celery publishes the events of every turn of the loop by themselves, which takes longer than all else that the loop
    does for a task.
    """

    def __init__(self, dispatcher: Dispatcher, hub: Hub, line: Line) -> None:
        self._dispatcher, self._hub, self._line = dispatcher, hub, line
        self._publish_as_ever = dispatcher._publish
        self._gathered_until = 0.0
        dispatcher._publish = self._publish
        if dispatcher.on_send_buffered is not None:
            dispatcher.buffer_limit, dispatcher.on_send_buffered = MOST_GATHERED, self._gather

    def _gather(self) -> None:
        """Take note of an event; on the threads pool its threads call this."""
        now = time.monotonic()
        if now >= self._gathered_until:
            self._gathered_until = now + GATHERED_SECONDS
            self._hub.call_soon(self._hub.call_later, GATHERED_SECONDS, self.send)

    def send(self) -> None:
        """Send what is gathered."""
        if self._dispatcher.enabled and not self._line.gives_up:
            self._dispatcher.flush()

    def keep(self) -> None:
        """Keep what is gathered for the next connection: Celery hands on events of the other buffer alone."""
        for group, events in self._dispatcher._group_buffer.items():
            if events:
                self._dispatcher._outbound_buffer.append((list(events), f"{group}.multi"))
                events.clear()

    def _publish(self, event: object, producer: object, routing_key: str, **options: object) -> None:
        """Send once: Celery would try a heartbeat for ever, and hide the failure of any other event."""
        if self._line.gives_up:
            self._dispatcher._outbound_buffer.append((event, routing_key))
            return
        before = len(self._dispatcher._outbound_buffer)
        self._publish_as_ever(event, producer, routing_key, **options | {"retry": False})
        if len(self._dispatcher._outbound_buffer) > before:
            self._line.lost("it does not take events")
