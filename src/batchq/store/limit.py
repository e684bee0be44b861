"""Named limits in SQL: the most tasks that may take each of them at once (rule 29)."""

from __future__ import annotations

import json
from collections.abc import Collection

from sqlalchemy import delete, select, update

from batchq.core.limits import named
from batchq.core.states import TERMINAL
from batchq.store.columns import LANE, LANE_IS_OPEN, LIMIT, RUN, RUN_IS_OPEN, TASK
from batchq.store.find import no_such
from batchq.store.sql.dialect import dialect
from batchq.store.tables import Limit, Run, TaskRow
from batchq.store.transaction import Tx


def limits(tx: Tx) -> dict[str, int]:
    """The units of every named limit."""
    return {row.name: row.units for row in tx.execute(select(LIMIT.name, LIMIT.units).order_by(LIMIT.name))}


def require_limits(tx: Tx, names: Collection[str]) -> None:
    """Raise NotFound unless all these limits exist; they cannot be deleted before the commit."""
    if not names:
        return
    lock = select(LIMIT.name).where(LIMIT.name.in_(sorted(names))).order_by(LIMIT.name)
    found = set(tx.execute(lock.with_for_update(read=True)).scalars())
    for name in sorted(set(names) - found):
        raise no_such("limit", name, limits(tx))


def lock_limit(tx: Tx, name: str) -> None:
    """Let nobody name the limit before the commit."""
    tx.execute(select(LIMIT.name).where(LIMIT.name == name).with_for_update())


def set_limit(tx: Tx, name: str, units: int) -> None:
    """Make the limit, or give it other units."""
    if not tx.execute(update(Limit).where(LIMIT.name == name).values(units=units)).rowcount:
        tx.execute(dialect(tx).insert_if_new(Limit).values(name=name, units=units))


def forget_limit(tx: Tx, name: str) -> bool:
    """Delete a limit; False if there is none."""
    return bool(tx.execute(delete(Limit).where(LIMIT.name == name)).rowcount)


def tasks_with(tx: Tx, name: str, most: int) -> list[tuple[str, int, str]]:
    """Tasks that name the limit and have not ended: job, run and task, at most so many."""
    key = json.dumps(named(name))  # with its quotes, or a name that another one begins with would be found too
    lanes = [lane for lane, keys in tx.execute(select(LANE.id, LANE.limits).where(LANE_IS_OPEN)) if key in keys]
    ended = [state.value for state in TERMINAL]
    found = select(RUN.job, RUN.id, TASK.name).select_from(TaskRow).join(Run, RUN.id == TASK.run_id)
    found = found.where(RUN_IS_OPEN, TASK.lane.in_(lanes), TASK.status.not_in(ended)).order_by(TASK.id).limit(most)
    return [(row.job, row.id, row.name) for row in tx.execute(found)]
