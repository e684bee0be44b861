"""Brokers that answer, and say no: how each of them is brought to it, and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import amqp
import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from drills.chaos.faults import Blow, Surgeon
from drills.chaos.installation import Installation
from support.brokers import RabbitMQ, Valkey

ERRORS = (OSError, RedisError, amqp.AMQPError, OperationalError)
PASSWORD = "nobody was told"
JUNK = 500
SHORT_SECONDS = 1.2


class Refusal(NamedTuple):
    """What makes a broker refuse for so many seconds, and what makes it take again what it is given."""

    begin: Callable[[Installation, float], object]
    end: Callable[[Installation], object]


# --- Valkey -------------------------------------------------------------------------------------------------


def tell(site: Installation, *commands: tuple[str, ...], password: str | None = None) -> None:
    """Give these commands to the Valkey, past all doors."""
    assert isinstance(site._broker, Valkey)
    with redis.Redis(unix_socket_path=str(site._broker.target), password=password, socket_timeout=30) as client:
        for command in commands:
            client.execute_command(*command)


def _to(*commands: str) -> Callable[..., None]:
    """Give commands, each of words with blanks between; `-` is an empty word, `_` a blank."""
    split = [tuple({"-": ""}.get(word, word.replace("_", " ")) for word in command.split()) for command in commands]
    return lambda site, *_: tell(site, *split)


def _cannot_save(site: Installation, _: float) -> None:
    tell(site, ("CONFIG", "SET", "save", "3600 1"), ("CONFIG", "SET", "dir", "/proc"), ("BGSAVE",))


def _can_save(site: Installation) -> None:
    assert isinstance(site._broker, Valkey)
    tell(site, ("CONFIG", "SET", "save", ""), ("CONFIG", "SET", "dir", str(site._broker.target.parent)))


def _load(site: Installation, seconds: float) -> None:
    """Let it load what it holds, slowly; the command comes back when that is done."""
    delay = str(int(seconds * 1_000_000 / JUNK))
    tell(site, ("DEBUG", "POPULATE", str(JUNK), "junk"))
    tell(site, ("CONFIG", "SET", "loading-process-events-interval-bytes", "1024"))
    tell(site, ("CONFIG", "SET", "key-load-delay", delay))
    threading.Thread(target=_reload, args=(site,), daemon=True).start()


def _reload(site: Installation) -> None:
    with suppress(RedisError):  # another fault may end it
        tell(site, ("DEBUG", "RELOAD"))


def _loaded(site: Installation) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(RedisError):
            tell(site, ("CONFIG", "SET", "key-load-delay", "0"), ("DEL", *(f"junk:{each}" for each in range(JUNK))))
            return
        time.sleep(0.05)


def _lock_out(site: Installation, _: float) -> None:
    tell(site, ("CONFIG", "SET", "requirepass", PASSWORD))
    with suppress(RedisError):  # it is one of those that are sent away
        tell(site, ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"), password=PASSWORD)


def _let_in(site: Installation) -> None:
    with suppress(RedisError):  # it may have begun anew, without a password
        tell(site, ("CONFIG", "SET", "requirepass", ""), password=PASSWORD)


def _wrong_type(site: Installation, _: float) -> None:
    for queue in _queues(site):
        tell(site, ("DEL", queue), ("SET", queue, "a word where a list should be"))


def _right_type(site: Installation) -> None:
    for queue in _queues(site):
        with suppress(RedisError):  # a list by now
            tell(site, ("GETDEL", queue))


def _queues(site: Installation) -> list[str]:
    settings = site.batch.settings
    return [settings.queue("default"), settings.queue("BG1"), settings.coordinator_queue]


VALKEY: Mapping[str, Refusal] = {
    "READONLY": Refusal(_to("REPLICAOF 127.0.0.1 1"), _to("REPLICAOF NO ONE")),
    "OOM": Refusal(_to("CONFIG SET maxmemory 1"), _to("CONFIG SET maxmemory 0")),
    "MISCONF": Refusal(_cannot_save, _can_save),
    "LOADING": Refusal(_load, _loaded),
    "NOAUTH": Refusal(_lock_out, _let_in),
    "WRONGTYPE": Refusal(_wrong_type, _right_type),
}


# --- RabbitMQ -----------------------------------------------------------------------------------------------


def _other_arguments(site: Installation, _: float) -> None:
    """Put a queue of another kind under a group's name; whoever declares it as ours is refused from then on."""
    queue = site.batch.settings.queue("BG1")
    for _ in range(20):
        with site.batch.app.connection_for_write(connect_timeout=2) as connection:
            channel = connection.channel()
            channel.queue_delete(queue)
            with suppress(*connection.channel_errors):  # somebody was faster
                channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-length": 1000})
                return


def _own_arguments(site: Installation) -> None:
    with site.batch.app.connection_for_write(connect_timeout=2) as connection:
        for queue in _queues(site):
            channel = connection.channel()
            with suppress(*connection.channel_errors):
                channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-length": 1000})
                channel.queue_delete(queue)


RABBITMQ: Mapping[str, Refusal] = {
    "no room on its disk": Refusal(
        lambda site, _: site.broker_disk.fill(leave=site.least_free // 2), lambda site: site.broker_disk.free()
    ),
    "a queue with other arguments": Refusal(_other_arguments, _own_arguments),
}


# --- the faults ---------------------------------------------------------------------------------------------


def _refusals(site: Installation) -> Mapping[str, Refusal]:
    if isinstance(site._broker, Valkey):
        return VALKEY
    assert isinstance(site._broker, RabbitMQ)
    return {word: each for word, each in RABBITMQ.items() if site.broker_disk.mounted or "disk" not in word}


def refuse(surgeon: Surgeon, word: str | None = None, seconds: float | None = None) -> Blow | None:
    """Let the broker refuse for some seconds."""
    site, seconds = surgeon.site, seconds or surgeon.seconds(3.0, 20.0)
    ways = _refusals(site)
    word = word or surgeon.rng.choice(list(ways))
    if not surgeon.broker_stands:
        return None
    with suppress(*ERRORS):
        ways[word].begin(site, seconds)
        site.fault("broker refuses", seconds)
        return surgeon.for_a_while("broker refuses", f"{word}, ", seconds, lambda: _undo(site, ways[word]))
    return None


def _undo(site: Installation, way: Refusal) -> None:
    with suppress(*ERRORS):  # it may be away, and begins anew as it was
        way.end(site)


def refuse_in_every_way(surgeon: Surgeon) -> Blow | None:
    """One refusal after the other, without a pause."""
    site, ways = surgeon.site, _refusals(surgeon.site)
    *first, last = ways
    for word in first:
        ways[word].begin(site, SHORT_SECONDS)
        site.fault(f"broker refuses: {word}", SHORT_SECONDS)
        surgeon.wait(SHORT_SECONDS)
        ways[word].end(site)
    if blow := refuse(surgeon, last, SHORT_SECONDS):
        blow.subject = ", ".join(ways)
    return blow
