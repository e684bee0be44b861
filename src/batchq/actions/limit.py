"""Named limits: set one, delete one, and as a file names them (rule 29)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from batchq.actions.change import Change, Step, perform, removal
from batchq.actions.job import some
from batchq.core.limits import MOST_UNITS
from batchq.errors import Conflict, InvalidInput
from batchq.spec.fields import USUAL_SIZES, name_fault
from batchq.store import group as groups
from batchq.store import limit as limits
from batchq.store.database import Database
from batchq.store.find import find_limit
from batchq.store.transaction import Tx

# Names of tasks that a refusal shows.
SHOWN = 6


def set_limit(database: Database, name: str, units: int, *, ahead: int = 0, reason: str | None = None) -> list[str]:
    """Let `units` tasks that name the limit run at once, everywhere; returns the differences (rule 29).

    Makes the limit if there is none. What runs beyond a lowered one goes on; with 0 units nothing starts.
    Raises InvalidInput.
    """
    if fault := name_fault(name, USUAL_SIZES):
        raise InvalidInput(f"limit: {fault}.")
    check_units("units", units)
    return perform(database, lambda tx: limit_steps(tx, {name: units}), ahead, reason=reason)


def check_units(field: str, units: int) -> None:
    """Raise InvalidInput for a number of units that no limit may have."""
    if not 0 <= units <= MOST_UNITS:
        raise InvalidInput(f"{field}: must be from 0 to {MOST_UNITS:,}, not {units:,}.")


def delete_limit(database: Database, name: str, *, ahead: int = 0, reason: str | None = None) -> list[str]:
    """Delete a limit that no open task names; returns the differences. Raises NotFound or Conflict."""
    return perform(database, lambda tx: [limit_removal(tx, find_limit(tx, name))], ahead, reason=reason)


def limit_steps(tx: Tx, wanted: Mapping[str, int]) -> Iterator[Step]:
    """Give limits the wanted units, and make those that do not exist."""
    present = limits.limits(tx)
    for name, units in wanted.items():
        before = present.get(name)
        if before == units:
            continue
        if before is None:
            change = Change("limit", name, after=f"units: {units}")
        else:
            change = Change("limit", name, "units", str(before), str(units))
        yield Step((change,), partial(limits.set_limit, tx, name, units), topology=True)


def limit_removal(tx: Tx, name: str) -> Step:
    """Delete a limit; the step raises Conflict if an open task names it."""
    return Step((removal("limit", name),), partial(_remove, tx, name), topology=True)


def _remove(tx: Tx, name: str) -> None:
    limits.lock_limit(tx, name)
    if fact := limit_use(tx, name):
        raise Conflict(fact)
    limits.forget_limit(tx, name)


def limit_use(tx: Tx, name: str) -> str | None:
    """Why the limit cannot be deleted now, if it cannot."""
    tasks = [f"{job} run {run} / {task}" for job, run, task in limits.tasks_with(tx, name, SHOWN)]
    storing = groups.being_stored(tx)
    facts = [
        f"open tasks name it: {some(tasks)}" if tasks else "",
        f"still being stored: run {storing[0]}, with whatever limits" if storing else "",
    ]
    in_use = "; ".join(fact for fact in facts if fact)
    return f"Limit {name} is in use and cannot be deleted; {in_use}." if in_use else None
