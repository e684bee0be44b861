"""A ticket as a message: what was published is what arrives, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import fakeredis
import pytest
from celery import Celery
from kombu.transport import redis as transport

from batchq.config import Settings
from batchq.engine import Offer
from batchq.errors import BrokerUnreachable
from batchq.server import tickets
from batchq.server.tickets import Publisher
from batchq.store.moves import Ticket

TICKET = Ticket(task=7 << 20 | 2, token="5f0c", attempt=1, group="BG1", job="JOB 1", name="TASK 3")


@dataclass
class Message:
    body: Any
    content_type: str = "application/json"


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeRedis:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        transport.Channel, "_create_client", lambda self, asynchronous=False: fakeredis.FakeRedis(server=server)
    )
    return fakeredis.FakeRedis(server=server)


def test_a_published_ticket_arrives_as_the_offer_it_is(redis: fakeredis.FakeRedis):
    Publisher(Celery("shop", broker="redis://"), Settings()).publish([TICKET])

    (name,) = redis.keys("batchq.*")
    message = json.loads(redis.lpop(name))
    headers = message["headers"]
    body = transport.Channel.codecs["base64"].decode(message["body"])

    assert name == b"batchq.default.BG1"
    assert tickets.read(Message(body), Settings()) == Offer(TICKET.task, "5f0c", "BG1")
    assert (headers["id"], headers["task"], headers["shadow"]) == ("5f0c", "batchq.run", "JOB 1 / TASK 3")
    assert headers["argsrepr"] == "(run 7, attempt 1)"


@pytest.mark.parametrize(
    "message",
    [
        Message(b"\x80\x04N.", "application/x-python-serialize"),
        Message(b"no json"),
        Message(b"[]"),
        Message(b"[[], {}, {}]"),
        Message(b'[[2, 1, 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, "1", 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 1, 1, "token", ""], {}, {}]'),
    ],
)
def test_what_is_no_ticket_is_not_taken_for_one(message: Message):
    assert tickets.read(message, Settings()) is None


def body(mac: str, group: str = "BG1") -> bytes:
    return json.dumps([[1, TICKET.task, 1, "5f0c", mac], {"group": group}, {}]).encode()


def test_with_a_key_only_a_ticket_sealed_with_it_for_this_queue_is_taken():
    settings = Settings(ticket_key="hunter2")
    mac = tickets.seal(settings, TICKET.task, 1, "5f0c", "BG1")

    assert tickets.read(Message(body(mac)), settings) == Offer(TICKET.task, "5f0c", "BG1")
    for forged in (body(""), body(mac[:-1] + "x"), body(mac, "BG2"), body("é")):
        assert tickets.read(Message(forged), settings) is None


def test_a_broker_that_is_away_is_said_to_be_without_its_password():
    publisher = Publisher(Celery("shop", broker="redis://:hunter2@127.0.0.1:1/0"), Settings(), patience=0.2)

    with pytest.raises(BrokerUnreachable) as caught:
        publisher.publish([TICKET])

    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
