"""The projects in examples/ do what their README files say: in one command, and as services on a broker."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.site import Folder, Site

EXAMPLES = Path(__file__).parents[2] / "examples"
DAY = "2026-11-26"
# Operations are still called past `Task.__call__`, and so outside of Flask's app context.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Example:
    """What an example is to show: `app` as `-A` names it, what its job's tasks give, and what is run before."""

    app: str
    file: str
    results: dict[str, Any]
    before: list[str] = field(default_factory=list)


PROJECTS = {
    "plain": Example("app", "night.yaml", {"Collect": {"day": "today", "orders": 3}, "Invoice": None, "Alarm": None}),
    "flask": Example("make_celery", "night.yaml", {"Collect": 2, "Invoice": 350}),
    "django": Example("proj", "close-day.yaml", {"Close": 0, "Invoice": 0}, ["python manage.py migrate"]),
}


def copied(name: str, folder: Path) -> Path:
    """The example in a folder of its own, without what a try may have left there."""
    left = shutil.ignore_patterns("__pycache__", ".batchq", "*.sqlite*")
    return shutil.copytree(EXAMPLES / name, folder / name, ignore=left)


def said(folder: Path, command: str) -> list[str]:
    """The words of a command that stands in the example's README."""
    assert f"\n{command}\n" in (folder / "README.md").read_text(), command
    return shlex.split(command)


def run(folder: Folder, command: str) -> str:
    """Run a command of the README to its end; it must end well."""
    program, *words = said(folder.folder, command)
    if program == "batchq":
        return folder.cli(*words).stdout
    assert program == "python"
    argv = [sys.executable, *words]
    done = subprocess.run(argv, cwd=folder.folder, env=folder.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PROJECTS)
def test_an_example_runs_in_one_command_with_nothing_else_installed_or_started(name: str, tmp_path: Path) -> None:
    example = PROJECTS[name]
    with Folder(copied(name, tmp_path)) as folder:
        for command in example.before:
            run(folder, command)
        printed = run(folder, f"batchq run {example.file} -A {example.app}")
        tasks = {task["name"]: task for task in folder.json("runs", "show", "last")["tasks"]}

        assert "Ended after" in printed
        assert {name: task["result"] for name, task in tasks.items()} == example.results
        assert {task["status"] for task in tasks.values()} <= {"success", "didnt_run"}
        if name == "plain":
            assert "invoicing for NIGHT, attempt 1" in run(folder, "batchq task log last Invoice")


# --- as services --------------------------------------------------------------------------------------------


class Services(Site):
    """An example on a broker and a database of its own, with the coordinator and the server of its README."""

    def __init__(self, name: str, tmp_path: Path) -> None:
        super().__init__(copied(name, tmp_path))
        self.app = PROJECTS[name].app
        for ours in ("BATCHQ_APP", "BATCHQ_BROKER_URL"):
            del self.env[ours]
        self.env["CELERY_BROKER_URL"] = self.broker_url

    def start_all(self, server: str) -> None:
        """Start them, the server by a command of the README."""
        self.start_broker()
        for command in PROJECTS[self.folder.name].before:
            run(self, command)
        run(self, "batchq db upgrade")
        self.start("coordinator", *said(self.folder, f"batchq -A {self.app} coordinator")[1:])
        self.launch("AOS1", server)
        self.wait_for("AOS1 to be up", lambda: self.runs("AOS1"))

    def launch(self, name: str, command: str, *more: str) -> None:
        """Start a program of Python's by a command of the README."""
        self._start(name, [sys.executable, "-m", *said(self.folder, command), *more], {})

    def results(self, run: int) -> dict[str, Any]:
        """What the tasks of the run returned, once it has ended."""
        view = self.wait_end(run)
        assert view["status"] == "success", view
        return {task["name"]: task["result"] for task in view["tasks"]}


@pytest.fixture
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    with Services(request.param, tmp_path) as services:
        yield services


@pytest.mark.parametrize("services", ["plain"], indirect=True)
def test_the_plain_project_runs_as_services(services: Services) -> None:
    services.start_all("batchq -A app server start AOS1")
    run(services, "batchq -A app submit night.yaml")
    assert services.results(1) == PROJECTS["plain"].results


@pytest.mark.parametrize("services", ["flask"], indirect=True)
def test_a_view_of_the_flask_project_submits_a_job_whose_operations_are_in_the_apps_context(services: Services) -> None:
    services.start_all("celery -A make_celery worker --batch-server AOS1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    services.launch("flask", "flask --app shop run", "--port", str(port))
    services.wait_for("Flask to listen", lambda: "Running on" in services.log("flask"))
    said(services.folder, f"curl -X POST http://127.0.0.1:5000/nights/{DAY}")
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/nights/{DAY}", method="POST")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        number = json.load(answer)["run"]

    assert services.results(number) == {"Collect": 2, "Invoice": 350}
    assert "WARNING shop: invoiced 350" in services.cli("task", "log", str(number), "Invoice").stdout
    with closing(sqlite3.connect(services.folder / "shop.sqlite")) as shop:
        assert shop.execute("SELECT amount, invoiced FROM sale").fetchall() == [(100, 1), (250, 1)]


@pytest.mark.parametrize("services", ["django"], indirect=True)
def test_a_command_of_the_django_project_submits_a_job_once_what_it_stored_is_committed(services: Services) -> None:
    services.start_all("celery -A proj worker --batch-server AOS1")
    assert run(services, f"python manage.py close_day {DAY} 100 250") == "run 1\n"

    assert services.results(1) == {"Close": 2, "Invoice": 350}
    with closing(sqlite3.connect(services.folder / "db.sqlite3")) as shop:
        assert shop.execute("SELECT day, total FROM invoices_invoice").fetchall() == [(DAY, 350)]
