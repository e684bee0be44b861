"""The tables of hostile operations, played on real servers: each attempt ends as it should, and the next is well.

One server of one thread runs a whole table, each case followed by an operation that looks around in its process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest

from batchq import Job
from support.hostile_acts import DEATHS, SPOILINGS
from support.hostile_app import ESCAPES, register
from support.hostile_values import ELSEWHERE, EXCEPTIONS, RESULTS
from support.site import Site

pytestmark = pytest.mark.slow

SERVERS = """
groups: {of processes: {}, of threads: {}}
servers:
  AOS1: {groups: [of processes], threads: 1}
  AOS2: {groups: [of threads], threads: 1}
"""
SERVER_OF = {"of processes": "AOS1", "of threads": "AOS2"}
SECONDS = 5.0
# A second of the processor is long on a machine that has much else to do.
OWN_SECONDS = {"processor_time_over": 10.0}
HARD = "a hard limit"
HOOKS = ("before_start", "on_success", "after_return")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("hostile"), app="support.hostile_app") as site:
        register(site.batch.app)
        site.apply(SERVERS)
        site.start_broker()
        site.start_coordinator()
        yield site


@pytest.fixture(scope="module")
def processes(site: Site) -> str:
    """The group of a server with one process."""
    site.start_server("AOS1")
    return "of processes"


@pytest.fixture(scope="module")
def threads(site: Site) -> str:
    """The group of a server with one thread."""
    site.start_server("AOS2", pool="threads")
    return "of threads"


@pytest.fixture(params=["processes", "threads"])
def group(request: pytest.FixtureRequest) -> str:
    """The group of one server, on either pool."""
    return str(request.getfixturevalue(request.param))


def table(group: str, cases: Iterable[tuple[str, str, dict[str, Any]]]) -> Job:
    """A case after the other, each followed by `well`; `cases` are names, operations and arguments."""
    job = Job(f"TABLE {group}", group=group)
    before = job.task("at first", "hostile.well").name
    for name, operation, kwargs in cases:
        job.task(name, operation, kwargs=kwargs, after={before: "finished"}, time_limit=1 if name == HARD else None)
        before = job.task(f"after {name}", "hostile.well", after={name: "finished"}).name
    return job


def played(site: Site, job: Job) -> dict[str, dict[str, Any]]:
    """The only attempt of each task by the task's name, with its result; each has ended within 5 s."""
    run = site.submit(job)
    site.wait_end(run, 300)
    results = {name: task["result"] for name, task in site.tasks(run).items()}
    attempts = {}
    for name, result in results.items():
        (attempt,) = site.task(run, name)["history"]
        attempts[name] = attempt | {"result": result}
    late = {name: seconds(attempt) - OWN_SECONDS.get(name, 0) for name, attempt in attempts.items()}
    assert {name: took for name, took in late.items() if took > SECONDS} == {}
    return attempts


def seconds(attempt: dict[str, Any]) -> float:
    """How long an attempt took."""
    begun, ended = (datetime.fromisoformat(attempt[key]) for key in ("started_at", "ended_at"))
    return (ended - begun).total_seconds()


def wrong(attempts: dict[str, dict[str, Any]], errors: Mapping[str, str]) -> dict[str, str | None]:
    """The attempts that ended otherwise than with an error that starts so; an empty one is a success."""
    found = {}
    for name, start in errors.items():
        status, error = attempts[name]["status"], attempts[name]["error"]
        if status != ("error" if start else "success") or not (error or "").startswith(start):
            found[name] = error
    return found


def ill(attempts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What any `well` found otherwise than the first one did."""
    first = attempts["at first"]["result"]
    found = {}
    for name, attempt in attempts.items():
        if name.startswith("after ") and attempt["result"] != first:
            facts = attempt["result"] or {}
            found[name] = attempt["error"] or {key: facts[key] for key in first if facts.get(key) != first[key]}
    assert first
    return found


def pid(site: Site, group: str) -> int:
    """The server's process."""
    return site.processes[SERVER_OF[group]].pid


# --- both pools ---------------------------------------------------------------------------------------------


def test_whatever_is_raised_is_an_outcome_and_the_next_task_is_well(site: Site, group: str) -> None:
    cases = [(name, "hostile.raise", {"case": name}) for name in EXCEPTIONS]
    cases += [(name, "hostile.elsewhere", {"place": name}) for name in ELSEWHERE]
    server = pid(site, group)

    attempts = played(site, table(group, cases))

    errors = {name: start for name, (_, start) in EXCEPTIONS.items()}
    errors |= {name: error for name, (_, error) in ELSEWHERE.items()}
    assert len(EXCEPTIONS) >= 36
    assert wrong(attempts, errors) == {}
    assert ill(attempts) == {}
    assert {name for name in EXCEPTIONS if len(attempts[name]["error"]) > 2000 or not attempts[name]["log"]} == set()
    assert pid(site, group) == server


def test_whatever_is_returned_is_a_success_and_the_next_task_is_well(site: Site, group: str) -> None:
    attempts = played(site, table(group, [(name, "hostile.return", {"case": name}) for name in RESULTS]))

    assert len(RESULTS) >= 16
    assert wrong(attempts, dict.fromkeys(RESULTS, "")) == {}
    assert {name for name in RESULTS if attempts[name]["result"] is not None} == {
        name for name, (_, kept) in RESULTS.items() if kept
    }
    assert ill(attempts) == {}


def test_a_secret_gets_out_by_no_way(site: Site, group: str) -> None:
    job = Job("SECRET", group=group)
    for way in ESCAPES:
        job.task(way, "hostile.tell", kwargs={"way": way, "password": "hunter2 and more"}, secret=["password"])

    attempts = played(site, job)

    said = "".join(f"{attempt['error']}{attempt['log']}{attempt['result']}" for attempt in attempts.values())
    assert "***" in said
    assert "hunter2" not in said
    assert "***" in site.log(SERVER_OF[group])
    assert "hunter2" not in site.log(SERVER_OF[group])


def test_on_two_threads_too_each_of_them_is_an_outcome_and_the_server_ends_when_told(site: Site, threads: str) -> None:
    site.apply("servers: {AOS2: {groups: [of threads], threads: 2}}")
    job = Job("SIDE BY SIDE", group=threads)
    for name in EXCEPTIONS:
        job.task(name, "hostile.raise", kwargs={"case": name})
    attempts = played(site, job)

    assert wrong(attempts, {name: start for name, (_, start) in EXCEPTIONS.items()}) == {}
    assert site.stop("AOS2") == 0


def test_on_threads_a_death_ends_the_server_and_its_attempt_is_lost_when_it_is_back(site: Site) -> None:
    if "AOS2" not in site.processes:
        site.start_server("AOS2", pool="threads")
    run = site.submit(_one("hostile.die", case="_exit 1"))
    site.wait_for("the server to end", lambda: site.processes["AOS2"].poll() is not None)
    site.wait_exit("AOS2")
    site.start_server("AOS2", pool="threads")

    site.wait_for("the attempt to be lost", lambda: site.states(run) == {"one": "error"}, seconds=SECONDS)
    assert site.tasks(run)["one"]["error"].startswith("lost: ")


def _one(operation: str, **kwargs: str) -> Job:
    job = Job("ONE", group="of threads")
    job.task("one", operation, kwargs=kwargs)
    return job


# --- processes ----------------------------------------------------------------------------------------------


def test_whatever_it_dies_of_ends_the_attempt_and_the_next_task_is_well(site: Site, processes: str) -> None:
    server = pid(site, processes)
    cases = [(name, "hostile.die", {"case": name}) for name in DEATHS]
    cases += [
        (HARD, "hostile.sleep", {"seconds": 60}),
        ("a soft limit", "hostile.limited", {"seconds": 60}),
        *((f"death in {hook}", "hostile.elsewhere", {"place": f"death in {hook}"}) for hook in HOOKS),
    ]
    errors = {name: start for name, (_, start) in DEATHS.items()}
    errors |= {HARD: "timed out", "a soft limit": "SoftTimeLimitExceeded"}
    errors |= {f"death in {hook}": "lost: its process ended (exitcode 5)" for hook in HOOKS}

    attempts = played(site, table(processes, cases))

    assert len(errors) >= 19
    assert wrong(attempts, errors) == {}
    assert ill(attempts) == {}
    assert pid(site, processes) == server


def test_whatever_it_leaves_changed_the_next_task_is_well(site: Site, processes: str) -> None:
    attempts = played(site, table(processes, [(name, "hostile.spoil", {"case": name}) for name in SPOILINGS]))

    assert len(SPOILINGS) >= 25
    assert wrong(attempts, dict.fromkeys(SPOILINGS, "")) == {}
    assert ill(attempts) == {}
    assert re.search(r" / umask \(run \d+, attempt 1\) left changed: umask; that was put back\.", site.log("AOS1"))


def test_many_quick_tasks_beside_children_that_are_replaced_run_exactly_once(site: Site, processes: str) -> None:
    site.apply("servers: {AOS1: {groups: [of processes], threads: 3}}")
    job = Job("REPLACED", group=processes)
    for number in range(300):
        job.task(f"quick {number}", "ledger.work")
        if number % 6 == 0:
            job.task(f"spent {number}", "hostile.spoil", kwargs={"case": "stdin closed"})

    run = site.submit(job)

    assert site.wait_end(run, 120)["status"] == "success"
    assert {task["attempts"] for task in site.tasks(run).values()} == {1}
    assert len(site.ledger(run)) == 300
    assert len({entry.pid for entry in site.ledger(run)}) > 10
