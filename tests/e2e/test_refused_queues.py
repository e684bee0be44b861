"""Queues that the broker refuses, or whose names it would refuse: their groups wait, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import amqp
import pytest
from kombu import Queue

from batchq.server import tickets
from support.brokers import NO_RABBITMQ, PROGRAM
from support.site import BROKER, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# 180 letters of two bytes each: RabbitMQ takes names of 255 bytes at most.
LONG = "б" * 180
FORBIDDEN = "batchq.default.FORBIDDEN"
# Of RabbitMQ's user: no queue of that name may be made.
CONFIGURE = (
    f'[{{rabbit, [{{default_permissions, [<<"^(?!{FORBIDDEN.replace(".", "[.]")}$).*">>, <<".*">>, <<".*">>]}}]}}].'
)
REFUSED = {"rabbitmq": ["ODD", "EXCLUSIVE", "FORBIDDEN"], "valkey": ["ODD"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    # A server would hand itself what cannot be sent.
    with Site(tmp_path_factory.mktemp("refused"), broker=broker, fast_path=False, tick_seconds=0.1) as site:
        if broker == "rabbitmq":
            allow_less(site)
        site.start_broker()
        site.apply("servers: {AOS1: {threads: 2, groups: [default, ODD, EXCLUSIVE, FORBIDDEN, PLAIN]}}")
        yield site


def allow_less(site: Site) -> None:
    path = site._private / "advanced.config"
    ours = path.read_text().removeprefix("[{rabbit, [")
    path.write_text(CONFIGURE.removesuffix("]}].") + ", " + ours)


def spoil(site: Site, broker: str) -> amqp.Connection | None:
    """Make the queues what ours are not; the connection holds one of them for itself."""
    if broker == "valkey":
        site.broker("SET", "batchq.default.ODD", "no list")
        return None
    holder = amqp.Connection(site.broker_url.partition("@")[2].rstrip("/"))
    holder.connect()
    channel = holder.channel()
    channel.queue_declare("batchq.default.ODD", durable=True, auto_delete=False, arguments={"x-max-length": 5})
    channel.queue_declare("batchq.default.EXCLUSIVE", exclusive=True)
    return holder


def mend(site: Site, broker: str) -> None:
    if broker == "valkey":
        site.broker("DEL", "batchq.default.ODD")
        return
    with site.batch.app.connection_for_write() as connection:
        connection.default_channel.queue_delete("batchq.default.ODD")


def tasks(group: str, count: int) -> str:
    several = ", ".join(f"T{number}: {{run: ledger.work}}" for number in range(count))
    return f"{{job: OF {group}, group: '{group}', tasks: {{{several}}}}}"


def test_groups_whose_queues_are_refused_wait_without_a_thread_and_all_others_go_on(site: Site, broker: str) -> None:
    groups = REFUSED[broker]
    holder = spoil(site, broker)
    waiting = [site.submit(tasks(group, 5)) for group in groups]
    site.start_coordinator()
    site.start_server("AOS1")
    lives = {name: site.processes[name].pid for name in ("AOS1", "coordinator")}
    for _ in range(3):
        assert site.wait_end(site.submit(tasks("PLAIN", 20)), 30)["status"] == "success"

    assert not [entry for entry in site.ledger() if entry.run in waiting]
    site.wait_for("no ticket of them to be out", lambda: all({"ready"} == states(site, run) for run in waiting))
    problems = site.json("check", code=1)["problems"]
    for group in groups:
        (told,) = (line for line in problems if line.startswith(f"Group {group}: "))
        assert f"batchq.default.{group}" in told

    if holder is not None:  # whoever meets the refusals as it connects again goes on as well
        holder.close()
        assert site.wait_end(waiting[groups.index("EXCLUSIVE")], 150)["status"] == "success"
        site.stop(BROKER)
        site.start_broker()
        assert site.wait_end(site.submit(tasks("PLAIN", 20)), 60)["status"] == "success"
        assert states(site, waiting[0]) == {"ready"}
    mend(site, broker)
    assert site.wait_end(waiting[0], 150)["status"] == "success"
    if broker == "valkey":  # one that is spoiled while it is listened to holds nobody up either
        spoil(site, broker)
        assert site.wait_end(site.submit(tasks("PLAIN", 20)), 30)["status"] == "success"
        mend(site, broker)
    assert {name: process.pid for name, process in site.processes.items() if name in lives} == lives
    for name in lives:
        assert site.log(name).count("'ODD' is set aside") <= 1, site.log(name)
        assert "Traceback" not in site.log(name)


def states(site: Site, run: int) -> set[str]:
    return set(site.states(run).values())


def test_a_group_whose_name_is_longer_than_a_queues_may_be_works_like_any_other(
    tmp_path_factory: pytest.TempPathFactory, site: Site
) -> None:
    site.apply(f"servers: {{AOS2: {{threads: 1, groups: ['{LONG}', '{LONG}x', OTHER]}}}}")
    if "coordinator" not in site.processes:
        site.start_coordinator()
    site.start_server("AOS2")
    runs = [site.submit(tasks(group, 3)) for group in (LONG, f"{LONG}x", "OTHER")]
    assert [site.wait_end(run, 30)["status"] for run in runs] == ["success"] * 3
    assert not [line for line in site.json("check", code=None)["problems"] if LONG in line]


@pytest.mark.skipif(PROGRAM is None, reason=NO_RABBITMQ)
@pytest.mark.parametrize("broker", ["rabbitmq"], scope="module")
def test_a_coordinator_whose_queue_is_refused_waits_until_it_is_free(
    tmp_path_factory: pytest.TempPathFactory, broker: str
) -> None:
    with Site(tmp_path_factory.mktemp("ticks"), broker=broker) as site:
        site.start_broker()
        name = site.batch.settings.coordinator_queue
        with site.batch.app.connection_for_write() as connection:
            Queue(name, durable=False)(connection.default_channel).queue_declare()
            site.start_coordinator()
            site.wait_for("the refusal to be told", lambda: "not listened to for now" in site.log("coordinator"))
            connection.default_channel.queue_delete(name)
        site.wait_for(
            "a tick",
            lambda: (
                name
                in {
                    queue["name"]
                    for queues in (site.batch.app.control.inspect(timeout=2).active_queues() or {}).values()
                    for queue in queues
                }
            ),
        )
        assert "Traceback" not in site.log("coordinator")


@pytest.mark.skipif(PROGRAM is None, reason=NO_RABBITMQ)
@pytest.mark.parametrize("broker", ["rabbitmq"], scope="module")
def test_queues_that_become_bad_while_all_runs_cost_no_life_and_no_other_groups_time(
    tmp_path_factory: pytest.TempPathFactory, broker: str
) -> None:
    with Site(tmp_path_factory.mktemp("later"), broker=broker, tick_seconds=0.1) as site:
        site.start_broker()
        site.apply("servers: {AOS1: {threads: 1, groups: [PLAIN, TURNS, TAKEN]}}")
        site.start_coordinator()
        holder = amqp.Connection(site.broker_url.partition("@")[2].rstrip("/"))
        holder.connect()
        channel = holder.channel()
        with site.batch.app.connection_for_write() as connection:
            tickets.queue("batchq.default.TAKEN")(connection.default_channel).declare()
        # Somebody listens to it alone: it may be declared, and not listened to.
        channel.basic_consume("batchq.default.TAKEN", exclusive=True, callback=lambda message: None)
        site.start_server("AOS1")
        pids = {name: site.processes[name].pid for name in ("AOS1", "coordinator")}
        site.wait_for("it to be set aside", lambda: "not listened to for now" in site.log("AOS1"))
        for group in ("PLAIN", "TURNS"):
            assert site.wait_end(site.submit(tasks(group, 3)), 30)["status"] == "success"
        # It is made anew with other arguments, while everybody believes it to be well.
        channel.queue_delete("batchq.default.TURNS")
        channel.queue_declare("batchq.default.TURNS", durable=True, auto_delete=False, arguments={"x-max-length": 5})
        for _ in range(6):
            assert site.wait_end(site.submit(tasks("PLAIN", 3)), 30)["status"] == "success"
            site.submit(tasks("TURNS", 2))
        assert site.log("AOS1").count("begin anew without") == 1
        holder.close()
        site.wait_for("AOS1 to listen to it", lambda: "consuming from batchq.default.TAKEN" in site.log("AOS1"), 90)
        assert site.wait_end(site.submit(tasks("TAKEN", 3)), 30)["status"] == "success"
        assert {name: site.processes[name].pid for name in pids} == pids
