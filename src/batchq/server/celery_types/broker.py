"""Messages, connections to the broker, and channels on them (kombu, amqp, redis-py)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

# Errors by which a worker knows that a connection, or a channel, has ended.
Errors = tuple[type[BaseException], ...]
# A frame of AMQP: its kind, the number of its channel, and its payload.
Frame = tuple[int, int, bytes]
# Redis' answer to BRPOP: the key and the message.
Popped = tuple[bytes, bytes] | None
# A transport's class of messages, a base of ours. It is `Any`: mypy refuses a typed variable as a base class.
MessageClass = Any


class Message(Protocol):
    """A message that has arrived; nothing in it can be trusted."""

    headers: object
    body: bytes | str
    content_type: str | None

    def ack(self) -> None:
        """Tell the broker that the message is done."""

    def ack_log_error(self, logger: logging.Logger, errors: Errors) -> None:
        """Acknowledge it, and log one of these errors instead of raising it."""


class RedisClient(Protocol):
    """redis-py's client."""

    response_callbacks: Mapping[str, Callable[..., Popped]]

    def set_response_callback(self, command: str, callback: Callable[..., Popped]) -> None: ...
    def hstrlen(self, name: str, key: object) -> int: ...
    def type(self, name: str) -> bytes: ...
    def set(self, name: str, value: str, *, ex: int) -> object: ...


class Quota(Protocol):
    """kombu's count of unacknowledged messages, for a channel without AMQP."""

    can_consume: Callable[[], bool] | None
    unacked_key: str
    restore_by_tag: Callable[[object, RedisClient | None, bool], object]


class Subscriber(Protocol):
    """The Redis client that receives a channel's broadcasts; `connection` is None once it is lost."""

    connection: Any


class Channel(Protocol):
    """An AMQP channel, or kombu's imitation of one over Redis; many parts exist on Redis alone."""

    Message: MessageClass
    ResponseError: type[Exception]
    handlers: MutableMapping[str, Callable[..., object]]
    client: RedisClient
    subclient: Subscriber
    qos: Quota
    do_restore: bool
    is_open: bool
    global_keyprefix: str
    priority_steps: Sequence[int]
    basic_consume: Callable[..., object]
    basic_qos: Callable[[int, int, bool], object]
    _handle_message: Callable[[object, object], dict[str, object]]

    def conn_or_acquire(self, client: RedisClient | None = None) -> AbstractContextManager[RedisClient]: ...
    def queue_declare(self, queue: str, *, passive: bool) -> object: ...
    def close(self) -> None: ...
    def _q_for_pri(self, queue: str, priority: int) -> str: ...


class AmqpTransport(Protocol):
    """The socket of a connection to RabbitMQ."""

    sock: socket.socket


class AmqpConnection(Protocol):
    """amqp's own connection, below kombu's."""

    sock: socket.socket
    transport: AmqpTransport
    on_inbound_frame: Callable[[Frame], bool]


class Transport(Protocol):
    """kombu's transport: its client for one kind of broker."""

    driver_type: str
    create_channel: Callable[[object], Channel]


class BrokerConnection(Protocol):
    """kombu's connection to the broker, opened at its first use."""

    transport: Transport
    transport_options: Mapping[str, Any] | None
    connect_timeout: float | None
    connection: AmqpConnection
    password: str | None

    @property
    def default_channel(self) -> Channel: ...
    def ensure_connection(self, *, max_retries: int, interval_start: float, timeout: float) -> object: ...
    def clone(self) -> BrokerConnection: ...
    def channel(self) -> Channel: ...
    def drain_events(self, *, timeout: float) -> object: ...
    def as_uri(self) -> str: ...
    def close(self) -> None: ...
    def collect(self, socket_timeout: float | None = None) -> None: ...
