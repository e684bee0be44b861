"""`batchq db`: upgrade the database's schema."""

from __future__ import annotations

import click

from batchq.cli.context import batch
from batchq.cli.output import say
from batchq.config import masked
from batchq.store import schema


@click.command()
def upgrade() -> None:
    """Bring the database's schema up to date; safe to repeat."""
    database = batch().database
    before, after = schema.upgrade(database)
    url = masked(str(database.url))
    if before == after:
        say(f"{url} is up to date, at schema {after}.")
    else:
        say(f"{url} is now at schema {after}, before: {before or 'empty'}.")
