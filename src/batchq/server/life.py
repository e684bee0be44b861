"""One life of a batch server: the facts that tell its process from every other, and how it takes the server's name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from batchq import engine
from batchq.config import Settings
from batchq.engine import Life
from batchq.errors import Conflict, NotFound, ServerRuns
from batchq.store import server as servers
from batchq.store.database import Database
from batchq.store.server import ServerRow
from batchq.store.transaction import Tx

logger = logging.getLogger(__name__)


LOOK_SECONDS = 0.5
CONTESTED = (
    "{name} lost its name twice within {seconds:g} s: another process takes it for its own. This worker ends. "
    "Give each server a name of its own."
)


class Machine:
    """The machine that a life runs on: names, processes, and the monotonic clock."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def host(self) -> str:
        """The machine's name; a container may share it with its host."""
        return platform.node()

    def pid(self) -> int:
        """The number of this process, in its own pid namespace."""
        return os.getpid()

    def boot(self) -> str:
        """The id of the present boot; empty where the kernel tells none."""
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return ""

    def namespace(self, kind: str) -> str:
        """The id of this process's `pid` or `time` namespace; empty where the kernel tells none."""
        with contextlib.suppress(OSError):
            return str(Path(f"/proc/self/ns/{kind}").stat().st_ino)
        return ""

    def stat(self, pid: int | str) -> list[str]:
        """The kernel's facts of a process from its state on, its start time in ticks among them.

        Empty if there is no such process, where /proc hides it, or where /proc shows another pid namespace.
        """
        with contextlib.suppress(OSError):
            if pid == "self" or str(Path("/proc/self").readlink()) == str(os.getpid()):
                # The name in the second field may hold anything, blanks and brackets included.
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return []

    def exists(self, pid: int) -> bool:
        """Whether there is such a process; asked of the kernel, as /proc may hide those of other users."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


THIS_MACHINE = Machine()


def this_life(machine: Machine = THIS_MACHINE, repeatable: Collection[str] = ()) -> dict[str, str | int]:
    """The facts that tell this process from every other: host, pid, and the two namespaces, boot and start time.

    Beside them stand its app's `repeatable` operations: when its attempts are lost, nobody else may know the app.
    """
    facts: dict[str, object] = {**_scope(machine), "start": _start(machine.stat("self"))}
    if repeatable:
        facts["repeatable"] = sorted(repeatable)
    return {"host": machine.host(), "pid": machine.pid(), "life": json.dumps(facts)}


def _scope(machine: Machine) -> dict[str, str]:
    """The scope in which a pid and a start time mean something: a boot, a pid namespace, a time namespace."""
    return {"boot": machine.boot(), "pids": machine.namespace("pid"), "times": machine.namespace("time")}


def _start(fields: list[str]) -> str:
    return fields[19] if len(fields) > 19 else ""


def seen_alive(row: ServerRow, machine: Machine = THIS_MACHINE) -> bool | None:
    """Whether the life in a server's row still runs; None if it cannot be seen from here.

    The same host name may be another machine's or container's, where a pid means another process. A row that an
    older version wrote tells no namespace: it may show that its process runs, never that it is gone.
    """
    there, here = _told(row), _scope(machine)
    if (row.host, there.get("boot")) != (machine.host(), here["boot"]) or not row.pid:
        return None
    tells_namespace = "pids" in there
    if tells_namespace and (there["pids"] != here["pids"] or not here["pids"]):
        return None
    fields = machine.stat(row.pid)
    if not machine.exists(row.pid) or fields[:1] == ["Z"]:
        return False if tells_namespace else None
    if not fields or there.get("times", here["times"]) != here["times"]:
        return None
    return _start(fields) == there.get("start") or (False if tells_namespace else None)


def _told(row: ServerRow) -> dict[str, object]:
    """The facts of a row's life beside host and pid; none if batchq did not write them."""
    with contextlib.suppress(ValueError):
        told = json.loads(row.life or "{}")
        return told if isinstance(told, dict) else {}
    return {}


def ended_with_its_boot(row: ServerRow) -> bool:
    """Whether the life in a server's row ran before this machine's last boot; for a SQLite file only."""
    return bool(_told(row).get("boot") != THIS_MACHINE.boot())


def refuse_twice(database: Database, name: str) -> None:
    """Raise ServerRuns if the server's worker is seen to run on this host."""
    with database.read() as tx:
        row = servers.find(tx, name)
    if row is not None and row.liveness == "running" and seen_alive(row):
        raise ServerRuns(name=name, pid=row.pid, host=row.host)


@dataclass
class Enlistment:
    """A process on its way to a server's name: it asks again and again, until it has the name or is refused.

    It gets the name at once if the former life stopped or is gone. A life that is seen to run keeps the name. A life
    that cannot be seen loses it after `lost_seconds` without a heartbeat.
    """

    database: Database
    settings: Settings
    name: str
    kind: str
    anew: bool = False  # this process had the name before
    repeatable: Collection[str] = ()  # operations that do no harm if they run once more
    machine: Machine = field(default=THIS_MACHINE, repr=False)
    _beat: int | None = None
    _since: float = 0.0
    _began: float | None = None

    def ask(self) -> Life | None:
        """The life, or None while the name's former life may still run.

        Raises ServerRuns. A process that begins anew gets NotFound if its server was deleted, and Conflict if it
        began anew less than `lost_seconds` ago: two processes would take the name from each other for ever.
        """
        now = self.machine.monotonic()
        if self._began is not None and now - self._began < self.settings.lost_seconds:
            raise Conflict(CONTESTED.format(name=self.name, seconds=self.settings.lost_seconds))
        life = self.database.run(self._attempt, now)
        if life is not None:
            self._beat, self._began = None, now if self.anew else None
        return life

    def _attempt(self, tx: Tx, now: float) -> Life | None:
        own = this_life(self.machine, self.repeatable)
        if not self.anew:
            servers.create(tx, self.name)
        row = servers.find(tx, self.name)
        if row is None:
            raise NotFound(f"Server {self.name} was deleted while it counted as lost: its worker ends.")
        if row.liveness == "running" and (row.host, row.pid, row.life) != (own["host"], own["pid"], own["life"]):
            alive = seen_alive(row, self.machine)
            if alive or (alive is None and self._beat not in (None, row.beat)):
                raise ServerRuns(name=self.name, pid=row.pid, host=row.host)
            if alive is None and not self._is_silent(row, now):
                return None
        pool = {"pool": self.settings.max_pool, "pool_kind": self.kind}
        return engine.take_over(tx, row.id, self.name, own | pool, tx.now())

    def _is_silent(self, row: ServerRow, now: float) -> bool:
        if self._beat is None:
            # Not `now`: this process may have stood still since, and would count that as the other life's silence.
            self._beat, self._since = row.beat, self.machine.monotonic()
            where = f"as pid {row.pid} of host {row.host}, which cannot be seen from here"
            logger.warning("%s runs %s: waiting for its silence", self.name, where)
        return now - self._since >= self.settings.lost_seconds


def enlist(enlistment: Enlistment) -> Life:
    """Take the server's name for this process, however long that takes; raises what `Enlistment.ask` raises."""
    while (life := enlistment.ask()) is None:
        enlistment.machine.sleep(min(LOOK_SECONDS, enlistment.settings.lost_seconds))
    return life
