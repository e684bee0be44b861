"""Two servers of one name: in two pid namespaces of one host, and after a name was taken away (rules 16, 31)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchq import engine
from batchq.store import server as servers
from support.site import Entry, Site

pytestmark = pytest.mark.slow

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
LOST_SECONDS = 6
TASK = "{run: ledger.work, group: G, kwargs: {gate: go}}"
JOB = "job: J\ntasks: {" + ", ".join(f"{name}: {TASK}" for name in "ABCD") + "}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, lost_seconds=LOST_SECONDS, heartbeat_seconds=0.5, lost_ticket_seconds=2) as site:
        site.apply("servers: {AOS1: {threads: 2, groups: [G]}}")
        site.start_broker()
        site.start_coordinator()
        yield site


def start_in_namespace(site: Site, name: str) -> None:
    """Start AOS1 once more, in a pid namespace of its own: as a container with the host's name would."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: a pid namespace cannot be made here")
    site._start(name, [*NAMESPACE, sys.executable, "-m", "batchq", "server", "start", "AOS1"], {})


def most_at_once(entries: list[Entry], killed: float) -> int:
    """How many ran at once at most; what has no end ended when its server was killed."""
    spans = [(entry.start, entry.end or killed) for entry in entries]
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


def epoch(site: Site) -> int:
    with site.database.read() as tx:
        row = servers.find(tx, "AOS1")
    assert row is not None
    return int(row.epoch)


def test_of_two_servers_of_one_name_in_two_pid_namespaces_one_runs_tasks(site: Site) -> None:
    site.start_server("AOS1")
    run = site.submit(JOB)
    site.wait_for("two tasks to run", lambda: len(site.ledger(run)) == 2)
    before = epoch(site)

    start_in_namespace(site, "second")
    assert site.wait_exit("second") == 5
    assert "AOS1 already runs as pid" in site.log("second")
    assert (epoch(site), len(site.ledger(run))) == (before, 2)

    start_in_namespace(site, "third")
    site.wait_for("it to wait", lambda: "waiting for its silence" in site.log("third"))
    assert site.wait_exit("third") == 5

    site.kill("AOS1")
    killed = time.monotonic() + 1  # its children heard of it by then
    start_in_namespace(site, "fourth")
    site.wait_for("the next one to take over", lambda: " ready.\n" in site.log("fourth"))
    assert time.monotonic() - killed < 34
    site.open_gate("go")

    site.wait_end(run)
    entries = site.ledger(run)
    assert sorted(site.states(run).values()) == ["error", "error", "success", "success"]
    assert most_at_once(entries, killed) == 2
    for name in ("second", "third"):
        assert "Traceback" not in site.log(name)
    site.kill("fourth")


def test_a_stopped_process_comes_back_to_a_name_that_a_container_has_taken_and_ends(site: Site) -> None:
    site.start_server("AOS1")
    site.tell("AOS1", signal.SIGSTOP)
    try:
        start_in_namespace(site, "second")
        site.wait_for("the second one to take over", lambda: " ready.\n" in site.log("second"))
        taken = epoch(site)
    finally:
        site.tell("AOS1", signal.SIGCONT)

    assert site.wait_exit("AOS1") == 5
    assert "AOS1 already runs as pid" in site.log("AOS1")
    run = site.submit(JOB)
    site.open_gate("go")
    assert site.wait_end(run)["status"] == "success"
    assert epoch(site) == taken
    site.kill("second")


def test_a_life_whose_name_is_taken_twice_within_its_silence_ends_with_one_sentence(site: Site) -> None:
    site.start_server("AOS1")

    def take_away() -> None:
        """What another coordinator does that cannot hear this server."""

        def lose(tx: object) -> bool:
            row = servers.find(tx, "AOS1")  # type: ignore[arg-type]
            assert row is not None
            return engine.lose(tx, row.id, "AOS1", row.beat, tx.now())  # type: ignore[arg-type]

        assert site.database.run(lose)

    before = epoch(site)
    take_away()
    site.wait_for("it to begin anew", lambda: epoch(site) == before + 2)
    take_away()

    assert site.wait_exit("AOS1") == 5
    said = [line for line in site.log("AOS1").splitlines() if "lost its name twice" in line]
    assert len(said) == 1
    assert "Traceback" not in site.log("AOS1")
