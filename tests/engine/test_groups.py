"""The article's second walk-through: BG1 bound to AOS2 and AOS3 of three servers (rules 11 to 14)."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from batchq.spec import Job
from play import Play, busy

THREADS = {"AOS1": 2, "AOS2": 2, "AOS3": 2}


def never_more_than_the_threads(tx):
    _, executing = busy(tx)
    assert all(number <= THREADS[server] for server, number in executing.items())


@pytest.fixture
def batch(database):
    batch = Play(database, watch=never_more_than_the_threads)
    batch.server("AOS1", 2)
    batch.server("AOS2", 2, groups=["BG1"])
    batch.server("AOS3", 2, groups=["BG1"])
    return batch


def sixty_and_sixty() -> Job:
    job = Job("BOTH")
    for number in range(60):
        job.task(f"BG1 {number}", "demo.work", group="BG1")
        job.task(f"default {number}", "demo.work")
    return job


def servers_of(run) -> dict[str, set[str]]:
    """Which servers ran tasks of each group."""
    seen = defaultdict(set)
    for start in run.starts:
        seen[start.task.split()[0]].add(start.server)
    return dict(seen)


def test_bg1_runs_on_aos2_and_aos3_only_and_the_default_group_on_aos1_only_as_rule_13_says(batch):
    run = batch.play(sixty_and_sixty())
    assert Counter(run.states.values()) == {"success": 120}
    assert len(run.starts) == 120
    assert servers_of(run) == {"BG1": {"AOS2", "AOS3"}, "default": {"AOS1"}}


def test_once_the_default_group_is_added_to_aos2_it_takes_both_and_aos1_goes_on_as_rule_13_says(batch):
    batch.change("AOS2", groups=["BG1", "default"])
    run = batch.play(sixty_and_sixty())
    assert Counter(run.states.values()) == {"success": 120}
    assert servers_of(run) == {"BG1": {"AOS2", "AOS3"}, "default": {"AOS1", "AOS2"}}


def test_a_binding_takes_tickets_of_the_group_back_from_servers_that_no_longer_serve_it_as_rule_14_says(batch):
    batch.change("AOS2", enabled=False)
    batch.change("AOS3", enabled=False)
    job = Job("BG2 ONLY")
    job.task("A", "demo.work", group="BG2")
    run = batch.submit(job)
    (ticket,) = batch.mail
    assert batch.change("AOS3", groups=["BG1", "BG2"]) == 1
    assert batch.states(run) == {"A": "ready"}
    assert not batch.serve("AOS1", offers=[ticket]).granted
    batch.forward()
    assert len(batch.mail) == 1  # nobody may run it now


def test_a_change_of_affinity_is_seen_by_a_server_that_holds_the_old_one_in_memory_as_rule_14_says(batch):
    job = Job("ONE")
    job.task("A", "demo.work")
    batch.change("AOS1", enabled=False)
    run = batch.submit(job)
    assert not batch.mail
    batch.change("AOS3", groups=["BG1", "default"])
    batch.forward()
    batch.deliver()
    assert batch.at("A")[0] == "AOS3"
    assert batch.states(run) == {"A": "executing"}


def test_an_empty_binding_brings_back_the_default_group_as_rule_11_says(batch):
    batch.change("AOS2", groups=[])
    batch.change("AOS3", groups=[])
    run = batch.play(sixty_and_sixty())
    assert servers_of(run) == {"BG1": {"AOS1", "AOS2", "AOS3"}, "default": {"AOS1", "AOS2", "AOS3"}}


def test_a_group_that_only_lost_servers_are_bound_to_waits_for_them_as_rule_12_says(batch):
    for name in ("AOS2", "AOS3"):
        assert batch.stop(name)
    job = Job("BG1 ONLY")
    job.task("A", "demo.work", group="BG1")
    run = batch.submit(job)
    assert not batch.mail
    assert batch.states(run) == {"A": "ready"}
    batch.live("AOS3")
    batch.forward()
    batch.deliver()
    assert batch.at("A")[0] == "AOS3"
