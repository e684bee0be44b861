"""`batchq status`: how everything stands."""

from __future__ import annotations

from collections.abc import Iterator

import click

from batchq import views
from batchq.cli.context import timezone
from batchq.cli.group import waiting
from batchq.cli.output import Part, counted, output_option, watch_option
from batchq.cli.reading import print_view


@click.command()
@output_option
@watch_option
def status(output: str, watch: bool) -> None:
    """Show how everything stands: runs, tasks, servers, and what waits for what."""
    print_view(lambda tx: views.status_view(tx, timezone=timezone()), _drawn, output=output, watch=watch)


def _drawn(view: views.StatusView) -> Iterator[Part]:
    yield f"Runs     {counted(view['runs']) or 'none open'}"
    yield f"Tasks    {', '.join(f'{number} {word}' for word, number in view['tasks'].items())}"
    servers = ", ".join(f"{number} {state}" for state, number in view["servers"].items())
    yield f"Servers  {servers or 'none'}; {view['busy']} of {view['threads']} threads busy"
    yield from waiting(view["waiting"])
