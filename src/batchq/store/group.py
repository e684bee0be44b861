"""Groups in SQL: they exist once something names them, have a priority, and can be paused (rules 13, 28, 29)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, delete, func, select, update

from batchq.core.states import NOT_STARTED, TERMINAL
from batchq.store.columns import BINDING, GROUP, LANE, RUN, RUN_IS_OPEN, SERVER, STORING, TASK
from batchq.store.lane import PLAIN
from batchq.store.moves import lock_runs
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import Group, Lane, Row, Run, ServerGroup, TaskRow
from batchq.store.transaction import Tx


class NamedGroup(NamedTuple):
    """A group that a job or a server names: its priority, its limit for each run, and its lane without limits."""

    name: str
    priority: int
    per_run: int | None
    lane: int | None


_NAMED = Statement(
    select(GROUP.name, GROUP.priority, GROUP.per_run, LANE.id.label("lane"))
    .outerjoin(Lane, and_(LANE.group_name == GROUP.name, LANE.limits == PLAIN))
    .where(among(GROUP.name, "names"))
    .order_by(GROUP.name)
    .with_for_update(read=True, key_share=True, of=Group.__table__),
    row=NamedGroup,
)


@dataclass(frozen=True, slots=True)
class Named:
    """Groups that a job or a server names (rule 13); they cannot be deleted before the commit."""

    _tx: Tx
    _names: Collection[str]
    _reply: Reply[NamedGroup]

    @property
    def rows(self) -> dict[str, NamedGroup]:
        """The groups by name; makes those that did not exist, each with its lane."""
        found = {row.name: row for row in self._reply.rows if row.lane is not None}
        if missing := sorted(set(self._names) - found.keys()):
            for name in missing:
                insert_if_new(self._tx, Group, {"name": name})
                insert_if_new(self._tx, Lane, {"group_name": name, "limits": PLAIN})
            found |= named_groups(self._tx, missing).rows
        return found


def named_groups(tx: Tx, names: Collection[str]) -> Named:
    """Ask for groups that are to exist; the statement travels with the next ones."""
    return Named(tx, names, _NAMED.later(tx, names=names))


def name_groups(tx: Tx, names: Collection[str]) -> dict[str, int]:
    """Make the groups exist (rule 13), so that they cannot be deleted before the commit; returns their priorities."""
    return {name: row.priority for name, row in named_groups(tx, names).rows.items()} if names else {}


def group_priorities(tx: Tx) -> dict[str, int]:
    """Every group with its priority."""
    return {row.name: row.priority for row in tx.execute(select(GROUP.name, GROUP.priority))}


def set_priority(tx: Tx, group: str, priority: int) -> bool:
    """Give a group its priority, and with it the tasks that have none of their own and have not started (rule 28)."""
    if not tx.execute(update(Group).where(GROUP.name == group).values(priority=priority)).rowcount:
        return False
    waiting = and_(TASK.group_name == group, ~TASK.own_priority, TASK.status.in_([each.value for each in NOT_STARTED]))
    # Who settles a run moves its tasks on under the dispatch lock: nobody else may hold them meanwhile.
    lock_runs(tx, list(tx.execute(select(TASK.run_id).where(waiting).distinct()).scalars()))
    tx.execute(update(TaskRow).where(waiting).values(own_class=priority))
    return True


def group_limits(tx: Tx) -> dict[str, int | None]:
    """Every group with the most of its tasks that a run may have at once (rule 29)."""
    return {row.name: row.per_run for row in tx.execute(select(GROUP.name, GROUP.per_run))}


def set_per_run(tx: Tx, group: str, units: int | None) -> None:
    """Set the most tasks of the group that a run may have at once; None takes the limit away."""
    tx.execute(update(Group).where(GROUP.name == group).values(per_run=units))


def pause(tx: Tx, group: str, paused: bool) -> bool:
    """Pause the group, or let it go on (rule 29); False if it is so already."""
    statement = update(Group).where(GROUP.name == group, GROUP.paused != paused).values(paused=paused)
    return bool(tx.execute(statement).rowcount)


def lock_group(tx: Tx, group: str) -> bool:
    """Let nobody name the group before the commit; False if it does not exist."""
    return tx.execute(select(GROUP.name).where(GROUP.name == group).with_for_update()).scalar() is not None


def bound_to(tx: Tx, group: str) -> list[str]:
    """The names of the servers that are bound to the group."""
    names = select(SERVER.name).join(ServerGroup, BINDING.server_id == SERVER.id).where(BINDING.group_name == group)
    return list(tx.execute(names.order_by(SERVER.name)).scalars())


def open_tasks(tx: Tx, group: str) -> int:
    """How many tasks of the group are not terminal."""
    ended = [state.value for state in TERMINAL]
    tasks = select(func.count()).select_from(TaskRow).join(Run, RUN.id == TASK.run_id)
    tasks = tasks.where(RUN_IS_OPEN, TASK.group_name == group, ~TASK.gate, TASK.status.not_in(ended))
    return int(tx.execute(tasks).scalar_one())


def being_stored(tx: Tx) -> list[int]:
    """The runs that are still being stored; their tasks may be of any group."""
    return list(tx.execute(select(RUN.id).where(STORING).order_by(RUN.id)).scalars())


def forget_group(tx: Tx, group: str) -> bool:
    """Delete a group that is locked and not in use; False if there is none."""
    return bool(tx.execute(delete(Group).where(GROUP.name == group)).rowcount)


def insert_if_new(tx: Tx, table: type[Row], values: Mapping[str, object]) -> None:
    """Insert a row, unless one of the same key is there."""
    tx.execute(dialect(tx).insert_if_new(table).values(**values))
