"""The broker that `broker_url` names carries batchq's messages in every process, and none of the project's own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import brokers
from support.site import Folder, Site

APP = """\
import os
from celery import Celery
from batchq import BatchQ, Job

app = Celery("shop", broker=os.environ["SHOP_BROKER"], set_as_current=False)
batch = BatchQ(app)


@app.task
def mail():
    pass


@app.task
def sends_mail():
    mail.delay()
"""
SUBMITS = """\
from batchq import Job
from shop import batch, mail, sends_mail
mail.delay()
job = Job("J")
job.task("A", sends_mail)
print(batch.submit(job))
mail.delay()
"""


def shop(folder: Folder, broker: str) -> None:
    (folder.folder / "shop.py").write_text(APP)
    (folder.folder / "submits.py").write_text(SUBMITS)
    (folder.folder / "job.yaml").write_text("job: J\ntasks: {A: {run: shop.mail}}\n")
    folder.env["SHOP_BROKER"] = broker


@pytest.mark.parametrize("url", ["memory://", "filesystem://", "sqla+sqlite:///x.db"])
def test_no_process_starts_on_a_broker_that_cannot_be(tmp_path: Path, url: str) -> None:
    with Folder(tmp_path) as folder:
        shop(folder, url)
        before = set(tmp_path.iterdir())
        worker = ["-m", "celery", "-A", "shop", "worker", "--batch-server", "AOS1"]
        ours = ["-m", "batchq", "-A", "shop"]
        starts = ([*ours, *words.split()] for words in ("coordinator", "server start AOS1", "run job.yaml"))
        for words in (worker, *starts, [*ours, "validate", "job.yaml"]):
            (line,) = folder.python(*words, code=2).stderr.splitlines()
            assert line.startswith("Error: No broker of batchq speaks ")
        assert set(tmp_path.iterdir()) - before <= {tmp_path / "__pycache__"}


@pytest.fixture(scope="module")
def others() -> Iterator[brokers.Valkey]:
    """The project's own broker, which is not the one of batchq."""
    with tempfile.TemporaryDirectory(prefix="bq-") as private, Folder(Path(private)) as folder:
        valkey = brokers.Valkey(folder.folder)
        folder._start("broker", valkey.argv, valkey.env)
        folder.wait_for("the broker", valkey.answers)
        yield valkey


@pytest.mark.slow
@pytest.mark.parametrize("way", ["celery worker", "server start"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_projects_own_messages_go_where_the_project_says(
    tmp_path: Path, others: brokers.Valkey, way: str, pool: str
) -> None:
    others.command("FLUSHALL")
    with Site(tmp_path, app="shop:batch") as site:
        shop(site, others.url)
        site.start_broker()
        site.start_coordinator()
        if way == "server start":
            site.start_server("AOS1", pool=pool)
        else:
            argv = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--batch-server", "AOS1", "-P", pool]
            site._start("AOS1", [*argv, "-l", "INFO"], {"C_FORCE_ROOT": "1"})
            site.wait_for("AOS1 to be ready", lambda: site._readied("AOS1"))
        run = int(site.python("submits.py").stdout)

        assert site.wait_end(run)["status"] == "success"
        assert others.command("LLEN", "celery") == b":3\r\n"
        assert site.broker("LLEN", "celery") == b":0\r\n"
        assert f"Connected to {site.broker_url.partition('?')[0]}\n" in site.log("AOS1")
        # Celery's remote control and events are batchq's as well.
        keys = site.broker("KEYS", "*"), others.command("KEYS", "*")
        assert [b"pidbox" in each for each in keys] == [True, False]
        assert b"celeryev" not in keys[1]
        assert site.batch.app.control.ping(timeout=5)
