"""A Redis that answers and refuses: after a failover, without memory or disk, with another password, with odd keys."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from e2e.jobs import many
from e2e.judge import judge
from support.site import Site

THREADS = {"AOS1": 2}
# It may take so long until work goes on, and an outcome until it is stored meanwhile.
AFTER_SECONDS = 15.0
STORED_SECONDS = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("refusing")) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=2)
        yield site


def config(site: Site, name: str, value: str) -> None:
    assert site.broker("CONFIG", "SET", name, value) == b"+OK\r\n"


def all_out(site: Site) -> None:
    """Break all connections, as a failover does."""
    site.broker("CLIENT", "KILL", "TYPE", "normal")


def read_only(site: Site) -> None:
    assert site.broker("REPLICAOF", "127.0.0.1", "1").startswith(b"+OK")


def writable(site: Site) -> None:
    assert site.broker("REPLICAOF", "NO", "ONE").startswith(b"+OK")


def failed_over(site: Site) -> None:
    read_only(site)
    all_out(site)


def full(site: Site) -> None:
    config(site, "maxmemory", "1")


def roomy(site: Site) -> None:
    config(site, "maxmemory", "0")


def locked(site: Site) -> None:
    config(site, "requirepass", "another")
    all_out(site)


def unlocked(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(site._broker.target))
        client.sendall(b"AUTH another\r\nCONFIG SET requirepass ''\r\n")
        said = b""
        while said.count(b"\r\n") < 2:
            said += client.recv(100)
    assert said == b"+OK\r\n+OK\r\n"


def odd_keys(site: Site) -> None:
    for key in ("_kombu.binding.celery.pidbox", "_kombu.binding.batchq.default.default"):
        site.broker("DEL", key)
        site.broker("SET", key, "odd")
    all_out(site)


def no_odd_keys(site: Site) -> None:
    site.broker("DEL", "_kombu.binding.celery.pidbox", "_kombu.binding.batchq.default.default")


Act = Callable[[Site], None]
REFUSALS: dict[str, tuple[Act, Act]] = {
    "READONLY": (read_only, writable),
    "READONLY after a failover": (failed_over, writable),
    "OOM": (full, roomy),
    "NOAUTH": (locked, unlocked),
    "WRONGTYPE": (odd_keys, no_odd_keys),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_servers_and_coordinators_wait_for_a_broker_that_refuses_and_store_meanwhile(site: Site, name: str) -> None:
    refuse, allow = REFUSALS[name]
    job = many(f"DURING {name}", 2, gate=name)
    run = site.submit(job)
    site.wait_for("both to start", lambda: len(site.ledger(run)) == 2)
    lines = len(site.log("AOS1").splitlines())
    refuse(site)
    try:
        began = time.monotonic()
        site.open_gate(name)
        site.wait_for("the outcomes", lambda: site.run(run)["status"] == "success", STORED_SECONDS)
        site.wait_for("a while to pass", lambda: time.monotonic() - began > 6)
    finally:
        allow(site)

    after = many(f"AFTER {name}", 10, seconds=0.02)
    later = site.submit(after)
    site.wait_end(later, AFTER_SECONDS)
    said = [line for line in site.log("AOS1").splitlines()[lines:] if "WARNING" in line or "ERROR" in line]
    assert "Traceback" not in site.log("AOS1") + site.log("coordinator")
    assert len(said) <= 6, said
    judge(site, {run: job, later: after}, THREADS)
