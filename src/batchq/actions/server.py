"""Servers: their threads, groups and windows; enable, disable and delete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from batchq.actions.change import Change, Step, perform, removal
from batchq.core.topology import Server
from batchq.core.windows import Window, overlaps
from batchq.errors import Action, Advice, Conflict, InvalidInput, closest
from batchq.spec import ServerSpec
from batchq.spec.fields import MOST_THREADS
from batchq.spec.model import MOST_WINDOWS
from batchq.store import server as servers
from batchq.store import topology
from batchq.store.columns import SERVER
from batchq.store.database import Database
from batchq.store.find import find_server
from batchq.store.group import group_priorities
from batchq.store.tables import Liveness

# The facts that an operator wants of a server as it stands.
Wanted = Callable[[Server], Mapping[str, Any]]


def ensure_server(database: Database, name: str, threads: int | None = None) -> None:
    """Make a server of that name exist, with these threads if they are given (default 1); raises InvalidInput."""
    _check(threads or 0)
    perform(database, lambda tx: [Step((), partial(_ensure, tx, name, threads), topology=True)])


def _ensure(tx: Connection, name: str, threads: int | None) -> None:
    servers.create(tx, name)
    row = servers.find(tx, name)
    assert row is not None
    if threads is not None and row.threads != threads:
        servers.set_server(tx, row.id, threads=threads)


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
    return change_server(database, name, lambda _: wanted, ahead, groups or ())


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
    return change_server(database, name, lambda server: {"groups": server.groups | more}, ahead, more)


def remove_groups(database: Database, name: str, groups: Collection[str], *, ahead: int = 0) -> list[str]:
    """End a server's bindings to these groups; raises as `set_server` does."""
    less = frozenset(groups)
    return change_server(database, name, lambda server: {"groups": server.groups - less}, ahead, less)


def delete_server(database: Database, name: str, *, ahead: int = 0) -> list[str]:
    """Delete a server that is stopped or lost, with its bindings and windows; returns the differences.

    The tasks that it ran keep its name. Raises NotFound, and Conflict for a server that runs.
    """

    def steps(tx: Connection) -> list[Step]:
        find_server(tx, name)
        return [server_removal(tx, name)]

    return perform(database, steps, ahead)


# --- setting ------------------------------------------------------------------------------------------------


def change_server(database: Database, name: str, wanted: Wanted, ahead: int, named: Collection[str] = ()) -> list[str]:
    """Set the facts `wanted` of a server as it stands, if all groups `named` exist; raises as `set_server` does."""
    return perform(database, lambda tx: _setting(tx, name, wanted, named), ahead)


def _setting(tx: Connection, name: str, wanted: Wanted, named: Collection[str]) -> Iterator[Step]:
    row = servers.find(tx, name)
    number = find_server(tx, name) if row is None else row.id
    _check_groups(tx, named)
    present = topology.read(tx).by_id[number]
    values = wanted(present)
    _check(**values)
    if differences := tuple(_differences(name, _facts(present), values)):
        yield Step(differences, partial(servers.set_server, tx, number, **values), topology=True)


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
    present = group_priorities(tx) if names else {}
    for name in names:
        if name not in present:
            advice = Advice("{} shows all groups; a file that names one makes it.", Action.LIST_GROUPS)
            raise InvalidInput(f"groups: no group {name!r}{closest(name, present)}.", advice=advice)


def _facts(server: Server) -> dict[str, Any]:
    return {
        "threads": server.threads,
        "enabled": server.enabled,
        "groups": server.groups,
        "windows": server.windows,
    }


def _differences(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key, value in after.items():
        if key == "windows":
            gone = (window for window in before[key] if window not in value)
            new = (window for window in value if window not in before[key])
            yield from (Change("server", name, "window", before=str(window)) for window in gone)
            yield from (Change("server", name, "window", after=str(window)) for window in new)
        elif (said := _WORDS[key](before[key])) != (wanted := _WORDS[key](value)):
            yield Change("server", name, key, said, wanted)


_WORDS: dict[str, Callable[[Any], str]] = {
    "threads": str,
    "enabled": lambda enabled: "yes" if enabled else "no",
    "groups": lambda groups: ", ".join(sorted(groups)) or "none",
}


# --- for a file ---------------------------------------------------------------------------------------------


def server_steps(tx: Connection, name: str, spec: ServerSpec, present: Server | None) -> Iterator[Step]:
    """Make the server as the file has it, if it differs."""
    wanted: dict[str, Any] = {
        "threads": spec.threads,
        "groups": frozenset(spec.groups),
        "windows": tuple(window.window for window in spec.windows),
    }
    before = _facts(present) if present else {"threads": 1, "groups": frozenset(), "windows": ()}
    changes = [] if present else [Change("server", name, after="")]
    changes += _differences(name, before, wanted)

    def make() -> None:
        servers.create(tx, name)
        servers.set_server(tx, servers.find(tx, name).id, **wanted)  # type: ignore[union-attr]

    if changes:
        yield Step(tuple(changes), make, topology=True)


def server_removal(tx: Connection, name: str) -> Step:
    """Delete a server; the step raises Conflict if the server runs."""
    return Step((removal("server", name),), partial(_remove, tx, name), topology=True)


def _remove(tx: Connection, name: str) -> None:
    row = servers.find(tx, name)
    if row is not None and not servers.forget(tx, row.id):
        raise Conflict(_runs(row))


def server_use(tx: Connection, name: str) -> str | None:
    """Why the server cannot be deleted now, if it cannot."""
    row = tx.execute(select(SERVER.name, SERVER.liveness, SERVER.host, SERVER.pid).where(SERVER.name == name)).one()
    return _runs(row) if row.liveness == Liveness.RUNNING else None


def _runs(row: Any) -> str:
    return f"Server {row.name} runs, as pid {row.pid} on host {row.host}. Stop it first: only then can it be deleted."
