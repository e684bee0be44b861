"""Passwords, keys and secret arguments are planted, all is done that can be done, and nobody gets to read one."""

from __future__ import annotations

import json
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from celery import Celery
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.engine import make_url

from batchq.cli import cli
from e2e.test_wrong_input import closed_port
from support import brokers
from support.site import Site

pytestmark = pytest.mark.slow

DATABASE, BROKER, KEY, ARGUMENT, MISTYPED = (f"canary-{what}-0123" for what in ("db", "broker", "key", "arg", "typo"))
APP = f"""
import logging
from celery import Celery
from click.testing import CliRunner
from celery.utils.log import get_task_logger
from batchq import BatchQ

app = Celery("vault", set_as_current=False)
app.conf.batchq_ticket_key = {KEY!r}
BatchQ(app)


@app.task(name="vault.open", shared=False)
def open_vault(user, password, fail=False):
    print("print", password)
    logging.getLogger("vault").warning("logging %s", {{"password": password}})
    get_task_logger("vault").warning("task logger %s", password)
    try:
        raise ValueError(f"redis://:{{password}}@h")
    except ValueError:
        logging.getLogger("vault").exception("exception")
    if fail:
        raise RuntimeError(f"{{user}} may not enter with {{password}}")
    return {{"password": password, "all": [password, user]}}
"""
JOB = """
job: VAULT
tasks:
  GOOD: {run: vault.open, kwargs: {user: ops, password: ARGUMENT}, secret: [password]}
  BAD: {run: vault.open, kwargs: {user: ops, password: ARGUMENT, fail: true}, secret: [password], retries: 1}
  LATER: {run: vault.open, kwargs: {user: ops, password: ARGUMENT}, secret: [password], group: NOBODY}
""".replace("ARGUMENT", ARGUMENT)
LOOK = (
    *("status", "check", "job list", "job show VAULT", "runs list", "runs show 1", "task list 1", "task show 1 GOOD"),
    *("task show 1 BAD", "task log 1 GOOD", "task log 1 BAD", "task why 1 LATER", "server list", "server show AOS1"),
    *("group list", "plan --queue --tasks", "validate vault.yaml", "apply vault.yaml --dry-run", "submit vault.yaml"),
)
LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Locked(brokers.Valkey):
    """A Valkey on a port of this machine that asks for a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        port = closed_port()
        self.url = f"redis://:{BROKER}@127.0.0.1:{port}/0"
        self.argv = [*self.argv, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", BROKER]

    def answers(self) -> bool:
        """Whether it asks for the password."""
        try:
            return self.command("PING").startswith(b"-NOAUTH")
        except OSError:
            return False


@pytest.fixture
def site(tmp_path: Path, fresh_postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setitem(brokers.KINDS, "locked", Locked)
    url = make_url(fresh_postgresql_url).set(password=DATABASE).render_as_string(hide_password=False)
    (tmp_path / "vault.py").write_text(APP)
    (tmp_path / "vault.yaml").write_text(JOB)
    with Site(tmp_path, app="vault", broker="locked", database_url=url) as site:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        site.env["CELERY_RESULT_BACKEND"] = site.broker_url.removesuffix("0") + "1"
        site.start_broker()
        site.start("coordinator", "coordinator", "--loglevel", "DEBUG")
        site.start("AOS1", "server", "start", "AOS1", "--threads", "2", "--loglevel", "DEBUG")
        site.wait_for("AOS1 to be ready", lambda: "ready." in site.log("AOS1"))
        yield site


@contextmanager
def listening(app: Celery) -> Iterator[list[str]]:
    """Every Celery event that is sent meanwhile."""
    heard: list[str] = []
    ended = threading.Event()

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": lambda event: heard.append(str(event))})
            while not ended.is_set():
                with suppress(TimeoutError):
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        ended.set()
        thread.join()


def mistakes(site: Site) -> Iterator[dict[str, str]]:
    """Settings that are wrong, each with a password in it."""
    port = closed_port()
    url = make_url(site.database_url).set(password=MISTYPED)
    for wrong in (
        url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False),
        url.set(database="nowhere").render_as_string(hide_password=False),
        f"postgresql+psycopg://ops:{MISTYPED}@more@127.0.0.1:{port}/x",
        f"postgresql+psycopg://ops:more@{MISTYPED}@127.0.0.1:{port}/x",
        f"postgresql+psycopg://127.0.0.1:{MISTYPED}/x",
        f"postgresql+psycopg://127.0.0.1:{port}/x?user=ops&password={MISTYPED}",
        f"mysql://ops:{MISTYPED}@127.0.0.1/x",
        f"nothing://ops:{MISTYPED}@127.0.0.1/x",
        f"sqlite:////proc/none/x.db?key={MISTYPED}",
    ):
        yield {"BATCHQ_DATABASE_URL": wrong}
    for wrong in (
        f"redis://:{MISTYPED}@127.0.0.1:{port}/0",
        site.broker_url.replace(BROKER, MISTYPED),
        f"redis://:more@{MISTYPED}@127.0.0.1:{port}/0",
        f"redis://127.0.0.1:{MISTYPED}/0",
        f"amqp://ops:{MISTYPED}@127.0.0.1:{port}//",
        f"nothing://ops:{MISTYPED}@127.0.0.1/0",
    ):
        yield {"BATCHQ_BROKER_URL": wrong}
    yield {"BATCHQ_TICKET_KEY": MISTYPED, "BATCHQ_TICK_SECONDS": MISTYPED}


def said(site: Site, *words: str, **env: str) -> str:
    """What a command prints, with these settings; it runs in this process, and finds the app afresh."""
    sys.modules.pop("vault", None)
    ours = {name: value for name, value in site.env.items() if name.startswith(("BATCHQ_", "CELERY_"))}
    ended = CliRunner().invoke(cli, words, env=ours | {"CELERY_BROKER_URL": None} | env)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), (words, env, ended.exc_info)
    assert ended.exit_code in (0, 1, 2, 4), (words, env, ended.output)
    return ended.output


def flower(site: Site) -> Iterator[str]:
    """What Flower answers to anybody on this machine."""
    site.start("web", "web", "--port", "0", FLOWER_UNAUTHENTICATED_API="true")
    url = site.wait_for("Flower", lambda: LISTENS.search(site.log("web")))[0]
    for path in ("/api/workers?refresh=1", "/api/tasks", "/broker"):
        try:
            with urllib.request.urlopen(url + path, timeout=20) as answer:
                yield answer.read().decode()
        except urllib.error.HTTPError as error:
            yield error.read().decode()


def inspected(app: Celery) -> str:
    asked = app.control.inspect(timeout=2)
    answers = [getattr(asked, what)() for what in ("stats", "conf", "report", "active", "registered", "active_queues")]
    assert all(answers)
    return json.dumps(answers, default=str)


def test_nobody_gets_to_read_a_password_a_key_or_a_secret_argument(site: Site) -> None:
    with listening(site.batch.app) as events:
        site.cli("submit", "vault.yaml")
        site.wait_for("both to end", lambda: {site.states(1)[name] for name in ("GOOD", "BAD")} <= {"success", "error"})
        found = {"inspect": inspected(site.batch.app), "flower": "".join(flower(site))}
    found["events"] = "".join(events)
    for line in LOOK:
        found[line] = said(site, *line.split())
        if not line.startswith("submit"):
            found[f"{line} -o json"] = said(site, *line.split(), "-o", "json")
    for number, env in enumerate(mistakes(site)):
        for command in ("submit vault.yaml", "check", "db upgrade"):
            found[f"{command} {number}"] = said(site, *command.split(), **env)
    for path in site.folder.rglob("*"):
        if path.is_file() and path.name not in ("vault.py", "vault.yaml") and path.suffix != ".pyc":
            found[str(path)] = path.read_text(errors="replace")

    leaks = {
        (where, canary): out[max(0, out.index(canary) - 200) : out.index(canary) + 60]
        for where, out in found.items()
        for canary in (DATABASE, BROKER, KEY, ARGUMENT, MISTYPED)
        if canary in out
    }
    assert leaks == {}
    # It was there to be read: they ran with it, and the rows have it.
    assert site.task(1, "BAD")["error"] == "RuntimeError: ops may not enter with ***"
    assert site.task(1, "GOOD")["result"] == {"password": "***", "all": ["***", "ops"]}
    assert site.task(1, "GOOD")["kwargs"] == {"user": "ops", "password": "***"}
    log = site.task(1, "GOOD")["history"][0]["log"]
    kept = ("WARNING ***", "logging {'password': '***'}", "task logger ***", "ValueError: redis://:***@h")
    assert [words for words in kept if words not in log] == []
    assert "task-received" in found["events"]
    assert "ops may not enter with ***" in found["events"]
    with site.database.read() as tx:
        assert ARGUMENT in tx.execute(text("SELECT kwargs FROM batchq_task WHERE name = 'GOOD'")).scalars().first()
