"""A connection to the broker with bounded waits: it is made now or not at all, and closed without waiting."""

from __future__ import annotations

import contextlib

from celery.utils.threads import bound_open_broker_sockets
from kombu import Connection
from redis.exceptions import NoPermissionError

from batchq.server.celery_types.broker import BrokerConnection

# The longest wait for an answer of the broker inside the loop, where nothing else happens meanwhile.
ANSWER_SECONDS = 1.0
# The longest wait for a connection where the loop does not stand still: a TLS handshake over a slow line takes long.
CONNECT_SECONDS = 4.0
# Both sides notice a silent connection after twice this time; RabbitMQ keeps our queues locked until then.
HEARTBEAT_SECONDS = 3
# The longest wait to close a connection that was given up: nothing it says matters any more.
BROKEN_SECONDS = 0.01


def opened(
    connection: BrokerConnection, *, answer: float = ANSWER_SECONDS, connect: float = ANSWER_SECONDS
) -> BrokerConnection:
    """The connection, made within `connect` seconds or not at all; no answer will take longer than `answer` seconds."""
    _bound(connection, answer, connect)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=connect)
        if connection.transport.driver_type == "amqp":
            # The socket's own time-out: amqp reads on after its `read_timeout`.
            connection.connection.transport.sock.settimeout(answer)
    except BaseException:
        discard(connection)
        raise
    return connection


def _bound(connection: BrokerConnection, answer: float, connect: float) -> None:
    """Set the connection's time-outs, unless the project's own are shorter."""
    options = dict(connection.transport_options or {})
    if connection.transport.driver_type == "redis":
        for name, seconds in (("socket_timeout", answer), ("socket_connect_timeout", connect)):
            options[name] = min(options.get(name) or seconds, seconds)
        options["health_check_interval"] = HEARTBEAT_SECONDS
        options["retry_on_timeout"] = False
        connection.transport_options = options
    else:
        connection.connect_timeout = min(connection.connect_timeout or connect, connect)


def refusal(connection: BrokerConnection) -> Exception | None:
    """Why this broker does not work at this moment, tried on a connection of its own; None if it does."""
    probe: Connection = connection.clone()
    try:
        opened(probe, answer=CONNECT_SECONDS, connect=CONNECT_SECONDS)
        if probe.transport.driver_type == "redis":
            _write(probe)
        return None
    except Exception as error:
        return error
    finally:
        discard(probe)


def _write(probe: Connection) -> None:
    """Have Redis take a write: as a replica, or short of memory or disk, it answers but takes none."""
    with contextlib.suppress(NoPermissionError):  # a user who may use only our queues can work
        probe.channel().client.set("batchq.probe", "", ex=60)


def discard(connection: BrokerConnection | None) -> None:
    """Close a connection without waiting for anybody."""
    if connection is None:
        return
    bound_open_broker_sockets(connection, BROKEN_SECONDS)
    with contextlib.suppress(Exception):
        # For Redis not `collect`: it sets a time-out for every socket that this process opens meanwhile.
        (connection.collect if hasattr(connection.transport, "_collect") else connection.close)()
