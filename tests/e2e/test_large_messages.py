"""No message makes a process grow: what is packed, large, deep or strange is dropped before it is decoded."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import amqp
import pytest

from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MEGABYTE = 1024 * 1024
JSON = "application/json"
OURS = {"lang": "py", "task": "batchq.run", "id": "forged", "root_id": "forged", "retries": 0}
PROCESSES = ("AOS1", "AOS2", "coordinator")
# What a process may grow by at most: Redis hands over whole what it holds, and each is sent there three times.
MOST_GROWTH = {"valkey": 200 * MEGABYTE, "rabbitmq": 40 * MEGABYTE}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    """AOS1 and a coordinator with a ticket key, AOS2 without one."""
    with Site(tmp_path_factory.mktemp("large"), broker=broker, ticket_key="canary-of-the-tickets") as site:
        site.start_broker()
        site.apply("servers: {AOS2: {threads: 1, groups: [OTHER]}}")
        site.start_coordinator()
        site.start_server("AOS1", threads=1)
        site.start_server("AOS2", BATCHQ_TICKET_KEY="")
        yield site


@cache
def packed(name: str) -> bytes:
    """400 MB of zeros, packed so that kombu, or a codec of Python, unpacks them."""
    pack: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "zlib": zlib.compress, "lzma": lzma.compress}
    return pack[name](bytes(400 * MEGABYTE))


def bodies() -> Iterator[tuple[bytes, str, str, dict[str, Any]]]:
    """Body, content type, encoding and headers of messages that would cost much if anybody decoded them."""
    for name, kind in {"bz2": "application/x-bz2", "zlib": "application/x-gzip", "lzma": "application/x-lzma"}.items():
        yield packed(name), JSON, "utf-8", OURS | {"compression": kind}
        yield base64.b64encode(packed(name)), "application/data", "utf-8", OURS | {"compression": kind}
    for codec in ("bz2", "zlib"):
        yield packed(codec), "application/data", codec, OURS
    yield b"[" + b"{}," * (6 * MEGABYTE) + b"{}]", JSON, "utf-8", OURS
    yield b"[" * 50_000, JSON, "utf-8", OURS
    yield b"{}", JSON, "utf-8", OURS | {"shadow": "x" * 100_000}


def envelope(queue: str, body: bytes, content_type: str, encoding: str, headers: dict[str, Any]) -> str:
    """A message as Redis holds it."""
    info = {"exchange": "", "routing_key": queue}
    properties = {"delivery_info": info, "delivery_tag": "forged", "priority": 0, "body_encoding": "base64"}
    said = {"body": base64.b64encode(body).decode(), "content-type": content_type, "content-encoding": encoding}
    return json.dumps(said | {"headers": headers, "properties": properties})


def strange() -> Iterator[str]:
    """What is no message at all, and what only seems to be small."""
    yield "[" * 40_000
    yield '{"a":' * 9_000
    yield '{"__type__": "decimal", "__value__": "no number"}'
    yield json.dumps({"properties": {"delivery_tag": "forged"}, "headers": {"a": {"__type__": "uuid", "__value__": 7}}})
    yield "[" + "{}," * (6 * MEGABYTE) + "{}]"


class Raw(amqp.Message):
    """A message whose headers are these bytes, whatever they mean."""

    table = b""

    def _serialize_properties(self) -> bytes:
        flags = struct.pack(">H", 1 << 13)
        return flags + struct.pack(">I", len(self.table)) + self.table


def tables() -> Iterator[bytes]:
    """Headers that RabbitMQ lets pass, and that its client in Python cannot read."""
    deep = b""
    for _ in range(3000):
        deep = b"\x01aF" + struct.pack(">I", len(deep)) + deep
    yield deep
    yield b"\x01as\x7f\xff"  # a number of 16 bits there, the length of a text here
    yield b"\x01aT" + b"\x7f" * 8  # a date in a year that is none


def send_all(site: Site, broker: str) -> int:
    """Send all that is bad to each queue and to remote control; returns how much each server must have refused."""
    settings = site.batch.settings
    queues = [settings.queue("default"), settings.queue("OTHER"), settings.coordinator_queue]
    sent = 0
    if broker == "valkey":
        for number, text in enumerate([*strange(), *(envelope("x", *each) for each in bodies())]):
            sent = number + 1
            for queue in queues:
                push(site, "LPUSH", queue, text)
            push(site, "PUBLISH", "/0.celery.pidbox", text)
        return sent
    connection = amqp.Connection(site.broker_url.partition("@")[2].rstrip("/"), confirm_publish=True)
    connection.connect()
    channel = connection.channel()
    messages: list[amqp.Message] = []
    for body, content_type, encoding, headers in bodies():
        messages.append(
            amqp.Message(body, content_type=content_type, content_encoding=encoding, application_headers=headers)
        )
    messages += [amqp.Message(bytes(64 * MEGABYTE), content_type=JSON), amqp.Message(b"", content_type=JSON)]
    for table in tables():
        raw = Raw(b"[]")
        raw.table = table
        messages.append(raw)
    for message in messages:
        for queue in queues:
            channel.basic_publish(message, exchange="", routing_key=queue)
        channel.basic_publish(message, exchange="celery.pidbox", routing_key="")
    connection.close()
    return len(messages)


def push(site: Site, *words: str) -> None:
    with site.batch.app.connection_for_write() as connection:
        connection.default_channel.client.execute_command(*words)


def peak(site: Site, name: str) -> int:
    """The most bytes that the process ever had."""
    status = Path(f"/proc/{site.processes[name].pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def refused(site: Site) -> dict[str, int]:
    answers = site.batch.app.control.inspect(timeout=5).stats() or {}
    return {name.partition("@")[0]: stats["batchq"]["refused"] for name, stats in answers.items() if "batchq" in stats}


def test_no_message_makes_a_server_or_a_coordinator_grow_and_work_goes_on(site: Site, broker: str) -> None:
    site.wait_end(site.submit("job: FIRST\ntasks: {A: {run: ledger.work}}"))
    pids = {name: site.processes[name].pid for name in PROCESSES}
    before = {name: peak(site, name) for name in PROCESSES}

    sent = send_all(site, broker)

    def all_refused() -> bool:
        seen = refused(site)
        return all(seen.get(name, 0) >= sent for name in ("AOS1", "AOS2"))

    site.wait_for("all to be refused", all_refused, 120)
    run = site.submit("job: LAST\ntasks: {A: {run: ledger.work}, B: {run: ledger.work, after: A}}")
    assert site.wait_end(run)["status"] == "success"
    grown = {name: peak(site, name) - before[name] for name in PROCESSES}
    assert max(grown.values()) < MOST_GROWTH[broker], grown
    assert {name: site.processes[name].pid for name in PROCESSES} == pids
    site.wait_for("the queues to be empty", lambda: not any(site.queues().values()))
    for name in PROCESSES:
        assert "Traceback" not in site.log(name), site.log(name)[-5000:]
        assert "reconnect" not in site.log(name)
