"""Servers in SQL: what an operator sets of them, and the life that carries a server's name."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.override import Override
from batchq.core.windows import Window, format_days, format_time
from batchq.store.columns import BINDING, SERVER, WINDOW
from batchq.store.group import insert_if_new, name_groups
from batchq.store.sql.statement import Statement
from batchq.store.tables import Liveness, Server, ServerGroup, ServerWindow
from batchq.store.topology import newest_version
from batchq.store.transaction import Tx

_BEAT = Statement(
    update(Server)
    .where(SERVER.id == bindparam("server"), SERVER.epoch == bindparam("standing"))
    .where(SERVER.liveness == Liveness.RUNNING.value)
    .values(beat=SERVER.beat + 1, beat_at=bindparam("now"))
)


# --- what an operator sets ----------------------------------------------------------------------------------


class ServerRow(NamedTuple):
    """A server as it is stored.

    It leaves out the instants, which only people read: an unreadable one would keep the server from starting.
    """

    id: int
    name: str
    threads: int
    enabled: bool
    liveness: str
    epoch: int
    beat: int
    host: str | None
    pid: int | None
    life: str | None
    pool: int | None
    pool_kind: str | None


def find(tx: Tx, name: str) -> ServerRow | None:
    """The server's row, locked until the commit, or None."""
    columns = [SERVER[field] for field in ServerRow._fields]
    row = tx.execute(select(*columns).where(SERVER.name == name).with_for_update(key_share=True)).one_or_none()
    return None if row is None else ServerRow._make(row)


def create(tx: Tx, name: str, threads: int = 1) -> None:
    """Make a server of that name exist.

    SQLite may reuse a deleted server's id. The first epoch is therefore the topology's version, which is past every
    epoch that the deleted server had: its old worker stays fenced off.
    """
    insert_if_new(tx, Server, {"name": name, "threads": threads, "epoch": newest_version(tx)})


def forget(tx: Tx, server: int) -> bool:
    """Delete a server that does not run, with its bindings and windows; False if it runs or is gone."""
    idle = delete(Server).where(SERVER.id == server, SERVER.liveness != Liveness.RUNNING.value)
    return bool(tx.execute(idle).rowcount)


def set_server(
    tx: Tx,
    server: int,
    *,
    threads: int | None = None,
    enabled: bool | None = None,
    groups: Collection[str] | None = None,
    windows: Collection[Window] | None = None,
) -> None:
    """Set what is given, leave the rest; `changed` and taking tickets back belong in the same transaction (rule 14)."""
    values = {"threads": threads, "enabled": enabled}
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        tx.execute(update(Server).where(SERVER.id == server).values(**given))
    if groups is not None:
        name_groups(tx, groups)
        tx.execute(delete(ServerGroup).where(BINDING.server_id == server))
        if groups:
            tx.execute(insert(ServerGroup), [{"server_id": server, "group_name": name} for name in sorted(groups)])
    if windows is not None:
        tx.execute(delete(ServerWindow).where(WINDOW.server_id == server))
        if windows:
            tx.execute(insert(ServerWindow), [_window_row(server, window) for window in windows])


def set_override(tx: Tx, server: int, override: Override | None) -> None:
    """Set another override, or none; `changed` and taking tickets back belong in the same transaction (rule 51)."""
    values = {
        "override_threads": override and override.threads,
        "override_until": override and override.until,
        "override_by": override and override.by,
        "override_why": override and override.why,
    }
    tx.execute(update(Server).where(SERVER.id == server).values(**values))


def _window_row(server: int, window: Window) -> dict[str, object]:
    return {
        "server_id": server,
        "start": format_time(window.start),
        "end": format_time(window.end),
        "threads": window.threads,
        "timezone": window.timezone,
        "days": ",".join(format_days(window.days)) if window.days is not None else None,
        "only": window.only,
    }


# --- the life of a server -----------------------------------------------------------------------------------


def take_over(tx: Tx, server: int, life: Mapping[str, object], now: datetime) -> int:
    """Begin a new epoch of the server under this life (host, pid, life, pool, pool_kind); returns the epoch."""
    statement = (
        update(Server)
        .where(SERVER.id == server)
        .values(
            epoch=SERVER.epoch + 1,
            beat=SERVER.beat + 1,
            beat_at=now,
            started_at=now,
            liveness=Liveness.RUNNING.value,
            **life,
        )
        .returning(SERVER.epoch)
    )
    return int(tx.execute(statement).scalar_one())


def repeatable_operations(tx: Tx, server: int) -> frozenset[str]:
    """The operations that the life of the server said it may run once more; none where that cannot be read."""
    life = tx.execute(select(SERVER.life).where(SERVER.id == server)).scalar()
    try:
        return frozenset(map(str, json.loads(life or "{}").get("repeatable", ())))
    except (AttributeError, TypeError, ValueError):
        return frozenset()


def beat(tx: Tx, server: int, epoch: int, now: datetime) -> bool:
    """Count one heartbeat; False if the server was declared lost or another life took its name."""
    return bool(_BEAT.count(tx, server=server, standing=epoch, now=now))


def set_pool(tx: Tx, server: int, epoch: int, pool: int) -> None:
    """Store how many tasks the server's worker can run at once."""
    tx.execute(update(Server).where(SERVER.id == server, SERVER.epoch == epoch).values(pool=pool))


def running(tx: Tx) -> list[tuple[int, str, int, int]]:
    """The servers that count as running: id, name, epoch, beat."""
    rows = tx.execute(
        select(SERVER.id, SERVER.name, SERVER.epoch, SERVER.beat).where(SERVER.liveness == Liveness.RUNNING.value)
    )
    return [tuple(row) for row in rows]


def lose(tx: Tx, server: int, beat: int) -> bool:
    """running → lost, if its counter stands where it was last seen; a new epoch fences the old life off."""
    return _end_life(tx, server, Liveness.LOST, SERVER.beat == beat)


def stop(tx: Tx, server: int, epoch: int) -> bool:
    """running → stopped, if this epoch is still the server's."""
    return _end_life(tx, server, Liveness.STOPPED, SERVER.epoch == epoch)


def _end_life(tx: Tx, server: int, liveness: Liveness, guard: ColumnElement[bool]) -> bool:
    statement = (
        update(Server)
        .where(SERVER.id == server, SERVER.liveness == Liveness.RUNNING.value, guard)
        .values(liveness=liveness.value, epoch=SERVER.epoch + 1)
    )
    return bool(tx.execute(statement).rowcount)
