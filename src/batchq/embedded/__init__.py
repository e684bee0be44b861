"""One command, no services: a Valkey child, a SQLite file, and coordinator, servers and Flower as child processes.

What the app or the settings name is used as it is; only what is missing is embedded.
"""

from batchq.embedded.child import Child, StartFailed
from batchq.embedded.engine import DEFAULT_SERVERS, Embedded, engine_facts

__all__ = ["DEFAULT_SERVERS", "Child", "Embedded", "StartFailed", "engine_facts"]
