"""`batchq db`: the database's schema."""

from __future__ import annotations

import click

from batchq.cli.context import batch
from batchq.cli.output import say


@click.group()
def db() -> None:
    """The database: upgrade."""


@db.command()
def upgrade() -> None:
    """Bring the database's schema up to date; safe to repeat."""
    from batchq.config import masked
    from batchq.store import schema

    database = batch().database
    before, after = schema.upgrade(database)
    url = masked(str(database.url))
    if before == after:
        say(f"{url} is up to date, at schema {after}.")
    else:
        say(f"{url} is now at schema {after}, before: {before or 'empty'}.")
