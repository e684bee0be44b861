"""Apply a file: groups, servers and jobs become as the document says, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batchq.actions.change import Step, perform, rehearse
from batchq.actions.group import group_removal, group_use, naming, priority_steps
from batchq.actions.job import job_steps
from batchq.actions.server import server_removal, server_steps, server_use
from batchq.core.topology import DEFAULT_GROUP, Server
from batchq.errors import Conflict
from batchq.spec import Document
from batchq.store import topology
from batchq.store.database import Database
from batchq.store.group import group_priorities
from batchq.store.rows import groups_of
from batchq.store.transaction import Tx


def apply(
    database: Database, document: Document, dry_run: bool = False, *, prune: bool = False, ahead: int = 0
) -> list[str]:
    """Make groups, servers and jobs as the document says, in one transaction; returns the differences.

    Jobs, groups and servers that the document does not name stay. With `prune`, unnamed servers go if it names any
    server, and unnamed groups if it names any group. Raises Conflict if one of them is in use. With `dry_run`
    nothing is changed.
    """

    def wanted(tx: Tx) -> Iterator[Step]:
        return steps(tx, document, prune)

    return rehearse(database, wanted) if dry_run else perform(database, wanted, ahead)


def steps(tx: Tx, document: Document, prune: bool) -> Iterator[Step]:
    """The steps in the order in which rows are locked: servers, tasks (for the priority of their group), jobs."""
    present = {server.name: server for server in topology.read(tx).servers}
    unnamed_servers, unnamed_groups = _prunable(tx, document, present) if prune else ([], [])
    for name in unnamed_servers:
        yield server_removal(tx, name)
    for name in sorted(document.servers):
        yield from server_steps(tx, name, document.servers[name], present.get(name))
    yield from _group_steps(tx, document)
    for name in unnamed_groups:
        yield group_removal(tx, name)
    for name, job in document.jobs.items():
        yield from job_steps(tx, name, job)


def _prunable(tx: Tx, document: Document, present: Mapping[str, Server]) -> tuple[list[str], list[str]]:
    """The servers and groups to remove; raises Conflict with every one of them that is in use."""
    gone = sorted(present.keys() - document.servers.keys()) if document.servers else []
    unnamed: list[str] = []
    if document.groups:
        rest = group_priorities(tx).keys() - document.groups.keys() - _named_groups(document)
        unnamed = sorted(rest - {DEFAULT_GROUP})
    facts = [server_use(tx, name) for name in gone]
    facts += [group_use(tx, name, leaving={*gone, *document.servers}) for name in unnamed]
    if found := [fact for fact in facts if fact]:
        raise Conflict("\n".join(found))
    return gone, unnamed


def _group_steps(tx: Tx, document: Document) -> Iterator[Step]:
    present = group_priorities(tx)
    for name in sorted(_named_groups(document) - present.keys() - document.groups.keys()):
        yield naming(tx, name)
    for name, spec in document.groups.items():
        yield from priority_steps(tx, name, spec.priority, present.get(name))


def _named_groups(document: Document) -> set[str]:
    """The groups that the document's servers and tasks are in."""
    of_servers = {group for spec in document.servers.values() for group in spec.groups}
    return of_servers | {group for job in document.jobs.values() for group in groups_of(job)}
