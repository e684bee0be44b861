"""`batchq web`: the dashboard."""

from __future__ import annotations

import click

from batchq.cli.context import batch


@click.command()
@click.option("--address", metavar="HOST", help="Where Flower listens.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="On which port.  [default: 5555]")
def web(address: str | None, port: int | None) -> None:
    """Show servers and tasks in Flower, until told to stop.

    Flower's own settings hold: FLOWER_* variables, and a flowerconfig.py in this folder.
    An address beyond this machine needs a login: FLOWER_BASIC_AUTH=name:password.
    """
    from batchq.web.flower import dashboard  # it takes Flower along, which no `--help` should wait for

    raise click.exceptions.Exit(dashboard(batch(), address=address, port=port))
