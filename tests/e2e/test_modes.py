"""Servers as they come and go: names, ends, windows, threads, pools; and the coordinator's tick by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from batchq import Job, actions
from batchq.core.windows import Window
from support.job1 import AFTER, TABLE, job_1
from support.site import Entry, Site

# Long enough that nobody can have waited for it.
LOST_SECONDS = 300
WITHIN = timedelta(seconds=2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Servers One and Three for the default group; what a test starts besides, it binds to a group of its own."""
    with Site(tmp_path_factory.mktemp("modes"), lost_seconds=LOST_SECONDS) as site:
        site.apply("servers: {One: {threads: 1}, Three: {threads: 3}}")
        site.start_broker()
        site.start_coordinator()
        site.start_servers(("One", "Three"))
        yield site


def held(gate: str, tasks: int, group: str | None = None) -> Job:
    """So many tasks that run until the gate opens."""
    job = Job(gate.upper(), group=group)
    for number in range(1, tasks + 1):
        job.task(f"TASK {number}", "ledger.work", kwargs={"gate": gate})
    return job


def at(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


def most_at_once(entries: list[Entry]) -> int:
    """The most operations that ran at any instant."""
    return max(sum(entry.overlaps(other) and other.start <= entry.start for other in entries) for entry in entries)


# --- threads and pools --------------------------------------------------------------------------------------


def test_servers_of_one_and_of_three_threads_fill_up_and_take_no_more(site: Site) -> None:
    run = site.submit(held("full", 8))
    site.wait_for("four to run", lambda: len(site.ledger(run)) == 4)
    busy = {name: site.server(name)["busy"] for name in ("One", "Three")}
    site.open_gate("full")

    assert site.wait_end(run)["status"] == "success"

    assert busy == {"One": 1, "Three": 3}
    by_server = {name: [e for e in site.ledger(run) if e.server == name] for name in busy}
    assert {name: most_at_once(entries) for name, entries in by_server.items()} == busy


def test_the_threads_pool_runs_job_1(site: Site) -> None:
    site.apply("servers: {Threads: {threads: 2, groups: [T]}}")
    site.start_server("Threads", pool="threads")
    both = {"gate": "threads"}
    run = site.submit(job_1({"TASK 1"}, {"TASK 3": both, "TASK 4": both}, group="T"))
    site.wait_for("TASK 3 and 4 at once", lambda: len(site.ledger(run)) == 4)
    site.open_gate("threads")

    view = site.wait_end(run)

    assert (site.states(run), view["status"]) == (TABLE[1].states, TABLE[1].verdict)
    assert len({entry.pid for entry in site.ledger(run)}) == 1
    assert site.server("Threads")["pool_kind"] == "threads"
    assert site.stop("Threads") == 0


# --- names and ends -----------------------------------------------------------------------------------------


def test_a_second_start_under_a_living_name_is_refused_with_one_sentence(site: Site) -> None:
    refused = site.cli("server", "start", "One", code=5)

    server = site.server("One")
    sentence = f"One already runs as pid {server['pid']} on host {server['host']}."
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert server["pid"] == site.processes["One"].pid


@pytest.mark.slow
def test_a_stopped_and_a_killed_server_are_followed_at_once_under_the_same_name(site: Site) -> None:
    site.apply("servers: {Leaving: {threads: 1, groups: [L]}}")
    site.start_server("Leaving")
    assert site.stop("Leaving") == 0
    assert site.server("Leaving")["state"] == "stopped"
    site.start_server("Leaving")
    run = site.submit(held("killed", 1, group="L"))
    site.wait_for("it to run", lambda: site.ledger(run))

    site.kill("Leaving")
    site.start_server("Leaving")

    assert site.wait_end(run)["status"] == "error"
    assert site.tasks(run)["TASK 1"]["error"].startswith("lost: ")
    after = site.submit(held("killed", 1, group="L"))
    site.open_gate("killed")
    assert site.wait_end(after)["status"] == "success"
    assert site.stop("Leaving") == 0


def test_a_server_that_is_told_to_end_finishes_what_runs_and_starts_nothing_more(site: Site) -> None:
    site.apply("servers: {Ending: {threads: 2, groups: [E]}}")
    site.start_server("Ending")
    run = site.submit(held("ending", 3, group="E"))
    site.wait_for("two to run", lambda: len(site.ledger(run)) == 2)

    site.tell("Ending", 15)
    site.wait_for("it to heed the signal", lambda: "Warm shutdown" in site.log("Ending"))
    site.open_gate("ending")

    assert site.wait_exit("Ending") == 0
    assert sorted(site.states(run).values()) == ["ready", "success", "success"]
    assert len(site.ledger(run)) == 2
    site.start_server("Ending")
    assert site.wait_end(run)["status"] == "success"
    assert site.stop("Ending") == 0


# --- windows ------------------------------------------------------------------------------------------------


def test_a_window_that_opens_lets_waiting_work_start_within_two_seconds(site: Site) -> None:
    site.apply("servers: {Night: {threads: 1, groups: [N]}}")
    site.start_server("Night")
    now = datetime.now(UTC)
    later = (now + timedelta(hours=2)).replace(second=0)
    day = "" if later.date() == now.date() else f"{later:%a %d %b} "
    set_window(site, "Night", later)
    run = site.submit(held("night", 1, group="N"))
    closed = site.server("Night")["state"]
    why = site.json("task", "why", str(run), "TASK 1")["why"]
    until = f"N: no server has an open window until {day}{later:%H:%M} UTC"
    assert closed == "closed"
    assert why == f"{until} (Night, {later:%H:%M}-{later + timedelta(hours=1):%H:%M} with 1 thread)"

    opens = (datetime.now(UTC) + timedelta(seconds=4)).replace(microsecond=0)
    set_window(site, "Night", opens)
    site.open_gate("night")

    assert site.wait_end(run)["status"] == "success"
    assert opens <= at(site.tasks(run)["TASK 1"]["started_at"]) < opens + WITHIN
    assert site.stop("Night") == 0


def set_window(site: Site, name: str, start: datetime) -> None:
    """Let the server have one window, of an hour, that opens at this instant."""
    window = Window(
        start.time().replace(microsecond=0), (start + timedelta(hours=1)).time().replace(microsecond=0), 1, "UTC"
    )
    actions.set_server(site.database, name, windows=[window])


# --- the tick alone -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tick_alone_brings_every_row_of_the_table_to_its_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Site(tmp_path_factory.mktemp("tick"), fast_path=False) as site:
        # Threads for all rows at once, so that none has to wait for a thread.
        site.apply("servers: {Batch1: {threads: 7}, Batch2: {threads: 7}}")
        site.start_broker()
        site.start_servers(("Batch1", "Batch2"))
        site.start_coordinator()
        site.wait_end(site.submit(job_1()))
        runs = [site.submit(job_1(row.failing)) for row in TABLE]
        ends = [site.wait_end(run)["status"] for run in runs]

        assert [(site.states(run), end) for run, end in zip(runs, ends, strict=True)] == [
            (row.states, row.verdict) for row in TABLE
        ]
        for run in runs:
            assert max(waits(site, run).values()) < WITHIN


def waits(site: Site, run: int) -> dict[str, timedelta]:
    """For each task that started, the time from the last end that it waited for, or the submit, to its claim."""
    tasks = site.tasks(run)
    submitted = at(site.run(run)["submitted_at"])
    started = {name: at(task["started_at"]) for name, task in tasks.items() if task["started_at"]}
    ended = {name: at(task["ended_at"]) for name, task in tasks.items()}
    before = {name: max((ended[each] for each in AFTER.get(name, ())), default=submitted) for name in started}
    return {name: started[name] - before[name] for name in started}
