"""The broker by its URL: whether one is named, whether it can carry tickets, and how Celery is led to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

from kombu.transport import TRANSPORT_ALIASES

from batchq.errors import InvalidInput, closest

# The brokers that can carry tickets, by kombu's names: Redis and Valkey, and RabbitMQ.
BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp")
_TRANSPORTS = {TRANSPORT_ALIASES.get(name) for name in BROKERS} - {None}


class Conf(Protocol):
    """The app's settings that name its broker."""

    broker_read_url: str | Sequence[str] | None
    broker_write_url: str | Sequence[str] | None
    broker_transport: str | None

    def __setitem__(self, name: str, value: str, /) -> None: ...


def is_named(url: str | None, conf: Conf) -> bool:
    """Whether this URL of the settings, or else the app, names a broker; raises InvalidInput for an unfit one.

    `conf` is the app's, which has read Celery's variables of the environment.
    """
    named = [url] if url else [conf.broker_read_url, conf.broker_write_url]
    for urls in filter(None, named):
        for each in urls.split(";") if isinstance(urls, str) else urls:
            _refuse_unfit(each, conf.broker_transport)
    return any(named)


def lead_to(url: str, conf: Conf, *, writes: bool) -> None:
    """Point Celery's own connections in this process at a broker; unless `writes`, only those that read."""
    for kind in ("read", "write") if writes or not conf.broker_write_url else ("read",):
        os.environ.pop(f"CELERY_BROKER_{kind.upper()}_URL", None)
        conf[f"broker_{kind}_url"] = url


def _refuse_unfit(url: str, transport: str | None) -> None:
    """Raise InvalidInput for a broker that cannot carry tickets, or whose URL cannot be read.

    No part of the URL but its scheme is told: any other may be one of a password. `transport` is the one that Celery
    takes for an address without a scheme.
    """
    try:
        scheme, _ = urlsplit(url).scheme, urlsplit(url).port
    except ValueError:
        advice = "In its password, write @ as %40, / as %2F and : as %3A."
        raise InvalidInput(f"The broker URL cannot be read. {advice}") from None
    kind = scheme if "://" in url else transport or "amqp"
    if kind not in BROKERS and TRANSPORT_ALIASES.get(kind, kind) not in _TRANSPORTS:
        raise InvalidInput(
            f"No broker of batchq speaks {kind!r}{closest(kind, BROKERS)}: it is Redis, Valkey or RabbitMQ. "
            "Set BATCHQ_BROKER_URL to redis://… or amqp://…."
        )
