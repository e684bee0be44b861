"""What people do: apply a file, set a server or a group, cancel a run; and how they find things by name.

Each action is one transaction, which also takes back the tickets that no longer hold. Tickets for what it
freed leave with the next advance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from batchq import engine
from batchq.core.affinity import Server
from batchq.core.states import LABELS, RUN_ENDED
from batchq.core.windows import Window, overlaps
from batchq.errors import Conflict, InvalidInput, NotFound, unknown
from batchq.spec import Document, JobSpec, ServerSpec
from batchq.store import moves, runs, servers, views
from batchq.store.database import Database
from batchq.store.moves import JOB, RUN, TASK
from batchq.store.servers import GROUP, PRIORITIES, SERVER

LARGEST_NUMBER = 2**63 - 1


# --- finding ------------------------------------------------------------------------------------------------


def find_run(tx: Connection, run: str | int) -> int:
    """The number of the run that `run` means: a number, or `last`; raises InvalidInput or NotFound."""
    if run == "last":
        newest = views.newest_run(tx)
        if newest is None:
            raise NotFound("There is no run yet. `batchq submit FILE` starts one.")
        return newest
    text = str(run)
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{text!r} is no run. A run is named by its number, or by `last` for the newest one.")
    number = int(text[:20])
    known = number <= LARGEST_NUMBER and tx.execute(select(RUN.id).where(RUN.id == number)).scalar()
    if not known:
        newest = views.newest_run(tx)
        raise NotFound(f"No run {text[:20]}. " + (f"The newest is {newest}." if newest else "There is none yet."))
    return number


def find_job(tx: Connection, name: str) -> int:
    """The id of the job; raises NotFound, with the closest name."""
    return int(_find(tx, "job", JOB.id, JOB.name, name))


def find_task(tx: Connection, run: int, name: str) -> int:
    """The id of the run's task of that name; raises NotFound, with the closest name."""
    found = tx.execute(select(TASK.id).where(TASK.run_id == run, TASK.name == name)).scalar()
    if found is None:
        known = tx.execute(select(TASK.name).where(TASK.run_id == run).order_by(TASK.id)).scalars()
        raise unknown("task", name, known, advice=f"`batchq task list {run}` shows the tasks of run {run}.")
    return int(found)


def find_server(tx: Connection, name: str) -> int:
    """The id of the server; raises NotFound, with the closest name."""
    return int(_find(tx, "server", SERVER.id, SERVER.name, name))


def find_group(tx: Connection, name: str) -> str:
    """The group's name, if there is one; raises NotFound, with the closest (rule 13)."""
    return str(_find(tx, "group", GROUP.name, GROUP.name, name))


def _find(tx: Connection, kind: str, key: Any, named: Any, name: str) -> Any:
    found = tx.execute(select(key).where(named == name)).scalar()
    if found is None:
        advice = f"`batchq {kind} list` shows all {kind}s."
        raise unknown(kind, name, tx.execute(select(named).order_by(named)).scalars(), advice=advice)
    return found


# --- applying a file ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Differences between what is and what shall be, a sentence each, and what makes it so."""

    lines: tuple[str, ...]
    make: Callable[[], object]
    topology: bool = False


def apply(database: Database, document: Document, dry_run: bool = False, *, ahead: int = 0) -> list[str]:
    """Make groups, servers and jobs as the document says, in one transaction; returns the differences.

    What the document does not name stays. With `dry_run` nothing is changed.
    """
    if dry_run:
        with database.read() as tx:
            return [line for change in _changes(tx, document) for line in change.lines]
    return database.run(lambda tx: _make(tx, database, list(_changes(tx, document)), ahead))


def _changes(tx: Connection, document: Document) -> Iterator[Change]:
    """In the order in which rows are locked: servers, tasks (for the priority of their group), jobs."""
    present = {server.name: server for server in servers.seen(tx).servers}
    for name in sorted(document.servers):
        yield from _server_changes(tx, name, document.servers[name], present.get(name))
    yield from _group_changes(tx, document)
    for name, job in document.jobs.items():
        yield from _job_changes(tx, name, job)


def _make(tx: Connection, database: Database, changes: Collection[Change], ahead: int) -> list[str]:
    for change in changes:
        change.make()
    if any(change.topology for change in changes):
        _take_back(tx, database, ahead)
    return [line for change in changes for line in change.lines]


def _take_back(tx: Connection, database: Database, ahead: int) -> None:
    servers.changed(tx)
    engine.take_back(tx, database, database.now(tx), ahead)


def _server_changes(tx: Connection, name: str, spec: ServerSpec, present: Server | None) -> Iterator[Change]:
    wanted: dict[str, Any] = {
        "threads": spec.threads,
        "groups": frozenset(spec.groups),
        "windows": tuple(window.window for window in spec.windows),
    }
    before = _facts(present) if present else {"threads": 1, "groups": frozenset(), "windows": ()}
    lines = [] if present else [f"server {name}: new"]
    lines += _differences(f"server {name}", before, wanted)

    def make() -> None:
        servers.create(tx, name)
        servers.set_server(tx, servers.find(tx, name).id, **wanted)  # type: ignore[union-attr]

    if lines:
        yield Change(tuple(lines), make, topology=True)


def _group_changes(tx: Connection, document: Document) -> Iterator[Change]:
    present = servers.group_priorities(tx)
    named = {group for spec in document.servers.values() for group in spec.groups}
    named |= {group for job in document.jobs.values() for group in runs.groups_of(job)}
    for name in sorted(named - present.keys() - document.groups.keys()):
        yield Change((f"group {name}: new",), partial(servers.name_groups, tx, [name]))
    for name, spec in document.groups.items():
        yield from _priority_change(tx, name, spec.priority, present.get(name))


def _priority_change(tx: Connection, name: str, priority: str, present: int | None) -> Iterator[Change]:
    wanted = PRIORITIES[priority]
    if present == wanted:
        return
    if present is None:
        text = f"group {name}: new, priority {priority}"
    else:
        text = f"group {name}: priority {views.PRIORITY_NAMES[present]} → {priority}"

    def make() -> None:
        servers.name_groups(tx, [name])
        servers.set_priority(tx, name, wanted)

    yield Change((text,), make)


def _job_changes(tx: Connection, name: str, job: JobSpec) -> Iterator[Change]:
    wanted = job.model_dump_json(exclude_defaults=True)
    present = tx.execute(select(JOB.definition).where(JOB.name == name)).scalar()
    if present is None:
        text = f"job {name}: new, tasks: {len(job.tasks)}"
    elif json.loads(present) != json.loads(wanted):
        text = f"job {name}: {_job_difference(json.loads(present), json.loads(wanted))}"
    else:
        return
    yield Change((text,), lambda: runs.keep_job(tx, job, views.clock(tx)))


def _job_difference(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    before, after = ({task["name"]: task for task in job["tasks"]} for job in (present, wanted))
    found = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    words = [f"{_some(names)} {word}" for word, names in found.items() if names]
    keys = {key for key in {*present, *wanted} - {"tasks"} if present.get(key) != wanted.get(key)}
    words += [f"{key} {present.get(key) or 'none'} → {wanted.get(key) or 'none'}" for key in sorted(keys)]
    return "; ".join(words) or "tasks in another order"


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"])


# --- servers and groups -------------------------------------------------------------------------------------


def ensure_server(database: Database, name: str, threads: int | None = None) -> None:
    """Make a server of that name exist, with these threads if they are given (default 1)."""

    def make(tx: Connection) -> None:
        servers.create(tx, name, 1 if threads is None else threads)
        row = servers.find(tx, name)
        assert row is not None
        if threads is not None and row.threads != threads:
            servers.set_server(tx, row.id, threads=threads)
        servers.changed(tx)

    database.run(make)


def set_server(
    database: Database,
    name: str,
    *,
    threads: int | None = None,
    enabled: bool | None = None,
    groups: Collection[str] | None = None,
    windows: Collection[Window] | None = None,
    ahead: int = 0,
) -> list[str]:
    """Set what is given, leave the rest; returns the differences (rules 12, 14, 17, 18, 20).

    Raises InvalidInput for negative threads and for windows of one zone that overlap, NotFound for an unknown
    server or group.
    """
    if threads is not None and threads < 0:
        raise InvalidInput(f"threads: {threads} is not allowed; a server has 0 threads or more.")
    for one, other in overlaps(list(windows or ())):
        raise InvalidInput(f"windows: {one} and {other} overlap; of one zone none may.")
    given = {"threads": threads, "enabled": enabled, "groups": groups, "windows": windows}
    wanted = {key: value for key, value in given.items() if value is not None}
    return database.run(_set_server, database, name, wanted, ahead)


def _set_server(tx: Connection, database: Database, name: str, wanted: Mapping[str, Any], ahead: int) -> list[str]:
    number = find_server(tx, name)
    servers.find(tx, name)
    for group in wanted.get("groups", ()):
        find_group(tx, group)
    present = servers.seen(tx).by_id[number]
    differences = list(_differences(f"server {name}", _facts(present), wanted))
    if differences:
        servers.set_server(tx, number, **wanted)
        _take_back(tx, database, ahead)
    return differences


def set_group(database: Database, name: str, *, priority: str) -> list[str]:
    """Give a group its priority; returns the differences (rules 13, 28). Raises InvalidInput or NotFound."""
    if priority not in PRIORITIES:
        raise InvalidInput(f"priority: {priority!r} is not allowed; use {', '.join(PRIORITIES)}.")
    return database.run(_set_group, database, name, priority)


def _set_group(tx: Connection, database: Database, name: str, priority: str) -> list[str]:
    find_group(tx, name)
    present = servers.group_priorities(tx)[name]
    return _make(tx, database, list(_priority_change(tx, name, priority, present)), 0)


def _facts(server: Server) -> dict[str, Any]:
    return {
        "threads": server.threads,
        "enabled": server.enabled,
        "groups": server.groups,
        "windows": server.windows,
    }


def _differences(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key, value in after.items():
        said, wanted = _WORDS[key](before[key]), _WORDS[key](value)
        if said != wanted:
            yield f"{what}: {key} {said} → {wanted}"


_WORDS: dict[str, Callable[[Any], str]] = {
    "threads": str,
    "enabled": lambda enabled: "yes" if enabled else "no",
    "groups": lambda groups: ", ".join(sorted(groups)) or "none",
    "windows": lambda windows: ", ".join(map(str, windows)) or "none",
}


# --- runs ---------------------------------------------------------------------------------------------------


def cancel_run(database: Database, run: int) -> int:
    """Cancel a run: what has not started never starts, what executes finishes (rule 32).

    Returns how many tasks are canceled. Raises NotFound, and Conflict for a run that has ended.
    """
    return database.run(_cancel_run, database, run)


def _cancel_run(tx: Connection, database: Database, run: int) -> int:
    number = find_run(tx, run)
    moves.lock_runs(tx, [number])
    state = tx.execute(select(RUN.status).where(RUN.id == number)).scalar_one()
    if state in RUN_ENDED:
        raise Conflict(f"Run {run} has ended already ({LABELS[state]}): there is nothing left to cancel.")
    return engine.cancel(tx, number, database.now(tx))
