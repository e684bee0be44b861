"""Who can write to the broker can start nothing: with real processes, each kind of message that is no good ticket."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kombu import Producer

from batchq.server import tickets
from batchq.store.tables import TaskRow
from support.site import Site

pytestmark = pytest.mark.slow

KEY = "canary-of-the-tickets"
JSON, PICKLE, YAML = "application/json", "application/x-python-serialize", "application/x-yaml"
HEADERS = {"lang": "py", "id": "forged", "root_id": "forged", "retries": 0, "ignore_result": True}
CALL = [["x"], {"gate": None}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
WORK = json.dumps([[], {}, CALL[2]])


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, ticket_key=KEY) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=2)
        yield site


def ticket(site: Site, mac: str | None = None, **changed: Any) -> str:
    """The body of a ticket for the last task of all, signed as it should be unless a `mac` is given."""
    with site.database.read() as tx:
        row = tx.execute(TaskRow.__table__.select().order_by(TaskRow.__table__.c.id.desc())).first()
    said = {"task": row.id, "attempt": row.attempt, "token": row.token, "group": row.group_name} | changed
    mac = tickets.seal(site.batch.settings, **said) if mac is None else mac
    return json.dumps([[1, said["task"], said["attempt"], said["token"], mac], {"group": said["group"]}, CALL[2]])


def no_tickets(site: Site, trap: Path) -> Iterator[tuple[str, bytes | str, str, Any]]:
    """What it is, the body, its content type, its headers."""
    ours = HEADERS | {"task": "batchq.run"}
    good = ticket(site)
    for what, body in {
        "unsigned": ticket(site, mac=""),
        "signed by another": ticket(site, mac="0" * 64),
        "for another queue": good.replace('"group": "default"', '"group": "BG1"'),
        "of another attempt": good.replace(", 1, ", ", 2, ", 1),
        "of another task": ticket(site, mac=json.loads(good)[0][4], task=1),
        "truncated": good[:-40],
        "oversized": good[:-1] + " " * 2_000_000 + "]",
        "deep": "[" * 4000,
        "wrong types": ticket(site, token=["x"], mac=""),
        "a number too large": ticket(site, task=10**30),
        "no text": b"\xff\xfe\x00",
        "nothing": "",
        "a surrogate": ticket(site, mac="\ud800"),
    }.items():
        yield what, body, JSON, ours
    trapped = pickle.dumps([*CALL[:1], Trap(trap), CALL[2]])
    yield "a pickle", trapped, PICKLE, ours
    yield "YAML", f"!!python/object/apply:pathlib.Path.touch [{trap}]", YAML, ours
    for task in (
        "ledger.work",
        "os.system",
        "celery.backend_cleanup",
        "celery.chain",
        "batchq.coordinate",
        "",
        None,
        7,
    ):
        yield f"asks for {task}", WORK, JSON, HEADERS | {"task": task}
    yield "is packed badly", b"no", JSON, ours | {"compression": "application/x-gzip"}
    yield "asks for a list", WORK, JSON, HEADERS | {"task": ["batchq.run"]}
    yield "asks for a pickled task", trapped, PICKLE, HEADERS | {"task": "ledger.work"}
    yield "has no headers", WORK, JSON, {}
    yield "is of protocol 1", json.dumps({"task": "ledger.work", "id": "x", "args": [], "kwargs": {}}), JSON, {}
    yield "is a pickle of protocol 1", pickle.dumps({"task": Trap(trap)}), PICKLE, {}
    yield (
        "has strange headers",
        WORK,
        JSON,
        HEADERS | {"task": "ledger.work", "eta": "x", "expires": {}, "timelimit": 3},
    )


def no_messages(queue: str) -> Iterator[str]:
    """What somebody may put into Redis that Celery's transport cannot even read: it would end a plain worker."""
    properties: dict[str, Any] = {"delivery_info": {"exchange": "", "routing_key": queue}, "body_encoding": "base64"}
    message = {"body": "W10=", "content-encoding": "utf-8", "content-type": JSON, "headers": {"task": "batchq.run"}}
    yield from ("garbage", "[]", "7", "{}", json.dumps(message), json.dumps(message | {"properties": properties}))
    tagged = properties | {"delivery_tag": "forged", "priority": 0}
    for wrong in ({"body": "!"}, {"headers": ["x"]}, {"headers": None}, {"content-type": ["x"]}):
        yield json.dumps(message | {"properties": tagged} | wrong)
    for wrong in ({"delivery_tag": ["x"]}, {"body_encoding": "x"}, {"delivery_info": None}):
        yield json.dumps(message | {"properties": tagged | wrong})


def send(site: Site, queue: str, body: bytes | str, content_type: str, headers: Any, **options: Any) -> None:
    encoding = "binary" if content_type == PICKLE else "utf-8"
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    with site.batch.app.connection_for_write() as connection:
        Producer(connection, auto_declare=False).publish(
            body, headers=headers, content_type=content_type, content_encoding=encoding, routing_key=queue,
            exchange="", correlation_id="forged", **options
        )  # fmt: skip


def counts(site: Site) -> dict[str, Any]:
    """What `celery inspect stats` shows of the batch server."""
    answer = site.batch.app.control.inspect(timeout=5, destination=None).stats() or {}
    return next((stats["batchq"] for stats in answer.values() if "batchq" in stats), {})


def waits(site: Site, **wanted: int) -> dict[str, Any]:
    def reached() -> dict[str, Any]:
        seen = counts(site)
        return seen if all(seen.get(name, 0) >= number for name, number in wanted.items()) else {}

    return site.wait_for(f"{wanted}", reached)


def test_nothing_but_a_good_ticket_starts_anything_and_all_else_is_counted(site: Site, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    first = site.submit("job: FIRST\ntasks: {A: {run: ledger.work}}")
    site.wait_end(first)
    queue, ticks = site.batch.settings.queue("default"), site.batch.settings.coordinator_queue
    lives = {name: psutil.Process(process.pid).create_time() for name, process in site.processes.items()}

    bad = list(no_tickets(site, trap))
    for _, body, content_type, headers in bad:
        send(site, queue, body, content_type, headers)
        send(site, ticks, body, content_type, headers)
    raw = list(no_messages(queue))
    for text in raw:
        site.broker("LPUSH", queue, text)
        site.broker("LPUSH", ticks, text)
    replayed = ticket(site)
    for body in (replayed, replayed, ticket(site, token="0" * 36)):
        send(site, queue, body, JSON, HEADERS | {"task": "batchq.run"})

    seen = waits(site, refused=len(bad) + len(raw), stale=3)
    assert (seen["refused"], seen["stale"]) == (len(bad) + len(raw), 3), site.log("AOS1")
    last = site.submit("job: LAST\ntasks: {A: {run: ledger.work}, B: {run: ledger.work, after: A}}")
    assert site.wait_end(last)["status"] == "success"
    assert [(entry.run, entry.task) for entry in site.ledger()] == [(first, "A"), (last, "A"), (last, "B")]
    assert not trap.exists()
    assert {name: psutil.Process(process.pid).create_time() for name, process in site.processes.items()} == lives
    assert "Traceback" not in site.log("AOS1") + site.log("coordinator")
