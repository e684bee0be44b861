"""A process ends at each point of `batchq.crash`; it starts again, and nothing is lost and nothing runs too often.

The short form tells stories: in the course of one job a process ends again and again, each life at another point. The
long form has a job for each point alone, on both databases and both brokers, in some 20 minutes of two busy cores:

    pytest tests/e2e/test_crash_points.py -m long
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count, pairwise, product
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import select

import batchq
from batchq import Job, actions, crash, engine
from batchq.spec import TaskSpec
from batchq.store.tables import Run, Server, TaskRow
from e2e.jobs import many
from e2e.judge import cut_off, judge, read
from support.brokers import NO_RABBITMQ, PROGRAM
from support.site import Site

THREADS = {"AOS1": 2, "AOS2": 2}
SETUP = "groups: {bars: {}}\nservers: {AOS1: {threads: 2, groups: [bars, default]}, AOS2: {threads: 2}}"
STORED_SECONDS = 5.0

# Of AOS1, each life in turn; the last of them is not ended, only one of its children.
SERVER = {
    "claim": ["ticket-arrived:1", "claiming:1", "claim-committed:1", "operation-ahead:1"],
    "start": ["attempt-started:1", "recovering:1", "enlisted:1", "operation:1"],
    "finish": ["outcome-received:1", "finishing:1", "finish-committed:1", "operation-over:1"],
    "hand out": ["claim-committed:3", "handed-out:1", "ticket-published:1", ""],
}
TICKS = ["ticking:1", "tick-committed:1", "ticket-published:1"]
# In this order: the first needs two free threads, and leaves one.
SUBMIT = ["ticket-published:1", "forward-committed:1", "run-stored:1"]
HALF_STORED = "chunk-stored:1"
HALF_HELD = "run-moving:1"
CHILD = ["operation-ahead", "operation", "operation-over"]
# What happens only after a life that left something executing.
AGAIN = ["recovering", "enlisted"]

NUMBERS = count(1)
KINDS = ["sqlite", "postgresql"]


def on(*brokers: str) -> pytest.MarkDecorator:
    """The test runs once on each of these brokers with each kind of database."""
    return pytest.mark.parametrize("site", list(product(brokers, KINDS)), indirect=True, ids="-".join)


SHORT = on("valkey")
LONG = on("valkey", "rabbitmq")
RABBITMQ = on("rabbitmq")


def name_of(point: str) -> str:
    return point.partition(":")[0]


def bars(name: str) -> Job:
    """20 tasks: three bars, which only AOS1 takes, and behind each a layer, in which both servers are busy.

    A bar waits for the whole layer before it, however that ended. What has an even number has 2 retries.
    """
    job = Job(name)

    def task(name: str, after: dict[str, str], **options: Any) -> None:
        kwargs = {"seconds": 0.02, "fail": options.pop("fail", False)}
        job.task(name, "ledger.work", kwargs=kwargs, after=after, **options)

    def layer(letter: str, after: dict[str, str], bad: int | None = None) -> dict[str, str]:
        names = [f"{letter} {number}" for number in range(4)]
        for number, name in enumerate(names):
            task(name, after, retries=0 if number % 2 else 2, fail=number == bad)
        return dict.fromkeys(names, "finished")

    for number in (0, 1):
        task(f"first {number}", {}, group="bars", retries=0 if number else 2)
    behind = layer("a", {"first 0": "finished", "first 1": "finished"}, bad=3)
    task("a went wrong", {"a 3": "error"})
    task("a went well", {"a 3": "success"})
    task("second", behind, group="bars", retries=2)
    behind = layer("b", {"second": "finished"})
    task("b went well", {"b 0": "success", "b 1": "success"}, join="any", retries=1)
    task("third", behind, group="bars", retries=2)
    behind = layer("c", {"third": "finished"})
    task("last", behind, join="any")
    return job


# --- the point itself ---------------------------------------------------------------------------------------


def passing(number: int, asked: str, forks: bool = False) -> subprocess.CompletedProcess[str]:
    """A process that passes the point `claiming` so many times, each time in a fork of its own if it `forks`."""
    passes = "os.fork() or (crash.point('claiming'), os._exit(0)); codes.append(os.wait()[1] >> 8)"
    code = f"""
import os
from batchq import crash
codes = []
for _ in range({number}):
    {passes if forks else "crash.point('claiming'); codes.append(0)"}
print(codes)
"""
    env = os.environ | {crash.VARIABLE: asked}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_a_process_ends_at_the_pass_that_is_asked_for_and_says_where() -> None:
    at_the_third, never, elsewhere = (passing(3, asked) for asked in ("claiming:3", "claiming:4", "finishing:1"))

    assert (at_the_third.returncode, at_the_third.stdout) == (crash.EXIT_CODE, "")
    assert re.fullmatch(r"BATCHQ_CRASH: process \d+ ends at claiming\n", at_the_third.stderr)
    assert [(each.returncode, each.stdout, each.stderr) for each in (never, elsewhere)] == [(0, "[0, 0, 0]\n", "")] * 2


def test_all_that_a_process_forked_count_together_and_one_of_them_ends() -> None:
    assert passing(4, "claiming:2", forks=True).stdout == f"[0, {crash.EXIT_CODE}, 0, 0]\n"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("claimed:1", "BATCHQ_CRASH: there is no point 'claimed' (closest: 'claiming')."),
        ("claiming", "BATCHQ_CRASH: 'claiming' does not say which pass is meant: write claiming:1, up to 9999."),
        ("claiming:0", "BATCHQ_CRASH: 'claiming:0' does not say which pass is meant: write claiming:1, up to 9999."),
    ],
)
def test_what_names_no_point_or_no_pass_is_refused(asked: str, sentence: str) -> None:
    refused = passing(1, asked)

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith(sentence)


def test_every_point_has_its_place_in_the_code_and_in_a_story() -> None:
    source = "".join(path.read_text() for path in Path(batchq.__file__).parent.rglob("*.py"))
    placed = re.findall(r'crash\.point\("([^"]+)"\)', source)
    told = [*TICKS, *SUBMIT, HALF_STORED, HALF_HELD, *(point for story in SERVER.values() for point in story if point)]

    assert {*placed, "operation"} == set(crash.POINTS)
    assert set(map(name_of, told)) == set(crash.POINTS)
    assert len(bars("BARS").spec().tasks) == 20


# --- the installation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A coordinator and AOS2, which nothing happens to, on a broker and a database of their kind."""
    broker, kind = request.param
    if broker == "rabbitmq" and PROGRAM is None:
        pytest.skip(NO_RABBITMQ)
    url = None if kind == "sqlite" else fresh(request.getfixturevalue("postgres"))
    # A ticket that a crash has swallowed is waited for a second, not five.
    with Site(tmp_path_factory.mktemp("crash"), broker=broker, database_url=url, lost_ticket_seconds=1) as site:
        site.apply(SETUP)
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS2")
        yield site


def fresh(postgres: str) -> str:
    """A PostgreSQL database that lasts as long as its server."""
    name = f"crash_{next(NUMBERS)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
    return postgres.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")


def begin(site: Site, point: str) -> float:
    """A new life of AOS1, which ends at the point, or a child of which does; returns since when that may be."""
    since = time.monotonic()
    site.start_server("AOS1", wait=False, BATCHQ_CRASH=point)
    return since


def struck(site: Site, point: str, since: float) -> None:
    """Tell the checker what may have cost AOS1 an attempt."""
    site.note("fault", at=since, until=time.monotonic(), kind=f"crash at {point}", hits=["AOS1"])


def listens(site: Site) -> int:
    """How many lives of AOS1 came so far that it has looked for work by itself, and waits for tickets."""
    return site.log("AOS1").count("Started consuming from batchq.default.bars\n")


def ends(site: Site, name: str) -> None:
    """The process ends, and at the point that it was given: nothing else has this exit code."""
    assert site.wait_exit(name) == crash.EXIT_CODE


def whole(site: Site) -> None:
    """AOS1 runs, and nothing happens to it."""
    if "AOS1" in site.processes and psutil.Process(site.processes["AOS1"].pid).environ().get(crash.VARIABLE):
        gone(site)
    if "AOS1" not in site.processes:
        site.start_server("AOS1")


def gone(site: Site) -> None:
    """AOS1 does not run."""
    if "AOS1" in site.processes:
        site.kill("AOS1")


def abandoned(site: Site) -> list[str]:
    """What executes by the database, in a life of its server that is over."""
    with site.database.read() as tx:
        former = (TaskRow.status == "executing", TaskRow.epoch != Server.epoch)
        return list(
            tx.execute(select(TaskRow.name).join(Server, TaskRow.server_id == Server.id).where(*former)).scalars()
        )


def crashed(site: Site, run: int) -> list[Any]:
    """The attempts of which the database says that their process ended at a point."""
    return [row for row in lost(site, run) if f"exitcode {crash.EXIT_CODE})" in row.error]


def lost(site: Site, run: int) -> list[Any]:
    """The attempts that came to no end of their own."""
    rows = [row for attempts in read(site, run).attempts.values() for row in attempts.values()]
    return [row for row in rows if cut_off(row)]


# --- a server -----------------------------------------------------------------------------------------------


def play(site: Site, points: Sequence[str]) -> None:
    """AOS1 ends at one point after the other while it works on a job; at the last, it is a child that ends."""
    last = name_of(points[-1])
    gone(site)
    before, said = listens(site), site.log("AOS1").count(f"ends at {last}\n")
    since = begin(site, points[0])
    site.wait_for("AOS1 to listen", lambda: listens(site) > before)
    run = site.submit(bars(" then ".join(filter(None, points))))
    for point, following in pairwise(points):
        ends(site, "AOS1")
        struck(site, point, since)
        since = begin(site, following)
    site.wait_for("AOS1 to go on", lambda: site.server("AOS1")["pid"] == site.processes["AOS1"].pid)
    site.wait_for("what former lives left", lambda: not abandoned(site), STORED_SECONDS)
    if last:
        site.wait_for("a child to end", lambda: site.log("AOS1").count(f"ends at {last}\n") > said)
        struck(site, last, since)
        site.wait_for("its outcome", lambda: crashed(site, run), STORED_SECONDS)

    site.wait_end(run)
    judge(site, [run], THREADS)
    assert len(crashed(site, run)) == bool(last)


@pytest.mark.slow
@SHORT
@pytest.mark.parametrize("points", [*SERVER.values()], ids=[*SERVER])
def test_a_server_that_ends_at_one_point_after_the_other_loses_nothing(site: Site, points: list[str]) -> None:
    play(site, points)


def alone() -> Iterator[list[str]]:
    for point in (point for story in SERVER.values() for point in story if point):
        before = ["attempt-started:1"] if name_of(point) in AGAIN else []
        yield [*before, point, *([] if name_of(point) in CHILD else [""])]


@pytest.mark.long
@LONG
@pytest.mark.parametrize("points", [*alone()], ids=" ".join)
def test_a_server_that_ends_at_a_point_and_starts_again_loses_nothing(site: Site, points: list[str]) -> None:
    play(site, points)


# --- a coordinator ------------------------------------------------------------------------------------------


def tick(site: Site, points: Sequence[str]) -> None:
    """The coordinator ends at one point after the other, while there is a job that only a tick can hand out."""
    gone(site)  # which nobody has noticed
    site.kill("coordinator")
    run = engine.submit(site.database, bars(" then ".join(points)).spec())
    for point in points:
        site.start_coordinator(BATCHQ_CRASH=point)
        ends(site, "coordinator")
    site.start_coordinator()
    site.start_server("AOS1")

    site.wait_end(run)
    judge(site, [run], THREADS)
    assert lost(site, run) == []


@pytest.mark.slow
@SHORT
def test_a_coordinator_that_ends_at_one_point_after_the_other_costs_no_attempt(site: Site) -> None:
    tick(site, TICKS)


@pytest.mark.long
@LONG
@pytest.mark.parametrize("point", TICKS)
def test_a_coordinator_that_ends_at_a_point_and_starts_again_costs_no_attempt(site: Site, point: str) -> None:
    tick(site, [point])


# --- a submit -----------------------------------------------------------------------------------------------


def submit(site: Site, point: str, job: Job) -> int:
    """Whoever submits the job ends at the point; returns the number of the run."""
    file = site.folder / "job.json"
    tasks = {task.name: form(task) for task in job.spec().tasks}
    file.write_text(json.dumps({"job": job.name, "tasks": tasks}))
    site.cli("submit", file.name, code=crash.EXIT_CODE, BATCHQ_CRASH=point)
    with site.database.read() as tx:
        run, name = tx.execute(select(Run.id, Run.job).order_by(Run.id.desc()).limit(1)).one()
    assert name == job.name
    return run


def form(task: TaskSpec) -> dict[str, Any]:
    """The task as it stands in a file."""
    said = task.model_dump(mode="json", exclude_defaults=True, exclude={"name", "after"})
    return said | {"after": {each.task: each.outcome.value for each in task.after}}


def submits(site: Site) -> None:
    """Of four that submit, each ends at another point, while there is no tick to help them."""
    whole(site)
    site.kill("coordinator")
    runs = [submit(site, point, bars(f"submit, {point}")) for point in SUBMIT]
    half = submit(site, HALF_STORED, many("HALF", engine.submitting.ROWS_PER_TRANSACTION + 1))
    site.start_coordinator()

    for run in runs:
        site.wait_end(run)
    judge(site, runs, THREADS)
    assert [(len(site.tasks(run)), lost(site, run)) for run in runs] == [(20, [])] * len(runs)
    assert (site.run(half)["status"], site.ledger(half)) == ("storing", [])
    actions.cancel_run(site.database, half)
    assert site.run(half)["status"] == "canceled"


@pytest.mark.slow
@SHORT
def test_what_is_stored_when_a_submit_ends_goes_its_way_and_half_a_job_does_nothing(site: Site) -> None:
    submits(site)


@pytest.mark.long
@RABBITMQ
def test_what_is_stored_when_a_submit_ends_goes_its_way_on_rabbitmq(site: Site) -> None:
    submits(site)


# --- an operator ends ---------------------------------------------------------------------------------------


@pytest.mark.slow
@SHORT
def test_a_hold_whose_command_ends_is_in_force_and_a_tick_moves_the_rows(site: Site) -> None:
    whole(site)
    site.kill("coordinator")
    run = site.submit(many("HELD", 12, gate="held"))
    site.cli("runs", "hold", str(run), code=crash.EXIT_CODE, BATCHQ_CRASH=HALF_HELD)
    with site.database.read() as tx:
        held, moving = tx.execute(select(Run.held, Run.moving_from).where(Run.id == run)).one()
    assert (held, moving is None) == (True, False)
    site.start_coordinator()
    site.wait_for("the tick", lambda: _moved(site, run))
    site.open_gate("held")
    actions.release_run(site.database, run)
    site.wait_end(run)
    judge(site, [run], THREADS)


def _moved(site: Site, run: int) -> bool:
    with site.database.read() as tx:
        return tx.execute(select(Run.moving_from).where(Run.id == run)).scalar() is None
