"""The embedded engine of a folder: its lock, its broker and its processes, from the start to a clean end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypedDict

from batchq import actions, aside, engine, views
from batchq.app import BatchQ
from batchq.config import private_file, private_folder
from batchq.core.states import RUN_OPEN
from batchq.embedded.child import ELSEWHERE, START_SECONDS, Child, StartFailed, end
from batchq.embedded.valkey import answers, command, socket_folder
from batchq.errors import Action, Advice, Conflict, DatabaseUnreachable, PlaceRefuses
from batchq.server.life import ended_with_its_boot, seen_alive
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.transaction import Tx

DEFAULT_SERVERS = ("Batch1", "Batch2")


@dataclass
class Embedded:
    """The embedded engine of one folder: started, mended while it runs, and stopped as a whole."""

    batch: BatchQ
    app: str | None = None
    loglevel: str = "INFO"
    say: Callable[[str], None] = lambda line: None
    children: list[Child] = field(default_factory=list)
    owner: bool = False
    _lock: IO[str] | None = None
    _guests: IO[str] | None = None
    _socket: Path | None = None

    def __post_init__(self) -> None:
        self.home = self.batch.settings.home.absolute()
        self.embedded_database = self.batch.settings.database_url is None
        self.named_broker = self.batch.names_broker

    # --- start ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Embedded:
        try:
            private_folder(self.home)
            self.owner = self._take_lock()
            private_file(self.home / "guests")
            self._guests = (self.home / "guests").open("a+")
            if self.owner:
                self._start_engine()
            else:
                self._join_engine()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise PlaceRefuses.of(error, self.home, ELSEWHERE) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> bool:
        private_file(self.home / "lock")
        # Bytes that another program left there, in any encoding, must not fail here.
        self._lock = (self.home / "lock").open("a+", errors="replace")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._lock.truncate(0)
        return True

    def _start_engine(self) -> None:
        if not self.named_broker:
            self._start_valkey()
        schema.upgrade(self.batch.database)
        if self.embedded_database:
            self._clear_up()
        assert self._lock is not None
        # No password goes into a file: a command that joins must then name the broker itself.
        broker = self.batch.settings.broker_url or os.environ.get("CELERY_BROKER_URL")
        json.dump({"pid": os.getpid(), "broker": broker if broker and "@" not in broker else None}, self._lock)
        self._lock.flush()

    def _join_engine(self) -> None:
        """Use the engine that another command runs in this folder; it goes on while this command needs it."""
        assert self._guests is not None
        fcntl.flock(self._guests, fcntl.LOCK_SH)
        deadline = time.monotonic() + START_SECONDS
        while (facts := engine_facts(self.home)) is None:
            if time.monotonic() > deadline:
                raise Conflict(f"Another command holds {self.home}/lock and does not get ready. End it first.")
            time.sleep(0.05)
        if facts["broker"] and not self.named_broker:
            os.environ["CELERY_BROKER_URL"] = facts["broker"]
        self.say(f"An engine already runs in this folder (pid {facts['pid']}): using it.")

    def _start_valkey(self) -> None:
        self._socket = path = socket_folder() / "broker"
        child = self._child("valkey", command(path))
        child.start()
        os.environ["CELERY_BROKER_URL"] = f"redis+socket://{path}?virtual_host=0"
        self._wait(child, lambda: answers(path))

    def _clear_up(self) -> None:
        """Cancel the runs of an engine that was killed, and end the lives of its servers."""
        database = self.batch.database
        left = self._open_runs()
        database.run(lambda tx: moves.discard_unstored(tx, now := tx.now(), now))
        self._bury_all()
        for run in left:
            with contextlib.suppress(Conflict):
                actions.cancel_run(database, run)
            self.say(f"Run {run} was left over by an engine that was killed: canceled.")

    def _bury_all(self) -> None:
        """End, in the database, the lives of servers that are gone; their unfinished tasks are lost (rule 31)."""
        with self.batch.database.read() as tx:
            names = [name for _, name, _, _ in servers.running(tx)]
        for name in names:
            self.batch.database.run(self._bury, name)

    def _bury(self, tx: Tx, name: str) -> None:
        row = servers.find(tx, name)
        if row is None or (alive := seen_alive(row)):
            return
        # A server on another host cannot be seen: a coordinator, or its successor, waits for a heartbeat of it.
        if alive is False or (self.embedded_database and ended_with_its_boot(row)):
            engine.lose(tx, row.id, name, row.beat, tx.now())

    def _settle(self, tx: Tx) -> bool:
        return engine.settle(tx, tx.now(), aside=topologies.aside(tx).runs)

    def start(self, names: Iterable[str], *, console: str | None = None) -> None:
        """Start a coordinator, these servers, and Flower if `console` names its address; side by side."""
        if not self.owner:
            return
        self._batchq("coordinator", "coordinator")
        for name in names:
            self._batchq(name, "server", "start", name, "--loglevel", self.loglevel)
        if console is not None:
            host, _, port = console.rpartition(":")
            self._batchq("flower", "web", "--address", host.strip("[]"), "--port", port)

    def _batchq(self, name: str, *command: str) -> None:
        argv = [sys.executable, "-m", "batchq", *(["-A", self.app] if self.app else []), *command]
        self._child(name, argv).start()

    def _child(self, name: str, argv: list[str]) -> Child:
        logs = self.home / "logs"
        try:
            private_folder(logs)
        except OSError as error:
            raise PlaceRefuses.of(error, logs, ELSEWHERE) from error
        env = os.environ | {
            "BATCHQ_HOME": str(self.home),
            "BATCHQ_DATABASE_URL": self.batch.database.url.render_as_string(hide_password=False),
            "PYTHONUNBUFFERED": "1",
        }
        file = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        child = Child(name, argv, env, logs / f"{file}.log")
        self.children.append(child)
        return child

    def _wait(self, child: Child, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            assert child.process is not None
            if (code := child.process.poll()) is not None:
                raise StartFailed(what=child.name, fact=f"ended with exit code {code} as it started", log=child.log)
            if time.monotonic() > deadline:
                raise StartFailed(what=child.name, fact=f"did not start within {START_SECONDS:g} s", log=child.log)
            time.sleep(0.01)

    # --- while it runs, and the end ---------------------------------------------------------------------------

    def mend(self) -> None:
        """Start dead children again; say so once for each death.

        Raises Conflict if the engine was another's and ended, DatabaseLost if its database is gone.
        """
        self.batch.database.check_file()
        if not self.owner:
            self._look_for_engine()
        for child in self.children:
            before = child.deaths
            if child.mend() and child.deaths > before:
                self.say(f"{child.name} died and is started again (log: {child.log})")

    def _look_for_engine(self) -> None:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        advice = Advice("The next {} cancels what it left over.", Action.RUN)
        raise Conflict("The engine that ran in this folder has ended.", advice=advice)

    def needed(self) -> bool:
        """Whether another command in this folder still uses this engine, or left a run to it."""
        if not self.owner:
            return False
        assert self._guests is not None
        try:
            fcntl.flock(self._guests, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._guests, fcntl.LOCK_UN)
        return self.embedded_database and bool(self._open_runs())

    def _open_runs(self) -> list[int]:
        with self.batch.database.read() as tx:
            return [run["run"] for run in views.runs(tx, statuses=[state.value for state in RUN_OPEN])]

    def stop(self) -> None:
        """End all children, the broker last; nothing is left running."""
        broker = [child for child in self.children if child.name == "valkey"]
        for group in ([child for child in self.children if child not in broker], broker):
            end(group)
        if self.embedded_database and any(child not in broker for child in self.children):
            with contextlib.suppress(DatabaseUnreachable):  # then the next engine in this folder does so
                self._bury_all()
                while aside.run(self.batch.database, self._settle):
                    continue
        self.children.clear()
        if self._socket is not None:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
            self._socket = None
        if self._lock is not None:
            if self.owner:
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None
        if self._guests is not None:
            self._guests.close()
            self._guests = None


class EngineFacts(TypedDict):
    """The content of an engine's lock file: its process, and its broker if the address has no password."""

    pid: int
    broker: str | None


def engine_facts(home: Path) -> EngineFacts | None:
    """The `pid` and the `broker` (or None) that the engine of this folder wrote into its lock; None if it has not yet.

    Raises Conflict for a lock that no engine wrote, OSError for one that cannot be read.
    """
    if not (text := (home / "lock").read_bytes()):
        return None
    try:
        facts = json.loads(text)
        broker = facts["broker"]
        return {"pid": int(facts["pid"]), "broker": broker if isinstance(broker, str) else None}
    except (ValueError, LookupError, TypeError):
        advice = "End that, or set BATCHQ_HOME to another folder."
        raise Conflict(f"What holds {home}/lock is no engine of batchq.", advice=advice) from None
