"""One life of a batch server: what tells this process from every other, and how it takes the server's name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from batchq import engine
from batchq.config import Settings
from batchq.engine import Life
from batchq.errors import Conflict, NotFound, ServerRuns
from batchq.store import server as servers
from batchq.store.database import Database

logger = logging.getLogger(__name__)


LOOK_SECONDS = 0.5
CONTESTED = (
    "{name} lost its name twice within {seconds:g} s: another process takes it for its own. This worker ends. "
    "Give each server a name of its own."
)


def this_life() -> dict[str, str | int]:
    """What tells this process from every other: host, boot, pid and its namespace, start time and its clock's."""
    return {"host": platform.node(), "pid": os.getpid(), "life": json.dumps(_here() | {"start": _start(_stat("self"))})}


def _here() -> dict[str, str]:
    """Within what a pid and a start time mean something: this boot, this pid namespace, this time namespace."""
    return {"boot": _boot(), "pids": _namespace("pid"), "times": _namespace("time")}


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace(kind: str) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/self/ns/{kind}").stat().st_ino)
    return ""


def _stat(pid: int | str) -> list[str]:
    """The kernel's facts of a process from its state on, its start time in ticks among them; empty if there are none.

    Empty as well where /proc hides the process, or shows those of another pid namespace.
    """
    with contextlib.suppress(OSError):
        if pid == "self" or str(Path("/proc/self").readlink()) == str(os.getpid()):
            # The name in the second field may hold anything, blanks and brackets included.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _start(fields: list[str]) -> str:
    return fields[19] if len(fields) > 19 else ""


def seen_alive(row: Any) -> bool | None:
    """Whether the life in a server's row still runs; None if it cannot be seen from here.

    The same host name may be another machine's or container's, where a pid means another process. A row that an
    older version wrote tells no namespace: it may show that its process runs, never that it is gone.
    """
    there, here = _told(row), _here()
    if (row.host, there.get("boot")) != (platform.node(), here["boot"]) or not row.pid:
        return None
    known = "pids" in there
    if known and (there["pids"] != here["pids"] or not here["pids"]):
        return None
    fields = _stat(row.pid)
    if not _exists(row.pid) or fields[:1] == ["Z"]:
        return False if known else None
    if not fields or there.get("times", here["times"]) != here["times"]:
        return None
    return _start(fields) == there.get("start") or (False if known else None)


def _told(row: Any) -> dict[str, Any]:
    """What the row tells of its life beside host and pid; nothing if it is not of our making."""
    with contextlib.suppress(ValueError):
        told = json.loads(row.life or "{}")
        return told if isinstance(told, dict) else {}
    return {}


def _exists(pid: int) -> bool:
    """Whether there is such a process; asked of the kernel, as /proc may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def ended_with_its_boot(row: Any) -> bool:
    """Whether the life in a server's row belongs to another boot; within a SQLite file, that of this machine."""
    return bool(_told(row).get("boot") != _boot())


def refuse_twice(database: Database, name: str) -> None:
    """Raise ServerRuns if the server's worker is seen to run on this host."""
    with database.read() as tx:
        row = servers.find(tx, name)
    if row is not None and row.liveness == "running" and seen_alive(row):
        raise ServerRuns(name=name, pid=row.pid, host=row.host)


@dataclass
class Enlistment:
    """A process on its way to a server's name; it asks again and again, until it has the name or is refused.

    It gets the name at once if the former life stopped or is gone; a life that is seen to run is never pushed aside,
    nor is one that cannot be seen, but for `lost_seconds` without a heartbeat.
    """

    database: Database
    settings: Settings
    name: str
    kind: str
    anew: bool = False  # this process had the name before
    _beat: int | None = None
    _since: float = 0.0
    _began: float | None = None

    def ask(self) -> Life | None:
        """The life, or None while the name's former life may still run.

        Raises ServerRuns. Of a process that begins anew: NotFound if its server was deleted, Conflict if it began
        anew less than `lost_seconds` ago, since whoever takes its name away would do so for ever.
        """
        now = time.monotonic()
        if self._began is not None and now - self._began < self.settings.lost_seconds:
            raise Conflict(CONTESTED.format(name=self.name, seconds=self.settings.lost_seconds))
        life = self.database.run(self._attempt, now)
        if life is not None:
            self._beat, self._began = None, now if self.anew else None
        return life

    def _attempt(self, tx: Connection, now: float) -> Life | None:
        own = this_life()
        if not self.anew:
            servers.create(tx, self.name)
        row = servers.find(tx, self.name)
        if row is None:
            raise NotFound(f"Server {self.name} was deleted while it counted as lost: its worker ends.")
        if row.liveness == "running" and (row.host, row.pid, row.life) != (own["host"], own["pid"], own["life"]):
            alive = seen_alive(row)
            if alive or (alive is None and self._beat not in (None, row.beat)):
                raise ServerRuns(name=self.name, pid=row.pid, host=row.host)
            if alive is None and not self._is_silent(row, now):
                return None
        pool = {"pool": self.settings.max_pool, "pool_kind": self.kind}
        return engine.take_over(tx, row.id, self.name, own | pool, self.database.now(tx))

    def _is_silent(self, row: Any, now: float) -> bool:
        if self._beat is None:
            # Read anew: this process may have stood still, or waited for the database, since `now`.
            self._beat, self._since = row.beat, time.monotonic()
            where = f"as pid {row.pid} of host {row.host}, which cannot be seen from here"
            logger.warning("%s runs %s: waiting for its silence", self.name, where)
        return now - self._since >= self.settings.lost_seconds


def enlist(database: Database, settings: Settings, name: str, kind: str, *, anew: bool = False) -> Life:
    """Take the server's name for this process, however long an `Enlistment` takes; raises what it raises."""
    enlistment = Enlistment(database, settings, name, kind, anew)
    while (life := enlistment.ask()) is None:
        time.sleep(min(LOOK_SECONDS, settings.lost_seconds))
    return life
