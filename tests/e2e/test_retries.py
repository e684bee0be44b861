"""Further attempts on a real server: after which errors they follow, and what is kept of each (rule 30)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.site import Folder

APP = """\
import os
from celery import Celery
from batchq import BatchQ, Final, current

app = Celery("shop")
batch = BatchQ(app)

@app.task
def final(): raise Final("no such order")

@app.task
def pipe():
    if current().attempt == 1:
        raise BrokenPipeError("away")

@app.task
def other(): raise ValueError("no")

@app.task(repeatable=True)
def dies():
    if current().attempt == 1:
        os.kill(os.getpid(), 9)
"""
JOB = """\
job: RETRIES
tasks:
  final: {run: app.final, retries: 3}
  base: {run: app.pipe, retries: 3, retry_delay: 0.5, retry_jitter: 0.2, retry_on: [ConnectionError]}
  other: {run: app.other, retries: 3, retry_on: [ConnectionError]}
  lost: {run: app.dies, retries: 3, retry_on: [ConnectionError]}
  lost and named: {run: app.dies, retries: 3, retry_on: [ConnectionError, batchq.Lost]}
"""
# The end of each task, and the class of what each of its attempts failed with.
ENDS = {
    "final": ("error", ["batchq.Final"]),
    "base": ("success", ["BrokenPipeError", None]),
    "other": ("error", ["ValueError"]),
    "lost": ("error", ["batchq.Lost"]),
    "lost and named": ("success", ["batchq.Lost", None]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder(tmp_path) as folder:
        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "job.yaml").write_text(JOB)
        yield folder


def test_only_errors_that_a_task_names_are_tried_again_and_a_final_one_never(folder: Folder) -> None:
    run = folder.json("run", "job.yaml", "-A", "app", code=1)
    shown: dict[str, Any] = {name: folder.json("task", "show", "last", name) for name in ENDS}

    assert {task["name"]: task["status"] for task in run["tasks"]} == {name: end for name, (end, _) in ENDS.items()}
    history = {name: view["history"] for name, view in shown.items()}
    assert {name: [one["error_class"] for one in each] for name, each in history.items()} == {
        name: classes for name, (_, classes) in ENDS.items()
    }
    assert all(one["ready_at"] <= one["started_at"] for each in history.values() for one in each)
    assert "± 20%; only on ConnectionError" in folder.cli("task", "show", "last", "base").stdout
