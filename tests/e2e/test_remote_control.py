"""With a ticket key, whoever reaches the broker may ask servers and coordinators what they do, and no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APP = """
from celery.worker.control import control_command, inspect_command

from support.ledger_app import app

app.conf.erp_dsn = "canary-of-the-host"
app.conf.broker_transport_options = {"note": "canary-of-the-host"}


@control_command()
def erase(state, **_):
    open("erased", "w").close()


@inspect_command()
def spy(state, **_):
    return "canary-of-the-host"


@inspect_command()
def query_task(state, **_):
    return "canary-of-the-host"
"""
# Each with arguments under which Celery obeys.
HARMFUL: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "pool_grow": {"n": 3},
    "pool_shrink": {"n": 1},
    "pool_restart": {},
    "autoscale": {"max": 9, "min": 9},
    "rate_limit": {"task_name": "batchq.run", "rate_limit": "1/h"},
    "time_limit": {"task_name": "batchq.run", "hard": 1, "soft": 1},
    "add_consumer": {"queue": "canary"},
    "cancel_consumer": {"queue": "batchq.default.default"},
    "revoke": {"task_id": ["forged"], "terminate": True},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}, "terminate": True},
    "terminate": {"task_id": ["forged"], "signal": "KILL"},
    "election": {"id": "x", "topic": "task"},
    "disable_events": {},
    "memdump": {},
    "objgraph": {},
    "erase": {},
    "spy": {},
    "query_task": {"ids": ["x"]},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("control")
    (folder / "host_control.py").write_text(APP)
    with Site(folder, app="host_control", broker=broker, ticket_key="canary-of-the-tickets") as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=2)
        yield site


def ask(site: Site, method: str, arguments: dict[str, Any] | None = None, workers: int = 2) -> dict[str, Any]:
    """What the workers answer, by their names without the host's."""
    answers = site.batch.app.control.broadcast(method, arguments=arguments or {}, reply=True, timeout=5, limit=workers)
    return {name.partition("@")[0].partition("-")[0]: said for each in answers or () for name, said in each.items()}


def send(site: Site, body: Any) -> None:
    """Send remote control as it is, whatever it is."""
    with site.batch.app.connection_for_write() as connection:
        exchange = Exchange("celery.pidbox", type="fanout", durable=False)
        connection.Producer(exchange=exchange).publish(body, serializer="json")


def test_only_inspection_and_the_nudge_are_obeyed(site: Site, broker: str) -> None:
    run = site.submit("job: LONG\ntasks: {A: {run: ledger.work, kwargs: {gate: end}}}")
    site.wait_for("A to start", lambda: site.ledger(run))
    pids = {name: site.processes[name].pid for name in ("AOS1", "coordinator")}
    before = ask(site, "stats")["AOS1"]

    for method in ("ping", "stats", "active", "reserved", "scheduled", "revoked", "registered", "report", "conf",
                   "active_queues", "clock", "batchq_look"):  # fmt: skip
        answers = ask(site, method)
        assert set(answers) == {"AOS1", "coordinator"}, (method, answers)
        assert "'error'" not in str(answers), (method, answers)
        assert "canary" not in str(answers), method
    (active,) = ask(site, "active")["AOS1"]
    assert active["name"] == "LONG / A"

    for method, arguments in HARMFUL.items():
        for _ in range(2):
            answers = ask(
                site, method, arguments | {"task_id": [active["id"]]} if "task_id" in arguments else arguments
            )
        assert set(answers) == {"AOS1", "coordinator"}, method
        assert all("refused" in said["error"] for said in answers.values()), (method, answers)

    after = ask(site, "stats")["AOS1"]
    assert after["pool"]["processes"] == before["pool"]["processes"]
    assert after["batchq"]["refused"] >= before["batchq"]["refused"] + 2 * len(HARMFUL)
    assert {queue["name"] for queue in ask(site, "active_queues")["AOS1"]} == {"batchq.default.default"}
    assert not (site.folder / "erased").exists()
    site.open_gate("end")
    assert site.wait_end(run)["status"] == "success"
    assert {name: site.processes[name].pid for name in pids} == pids
    for name in pids:
        for method in HARMFUL:
            assert site.log(name).count(f"refused remote control: '{method}'") == 1
        assert "Traceback" not in site.log(name)


def test_no_question_holds_a_worker_up_or_makes_it_write_elsewhere(site: Site) -> None:
    host = next(iter(site.batch.app.control.inspect(timeout=1).ping()))
    spare = Queue("elsewhere", Exchange("elsewhere", type="direct"), routing_key="elsewhere")
    with site.batch.app.connection_for_write() as connection:
        spare(connection.default_channel).declare()
        ping = {"method": "ping", "arguments": {}}
        for body in (
            ping | {"pattern": "(" * 3 + "." + "*)" * 3 + "{1,40}" + "\\Z!" * 2, "matcher": "pcre"},
            ping | {"pattern": "([a-zA-Z0-9@-]+)+$!", "matcher": "pcre"},
            ping | {"destination": 7},
            ping | {"destination": host + "x"},
            ping | {"destination": {host: 1}},
            ping | {"reply_to": {"exchange": "elsewhere", "routing_key": "elsewhere"}, "ticket": "x"},
            ping | {"reply_to": {"exchange": "", "routing_key": "elsewhere"}, "ticket": "x"},
            ping | {"reply_to": "reply.celery.pidbox", "ticket": ["x"]},
            ping | {"reply_to": {"exchange": ["x"]}},
            {"method": "hello", "arguments": {"from_node": "x", "revoked": {"forged": 1}}},
            {"method": "stats", "arguments": ["x"]},
            {"method": ["ping"]}, {"method": "x" * 60_000}, {}, [], 7, "ping", None,
        ):  # fmt: skip
            send(site, body)
        began = time.monotonic()
        assert set(ask(site, "ping")) == {"AOS1", "coordinator"}
        assert time.monotonic() - began < 10
        assert spare(connection.default_channel).get() is None
    assert ask(site, "revoked") == {"AOS1": [], "coordinator": []}
    for name in ("AOS1", "coordinator"):
        assert "Traceback" not in site.log(name), site.log(name)[-3000:]


def test_a_nudge_is_harmless_however_often_it_comes(site: Site) -> None:
    with site.batch.app.connection_for_write() as connection:
        for _ in range(500):
            site.batch.app.control.broadcast("batchq_look", connection=connection)
    run = site.submit("job: MANY\ntasks: {A: {run: ledger.work}, B: {run: ledger.work, after: A}}")
    assert site.wait_end(run)["status"] == "success"


@pytest.mark.parametrize("broker", ["valkey"], scope="module")
@pytest.mark.parametrize(("obeys", "key", "ends"), [("all", "key", True), ("auto", "", True), ("off", "", False)])
def test_the_setting_allows_all_or_nothing(tmp_path: Path, broker: str, obeys: str, key: str, ends: bool) -> None:
    with Site(tmp_path, broker=broker, remote_control=obeys, ticket_key=key) as site:
        site.start_broker()
        site.start_server("AOS1", threads=1)
        answers = ask(site, "shutdown", workers=1)
        if ends:
            site.wait_exit("AOS1", 30)
        else:
            assert "refused" in answers["AOS1"]["error"]
            run = site.submit("job: J\ntasks: {A: {run: ledger.work}}")
            assert site.wait_end(run)["status"] == "success"
