"""JOB 1 on two real servers of one thread each: the acceptance table, and what runs when and where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchq import actions
from support.job1 import TABLE, TASKS, Row, job_1
from support.site import Entry, Site

SERVERS = ("Batch1", "Batch2")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("job1")) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_servers(SERVERS)
        yield site


def by_task(site: Site, run: int) -> dict[str, Entry]:
    return {entry.task: entry for entry in site.ledger(run)}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_run_ends_as_the_table_says(site: Site, row: Row) -> None:
    run = site.submit(job_1(row.failing))

    view = site.wait_end(run)

    assert (site.states(run), view["status"]) == (row.states, row.verdict)
    ran = {name for name, state in row.states.items() if state != "didnt_run"}
    assert {entry.task for entry in site.ledger(run)} == ran
    assert {name for name in ran if "was told to fail" in (site.tasks(run)[name]["error"] or "")} == row.failing


def test_task_2_waits_for_task_1_although_a_thread_is_free(site: Site) -> None:
    run = site.submit(job_1(kwargs={"TASK 1": {"seconds": 0.5, "gate": "after 1"}}))
    site.wait_for("TASK 1 to run", lambda: site.ledger(run))
    busy = sorted(site.server(name)["busy"] for name in SERVERS)
    site.open_gate("after 1")

    site.wait_end(run)

    assert busy == [0, 1]
    ran = by_task(site, run)
    assert ran["TASK 1"].end is not None
    assert ran["TASK 2"].start > ran["TASK 1"].end


def test_tasks_3_and_4_run_at_the_same_time_on_different_servers(site: Site) -> None:
    both = {"gate": "after 3 and 4"}
    run = site.submit(job_1(kwargs={"TASK 3": both, "TASK 4": both}))
    site.wait_for("TASK 3 and 4", lambda: {"TASK 3", "TASK 4"} <= by_task(site, run).keys())
    site.open_gate("after 3 and 4")

    assert site.wait_end(run)["status"] == "success"

    ran = by_task(site, run)
    assert ran["TASK 3"].overlaps(ran["TASK 4"])
    assert {ran["TASK 3"].server, ran["TASK 4"].server} == set(SERVERS)
    assert ran["TASK 7"].start > max(ran["TASK 3"].end or 0, ran["TASK 4"].end or 0)


def test_task_6_starts_when_3_fails_without_waiting_for_4(site: Site) -> None:
    run = site.submit(job_1({"TASK 3"}, {"TASK 4": {"gate": "after 4"}}))
    site.wait_for("TASK 6 to end", lambda: site.states(run)["TASK 6"] == "success")
    meanwhile = site.states(run)
    site.open_gate("after 4")

    assert site.wait_end(run)["status"] == "error"

    assert (meanwhile["TASK 4"], meanwhile["TASK 7"]) == ("executing", "didnt_run")
    ran = by_task(site, run)
    assert ran["TASK 6"].start < (ran["TASK 4"].end or 0)


@pytest.mark.parametrize(("alone", "other"), [SERVERS, SERVERS[::-1]])
def test_either_server_may_run_any_task(site: Site, alone: str, other: str) -> None:
    actions.set_server(site.database, other, enabled=False)
    try:
        run = site.submit(job_1())
        assert site.wait_end(run)["status"] == "success"
    finally:
        actions.set_server(site.database, other, enabled=True)

    assert {entry.server for entry in site.ledger(run)} == {alone}
    assert [name for name, task in site.tasks(run).items() if task["server"]] == TASKS[:4] + TASKS[6:]
