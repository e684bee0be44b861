"""What the README says of a Celery project of one's own: its files, its command, and what is embedded."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from e2e.site import Folder, Site

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Your own Celery project\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    """The section's blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.S)


APP, SUBMITS = blocks("python")[:2]
JOB_FILE, COMMAND = blocks("yaml")[0], blocks("sh")[0]

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
    (folder / "app.py").write_text(APP)
    (folder / "night.yaml").write_text(JOB_FILE)


def name_in_app(folder: Folder, was: str, now: str) -> None:
    path = folder.folder / "app.py"
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, now))


def run(folder: Folder) -> set[str]:
    """Run the README's command, which ends well; returns the names of the logs that its processes leave."""
    folder.cli(*shlex.split(COMMAND)[1:])
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


def test_the_readmes_job_in_python_is_submitted_and_runs(site: Site) -> None:
    name_in_app(site, 'Celery("shop")', f'Celery("shop", broker="{site.broker_url}")')
    name_in_app(site, "BatchQ(app)", f'BatchQ(app, database_url="{site.database_url}")')
    (site.folder / "submits.py").write_text(f"from app import batch, collect, invoice\n{SUBMITS}\nprint(run)\n")
    site.start("coordinator", "-A", "app", "coordinator")
    site.start("AOS1", "-A", "app", "server", "start", "AOS1")
    argv = [sys.executable, "submits.py"]
    done = subprocess.run(argv, cwd=site.folder, env=site.env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert site.wait_end(int(done.stdout))["status"] == "success"
    assert site.states(int(done.stdout)) == dict.fromkeys(["TASK 1", "TASK 2", "TASK 3"], "success")
