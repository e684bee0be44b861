"""The host's own workers and ours on one broker: neither takes what is the other's, and an operator's word counts."""

from __future__ import annotations

import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from batchq import Job
from e2e.judge import read
from support import brokers
from support.site import Entry, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APP = """
import os

from celery import Celery
from celery.signals import task_revoked
from celery.worker.control import control_command

from batchq import BatchQ
from support.ledger_app import register

app = register(Celery("shop", broker=os.environ["BATCHQ_BROKER_URL"], set_as_current=False))
BatchQ(app)


@app.task(name="shop.quick")
def quick(number):
    with open("quick", "a") as file:
        file.write(f"{number}\\n")


@task_revoked.connect
def told(sender, request, terminated, signum, **_):
    with open("revoked", "a") as file:
        file.write(f"{sender.name} {request.task} {request.id} {terminated} {signum}\\n")


@control_command()
def listen(state, queue):
    state.consumer.add_task_queue(queue)
"""
LISTENS = re.compile(r"http://127\.0\.0\.1:\d+")
OURS = {
    "AOS1": {"batchq.default.default"},
    "AOS2": {"batchq.default.BG1"},
    "coordinator": {"batchq.default/coordinator"},
}
# Celery's commands that would change what SQL decides, with arguments under which a worker of Celery's obeys.
CHANGES: dict[str, dict[str, Any]] = {
    "add_consumer": {"queue": "celery"},
    "cancel_consumer": {"queue": "batchq.default.default"},
    "pool_grow": {"n": 3},
    "pool_shrink": {"n": 1},
    "pool_restart": {},
    "autoscale": {"max": 9, "min": 9},
    "rate_limit": {"task_name": "ledger.work", "rate_limit": "1/h"},
    "time_limit": {"task_name": "ledger.work", "hard": 1, "soft": 1},
}
SERVERS = """
groups: {BG1: {}}
servers:
  AOS1: {threads: 1}
  AOS2: {threads: 1, groups: [BG1]}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Site]:
    """A coordinator, AOS1 on processes and AOS2 on threads, beside a host project with a queue of its own."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "shop.py").write_text(APP)
    with Site(folder, app="shop", broker=broker) as site:
        site.start_broker()
        site.apply(SERVERS)
        site.start_coordinator()
        site.start_server("AOS1")
        site.start_server("AOS2", pool="threads")
        site.wait_for("each to listen to its queue", lambda: listened_to(site) == OURS)
        yield site


@pytest.fixture
def shop(site: Site) -> Iterator[Celery]:
    """The host's app, from which its own tasks are sent."""
    with Celery("shop", broker=site.broker_url, set_as_current=False) as app:
        yield app


def ask(site: Site, method: str, **arguments: Any) -> dict[str, Any]:
    """What the three workers answer, by their names without the host's."""
    answers = site.batch.app.control.broadcast(method, arguments=arguments, reply=True, timeout=10, limit=3)
    return {name.partition("@")[0].partition("-")[0]: said for each in answers for name, said in each.items()}


def listened_to(site: Site) -> dict[str, set[str]]:
    return {name: {queue["name"] for queue in queues or ()} for name, queues in ask(site, "active_queues").items()}


def waiting(site: Site) -> int:
    with site.batch.app.connection_for_read() as connection:
        return brokers.waiting(connection, "celery")


def run_in_between(site: Site) -> None:
    """Let every process of ours take part in a job: whatever it was told before, it has done by then."""
    job = Job("BETWEEN")
    for number in range(3):
        job.task(f"A{number}", "ledger.work", after={f"A{number - 1}": "success"} if number else {})
        job.task(f"B{number}", "ledger.work", group="BG1", after={f"A{number}": "success"})
    for _ in range(2):
        assert site.wait_end(site.submit(job))["status"] == "success"
    assert set(ask(site, "ping")) == set(OURS)


def run_by_the_host(site: Site, numbers: int) -> list[int]:
    """What the host's own worker ran of what waits for it, once it has run so much."""
    path = site.folder / "quick"
    argv = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "solo", "-n", "own@%h", "-Q", "celery"]
    site._start("own", argv, {})
    site.wait_for("the host's own worker", lambda: path.exists() and len(path.read_text().split()) >= numbers)
    site.stop("own")
    ran = sorted(map(int, path.read_text().split()))
    path.unlink()
    return ran


# --- queues -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["add_consumer", "listen"])
def test_what_the_host_sends_stays_for_its_own_worker_whoever_tells_ours_to_listen(
    site: Site, shop: Celery, way: str
) -> None:
    for number in range(20):
        shop.send_task("shop.quick", [number])
        for _ in range(5):  # a worker of ours may be at its next look already, and have forgotten what it was told
            ask(site, way, queue="celery")
    run_in_between(site)

    site.wait_for("each to listen to its own queue alone", lambda: listened_to(site) == OURS)
    assert waiting(site) == 20
    assert run_by_the_host(site, 20) == [*range(20)]


def test_what_sql_decides_is_not_changed_by_remote_control_and_the_answer_says_so(site: Site) -> None:
    before = {name: said["pool"]["max-concurrency"] for name, said in ask(site, "stats").items()}
    for method, arguments in CHANGES.items():
        answers = ask(site, method, **arguments)
        assert set(answers) == set(OURS), method
        assert all(said["error"].startswith("refused: ") for said in answers.values()), (method, answers)
    for method, arguments, command in (
        ("add_consumer", {"queue": "celery"}, "follow its groups: use `batchq server groups set NAME GROUP`"),
        ("pool_grow", {"n": 1}, "threads and windows: use `batchq server set NAME --threads N`"),
    ):
        assert ask(site, method, **arguments)["AOS1"]["error"].endswith(command)

    run_in_between(site)
    assert {name: said["pool"]["max-concurrency"] for name, said in ask(site, "stats").items()} == before
    assert listened_to(site) == OURS
    for name in OURS:
        assert "Traceback" not in site.log(name), site.log(name)[-3000:]


# --- an operator's word -------------------------------------------------------------------------------------


def start(site: Site, group: str = "default", **kwargs: Any) -> tuple[int, str, Entry]:
    """A run whose only task waits at a gate: its number, Celery's id of the attempt, and what it wrote down."""
    job = Job("LONG")
    job.task("A", "ledger.work", kwargs={"gate": f"end {group}", **kwargs}, group=group)
    run = site.submit(job)
    (entry,) = site.wait_for("A to start", lambda: site.ledger(run))
    executing = [each["id"] for said in ask(site, "active").values() for each in said]
    (id_,) = executing
    return run, id_, entry


def reason(site: Site, run: int) -> str | None:
    """Why the only attempt of A failed, by the books."""
    (attempt,) = read(site, run).attempts["A"].values()
    return attempt.reason


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("revoke", {"terminate": True}),
        ("revoke", {"terminate": True, "signal": "SIGKILL"}),
        ("terminate", {"signal": "KILL"}),
    ],
    ids=str,
)
def test_what_an_operator_terminates_is_aborted_as_rule_32_says(
    site: Site, method: str, arguments: dict[str, Any]
) -> None:
    run, id_, _ = start(site)
    said = ask(site, method, task_id=[id_], **arguments)["AOS1"]
    task = site.wait_end(run)["tasks"][0]

    assert said == {"ok": f"is being aborted: LONG / A (run {run}, attempt 1)"}
    assert f"ledger.work ledger.work {id_} True" in (site.folder / "revoked").read_text()
    assert task["status"] == "canceled"
    assert task["error"] == "aborted by an operator during this attempt; what it did is not known"
    assert reason(site, run) == "aborted"
    run_in_between(site)


def test_flowers_button_aborts_an_attempt(site: Site) -> None:
    site.start("web", "web", "--port", "0", FLOWER_UNAUTHENTICATED_API="true")
    url = site.wait_for("Flower to listen", lambda: LISTENS.search(site.log("web")))[0]
    run, id_, _ = start(site)
    asked = urllib.request.Request(f"{url}/api/task/revoke/{id_}?terminate=true", data=b"", method="POST")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200
    error = site.wait_end(run)["tasks"][0]["error"]
    site.stop("web")
    assert error == "aborted by an operator during this attempt; what it did is not known"


def test_a_process_that_somebody_else_kills_after_an_abort_of_another_task_is_lost(site: Site) -> None:
    run, id_, _ = start(site)
    ask(site, "terminate", task_id=id_, signal="TERM")
    site.wait_end(run)
    run, _, entry = start(site)
    os.kill(entry.pid, signal.SIGKILL)
    error = site.wait_end(run)["tasks"][0]["error"]
    assert error == "lost: its process ended (signal 9 (SIGKILL)) during this attempt; what it did is not known"
    assert reason(site, run) == "lost"


def test_an_attempt_that_executes_goes_on_when_it_is_only_revoked(site: Site) -> None:
    run, id_, _ = start(site)
    said = ask(site, "revoke", task_id=[id_])["AOS1"]
    assert said["error"].endswith(
        "executes, and is not revoked: terminate it, or end its run with `batchq runs cancel`"
    )
    assert id_ not in ask(site, "revoked")["AOS1"]
    site.open_gate("end default")
    assert site.wait_end(run)["status"] == "success"
    (site.gates / "end default").unlink()


def test_an_attempt_in_a_thread_cannot_be_aborted_and_the_answer_says_so(site: Site) -> None:
    run, id_, _ = start(site, "BG1")
    for arguments in ({"terminate": True}, {"terminate": True, "signal": "KILL"}):
        said = ask(site, "revoke", task_id=[id_], **arguments)["AOS2"]
        assert (
            said["error"]
            == f"LONG / A (run {run}, attempt 1) cannot be aborted: AOS2 runs tasks in threads, and no thread can be "
            "stopped alone"
        )
    site.open_gate("end BG1")
    assert site.wait_end(run)["status"] == "success"
    (site.gates / "end BG1").unlink()


def test_a_ticket_that_is_revoked_before_its_attempt_starts_runs_all_the_same(site: Site) -> None:
    job = Job("QUEUED")
    job.task("A", "ledger.work")
    site.tell("AOS1", signal.SIGSTOP)
    try:
        run = site.submit(job)
        assert site.states(run) == {"A": "queued"}
        with site.database.read() as tx:
            token = tx.execute(text("SELECT token FROM batchq_task WHERE status = 'queued'")).scalar_one()
        site.batch.app.control.revoke(token)
    finally:
        site.tell("AOS1", signal.SIGCONT)
    assert site.wait_end(run)["status"] == "success"


def test_what_the_host_revokes_is_told_to_its_workers_when_they_start(site: Site, shop: Celery) -> None:
    result = shop.send_task("shop.quick", [1])
    ask(site, "revoke", task_id=[result.id])
    shop.send_task("shop.quick", [2])
    assert run_by_the_host(site, 1) == [2]
