"""Recover: a life of a server begins or ends, and the attempts that it can no longer answer for are lost (rule 31)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from batchq import crash
from batchq.core.ends import Failure
from batchq.core.states import Reason
from batchq.engine.finishing import finish
from batchq.engine.flush import Life, Report
from batchq.engine.ticketing import take_back
from batchq.store import moves, trouble
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.columns import run_of
from batchq.store.failures import why
from batchq.store.moves import Executing
from batchq.store.transaction import Tx
from batchq.store.trouble import Key, What

LOST = "lost: server {name} went away during this attempt; what it did is not known"
STOPPED = "lost: its server was stopped during this attempt; what it did is not known"
MISSING = "lost: server {name} no longer has this attempt; what it did is not known"


# --- a life begins or ends ----------------------------------------------------------------------------------


def take_over(tx: Tx, server: int, name: str, life: Mapping[str, object], now: datetime) -> Life:
    """Begin a new life of the server; attempts of its former one are lost (rule 31)."""
    recover(tx, server, name, now)
    epoch = servers.take_over(tx, server, life, now)
    topologies.changed(tx)
    return Life(server, name, epoch)


def lose(tx: Tx, server: int, name: str, beat: int, now: datetime) -> bool:
    """Declare a server lost whose counter still stands at `beat`, and recover its attempts (rule 31)."""
    if not servers.lose(tx, server, beat):
        return False
    recover(tx, server, name, now)
    topologies.changed(tx)
    return True


def retire(tx: Tx, life: Life, now: datetime) -> None:
    """Let a stopping server start nothing more; its attempts go on, its tickets go back."""
    servers.set_pool(tx, life.server, life.epoch, 0)
    moves.lock_out(tx)
    topologies.changed(tx)
    take_back(tx, now)


def stop(tx: Tx, life: Life, now: datetime) -> bool:
    """End a life cleanly; an attempt that it still had is lost."""
    if not servers.stop(tx, life.server, life.epoch):
        return False
    recover(tx, life.server, life.name, now, STOPPED)
    topologies.changed(tx)
    return True


# --- attempts are lost --------------------------------------------------------------------------------------


def recover(tx: Tx, server: int, name: str, now: datetime, reason: str = LOST) -> int:
    """Finish as lost every attempt that the database has as executing on the server; returns their number."""
    executing = moves.executing_on(tx, server)
    return lose_attempts(tx, server, name, executing, reason.format(name=name), now)


def recover_missing(tx: Tx, life: Life, tokens: Collection[str], now: datetime) -> int:
    """Finish as lost the attempts, by their tokens, that the living server no longer has; returns their number."""
    executing = [row for row in moves.executing_on(tx, life.server) if row.token in tokens]
    return lose_attempts(tx, life.server, life.name, executing, MISSING.format(name=life.name), now)


def lose_attempts(tx: Tx, server: int, name: str, executing: Sequence[Executing], reason: str, now: datetime) -> int:
    """Finish these attempts as lost, for this reason; an attempt for which that cannot be stored is set aside."""
    if not executing:
        return 0
    rows = {row.id: row for row in executing}

    def end(tasks: Iterable[int]) -> None:
        _lose(tx, server, name, [rows[task] for task in tasks], reason, now)

    if trouble.tried(tx, lambda: end(rows), keep=True) is None:
        return len(rows)
    broken: dict[Key, str] = {}
    for task in sorted(rows):
        if error := trouble.tried(tx, partial(end, [task]), keep=True):
            broken[What.LOST, task] = why(error)
    trouble.note(tx, broken, name, now)
    return len(rows) - len(broken)


def lose_again(tx: Tx, task: int, now: datetime) -> None:
    """Finish as lost a task's attempt that was set aside when its server went; nothing happens if it has ended."""
    row = moves.left_executing(tx, task)
    if row is not None:
        _lose(tx, row.server_id, row.server, [Executing(*row[:3])], LOST.format(name=row.server), now)


def _lose(tx: Tx, server: int, name: str, executing: Sequence[Executing], reason: str, now: datetime) -> None:
    moves.lock_runs(tx, sorted({run_of(row.id) for row in executing}))
    end = Failure(Reason.LOST, reason)
    operations = servers.repeatable_operations(tx, server)
    again = moves.of_operations(tx, [row.id for row in executing], operations) if operations else ()
    for epoch in dict.fromkeys(row.epoch for row in executing):
        lost = [row for row in executing if row.epoch == epoch]
        reports = [Report(row.id, row.token, end, repeatable=row.id in again) for row in lost]
        locked = moves.locked(tx, [report.task for report in reports])
        finish(tx, Life(server, name, epoch), reports, locked, now)
        crash.point("recovering")
