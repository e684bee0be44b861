"""Servers and groups in SQL: who may run what, how much, when, and which life carries a server's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from sqlalchemy import Connection, Select, String, bindparam, cast, delete, func, insert, literal_column, select, update

from batchq.core.states import NOT_STARTED, TERMINAL, State
from batchq.core.topology import Aside, Topology
from batchq.core.topology import Server as Seen
from batchq.core.windows import UNREADABLE, Window, format_days, format_time, is_zone, parse_days, parse_time
from batchq.store import moves, trouble
from batchq.store.columns import (
    BINDING,
    DISPATCH,
    GROUP,
    RUN,
    RUN_IS_OPEN,
    SERVER,
    STORING,
    TASK,
    WINDOW,
    status_in_index,
)
from batchq.store.database import Database
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Dispatch, Group, Liveness, Run, Server, ServerGroup, ServerWindow, Task

PRIORITIES = {"low": 0, "normal": 1, "high": 2, "critical": 3}

_LOCK = Statement(select(DISPATCH.topology).with_for_update())
_VERSION = Statement(select(DISPATCH.topology))
_STANDING = Statement(
    select(SERVER.epoch, SERVER.liveness, DISPATCH.topology)
    .join(Dispatch, DISPATCH.id == 1)
    .where(SERVER.id == bindparam("server"))
    .with_for_update(read=True, of=Server.__table__)  # type: ignore[attr-defined]
)
_BEAT = Statement(
    update(Server)
    .where(SERVER.id == bindparam("server"), SERVER.epoch == bindparam("held"))
    .where(SERVER.liveness == Liveness.RUNNING.value)
    .values(beat=SERVER.beat + 1, beat_at=bindparam("now"))
)
# One look into the index for each group: as EXISTS, PostgreSQL would read all that is ready, and then count the groups.
_one_ready: Select[Any] = (
    select(literal_column("1")).where(status_in_index(State.READY), TASK.group_name == GROUP.name).limit(1)
)
_GROUPS_READY = Statement(select(GROUP.name).where(_one_ready.scalar_subquery().is_not(None)))

_NAMED = Statement(
    select(GROUP.name, GROUP.priority)
    .where(among(GROUP.name, "names"))
    .order_by(GROUP.name)
    .with_for_update(read=True, key_share=True)
)


# --- the topology -------------------------------------------------------------------------------------------


def lock_dispatch(tx: Connection) -> int:
    """Take the one dispatch lock until the commit; returns the topology's version."""
    ((version,),) = _LOCK(tx)
    return int(version)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a server counts as, and by which version of the topology; it stays so until the commit."""

    _asked: Reply

    def topology(self, epoch: int) -> int | None:
        """The topology's version, or None if the life that carries this `epoch` is no longer the server's."""
        for row in self._asked.rows:
            if row.epoch == epoch and row.liveness == Liveness.RUNNING.value:
                return int(row.topology)
        return None


def standing(tx: Connection, server: int) -> Standing:
    """How a server stands; asked for together with what follows."""
    return Standing(_STANDING.later(tx, server=server))


def topology(tx: Connection, database: Database, version: int | None = None) -> Topology:
    """All servers as they stand; read anew only when the version moved on."""
    if version is None:
        version = newest(tx)
    if database.topology.version != version or not database.topology.servers:
        database.topology = _load(tx, version)
    return database.topology


def seen(tx: Connection) -> Topology:
    """All servers as they stand, read anew: for those who look and have no database at hand."""
    return _load(tx, newest(tx))


def aside(tx: Connection, database: Database) -> Aside:
    """What is set aside, by the topology that is known: to ask for a newer one would cost every transaction."""
    return (database.topology if database.topology.version else topology(tx, database)).aside


def newest(tx: Connection) -> int:
    """The topology's version as it stands now."""
    return int(_VERSION(tx)[0].topology)


def _load(tx: Connection, version: int) -> Topology:
    groups: dict[int, set[str]] = {}
    for server, group in tx.execute(select(BINDING.server_id, BINDING.group_name)):
        groups.setdefault(server, set()).add(group)
    windows: dict[int, list[Window]] = {}
    for row in tx.execute(_WINDOWS):
        windows.setdefault(row.server_id, []).append(window_of(row))
    found = (_seen(row, groups.get(row.id, ()), windows.get(row.id, ())) for row in tx.execute(_SERVERS))
    paused = tx.execute(select(GROUP.name).where(GROUP.paused)).scalars()
    return Topology(tuple(found), version, frozenset(paused), trouble.aside(tx))


# As they stand there: one that nobody can read must not keep the others from being read.
_WINDOWS = select(
    *(column for column in WINDOW if column.name != "only"), cast(WINDOW.only, String).label("only")
).order_by(WINDOW.id)
_SERVERS = select(
    SERVER.id, SERVER.name, SERVER.threads, SERVER.enabled, SERVER.liveness, SERVER.epoch, SERVER.pool
).order_by(SERVER.name)


def _seen(row: Any, groups: Collection[str], windows: Collection[Window]) -> Seen:
    """The server that a row describes; one whose numbers are none starts nothing."""
    numbers = isinstance(row.threads, int) and isinstance(row.epoch, int) and isinstance(row.pool, int | None)
    return Seen(
        id=row.id,
        name=str(row.name),
        threads=row.threads if numbers else 0,
        groups=frozenset(groups),
        windows=tuple(windows) if numbers else (),
        enabled=row.enabled,
        alive=row.liveness == Liveness.RUNNING.value,
        epoch=row.epoch if numbers else 0,
        pool=row.pool if numbers else 0,
    )


def window_of(row: Any) -> Window:
    """The window that a row describes; one that nobody can read, or whose zone is not in this machine's list any more,
    never opens.
    """
    try:
        days = parse_days(row.days.split(",")) if row.days else None
        only = date.fromisoformat(row.only) if row.only else None
        start, end, zone = parse_time(row.start), parse_time(row.end), row.timezone
        if not isinstance(row.threads, int) or not isinstance(zone, str):
            raise TypeError
        return Window(start, end, row.threads, zone, days, only, vanished=not is_zone(zone))
    except (ValueError, TypeError, AttributeError):
        return Window(time(), time(), 0, UNREADABLE.format(row.id), vanished=True)


def changed(tx: Connection) -> None:
    """Say that servers or groups changed; takes the dispatch lock, so no ticket leaves by the old rules after this."""
    tx.execute(update(Dispatch).values(topology=DISPATCH.topology + 1))


@dataclass(frozen=True, slots=True)
class DispatchInput:
    """What dispatch goes by, all of it read under its lock, which is held until the commit."""

    _lock: Reply
    _occupancy: Reply
    _groups: Reply

    @property
    def version(self) -> int:
        """The topology's version."""
        ((version,),) = self._lock.rows
        return int(version)

    @property
    def occupancy(self) -> tuple[dict[int, int], dict[str, int]]:
        """How many tasks each server executes, and how many tickets of each group are out."""
        return moves.counted(self._occupancy)

    @property
    def ready(self) -> list[str]:
        """The groups in which a task is ready."""
        return [row.name for row in self._groups.rows]


def demand(tx: Connection, aside: Collection[int] = ()) -> DispatchInput:
    """Take the dispatch lock, and read what dispatch goes by, but for tasks `aside`; asked for together with what
    follows.
    """
    return DispatchInput(_LOCK.later(tx), moves.occupancy_later(tx, aside), _GROUPS_READY.later(tx))


# --- groups -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """Groups that a job or a server names (rule 13); they cannot be deleted before the commit."""

    _tx: Connection
    _names: Collection[str]
    _known: Reply

    @property
    def priorities(self) -> dict[str, int]:
        """Each of them with its priority; those that were not there exist now."""
        known = {row.name: row.priority for row in self._known.rows}
        if missing := sorted(set(self._names) - known.keys()):
            for name in missing:
                _insert_if_new(self._tx, Group, {"name": name})
            known |= named_groups(self._tx, missing).priorities
        return known


def named_groups(tx: Connection, names: Collection[str]) -> Named:
    """Groups that exist from now on; asked for together with what follows."""
    return Named(tx, names, _NAMED.later(tx, names=names))


def name_groups(tx: Connection, names: Collection[str]) -> dict[str, int]:
    """Make the groups exist (rule 13), so that they cannot be deleted before the commit; returns their priorities."""
    return named_groups(tx, names).priorities if names else {}


def set_priority(tx: Connection, group: str, priority: int) -> bool:
    """Give a group its priority, and with it the tasks that have none of their own and have not started (rule 28)."""
    if not tx.execute(update(Group).where(GROUP.name == group).values(priority=priority)).rowcount:
        return False
    waiting = TASK.status.in_([state.value for state in NOT_STARTED])
    tx.execute(update(Task).where(TASK.group_name == group, ~TASK.own_priority, waiting).values(priority=priority))
    return True


def pause(tx: Connection, group: str, paused: bool) -> bool:
    """Let nothing new of the group start, or let it go on (rule 29); False if it is so already."""
    statement = update(Group).where(GROUP.name == group, GROUP.paused != paused).values(paused=paused)
    return bool(tx.execute(statement).rowcount)


def lock_group(tx: Connection, group: str) -> bool:
    """Let nobody name the group before the commit; False if it does not exist."""
    return tx.execute(select(GROUP.name).where(GROUP.name == group).with_for_update()).scalar() is not None


def bound_to(tx: Connection, group: str) -> list[str]:
    """The names of the servers that are bound to the group."""
    names = select(SERVER.name).join(ServerGroup, BINDING.server_id == SERVER.id).where(BINDING.group_name == group)
    return list(tx.execute(names.order_by(SERVER.name)).scalars())


def open_tasks(tx: Connection, group: str) -> int:
    """How many tasks of the group are not terminal."""
    ended = [state.value for state in TERMINAL]
    tasks = select(func.count()).select_from(Task).join(Run, RUN.id == TASK.run_id)
    return int(tx.execute(tasks.where(RUN_IS_OPEN, TASK.group_name == group, TASK.status.not_in(ended))).scalar_one())


def being_stored(tx: Connection) -> list[int]:
    """The runs that are still being stored, whose tasks may be of any group."""
    return list(tx.execute(select(RUN.id).where(STORING).order_by(RUN.id)).scalars())


def forget_group(tx: Connection, group: str) -> bool:
    """Delete a group that is locked and not in use; False if there is none."""
    return bool(tx.execute(delete(Group).where(GROUP.name == group)).rowcount)


def group_priorities(tx: Connection) -> dict[str, int]:
    """Every group with its priority."""
    return {row.name: row.priority for row in tx.execute(select(GROUP.name, GROUP.priority))}


def _insert_if_new(tx: Connection, table: Any, values: Mapping[str, Any]) -> None:
    if tx.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_new
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_new  # type: ignore[assignment]
    tx.execute(insert_new(table).values(**values).on_conflict_do_nothing())


# --- what an operator sets ----------------------------------------------------------------------------------


def find(tx: Connection, name: str) -> Any | None:
    """The server's row, locked until the commit, or None."""
    # Its instants are for people only: one that nobody can read must not keep the server from starting.
    columns = [column for column in SERVER if column.name not in ("beat_at", "started_at")]
    return tx.execute(select(*columns).where(SERVER.name == name).with_for_update(key_share=True)).one_or_none()


def create(tx: Connection, name: str, threads: int = 1) -> None:
    """Make a server of that name exist.

    SQLite may give it the number of one that was deleted, but no epoch that a life of that one carries:
    with each epoch the topology counts on, so that it is past them all.
    """
    _insert_if_new(tx, Server, {"name": name, "threads": threads, "epoch": newest(tx)})


def forget(tx: Connection, server: int) -> bool:
    """Delete a server that does not run, with its bindings and windows; False if it runs, or is gone."""
    idle = delete(Server).where(SERVER.id == server, SERVER.liveness != Liveness.RUNNING.value)
    return bool(tx.execute(idle).rowcount)


def set_server(
    tx: Connection,
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


def _window_row(server: int, window: Window) -> dict[str, Any]:
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


def take_over(tx: Connection, server: int, life: Mapping[str, Any], now: datetime) -> int:
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


def beat(tx: Connection, server: int, epoch: int, now: datetime) -> bool:
    """Count one heartbeat; False if the server was declared lost or another life took its name."""
    return bool(_BEAT.count(tx, server=server, held=epoch, now=now))


def set_pool(tx: Connection, server: int, epoch: int, pool: int) -> None:
    """Store how many tasks the server's worker can run at once."""
    tx.execute(update(Server).where(SERVER.id == server, SERVER.epoch == epoch).values(pool=pool))


def running(tx: Connection) -> list[tuple[int, str, int, int]]:
    """The servers that count as running: id, name, epoch, beat."""
    rows = tx.execute(
        select(SERVER.id, SERVER.name, SERVER.epoch, SERVER.beat).where(SERVER.liveness == Liveness.RUNNING.value)
    )
    return [tuple(row) for row in rows]


def lose(tx: Connection, server: int, beat: int) -> bool:
    """running → lost, if its counter still stands where it was last seen; a new epoch fences the old life off."""
    return _end_life(tx, server, Liveness.LOST, SERVER.beat == beat)


def stop(tx: Connection, server: int, epoch: int) -> bool:
    """running → stopped, if this epoch is still the server's."""
    return _end_life(tx, server, Liveness.STOPPED, SERVER.epoch == epoch)


def _end_life(tx: Connection, server: int, liveness: Liveness, guard: Any) -> bool:
    statement = (
        update(Server)
        .where(SERVER.id == server, SERVER.liveness == Liveness.RUNNING.value, guard)
        .values(liveness=liveness.value, epoch=SERVER.epoch + 1)
    )
    return bool(tx.execute(statement).rowcount)
