"""What README and docs/python.md say of a Celery project of one's own: files, commands, and what is embedded."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from support import book
from support.site import Folder, Site

COMMAND = "batchq run night.yaml -A app"
PAGE = "docs/python.md"
SUBMITS = book.block(PAGE, "submits")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Folder]:
    """A folder with the README's two files."""
    written(tmp_path)
    with Folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A broker beside the README's two files."""
    written(tmp_path)
    with Site(tmp_path) as site:
        for name in ("BATCHQ_APP", "BATCHQ_BROKER_URL", "BATCHQ_DATABASE_URL", "BATCHQ_HOME"):
            del site.env[name]
        site.start_broker()
        yield site


def written(folder: Path) -> None:
    for name in ("app.py", "night.yaml"):
        (folder / name).write_text(book.file(name))


def name_in_app(folder: Folder, was: str, now: str) -> None:
    path = folder.folder / "app.py"
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, now))


def run(folder: Folder) -> set[str]:
    """Run the README's command, which ends well; returns the names of the logs that its processes leave."""
    folder.cli(*book.words("README.md", COMMAND))
    return {path.stem for path in (folder.folder / ".batchq" / "logs").iterdir()}


def runs(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM batchq_run WHERE status = 'success'").fetchone()[0])


def test_the_readmes_files_run_by_its_command_with_all_that_they_do_not_name_embedded(project: Folder) -> None:
    assert {"valkey", "coordinator", "Batch1", "Batch2"} <= run(project)
    shown = project.json("runs", "show", "last")
    assert {task["name"]: (task["status"], task["result"]) for task in shown["tasks"]} == {
        "Collect": ("success", {"orders": 3}),
        "Invoice": ("success", None),
        "Alarm": ("didnt_run", None),
    }
    assert "invoicing" in project.cli("task", "log", "last", "Invoice").stdout
    assert runs(project.folder / ".batchq" / "batchq.db") == 1


def test_the_operation_that_looks_at_what_it_works_for_runs_and_logs_it(project: Folder) -> None:
    (project.folder / "days.py").write_text(book.file("days.py"))
    (project.folder / "day.yaml").write_text("job: DAY\ntasks: {Close: {run: days.close_day, args: [today]}}\n")
    project.cli("run", "day.yaml", "-A", "days")
    (task,) = project.json("runs", "show", "last")["tasks"]
    assert (task["status"], task["result"]) == ("success", {"day": "today"})
    assert "closing today for run 1, attempt 1" in project.cli("task", "log", "last", "Close").stdout


def test_the_broker_that_the_app_names_is_used(site: Site) -> None:
    name_in_app(site, 'Celery("shop")', f'Celery("shop", broker="{site.broker_url}")')
    logs = run(site)
    assert "valkey" not in logs
    assert site.broker_url.partition("?")[0] in (site.folder / ".batchq" / "logs" / "Batch1.log").read_text()
    assert runs(site.folder / ".batchq" / "batchq.db") == 1


def test_the_database_that_the_app_names_is_used(project: Folder) -> None:
    name_in_app(project, "BatchQ(app)", 'BatchQ(app, database_url="sqlite:///elsewhere.db")')
    project.cli("-A", "app", "db", "upgrade")
    assert "valkey" in run(project)
    assert runs(project.folder / "elsewhere.db") == 1
    assert not (project.folder / ".batchq" / "batchq.db").exists()


def test_both_are_used_if_both_are_named(site: Site, fresh_postgresql_url: str) -> None:
    name_in_app(site, 'Celery("shop")', f'Celery("shop", broker="{site.broker_url}")')
    name_in_app(site, "BatchQ(app)", f'BatchQ(app, database_url="{fresh_postgresql_url}")')
    assert "valkey" not in run(site)
    assert not (site.folder / ".batchq" / "batchq.db").exists()
    with psycopg.connect(fresh_postgresql_url.replace("+psycopg", "")) as database:
        assert database.execute("SELECT status FROM batchq_run").fetchall() == [("success",)]


def test_the_services_and_the_job_in_python_run_as_the_documentation_says(site: Site) -> None:
    name_in_app(site, 'Celery("shop")', f'Celery("shop", broker="{site.broker_url}")')
    name_in_app(site, "BatchQ(app)", f'BatchQ(app, database_url="{site.database_url}")')
    site.cli(*book.words(PAGE, "batchq -A app db upgrade"))
    site.start("coordinator", *book.words(PAGE, "batchq -A app coordinator"))
    site.start("AOS1", *book.words(PAGE, "batchq -A app server start AOS1"))
    site.cli(*book.words(PAGE, "batchq -A app submit night.yaml"))
    assert site.wait_end(1)["status"] == "success"

    (site.folder / "submits.py").write_text(f"{SUBMITS}\nprint(run)\n")
    argv = [sys.executable, "submits.py"]
    done = subprocess.run(argv, cwd=site.folder, env=site.env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert site.wait_end(int(done.stdout))["status"] == "success"
    assert site.states(int(done.stdout)) == dict.fromkeys(["TASK 1", "TASK 2", "TASK 3"], "success")
