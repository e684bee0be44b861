"""What a server logs of its attempts: a line for the start and for the end of each, as text or as JSON."""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from batchq import Job
from support import talking_app
from support.site import Site
from support.talking_app import WAYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APP = "support.talking_app"
PREFORK, BESIDE, THREADS, OBJECTS, WORKER = SERVERS = ("Prefork", "Beside", "Threads", "Objects", "Worker")
SETUP = "\n".join(
    ["groups:", *(f"  of {name}: {{}}" for name in SERVERS), "servers:"]
    + [f"  {name}: {{groups: [of {name}], threads: 2}}" for name in SERVERS]
)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+05:45"
DIED = r"lost: its process ended \(.*\) during this attempt; what it did is not known"
STOPPED = "lost: its server was stopped during this attempt; what it did is not known"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Servers of both pools that write text, and both kinds of workers that write JSON."""
    with Site(tmp_path_factory.mktemp("site"), app=APP) as site:
        site.env |= {"TZ": "Asia/Kathmandu", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
        for name, task in talking_app.app.tasks.items():
            if name.startswith("talk."):
                site.batch.app.task(task.run, name=name, shared=False)
        site.start_broker()
        site.apply(SETUP)
        site.start("coordinator", "coordinator", "--loglevel", "INFO", BATCHQ_LOG_FORMAT="json")
        site.start_server(PREFORK, wait=False)
        site.start_server(BESIDE, wait=False, TALK_SETUP="dictConfig", BATCHQ_LOG_FORMAT="json")
        site.start_server(THREADS, wait=False, pool="threads", TALK_SETUP="dictConfig")
        site.start_server(OBJECTS, wait=False, BATCHQ_LOG_FORMAT="json")
        argv = [sys.executable, "-m", "celery", "-A", APP, "worker", "--batch-server", WORKER, "-P", "threads"]
        env = {"BATCHQ_LOG_FORMAT": "json", "TALK_JOINS": "1", "CELERY_BROKER_URL": site.broker_url}
        site._start(WORKER, [*argv, "-c", "1", "-l", "INFO"], env)
        yield site


def job(server: str) -> Job:
    """A task for each way to end, on one server."""
    job, group = Job(f"J {server}"), f"of {server}"
    job.task("good", "talk.all", group=group)
    job.task("bad", "talk.fail", group=group, kwargs={"password": "hunter2!"}, secret=["password"])
    if server not in (THREADS, WORKER):
        job.task("dies", "talk.die", group=group)
        job.task("slow", "talk.sleep", group=group, kwargs={"seconds": 60}, time_limit=1)
    return job


@pytest.fixture(scope="module")
def runs(site: Site) -> dict[str, int]:
    """By server, its run, which has ended."""
    runs = {server: site.submit(job(server)) for server in SERVERS}
    for run in runs.values():
        site.wait_end(run)
    return runs


def text_of(site: Site, server: str, run: int, task: str) -> list[str]:
    """The lines of the server's log about a task."""
    return [line for line in site.log(server).splitlines() if f"J {server} / {task} " in line]


def objects_of(site: Site, server: str) -> list[dict[str, Any]]:
    """The server's log, every line of which is an object, but for what an operation wrote past all redirects."""
    return [json.loads(line) for line in site.log(server).splitlines() if line != "by first stderr"]


@pytest.mark.parametrize(
    ("task", "operation", "level", "end"),
    [
        ("good", "talk.all", "INFO/ForkPoolWorker", r"succeeded in \d+\.\d{3} s: %s"),
        ("bad", "talk.fail", "ERROR/ForkPoolWorker", r"failed after \d+\.\d{3} s: %s: ValueError: it failed\\x1b.*"),
        ("dies", "talk.die", "ERROR/MainProcess", rf"ended after \d+\.\d{{3}} s: %s: {DIED}"),
        (
            "slow",
            "talk.sleep",
            "ERROR/MainProcess",
            r"ended after \d+\.\d{3} s: %s: timed out: still running after 1 s",
        ),
    ],
)
def test_an_attempt_has_a_line_for_its_start_and_one_for_its_end(
    site: Site, runs: dict[str, int], task: str, operation: str, level: str, end: str
) -> None:
    start, over = text_of(site, PREFORK, runs[PREFORK], task)
    what = f"run {runs[PREFORK]}, attempt 1, {operation}"
    assert re.fullmatch(rf"\[{TIME}: INFO/ForkPoolWorker-\d+\] J Prefork / {task} started: {what}", start)
    assert re.fullmatch(rf"\[{TIME}: {level}(-\d+)?\] J Prefork / {task} {end % what}", over)


def test_a_failure_has_its_traceback_without_what_is_secret(site: Site, runs: dict[str, int]) -> None:
    for server in SERVERS:
        assert "hunter2!" not in site.log(server)
    log = site.log(PREFORK).splitlines()
    line = next(number for number, line in enumerate(log) if "/ bad failed" in line)
    trace = list(itertools.takewhile(lambda line: line.startswith("  "), log[line + 1 :]))
    assert trace[0] == "  Traceback (most recent call last):"
    assert trace[-2:] == [r"  ValueError: it failed\x1b[2J", "  and more ***"]


@pytest.mark.parametrize("server", SERVERS)
def test_no_line_of_the_servers_own_is_in_an_attempts_log(site: Site, runs: dict[str, int], server: str) -> None:
    for task in ("good", "bad"):
        log = site.task(runs[server], task)["history"][0]["log"]
        assert f"J {server} /" not in log
        assert log.count("ValueError: it failed") == int(task == "bad")


@pytest.mark.parametrize("server", [BESIDE, THREADS])
def test_what_is_said_under_a_dictconfig_without_redirects_is_in_task_log(
    site: Site, runs: dict[str, int], server: str
) -> None:
    said = site.cli("task", "log", str(runs[server]), "good").stdout
    assert {way: said.count(f"by {way}\n") for way in WAYS} == dict.fromkeys(WAYS, 1), said


def test_where_the_host_sets_up_its_logs_its_format_stays(site: Site, runs: dict[str, int]) -> None:
    assert "by own" in site.log(BESIDE).splitlines()


# --- JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [OBJECTS, WORKER, "coordinator"])
def test_every_line_is_an_object_with_a_time_that_has_its_zone(site: Site, runs: dict[str, int], server: str) -> None:
    lines = objects_of(site, server)
    assert lines
    for line in lines:
        assert re.fullmatch(TIME, line["time"])
        assert {"level", "logger", "message"} <= line.keys()


@pytest.mark.parametrize("server", [OBJECTS, WORKER])
def test_an_objects_fields_are_the_facts_of_the_attempt(site: Site, runs: dict[str, int], server: str) -> None:
    lines = [line for line in objects_of(site, server) if line.get("job") == f"J {server}"]
    facts = {"run": runs[server], "attempt": 1, "group": f"of {server}"}
    assert all(line.items() >= facts.items() for line in lines)
    good = [line for line in lines if line["task"] == "good"]
    assert [line.get("outcome") for line in good] == [None, "success"]
    assert {line["operation"] for line in good} == {line["task_name"] for line in good} == {"talk.all"}
    assert 0 < good[1]["duration"] < 60
    (bad,) = (line for line in lines if line["task"] == "bad" and "outcome" in line)
    assert (bad["level"], bad["outcome"], bad["logger"]) == ("ERROR", "error", "celery.app.trace")
    assert bad["exc_info"].startswith("Traceback (most recent call last):\n")
    assert bad["exc_info"].endswith("ValueError: it failed\x1b[2J\nand more ***")


def test_an_end_that_no_child_can_tell_is_an_object_too(site: Site, runs: dict[str, int]) -> None:
    lines = [line for line in objects_of(site, OBJECTS) if "outcome" in line]
    ends = {line["task"]: (line["level"], line["outcome"]) for line in lines if line["task"] in ("dies", "slow")}
    assert ends == dict.fromkeys(("dies", "slow"), ("ERROR", "error"))


@pytest.mark.parametrize("server", [OBJECTS, WORKER])
def test_what_an_operation_says_is_escaped_once(site: Site, runs: dict[str, int], server: str) -> None:
    raw = [line for line in site.log(server).splitlines() if "about to fail" in line]
    assert len(raw) == 1
    assert raw[0].isprintable()
    line = json.loads(raw[0])
    assert line["message"] == "about to fail\x1b[2J\x7f"
    assert (line["order"], line["task_name"]) == (7, "talk.fail")
    prints = [line for line in objects_of(site, server) if line["message"] == "by print"]
    assert [line["logger"] for line in prints] == ["celery.redirected"]


@pytest.mark.parametrize("server", [PREFORK, OBJECTS])
def test_a_stop_that_ends_an_attempt_says_so_in_a_line(site: Site, runs: dict[str, int], server: str) -> None:
    stays = Job(f"STAYS {server}")
    stays.task("long", "talk.sleep", group=f"of {server}", kwargs={"seconds": 60})
    site.submit(stays)
    site.wait_for("it to start", lambda: f"STAYS {server} / long started" in site.log(server))
    site.tell(server, signal.SIGQUIT)
    site.wait_exit(server)
    ends = [line for line in site.log(server).splitlines() if f"STAYS {server} / long ended" in line]
    assert len(ends) == 1
    assert STOPPED in ends[0]
    if server == OBJECTS:
        assert objects_of(site, server)[-1]["level"]
