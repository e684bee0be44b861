"""A ticket as a message: what was published is what arrives, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import fakeredis
import pytest
from celery import Celery
from kombu.transport import redis as transport

from batchq.config import Settings
from batchq.engine import Offer
from batchq.errors import BrokerUnreachable
from batchq.server import tickets
from batchq.server.publisher import Publisher
from batchq.server.surroundings import Arrival
from batchq.store.moves import Ticket
from server.test_ledger import Bench, bench
from server.test_ledger import Message as Acknowledged

__all__ = ["bench"]

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
        Message(b'[[1, 1, 1, "token", ""], "group", {}]'),
        Message(b'[[1, 1, 1, "token", ""], {"group": null}, {}]'),
        Message(b'[[1, 1, "1", "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, true, 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 1.0, 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, -1, 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 9223372036854775808, 1, "token", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 1, 1, "to\\u0000ken", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 1, 1, "\\ud800", ""], {"group": "default"}, {}]'),
        Message(b'[[1, 1, 1, "token", "\\ud800"], {"group": "default"}, {}]'),
        Message(b'[[1, 1, 1, "token", ""], {"group": "default\\n"}, {}]'),
        Message(b"[" * 4000),
        Message(b'[[1, 1, 1, "token", ""], {"group": "default"}, {}]' + b" " * 4096),
        Message(b"\xff\xfe"),
        Message(b""),
        Message(None),
        Message(7),
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


def test_while_keys_change_tickets_of_both_are_taken_and_the_first_one_signs():
    before, after = Settings(ticket_key="old"), Settings(ticket_key="new", other_ticket_key="old")
    macs = [tickets.seal(settings, TICKET.task, 1, "5f0c", "BG1") for settings in (before, after)]

    assert [bool(tickets.read(Message(body(mac)), after)) for mac in (*macs, "")] == [True, True, False]
    assert [bool(tickets.read(Message(body(mac)), before)) for mac in (*macs, "")] == [True, False, False]
    first = Settings(other_ticket_key="old")  # a key is brought in: unsigned ones are still about
    assert [bool(tickets.read(Message(body(mac)), first)) for mac in (*macs, "")] == [True, False, True]


def test_neither_settings_nor_what_a_child_is_told_show_a_secret_when_they_are_printed():
    settings = Settings(ticket_key="hunter2", other_ticket_key="hunter2", database_url="hunter2", broker_url="hunter2")
    assert "hunter2" not in repr(settings)


# What is wrong with an offer that is well-formed: nothing about the row in SQL fits it.
STALE: dict[str, Callable[[Ticket, Ticket], Offer]] = {
    "a token of nobody": lambda good, other: Offer(good.task, "0" * 36, good.group),
    "another task's token": lambda good, other: Offer(good.task, other.token, good.group),
    "a task that is not": lambda good, other: Offer(2**63 - 1, good.token, good.group),
    "a group that is not": lambda good, other: Offer(good.task, good.token + "x", "'; DROP TABLE batchq_task; --"),
}


@pytest.mark.parametrize("what", STALE)
def test_an_offer_that_fits_no_row_starts_nothing_and_is_counted(bench: Bench, what: str):
    run = bench.stage.submit("job: J\ntasks: {A: {run: demo.work}, B: {run: demo.work}}")
    good, other = bench.stage.tickets.values()
    message = Acknowledged()

    bench.ledger.offer(Arrival(STALE[what](good, other), message, since=float("inf")))
    bench.loop.turn()

    assert (bench.started, bench.ledger.counts["stale"], message.acknowledged) == ({}, 1, 1)
    assert bench.states(run) == {"A": "queued", "B": "queued"}
    bench.arrive_all()
    bench.loop.turn()
    assert list(bench.started) == ["A", "B"]


def test_a_broker_that_is_away_is_said_to_be_without_its_password():
    publisher = Publisher(Celery("shop", broker="redis://:hunter2@127.0.0.1:1/0"), Settings(), patience=0.2)

    with pytest.raises(BrokerUnreachable) as caught:
        publisher.publish([TICKET])

    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


LONG = "б" * 180


@pytest.mark.parametrize("group", ["BG1", "x" * 239, "б" * 119])
def test_a_queues_name_that_rabbitmq_takes_is_made_of_deployment_and_group(group: str):
    assert Settings().queue(group) == f"batchq.default.{group}"


@pytest.mark.parametrize("group", ["x" * 241, LONG, "😀" * 200, "x" + "😀" * 199])
def test_a_longer_name_is_cut_and_no_two_groups_have_the_same(group: str):
    settings = Settings()
    names = {settings.queue(each) for each in (group, group + "x", group[:-1] + "y")}

    assert len(names) == 3
    assert all(len(name.encode()) <= 255 and name.isprintable() for name in names)
    assert not any(name.startswith("batchq.default.") for name in names)
    assert settings.queue(group) == Settings().queue(group) != Settings(deployment="other").queue(group)


def test_a_group_whose_queue_is_refused_is_left_alone_for_a_while_and_the_others_are_sent(redis: fakeredis.FakeRedis):
    redis.set("batchq.default.BG1", "no list")
    publisher = Publisher(Celery("shop", broker="redis://"), Settings())
    others = [replace(TICKET, group=group) for group in ("BG2", "BG3")]

    refused = publisher.publish([TICKET, *others, TICKET])

    assert (refused, publisher.unsendable) == ([TICKET, TICKET], {"BG1"})
    assert {redis.llen(f"batchq.default.{ticket.group}") for ticket in others} == {1}
    redis.delete("batchq.default.BG1")
    assert publisher.publish([TICKET]) == [TICKET]


def test_what_is_set_aside_is_tried_again_after_pauses_that_grow_to_a_minute():
    clock = [0.0]
    avoided, pauses = tickets.Avoided(lambda: clock[0]), []
    for _ in range(9):
        avoided.put("BG1")
        began = clock[0]
        while "BG1" in avoided:
            clock[0] += 0.5
        pauses.append(clock[0] - began)

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert avoided.names == frozenset()
    avoided.clear("BG1")
    assert avoided.put("BG1")
