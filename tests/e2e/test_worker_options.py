"""What a project sets for its workers holds on a batch server too, or the server says that it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.site import SECONDS, Site

APP = """\
import json, os, time
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from batchq import BatchQ

app = Celery("shop", set_as_current=False)
app.conf.update(json.loads(os.environ.get("SHOP_SETTINGS", "{}")))
batch = BatchQ(app)


@app.task
def pid(megabytes=0):
    held = bytearray(b"x") * (megabytes * 2**20)
    return os.getpid()


@app.task
def clean_up(seconds):
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept"


@app.task
def stubborn(seconds):
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            time.sleep(left)
        except SoftTimeLimitExceeded:
            pass
    return "slept"


@app.task(time_limit=60, soft_time_limit=50)
def patient(seconds):
    time.sleep(seconds)
    return "slept"


@app.task(rate_limit="10/m")
def mail():
    pass
"""
FOUR = "job: FOUR\ntasks: {A: shop.pid, B: shop.pid, C: shop.pid, D: shop.pid}\n"
LIMITS = """\
job: LIMITS
tasks:
  hard: {run: shop.stubborn, args: [60]}
  soft: {run: shop.clean_up, args: [60]}
  own: {run: shop.patient, args: [3]}
  of the job: {run: shop.stubborn, args: [3], time_limit: 60}
  before the soft one: {run: shop.clean_up, args: [60], time_limit: 0.5}
"""
WORKER = [sys.executable, "-m", "celery", "-A", "shop", "worker"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("shop"), app="shop:batch") as site:
        site.env["C_FORCE_ROOT"] = "1"
        (site.folder / "shop.py").write_text(APP)
        site.start_broker()
        site.start_coordinator()
        yield site


@pytest.fixture
def played(site: Site) -> Iterator[Any]:
    """Play a job to its end on the server that the test started; returns its tasks."""

    def play(job: str) -> dict[str, dict[str, Any]]:
        (site.folder / "job.yaml").write_text(job)
        run = site.json("submit", "job.yaml")["run"]
        site.wait_end(run)
        return site.tasks(run)

    yield play
    for name in [name for name in site.processes if name.startswith("AOS")]:
        assert site.stop(name) == 0


def start(site: Site, name: str, *options: str, **settings: Any) -> None:
    """Start a batch server as a worker of Celery's own."""
    site._start(
        name, [*WORKER, "--batch-server", name, "-l", "INFO", *options], {"SHOP_SETTINGS": json.dumps(settings)}
    )
    site.wait_for(f"{name} to be ready", lambda: " ready.\n" in site.log(name))


def pids(tasks: dict[str, dict[str, Any]]) -> list[int]:
    return [task["result"] for task in tasks.values()]


# --- what holds ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the app's settings", "the worker's options"])
def test_limits_hold_for_operations(site: Site, played: Any, way: str) -> None:
    # Rule 34: of all limits that of the job counts first.
    if way == "the app's settings":
        settings = {"worker_max_tasks_per_child": 1, "task_time_limit": 2, "task_soft_time_limit": 1}
        site.start_server("AOS1", 1, SHOP_SETTINGS=json.dumps(settings))
    else:
        site.apply("servers: {AOS2: {threads: 1}}")
        start(site, "AOS2", "--max-tasks-per-child", "1", "--time-limit", "2", "--soft-time-limit", "1")
    name = "AOS1" if way == "the app's settings" else "AOS2"

    assert len(set(pids(played(FOUR)))) == 4
    site.cli("server", "set", name, "--threads", "5")
    tasks = played(LIMITS)
    assert tasks["hard"]["error"] == "timed out: still running after 2 s"
    assert tasks["soft"]["result"] == "cleaned up"
    assert tasks["own"]["result"] == tasks["of the job"]["result"] == "slept"
    assert tasks["before the soft one"]["error"] == "timed out: still running after 0.5 s"
    assert site.log(name).count("rate_limit does not hold for operations (shop.mail 10/m): ") == 1
    assert "do not hold" not in site.log(name)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the app's setting", "the worker's option"])
def test_a_process_that_has_grown_too_large_is_replaced(site: Site, played: Any, way: str) -> None:
    most = 300 * 1024
    if way == "the app's setting":
        start(site, "AOS3", worker_max_memory_per_child=most)
    else:
        start(site, "AOS3", "--max-memory-per-child", str(most))
    a, b, large, after = pids(
        played(
            "job: GROWS\ntasks: {A: shop.pid, B: {run: shop.pid, after: A}, "
            "C: {run: shop.pid, after: B, args: [300]}, D: {run: shop.pid, after: C}}"
        )
    )
    assert a == b == large != after
    assert "and worker_max_memory_per_child is 307200: it ends" in site.log("AOS3")


# --- what does not ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_threads_pool_says_once_which_limits_do_not_hold(site: Site, played: Any) -> None:
    settings = {"worker_max_tasks_per_child": 1, "worker_max_memory_per_child": 1, "task_time_limit": 1}
    start(site, "AOS4", "-P", "threads", "-c", "7", "--max-tasks-per-child", "3", **settings)

    assert len(set(pids(played(FOUR)))) == 1
    said = "worker_max_tasks_per_child=3, worker_max_memory_per_child=1, task_time_limit=1"
    assert site.log("AOS4").count(f"On the threads pool these do not hold: {said}. ") == 1
    assert site.log("AOS4").count("Warning: -c does not hold for a batch server: its windows and threads decide") == 1


REFUSED = {
    "-Q vip": "Error: -Q does not hold for a batch server: its groups decide which queues it takes",
    "--queues=vip,low": "Error: -Q does not hold for a batch server: ",
    "-X celery": "Error: -X does not hold for a batch server: ",
    "--autoscale 10,2": "Error: --autoscale does not hold for a batch server: its windows and threads decide",
    "--purge": "Error: --purge does not hold for a batch server: ",
}
POOLS = ("-P solo", "--pool=solo")
NO_POOL = "Error: A batch server runs on the prefork or the threads pool, not on 'solo'"
# Three of them are part of every run of the tests.
ALWAYS = ("-Q vip", "--autoscale 10,2", "-P solo")
UNFIT = [pytest.param(words, marks=() if words in ALWAYS else pytest.mark.slow) for words in (*REFUSED, *POOLS)]


@pytest.mark.parametrize("words", UNFIT)
def test_celerys_worker_refuses_what_no_batch_server_can_be(site: Site, words: str) -> None:
    # With missing queues refused, Celery would fail over -Q itself.
    settings = {"task_create_missing_queues": False, "worker_concurrency": 3}
    env = {"SHOP_SETTINGS": json.dumps(settings)}
    ended = run(site, [*WORKER, "--batch-server", "AOS9", "-c", "3", *words.split()], **env)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("Warning: -c does not hold")]
    assert line.startswith(REFUSED.get(words, NO_POOL))
    assert site.server("AOS9") == {}


def test_celerys_worker_names_our_commands_and_no_functions(site: Site) -> None:
    ended = run(site, [*WORKER, "--batch-server", "AOS9", "-c", "3", "-Q", "vip"])
    assert [line.rpartition(": ")[2] for line in ended.stderr.splitlines()] == [
        "`batchq server set AOS9 --threads N`.",
        "`batchq server groups set AOS9 GROUP`.",
    ]


@pytest.mark.parametrize("words", UNFIT)
def test_our_own_command_refuses_it_too(site: Site, words: str) -> None:
    ended = site.cli("server", "start", "AOS9", *words.split(), code=2)
    assert "Traceback" not in ended.stderr
    if words in REFUSED:
        (line,) = ended.stderr.splitlines()
        assert line.startswith(REFUSED[words])
    else:
        assert "'solo' is not one of 'prefork', 'threads'" in ended.stderr
    assert site.server("AOS9") == {}


def test_a_pool_that_the_app_has_set_is_refused_in_a_sentence_that_helps(site: Site) -> None:
    # Rule 16.
    env = {"SHOP_SETTINGS": json.dumps({"worker_pool": "solo"})}
    ended = run(site, [*WORKER, "--batch-server", "AOS9"], **env)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert f"{NO_POOL}, as the app's worker_pool says: start it with --pool prefork" in ended.stderr


@pytest.mark.slow
def test_that_sentence_helps(site: Site, played: Any) -> None:
    start(site, "AOS5", "--pool", "prefork", worker_pool="solo", worker_concurrency=3)
    assert len(set(pids(played(FOUR)))) >= 1
    assert ", prefork pool" in site.log("AOS5")
    assert "does not hold for a batch server" not in site.log("AOS5")


@pytest.mark.slow
def test_a_server_starts_below_celerys_own_command_too(site: Site, played: Any) -> None:
    site._start("AOS6", [*WORKER[:-1], "batchq", "server", "start", "AOS6", "-c", "7"], {})
    site.wait_for("AOS6 to be ready", lambda: site._readied("AOS6"))
    assert len(pids(played(FOUR))) == 4
    assert site.log("AOS6").count("Warning: -c does not hold for a batch server: ") == 1
    assert "more than once" not in site.log("AOS6")


def test_validate_says_of_rate_limits_that_they_do_not_hold(site: Site) -> None:
    path = site.folder / "mail.yaml"
    path.write_text("job: MAIL\ntasks: {A: {run: shop.mail}, B: {run: shop.pid}}\n")
    (line,) = site.cli("validate", "mail.yaml").stderr.splitlines()
    assert line.startswith("Note: rate_limit does not hold for operations (shop.mail 10/m): ")

    env = {"SHOP_SETTINGS": json.dumps({"task_default_rate_limit": "5/h"})}
    (view,) = site.json("validate", "mail.yaml", **env)
    (note,) = view["notes"]
    assert "(shop.mail 10/m, shop.pid 5/h)" in note

    path.write_text("job: NONE\ntasks: {A: {run: shop.pid}}\n")
    assert site.cli("validate", "mail.yaml").stderr == ""


def run(site: Site, argv: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """What another program than ours prints, run to its end."""
    return subprocess.run(
        argv, cwd=site.folder, env=site.env | env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
