"""One life of a batch server: what tells this process from every other, and how it takes the server's name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from batchq import engine
from batchq.config import Settings
from batchq.engine import Life
from batchq.errors import NotFound, ServerRuns
from batchq.store import servers
from batchq.store.database import Database

logger = logging.getLogger(__name__)


def this_life() -> dict[str, str | int]:
    """What tells this process from every other: host, boot, pid and start time."""
    pid = os.getpid()
    life = {"boot": _boot(), "start": started(pid)}
    return {"host": platform.node(), "pid": pid, "life": json.dumps(life)}


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def started(pid: int) -> str:
    """The process's start time in the kernel's ticks; empty if there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        # The name in the second field may hold anything, blanks and brackets included.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def seen_alive(row: Any) -> bool | None:
    """Whether the life in a server's row still runs; None if it cannot be seen from this host."""
    if row.host != platform.node():
        return None
    life = json.loads(row.life or "{}")
    return life.get("boot") == _boot() and bool(row.pid) and started(row.pid) == life.get("start")


def refuse_twice(database: Database, name: str) -> None:
    """Raise ServerRuns if the server's worker is seen to run on this host."""
    with database.read() as tx:
        row = servers.find(tx, name)
    if row is not None and row.liveness == "running" and seen_alive(row):
        raise ServerRuns(name=name, pid=row.pid, host=row.host)


def enlist(database: Database, settings: Settings, name: str, kind: str, *, anew: bool = False) -> Life:
    """Take the server's name for this process.

    At once if its former life stopped or is gone; a life that runs on this host is never pushed aside; one that
    cannot be seen gets `lost_seconds` to show a heartbeat. Raises ServerRuns; and NotFound if this process had the
    name before, and begins `anew`, but the server was deleted.
    """
    own = this_life() | {"pool": settings.processes, "pool_kind": kind}

    def attempt(tx: Connection, silent_at: int | None) -> Life | int:
        if not anew:
            servers.create(tx, name)
        row = servers.find(tx, name)
        if row is None:
            raise NotFound(f"Server {name} was deleted while it counted as lost: its worker ends.")
        alive = seen_alive(row) if row.liveness == "running" else False
        if alive and (row.host, row.pid) != (own["host"], own["pid"]):
            raise ServerRuns(name=name, pid=row.pid, host=row.host)
        if alive is None and row.beat != silent_at:
            return int(row.beat)
        return engine.take_over(tx, row.id, name, own, database.now(tx))

    outcome = database.run(attempt, None)
    while isinstance(outcome, int):
        beat = outcome
        logger.warning("%s runs on a host that cannot be seen from here: waiting for its silence", name)
        time.sleep(settings.lost_seconds)
        outcome = database.run(attempt, beat)
        if isinstance(outcome, int):
            with database.read() as tx:
                row = servers.find(tx, name)
            raise ServerRuns(name=name, pid=row.pid if row else "?", host=row.host if row else "?")
    return outcome
