"""The topology in SQL: who may run what, how much and when; its version, and the lock of dispatch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from sqlalchemy import String, bindparam, cast, select, update

from batchq.core.limits import named, of_job
from batchq.core.override import Override
from batchq.core.topology import Aside, Server, Topology
from batchq.core.windows import UNREADABLE, YEARS, Window, is_zone, parse_days, parse_time
from batchq.store import moves, trouble
from batchq.store.columns import BINDING, DISPATCH, GROUP, JOB, LIMIT, SERVER, WINDOW
from batchq.store.lane import ReadyLane, ready_lanes
from batchq.store.sql.dialect import dialect
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Dispatch, Liveness
from batchq.store.tables import Server as ServerTable
from batchq.store.transaction import Tx


class Version(NamedTuple):
    """The topology's version."""

    topology: int


class Carried(NamedTuple):
    """The life that carries a server's name, with the topology's version."""

    epoch: int
    liveness: str
    topology: int


_LOCK = Statement(select(DISPATCH.topology).with_for_update(), row=Version)
_VERSION = Statement(select(DISPATCH.topology), row=Version)
_STANDING = Statement(
    select(SERVER.epoch, SERVER.liveness, DISPATCH.topology)
    .join(Dispatch, DISPATCH.id == 1)
    .where(SERVER.id == bindparam("server"))
    .with_for_update(read=True, of=ServerTable.__table__),
    row=Carried,
)


# --- what is read -------------------------------------------------------------------------------------------


def current(tx: Tx, version: int | None = None) -> Topology:
    """All servers as they stand; read anew only when the version moved on."""
    if version is None:
        version = newest_version(tx)
    known = tx.topology  # another thread's rollback may empty it at any moment
    if known.version != version or not known.servers:
        tx.topology = known = _load(tx, version)
    return known


def read(tx: Tx) -> Topology:
    """Read all servers anew, so that people also see changes made by hand."""
    return _load(tx, newest_version(tx))


def at_hand(tx: Tx) -> Topology:
    """The topology that this process read last: a newer one would cost every transaction a statement."""
    known = tx.topology
    return known if known.version else current(tx)


def aside(tx: Tx) -> Aside:
    """The tasks and runs set aside, by the topology at hand."""
    return at_hand(tx).aside


def newest_version(tx: Tx) -> int:
    """The topology's version as it stands now."""
    return int(_VERSION(tx)[0].topology)


def _load(tx: Tx, version: int) -> Topology:
    groups: dict[int, set[str]] = {}
    for server, group in tx.execute(select(BINDING.server_id, BINDING.group_name)):
        groups.setdefault(server, set()).add(group)
    windows: dict[int, list[Window]] = {}
    for row in tx.execute(_WINDOWS):
        windows.setdefault(row.server_id, []).append(window_of(StoredWindow._make(row)))
    stored = map(StoredServer._make, tx.execute(_SERVERS))
    found = (_server_of(row, groups.get(row.id, ()), windows.get(row.id, ())) for row in stored)
    paused = tx.execute(select(GROUP.name).where(GROUP.paused)).scalars()
    return Topology(tuple(found), version, frozenset(paused), trouble.aside(tx), _units(tx), _per_run(tx))


def _units(tx: Tx) -> dict[str, int]:
    """The units of named limits, and of jobs that have one over all their runs (rule 29)."""
    of_names = {named(name): units for name, units in tx.execute(select(LIMIT.name, LIMIT.units))}
    limited = select(JOB.id, JOB.tasks_at_once).where(JOB.tasks_at_once.is_not(None))
    return of_names | {of_job(job): units for job, units in tx.execute(limited)}


def _per_run(tx: Tx) -> dict[str, int]:
    """The units that each run has in a group, by groups (rule 29)."""
    limited = select(GROUP.name, GROUP.per_run).where(GROUP.per_run.is_not(None))
    return {row.name: row.per_run for row in tx.execute(limited)}


class StoredServer(NamedTuple):
    """A server's row, with the end of its override as text; its numbers and its override may be unreadable."""

    id: int
    name: str
    threads: object
    enabled: bool
    liveness: str
    epoch: object
    pool: object
    override_threads: object
    override_until: str | None
    override_by: object
    override_why: object


class StoredWindow(NamedTuple):
    """A window's row, with the date as text; any of it may be unreadable."""

    id: int
    server_id: int
    start: str
    end: str
    threads: object
    timezone: object
    days: str | None
    only: str | None


# The date and the end of an override are read as text: an unreadable one must not keep the others from being read.
_WINDOWS = select(
    *(column for column in WINDOW if column.name != "only"), cast(WINDOW.only, String).label("only")
).order_by(WINDOW.id)
_until = cast(SERVER.override_until, String).label("override_until")
_SERVERS = select(*(_until if field == "override_until" else SERVER[field] for field in StoredServer._fields)).order_by(
    SERVER.name
)
# The end of an override whose row nobody can read: it holds until somebody sets another one, or none.
_NEVER = datetime(YEARS[-1], 1, 1, tzinfo=UTC)


def _server_of(row: StoredServer, groups: Collection[str], windows: Collection[Window]) -> Server:
    """The server that a row describes; it starts nothing if one of its numbers is unreadable."""
    threads, epoch, pool = row.threads, row.epoch, row.pool
    if not (isinstance(threads, int) and isinstance(epoch, int) and isinstance(pool, int | None)):
        threads, epoch, pool, windows = 0, 0, 0, ()
    return Server(
        id=row.id,
        name=str(row.name),
        threads=threads,
        groups=frozenset(groups),
        windows=tuple(windows),
        enabled=row.enabled,
        alive=row.liveness == Liveness.RUNNING.value,
        epoch=epoch,
        pool=pool,
        override=override_of(row),
    )


def override_of(row: StoredServer) -> Override | None:
    """The override that a row describes, or None; an unreadable one keeps its server closed (rule 51)."""
    if row.override_until is None:
        return None
    try:
        threads, until = row.override_threads, datetime.fromisoformat(row.override_until)
        if not isinstance(threads, int) or threads < 0 or until.year not in YEARS[1:-1]:
            raise ValueError
        until = until.replace(tzinfo=UTC) if until.tzinfo is None else until.astimezone(UTC)
        return Override(threads, until, str(row.override_by or ""), str(row.override_why or ""))
    except (ValueError, TypeError):
        return Override(0, _NEVER, readable=False)


def window_of(row: StoredWindow) -> Window:
    """The window that a row describes.

    It never opens if it is unreadable, or if its zone is gone from this machine's list.
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


# --- what is locked -----------------------------------------------------------------------------------------


def lock_dispatch(tx: Tx) -> int:
    """Take the one dispatch lock until the commit; returns the topology's version."""
    ((version,),) = _LOCK(tx)
    return int(version)


def changed(tx: Tx) -> None:
    """Say that servers or groups changed; takes the dispatch lock, so no ticket leaves by the old rules after this."""
    tx.execute(update(Dispatch).values(topology=DISPATCH.topology + 1))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a server stands, and the topology's version; neither changes before the commit."""

    reply: Reply[Carried]

    def topology(self, epoch: int) -> int | None:
        """The topology's version, or None if the life that carries this `epoch` is no longer the server's."""
        for row in self.reply.rows:
            if row.epoch == epoch and row.liveness == Liveness.RUNNING.value:
                return int(row.topology)
        return None


def standing(tx: Tx, server: int) -> Standing:
    """Ask how a server stands; the statement travels with the next ones."""
    return Standing(_STANDING.later(tx, server=server))


@dataclass(frozen=True, slots=True)
class DispatchInput:
    """The numbers that dispatch goes by, read under its lock; the lock stays until the commit."""

    _lock: Reply[Version] | Reply[Carried]
    _occupancy: Reply[moves.Occupied]
    _lanes: Reply[ReadyLane]
    _ready_since: frozenset[moves.Pile] = frozenset()

    @property
    def version(self) -> int:
        """The topology's version."""
        (row,) = self._lock.rows
        return int(row.topology)

    @property
    def occupancy(self) -> moves.Occupancy:
        """How many tasks each server executes, and how many of each lane execute or have tickets out."""
        return moves.counted(self._occupancy)

    @property
    def ready(self) -> dict[int, tuple[object, object]]:
        """The lanes in which a task is ready, with the lowest and the highest own class of these tasks."""
        found: dict[int, tuple[Any, Any]] = {row.id: (row.lowest, row.highest) for row in self._lanes.rows}
        for lane, class_ in sorted(self._ready_since):
            lowest, highest = found.get(lane, (class_, class_))
            if isinstance(lowest, int) and isinstance(highest, int):  # somebody may have written into a row by hand
                found[lane] = min(lowest, class_), max(highest, class_)
        return found

    def with_ready(self, piles: Iterable[moves.Pile]) -> DispatchInput:
        """The input once tasks of these piles are ready too."""
        return replace(self, _ready_since=self._ready_since.union(piles))


def dispatch_input(tx: Tx, aside: Collection[int] = (), standing: Standing | None = None) -> DispatchInput:
    """Take the dispatch lock, and read the input of dispatch without the tasks `aside`.

    The statements travel with the next ones. Where only one writer works at a time (SQLite), the version in `standing`
    still holds and is not read again.
    """
    lock = _LOCK.later(tx) if standing is None or dialect(tx).locks_rows else standing.reply
    return DispatchInput(lock, moves.occupancy_later(tx, aside), ready_lanes(tx))
