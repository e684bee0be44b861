"""Events of tasks are gathered, so that the loop publishes few messages; and none is kept back or sent twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.asynchronous import Hub

from batchq.server.events import MOST_GATHERED, Events


class Heard:
    """A line to a broker in memory, with the messages that arrived there."""

    def __init__(self) -> None:
        self.gives_up = False
        self.why: list[object] = []
        self.hub = Hub()
        self.hub.call_repeatedly(0.01, lambda: None)  # or the loop would wait a second for nothing
        self.app = Celery(broker="memory://")
        self.connection = Connection("memory://")
        self.dispatcher = self.app.events.Dispatcher(
            self.connection, hostname="S@here", buffer_group=["task"], on_send_buffered=lambda: None
        )
        self.messages: list[Any] = []
        self.receiver = self.app.events.Receiver(self.connection)
        self.consumer = self.receiver.get_consumers(
            lambda queues, callbacks, **_: self.connection.Consumer(
                queues, callbacks=[lambda body, message: self.messages.append(body)], no_ack=True
            ),
            self.connection.default_channel,
        )[0]
        self.consumer.consume()
        self.events = Events(self.dispatcher, self.hub, self)

    def lost(self, error: object) -> None:
        self.gives_up = True
        self.why.append(error)

    def happen(self, *names: str) -> None:
        for name in names:
            self.dispatcher.send("task-received", uuid=name)

    def listen(self) -> list[list[str]]:
        """What arrived by now, message by message."""
        while True:
            try:
                self.connection.drain_events(timeout=0.01)
            except TimeoutError:
                break
        heard = [[event["uuid"] for event in body] for body in self.messages if isinstance(body, list)]
        self.messages.clear()
        return heard

    def turn(self, seconds: float) -> None:
        """Turn the loop for so long."""
        loop, end = self.hub.create_loop(), time.monotonic() + seconds
        while time.monotonic() < end:
            next(loop)

    def send(self) -> list[list[str]]:
        """Turn the loop until nothing is kept back; returns what arrived."""
        loop, end = self.hub.create_loop(), time.monotonic() + 10
        while any(self.dispatcher._group_buffer.values()):
            assert time.monotonic() < end
            next(loop)
        return self.listen()


@pytest.fixture
def heard() -> Iterator[Heard]:
    line = Heard()
    yield line
    line.connection.close()
    line.hub.close()


def test_events_of_many_turns_go_out_together_and_in_order(heard: Heard) -> None:
    for number in range(20):
        heard.happen(f"{number}")
        heard.turn(0)
    assert heard.listen() == []
    assert heard.send() == [[f"{number}" for number in range(20)]]


def test_later_events_are_sent_too(heard: Heard) -> None:
    for name in ("first", "second", "third"):
        heard.happen(name)
        assert heard.send() == [[name]]


def test_very_many_do_not_wait(heard: Heard) -> None:
    heard.happen(*map(str, range(MOST_GATHERED)))
    assert [len(message) for message in heard.listen()] == [MOST_GATHERED]


def test_the_last_ones_are_sent_on_demand_and_once(heard: Heard) -> None:
    heard.happen("a", "b")
    heard.events.send()
    assert heard.listen() == [["a", "b"]]
    heard.turn(0.25)
    assert heard.listen() == []


def test_a_broker_that_takes_no_events_is_given_up_once(heard: Heard) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("closed")

    heard.dispatcher.producer.publish = refuse
    heard.happen("a")
    heard.turn(0.25)
    heard.happen("b")
    heard.turn(0.25)
    assert heard.why == ["it does not take events"]


def next_line(before: Heard) -> Heard:
    """The line after this one; Celery lets its dispatcher go on with what the old one kept."""
    line = Heard()
    line.dispatcher.extend_buffer(before.dispatcher)
    line.dispatcher.flush()
    return line


def test_what_was_gathered_when_the_connection_broke_goes_over_the_next_one(heard: Heard) -> None:
    heard.happen("a", "b")
    heard.events.keep()
    heard.dispatcher.enabled = False
    heard.events.send()
    assert heard.listen() == []
    after = next_line(heard)
    assert after.listen() == [["a", "b"]]
    after.connection.close()


def test_a_line_that_was_given_up_sends_nothing_and_keeps_all(heard: Heard) -> None:
    heard.happen("a")
    heard.gives_up = True
    heard.turn(0.25)
    heard.happen(*map(str, range(MOST_GATHERED)))
    assert heard.listen() == []
    heard.events.keep()
    after = next_line(heard)
    assert [name for message in after.listen() for name in message] == ["a", *map(str, range(MOST_GATHERED))]
    after.connection.close()


def test_nothing_is_sent_after_events_were_switched_off(heard: Heard) -> None:
    heard.happen("a")
    heard.dispatcher.enabled = False
    heard.turn(0.25)
    assert heard.listen() == []
