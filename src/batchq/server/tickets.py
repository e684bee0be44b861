"""The ticket as a message: what is in it, how it is published, and how an arriving one is read."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from select import select
from typing import Any

from celery import Celery
from kombu import Connection, Exchange, Producer, Queue
from kombu.transport import pyamqp

from batchq import crash
from batchq.config import Settings
from batchq.engine import Offer
from batchq.errors import BrokerUnreachable, QueueRefused
from batchq.server.broker import opened
from batchq.store.moves import Ticket

RUN = "batchq.run"
COORDINATE = "batchq.coordinate"
VERSION = 1
# A ticket has a few hundred; what is larger is none, and is not even looked at.
MOST_BYTES = 4096
# AMQP's code for a queue that does not exist.
NOT_THERE = 404
# AMQP's number of the method that declares a queue.
DECLARE = (50, 10)
# After so long a queue is declared again, as somebody may have deleted it.
DECLARED_SECONDS = 5.0
# What the broker refuses is tried again after so long, then after twice that, and so on up to the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
# Celery's protocol 2 wants this third part of a body; ours never carries callbacks.
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

logger = logging.getLogger(__name__)


def queue(name: str) -> Queue:
    """The queue of that name; the default exchange routes to it by the name, so there is no binding to lose."""
    # RabbitMQ closes the channel of a message that stays unacknowledged for half an hour; ours may run for days.
    forever = {"x-consumer-timeout": 2**31 - 1}
    return Queue(name, Exchange(""), routing_key=name, durable=True, queue_arguments=forever)


def read(message: Any, settings: Settings) -> Offer | None:
    """The offer in an arriving message, or None if it is not a ticket of ours; never raises, whatever it holds."""
    try:
        if message.content_type != "application/json" or len(message.body) > MOST_BYTES:
            return None
        (version, task, attempt, token, mac), kwargs, _ = json.loads(message.body)
        group = kwargs["group"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if version != VERSION or not (_is_number(task) and _is_number(attempt) and all(map(_is_word, (token, mac, group)))):
        return None
    keys = [settings.ticket_key, *filter(None, [settings.other_ticket_key])]
    seals = (_seal(key, settings, task, attempt, token, group).encode() for key in keys)
    return Offer(task, token, group) if any(hmac.compare_digest(mac.encode(), seal) for seal in seals) else None


def _is_number(value: Any) -> bool:
    """Whether a database can take it for an id."""
    return type(value) is int and 0 <= value < 2**63


def _is_word(value: Any) -> bool:
    """Whether it is text that every database takes: no NUL, and no half of a surrogate pair."""
    return isinstance(value, str) and value.isprintable()


def seal(settings: Settings, task: int, attempt: int, token: str, group: str) -> str:
    """The MAC over all that a ticket says and the queue it is for; empty without a `ticket_key`."""
    return _seal(settings.ticket_key, settings, task, attempt, token, group)


def _seal(key: str, settings: Settings, task: int, attempt: int, token: str, group: str) -> str:
    if not key:
        return ""
    said = json.dumps([VERSION, task, attempt, token, settings.queue(group)])
    return hmac.new(key.encode(), said.encode(), hashlib.sha256).hexdigest()


def headers(token: str, job: str, name: str, run: int, attempt: int) -> dict[str, Any]:
    """The headers by which Flower and the worker's log know a ticket."""
    return {
        **_common(RUN, token),
        "shadow": f"{job} / {name}",
        "argsrepr": f"(run {run}, attempt {attempt})",
    }


def _common(task: str, id_: str) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": task,
        "id": id_,
        "root_id": id_,
        "retries": 0,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "ignore_result": True,
    }


@dataclass(frozen=True, slots=True)
class LocalMessage:
    """Stands for the message of a ticket that its own server took before it was sent."""

    headers: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)

    def ack(self) -> None:
        """There is nothing to acknowledge."""


class Avoided:
    """Names that the broker refused: each is left alone for a while, and for longer each time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, tuple[float, float]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._until and self._monotonic() < self._until[name][0]

    def put(self, name: str) -> bool:
        """Leave the name alone from now on; returns whether it was well before."""
        before = self._until.get(name)
        pause = FIRST_PAUSE if before is None else min(2 * before[1], LONGEST_PAUSE)
        self._until[name] = self._monotonic() + pause, pause
        return before is None

    def clear(self, name: str) -> None:
        """Forget the name, as all is well with it."""
        self._until.pop(name, None)

    @property
    def names(self) -> frozenset[str]:
        """The names to be left alone at this moment."""
        return frozenset(name for name in [*self._until] if name in self) if self._until else frozenset()


def declare(channel: Any, name: str) -> None:
    """See that the queue is there and is ours. Raises QueueRefused; then the channel has forgotten its consumers."""
    try:
        queue(name)(channel).declare()
    except pyamqp.Transport.channel_errors as error:
        raise refused(name, error) from error


def refused(name: str, error: Exception) -> QueueRefused:
    """The sentence about a queue that the broker refuses, with what helps."""
    code = getattr(error, "reply_code", None)
    said = str(getattr(error, "reply_text", "") or error).strip().rstrip(".")
    return QueueRefused(queue=name, reason=said, advice=_ADVICE.get(code, _ADVICE[None]))


_ADVICE = {
    403: "Allow this user to configure, write and read it.",
    405: "End whoever holds it for himself alone.",
    406: "Delete it: batchq makes it anew.",
    None: "Delete what has its name, if it is of another kind, or allow this user to use it.",
}


class Publisher:
    """Sends messages over one held connection, from one thread; reconnects once before it says the broker is away."""

    def __init__(self, app: Celery, settings: Settings, patience: float = 5.0, connect: float | None = None) -> None:
        self._app = app
        self._settings = settings
        self._patience = patience
        self._connect = connect or patience
        self._producer: Producer | None = None
        self._declared: dict[str, float] = {}
        self._declaring: Any = None
        self._answered = 0.0
        self._avoided = Avoided()

    def publish(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Send each ticket to the queue of its group; returns those whose queue the broker refuses.

        Raises BrokerUnreachable; a ticket sent twice does no harm.
        """
        return [ticket for ticket in tickets if not self._published(ticket)]

    @property
    def unsendable(self) -> frozenset[str]:
        """The groups whose tickets cannot be sent, as far as this process knows, until they are tried again."""
        return self._avoided.names

    def _published(self, ticket: Ticket) -> bool:
        if ticket.group in self._avoided:
            return False
        mac = seal(self._settings, ticket.task, ticket.attempt, ticket.token, ticket.group)
        args = [VERSION, ticket.task, ticket.attempt, ticket.token, mac]
        said = headers(ticket.token, ticket.job, ticket.name, ticket.run, ticket.attempt)
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
        self._send(self._settings.coordinator_queue, [], {}, {**_common(COORDINATE, id_), "expires": expires})

    def check(self) -> None:
        """Raise BrokerUnreachable unless the broker answers."""
        self._twice(
            lambda producer: producer.connection.ensure_connection(
                max_retries=1, interval_start=0, timeout=self._connect
            )
        )

    def try_queue(self, name: str, *, make: bool) -> None:
        """Raise QueueRefused where the broker refuses this queue, BrokerUnreachable.

        One that is not there yet is made if told to; else only what is there can be judged.
        """
        self._twice(lambda producer: try_queue(producer.connection, name, make=make))

    def close(self) -> None:
        """Drop the connection; the next message opens another one."""
        producer, self._producer = self._producer, None
        self._declaring = None
        self._declared.clear()
        self._answered = 0.0
        if producer is not None:
            try:
                producer.connection.collect(socket_timeout=0.2)
            except Exception:  # it may be broken in any way, and is thrown away
                logger.debug("dropping the broker connection", exc_info=True)

    @property
    def url(self) -> str:
        """The broker's address without its password."""
        connection = self._app.connection_for_write(self._settings.broker_url)
        address = str(connection.as_uri())
        # For Redis kombu masks a password even where there is none.
        return address if connection.password else address.replace(":**@", "")

    def _send(self, name: str, args: list[Any], kwargs: dict[str, Any], headers: dict[str, Any]) -> None:
        body = json.dumps([args, kwargs, NOTHING])

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
                if concerns_one_queue(error):
                    raise refused(name, error) from error
                raise

        self._twice(deliver)

    def _make_sure(self, producer: Producer, name: str) -> None:
        """Where a message is sent without an answer (AMQP), see that somebody is there, and that the queue is."""
        connection = producer.connection
        if connection.transport.driver_type != "amqp":
            return
        if select([connection.connection.sock], [], [], 0)[0]:  # it says something: most likely that it is gone
            self._listen(connection)
        now, before = time.monotonic(), self._declared.get(name)
        if before is None or now - before >= DECLARED_SECONDS:
            # Now and then an answer tells that the connection still leads to the broker: a silent one takes all.
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
            # A queue that was well is refused now: the next ticket of each asks, and waits for the answer.
            self._declared.clear()

    def _declare(self, connection: Connection, name: str, *, wait: bool) -> None:
        """Declare a queue, at first with an answer: a ticket would go nowhere where the queue is refused.

        On a channel of its own, as a refusal takes with it all that comes after it on the channel.
        """
        if self._declaring is None or not self._declaring.is_open:
            self._declaring = connection.channel()
        if wait:
            declare(self._declaring, name)
        else:
            queue(name)(self._declaring).declare(nowait=True)

    def _twice(self, act: Callable[[Producer], object]) -> None:
        # The first message after a broker's restart meets a broken pipe; only a new connection tells that it is away.
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
            # Nobody would send its heartbeats, and what is written to a connection that was closed for that is lost.
            connection = self._app.connection_for_write(self._settings.broker_url, heartbeat=0)
            opened(connection, answer=self._patience, connect=self._connect)
            self._producer = Producer(connection, auto_declare=False)
        return self._producer


def concerns_one_queue(error: Exception) -> bool:
    """Whether an error of sending says something of the message or of its queue alone, and not of the broker."""
    unsendable = isinstance(error, ValueError | TypeError | struct.error)
    return unsendable or str(error).startswith(("WRONGTYPE", "NOPERM"))


def try_queue(connection: Connection, name: str, *, make: bool) -> None:
    """Raise QueueRefused where the broker refuses this queue; one that is not there yet is made if told to."""
    if connection.transport.driver_type == "redis":
        _try_keys(connection.default_channel, name)
    elif connection.transport.driver_type == "amqp":
        with closing(connection.channel()) as channel:
            if make or _is_there(channel, name):
                declare(channel, name)


def _is_there(channel: Any, name: str) -> bool:
    try:
        channel.queue_declare(name, passive=True)
    except pyamqp.Transport.channel_errors as error:
        if getattr(error, "reply_code", None) == NOT_THERE:
            return False
        raise refused(name, error) from error
    return True


def _try_keys(channel: Any, name: str) -> None:
    keys = [channel._q_for_pri(name, priority) for priority in channel.priority_steps]
    with channel.conn_or_acquire() as client:
        try:
            kinds = {key: client.type(key) for key in keys}
        except channel.ResponseError as error:
            if concerns_one_queue(error):
                raise refused(name, error) from error
            raise
    for key, kind in kinds.items():
        if kind not in (b"list", b"none"):
            shown = kind.decode(errors="replace")
            raise refused(name, ValueError(f"its key {key!r} is a {shown}, where a list should be"))
