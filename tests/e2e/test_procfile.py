"""The Procfile: all of batchq under honcho, from the start to the last process gone."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from support.site import Site

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Machine(Site):
    """A site as on a machine of its own: `batchq` is on the PATH, and no app is named."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, app="")
        programs = folder / "bin"
        programs.mkdir()
        (programs / "batchq").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchq "$@"\n')
        (programs / "batchq").chmod(0o755)
        self.env |= {"PATH": f"{programs}:{self.env['PATH']}", "FLOWER_PORT": "0"}
        shutil.copy(ROOT / "Procfile", folder)

    def start_honcho(self) -> None:
        """Start what the Procfile names, and wait until all of it is there."""
        self._start("honcho", [sys.executable, "-m", "honcho", "start"], {})
        self.wait_for("all processes", lambda: all(word in self.log("honcho") for word in SIGNS))


SIGNS = ("AOS1 is a batch server", "AOS2 is a batch server", "Flower listens on")


def test_honcho_starts_it_all_a_job_runs_and_sigterm_leaves_nothing_behind(tmp_path: Path):
    with Machine(tmp_path) as machine:
        machine.start_broker()
        machine.start_honcho()
        running = machine.children("honcho")
        machine.cli("submit", str(ROOT / "examples" / "job1.yaml"), "--wait", "--timeout", "60")
        assert machine.json("runs", "show", "last")["status"] == "success"

        machine.tell("honcho", signal.SIGTERM)
        machine.wait_exit("honcho")
        # A coordinator and its beat, two servers and a child of each, Flower.
        assert len(running) >= 7
        machine.wait_for("the last process to end", lambda: not any(map(runs, running)), seconds=2)
        assert "Traceback" not in machine.log("honcho")


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has collected yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
