"""Tickets travel through Redis, Valkey or RabbitMQ; whatever else is named is refused before anything starts."""

from __future__ import annotations

import pytest
from celery import Celery

from batchq import BatchQ, Job
from batchq.errors import InvalidInput

GOOD = [
    "redis://localhost:6379/0",
    "rediss://:secret@h/0?ssl_cert_reqs=required",
    "redis+socket:///run/valkey.sock?virtual_host=0",
    "sentinel://a:26379;sentinel://b:26379",
    "sentinel://a:26379;b:26379",
    "amqp://",
    "amqp://u:p@h//;amqp://u:p@other//",
    "amqps://u:p@h/v",
    "pyamqp://u:p@h//",
    "localhost",
    ["amqp://a//", "amqp://b//"],
]
BAD = {
    "memory://": "memory",
    "memory": None,
    "filesystem://": "filesystem",
    "sqla+sqlite:///x.db": "sqla+sqlite",
    "sqlalchemy+postgresql://u:hunter2@h/x": "sqlalchemy+postgresql",
    "sqs://key:hunter2@": "sqs",
    "mongodb://u:hunter2@h/x": "mongodb",
    "kafka://h": "kafka",
    "librabbitmq://u:hunter2@h//": "librabbitmq",
    "kombu.transport.memory.Transport://": "kombu.transport.memory.transport",
    "rediz://h": "rediz",
    "redis+ssl://h": "redis+ssl",
    "redis://h;memory://": "memory",
}
COMMANDS = (
    "run good.yaml", "dev", "submit good.yaml", "apply good.yaml", "status", "check",
    "job list", "runs list", "runs show 1", "task list 1", "group list", "server list", "server start AOS1",
    "coordinator", "web", "db upgrade",
)  # fmt: skip


def add() -> None:
    pass


def joined(url: object, **conf: object) -> BatchQ:
    app = Celery("shop", set_as_current=False)
    app.conf.update(broker_url=url, **conf)
    return BatchQ(app, tick_seconds=1)


@pytest.fixture(autouse=True)
def nobody_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHQ_BROKER_URL", "CELERY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", GOOD, ids=str)
def test_a_redis_or_a_rabbitmq_is_taken_by_every_name_that_celery_has_for_it(url):
    assert joined(url).names_broker


@pytest.mark.parametrize("transport", ["redis", "pyamqp", "kombu.transport.redis:Transport"])
def test_so_it_is_where_the_app_names_the_transport_apart(transport):
    assert joined("localhost", broker_transport=transport).names_broker


@pytest.mark.parametrize("url", [url for url, kind in BAD.items() if kind])
@pytest.mark.parametrize("where", ["the app", "the app for writing", "the setting"])
def test_any_other_is_refused_by_its_scheme_alone(url, where):
    if where == "the setting":
        app = Celery("shop", broker="redis://h", set_as_current=False)
        batch = BatchQ(app, broker_url=url)
    else:
        batch = joined(url) if where == "the app" else joined("redis://h", broker_write_url=url)
    job = Job("J")
    job.task("A", "shop.add")
    batch.app.task(add, name="shop.add", shared=False)
    with pytest.raises(InvalidInput) as refused:
        batch.submit(job)
    said = str(refused.value)
    assert said.startswith(f"No broker of batchq speaks {BAD[url]!r}")
    assert said.endswith(": it is Redis, Valkey or RabbitMQ. Set BATCHQ_BROKER_URL to redis://… or amqp://….")
    assert "hunter2" not in said


def test_so_is_a_transport_that_the_app_names_apart():
    with pytest.raises(InvalidInput, match="'memory'"):
        _ = joined("localhost", broker_transport="memory").names_broker


def test_the_setting_counts_before_the_apps_own_broker_which_may_be_of_any_kind():
    app = Celery("shop", broker="sqs://", set_as_current=False)
    batch = BatchQ(app, broker_url="redis://127.0.0.1:1/0")
    assert batch.names_broker
    assert batch.publisher.url == "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("url", ["memory://", "filesystem://", "sqla+sqlite:///x.db"])
def test_every_command_refuses_it_and_stores_nothing(batchq, tmp_path, monkeypatch, words, url):
    (tmp_path / "good.yaml").write_text("job: GOOD\ntasks: {A: {run: demo.work}}\n")
    there = set(tmp_path.iterdir())
    monkeypatch.setenv("BATCHQ_BROKER_URL", url)
    (line,) = batchq(*words.split(), code=2).stderr.splitlines()
    assert line.startswith(f"Error: No broker of batchq speaks {BAD[url]!r}")
    assert there == set(tmp_path.iterdir())
