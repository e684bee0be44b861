"""The servers that a plan is played on: those of a file, those of a database, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from batchq.core.topology import Server, Topology
from batchq.spec import Document, ServerSpec


def choose_servers(
    document: Document, stored: Topology, *, queue: bool, default: Sequence[str]
) -> tuple[Topology, str]:
    """Choose the servers of the file, else those of the database, else the `default` names, and say which.

    Open runs go on with the servers of the database, so with the `queue` these count besides the file's.
    """
    if document.servers and queue and stored.servers:
        return set_over(stored, document), "both"
    if document.servers:
        return topology_of(document), "file"
    if stored.servers:
        return stored, "database"
    return topology_of(Document(servers={name: ServerSpec() for name in default})), "default"


def topology_of(document: Document) -> Topology:
    """The servers of a file, as `actions.apply` would make them."""
    found = (
        Server(number, name, spec.threads, frozenset(spec.groups), tuple(each.window for each in spec.windows))
        for number, (name, spec) in enumerate(sorted(document.servers.items()), 1)
    )
    return Topology(tuple(found))


def set_over(topology: Topology, document: Document) -> Topology:
    """The servers of a database as the file, once applied, would leave them."""
    present = {server.name: server for server in topology.servers}
    unused = count(max((server.id for server in topology.servers), default=0) + 1)
    for server in topology_of(document).servers:
        stored = present.get(server.name) or Server(next(unused), server.name)
        present[server.name] = replace(stored, threads=server.threads, groups=server.groups, windows=server.windows)
    return replace(topology, servers=tuple(present[name] for name in sorted(present)))


def with_pools(topology: Topology, processes: int) -> Topology:
    """Return the servers, each with a pool of this size in place of its present worker's."""
    return replace(topology, servers=tuple(replace(server, pool=processes) for server in topology.servers))
