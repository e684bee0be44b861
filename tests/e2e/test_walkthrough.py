"""Rule 13 on three real servers: BG1 is bound to AOS2 and AOS3, then the default group is added to AOS2."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchq import Job
from support.site import Site

SERVERS = ("AOS1", "AOS2", "AOS3")
MANY = 60
BOUND = """
groups:
  BG1: {}
servers:
  AOS1: {threads: 2}
  AOS2: {threads: 2, groups: [BG1]}
  AOS3: {threads: 2, groups: [BG1]}
"""
DEFAULT_ADDED = "servers: {AOS2: {threads: 2, groups: [BG1, default]}}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("groups")) as site:
        site.start_broker()
        site.start_coordinator()
        write(site, "bound.yaml", BOUND)
        site.cli("apply", "bound.yaml")
        site.start_servers(SERVERS)
        yield site


def write(site: Site, name: str, text: str) -> Path:
    path = site.folder / name
    path.write_text(text)
    return path


def both_groups() -> Job:
    """60 tasks of BG1 and 60 of the default group, in turn."""
    job = Job("BOTH")
    for number in range(MANY):
        job.task(f"BG1 {number}", "ledger.work", kwargs={"seconds": 0.05}, group="BG1")
        job.task(f"default {number}", "ledger.work", kwargs={"seconds": 0.05})
    return job


def who_ran(site: Site, run: int) -> dict[str, set[str]]:
    """For each server, the groups of which it ran a task, by the ledger."""
    ran: dict[str, set[str]] = {name: set() for name in SERVERS}
    for entry in site.ledger(run):
        ran[entry.server].add(entry.task.partition(" ")[0])
    return ran


def test_rule_13_from_the_first_binding_to_the_added_default_group(site: Site) -> None:
    lives = {name: site.server(name)["pid"] for name in SERVERS}
    bound = site.submit(both_groups())
    assert site.wait_end(bound)["status"] == "success"

    write(site, "added.yaml", DEFAULT_ADDED)
    site.cli("apply", "added.yaml")
    added = site.submit(both_groups())
    assert site.wait_end(added)["status"] == "success"

    assert len(site.ledger(bound)) == len(site.ledger(added)) == 2 * MANY
    assert who_ran(site, bound) == {"AOS1": {"default"}, "AOS2": {"BG1"}, "AOS3": {"BG1"}}
    assert who_ran(site, added) == {"AOS1": {"default"}, "AOS2": {"BG1", "default"}, "AOS3": {"BG1"}}
    assert {name: site.server(name)["pid"] for name in SERVERS} == lives


def test_an_added_group_is_in_force_within_two_seconds_on_a_running_server(site: Site) -> None:
    site.apply(BOUND)
    held = Job("HELD")
    for number in (1, 2, 3):
        held.task(f"default {number}", "ledger.work", kwargs={"gate": "held"})
    run = site.submit(held)
    site.wait_for("AOS1 to be full", lambda: len(site.ledger(run)) == 2)
    (waiting,) = (name for name, state in site.states(run).items() if state != "executing")
    why = site.json("task", "why", str(run), waiting)["why"]

    site.cli("apply", "added.yaml")
    changed = datetime.now(UTC)
    site.wait_for("the third to start", lambda: len(site.ledger(run)) == 3)
    site.open_gate("held")

    assert site.wait_end(run)["status"] == "success"
    third = site.tasks(run)[waiting]
    assert (third["server"], why) == ("AOS2", "AOS1 2/2 threads busy")
    assert datetime.fromisoformat(third["started_at"]) - changed < timedelta(seconds=2)


@pytest.mark.slow
def test_a_binding_survives_a_restart_of_its_server(site: Site) -> None:
    site.apply(BOUND)
    for name in ("AOS2", "AOS3"):
        assert site.stop(name) == 0
    site.start_servers(("AOS2", "AOS3"))

    run = site.submit(both_groups())

    assert site.wait_end(run)["status"] == "success"
    assert who_ran(site, run) == {"AOS1": {"default"}, "AOS2": {"BG1"}, "AOS3": {"BG1"}}
