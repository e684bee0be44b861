"""Servers that are made without a command."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.testing.cast import found


def make_server(tx: Connection, name: str, **values: Any) -> None:
    """Make a server exist, with these threads, groups and windows."""
    servers.create(tx, name)
    servers.set_server(tx, found(tx, name), **values)
    topologies.changed(tx)
