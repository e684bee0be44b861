"""Apply a file: limits, groups, servers and jobs become as the document says, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batchq.actions.change import Step, perform, rehearse
from batchq.actions.group import group_removal, group_use, naming, per_run_steps, priority_steps, sort_rest
from batchq.actions.job import job_steps
from batchq.actions.limit import limit_removal, limit_steps, limit_use
from batchq.actions.server import server_removal, server_steps, server_use
from batchq.core.topology import DEFAULT_GROUP, Server
from batchq.errors import Conflict
from batchq.spec import Document
from batchq.store import topology
from batchq.store.database import Database
from batchq.store.find import no_such
from batchq.store.group import group_limits, group_priorities
from batchq.store.limit import limits
from batchq.store.rows import kinds_of
from batchq.store.transaction import Tx


def apply(
    database: Database, document: Document, dry_run: bool = False, *, prune: bool = False, ahead: int = 0
) -> list[str]:
    """Make limits, groups, servers and jobs as the document says, in one transaction; returns the differences.

    Whatever the document does not name stays. With `prune`, unnamed servers go if it names any server, unnamed groups
    if it names any group, and unnamed limits if it has any. Raises Conflict if one of them is in use, and NotFound for
    a limit that neither the document nor the database has. With `dry_run` nothing is changed.
    """

    def wanted(tx: Tx) -> Iterator[Step]:
        return steps(tx, document, prune)

    if dry_run:
        return rehearse(database, wanted)
    changes = perform(database, wanted, ahead)
    sort_rest(database, [name for name, group in document.groups.items() if group.per_run is not None])
    return changes


def steps(tx: Tx, document: Document, prune: bool) -> Iterator[Step]:
    """The steps in the order in which rows are locked: servers, tasks (for the priority of their group), jobs."""
    present = {server.name: server for server in topology.read(tx).servers}
    require_defined(tx, document)
    unnamed_servers, unnamed_groups, unnamed_limits = _prunable(tx, document, present) if prune else ([], [], [])
    for name in unnamed_servers:
        yield server_removal(tx, name)
    yield from limit_steps(tx, document.limits)
    for name in sorted(document.servers):
        yield from server_steps(tx, name, document.servers[name], present.get(name))
    yield from _group_steps(tx, document)
    for name in unnamed_groups:
        yield group_removal(tx, name)
    for name in unnamed_limits:
        yield limit_removal(tx, name)
    for name, job in document.jobs.items():
        yield from job_steps(tx, name, job)


def require_defined(tx: Tx, document: Document) -> None:
    """Raise NotFound if a job names a limit that neither the document nor the database has (rule 29)."""
    if named := _named_limits(document):
        known = {**limits(tx), **document.limits}
        for name in sorted(named - known.keys()):
            raise no_such("limit", name, known)


def _prunable(tx: Tx, document: Document, present: Mapping[str, Server]) -> tuple[list[str], list[str], list[str]]:
    """The servers, groups and limits to remove; raises Conflict with every one of them that is in use."""
    gone = sorted(present.keys() - document.servers.keys()) if document.servers else []
    unnamed: list[str] = []
    if document.groups:
        rest = group_priorities(tx).keys() - document.groups.keys() - _named_groups(document)
        unnamed = sorted(rest - {DEFAULT_GROUP})
    limits_gone: list[str] = []
    if document.limits:
        limits_gone = sorted(limits(tx).keys() - document.limits.keys() - _named_limits(document))
    facts = [server_use(tx, name) for name in gone]
    facts += [limit_use(tx, name) for name in limits_gone]
    facts += [group_use(tx, name, leaving={*gone, *document.servers}) for name in unnamed]
    if found := [fact for fact in facts if fact]:
        raise Conflict("\n".join(found))
    return gone, unnamed, limits_gone


def _group_steps(tx: Tx, document: Document) -> Iterator[Step]:
    present, per_run = group_priorities(tx), group_limits(tx)
    for name in sorted(_named_groups(document) - present.keys() - document.groups.keys()):
        yield naming(tx, name)
    for name, spec in document.groups.items():
        yield from priority_steps(tx, name, spec.priority, present.get(name))
        yield from per_run_steps(tx, name, spec.per_run, per_run.get(name))


def _named_groups(document: Document) -> set[str]:
    """The groups that the document's servers and tasks are in."""
    of_servers = {group for spec in document.servers.values() for group in spec.groups}
    return of_servers | {group for job in document.jobs.values() for group, _ in kinds_of(job)}


def _named_limits(document: Document) -> set[str]:
    """The limits that the document's jobs and tasks take."""
    return {limit for job in document.jobs.values() for _, limits in kinds_of(job) for limit in limits}
