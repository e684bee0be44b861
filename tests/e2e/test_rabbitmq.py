"""A RabbitMQ of the test's own, and the acceptance table on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from batchq.server import tickets
from e2e.jobs import many
from e2e.judge import judge
from support.brokers import NO_RABBITMQ, PROGRAM
from support.job1 import TABLE, Row, job_1
from support.site import BROKER, Site

SERVERS = ("Batch1", "Batch2")


def on_rabbitmq(test: Any) -> Any:
    """A test of RabbitMQ alone."""
    return pytest.mark.slow(pytest.mark.skipif(PROGRAM is None, reason=NO_RABBITMQ)(test))


def put(site: Site, count: int, group: str = "default") -> None:
    """Put so many messages into the queue of the group; RabbitMQ has them on disk by the end."""
    with site.batch.app.connection_for_write(transport_options={"confirm_publish": True}) as connection:
        queue = tickets.queue(site.batch.settings.queue(group))(connection.channel())
        queue.declare()
        producer = connection.Producer()
        for _ in range(count):
            producer.publish("", exchange="", routing_key=queue.name, delivery_mode=2)


# --- on each broker -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker, and nobody who takes anything from it."""
    with Site(tmp_path_factory.mktemp("bare"), broker=broker) as site:
        site.start_broker()
        yield site


def waiting(site: Site) -> int:
    return site.queues()[site.batch.settings.queue("default")]


def test_the_queues_are_ours_and_their_messages_are_counted(bare: Site) -> None:
    before = bare.queues()
    put(bare, 3)

    after = bare.queues()
    bare.flush_broker()

    ours = {"batchq.default.default", "batchq.default/coordinator"}
    assert before == dict.fromkeys(ours, 0)
    assert after == before | {"batchq.default.default": 3}
    assert bare.queues() == before


def test_a_broker_that_was_killed_comes_back_on_the_same_address(bare: Site) -> None:
    bare.kill(BROKER)
    away = bare._broker.answers()
    bare.start_broker(empty=True)
    put(bare, 1)

    assert (away, waiting(bare)) == (False, 1)


# --- on RabbitMQ --------------------------------------------------------------------------------------------


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, broker="rabbitmq") as site:
        site.start_broker()
        yield site


@on_rabbitmq
def test_what_it_keeps_survives_a_stop_until_it_is_to_be_empty(rabbit: Site) -> None:
    put(rabbit, 2)
    # Not a kill: of a queue that was declared a moment ago this RabbitMQ has been seen to know nothing after one.
    rabbit.stop(BROKER)
    rabbit.start_broker()
    kept = waiting(rabbit)
    rabbit.stop(BROKER)
    rabbit.start_broker(empty=True)

    assert (kept, waiting(rabbit)) == (2, 0)


@on_rabbitmq
def test_it_is_one_process_that_listens_to_this_machine_only_and_starts_no_daemon(rabbit: Site) -> None:
    node = psutil.Process(rabbit.processes[BROKER].pid)
    listens = [at.laddr for at in node.net_connections("tcp") if at.status == psutil.CONN_LISTEN]
    daemons = [process for process in rabbit.alive() if process.name() == "epmd"]

    assert node.name() == "beam.smp"
    assert {address.ip for address in listens} == {"127.0.0.1"}
    assert daemons == []


@on_rabbitmq
def test_two_run_side_by_side(rabbit: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Site(tmp_path_factory.mktemp("other"), broker="rabbitmq") as other:
        other.start_broker()
        put(other, 2)
        assert (waiting(rabbit), waiting(other)) == (0, 2)


# --- the work --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("job1"), broker="rabbitmq") as site:
        site.start_broker()
        site.start_coordinator()
        site.start_servers(SERVERS)
        yield site


@on_rabbitmq
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_run_ends_as_the_table_says(site: Site, row: Row) -> None:
    run = site.submit(job_1(row.failing))

    view = site.wait_end(run)

    assert (site.states(run), view["status"]) == (row.states, row.verdict)


@on_rabbitmq
def test_many_tasks_run_once_each_and_leave_the_queues_empty(site: Site) -> None:
    job = many("MANY", 100, seconds=0.01)
    run = site.submit(job)

    assert site.wait_end(run)["status"] == "success"
    assert len(site.ledger(run)) == 100
    judge(site, {run: job}, dict.fromkeys(SERVERS, 1))
    site.wait_for("the queues to be empty", lambda: not any(site.queues().values()))
