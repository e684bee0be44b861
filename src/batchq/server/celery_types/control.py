"""Remote control: where commands arrive, and what they see of the worker (Celery, kombu)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from celery import Celery

from batchq.server.celery_types.broker import Channel, Message
from batchq.server.celery_types.worker import Consumer

# A command: it takes the worker's state and named arguments, and answers a JSON value.
Handler = Callable[..., object]


class Exchange(Protocol):
    """An exchange: messages are sent to it by its name."""

    name: str


class LogicalClock(Protocol):
    """Celery's Lamport clock."""

    def forward(self) -> int: ...


class Mailbox(Protocol):
    """kombu's mailbox, which carries commands and their answers."""

    clock: LogicalClock
    reply_exchange: Exchange
    serializer: str | None


class State(Protocol):
    """The worker as commands of remote control see it."""

    app: Celery
    consumer: Consumer


class Node(Protocol):
    """A worker as a node of remote control, with the commands that it obeys."""

    hostname: str
    channel: Channel
    handlers: Mapping[str, Handler]
    mailbox: Mailbox
    state: State
    reply: Callable[..., object]


class Box(Protocol):
    """The mailbox of one worker, where commands arrive."""

    hostname: str
    node: Node
    on_message: Callable[[object, Message], object]

    def reset(self) -> None: ...
