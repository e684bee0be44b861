"""The ticket as a message, signed and read, and the queue that carries it, where the broker may refuse it."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from kombu import Connection, Exchange, Queue
from kombu.transport import pyamqp

from batchq.config import Settings
from batchq.engine import Offer
from batchq.errors import QueueRefused
from batchq.server.celery_types.broker import Channel, Message
from batchq.store.moves import Ticket

RUN = "batchq.run"
COORDINATE = "batchq.coordinate"
VERSION = 1
# A ticket has a few hundred bytes. A larger message is not one of ours, and would take long to parse.
MOST_BYTES = 4096
# AMQP's code for a queue that does not exist.
NOT_THERE = 404
# A refused queue is tried again after the first pause; each further pause is twice as long, up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
# Celery's protocol 2 wants this third part of a body; a ticket never carries callbacks.
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def queue(name: str) -> Queue:
    """The queue of that name. The default exchange routes to it by name, so there is no binding to lose."""
    # RabbitMQ closes a channel whose message stays unacknowledged for half an hour; a task may run for days.
    forever = {"x-consumer-timeout": 2**31 - 1}
    return Queue(name, Exchange(""), routing_key=name, durable=True, queue_arguments=forever)


def read(message: Message, settings: Settings) -> Offer | None:
    """The offer in an arriving message; None if it is no ticket of ours. Never raises, whatever the message holds."""
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


def _is_number(value: object) -> bool:
    """Whether a database can take the value for an id."""
    return type(value) is int and 0 <= value < 2**63


def _is_word(value: object) -> bool:
    """Whether the value is text that every database takes: no NUL, and no half of a surrogate pair."""
    return isinstance(value, str) and value.isprintable()


def seal(settings: Settings, task: int, attempt: int, token: str, group: str) -> str:
    """The MAC over a ticket's facts and its queue; empty without a `ticket_key`."""
    return _seal(settings.ticket_key, settings, task, attempt, token, group)


def _seal(key: str, settings: Settings, task: int, attempt: int, token: str, group: str) -> str:
    if not key:
        return ""
    said = json.dumps([VERSION, task, attempt, token, settings.queue(group)])
    return hmac.new(key.encode(), said.encode(), hashlib.sha256).hexdigest()


def body(args: list[object], kwargs: dict[str, object]) -> str:
    """The body of a message as Celery's protocol 2 has it."""
    return json.dumps([args, kwargs, NOTHING])


def arguments(settings: Settings, ticket: Ticket) -> list[object]:
    """The positional arguments of a ticket's message: its facts, sealed."""
    mac = seal(settings, ticket.task, ticket.attempt, ticket.token, ticket.group)
    return [VERSION, ticket.task, ticket.attempt, ticket.token, mac]


def headers(token: str, job: str, name: str, run: int, attempt: int) -> dict[str, object]:
    """The headers that show a ticket in Flower and in the worker's log."""
    return {
        **_common(RUN, token),
        "shadow": f"{job} / {name}",
        "argsrepr": f"(run {run}, attempt {attempt})",
    }


def tick_headers(id_: str, expires: str) -> dict[str, object]:
    """The headers of the coordinators' tick, void after `expires` (ISO 8601)."""
    return {**_common(COORDINATE, id_), "expires": expires}


def _common(task: str, id_: str) -> dict[str, object]:
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
    """The stand-in for a message, where a server takes its own ticket before it is sent."""

    headers: Mapping[str, object] = field(default_factory=dict)
    body: bytes = b""
    delivery_info: Mapping[str, object] = field(default_factory=dict)
    properties: Mapping[str, object] = field(default_factory=dict)

    def ack(self) -> None:
        """Do nothing: no broker waits for it."""


class Avoided:
    """Names that the broker refused. Each is left alone for a while, and for longer each time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, tuple[float, float]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._until and self._monotonic() < self._until[name][0]

    def put(self, name: str) -> bool:
        """Leave the name alone from now on; returns whether all was well with it before."""
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


def declare(channel: Channel, name: str) -> None:
    """See that the queue is there and is ours. Raises QueueRefused; the channel has then lost its consumers."""
    try:
        queue(name)(channel).declare()
    except pyamqp.Transport.channel_errors as error:
        raise refused(name, error) from error


def refused(name: str, error: Exception) -> QueueRefused:
    """The error for a queue that the broker refuses, with advice."""
    code = getattr(error, "reply_code", None)
    said = str(getattr(error, "reply_text", "") or error).strip().rstrip(".")
    return QueueRefused(queue=name, reason=said, advice=_ADVICE.get(code, _ADVICE[None]))


_ADVICE = {
    403: "Allow this user to configure, write and read it.",
    405: "End whoever holds it for himself alone.",
    406: "Delete it: batchq makes it anew.",
    None: "Delete what has its name, if it is of another kind, or allow this user to use it.",
}


def concerns_one_queue(error: Exception) -> bool:
    """Whether an error of sending concerns only the message or its queue, and not the whole broker."""
    unsendable = isinstance(error, ValueError | TypeError | struct.error)
    return unsendable or str(error).startswith(("WRONGTYPE", "NOPERM"))


def try_queue(connection: Connection, name: str, *, make: bool) -> None:
    """Raise QueueRefused where the broker refuses this queue; with `make`, a missing queue is made."""
    if connection.transport.driver_type == "redis":
        _try_keys(connection.default_channel, name)
    elif connection.transport.driver_type == "amqp":
        with closing(connection.channel()) as channel:
            if make or _is_there(channel, name):
                declare(channel, name)


def _is_there(channel: Channel, name: str) -> bool:
    try:
        channel.queue_declare(name, passive=True)
    except pyamqp.Transport.channel_errors as error:
        if getattr(error, "reply_code", None) == NOT_THERE:
            return False
        raise refused(name, error) from error
    return True


def _try_keys(channel: Channel, name: str) -> None:
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
