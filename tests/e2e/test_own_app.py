"""A Celery project of one's own: three lines join it, one command runs it, and neither hurts the other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchq import BatchQ, Job
from e2e import host_app
from e2e.judge import read
from support.site import BROKER, Folder, Site

APP = """\
from celery import Celery
from batchq import BatchQ

app = Celery("shop")
batch = BatchQ(app)

@app.task
def collect(day): return {"orders": 3, "day": day}

@app.task
def post(): print("posted")
"""
JOB_FILE = """\
job: ORDERS
tasks:
  Collect: {run: app.collect, args: [monday]}
  Post: {run: app.post, after: Collect}
"""
HOST_JOB = """\
job: HOST
run_by: anna
company: USMF
tasks:
  who: {run: host.who}
  slow: {run: host.sleep, kwargs: {seconds: 2}}
  retry: {run: host.retry, retries: 1, retry_delay: 1}
  autoretry: {run: host.autoretry}
  ignore: {run: host.ignore}
  reject: {run: host.reject}
  soft: {run: host.soft}
  hard: {run: host.sleep, kwargs: {seconds: 60}, time_limit: 1}
  fine: {run: host.hooked}
  broken: {run: host.hooked, kwargs: {fail: true}}
  talk: {run: host.talk}
  result: {run: host.result}
  again: {run: host.who, after: {hard: error}}
  and again: {run: host.who, after: again}
"""
FAILS = {"retry", "autoretry", "reject", "hard", "broken"}


# --- one command --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder with an app and a job, and nothing else."""
    with Folder(tmp_path) as folder:
        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "job.yaml").write_text(JOB_FILE)
        yield folder


def test_one_command_in_a_folder_with_an_app_and_a_job_runs_it(folder: Folder) -> None:
    run = folder.json("run", "job.yaml", "-A", "app")

    assert (run["job"], run["status"]) == ("ORDERS", "success")
    assert run["tasks"][0]["result"] == {"orders": 3, "day": "monday"}
    assert "posted" in folder.cli("task", "log", "last", "Post").stdout
    assert folder.alive() == []


@pytest.mark.parametrize(
    "words", [("validate", "job.yaml", "-A", "app"), ("-A", "app", "validate", "job.yaml")], ids=" ".join
)
def test_the_app_is_named_before_or_after_the_command(folder: Folder, words: tuple[str, ...]) -> None:
    assert "valid, 1 job, 2 tasks" in folder.cli(*words).stdout
    (folder.folder / "app.py").write_text("from celery import Celery\napp = Celery('shop')\n")
    assert "'app.collect'" in folder.cli(*words, code=2).stderr


# --- a host that has a mind of its own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("host"), app="e2e.host_app") as site:
        # Without it Celery refuses, as root, the pickle that the project accepts for itself.
        site.env["C_FORCE_ROOT"] = "1"
        (site.folder / "results").mkdir()
        site.start_broker()
        site.start_coordinator()
        site.start_server("Batch1", 4)
        yield site


@pytest.fixture(scope="module")
def run(site: Site) -> int:
    """A run of all the host's tasks, ended."""
    (site.folder / "host.yaml").write_text(HOST_JOB)
    number: int = site.json("submit", "host.yaml")["run"]
    site.wait_end(number)
    return number


def notes(site: Site, about: str) -> list[str]:
    path = site.folder / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if about in line]


def last_attempt(site: Site, run: int, task: str) -> dict[str, Any]:
    history: list[dict[str, Any]] = site.task(run, task)["history"]
    return history[-1]


def test_the_hosts_settings_do_not_reach_our_tickets(site: Site, run: int) -> None:
    expected = {name: "error" if name in FAILS else "success" for name in site.states(run)}
    assert site.states(run) == expected
    assert site.tasks(run)["slow"]["result"] == "slept"


def test_the_hosts_recycling_of_children_holds_for_operations(site: Site) -> None:
    tasks = "".join(f"  {number}: {{run: host.who}}\n" for number in range(6))
    (site.folder / "pids.yaml").write_text(f"job: PIDS\ntasks:\n{tasks}")
    run = site.json("submit", "pids.yaml")["run"]

    assert site.wait_end(run)["status"] == "success"
    assert len({task["result"]["pid"] for task in site.tasks(run).values()}) == 6


def test_no_message_or_result_of_the_hosts_tasks_is_sent(site: Site, run: int) -> None:
    keys = site.broker("KEYS", "*").decode().split("\r\n")
    ours = ("batchq.", "_kombu.binding.", "unacked", "*", "$", "")
    assert [key for key in keys if not key.startswith(ours)] == []
    assert not any("strange" in key for key in keys)
    assert list((site.folder / "results").iterdir()) == []


def test_the_coordinator_fires_nothing_of_the_hosts_schedule(site: Site, run: int) -> None:
    assert site.task(run, "retry")["history"][1]["server"] == "Batch1"  # which only a tick brings about
    assert notes(site, "beat") == []
    assert list(site.folder.rglob("celerybeat*")) == []


@pytest.mark.parametrize(
    ("task", "errors"),
    [
        ("retry", ["Retry: the operation asked for it", "MaxRetriesExceededError"]),
        ("autoretry", ["ValueError: not today"]),
    ],
)
def test_celerys_own_retries_only_raise(site: Site, run: int, task: str, errors: list[str]) -> None:
    history = site.task(run, task)["history"]
    assert [one["error"].partition(": Can't")[0] for one in history] == errors
    assert len(notes(site, f"host.{task} runs")) == len(errors)


def test_an_operation_reads_its_job_run_task_attempt_run_by_and_company(site: Site, run: int) -> None:
    # Rule 38.
    told = site.tasks(run)["who"]["result"]
    del told["pid"]
    assert told == {
        "job": "HOST",
        "run": run,
        "task": "who",
        "attempt": 1,
        "run_by": "anna",
        "company": "USMF",
        "retries_so_far": 0,
    }
    shown = site.run(run)
    assert (shown["run_by"], shown["company"]) == ("anna", "USMF")
    assert site.cli("runs", "show", str(run)).stdout.splitlines()[0].endswith("; run by anna, company USMF")


@pytest.mark.parametrize(
    ("task", "hooks"),
    [
        ("fine", ["task_prerun", "before_start", "on_success fine", "after_return SUCCESS", "task_postrun SUCCESS"]),
        (
            "broken",
            ["task_prerun", "before_start", "on_failure broken", "after_return FAILURE", "task_postrun FAILURE"],
        ),
    ],
)
def test_the_tasks_hooks_and_signals_are_called(site: Site, run: int, task: str, hooks: list[str]) -> None:
    assert notes(site, f"{task}: ") == [f"{task}: {hook}" for hook in hooks]


def test_ignore_is_a_success_without_a_result_and_reject_an_error(site: Site, run: int) -> None:
    tasks = site.tasks(run)
    assert (tasks["ignore"]["status"], tasks["ignore"]["result"]) == ("success", None)
    assert tasks["reject"]["status"] == "error"
    assert tasks["reject"]["error"].startswith("Reject")


def test_a_time_limit_of_the_job_ends_the_attempt_as_timed_out(site: Site, run: int) -> None:
    # Rule 34.
    assert last_attempt(site, run, "hard")["error"] == "timed out: still running after 1 s"
    assert max(read(site, run).attempts["hard"].items())[1].reason == "timed_out"


def test_a_soft_time_limit_of_the_operation_lets_it_clean_up(site: Site, run: int) -> None:
    assert site.tasks(run)["soft"]["result"] == "cleaned up"


def test_the_result_arrives_as_it_was_returned(site: Site, run: int) -> None:
    assert site.json("task", "show", str(run), "result")["result"] == {
        "rows": 3,
        "names": ["Ærø", None],
        "share": 0.25,
    }


def test_what_an_operation_prints_and_logs_is_in_its_log(site: Site, run: int) -> None:
    log = site.cli("task", "log", str(run), "talk").stdout
    assert "a printed line" in log
    assert "WARNING a logged line" in log


def test_joining_and_submitting_change_none_of_the_apps_settings(site: Site) -> None:
    app = host_app.app
    app.conf.broker_url = site.broker_url
    before = copy.deepcopy(dict(app.conf))

    batch = BatchQ(app, database_url=site.database_url, home=site.folder)
    joined = copy.deepcopy(dict(app.conf))
    job = Job("ONE")
    job.task("sleep", "host.sleep", kwargs={"seconds": 0})
    run = batch.submit(job)
    batch.publisher.close()
    batch.database.dispose()

    assert joined == before
    assert dict(app.conf) == before
    assert site.wait_end(run)["status"] == "success"


@pytest.mark.slow
def test_settings_by_which_an_outage_of_the_broker_ends_a_worker_do_not_hold_for_ours(tmp_path: Path) -> None:
    with Site(tmp_path, app="e2e.host_app") as site:
        site.env["C_FORCE_ROOT"] = "1"
        (site.folder / "results").mkdir()
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=2)
        run = site.submit(
            "job: OUTAGE\ntasks: {a: {run: host.sleep, kwargs: {seconds: 6}}, b: {run: host.who, after: a}}"
        )
        site.wait_for("a to start", lambda: site.states(run)["a"] == "executing")
        site.kill(BROKER)
        site.wait_for("AOS1 to see it", lambda: "waiting for the broker" in site.log("AOS1"))
        site.start_broker()
        site.wait_for("AOS1 to be back", lambda: "answers again" in site.log("AOS1"))

        assert site.wait_end(run)["status"] == "success"
        assert [task["attempts"] for task in site.run(run)["tasks"]] == [1, 1]
        for name in ("AOS1", "coordinator"):
            assert site.processes[name].poll() is None
        (said,) = [line for line in site.log("AOS1").splitlines() if "For AOS1 these do not hold" in line]
        assert "broker_connection_retry=False" in said
        assert "worker_cancel_long_running_tasks_on_connection_loss=True" in said
