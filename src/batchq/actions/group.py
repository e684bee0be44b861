"""Groups: their priority, pause and resume, and their end."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Literal

from batchq import engine
from batchq.actions.change import Change, Step, perform, removal
from batchq.actions.job import some
from batchq.actions.limit import check_units
from batchq.core.priority import PRIORITIES, PRIORITY_NAMES
from batchq.core.topology import DEFAULT_GROUP
from batchq.errors import Conflict, InvalidInput
from batchq.store import group as groups
from batchq.store.database import Database
from batchq.store.find import find_group
from batchq.store.transaction import Tx


def set_group(
    database: Database,
    name: str,
    *,
    priority: str | None = None,
    per_run: int | Literal["none"] | None = None,
    ahead: int = 0,
) -> list[str]:
    """Give a group its priority, or the most of its tasks that a run may have at once; returns the differences.

    `per_run` is a number of tasks, or "none" for no limit (rules 13, 28, 29). Raises InvalidInput or NotFound.
    """
    if priority is not None and priority not in PRIORITIES:
        raise InvalidInput(f"priority: {priority!r} is not allowed; use {', '.join(PRIORITIES)}.")
    if isinstance(per_run, int):
        check_units("per_run", per_run)

    def steps(tx: Tx) -> Iterator[Step]:
        find_group(tx, name)
        if priority is not None:
            yield from priority_steps(tx, name, priority, groups.group_priorities(tx)[name])
        if per_run is not None:
            yield from per_run_steps(tx, name, None if per_run == "none" else per_run, groups.group_limits(tx)[name])

    changes = perform(database, steps, ahead)
    sort_rest(database, [name] if isinstance(per_run, int) else [])
    return changes


def per_run_steps(tx: Tx, name: str, wanted: int | None, present: int | None) -> Iterator[Step]:
    """Set the most tasks of a group that a run may have at once, where it differs (rule 29)."""
    if present == wanted:
        return
    before, after = ("none" if units is None else str(units) for units in (present, wanted))

    def make() -> None:
        groups.name_groups(tx, [name])
        groups.set_per_run(tx, name, wanted)
        if wanted is not None:
            engine.sort_now(tx, [name])

    yield Step((Change("group", name, "per run", before, after),), make, topology=True)


def sort_rest(database: Database, names: Collection[str]) -> None:
    """Move the waiting tasks of groups with a limit for each run to the lanes of their runs, piece by piece.

    Those that become ready before that, or are left by a crash, are moved by the next tick.
    """
    if not names:
        return
    with database.read() as tx:
        runs = engine.runs_to_sort(tx, names)
    for run in runs:
        first: int | None = 0
        while first is not None:
            first = database.run(engine.sort_run, run, names, first)


def priority_steps(tx: Tx, name: str, priority: str, present: int | None) -> Iterator[Step]:
    """Give a group that has the priority `present`, or does not exist, the wanted one."""
    wanted = PRIORITIES[priority]
    if present == wanted:
        return
    if present is None:
        change = Change("group", name, after=f"priority {priority}")
    else:
        change = Change("group", name, "priority", PRIORITY_NAMES[present], priority)

    def make() -> None:
        groups.name_groups(tx, [name])
        groups.set_priority(tx, name, wanted)

    yield Step((change,), make)


def naming(tx: Tx, name: str) -> Step:
    """Make a group exist that something names (rule 13)."""
    return Step((Change("group", name, after=""),), partial(groups.name_groups, tx, [name]))


def pause_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let nothing new of a group start, from the moment that this returns (rule 29); returns the differences.

    Its executing tasks finish. Raises NotFound.
    """
    return perform(database, lambda tx: _pausing(tx, name, True), ahead)


def resume_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let a paused group go on; returns the differences. Raises NotFound."""
    return perform(database, lambda tx: _pausing(tx, name, False), ahead)


def _pausing(tx: Tx, name: str, paused: bool) -> list[Step]:
    find_group(tx, name)
    before, after = ("no", "yes") if paused else ("yes", "no")
    change = Change("group", name, "paused", before, after, said="paused" if paused else "resumed")
    return [Step((change,), partial(groups.pause, tx, name, paused), topology=True)]


def delete_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Delete a group that nothing uses any more; returns the differences.

    Raises NotFound; Conflict for the default group, and while a server is bound to it or a task of it not terminal.
    """
    return perform(database, lambda tx: [group_removal(tx, find_group(tx, name))], ahead)


def group_removal(tx: Tx, name: str) -> Step:
    """Delete a group; the step raises Conflict if the group is in use."""
    return Step((removal("group", name),), partial(_remove, tx, name), topology=True)


def _remove(tx: Tx, name: str) -> None:
    groups.lock_group(tx, name)
    if fact := group_use(tx, name):
        raise Conflict(fact)
    groups.forget_group(tx, name)


def group_use(tx: Tx, name: str, leaving: Collection[str] = ()) -> str | None:
    """Why the group cannot be deleted now, if it cannot; the servers that are `leaving` do not count."""
    if name == DEFAULT_GROUP:
        return f"The group {name} cannot be deleted: a task without a group is in it."
    bound = [server for server in groups.bound_to(tx, name) if server not in leaving]
    number, storing = groups.open_tasks(tx, name), groups.being_stored(tx)
    facts = [
        f"bound to it: {some(bound)}" if bound else "",
        f"tasks of it that have not ended: {number}" if number else "",
        f"still being stored: run {storing[0]}, of whatever groups" if storing else "",
    ]
    in_use = "; ".join(fact for fact in facts if fact)
    return f"Group {name} is in use and cannot be deleted; {in_use}." if in_use else None
