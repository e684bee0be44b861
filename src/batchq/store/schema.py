"""The schema: brought up to date by Alembic, and checked before anything works on it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from batchq.config import masked
from batchq.errors import DatabaseOutdated
from batchq.store.database import Database

FOLDER = Path(__file__).parent.parent / "migrations"


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest schema; returns the revisions before and after."""
    with database.write() as tx:
        before = _revision(tx)
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = tx
        if before != newest():
            command.upgrade(config, "head")
        return before, newest()


def check(database: Database) -> None:
    """Raise DatabaseOutdated unless the schema is the newest one."""
    with database.read() as tx:
        revision = _revision(tx)
    if revision != newest():
        fact = "holds no batchq tables yet" if revision is None else f"is at schema {revision}, not {newest()}"
        raise DatabaseOutdated(url=masked(str(database.url)), fact=fact)


def newest() -> str:
    """The newest revision that this version knows."""
    head = ScriptDirectory(str(FOLDER)).get_current_head()
    assert head is not None
    return head


def _revision(tx: Connection) -> str | None:
    return MigrationContext.configure(tx, opts={"version_table": "batchq_version"}).get_current_revision()
