"""The schema: brought up to date by Alembic, and checked before anything works on it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import String, column, inspect, select, table

from batchq.config import masked
from batchq.errors import DatabaseOutdated, DatabaseRefuses, DatabaseTooNew
from batchq.store.database import Database
from batchq.store.sql.statement import Reply, Statement
from batchq.store.transaction import Tx

FOLDER = Path(__file__).parent / "migrations"
# The newest revision that this version knows; written down, as Alembic takes long to import.
NEWEST = "0008"
STRANGE = "Its table batchq_version is none of ours: put back a backup, or set BATCHQ_DATABASE_URL to another database."


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest schema; returns the revisions before and after.

    Of several upgrades at once the first one does it. Raises DatabaseTooNew.
    """

    def act(tx: Tx) -> tuple[str | None, str]:
        database.dialect.wait_for_turn(tx)
        before = _revision(tx)
        if before != NEWEST:
            _refuse_newer(tx, before)
            _upgrade(tx)
        return before, NEWEST

    _load_alembic(database)
    return database.run(act)


def _load_alembic(database: Database) -> None:
    """Import Alembic if it is needed: meanwhile an open transaction would keep others waiting, and might be ended."""
    with database.read() as tx:
        needed = _revision(tx) != NEWEST
    if needed:
        importlib.import_module("alembic.command")


def check(database: Database) -> None:
    """Raise DatabaseOutdated or DatabaseTooNew unless the schema is the newest one."""
    with database.read() as tx:
        # To look for the table takes longer than all the rest; once it is there it stays.
        revision = _stored(tx) if database.has_tables else _revision(tx)
        database.has_tables = revision is not None
        _require_newest(tx, revision)


def asked(tx: Tx) -> Reply[Revision]:
    """Ask for the schema's revision; the statement travels with the next ones."""
    return _REVISION.later(tx)


def require_newest(tx: Tx, reply: Reply[Revision]) -> None:
    """Raise DatabaseOutdated or DatabaseTooNew unless the schema is the newest one, by the reply to `asked`."""
    _require_newest(tx, _only(reply.rows))


def refuse_newer(tx: Tx) -> None:
    """Raise DatabaseTooNew if the schema was upgraded past this version since `check` passed."""
    _refuse_newer(tx, _stored(tx))


class Revision(NamedTuple):
    """The revision of the schema."""

    version_num: str


_REVISION = Statement(select(column("version_num", String)).select_from(table("batchq_version")), row=Revision)


def _require_newest(tx: Tx, revision: str | None) -> None:
    _refuse_newer(tx, revision)
    if revision != NEWEST:
        fact = "holds no batchq tables yet" if revision is None else f"is at schema {revision}, not {NEWEST}"
        raise DatabaseOutdated(url=masked(str(tx.engine.url)), fact=fact)


def _refuse_newer(tx: Tx, revision: str | None) -> None:
    if revision is not None and revision > NEWEST:
        raise DatabaseTooNew(url=masked(str(tx.engine.url)), revision=revision, newest=NEWEST)


def _upgrade(tx: Tx) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = tx
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseRefuses(url=masked(str(tx.engine.url)), reason=str(error).rstrip("."), advice=STRANGE) from error


def _revision(tx: Tx) -> str | None:
    if not inspect(tx).has_table("batchq_version"):
        return None
    return _stored(tx)


def _stored(tx: Tx) -> str | None:
    return _only(_REVISION(tx))


def _only(rows: Iterable[Revision]) -> str | None:
    return next((row.version_num for row in rows), None)
