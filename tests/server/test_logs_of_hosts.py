"""Whatever the host does with its logs, an attempt's log has all that the operation said, and each of it once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.talking_app import SETUPS, WAYS

TESTS = Path(__file__).parent.parent
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+05:45"
# What a logger lets through is kept: a level, or a dictConfig that disables, silences it for everybody.
SILENT = {"dictConfig that disables": {"task"}, "no handler": {"own"}}
# Kept although nobody writes it: Celery and Python give these loggers a handler that does nothing.
UNWRITTEN = {
    "redirects at a level that is off": {"print", "stderr", "thread's print"},
    "no handler": {"task", "warning"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept and what is written under each set-up."""
    folder = tmp_path_factory.mktemp("logs")
    env = os.environ | {"TZ": "Asia/Kathmandu"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    argv = [sys.executable, "-W", "always", "-m", "support.talking_app", str(folder)]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    return folder


@pytest.fixture(params=SETUPS)
def said(request: pytest.FixtureRequest, folder: Path) -> tuple[str, dict[str, str], str]:
    """The set-up, what is kept on each pool, and what the process wrote."""
    written = (folder / f"{request.param}.log").read_text()
    assert (folder / f"{request.param}.json").exists(), written
    return request.param, json.loads((folder / f"{request.param}.json").read_text()), written


def test_all_that_an_operation_says_is_kept_once(said: tuple[str, dict[str, Any], str]) -> None:
    name, logs, _ = said
    for pool, log in logs.items():
        counts = {way: log.count(f"by {way}\n") for way in WAYS}
        assert counts == {way: int(way not in SILENT.get(name, ())) for way in WAYS}, (pool, log)
        assert "by a level that is off" not in log


def test_it_is_written_where_the_host_has_it_too(said: tuple[str, dict[str, Any], str]) -> None:
    name, _, written = said
    unwritten = SILENT.get(name, set()) | UNWRITTEN.get(name, set())
    assert {way for way in WAYS if f"by {way}\n" not in written} == unwritten, written


def test_the_times_of_what_is_logged_carry_their_zone(said: tuple[str, dict[str, Any], str]) -> None:
    for log in said[1].values():
        assert re.search(rf"^{TIME} WARNING by root$", log, re.M)
        assert not re.search(r"^\d{4}-\d\d-\d\d ", log, re.M)
