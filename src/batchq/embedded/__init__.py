"""One command, no services: a Valkey child, a SQLite file, and coordinator, servers and Flower as child processes.

A database or broker that the app or the settings name is used; only a missing one is embedded.
"""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.embedded.child import Child, StartFailed
    from batchq.embedded.engine import DEFAULT_SERVERS, Embedded, engine_facts

__all__ = ["DEFAULT_SERVERS", "Child", "Embedded", "StartFailed", "engine_facts"]

__getattr__ = attributes(
    __name__,
    {
        "Child": "batchq.embedded.child",
        "DEFAULT_SERVERS": "batchq.embedded.engine",
        "Embedded": "batchq.embedded.engine",
        "StartFailed": "batchq.embedded.child",
        "engine_facts": "batchq.embedded.engine",
    },
)
