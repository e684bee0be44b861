"""Servers: their threads, groups and windows; enable, disable and delete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypedDict, Unpack

from sqlalchemy import select

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
from batchq.store.transaction import Tx


class ServerFacts(TypedDict, total=False):
    """A server's facts that an operator sets; None or a missing key changes nothing."""

    threads: int | None
    enabled: bool | None
    groups: Collection[str] | None
    windows: Collection[Window] | None


# The facts that an operator wants of a server as it stands.
Wanted = Callable[[Server], ServerFacts]


def ensure_server(database: Database, name: str, threads: int | None = None) -> None:
    """Make a server of that name exist, with these threads if they are given (default 1); raises InvalidInput."""
    _check({"threads": threads})
    perform(database, lambda tx: [Step((), partial(_ensure, tx, name, threads), topology=True)])


def _ensure(tx: Tx, name: str, threads: int | None) -> None:
    servers.create(tx, name)
    row = servers.find(tx, name)
    assert row is not None
    if threads is not None and row.threads != threads:
        servers.set_server(tx, row.id, threads=threads)


def set_server(database: Database, name: str, *, ahead: int = 0, **given: Unpack[ServerFacts]) -> list[str]:
    """Set what is given, leave the rest; returns the differences (rules 12, 14, 17, 18, 20).

    Raises NotFound for an unknown server; InvalidInput for an unknown group, for negative threads, and for
    windows of one zone that overlap.
    """
    if (groups := given.get("groups")) is not None:
        given["groups"] = frozenset(groups)
    return change_server(database, name, lambda _: given, ahead, groups or ())


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

    def steps(tx: Tx) -> list[Step]:
        find_server(tx, name)
        return [server_removal(tx, name)]

    return perform(database, steps, ahead)


# --- setting ------------------------------------------------------------------------------------------------


def change_server(database: Database, name: str, wanted: Wanted, ahead: int, named: Collection[str] = ()) -> list[str]:
    """Set the facts `wanted` of a server as it stands, if all groups `named` exist; raises as `set_server` does."""
    return perform(database, lambda tx: _setting(tx, name, wanted, named), ahead)


def _setting(tx: Tx, name: str, wanted: Wanted, named: Collection[str]) -> Iterator[Step]:
    row = servers.find(tx, name)
    number = find_server(tx, name) if row is None else row.id
    _check_groups(tx, named)
    present = topology.read(tx).by_id[number]
    values = wanted(present)
    _check(values)
    if differences := tuple(_differences(name, _facts(present), values)):
        yield Step(differences, partial(servers.set_server, tx, number, **values), topology=True)


def _check(facts: ServerFacts) -> None:
    """Refuse threads and windows that a server cannot have; raises InvalidInput (rules 16, 18)."""
    windows = facts.get("windows") or ()
    for number in (facts.get("threads") or 0, *(window.threads for window in windows)):
        if not 0 <= number <= MOST_THREADS:
            raise InvalidInput(f"threads: {number} is not allowed; use 0 to {MOST_THREADS:,}.")
    if len(windows) > MOST_WINDOWS:
        raise InvalidInput(f"windows: a server has {MOST_WINDOWS} at most, not {len(windows)}.")
    for one, other in overlaps(list(windows)):
        raise InvalidInput(f"windows: {one} and {other} overlap; of one zone none may.")


def _check_groups(tx: Tx, names: Collection[str]) -> None:
    present = group_priorities(tx) if names else {}
    for name in names:
        if name not in present:
            advice = Advice("{} shows all groups; a file that names one makes it.", Action.LIST_GROUPS)
            raise InvalidInput(f"groups: no group {name!r}{closest(name, present)}.", advice=advice)


def _facts(server: Server) -> ServerFacts:
    return {
        "threads": server.threads,
        "enabled": server.enabled,
        "groups": server.groups,
        "windows": server.windows,
    }


def _differences(name: str, before: ServerFacts, after: ServerFacts) -> Iterator[Change]:
    present = dict(_words(before))
    for key, wanted in _words(after):
        if present[key] != wanted:
            yield Change("server", name, key, present[key], wanted)
    if (windows := after.get("windows")) is not None:
        old = before.get("windows") or ()
        yield from (Change("server", name, "window", before=str(window)) for window in old if window not in windows)
        yield from (Change("server", name, "window", after=str(window)) for window in windows if window not in old)


def _words(facts: ServerFacts) -> Iterator[tuple[str, str]]:
    """Name and new value of each given fact, for its change; windows have changes of their own."""
    if (threads := facts.get("threads")) is not None:
        yield "threads", str(threads)
    if (enabled := facts.get("enabled")) is not None:
        yield "enabled", "yes" if enabled else "no"
    if (groups := facts.get("groups")) is not None:
        yield "groups", ", ".join(sorted(groups)) or "none"


# --- for a file ---------------------------------------------------------------------------------------------


def server_steps(tx: Tx, name: str, spec: ServerSpec, present: Server | None) -> Iterator[Step]:
    """Make the server as the file has it, if it differs."""
    wanted: ServerFacts = {
        "threads": spec.threads,
        "groups": frozenset(spec.groups),
        "windows": tuple(window.window for window in spec.windows),
    }
    new: ServerFacts = {"threads": 1, "groups": frozenset(), "windows": ()}
    before = _facts(present) if present else new
    changes = [] if present else [Change("server", name, after="")]
    changes += _differences(name, before, wanted)

    def make() -> None:
        servers.create(tx, name)
        row = servers.find(tx, name)
        assert row is not None
        servers.set_server(tx, row.id, **wanted)

    if changes:
        yield Step(tuple(changes), make, topology=True)


def server_removal(tx: Tx, name: str) -> Step:
    """Delete a server; the step raises Conflict if the server runs."""
    return Step((removal("server", name),), partial(_remove, tx, name), topology=True)


def _remove(tx: Tx, name: str) -> None:
    row = servers.find(tx, name)
    if row is not None and not servers.forget(tx, row.id):
        raise Conflict(_runs(row.name, row.pid, row.host))


def server_use(tx: Tx, name: str) -> str | None:
    """Why the server cannot be deleted now, if it cannot."""
    row = tx.execute(select(SERVER.name, SERVER.liveness, SERVER.host, SERVER.pid).where(SERVER.name == name)).one()
    return _runs(row.name, row.pid, row.host) if row.liveness == Liveness.RUNNING else None


def _runs(name: str, pid: int | None, host: str | None) -> str:
    return f"Server {name} runs, as pid {pid} on host {host}. Stop it first: only then can it be deleted."
