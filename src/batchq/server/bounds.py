"""Bounds on the messages that our workers read: small, not compressed, and never the end of the worker.

They belong to a connection, so they hold for tickets and ticks, for remote control, and for every other message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from json import JSONDecodeError
from struct import unpack_from

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from batchq.server import tickets
from batchq.server.celery_types.broker import BrokerConnection, Channel, Frame, MessageClass, Popped, RedisClient
from batchq.server.celery_types.worker import Consumer
from batchq.server.intake import count_refused, refuse

# A ticket has a few thousand with its envelope, and Celery's remote control seldom more.
MESSAGE_BYTES = 64 * 1024
TOO_LARGE = b"too large"
# Encodings of text alone: other codecs of Python unpack, and a small message could fill the memory.
ENCODINGS = (None, "", "utf-8", "utf8", "us-ascii", "ascii", "binary")
# Errors that reading garbage can raise.
NO_MESSAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
# AMQP's frames: the announcement of a content, and each of its parts.
HEADER, BODY = 2, 3

logger = logging.getLogger(__name__)


def bound(consumer: Consumer, mend: Callable[[], bool]) -> None:
    """Bound every message that the consumer reads, on each of its connections.

    `mend` is called when Redis refuses to read since a key is no queue. It returns whether it has found that key.
    """
    connect = consumer.connect

    def connect_bounded() -> BrokerConnection:
        connection = connect()
        transport = connection.transport
        drop = partial(_drop, consumer)
        create = transport.create_channel
        transport.create_channel = lambda with_: _bound_channel(create(with_), drop, mend)
        if transport.driver_type == "amqp":
            connection.connection.on_inbound_frame = _bounded_frames(connection.connection.on_inbound_frame)
        return connection

    consumer.connect = connect_bounded
    consumer.on_decode_error = lambda message, _: refuse(message, consumer)


def _drop(consumer: Consumer, what: object) -> None:
    count_refused(consumer)
    logger.warning("dropped something that is no message: %s", what)


def _bound_channel(channel: Channel, drop: Callable[[object], None], mend: Callable[[], bool]) -> Channel:
    channel.Message = _plain(channel.Message)
    if "BRPOP" in getattr(channel, "handlers", ()):
        _bound_lists(channel, drop, mend)
        _bound_broadcasts(channel, drop)
        _bound_restoring(channel)
    return channel


@cache
def _plain(kind: MessageClass) -> MessageClass:
    """A message class that leaves the body packed; `kind` would unpack it before its size is judged."""

    class Plain(kind):
        def __init__(self, *raw: object, **named: object) -> None:
            if packed := _packed(raw[0] if raw else named.get("payload")):
                self.errors = [(ValueError, ValueError(packed), None)]
            super().__init__(*raw, **named)

    return Plain


def _packed(raw: object) -> str | None:
    """The way in which a message would have to be unpacked, or None if it is plain."""
    if isinstance(raw, Mapping):
        headers, encoding = raw.get("headers"), raw.get("content-encoding")
    else:
        properties = getattr(raw, "properties", {})
        headers, encoding = properties.get("application_headers"), properties.get("content_encoding")
    if isinstance(headers, Mapping) and headers.get("compression"):
        return "it is compressed"
    text = isinstance(encoding, str | None) and (encoding and encoding.lower()) in ENCODINGS
    return None if text else "its encoding is none of text"


# --- Redis: a bad message is dropped after it is read, and before it is decoded -----------------------------


def _bound_lists(channel: Channel, drop: Callable[[object], None], mend: Callable[[], bool]) -> None:
    read = channel.handlers["BRPOP"]
    clients: list[RedisClient] = []

    def read_or_drop(**options: object) -> object:
        if channel.client not in clients:
            clients[:] = [channel.client]
            _bound_answers(channel.client)
        try:
            return read(**options)
        except NO_MESSAGE as error:
            drop(_reason(error))
        except channel.ResponseError as error:
            if not (tickets.concerns_one_queue(error) and mend()):
                raise
        return None

    channel.handlers["BRPOP"] = read_or_drop


def _bound_answers(client: RedisClient) -> None:
    before = client.response_callbacks.get("BRPOP", _as_it_came)

    def bounded(answer: object, **options: object) -> Popped:
        popped = before(answer, **options)
        # Something in its place that is no JSON: it counts as read, and the next queue has its turn.
        return (popped[0], TOO_LARGE) if popped and len(popped[1]) > MESSAGE_BYTES else popped

    client.set_response_callback("BRPOP", bounded)


def _as_it_came(answer: Popped, **_: object) -> Popped:
    return answer


def _bound_broadcasts(channel: Channel, drop: Callable[[object], None]) -> None:
    take, read = channel._handle_message, channel.handlers["LISTEN"]

    def take_bounded(client: object, answer: object) -> dict[str, object]:
        taken = take(client, answer)
        data = taken["data"]
        if isinstance(data, bytes | str):  # else it is the number of subscriptions
            try:
                loads(bytes_to_str(data if len(data) <= MESSAGE_BYTES else TOO_LARGE))
            except NO_MESSAGE as error:  # kombu would log all of it, and ends on some of these errors
                drop(_reason(error))
                taken["data"] = None
        return taken

    def read_or_drop(**options: object) -> object:
        while True:
            try:
                return read(**options)
            except NO_MESSAGE as error:
                drop(_reason(error))
            # The loop hears of messages to come, but not of one that is here already.
            if channel.subclient.connection is None or not channel.subclient.connection.can_read(timeout=0):
                return None

    channel._handle_message = take_bounded
    channel.handlers["LISTEN"] = read_or_drop


def _reason(error: Exception) -> str:
    if isinstance(error, JSONDecodeError) and error.doc == TOO_LARGE.decode():
        return f"it has more than {MESSAGE_BYTES} bytes"
    return f"{type(error).__name__}: {str(error)[:200]}"


def _bound_restoring(channel: Channel) -> None:
    """Put no unacknowledged message back that is large or strange; only its own worker can judge it."""
    qos = channel.qos
    restore = qos.restore_by_tag

    def restore_or_leave(tag: object, client: RedisClient | None = None, leftmost: bool = False) -> None:
        with channel.conn_or_acquire(client) as client_:
            size = client_.hstrlen(f"{channel.global_keyprefix}{qos.unacked_key}", tag)
        if size <= MESSAGE_BYTES:
            try:
                restore(tag, client, leftmost)
            except NO_MESSAGE as error:
                logger.debug("left %r unacknowledged: %s", tag, error)

    qos.restore_by_tag = restore_or_leave


# --- AMQP: a header tells the size of a content before it comes ---------------------------------------------


def _bounded_frames(take: Callable[[Frame], bool]) -> Callable[[Frame], bool]:
    """Take the frames in, but an empty content for one that is too large, or whose header cannot be read."""
    left: dict[int, int] = {}

    def take_bounded(frame: Frame) -> bool:
        kind, channel, part = frame
        if kind == BODY and left.get(channel):
            left[channel] -= len(part)
            return False
        if kind != HEADER:
            return take(frame)
        (size,) = unpack_from(">Q", part, 4)
        if 0 < size <= MESSAGE_BYTES and len(part) <= MESSAGE_BYTES:
            try:
                return take(frame)
            except Exception as error:  # raised, it would end the connection, and the next one, for ever
                logger.warning("the header of a message cannot be read: %s", type(error).__name__)
        left[channel] = size
        # Of no size, and without a property.
        return take((kind, channel, bytes(part[:4]) + bytes(8) + bytes(2)))

    return take_bounded
