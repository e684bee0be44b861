"""The Procfile: the whole of batchq under honcho, from the start to the last process gone."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from processes import Processes, processes, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def names_of(started: Processes) -> set[str]:
    """The servers that are open, as `batchq server list` says."""
    servers = json.loads(started.batchq("server", "list", "-o", "json"))
    return {server["name"] for server in servers if server["state"] == "open"}


def test_honcho_starts_it_a_job_runs_and_sigterm_leaves_nothing_behind(tmp_path: Path):
    env = {"BATCHQ_DATABASE_URL": f"sqlite:///{tmp_path}/batchq.db", "FLOWER_PORT": "0"}
    with processes(tmp_path, **env) as started:
        started.env["PATH"] = f"{program(tmp_path)}:{started.env['PATH']}"
        started.env["BATCHQ_BROKER_URL"] = f"redis+socket://{started.valkey()}?virtual_host=0"
        shutil.copy(ROOT / "Procfile", tmp_path)
        started.batchq("db", "upgrade")
        honcho = started.python("honcho", "honcho", "start")

        started.batchq("submit", str(ROOT / "examples" / "job1.yaml"), "--wait", "--timeout", "60")
        run = json.loads(started.batchq("runs", "show", "last", "-o", "json"))
        until(lambda: names_of(started) == {"AOS1", "AOS2"}, "both servers")
        until(lambda: "Flower listens on" in started.log("honcho").read_text(), "Flower")

        running = [psutil.Process(honcho.pid), *psutil.Process(honcho.pid).children(recursive=True)]
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(30)
        assert len(running) >= 8  # honcho, a coordinator and its beat, two servers with a child each, Flower
        assert psutil.wait_procs(running, timeout=1)[1] == []
        assert started.left() == []
        assert run["status"] == "success"
        assert "Traceback" not in started.log("honcho").read_text()


def program(folder: Path) -> Path:
    """A folder with a program `batchq` that is this very source."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "batchq").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchq "$@"\n')
    (programs / "batchq").chmod(0o755)
    return programs
