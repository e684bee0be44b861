"""The schema: brought up to date by Alembic, and checked before anything works on it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from batchq.config import masked
from batchq.errors import DatabaseOutdated
from batchq.store.database import Database

FOLDER = Path(__file__).parent.parent / "migrations"
# The newest revision that this version knows; written down, as Alembic takes long to import.
NEWEST = "0002"


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest schema; returns the revisions before and after."""
    with database.write() as tx:
        before = _revision(tx)
        if before != NEWEST:
            _upgrade(tx)
        return before, NEWEST


def check(database: Database) -> None:
    """Raise DatabaseOutdated unless the schema is the newest one."""
    with database.read() as tx:
        revision = _revision(tx)
    if revision != NEWEST:
        fact = "holds no batchq tables yet" if revision is None else f"is at schema {revision}, not {NEWEST}"
        raise DatabaseOutdated(url=masked(str(database.url)), fact=fact)


def _upgrade(tx: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = tx
    command.upgrade(config, "head")


def _revision(tx: Connection) -> str | None:
    if not inspect(tx).has_table("batchq_version"):
        return None
    revision: str | None = tx.execute(text("SELECT version_num FROM batchq_version")).scalar()
    return revision
