"""What people do: apply a file, manage servers and groups, cancel a run; and how they find things by name.

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

from batchq import aside, engine
from batchq.core.states import LABELS, RUN_ENDED
from batchq.core.topology import DEFAULT_GROUP, Server
from batchq.core.windows import Window, overlaps
from batchq.errors import Conflict, InvalidInput, NotFound, closest, unknown
from batchq.spec import Document, JobSpec, ServerSpec
from batchq.spec.fields import MOST_THREADS
from batchq.spec.model import MOST_WINDOWS
from batchq.store import moves, views
from batchq.store import run as runs
from batchq.store import server as servers
from batchq.store.columns import GROUP, JOB, RUN, SERVER, TASK
from batchq.store.database import Database
from batchq.store.server import PRIORITIES
from batchq.store.tables import Liveness

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


def apply(
    database: Database, document: Document, dry_run: bool = False, *, prune: bool = False, ahead: int = 0
) -> list[str]:
    """Make groups, servers and jobs as the document says, in one transaction; returns the differences.

    What the document does not name stays; with `prune`, servers go if it names any server, groups if it names
    any group. Raises Conflict if one of them is in use. With `dry_run` nothing is changed.
    """
    if dry_run:
        with database.read() as tx:
            return [line for change in _changes(tx, document, prune) for line in change.lines]
    return aside.run(database, lambda tx: _make(tx, database, list(_changes(tx, document, prune)), ahead))


def _changes(tx: Connection, document: Document, prune: bool) -> Iterator[Change]:
    """In the order in which rows are locked: servers, tasks (for the priority of their group), jobs."""
    present = {server.name: server for server in servers.seen(tx).servers}
    unnamed_servers, unnamed_groups = _prunable(tx, document, present) if prune else ([], [])
    for name in unnamed_servers:
        yield _server_removal(tx, name)
    for name in sorted(document.servers):
        yield from _server_changes(tx, name, document.servers[name], present.get(name))
    yield from _group_changes(tx, document)
    for name in unnamed_groups:
        yield _group_removal(tx, name)
    for name, job in document.jobs.items():
        yield from _job_changes(tx, name, job)


def _prunable(tx: Connection, document: Document, present: Mapping[str, Server]) -> tuple[list[str], list[str]]:
    """The servers and groups to remove; raises Conflict with every one of them that is in use."""
    gone = sorted(present.keys() - document.servers.keys()) if document.servers else []
    unnamed: list[str] = []
    if document.groups:
        known = servers.group_priorities(tx).keys() - document.groups.keys() - _named_groups(document)
        unnamed = sorted(known - {DEFAULT_GROUP})
    facts = [_server_use(tx, name) for name in gone]
    facts += [_group_use(tx, name, leaving={*gone, *document.servers}) for name in unnamed]
    if found := [fact for fact in facts if fact]:
        raise Conflict("\n".join(found))
    return gone, unnamed


def _make(tx: Connection, database: Database, changes: Collection[Change], ahead: int) -> list[str]:
    for change in changes:
        change.make()
    if any(change.topology for change in changes):
        _take_back(tx, database, ahead)
    return [line for change in changes for line in change.lines]


def _take_back(tx: Connection, database: Database, ahead: int) -> None:
    moves.lock_out(tx)
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
    for name in sorted(_named_groups(document) - present.keys() - document.groups.keys()):
        yield Change((f"group {name}: new",), partial(servers.name_groups, tx, [name]))
    for name, spec in document.groups.items():
        yield from _priority_change(tx, name, spec.priority, present.get(name))


def _named_groups(document: Document) -> set[str]:
    """The groups that the document's servers and tasks are in."""
    of_servers = {group for spec in document.servers.values() for group in spec.groups}
    return of_servers | {group for job in document.jobs.values() for group in runs.groups_of(job)}


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
    """Make a server of that name exist, with these threads if they are given (default 1); raises InvalidInput."""
    _check(threads or 0)

    def make(tx: Connection) -> None:
        servers.create(tx, name)
        row = servers.find(tx, name)
        assert row is not None
        if threads is not None and row.threads != threads:
            servers.set_server(tx, row.id, threads=threads)
        _take_back(tx, database, 0)

    aside.run(database, make)


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

    Raises NotFound for an unknown server; InvalidInput for an unknown group, for negative threads, and for
    windows of one zone that overlap.
    """
    bound = None if groups is None else frozenset(groups)
    given = {"threads": threads, "enabled": enabled, "groups": bound, "windows": windows}
    wanted = {key: value for key, value in given.items() if value is not None}
    return aside.run(database, _set_server, database, name, lambda _: wanted, ahead, groups or ())


def enable(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let a server start tasks; returns the differences (rule 20). Raises NotFound."""
    return set_server(database, name, enabled=True, ahead=ahead)


def disable(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let a server start nothing more; what it executes finishes, its groups stay bound (rules 12, 20)."""
    return set_server(database, name, enabled=False, ahead=ahead)


def set_groups(database: Database, name: str, groups: Collection[str], *, ahead: int = 0) -> list[str]:
    """Bind a server to these groups and no others; raises as `set_server` does."""
    return set_server(database, name, groups=groups, ahead=ahead)


def add_groups(database: Database, name: str, groups: Collection[str], *, ahead: int = 0) -> list[str]:
    """Bind a server to these groups too; raises as `set_server` does."""
    more = frozenset(groups)
    return aside.run(
        database, _set_server, database, name, lambda server: {"groups": server.groups | more}, ahead, more
    )


def remove_groups(database: Database, name: str, groups: Collection[str], *, ahead: int = 0) -> list[str]:
    """End a server's bindings to these groups; raises as `set_server` does."""
    less = frozenset(groups)
    return aside.run(
        database, _set_server, database, name, lambda server: {"groups": server.groups - less}, ahead, less
    )


def add_window(database: Database, name: str, window: Window, *, ahead: int = 0) -> list[str]:
    """Give a server one more window; raises as `set_server` does."""
    return aside.run(
        database, _set_server, database, name, lambda server: {"windows": (*server.windows, window)}, ahead
    )


def remove_window(database: Database, name: str, window: int | str | Window, *, ahead: int = 0) -> list[str]:
    """Take a window from a server: by its number, from 1 in the order in which they are listed, or by its text.

    Raises NotFound if the server, or the window, is not there.
    """

    def rest(server: Server) -> dict[str, Any]:
        at = _position(server, window)
        return {"windows": server.windows[:at] + server.windows[at + 1 :]}

    return aside.run(database, _set_server, database, name, rest, ahead)


def _position(server: Server, window: int | str | Window) -> int:
    texts = [str(each) for each in server.windows]
    if isinstance(window, int) and 0 < window <= len(texts):
        return window - 1
    if str(window) in texts:
        return texts.index(str(window))
    advice = f"`batchq server window list {server.name}` shows them." if texts else "It has none."
    raise unknown(f"window of {server.name}", window, texts, advice=advice)


def delete_server(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Delete a server that is stopped or lost, with its bindings and windows; returns the differences.

    What it ran keeps its name. Raises NotFound, and Conflict for a server that runs.
    """
    return aside.run(database, _remove, database, find_server, _server_removal, name, ahead)


def _remove(
    tx: Connection,
    database: Database,
    find: Callable[[Connection, str], object],
    removal: Callable[[Connection, str], Change],
    name: str,
    ahead: int,
) -> list[str]:
    find(tx, name)
    return _make(tx, database, [removal(tx, name)], ahead)


def _set_server(
    tx: Connection,
    database: Database,
    name: str,
    wanted: Callable[[Server], Mapping[str, Any]],
    ahead: int,
    named: Collection[str] = (),
) -> list[str]:
    """Set what is `wanted` of a server as it stands, the groups `named` being known; returns the differences."""
    row = servers.find(tx, name)
    number = find_server(tx, name) if row is None else row.id
    _check_groups(tx, named)
    present = servers.seen(tx).by_id[number]
    values = wanted(present)
    _check(**values)
    differences = list(_differences(f"server {name}", _facts(present), values))
    if differences:
        servers.set_server(tx, number, **values)
        _take_back(tx, database, ahead)
    return differences


def _check(threads: int = 0, windows: Collection[Window] = (), **_: object) -> None:
    """Refuse threads and windows that a server cannot have; raises InvalidInput (rules 16, 18)."""
    for number in (threads, *(window.threads for window in windows)):
        if not 0 <= number <= MOST_THREADS:
            raise InvalidInput(f"threads: {number} is not allowed; use 0 to {MOST_THREADS:,}.")
    if len(windows) > MOST_WINDOWS:
        raise InvalidInput(f"windows: a server has {MOST_WINDOWS} at most, not {len(windows)}.")
    for one, other in overlaps(list(windows)):
        raise InvalidInput(f"windows: {one} and {other} overlap; of one zone none may.")


def _check_groups(tx: Connection, names: Collection[str]) -> None:
    known = servers.group_priorities(tx) if names else {}
    for name in names:
        if name not in known:
            advice = "`batchq group list` shows all groups; a file that names one makes it."
            raise InvalidInput(f"groups: no group {name!r}{closest(name, known)}. {advice}")


def _server_removal(tx: Connection, name: str) -> Change:
    return Change((f"server {name}: removed",), partial(_remove_server, tx, name), topology=True)


def _remove_server(tx: Connection, name: str) -> None:
    row = servers.find(tx, name)
    if row is not None and not servers.forget(tx, row.id):
        raise Conflict(_runs(row))


def _server_use(tx: Connection, name: str) -> str | None:
    """Why the server cannot be deleted now, if it cannot."""
    row = tx.execute(select(SERVER.name, SERVER.liveness, SERVER.host, SERVER.pid).where(SERVER.name == name)).one()
    return _runs(row) if row.liveness == Liveness.RUNNING else None


def _runs(row: Any) -> str:
    return f"Server {row.name} runs, as pid {row.pid} on host {row.host}. Stop it first: only then can it be deleted."


def set_group(database: Database, name: str, *, priority: str) -> list[str]:
    """Give a group its priority; returns the differences (rules 13, 28). Raises InvalidInput or NotFound."""
    if priority not in PRIORITIES:
        raise InvalidInput(f"priority: {priority!r} is not allowed; use {', '.join(PRIORITIES)}.")
    return aside.run(database, _set_group, database, name, priority)


def _set_group(tx: Connection, database: Database, name: str, priority: str) -> list[str]:
    find_group(tx, name)
    present = servers.group_priorities(tx)[name]
    return _make(tx, database, list(_priority_change(tx, name, priority, present)), 0)


def pause_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let nothing new of a group start, from the moment that this returns (rule 29); returns the differences.

    What is executing finishes. Raises NotFound.
    """
    return aside.run(database, _pause_group, database, name, True, ahead)


def resume_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Let a paused group go on; returns the differences. Raises NotFound."""
    return aside.run(database, _pause_group, database, name, False, ahead)


def _pause_group(tx: Connection, database: Database, name: str, paused: bool, ahead: int) -> list[str]:
    find_group(tx, name)
    if not servers.pause(tx, name, paused):
        return []
    _take_back(tx, database, ahead)
    return [f"group {name}: {'paused' if paused else 'resumed'}"]


def delete_group(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Delete a group that nothing uses any more; returns the differences.

    Raises NotFound; Conflict for the default group, and while a server is bound to it or a task of it not terminal.
    """
    return aside.run(database, _remove, database, find_group, _group_removal, name, ahead)


def _group_removal(tx: Connection, name: str) -> Change:
    return Change((f"group {name}: removed",), partial(_remove_group, tx, name), topology=True)


def _remove_group(tx: Connection, name: str) -> None:
    servers.lock_group(tx, name)
    if fact := _group_use(tx, name):
        raise Conflict(fact)
    servers.forget_group(tx, name)


def _group_use(tx: Connection, name: str, leaving: Collection[str] = ()) -> str | None:
    """Why the group cannot be deleted now, if it cannot; the servers that are `leaving` do not count."""
    if name == DEFAULT_GROUP:
        return f"The group {name} cannot be deleted: a task without a group is in it."
    bound = [server for server in servers.bound_to(tx, name) if server not in leaving]
    number, storing = servers.open_tasks(tx, name), servers.being_stored(tx)
    facts = [
        f"bound to it: {_some(bound)}" if bound else "",
        f"tasks of it that have not ended: {number}" if number else "",
        f"still being stored: run {storing[0]}, of whatever groups" if storing else "",
    ]
    in_use = "; ".join(fact for fact in facts if fact)
    return f"Group {name} is in use and cannot be deleted; {in_use}." if in_use else None


def _facts(server: Server) -> dict[str, Any]:
    return {
        "threads": server.threads,
        "enabled": server.enabled,
        "groups": server.groups,
        "windows": server.windows,
    }


def _differences(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key, value in after.items():
        if key == "windows":
            yield from (f"{what}: window {window} removed" for window in before[key] if window not in value)
            yield from (f"{what}: window {window} added" for window in value if window not in before[key])
        elif (said := _WORDS[key](before[key])) != (wanted := _WORDS[key](value)):
            yield f"{what}: {key} {said} → {wanted}"


_WORDS: dict[str, Callable[[Any], str]] = {
    "threads": str,
    "enabled": lambda enabled: "yes" if enabled else "no",
    "groups": lambda groups: ", ".join(sorted(groups)) or "none",
}


# --- runs ---------------------------------------------------------------------------------------------------


def cancel_run(database: Database, run: int) -> int:
    """Cancel a run: what has not started never starts, what executes finishes (rule 32).

    Returns how many tasks are canceled. Raises NotFound, and Conflict for a run that has ended.
    """
    return aside.run(database, _cancel_run, database, run)


def _cancel_run(tx: Connection, database: Database, run: int) -> int:
    number = find_run(tx, run)
    moves.lock_runs(tx, [number])
    state = tx.execute(select(RUN.status).where(RUN.id == number)).scalar_one()
    if state in RUN_ENDED:
        raise Conflict(f"Run {run} has ended already ({LABELS[state]}): there is nothing left to cancel.")
    return engine.cancel(tx, number, database.now(tx))
