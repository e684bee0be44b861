"""SQL, and the two databases that speak it: all that tells one from the other is in a module of its name."""

from __future__ import annotations

from batchq.store.sql.dialect import DIALECTS
from batchq.store.sql.postgresql import PostgreSQL
from batchq.store.sql.sqlite import SQLite

DIALECTS.update({"sqlite": SQLite(), "postgresql": PostgreSQL()})
